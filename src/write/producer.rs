//! Entries that come one by one, lingered into pipelines.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow_array::RecordBatch;
use tokio::sync::Notify;

use super::control::stopped_before_the_first;
use super::outcome::{WriteFailure, Written};
use super::request::{RowsBefore, Trim, WriteRequest};
use super::rows::{Entry, Rows};
use super::sent::{Sent, Slot, fill};
use super::writer::{write, write_rows};
use crate::client::{Client, Who};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};

/// When a [`Producer`] sends what it was given, and how much it holds.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// How long an entry waits for others to be sent with.
    pub linger: Duration,
    /// How many entries are sent without waiting for more.
    pub batch_rows: usize,
    /// How many bytes of entries are held before there is no more room.
    pub buffer_bytes: usize,
    /// Entries older than this are trimmed (MINID), by this process's clock.
    pub max_age: Option<Duration>,
    /// All of these at once, rather than about these, which is cheaper for the server.
    pub is_max_age_exact: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        ProducerOptions {
            linger: Duration::from_millis(5),
            batch_rows: 1_000,
            buffer_bytes: 16 * 1024 * 1024,
            max_age: None,
            is_max_age_exact: false,
        }
    }
}

/// Takes entries one by one, without waiting for the server, and writes them in the background, in
/// order. After a failure it takes no more.
///
/// Once the server has answered it keeps trying through an outage, unless the client's options limit
/// retries: it takes entries until there is no more room for them. What was sent and has no answer is
/// not sent again where the server would not recognise it; then the producer fails.
///
/// ```no_run
/// use redfloe::{Client, ConnectionOptions, Producer, ProducerOptions, WriteRequest};
///
/// # async fn example() -> redfloe::Result<()> {
/// let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
/// let producer = Producer::new(client, WriteRequest::new("events"), ProducerOptions::default());
/// tokio::spawn(producer.worker());
/// producer.send([(&b"user"[..], &b"ada"[..])])?;
/// producer.flush().await;
/// assert!(producer.failed().is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Inner>,
}

struct Inner {
    client: Client,
    request: WriteRequest,
    options: ProducerOptions,
    state: Mutex<State>,
    /// There is something to do for the worker.
    work: Notify,
    /// The worker has done something.
    done: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    bytes: usize,
    /// When the oldest of the queue came.
    since: Option<Instant>,
    /// Rows that were taken, and rows that are settled.
    taken: usize,
    settled: usize,
    rows_written: usize,
    /// Rows before this one are not to wait for others.
    flushed: usize,
    closed: bool,
    failed: Option<Arc<ProducerFailure>>,
}

/// Batches, and whatever has to become of their memory when they are written.
type Frame = Box<dyn Deref<Target = [RecordBatch]> + Send + Sync>;

enum Item {
    Entry(Entry, Slot),
    /// With its stream, where it is not the request's, and its rows and bytes.
    Frame(Frame, Option<Vec<u8>>, usize, usize),
}

impl Item {
    fn rows(&self) -> usize {
        match self {
            Item::Entry(..) => 1,
            Item::Frame(_, _, rows, _) => *rows,
        }
    }
}

/// What ended a producer. Rows are counted from its first on.
#[derive(Debug)]
#[non_exhaustive]
pub struct ProducerFailure {
    /// What became of the last pipeline's rows.
    pub failure: Arc<WriteFailure>,
    /// The number of that pipeline's first row among all.
    pub first_row: usize,
    /// How many rows were in before it.
    pub rows_before: usize,
}

impl Producer {
    /// A producer for the stream of the request, and others that entries name, with IDs from the
    /// server unless a frame has its own. Nothing is written before [`Producer::worker`] runs.
    pub fn new(client: Client, request: WriteRequest, options: ProducerOptions) -> Self {
        let who = Who { stream: request.stream_name().unwrap_or_default(), ..Who::default() };
        let shared = Inner {
            client: client.keep_trying(who),
            request: request.with_batch_rows(options.batch_rows.max(1)).remembering_streams(),
            options,
            state: Mutex::default(),
            work: Notify::new(),
            done: Notify::new(),
        };
        Producer { shared: Arc::new(shared) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an entry of these names and values; `None` where there was no room for it.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) without a field, or when closed.
    pub fn send<'a>(
        &self,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Option<Sent>> {
        self.send_to(None, fields)
    }

    /// As [`Producer::send`], into this stream instead of the request's.
    ///
    /// # Errors
    ///
    /// As [`Producer::send`].
    pub fn send_to<'a>(
        &self,
        stream: Option<&[u8]>,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Option<Sent>> {
        let entry = Entry::new(stream, fields.into_iter())?;
        let (bytes, slot) = (entry.len(), Slot::default());
        let number = self.take(Item::Entry(entry, Arc::clone(&slot)), 1, bytes)?;
        Ok(number.map(|number| Sent::new(self.clone(), slot, number)))
    }

    /// Takes the rows of batches, for this stream or the request's; says whether there was room for
    /// them. A frame larger than all room is taken when nothing else is there.
    ///
    /// # Errors
    ///
    /// As [`write`](crate::write) where the rows cannot be entries; when closed.
    pub fn send_batches(
        &self,
        stream: Option<&[u8]>,
        batches: impl Deref<Target = [RecordBatch]> + Send + Sync + 'static,
    ) -> Result<bool> {
        Rows::new(&batches, &self.shared.request.clone().with_stream(stream))?;
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let bytes = bytes + stream.map_or(0, <[u8]>::len);
        let item = Item::Frame(Box::new(batches), stream.map(<[u8]>::to_vec), rows, bytes);
        Ok(self.take(item, rows, bytes)?.is_some())
    }

    /// The number of its first row.
    fn take(&self, item: Item, rows: usize, bytes: usize) -> Result<Option<usize>> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::invalid("the producer is closed"));
        }
        if state.bytes > 0 && state.bytes + bytes > self.shared.options.buffer_bytes {
            return Ok(None);
        }
        let number = state.taken;
        state.queue.push_back(item);
        state.bytes += bytes;
        state.taken += rows;
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        self.shared.work.notify_one();
        Ok(Some(number))
    }

    /// Returns when it is known what became of that row, or the producer has failed.
    pub(super) async fn until_settled(&self, number: usize) {
        self.until(|state| state.settled > number).await;
    }

    pub(super) fn has_settled(&self, number: usize) -> bool {
        let state = self.state();
        state.failed.is_some() || state.settled > number
    }

    /// How many rows are in.
    pub fn rows_written(&self) -> usize {
        self.state().rows_written
    }

    /// What ended it, if something did.
    pub fn failed(&self) -> Option<Arc<ProducerFailure>> {
        self.state().failed.clone()
    }

    /// Sends all that it was given so far without waiting for more, and returns when all of it is
    /// in, or the producer has failed.
    pub async fn flush(&self) {
        let target = {
            let mut state = self.state();
            state.flushed = state.taken;
            state.taken
        };
        self.shared.work.notify_one();
        self.until(|state| state.settled >= target).await;
    }

    /// Returns when there is room for more, or the producer has failed.
    pub async fn room(&self) {
        let half = self.shared.options.buffer_bytes / 2;
        self.until(|state| state.bytes <= half).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let done = self.shared.done.notified();
            let mut done = std::pin::pin!(done);
            done.as_mut().enable();
            {
                let state = self.state();
                if state.failed.is_some() || holds(&state) {
                    return;
                }
            }
            done.await;
        }
    }

    /// Takes no more, writes what is there, and returns when that is done.
    pub async fn close(&self) {
        self.end();
        self.flush().await;
    }

    /// As [`Producer::close`], and [stops](Producer::stop) what is not in after that time; says whether
    /// it had to.
    pub async fn close_within(&self, limit: Duration) -> bool {
        let is_over = tokio::time::timeout(limit, self.close()).await.is_err();
        if is_over {
            self.stop();
            self.flush().await;
        }
        is_over
    }

    /// Takes no more; the worker writes what is there and ends, which nobody waits for.
    pub fn end(&self) {
        self.state().closed = true;
        self.shared.work.notify_one();
    }

    /// Takes no more, and sends no more of what is there. [`Producer::close`] then returns within a
    /// second, whatever the server does, and [`Producer::failed`] says what is not in. Stops the
    /// [`WriteControl`](crate::WriteControl) of the request, and so all that shares it.
    pub fn stop(&self) {
        self.state().closed = true;
        self.shared.request.control.stop();
        self.shared.work.notify_one();
    }

    /// Writes what comes, until the producer is closed or fails. One worker is to run.
    pub fn worker(&self) -> impl Future<Output = ()> + Send + 'static {
        let producer = self.clone();
        async move {
            while let Some(items) = producer.wait_for_work().await {
                if !producer.write(items).await {
                    break;
                }
            }
            producer.shared.done.notify_waiters();
        }
    }

    /// What is to be written next; `None` when there is nothing more to come.
    async fn wait_for_work(&self) -> Option<Items> {
        loop {
            let wait = {
                let mut state = self.state();
                if self.shared.request.control.is_stopped() {
                    state.give_up();
                    return None;
                }
                let full = state.queue.len() >= self.shared.options.batch_rows;
                let age = state.since.map(|since| since.elapsed());
                let due = age.is_some_and(|age| age >= self.shared.options.linger);
                let pressed = state.flushed > state.settled || state.closed;
                let holds_frame = matches!(state.queue.front(), Some(Item::Frame(..)));
                if !state.queue.is_empty() && (full || due || pressed || holds_frame) {
                    return Some(state.next(self.shared.options.batch_rows));
                }
                if state.queue.is_empty() && state.closed {
                    return None;
                }
                age.map(|age| self.shared.options.linger.saturating_sub(age))
            };
            let work = self.shared.work.notified();
            match wait {
                None => work.await,
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, work).await;
                }
            }
        }
    }

    /// Writes; says whether all are in.
    async fn write(&self, items: Items) -> bool {
        let Inner { client, options, .. } = &*self.shared;
        let mut request = self.shared.request.clone();
        if let Some(id) = options.max_age.and_then(oldest) {
            let trim = Trim::min_id(id);
            let trim = if options.is_max_age_exact { trim.exactly() } else { trim };
            request = request.with_trim(Some(trim));
        }
        let (first_row, rows_before) = {
            let state = self.state();
            (state.settled, state.rows_written)
        };
        request = request.with_rows_before(RowsBefore { rows: first_row, written: rows_before });
        let (rows, bytes) = (items.rows, items.bytes);
        let written: Result<Written, WriteFailure> = match items.frame {
            Some((frame, stream)) => {
                write(client, &frame, &request.with_stream(stream.as_deref())).await
            }
            None => write_rows(client, Rows::of_entries(items.entries, &request), &request).await,
        };
        match &written {
            Ok(written) => fill(&items.slots, written.ids(), true),
            Err(failure) => fill(&items.slots, failure.written().ids(), false),
        }
        let mut state = self.state();
        state.bytes -= bytes.min(state.bytes);
        state.settled += rows;
        let is_in = match written {
            Ok(written) => {
                state.rows_written += written.rows();
                true
            }
            Err(failure) => {
                state.rows_written += failure.written().rows();
                state.fail(ProducerFailure { failure: Arc::new(failure), first_row, rows_before });
                false
            }
        };
        drop(state);
        self.shared.done.notify_waiters();
        is_in
    }
}

/// The ID that entries of this age have.
fn oldest(age: Duration) -> Option<EntryId> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let ms = now.saturating_sub(age).as_millis();
    Some(EntryId::new(u64::try_from(ms).ok()?, 0))
}

/// What is written at once: a frame, or entries.
struct Items {
    frame: Option<(Frame, Option<Vec<u8>>)>,
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    rows: usize,
    bytes: usize,
}

impl State {
    fn fail(&mut self, failure: ProducerFailure) {
        self.failed = Some(Arc::new(failure));
        self.closed = true;
        self.queue.clear();
    }

    /// What was not sent is not in.
    fn give_up(&mut self) {
        let rows = self.queue.iter().map(Item::rows).sum();
        if rows > 0 {
            let (first_row, rows_before) = (self.settled, self.rows_written);
            let before = RowsBefore { rows: first_row, written: rows_before };
            let error = stopped_before_the_first(rows, before);
            let failure = Arc::new(WriteFailure::before_the_first(error, rows).after(before));
            self.fail(ProducerFailure { failure, first_row, rows_before });
        }
    }

    fn next(&mut self, most: usize) -> Items {
        let (entries, slots) = (Vec::new(), Vec::new());
        let mut items = Items { frame: None, entries, slots, rows: 0, bytes: 0 };
        while items.rows < most {
            match self.queue.pop_front() {
                Some(Item::Entry(entry, slot)) => {
                    items.rows += 1;
                    items.bytes += entry.len();
                    items.entries.push(entry);
                    items.slots.push(slot);
                }
                Some(Item::Frame(frame, stream, rows, bytes)) if items.rows == 0 => {
                    self.since = self.since.filter(|_| !self.queue.is_empty());
                    return Items { frame: Some((frame, stream)), rows, bytes, ..items };
                }
                Some(frame) => {
                    self.queue.push_front(frame);
                    break;
                }
                None => break,
            }
        }
        self.since = self.since.filter(|_| !self.queue.is_empty());
        items
    }
}

impl ProducerFailure {
    /// The error alone.
    pub fn error(&self) -> &Error {
        self.failure.error()
    }

    /// Whether rows may be in of which nobody knows.
    pub fn is_unknown(&self) -> bool {
        self.error().kind() == ErrorKind::OutcomeUnknown
    }
}
