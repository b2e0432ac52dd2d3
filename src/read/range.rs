//! A bounded read: XRANGE in pages, and XREAD to wait for the first entry.

use std::time::{Duration, Instant};

use arrow_schema::Field;

use super::page::PageSize;
use crate::client::{Client, Session, Sink};
use crate::decode::{Batch, Decoder, Reply, ReplyShape};
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result};
use crate::infer::infer_fields;
use crate::resp;
use crate::schema::{OnError, StreamSchema};

/// What to read.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    stream: Vec<u8>,
    schema: StreamSchema,
    start: IdBound,
    end: IdBound,
    count: Option<u64>,
    block: Option<Duration>,
    sample: Option<u64>,
}

impl ReadRequest {
    /// All entries that the stream holds when the read starts.
    pub fn new(stream: impl Into<Vec<u8>>, schema: StreamSchema) -> Self {
        ReadRequest {
            stream: stream.into(),
            schema,
            start: IdBound::Id(EntryId::MIN),
            end: IdBound::Newest,
            count: None,
            block: None,
            sample: None,
        }
    }

    /// Only entries within these bounds, both inclusive.
    pub fn with_range(mut self, start: IdBound, end: IdBound) -> Self {
        self.start = start;
        self.end = end;
        self
    }

    /// At most so many entries, the oldest first.
    pub fn with_count(mut self, count: Option<u64>) -> Self {
        self.count = count;
        self
    }

    /// Types the fields of an open schema by what the first so many entries say.
    pub fn with_inference(mut self, sample: Option<u64>) -> Self {
        self.sample = sample;
        self
    }

    /// Where no entry is there, waits so long for one; `Duration::ZERO` waits without limit.
    pub fn with_block(mut self, block: Option<Duration>) -> Self {
        self.block = block;
        self
    }
}

/// Reads the entries of a request into one batch; an empty or missing stream gives no rows.
///
/// Pages of XRANGE (Redis 5.0), the next one requested before the columns of the current one are
/// built. An open end is pinned to the newest entry at the start (XREVRANGE), so that a read of a
/// stream that grows comes to its end. After a lost connection the read goes on behind the last
/// whole entry.
///
/// # Errors
///
/// Every kind that connecting, the server or decoding can raise; an error leaves nothing behind.
pub async fn read(client: &Client, request: ReadRequest) -> Result<Batch> {
    let stream = String::from_utf8_lossy(&request.stream).into_owned();
    let reading = async {
        let decoder = Decoder::new(request.schema.clone(), ReplyShape::Entries)?;
        RangeRead { session: client.session(), decoder, request }.run().await
    };
    reading.await.map_err(|error: Error| error.with_context("stream", stream))
}

/// The fields of the entries within a request's bounds, typed by what a sample of so many says.
///
/// # Errors
///
/// As [`read`].
pub async fn infer_schema(
    client: &Client,
    request: ReadRequest,
    sample: u64,
) -> Result<Vec<Field>> {
    let schema = schema_of_sample(&request.schema);
    let count = request.count.map_or(sample, |count| count.min(sample));
    let request = ReadRequest { schema, block: None, sample: None, count: Some(count), ..request };
    Ok(infer_fields(read(client, request).await?.records()))
}

/// Every field as text, and nothing that could raise.
fn schema_of_sample(schema: &StreamSchema) -> StreamSchema {
    StreamSchema::default()
        .with_id_column(None)
        .with_timestamp_column(None)
        .with_on_error(OnError::Null)
        .with_null_values(schema.null_values.clone())
}

struct RangeRead {
    session: Session,
    decoder: Decoder,
    request: ReadRequest,
}

impl RangeRead {
    async fn run(mut self) -> Result<Batch> {
        let start = match self.request.start {
            IdBound::Id(id) => Some(id),
            IdBound::Newest => self.newest().await?,
            IdBound::AfterNewest => self.newest().await?.unwrap_or_default().successor(),
            IdBound::Nothing => None,
        };
        let Some(start) = start.filter(|_| self.request.count != Some(0)) else {
            return self.decoder.flush();
        };
        let deadline = self.request.block.map(|block| Deadline::after(Instant::now(), block));
        loop {
            // An open end is pinned anew after each wait: whatever has come is wanted.
            let end = match self.request.end {
                IdBound::Id(id) => Some(id),
                IdBound::Newest | IdBound::AfterNewest => self.newest().await?,
                IdBound::Nothing => return self.decoder.flush(),
            };
            if let Some(end) = end
                && start <= end
                && self.infer(start, end).await?
            {
                self.pages(start, end).await?;
            }
            let Some(deadline) = &deadline else {
                return self.decoder.flush();
            };
            if self.decoder.rows() > 0
                || !self.can_come(start).await?
                || !self.wait(start, deadline).await?
            {
                return self.decoder.flush();
            }
        }
    }

    /// Types the fields by a sample of what is to be read, where that is asked for and not done
    /// yet; says whether there is anything to read.
    async fn infer(&mut self, start: EntryId, end: EntryId) -> Result<bool> {
        let Some(sample) = self.request.sample else {
            return Ok(true);
        };
        let schema = self.request.schema.clone();
        let count = self.request.count;
        self.decoder = Decoder::new(schema_of_sample(&schema), ReplyShape::Entries)?;
        self.request.count = Some(count.map_or(sample, |count| count.min(sample)));
        self.pages(start, end).await?;
        let sampled = self.decoder.flush()?;
        let fields = infer_fields(sampled.records()).into_iter().map(Into::into).collect();
        self.decoder = Decoder::new(StreamSchema { fields, ..schema }, ReplyShape::Entries)?;
        self.request.count = count;
        let found = !sampled.is_empty() || sample == 0;
        if found {
            self.request.sample = None;
        }
        Ok(found)
    }

    /// Whether an entry within the bounds can still be added: IDs only grow.
    async fn can_come(&mut self, start: EntryId) -> Result<bool> {
        match self.request.end {
            IdBound::Id(end) if start > end => Ok(false),
            IdBound::Id(end) => Ok(self.newest().await?.is_none_or(|newest| newest < end)),
            _ => Ok(true),
        }
    }

    /// The ID of the newest entry.
    async fn newest(&mut self) -> Result<Option<EntryId>> {
        let command = resp::newest(&self.request.stream);
        self.session.request(&command, || ids_only(ReplyShape::Entries), last_id).await
    }

    /// Waits until an entry is there, from `start` on; says whether one is.
    async fn wait(&mut self, start: EntryId, deadline: &Deadline) -> Result<bool> {
        /// A server that answers nil before the time is over, because of CLIENT UNBLOCK or because
        /// it cannot block, is not asked again at once.
        const PAUSE: Duration = Duration::from_millis(20);
        let after = start.predecessor().unwrap_or(EntryId::MIN);
        loop {
            let left = deadline.left();
            // BLOCK 0 waits for ever, so what is left is rounded up.
            let left_ms = left.map_or(0, |left| left.as_millis().saturating_add(1));
            let block_ms = u64::try_from(left_ms).unwrap_or(u64::MAX);
            let command = resp::read_after(&self.request.stream, after, 1, block_ms);
            let decoder = ids_only(ReplyShape::Streams)?;
            match self.session.attempt(&command, left, decoder, last_id).await {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {
                    let left = deadline.left().unwrap_or(PAUSE);
                    if left.is_zero() {
                        return Ok(false);
                    }
                    tokio::time::sleep(left.min(PAUSE)).await;
                }
                // Not `request`: after a lost connection only the rest of the time is waited for.
                Err(error) => self.session.recover(error).await?,
            }
        }
    }

    /// Reads all entries from `start` to `end` into the decoder.
    async fn pages(&mut self, start: EntryId, end: EntryId) -> Result<()> {
        let mut page = PageSize::new();
        loop {
            match self.pages_of_one_connection(start, end, &mut page).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.decoder.abandon_reply();
                    self.session.recover(error).await?;
                }
            }
        }
    }

    async fn pages_of_one_connection(
        &mut self,
        start: EntryId,
        end: EntryId,
        page: &mut PageSize,
    ) -> Result<()> {
        let Some(mut request) = self.next_page(start, end, page) else {
            return Ok(());
        };
        let connection = self.session.connection().await?;
        connection.send(&request.command).await?;
        loop {
            let connection = self.session.connection().await?;
            let before = self.decoder.rows();
            let mut sink = Measured { decoder: &mut self.decoder, bytes: 0 };
            connection.receive(&mut sink, Some(Duration::ZERO)).await?;
            let bytes = sink.bytes;
            if let Some(Reply::Error(error)) = self.decoder.take_reply() {
                return Err(error);
            }
            let entries = (self.decoder.rows() - before) as u64;
            page.observe(entries, bytes);
            self.session.succeeded();

            // A short page is the last one.
            let next = match entries < request.count {
                true => None,
                false => self.next_page(start, end, page),
            };
            if let Some(next) = &next {
                self.session.connection().await?.send(&next.command).await?;
            }
            // The server works on the next page while the columns of this one are built.
            self.decoder.build()?;
            match next {
                Some(next) => request = next,
                None => return Ok(()),
            }
        }
    }

    /// The page behind the last whole entry, or `None` where nothing is left to read.
    fn next_page(&self, start: EntryId, end: EntryId, page: &PageSize) -> Option<Page> {
        let next = match self.decoder.last_id() {
            Some(last) => last.successor()?,
            None => start,
        };
        let missing = match self.request.count {
            Some(count) => count.saturating_sub(self.decoder.rows() as u64),
            None => u64::MAX,
        };
        let count = page.count().min(missing);
        (next <= end && count > 0)
            .then(|| Page { command: resp::range(&self.request.stream, next, end, count), count })
    }
}

/// When a wait is over; perhaps never.
struct Deadline(Option<Instant>);

impl Deadline {
    /// So long after `now`; `Duration::ZERO` means without limit, as for BLOCK.
    fn after(now: Instant, wait: Duration) -> Self {
        Deadline(if wait.is_zero() { None } else { now.checked_add(wait) })
    }

    /// The time that is left, or `None` without limit.
    fn left(&self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }
}

/// A page that is asked for.
struct Page {
    command: Vec<u8>,
    count: u64,
}

/// Counts the bytes of a reply on their way to the decoder.
struct Measured<'a> {
    decoder: &'a mut Decoder,
    bytes: u64,
}

impl Sink for Measured<'_> {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let taken = self.decoder.decode(bytes)?;
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn is_complete(&self) -> bool {
        self.decoder.reply_complete()
    }
}

/// A decoder that looks at nothing but IDs.
fn ids_only(shape: ReplyShape) -> Result<Decoder> {
    let schema =
        StreamSchema::closed(Vec::<Field>::new()).with_id_column(None).with_timestamp_column(None);
    Decoder::new(schema, shape)
}

fn last_id(mut decoder: Decoder) -> Result<Option<EntryId>> {
    match decoder.take_reply() {
        Some(Reply::Error(error)) => Err(error),
        _ => Ok(decoder.last_id()),
    }
}
