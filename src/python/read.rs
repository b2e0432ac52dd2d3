//! Reads: Python's arguments to requests, and back.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow_array::RecordBatch as ArrowBatch;
use arrow_schema::{Field, Schema};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arrow::{RecordBatch, import_fields};
use super::completion::Task;
use super::connection::Server;
use super::error::{exception, id_exception, no_panic};
use super::member::parsed;
use super::operation::Operation;
use super::pin::Bounds;
use super::reading::make_of;
use super::wait::wait;
use crate::client::Client;
use crate::decode::Batch;
use crate::entry_id::{EntryId, GroupStart, IdBound};
use crate::error::{Error, ErrorKind, Result, counted};
use crate::payload::Payload;
use crate::read::{
    self, DeadLetter, GroupOptions, OnDataLoss, OnGroupLost, OnIdle, OnSchemaMismatch, OwnPending,
    ReadRequest, Reclaim, Removal, Resume, StreamOrder,
};
use crate::schema::{NullValues, OnError, StreamSchema};

/// What to read, as `redfloe._arguments` puts it together.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Request<'py> {
    stream: Vec<u8>,
    /// The streams in place of that one, where there are several.
    many: Option<Many>,
    start_id: String,
    end_id: String,
    count: Option<u64>,
    /// Only that many of the newest entries.
    last: Option<u64>,
    block_ms: Option<u64>,
    /// An object with `__arrow_c_schema__`, or `None` for whatever fields occur.
    schema: Option<Bound<'py, PyAny>>,
    /// The dtypes of fields that an open schema finds: an object with `__arrow_c_schema__`.
    schema_overrides: Option<Bound<'py, PyAny>>,
    /// The number of entries to type an open schema by.
    infer_schema_length: Option<u64>,
    id_column: Option<String>,
    timestamp_column: Option<String>,
    sequence_column: Option<String>,
    stream_column: Option<String>,
    /// An object with `__arrow_c_schema__` of one field.
    timestamp_type: Bound<'py, PyAny>,
    rescue_column: Option<String>,
    max_columns: usize,
    payload: Option<PayloadArguments>,
    on_error: String,
    null_values: Vec<String>,
    null_values_by_field: HashMap<String, Vec<String>>,
    batch_size: Option<usize>,
    batch_bytes: Option<u64>,
    batch_timeout_ms: Option<u64>,
    on_idle: String,
    group: Option<Group>,
    /// Up to where an earlier run had come, by the keys of streams.
    resume_after: HashMap<Vec<u8>, String>,
    /// Whether there was one, which followed the streams that match a pattern.
    has_begun: bool,
    continue_after_loss: bool,
    must_exist: bool,
    /// Whether it is worth a word if fields of the schema do not occur.
    expects_fields: bool,
    /// How the shards of the stream become one result, where it is a sharded one.
    order: String,
    on_schema_mismatch: String,
    /// Fields of the schema or its overrides that are no payload's keys, and that nobody misses.
    beside: Vec<String>,
}

/// Several streams, and how they become one result.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Many {
    streams: Vec<Vec<u8>>,
    order: String,
    on_schema_mismatch: String,
    compare_dtypes: bool,
    /// What the streams match, and how often to look for others.
    pattern: Option<(Vec<u8>, u64)>,
    /// The bounds of each stream, where they are pinned.
    ranges: Option<Vec<Bounds>>,
}

impl Many {
    fn request(&self, schema: StreamSchema) -> PyResult<ReadRequest> {
        let (pattern, every) = self.pattern.clone().unzip();
        let every = Duration::from_millis(every.unwrap_or_default());
        let id = |(ms, seq)| EntryId { ms, seq };
        let ranges = self.ranges.as_ref();
        let ranges =
            ranges.map(|all| all.iter().map(|(first, last)| (id(*first), id(*last))).collect());
        Ok(ReadRequest::of_streams(self.streams.iter().cloned(), schema)
            .with_order(order_of(&self.order)?)
            .with_on_schema_mismatch(mismatch_of(&self.on_schema_mismatch)?)
            .with_compared_dtypes(self.compare_dtypes)
            .with_pattern(pattern, every)
            .with_ranges(ranges))
    }
}

/// A field that holds a document, and how its keys become columns.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PayloadArguments {
    field: String,
    path: String,
    prefix: String,
    format: String,
    fields: Vec<String>,
    compression: Option<String>,
    max_bytes: usize,
}

impl PayloadArguments {
    fn payload(&self) -> Result<Payload> {
        let payload = Payload::new(&self.field).with_path(&self.path)?;
        let format = self.format.parse()?;
        let compression = self.compression.as_deref().map(str::parse).transpose()?;
        Ok(payload
            .with_prefix(&self.prefix)
            .with_format(format)
            .with_positions(self.fields.clone())
            .with_compression(compression)
            .with_max_bytes(self.max_bytes))
    }
}

fn order_of(text: &str) -> PyResult<StreamOrder> {
    match text {
        "stream" => Ok(StreamOrder::ByStream),
        "id" => Ok(StreamOrder::ById),
        other => {
            let message = format!("order must be \"stream\" or \"id\", not {other:?}");
            Err(PyValueError::new_err(message))
        }
    }
}

fn mismatch_of(text: &str) -> PyResult<OnSchemaMismatch> {
    match text {
        "union" => Ok(OnSchemaMismatch::Union),
        "raise" => Ok(OnSchemaMismatch::Raise),
        other => {
            let message =
                format!("on_schema_mismatch must be \"union\" or \"raise\", not {other:?}");
            Err(PyValueError::new_err(message))
        }
    }
}

/// How to read through a consumer group.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Group {
    group: Vec<u8>,
    consumer: Vec<u8>,
    /// Where to create the group if it is missing.
    create_at: Option<String>,
    own_pending: String,
    auto_ack: bool,
    noack: bool,
    /// From when on entries of others are taken over, and how often.
    reclaim_ms: Option<(u64, u64)>,
    /// How long entries in hand are kept from being taken over by others.
    max_processing_ms: Option<u64>,
    dead_letter: Option<Vec<u8>>,
    max_deliveries: Option<u64>,
    recreate: bool,
    count_deliveries: bool,
    remove_on_close: bool,
    remove_idle_ms: Option<u64>,
    /// The streams are shards, and so are those of dead letters.
    by_shard: bool,
}

impl Group {
    fn options(
        &self,
        py: Python<'_>,
        done_up_to: HashMap<Vec<u8>, EntryId>,
    ) -> PyResult<GroupOptions> {
        let own_pending = match self.own_pending.as_str() {
            "skip" => OwnPending::Skip,
            "first" => OwnPending::First,
            "only" => OwnPending::Only,
            other => return Err(PyValueError::new_err(format!("{other:?} is no own_pending"))),
        };
        let create_at = self.create_at.as_deref().map(GroupStart::parse).transpose();
        let create_at = create_at.map_err(|error| id_exception(py, &error))?;
        Ok(GroupOptions::new(self.group.clone(), self.consumer.clone())
            .with_creation(create_at)
            .with_own_pending(own_pending)
            .with_auto_ack(self.auto_ack)
            .with_noack(self.noack)
            .with_reclaim(self.reclaim_ms.map(|(min_idle, interval)| Reclaim {
                min_idle: Duration::from_millis(min_idle),
                interval: Duration::from_millis(interval),
            }))
            .with_max_processing(self.max_processing_ms.map(Duration::from_millis))
            .with_dead_letter(
                self.dead_letter
                    .clone()
                    .map(|stream| DeadLetter { stream, max_deliveries: self.max_deliveries }),
            )
            .with_shards(self.by_shard)
            .with_on_lost(if self.recreate { OnGroupLost::Recreate } else { OnGroupLost::Raise })
            .with_done_up_to(done_up_to)
            .with_delivery_counts(self.count_deliveries)
            .with_removal(Removal {
                on_close: self.remove_on_close,
                idle: self.remove_idle_ms.map(Duration::from_millis),
            }))
    }
}

impl Request<'_> {
    fn schema(&self, py: Python<'_>) -> PyResult<StreamSchema> {
        let schema = match &self.schema {
            Some(schema) => StreamSchema::closed(import_fields(schema)?),
            None => StreamSchema::default(),
        };
        let on_error = match self.on_error.as_str() {
            "raise" => OnError::Raise,
            "null" => OnError::Null,
            "reject" => OnError::Reject,
            other => {
                let message = format!("on_error must be \"raise\" or \"null\", not {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        let timestamp = import_fields(&self.timestamp_type)?.pop();
        let schema = match timestamp {
            Some(field) => schema.with_timestamp_type(field.data_type().clone()),
            None => schema,
        };
        let payload = self.payload.as_ref().map(PayloadArguments::payload);
        let payload = payload.transpose().map_err(|error| exception(py, &error))?;
        let overrides = self.schema_overrides.as_ref().map(import_fields).transpose()?;
        Ok(schema
            .with_payload(payload)
            .with_overrides(overrides.unwrap_or_default())
            .with_id_column(self.id_column.as_deref())
            .with_timestamp_column(self.timestamp_column.as_deref())
            .with_sequence_column(self.sequence_column.as_deref())
            .with_stream_column(self.stream_column.as_deref())
            .with_rescue_column(self.rescue_column.as_deref())
            .with_max_columns(self.max_columns)
            .with_on_error(on_error)
            .with_expected_fields(self.expects_fields)
            .with_beside(self.beside.clone())
            .with_null_values(NullValues {
                all: self.null_values.clone(),
                by_field: self.null_values_by_field.clone(),
            }))
    }

    pub(super) fn read_request(&self, py: Python<'_>) -> PyResult<ReadRequest> {
        no_panic(py, || self.converted(py))
    }

    fn converted(&self, py: Python<'_>) -> PyResult<ReadRequest> {
        let schema = self.schema(py)?;
        let on_idle = match self.on_idle.as_str() {
            "wait" => OnIdle::Wait,
            "stop" => OnIdle::Stop,
            other => {
                let message = format!("on_idle must be \"wait\" or \"stop\", not {other:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        let raised = |error| exception(py, &error);
        schema.arrow().map_err(raised)?;
        let no_id = |error| id_exception(py, &error);
        let start = IdBound::parse_start(&self.start_id).map_err(no_id)?;
        let resume_after = self.resume_after.iter();
        let after: Result<HashMap<Vec<u8>, EntryId>> =
            resume_after.map(|(key, id)| Ok((key.clone(), id.parse()?))).collect();
        let after = after.map_err(raised)?;
        let on_data_loss = match self.continue_after_loss {
            true => OnDataLoss::Continue,
            false => OnDataLoss::Raise,
        };
        let end = IdBound::parse_end(&self.end_id).map_err(no_id)?;
        let group = self.group.as_ref().map(|group| group.options(py, after.clone()));
        let group = group.transpose()?;
        let request = match &self.many {
            Some(many) => many.request(schema)?,
            None => ReadRequest::new(self.stream.clone(), schema)
                .with_order(order_of(&self.order)?)
                .with_on_schema_mismatch(mismatch_of(&self.on_schema_mismatch)?),
        };
        Ok(request
            .with_range(start, end)
            .with_count(self.count)
            .with_last(self.last)
            .with_block(self.block_ms.map(Duration::from_millis))
            .with_inference(self.infer_schema_length)
            .with_batch_size(self.batch_size.unwrap_or(usize::MAX))
            .with_batch_bytes(self.batch_bytes.unwrap_or(u64::MAX))
            .with_batch_timeout(self.batch_timeout_ms.map(Duration::from_millis))
            .with_on_idle(on_idle)
            .with_must_exist(self.must_exist)
            .with_resume(Some(Resume { after, has_begun: self.has_begun, on_data_loss }))
            .with_group(group))
    }
}

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
        let group = request.group.as_mut();
        let group = group.and_then(|group| mem::take(&mut group.auto_ack).then_some(&group.group));
        let streams = match &request.many {
            Some(many) => many.streams.clone(),
            None => vec![request.stream.clone()],
        };
        let acknowledging = group.map(|group| (streams, group.clone()));
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
    let sample = request.infer_schema_length.unwrap_or_default();
    let (request, client) = (request.read_request(py)?, server.client(py)?);
    let inferring = async move { read::infer_schema(&client, request, sample).await };
    Ok(Operation::new(inferring, |py, fields: Vec<Field>| {
        let records = ArrowBatch::new_empty(Schema::new(fields).into());
        RecordBatch::new(Batch::new(records, Vec::new(), Vec::new())).into_py_any(py)
    }))
}
