//! The server's view as columns, and administration.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{
    ArrayRef, DurationMillisecondArray, Int64Array, RecordBatch as ArrowBatch, StringViewArray,
    TimestampMillisecondArray,
};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::arrow::RecordBatch;
use super::connection::Server;
use super::error::id_exception;
use super::member::parsed;
use super::operation::Operation;
use crate::admin::{self, IfPending, PendingFilter, TrimTo};
use crate::client::Client;
use crate::decode::{Batch, readable};
use crate::entry_id::{EntryId, GroupStart, IdBound};
use crate::error::{Error, ErrorKind, Result};
use crate::read::no_match;
use crate::shard;

#[pyfunction]
pub(crate) fn stream_info(py: Python<'_>, server: Server, stream: Vec<u8>) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let infos = admin::stream_info(&client, &stream).await?;
        let infos = infos.as_slice();
        let first = || infos.iter().map(|info| info.first_entry_id);
        let last = || infos.iter().map(|info| info.last_entry_id);
        batch(vec![
            ("length", counts(infos.iter().map(|info| Some(info.length)))),
            ("groups", counts(infos.iter().map(|info| Some(info.groups)))),
            ("radix_tree_keys", counts(infos.iter().map(|info| Some(info.radix_tree_keys)))),
            ("radix_tree_nodes", counts(infos.iter().map(|info| Some(info.radix_tree_nodes)))),
            ("last_generated_id", ids(infos.iter().map(|info| info.last_generated_id))),
            ("max_deleted_entry_id", ids(infos.iter().map(|info| info.max_deleted_entry_id))),
            ("entries_added", counts(infos.iter().map(|info| info.entries_added))),
            ("first_entry_id", ids(first())),
            ("first_entry_time", times(first())),
            ("last_entry_id", ids(last())),
            ("last_entry_time", times(last())),
        ])
    }))
}

#[pyfunction]
pub(crate) fn group_info(py: Python<'_>, server: Server, stream: Vec<u8>) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let infos = admin::group_info(&client, &stream).await?;
        batch(vec![
            ("name", names(infos.iter().map(|info| Some(info.name.as_slice())))),
            ("consumers", counts(infos.iter().map(|info| Some(info.consumers)))),
            ("pending", counts(infos.iter().map(|info| Some(info.pending)))),
            ("last_delivered_id", ids(infos.iter().map(|info| info.last_delivered_id))),
            ("entries_read", counts(infos.iter().map(|info| info.entries_read))),
            ("lag", counts(infos.iter().map(|info| info.lag))),
        ])
    }))
}

#[pyfunction]
pub(crate) fn consumer_info(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    group: Vec<u8>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let infos = admin::consumer_info(&client, &stream, &group).await?;
        batch(vec![
            ("name", names(infos.iter().map(|info| Some(info.name.as_slice())))),
            ("pending", counts(infos.iter().map(|info| Some(info.pending)))),
            ("idle", durations(infos.iter().map(|info| Some(info.idle)))),
            ("inactive", durations(infos.iter().map(|info| info.inactive))),
        ])
    }))
}

/// The keys of the streams that match a pattern, in order; at least one where one must exist.
#[pyfunction]
pub(crate) fn find_streams(
    py: Python<'_>,
    server: Server,
    pattern: Vec<u8>,
    must_exist: bool,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let finding = async move {
        let found = admin::find_streams(&client, &pattern).await?;
        match found.is_empty() && must_exist {
            true => Err(no_match(&pattern)),
            false => Ok(found),
        }
    };
    Ok(Operation::new(finding, |py, keys: Vec<Vec<u8>>| {
        let keys = keys.iter().map(|key| PyBytes::new(py, key));
        Ok(PyList::new(py, keys)?.into_any().unbind())
    }))
}

#[pyfunction]
pub(crate) fn list_streams(
    py: Python<'_>,
    server: Server,
    pattern: Vec<u8>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let streams = admin::list_streams(&client, &pattern).await?;
        let infos = || streams.iter().map(|stream| &stream.info);
        batch(vec![
            ("stream", names(streams.iter().map(|stream| Some(stream.name.as_slice())))),
            ("length", counts(infos().map(|info| Some(info.length)))),
            ("memory", counts(streams.iter().map(|stream| stream.memory))),
            ("groups", counts(infos().map(|info| Some(info.groups)))),
            ("entries_added", counts(infos().map(|info| info.entries_added))),
            ("first_entry_id", ids(infos().map(|info| info.first_entry_id))),
            ("first_entry_time", times(infos().map(|info| info.first_entry_id))),
            ("last_entry_id", ids(infos().map(|info| info.last_entry_id))),
            ("last_entry_time", times(infos().map(|info| info.last_entry_id))),
        ])
    }))
}

#[pyfunction]
pub(crate) fn list_groups(py: Python<'_>, server: Server, pattern: Vec<u8>) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let groups = admin::list_groups(&client, &pattern).await?;
        let infos = || groups.iter().map(|group| &group.info);
        batch(vec![
            ("stream", names(groups.iter().map(|group| Some(group.stream.as_slice())))),
            ("group", names(infos().map(|info| Some(info.name.as_slice())))),
            ("consumers", counts(infos().map(|info| Some(info.consumers)))),
            ("pending", counts(infos().map(|info| Some(info.pending)))),
            ("lag", counts(infos().map(|info| info.lag))),
            ("lag_time", durations(groups.iter().map(|group| Some(group.lag_time)))),
            ("last_delivered_id", ids(infos().map(|info| info.last_delivered_id))),
            ("next_entry_id", ids(groups.iter().map(|group| group.next_entry_id))),
        ])
    }))
}

// PyO3 turns the parameters of Python's signature into the function's own.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
pub(crate) fn pending_entries(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    group: Vec<u8>,
    consumer: Option<Vec<u8>>,
    min_idle_ms: u64,
    start_id: &str,
    end_id: &str,
    count: Option<u64>,
) -> PyResult<Operation> {
    let no_id = |error| id_exception(py, &error);
    let filter = PendingFilter {
        consumer,
        min_idle: Duration::from_millis(min_idle_ms),
        start: IdBound::parse_start(start_id).map_err(no_id)?,
        end: IdBound::parse_end(end_id).map_err(no_id)?,
        count,
    };
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let entries = admin::pending_entries(&client, &stream, &group, &filter).await?;
        batch(vec![
            ("id", ids(entries.iter().map(|entry| Some(entry.id)))),
            ("consumer", names(entries.iter().map(|entry| entry.consumer.as_deref()))),
            ("idle", durations(entries.iter().map(|entry| entry.idle))),
            ("delivery_count", counts(entries.iter().map(|entry| Some(entry.delivery_count)))),
        ])
    }))
}

#[pyfunction]
pub(crate) fn create_stream(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move { admin::create_stream(&client, &stream).await }))
}

#[pyfunction]
pub(crate) fn delete_stream(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move { admin::delete_stream(&client, &stream).await }))
}

#[pyfunction]
pub(crate) fn delete_entries(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    entry_ids: Vec<String>,
) -> PyResult<Operation> {
    let ids = parsed(py, entry_ids)?;
    let client = server.client(py)?;
    Ok(operation(
        client.clone(),
        async move { admin::delete_entries(&client, &stream, &ids).await },
    ))
}

#[pyfunction]
pub(crate) fn claim_entries(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    group: Vec<u8>,
    consumer: Vec<u8>,
    entry_ids: Vec<String>,
    min_idle_ms: u64,
) -> PyResult<Operation> {
    let ids = parsed(py, entry_ids)?;
    let min_idle = Duration::from_millis(min_idle_ms);
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let claiming =
            admin::claim_entries(&client, &stream, &group, &consumer, &ids, min_idle).await?;
        Ok(claiming.iter().map(EntryId::to_string).collect::<Vec<_>>())
    }))
}

#[pyfunction]
pub(crate) fn create_group(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    group: Vec<u8>,
    start_id: &str,
    make_stream: bool,
) -> PyResult<Operation> {
    let start = GroupStart::parse(start_id).map_err(|error| id_exception(py, &error))?;
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        admin::create_group(&client, &stream, &group, start, make_stream).await
    }))
}

#[pyfunction]
pub(crate) fn delete_group(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    group: Vec<u8>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(
        client.clone(),
        async move { admin::delete_group(&client, &stream, &group).await },
    ))
}

#[pyfunction]
pub(crate) fn delete_consumer(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    group: Vec<u8>,
    consumer: Vec<u8>,
    discard: bool,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let if_pending = if discard { IfPending::Discard } else { IfPending::Fail };
    Ok(operation(client.clone(), async move {
        admin::delete_consumer(&client, &stream, &group, &consumer, if_pending).await
    }))
}

#[pyfunction]
pub(crate) fn trim_stream(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    maxlen: Option<u64>,
    minid: Option<&str>,
    approximate: bool,
    limit: Option<u64>,
) -> PyResult<Operation> {
    let to = match (maxlen, minid) {
        (Some(maxlen), None) => TrimTo::MaxLen(maxlen),
        (None, Some(id)) => {
            TrimTo::MinId(EntryId::parse_first(id).map_err(|error| id_exception(py, &error))?)
        }
        _ => return Err(PyValueError::new_err("give either maxlen or minid")),
    };
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        admin::trim_stream(&client, &stream, to, approximate, limit).await
    }))
}

/// What is done about streams of one key each; its error says so where one is a sharded stream.
pub(super) fn operation<T>(
    client: Client,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Operation
where
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    let future = async move {
        match future.await {
            Err(error) => Err(shard::told(&client, error).await),
            done => done,
        }
    };
    Operation::new(future, |py, value| value.into_py_any(py))
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let records = ArrowBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    );
    let records = records.map_err(|error| {
        let message = "the server's view could not be put into columns; please report this";
        Error::new(ErrorKind::Internal, message).with_source(error)
    })?;
    Ok(RecordBatch::new(Batch::new(records, Vec::new(), Vec::new())))
}

/// Signed, so that differences of them may be negative.
pub(super) fn counts(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let values = values.map(|value| value.and_then(|value| i64::try_from(value).ok()));
    Arc::new(values.collect::<Int64Array>())
}

pub(super) fn ids(values: impl Iterator<Item = Option<EntryId>>) -> ArrayRef {
    Arc::new(values.map(|id| id.map(|id| id.to_string())).collect::<StringViewArray>())
}

/// The milliseconds of IDs; null where the ID is no time that a datetime can hold.
fn times(values: impl Iterator<Item = Option<EntryId>>) -> ArrayRef {
    moments(values.map(|id| id.map(|id| id.ms)))
}

/// Milliseconds since 1970.
pub(super) fn moments(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let values = values.map(|value| value.and_then(|value| i64::try_from(value).ok()));
    Arc::new(values.collect::<TimestampMillisecondArray>().with_timezone("UTC"))
}

pub(super) fn durations(values: impl Iterator<Item = Option<Duration>>) -> ArrayRef {
    let values = values.map(|value| value.and_then(|value| i64::try_from(value.as_millis()).ok()));
    Arc::new(values.collect::<DurationMillisecondArray>())
}

pub(super) fn names<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> ArrayRef {
    Arc::new(values.map(|name| name.map(readable)).collect::<StringViewArray>())
}
