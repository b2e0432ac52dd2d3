//! Writes: frames and Python's arguments in, what became of the rows out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyList, PyTuple};

use super::arrow::{Imported, export_ids, import_batches, release_imported};
use super::completion::Task;
use super::connection::Server;
use super::error::{exception, no_panic};
use super::payload_schema::Format;
use super::wait::{or_late_signal, wait_stopping};
use crate::client::Client;
use crate::compression::PayloadCompression;
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result};
use crate::shard::ShardedStream;
use crate::write::{
    self, HashRequest, IfExists, NullTexts, RowsBefore, Trim, WriteControl, WriteFailure,
    WriteRequest, Written,
};

/// What to write and how, as `redfloe._write` puts it together.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct WriteArguments {
    stream: Option<Vec<u8>>,
    stream_column: Option<String>,
    /// Over how many shards the stream is, and the field by which its entries are divided.
    shards: Option<(usize, String)>,
    /// `None`: all columns.
    fields: Option<Vec<String>>,
    id_column: Option<String>,
    timestamp_column: Option<String>,
    null_text: Option<String>,
    null_text_by_field: HashMap<String, String>,
    /// The field for an object of all others.
    payload: Option<String>,
    payload_format: Format,
    /// The names of an array's values.
    payload_fields: Vec<String>,
    payload_compression: Option<String>,
    /// Columns that are fields of their own beside the payload.
    beside: Vec<String>,
    maxlen: Option<u64>,
    minid: Option<String>,
    approximate: bool,
    limit: Option<u64>,
    nomkstream: bool,
    batch_size: usize,
    idmp_producer: Option<Vec<u8>>,
    atomic: bool,
    skip_empty: bool,
    /// Rows that this write continues, and how many of them are in.
    rows_before: (usize, usize),
    /// What writes before this one know of the streams.
    known_streams: Option<Py<KnownStreams>>,
}

/// What several writes to the same streams know of them.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct KnownStreams(write::KnownStreams);

#[pymethods]
impl KnownStreams {
    #[new]
    fn new() -> Self {
        KnownStreams(write::KnownStreams::remembered())
    }
}

impl WriteArguments {
    /// The stream, where it is the same for all rows.
    pub(super) fn one_stream(&self) -> Option<Vec<u8>> {
        self.stream.clone()
    }

    pub(super) fn write_request(self) -> Result<WriteRequest> {
        let request = match (self.stream, &self.stream_column) {
            (Some(stream), _) => match self.shards {
                Some((shards, by)) => {
                    WriteRequest::to_shards(ShardedStream::new(stream, shards, by)?)
                }
                None => WriteRequest::new(stream),
            },
            (None, Some(column)) => WriteRequest::to_streams_of(column),
            (None, None) => return Err(Error::invalid("a write needs a stream")),
        };
        let trim = match (self.maxlen, &self.minid) {
            (Some(entries), _) => Some(Trim::max_len(entries)),
            (None, Some(id)) => Some(Trim::min_id(min_id(id)?)),
            (None, None) => None,
        };
        let trim = match trim {
            Some(trim) if self.approximate => Some(trim.with_limit(self.limit)?),
            Some(trim) => Some(trim.exactly().with_limit(self.limit)?),
            None => None,
        };
        let request = match &self.timestamp_column {
            Some(name) => request.with_timestamp_column(Some(name)),
            None => request.with_id_column(self.id_column.as_deref()),
        };
        let compression = self.payload_compression.as_deref().map(str::parse).transpose()?;
        Ok(request
            .with_fields(self.fields)
            .with_null_texts(NullTexts { all: self.null_text, by_field: self.null_text_by_field })
            .with_payload(self.payload)
            .with_payload_format(self.payload_format.0)
            .with_payload_positions(self.payload_fields)
            .with_payload_compression(compression)
            .with_beside(self.beside)
            .with_trim(trim)
            .with_no_make_stream(self.nomkstream)
            .with_batch_rows(self.batch_size)
            .with_idmp_producer(self.idmp_producer)
            .with_atomic(self.atomic)
            .with_empty_rows_skipped(self.skip_empty)
            .with_rows_before(RowsBefore { rows: self.rows_before.0, written: self.rows_before.1 })
            .with_known_streams(self.known_streams.map(|known| known.get().0.clone())))
    }
}

fn min_id(text: &str) -> Result<EntryId> {
    match IdBound::parse_start(text) {
        Ok(IdBound::Id(id)) => Ok(id),
        _ => Err(Error::invalid(format!("minid must be an entry ID or a time, not {text:?}"))),
    }
}

/// A payload, compressed.
#[pyfunction]
pub(crate) fn compress<'py>(
    py: Python<'py>,
    payload: &[u8],
    compression: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let compression: PayloadCompression =
        compression.parse().map_err(|error| exception(py, &error))?;
    let mut compressed = Vec::new();
    no_panic(py, || {
        compression.compress(payload, &mut compressed);
        Ok(())
    })?;
    Ok(PyBytes::new(py, &compressed))
}

/// What became of the rows of a write. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Outcome {
    written: Written,
    /// No exception of Python's: its traceback would hold the frames that hold this, and no garbage
    /// collector sees that.
    failure: Option<Arc<WriteFailure>>,
    /// What stopped the write from outside, such as Ctrl-C; for that reason it is given away.
    raised: Mutex<Option<PyErr>>,
}

impl Outcome {
    fn new(result: Result<Written, WriteFailure>, raised: Option<PyErr>) -> Outcome {
        let (written, failure) = match result {
            Ok(written) => (written, None),
            Err(failure) => (failure.written().clone(), Some(Arc::new(failure))),
        };
        Outcome { written, failure, raised: Mutex::new(raised) }
    }

    pub(super) fn of_failure(failure: &Arc<WriteFailure>) -> Outcome {
        let (written, failure) = (failure.written().clone(), Some(Arc::clone(failure)));
        Outcome { written, failure, raised: Mutex::default() }
    }
}

#[pymethods]
impl Outcome {
    #[getter]
    fn rows_written(&self) -> usize {
        self.written.rows()
    }

    #[getter]
    fn row(&self) -> Option<usize> {
        self.failure.as_ref().and_then(|failure| failure.row())
    }

    #[getter]
    fn unknown(&self) -> (usize, usize) {
        let unknown = self.failure.as_ref().map(|failure| failure.unknown());
        unknown.map_or((0, 0), |rows| (rows.start, rows.end))
    }

    #[getter]
    fn error(&self, py: Python<'_>) -> Option<PyErr> {
        self.failure.as_ref().map(|failure| exception(py, failure.error()))
    }

    /// Raises what stopped the write, once.
    fn reraise(&self) -> PyResult<()> {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner).take();
        raised.map_or(Ok(()), Err)
    }

    /// The IDs. The requested schema may be ignored, says the interface.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        drop(requested_schema);
        export_ids(py, self.written.ids())
    }
}

/// What a write needs of Python's arguments.
fn prepare(
    py: Python<'_>,
    server: &Server,
    frame: &Bound<'_, PyAny>,
    request: WriteArguments,
) -> PyResult<(Client, Imported, WriteRequest, WriteControl)> {
    let control = WriteControl::default();
    let request = request.write_request().map_err(|error| exception(py, &error))?;
    let batches = import_batches(frame)?;
    Ok((server.client(py)?, batches, request.with_control(control.clone()), control))
}

/// Adds a frame's rows to a stream. Where it takes long, `progress` is called every now and then
/// with the number of rows that are in, and may raise. What became of the rows is appended to
/// `outcomes`, where it is safe from what a signal's handler raises as this returns.
#[pyfunction]
#[pyo3(signature = (server, frame, request, outcomes, progress=None))]
pub(crate) fn write_stream(
    py: Python<'_>,
    server: Server,
    frame: &Bound<'_, PyAny>,
    request: WriteArguments,
    outcomes: &Bound<'_, PyList>,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let (client, batches, request, control) = prepare(py, &server, frame, request)?;
    let total = rows_of(&batches);
    let writing = async move { write::write(&client, &batches, &request).await };
    wait_for(py, writing, control, total, outcomes, progress)
}

/// Waits for a write on this thread.
fn wait_for(
    py: Python<'_>,
    writing: impl Future<Output = Result<Written, WriteFailure>> + Send,
    control: WriteControl,
    total: usize,
    outcomes: &Bound<'_, PyList>,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let look = progress.map(|progress| Progress { control: control.clone(), progress });
    let look = look.map(|look| Py::new(py, look).map(Py::into_any)).transpose()?;
    let waited = wait_stopping(py, look.as_ref(), || control.stop(), writing);
    ended(py, waited, (control.rows_written(), total), outcomes)
}

/// Starts a write in the background. Where it is stopped, it sends no more rows and ends within a
/// second.
fn start(
    py: Python<'_>,
    writing: impl Future<Output = Result<Written, WriteFailure>> + Send + 'static,
    control: WriteControl,
) -> PyResult<Task> {
    let task = Task::start_with(py, writing, |py, result| {
        release_imported(py);
        Ok(Py::new(py, Outcome::new(result, None))?.into_any())
    });
    Ok(task?.with_control(control))
}

/// Tells what became of a write that a thread waited for.
fn ended(
    py: Python<'_>,
    waited: PyResult<(Result<Written, WriteFailure>, Option<PyErr>)>,
    (rows, total): (u64, usize),
    outcomes: &Bound<'_, PyList>,
) -> PyResult<()> {
    release_imported(py);
    match waited {
        Ok((result, raised)) => outcomes.append(Outcome::new(result, or_late_signal(py, raised))),
        // A second signal: nobody waited for the answers.
        Err(raised) => {
            outcomes.append(Outcome::new(Err(WriteFailure::unawaited(rows, total)), None))?;
            Err(raised)
        }
    }
}

fn rows_of(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// Tells somebody how far a write is, whenever it is called.
#[pyclass(frozen)]
struct Progress {
    control: WriteControl,
    progress: Py<PyAny>,
}

#[pymethods]
impl Progress {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        self.progress.call1(py, (self.control.rows_written(),)).map(drop)
    }
}

/// Adds a frame's rows to a stream in the background.
#[pyfunction]
pub(crate) fn start_write_stream(
    py: Python<'_>,
    server: Server,
    frame: &Bound<'_, PyAny>,
    request: WriteArguments,
) -> PyResult<Task> {
    let (client, batches, request, control) = prepare(py, &server, frame, request)?;
    start(py, async move { write::write(&client, &batches, &request).await }, control)
}

/// How rows become hashes, as `redfloe._hashes` puts it together.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct HashArguments {
    key_column: String,
    key_prefix: Vec<u8>,
    fields: Vec<String>,
    ttl_ms: Option<u64>,
    if_exists: String,
    batch_size: usize,
}

impl HashArguments {
    fn hash_request(self, control: WriteControl) -> PyResult<HashRequest> {
        let if_exists = match self.if_exists.as_str() {
            "replace" => IfExists::Replace,
            "merge" => IfExists::Merge,
            "fail" => IfExists::Fail,
            other => {
                let message =
                    format!("if_exists must be \"replace\", \"merge\" or \"fail\", not {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        Ok(HashRequest::new(&self.key_column)
            .with_key_prefix(self.key_prefix)
            .with_fields(Some(self.fields))
            .with_ttl(self.ttl_ms.map(Duration::from_millis))
            .with_if_exists(if_exists)
            .with_batch_rows(self.batch_size)
            .with_control(control))
    }
}

/// What a write of hashes needs of Python's arguments: the writing, the number of its rows, and what
/// it is watched and stopped by.
fn prepare_hashes(
    py: Python<'_>,
    server: &Server,
    frame: &Bound<'_, PyAny>,
    request: HashArguments,
) -> PyResult<(
    impl Future<Output = Result<Written, WriteFailure>> + Send + 'static,
    usize,
    WriteControl,
)> {
    let control = WriteControl::default();
    let request = request.hash_request(control.clone())?;
    let batches = import_batches(frame)?;
    let (client, total) = (server.client(py)?, rows_of(&batches));
    let writing =
        async move { write::write_hashes(&client, &batches, &request).await.map(Written::of_rows) };
    Ok((writing, total, control))
}

/// Writes a hash for each row of a frame, as `write_stream` does it.
#[pyfunction]
#[pyo3(signature = (server, frame, request, outcomes, progress=None))]
pub(crate) fn write_hashes(
    py: Python<'_>,
    server: Server,
    frame: &Bound<'_, PyAny>,
    request: HashArguments,
    outcomes: &Bound<'_, PyList>,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let (writing, total, control) = prepare_hashes(py, &server, frame, request)?;
    wait_for(py, writing, control, total, outcomes, progress)
}

/// Writes a hash for each row of a frame in the background.
#[pyfunction]
pub(crate) fn start_write_hashes(
    py: Python<'_>,
    server: Server,
    frame: &Bound<'_, PyAny>,
    request: HashArguments,
) -> PyResult<Task> {
    let (writing, _, control) = prepare_hashes(py, &server, frame, request)?;
    start(py, writing, control)
}
