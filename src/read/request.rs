//! What to read, and in which portions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::group_options::{GroupOptions, OwnPending};
use super::many::{Many, OnSchemaMismatch, Pattern, StreamOrder};
use crate::client::{Client, Who};
use crate::decode::StreamNames;
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::StreamSchema;
use crate::shard::{ShardedStream, sharded_stream, told};

/// What to read. Made by [`ReadRequest::new`] and changed by its `with_` methods.
///
/// ```
/// use redfloe::{IdBound, ReadRequest, StreamSchema};
///
/// let request = ReadRequest::new("events", StreamSchema::default())
///     .with_range(IdBound::parse_start("1704067200000")?, IdBound::Newest)
///     .with_batch_size(10_000);
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ReadRequest {
    pub(super) stream: Vec<u8>,
    pub(super) schema: Arc<StreamSchema>,
    pub(super) start: IdBound,
    pub(super) end: IdBound,
    pub(super) count: Option<u64>,
    pub(super) last: Option<u64>,
    pub(super) block: Option<Duration>,
    pub(super) sample: Option<u64>,
    pub(super) bounds: BatchBounds,
    pub(super) batch_timeout: Option<Duration>,
    pub(super) on_idle: OnIdle,
    pub(super) group: Option<GroupOptions>,
    pub(super) resume: Option<Resume>,
    pub(super) must_exist: bool,
    /// The streams, where there are several.
    pub(super) many: Option<Arc<Many>>,
    /// How several become one result, also where one turns out to be several.
    pub(super) order: StreamOrder,
    pub(super) on_mismatch: OnSchemaMismatch,
}

/// Where an earlier run of [`tail`](crate::tail) had come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resume {
    /// The last entry of each stream, by its key, that it was done with.
    pub after: HashMap<Vec<u8>, EntryId>,
    /// There was such a run, which followed the streams that match a pattern: those that are not
    /// among these streams have appeared since.
    pub has_begun: bool,
    /// What to do where entries behind it are gone.
    pub on_data_loss: OnDataLoss,
}

/// What to do where entries that were still to be read are gone: trimmed, or lost with the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDataLoss {
    /// The read fails with [`DataLoss`](crate::ErrorKind::DataLoss).
    #[default]
    Raise,
    /// It goes on with what is there.
    Continue,
}

/// How large a batch may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchBounds {
    pub(super) rows: usize,
    pub(super) bytes: u64,
}

impl BatchBounds {
    pub(super) const NONE: BatchBounds = BatchBounds { rows: usize::MAX, bytes: u64::MAX };
}

/// What [`tail`](crate::tail) does when a poll finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnIdle {
    /// Polls again, without end.
    #[default]
    Wait,
    /// Comes to its end, so that a job can drain a stream and exit.
    Stop,
}

impl ReadRequest {
    /// All entries that the stream holds when the read starts; in one batch, where there is a
    /// choice.
    pub fn new(stream: impl Into<Vec<u8>>, schema: StreamSchema) -> Self {
        let stream = stream.into();
        let schema = match schema.stream_column {
            Some(_) => schema.with_streams([stream.clone()]),
            None => schema,
        };
        ReadRequest {
            stream,
            schema: Arc::new(schema),
            start: IdBound::Id(EntryId::MIN),
            end: IdBound::Newest,
            count: None,
            last: None,
            block: None,
            sample: None,
            bounds: BatchBounds::NONE,
            batch_timeout: None,
            on_idle: OnIdle::default(),
            group: None,
            resume: None,
            must_exist: false,
            many: None,
            order: StreamOrder::default(),
            on_mismatch: OnSchemaMismatch::default(),
        }
    }

    /// The entries of several streams, each named once, as one; for [`read`](crate::read),
    /// [`batches`](crate::batches) and what goes before them.
    pub fn of_streams(streams: impl IntoIterator<Item = Vec<u8>>, schema: StreamSchema) -> Self {
        let mut request = ReadRequest::new(Vec::new(), schema);
        let schema = Arc::make_mut(&mut request.schema);
        *schema = std::mem::take(schema).with_streams(streams);
        request.many = schema.sources.clone().map(|names| Arc::new(Many::new(names)));
        request
    }

    /// For [`tail`](crate::tail): in place of the streams those whose keys match a pattern (SCAN
    /// TYPE, Redis 6.0), which are looked for again and again. One that comes later is read from its
    /// first entry on, or from the range's start if that is an ID.
    pub fn with_pattern(mut self, pattern: Option<Vec<u8>>, every: Duration) -> Self {
        self.change_many(|many| many.pattern = pattern.map(|text| Pattern { text, every }));
        self
    }

    /// In which order the rows of several streams come, or those of a sharded one.
    pub fn with_order(mut self, order: StreamOrder) -> Self {
        self.order = order;
        self.change_many(|many| many.order = order);
        self
    }

    /// What to do where several streams do not have the same fields.
    pub fn with_on_schema_mismatch(mut self, on_mismatch: OnSchemaMismatch) -> Self {
        self.on_mismatch = on_mismatch;
        self.change_many(|many| many.on_mismatch = on_mismatch);
        self
    }

    /// Whether dtypes that are inferred from a sample must be the same in all streams as well.
    #[cfg(feature = "python")]
    pub(crate) fn with_compared_dtypes(mut self, compares_dtypes: bool) -> Self {
        self.change_many(|many| many.compares_dtypes = compares_dtypes);
        self
    }

    /// Of each of several streams only the entries between two IDs, both inclusive; none where the
    /// first is greater. As [`pin_streams`](crate::pin_streams) gives them.
    pub fn with_ranges(mut self, ranges: Option<Vec<(EntryId, EntryId)>>) -> Self {
        self.change_many(|many| many.ranges = ranges);
        self
    }

    /// The same of a sharded stream, in place of its name, which is there: a shard that nothing was
    /// written to is not, and is empty all the same.
    fn over(&self, stream: &ShardedStream) -> Self {
        let schema = StreamSchema::clone(&self.schema).with_streams(stream.keys());
        let names = schema.sources.clone().unwrap_or_default();
        let request = ReadRequest {
            schema: Arc::new(schema),
            many: Some(Arc::new(Many::new(names))),
            must_exist: false,
            ..self.clone()
        };
        request.with_order(self.order).with_on_schema_mismatch(self.on_mismatch)
    }

    /// After an error: the same of the shards, where the stream turned out to be a sharded one.
    ///
    /// # Errors
    ///
    /// That one, in all other cases; of several streams it says which is a sharded one.
    pub(super) async fn over_shards(&self, client: &Client, error: Error) -> Result<Self> {
        if self.many.is_some() {
            return Err(told(client, error).await);
        }
        if error.kind() != ErrorKind::WrongType || self.group.is_some() {
            return Err(error);
        }
        match sharded_stream(client, &self.stream).await? {
            Some(stream) => Ok(self.over(&stream)),
            None => Err(error),
        }
    }

    fn change_many(&mut self, change: impl FnOnce(&mut Many)) {
        if let Some(many) = &mut self.many {
            change(Arc::make_mut(many));
        }
    }

    /// Only entries within these bounds, both inclusive.
    pub fn with_range(mut self, start: IdBound, end: IdBound) -> Self {
        self.start = start;
        self.end = end;
        self
    }

    /// At most `count` entries, the oldest first.
    pub fn with_count(mut self, count: Option<u64>) -> Self {
        self.count = count;
        self
    }

    /// Only the `last` newest entries within the bounds; for bounded reads.
    pub fn with_last(mut self, last: Option<u64>) -> Self {
        self.last = last;
        self
    }

    /// Types the fields of an open schema by what the first `sample` entries say.
    pub fn with_inference(mut self, sample: Option<u64>) -> Self {
        self.sample = sample;
        self
    }

    /// Where no entry is there, waits so long for one; `Duration::ZERO` waits without limit. For
    /// [`tail`](crate::tail) it is the wait of one poll.
    pub fn with_block(mut self, block: Option<Duration>) -> Self {
        self.block = block;
        self
    }

    /// At most `rows` rows in a batch, and at least one.
    pub fn with_batch_size(mut self, rows: usize) -> Self {
        self.bounds.rows = rows.max(1);
        self
    }

    /// Closes a batch once its entries have taken `bytes` bytes of reply. It may be exceeded by
    /// 256 KiB, or by one entry where that is larger.
    pub fn with_batch_bytes(mut self, bytes: u64) -> Self {
        self.bounds.bytes = bytes;
        self
    }

    /// [`tail`](crate::tail) collects until the batch is full or so long has passed since its
    /// first entry came; without it a batch is what one poll finds.
    pub fn with_batch_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.batch_timeout = timeout;
        self
    }

    /// What [`tail`](crate::tail) does when a poll finds nothing.
    pub fn with_on_idle(mut self, on_idle: OnIdle) -> Self {
        self.on_idle = on_idle;
        self
    }

    /// Reads through a consumer group: with [`read`](crate::read) or [`tail`](crate::tail). The
    /// range of IDs is then the group's affair, and must be left as it is.
    pub fn with_group(mut self, group: Option<GroupOptions>) -> Self {
        let dead_letter = group.as_ref().is_some_and(|group| group.dead_letter.is_some());
        Arc::make_mut(&mut self.schema).rejects_clashes = dead_letter;
        self.group = group;
        self
    }

    /// Goes on where an earlier run of [`tail`](crate::tail) had come to, instead of at the range's
    /// start; without a group. The entries behind that place must be there still.
    pub fn with_resume(mut self, resume: Option<Resume>) -> Self {
        self.resume = resume;
        self
    }

    /// Whether a missing stream is an error ([`NoStream`](crate::ErrorKind::NoStream)) when the
    /// reading starts (TYPE, Redis 1.0), rather than one without entries; nor is it created then.
    pub fn with_must_exist(mut self, must_exist: bool) -> Self {
        self.must_exist = must_exist;
        self
    }

    /// Other columns.
    pub fn with_schema(mut self, schema: StreamSchema) -> Self {
        self.schema = Arc::new(schema);
        self
    }

    /// The columns that are asked for.
    pub fn schema(&self) -> &StreamSchema {
        &self.schema
    }

    /// What to do where entries that were still to be read are gone.
    pub(super) fn on_data_loss(&self) -> OnDataLoss {
        self.resume.as_ref().map(|resume| resume.on_data_loss).unwrap_or_default()
    }

    /// Whether nothing but its caller ends a [`tail`](crate::tail) of it.
    pub(crate) fn never_ends(&self) -> bool {
        let reads_pending =
            self.group.as_ref().is_some_and(|group| group.own_pending == OwnPending::Only);
        self.on_idle == OnIdle::Wait
            && self.count.is_none()
            && !matches!(self.end, IdBound::Id(_) | IdBound::Nothing)
            && !reads_pending
    }

    /// The stream's key.
    pub(crate) fn stream(&self) -> &[u8] {
        &self.stream
    }

    /// Where the read starts.
    pub(crate) fn start(&self) -> IdBound {
        self.start
    }

    /// How many rows a batch has at most.
    pub(crate) fn batch_rows(&self) -> usize {
        self.bounds.rows
    }

    /// How long one poll waits; `None` for no limit.
    pub(crate) fn block_time(&self) -> Option<Duration> {
        self.block.filter(|block| !block.is_zero())
    }

    /// Whether the reading ends when a poll finds nothing.
    pub(crate) fn stops_idle(&self) -> bool {
        self.on_idle == OnIdle::Stop
    }

    /// By how many entries the fields are typed, where they are.
    pub(crate) fn sample_size(&self) -> Option<u64> {
        self.sample
    }

    /// The group that it reads through.
    pub(crate) fn group(&self) -> Option<&GroupOptions> {
        self.group.as_ref()
    }

    /// Whether it is of several streams.
    pub(crate) fn is_of_several(&self) -> bool {
        self.many.is_some()
    }

    /// Who reads, for the log.
    pub(crate) fn who(&self) -> Who {
        let who = match self.many {
            Some(_) => Who::new(self.stream_name().as_bytes()),
            None => Who::new(&self.stream),
        };
        match &self.group {
            Some(group) => who.with_group(&group.group, &group.consumer),
            None => who,
        }
    }

    /// Whether entries are waited for again and again.
    pub(super) fn follows(&self) -> bool {
        self.bounds.rows != usize::MAX
    }

    /// The same of these streams.
    pub(super) fn with_names(&self, names: &Arc<StreamNames>) -> Self {
        let mut request = self.clone();
        if let Some(many) = &mut request.many {
            Arc::make_mut(many).names = Arc::clone(names);
        }
        request
    }

    /// The stream's name, for messages.
    pub(crate) fn stream_name(&self) -> String {
        match &self.many {
            Some(many) => many.to_string(),
            None => String::from_utf8_lossy(&self.stream).into_owned(),
        }
    }

    /// The error with the stream's name; where there are several, it may have the one that it is of.
    pub(crate) fn about(&self, error: Error) -> Error {
        about(error, self.many.is_some(), &self.stream_name())
    }
}

/// The error of a read, which says of what: of one stream, or of several if it names none of them.
pub(super) fn about(error: Error, is_many: bool, name: &str) -> Error {
    match is_many {
        true if error.context().iter().any(|(known, _)| *known == "stream") => error,
        true => error.with_context("streams", name),
        false => error.with_context("stream", name),
    }
}
