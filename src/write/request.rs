//! What to write, and how.

use std::collections::HashMap;

use super::control::WriteControl;
use super::known_streams::KnownStreams;
use crate::compression::PayloadCompression;
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::payload::PayloadFormat;
use crate::shard::ShardedStream;

/// How rows become entries of streams. Made by [`WriteRequest::new`] or
/// [`WriteRequest::to_streams_of`] and changed by its `with_` methods.
///
/// ```
/// use redfloe::{Trim, WriteRequest};
///
/// let request = WriteRequest::new("events")
///     .with_timestamp_column(Some("created_at"))
///     .with_trim(Some(Trim::max_len(1_000_000)));
/// ```
#[derive(Debug, Clone)]
pub struct WriteRequest {
    pub(super) stream: Target,
    pub(super) ids: IdSource,
    pub(super) fields: Option<Vec<String>>,
    pub(super) null_texts: NullTexts,
    pub(super) payload: Option<String>,
    pub(super) payload_format: PayloadFormat,
    pub(super) payload_positions: Vec<String>,
    pub(super) payload_compression: Option<PayloadCompression>,
    pub(super) beside: Vec<String>,
    pub(super) trim: Option<Trim>,
    pub(super) no_make_stream: bool,
    pub(super) batch_rows: usize,
    pub(super) batch_bytes: usize,
    pub(super) idmp_producer: Option<Vec<u8>>,
    pub(super) atomic: bool,
    pub(super) skip_empty: bool,
    pub(super) before: RowsBefore,
    pub(super) control: WriteControl,
    pub(super) known_streams: KnownStreams,
}

/// Rows of which a write's own are a continuation, as a producer's pipelines are.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowsBefore {
    /// How many there are: the number of the write's first row.
    pub rows: usize,
    /// How many of them are in.
    pub written: usize,
}

/// Which stream a row goes to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    One(Vec<u8>),
    /// The one that this column names.
    Column(String),
    /// The shard of this stream that the text of a column says.
    Shards(ShardedStream),
}

/// Where entry IDs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdSource {
    Server,
    /// The text of this column.
    Column(String),
    /// The milliseconds of this column; the server adds the sequence number.
    Timestamp(String),
}

/// What is written where a value is null; nothing, if not named here.
#[derive(Debug, Clone, Default)]
pub struct NullTexts {
    /// In every field.
    pub all: Option<String>,
    /// In single fields, by name.
    pub by_field: HashMap<String, String>,
}

impl NullTexts {
    /// What is written for a null of this field.
    pub(super) fn of(&self, field: &str) -> Option<&String> {
        self.by_field.get(field).or(self.all.as_ref())
    }
}

/// What a stream is shortened to with each entry that is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trim {
    pub(super) bound: TrimBound,
    pub(super) approximate: bool,
    pub(super) limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrimBound {
    MaxLen(u64),
    MinId(EntryId),
}

impl Trim {
    /// About that many entries, the newest (MAXLEN, Redis 5.0).
    pub fn max_len(entries: u64) -> Self {
        Trim { bound: TrimBound::MaxLen(entries), approximate: true, limit: None }
    }

    /// About those entries that have this ID or a greater one (MINID, Redis 6.2).
    pub fn min_id(id: EntryId) -> Self {
        Trim { bound: TrimBound::MinId(id), approximate: true, limit: None }
    }

    /// Exactly to the bound, which costs the server more than the default: whole nodes of its tree.
    pub fn exactly(mut self) -> Self {
        self.approximate = false;
        self
    }

    /// Removes at most that many entries at a time (LIMIT, Redis 6.2); 0 for any number.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a trim that is exact.
    pub fn with_limit(mut self, entries: Option<u64>) -> Result<Self> {
        if !self.approximate && entries.is_some() {
            return Err(Error::invalid("limit needs an approximate trim, says XADD"));
        }
        self.limit = entries;
        Ok(self)
    }
}

impl WriteRequest {
    /// All rows into one stream, with IDs from the server; every column is a field.
    pub fn new(stream: impl Into<Vec<u8>>) -> Self {
        WriteRequest::to(Target::One(stream.into()))
    }

    /// Each row into the stream that this column names, which is no field unless
    /// [`with_fields`](Self::with_fields) says so.
    pub fn to_streams_of(column: &str) -> Self {
        WriteRequest::to(Target::Column(column.to_owned()))
    }

    /// Each row into the shard that its column of the name [`by`](ShardedStream::by) says, which is a
    /// field too. The stream is created where nothing is at its name.
    pub fn to_shards(stream: ShardedStream) -> Self {
        WriteRequest::to(Target::Shards(stream))
    }

    /// The same into the shards of a stream.
    pub(super) fn into_shards(self, stream: ShardedStream) -> Self {
        WriteRequest { stream: Target::Shards(stream), ..self }
    }

    /// The same for another stream.
    pub(super) fn with_stream(mut self, stream: Option<&[u8]>) -> Self {
        if let Some(stream) = stream {
            self.stream = Target::One(stream.to_vec());
        }
        self
    }

    /// The first of several writes to the same streams, of which those after it ask less.
    pub(super) fn remembering_streams(mut self) -> Self {
        self.known_streams = KnownStreams::remembered();
        self
    }

    /// One of several writes to the same streams, which share what they know of them.
    #[cfg(feature = "python")]
    pub(crate) fn with_known_streams(mut self, known: Option<KnownStreams>) -> Self {
        self.known_streams = known.unwrap_or_default();
        self
    }

    fn to(stream: Target) -> Self {
        WriteRequest {
            stream,
            ids: IdSource::Server,
            fields: None,
            null_texts: NullTexts::default(),
            payload: None,
            payload_format: PayloadFormat::default(),
            payload_positions: Vec::new(),
            payload_compression: None,
            beside: Vec::new(),
            trim: None,
            no_make_stream: false,
            batch_rows: 10_000,
            batch_bytes: 8 * 1024 * 1024,
            idmp_producer: None,
            atomic: false,
            skip_empty: false,
            before: RowsBefore::default(),
            control: WriteControl::default(),
            known_streams: KnownStreams::default(),
        }
    }

    /// Takes the IDs from this column of text: `ms-seq`, `ms` for `ms-0`, or `ms-*` where the server
    /// is to add the sequence number (Redis 7.0). They must increase.
    pub fn with_id_column(mut self, name: Option<&str>) -> Self {
        self.ids = name.map_or(IdSource::Server, |name| IdSource::Column(name.to_owned()));
        self
    }

    /// Takes the IDs' milliseconds from this column of timestamps, or of integers that count
    /// milliseconds; the server adds the sequence number (Redis 7.0). They must not decrease.
    pub fn with_timestamp_column(mut self, name: Option<&str>) -> Self {
        self.ids = name.map_or(IdSource::Server, |name| IdSource::Timestamp(name.to_owned()));
        self
    }

    /// Writes these columns, in this order, instead of all but those of IDs and streams.
    pub fn with_fields(mut self, names: Option<Vec<String>>) -> Self {
        self.fields = names;
        self
    }

    /// What is written where a value is null; by default the entry lacks the field.
    pub fn with_null_texts(mut self, texts: NullTexts) -> Self {
        self.null_texts = texts;
        self
    }

    /// Writes all fields of a row into this one, as the members of an object, of JSON unless
    /// [`with_payload_format`](Self::with_payload_format) says otherwise, that lacks those that are
    /// null. A read with a [`Payload`](crate::Payload) takes it apart again.
    pub fn with_payload(mut self, field: Option<String>) -> Self {
        self.payload = field;
        self
    }

    /// How the payload is written.
    pub fn with_payload_format(mut self, format: PayloadFormat) -> Self {
        self.payload_format = format;
        self
    }

    /// Writes each payload as an array of the values of these columns, in this order: one that is null
    /// or missing is nil. For MessagePack, whose maps have names otherwise.
    pub fn with_payload_positions(mut self, names: Vec<String>) -> Self {
        self.payload_positions = names;
        self
    }

    /// How each payload is compressed, if it is.
    pub fn with_payload_compression(mut self, compression: Option<PayloadCompression>) -> Self {
        self.payload_compression = compression;
        self
    }

    /// Columns that stay fields of their own beside the payload, such as a trace context.
    pub fn with_beside(mut self, names: Vec<String>) -> Self {
        self.beside = names;
        self
    }

    /// Shortens the streams with each entry that is added.
    pub fn with_trim(mut self, trim: Option<Trim>) -> Self {
        self.trim = trim;
        self
    }

    /// Adds nothing to a stream that does not exist (NOMKSTREAM, Redis 6.2).
    pub fn with_no_make_stream(mut self, no_make_stream: bool) -> Self {
        self.no_make_stream = no_make_stream;
        self
    }

    /// How many rows, at most, are in flight: sent, and not answered yet. 10,000 by default; at
    /// least one.
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows.max(1);
        self
    }

    /// Names the producer, so that the server knows rows again which a lost connection had brought
    /// it already (XADD IDMP, Redis 8.6). A server that does not know it is written to as if this
    /// was not said.
    pub fn with_idmp_producer(mut self, name: Option<Vec<u8>>) -> Self {
        self.idmp_producer = name;
        self
    }

    /// All rows or none: one transaction (MULTI).
    pub fn with_atomic(mut self, atomic: bool) -> Self {
        self.atomic = atomic;
        self
    }

    /// Leaves out rows that have no value in any field, which no entry can be, instead of refusing
    /// all.
    pub fn with_empty_rows_skipped(mut self, skip: bool) -> Self {
        self.skip_empty = skip;
        self
    }

    /// Continues other rows: a failure numbers and counts rows from the first of those on.
    pub fn with_rows_before(mut self, before: RowsBefore) -> Self {
        self.before = before;
        self
    }

    /// Lets another task look at the write, and stop it.
    pub fn with_control(mut self, control: WriteControl) -> Self {
        self.control = control;
        self
    }

    /// Whether a row's outcome can be asked for by the ID that was given to it.
    pub(super) fn stream_name(&self) -> Option<String> {
        match &self.stream {
            Target::One(key) => Some(String::from_utf8_lossy(key).into_owned()),
            Target::Shards(stream) => Some(String::from_utf8_lossy(stream.name()).into_owned()),
            Target::Column(_) => None,
        }
    }
}
