//! Reads of all that a request asks for, and what is done with entries by their IDs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::RecordBatch as ArrowBatch;
use arrow_schema::{Field, Schema};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::arrow::RecordBatch;
use super::completion::Task;
use super::connection::Server;
use super::error::exception;
use super::member::parsed;
use super::operation::Operation;
use super::reading::make_of;
use super::request::Request;
use super::wait::wait;
use crate::client::Client;
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, counted};
use crate::read::{self, ReadRequest};

/// A request that was checked, for reads of all its entries. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct PreparedRead {
    request: ReadRequest,
    /// The stream, for messages.
    name: String,
    /// The streams and the group of which entries are acknowledged once `make` has made something of
    /// them, where the request says so.
    acknowledging: Option<(Vec<Vec<u8>>, Vec<u8>)>,
}

#[pymethods]
impl PreparedRead {
    #[new]
    fn new(py: Python<'_>, mut request: Request<'_>) -> PyResult<Self> {
        let group = request.take_auto_ack();
        let acknowledging = group.map(|group| (request.streams(), group));
        let request = request.read_request(py)?;
        Ok(PreparedRead { name: request.stream_name(), request, acknowledging })
    }
}

/// Acknowledges the entries of batches that a caller has.
async fn acknowledge(
    client: Client,
    streams: Vec<Vec<u8>>,
    group: Vec<u8>,
    pieces: Vec<Arc<Batch>>,
) -> Result<()> {
    let mut by_stream: BTreeMap<usize, Vec<EntryId>> = BTreeMap::new();
    for batch in &pieces {
        for (stream, rows) in batch.rows_by_stream() {
            by_stream.entry(stream).or_default().extend(batch.ids_of(&rows));
        }
    }
    let named = |(stream, ids): (&usize, _)| Some((streams.get(*stream)?.as_slice(), ids));
    let entries: Vec<(&[u8], &Vec<EntryId>)> = by_stream.iter().filter_map(named).collect();
    let acknowledged = match entries.as_slice() {
        [(stream, ids)] => vec![read::ack_entries(&client, stream, &group, ids).await],
        _ => {
            let entries = entries.iter().map(|(stream, ids)| (*stream, ids.as_slice()));
            read::ack_entries_each(&client, &group, &entries.collect::<Vec<_>>()).await
        }
    };
    acknowledged.into_iter().try_for_each(|acknowledged| match acknowledged {
        // Perhaps the server took note, and then the rows would be lost with this error.
        Err(error)
            if error.retryable()
                || matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) =>
        {
            Ok(())
        }
        acknowledged => acknowledged.map(drop),
    })
}

fn shared(pieces: Vec<Batch>) -> Vec<Arc<Batch>> {
    pieces.into_iter().map(Arc::new).collect()
}

/// What `make` makes of all entries of a request, which come in one batch or some. They are
/// acknowledged, where the request says so, once that is made.
#[pyfunction]
pub(crate) fn read_stream(
    py: Python<'_>,
    server: Server,
    prepared: &Bound<'_, PreparedRead>,
    make: &Bound<'_, PyAny>,
) -> PyResult<Py<PyAny>> {
    let PreparedRead { request, name, acknowledging } = prepared.get();
    let client = server.client(py)?;
    let pieces = shared(wait(py, read::read_pieces(&client, request.clone()))?);
    let value = make_of(&pieces, make, name)?;
    if let Some((streams, group)) = acknowledging.clone() {
        wait(py, acknowledge(client, streams, group, pieces))?;
    }
    Ok(value)
}

/// The same for an event loop: gives what was made, and what is left to do then.
#[pyfunction]
pub(crate) fn start_read_stream(
    py: Python<'_>,
    server: Server,
    prepared: &Bound<'_, PreparedRead>,
    make: Py<PyAny>,
) -> PyResult<Task> {
    let PreparedRead { request, name, acknowledging } = prepared.get();
    let (request, name, acknowledging) = (request.clone(), name.clone(), acknowledging.clone());
    let client = server.client(py)?;
    let reader = client.clone();
    let reading = async move { read::read_pieces(&reader, request).await };
    Task::start_with(py, reading, move |py, pieces: Result<Vec<Batch>>| {
        let pieces = shared(pieces.map_err(|error| exception(py, &error))?);
        let value = make_of(&pieces, make.bind(py), &name)?;
        let rest = acknowledging.map(|(streams, group)| {
            Operation::new(acknowledge(client, streams, group, pieces), |py, ()| Ok(py.None()))
        });
        (value, rest).into_py_any(py)
    })
}

/// Acknowledges entries of a group; says how many were pending.
#[pyfunction]
pub(crate) fn ack_entries(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    group: Vec<u8>,
    entry_ids: Vec<String>,
) -> PyResult<Operation> {
    let (ids, client) = (parsed(py, entry_ids)?, server.client(py)?);
    let acknowledging = async move { read::ack_entries(&client, &stream, &group, &ids).await };
    Ok(Operation::new(acknowledging, |py, number| number.into_py_any(py)))
}

/// Moves dead letters back to their streams. Gives the IDs of those that were, each with the ID of its
/// new entry, and the error that came after them, if one did.
#[pyfunction]
pub(crate) fn replay_dead_letters(
    py: Python<'_>,
    server: Server,
    dead_letter: Vec<u8>,
    ids: Vec<String>,
) -> PyResult<Operation> {
    /// A script's worth: what was replayed is known after each.
    const AT_ONCE: usize = 100;
    let (mut ids, client) = (parsed(py, ids)?, server.client(py)?);
    ids.sort_unstable();
    let so_far = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&so_far);
    let replaying = async move {
        let mut replayed = Vec::new();
        for ids in ids.chunks(AT_ONCE) {
            let done = read::replay_dead_letters(&client, &dead_letter, ids, &mut replayed).await;
            count.store(replayed.len(), Ordering::Relaxed);
            if let Err(error) = done {
                return Ok((replayed, Some(error)));
            }
        }
        Ok((replayed, None))
    };
    let operation = Operation::new(replaying, |py, (replayed, error)| {
        let text = |id: EntryId| id.to_string();
        let replayed: Vec<(String, Option<String>)> =
            replayed.iter().map(|one| (text(one.letter), one.entry.map(text))).collect();
        let error = error.map(|error: Error| exception(py, &error).into_value(py));
        (replayed, error).into_py_any(py)
    });
    Ok(operation.with_note(move || {
        let number = so_far.load(Ordering::Relaxed);
        let were = counted(number, "dead letter was", "dead letters were");
        let again = if number == 1 { "it does" } else { "they do" };
        (number > 0).then(|| format!("at least {were} replayed before; {again} not come twice"))
    }))
}

/// Raises where one of the streams does not exist.
#[pyfunction]
pub(crate) fn check_streams(py: Python<'_>, server: Server, streams: Vec<Vec<u8>>) -> PyResult<()> {
    let client = server.client(py)?;
    wait(py, async move { read::check_streams(&client, &streams).await })
}

/// No rows, with the columns that a request gives. Sends nothing.
#[pyfunction]
pub(crate) fn empty_batch(py: Python<'_>, request: Request<'_>) -> PyResult<RecordBatch> {
    let request = request.read_request(py)?;
    let schema = request.schema().arrow().map_err(|error| exception(py, &error))?;
    let records = ArrowBatch::new_empty(schema);
    Ok(RecordBatch::new(Batch::new(records, Vec::new(), Vec::new())))
}

/// No rows, with the columns that the sample speaks for.
#[pyfunction]
pub(crate) fn infer_schema(
    py: Python<'_>,
    server: Server,
    request: Request<'_>,
) -> PyResult<Operation> {
    let sample = request.sample();
    let (request, client) = (request.read_request(py)?, server.client(py)?);
    let inferring = async move { read::infer_schema(&client, request, sample).await };
    Ok(Operation::new(inferring, |py, fields: Vec<Field>| {
        let records = ArrowBatch::new_empty(Schema::new(fields).into());
        RecordBatch::new(Batch::new(records, Vec::new(), Vec::new())).into_py_any(py)
    }))
}
