//! Processors as others see them: their lanes as columns, and what may be done to them.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, StringViewArray};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::admin::{batch, counts, durations, ids, moments, names, operation};
use super::connection::Server;
use super::error::id_exception;
use super::operation::Operation;
use crate::decode::readable;
use crate::entry_id::GroupStart;
use crate::process::{self, LaneFilter};

#[pyfunction]
pub(crate) fn processor_info(
    py: Python<'_>,
    server: Server,
    stream: Option<Vec<u8>>,
    pattern: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
) -> PyResult<Operation> {
    let filter = LaneFilter { stream, pattern, name };
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let lanes = process::processor_info(&client, &filter).await?;
        let lanes = lanes.as_slice();
        let group = || lanes.iter().map(|lane| lane.group.as_ref());
        let owners: StringViewArray = lanes.iter().map(|lane| lane.owner.as_ref()).collect();
        let held: BooleanArray = lanes.iter().map(|lane| Some(lane.lease_left.is_some())).collect();
        batch(vec![
            ("stream", names(lanes.iter().map(|lane| Some(lane.stream.as_slice())))),
            ("processor", names(lanes.iter().map(|lane| Some(lane.name.as_slice())))),
            ("group", names(group().map(|group| group.map(|(group, _)| group.as_slice())))),
            ("consumer", names(group().map(|group| group.map(|(_, own)| own.as_slice())))),
            ("held", Arc::new(held) as ArrayRef),
            ("owner", Arc::new(owners)),
            ("lease_left", durations(lanes.iter().map(|lane| lane.lease_left))),
            ("epoch", counts(lanes.iter().map(|lane| Some(lane.epoch)))),
            ("position", ids(lanes.iter().map(|lane| lane.position))),
            ("planned_end", ids(lanes.iter().map(|lane| lane.planned))),
            ("lag", counts(lanes.iter().map(|lane| lane.lag))),
            ("lag_time", durations(lanes.iter().map(|lane| Some(lane.lag_time)))),
            ("next_entry_id", ids(lanes.iter().map(|lane| lane.next_entry_id))),
            ("commits", counts(lanes.iter().map(|lane| Some(lane.commits)))),
            ("entries", counts(lanes.iter().map(|lane| lane.entries))),
            ("batch_entries", counts(lanes.iter().map(|lane| lane.batch_entries))),
            ("batch_time", durations(lanes.iter().map(|lane| lane.batch_time))),
            ("acquired_at", moments(lanes.iter().map(|lane| lane.acquired_ms))),
            ("committed_at", moments(lanes.iter().map(|lane| lane.committed_ms))),
        ])
    }))
}

/// Gives where the processor was and is, the epoch, how many names of the state were dropped, and the names
/// of the tables with their numbers of rows.
#[pyfunction]
pub(crate) fn reset_processor(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    name: Vec<u8>,
    to: &str,
    drop_state: bool,
    takeover: bool,
) -> PyResult<Operation> {
    let to = GroupStart::parse(to).map_err(|error| id_exception(py, &error))?;
    let client = server.client(py)?;
    let resetting = async move {
        process::reset_processor(&client, &stream, &name, to, drop_state, takeover).await
    };
    Ok(Operation::new(resetting, |py, reset: process::ProcessorReset| {
        let tables = reset.tables.iter().map(|(name, rows)| (readable(name), *rows));
        let tables: Vec<(String, u64)> = tables.collect();
        let (previous, position) = (reset.previous.to_string(), reset.position.to_string());
        (previous, position, reset.epoch, reset.state, tables).into_py_any(py)
    }))
}

#[pyfunction]
pub(crate) fn delete_processor(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    name: Vec<u8>,
    group: Option<Vec<u8>>,
    consumer: Option<Vec<u8>>,
    takeover: bool,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(client.clone(), async move {
        let of_group = group.as_deref().map(|group| (group, consumer.as_deref()));
        process::delete_processor(&client, &stream, &name, of_group, takeover).await
    }))
}

/// The fields of a table with the JSON of their rows, as they are.
#[pyfunction]
pub(crate) fn read_fields(py: Python<'_>, server: Server, key: Vec<u8>) -> PyResult<Operation> {
    let client = server.client(py)?;
    let reading = async move { process::table::read_fields(&client, &key).await };
    Ok(Operation::new(reading, |py, fields: Vec<(Vec<u8>, Vec<u8>)>| {
        let bytes = |text: &[u8]| PyBytes::new(py, text).unbind();
        let fields = fields.iter().map(|(name, row)| (bytes(name), bytes(row)));
        fields.collect::<Vec<_>>().into_py_any(py)
    })
    .only_while_waited_for())
}

#[pyfunction]
pub(crate) fn table_key(py: Python<'_>, stream: &[u8], name: &[u8], table: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, &process::table_key(stream, name, table)).unbind()
}
