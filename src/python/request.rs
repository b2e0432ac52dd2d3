//! Python's arguments to requests of reads.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arrow::import_fields;
use super::error::{exception, id_exception, no_panic};
use super::payload_schema::Format;
use super::pin::Bounds;
use crate::entry_id::{EntryId, GroupStart, IdBound};
use crate::error::Result;
use crate::payload::Payload;
use crate::read::{
    DeadLetter, GroupOptions, OnDataLoss, OnGroupLost, OnIdle, OnSchemaMismatch, OwnPending,
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
    format: Format,
    fields: Vec<String>,
    compression: Option<String>,
    max_bytes: usize,
}

impl PayloadArguments {
    fn payload(&self) -> Result<Payload> {
        let payload = Payload::new(&self.field).with_path(&self.path)?;
        let compression = self.compression.as_deref().map(str::parse).transpose()?;
        let payload = payload
            .with_prefix(&self.prefix)
            .with_format(self.format.0.clone())
            .with_positions(self.fields.clone())
            .with_compression(compression)
            .with_max_bytes(self.max_bytes);
        payload.check()?;
        Ok(payload)
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
    /// The keys of the streams.
    pub(super) fn streams(&self) -> Vec<Vec<u8>> {
        match &self.many {
            Some(many) => many.streams.clone(),
            None => vec![self.stream.clone()],
        }
    }

    /// The group whose entries are to be acknowledged once they are there: that is for others to do.
    pub(super) fn take_auto_ack(&mut self) -> Option<Vec<u8>> {
        let group = self.group.as_mut()?;
        mem::take(&mut group.auto_ack).then(|| group.group.clone())
    }

    /// The number of entries to type the fields by.
    pub(super) fn sample(&self) -> u64 {
        self.infer_schema_length.unwrap_or_default()
    }

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
            .with_overrides(overrides.unwrap_or_default())
            .with_payload(payload)
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
