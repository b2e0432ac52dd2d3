//! Entries that come one by one, lingered into pipelines.

mod state;
mod turn;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow_array::RecordBatch;
use tokio::sync::Notify;

use self::state::{Item, Items, Plan, State};
pub(crate) use self::turn::Turn;
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
        Ok(self.take_entry(entry, false)?.map(|(sent, _)| sent))
    }

    /// As [`Producer::send_to`], for whoever waits for the entry: gives a turn with it where nothing else
    /// is to be written before, and it is the caller's to write it, on a thread that waits for its
    /// socket and for nobody else.
    ///
    /// # Errors
    ///
    /// As [`Producer::send`].
    #[cfg(feature = "python")]
    pub(crate) fn send_in_turn<'a>(
        &self,
        stream: Option<&[u8]>,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Option<(Sent, Option<Turn>)>> {
        self.take_entry(Entry::new(stream, fields.into_iter())?, true)
    }

    fn take_entry(&self, entry: Entry, in_turn: bool) -> Result<Option<(Sent, Option<Turn>)>> {
        let (bytes, slot) = (entry.len(), Slot::default());
        let item = Item::Entry(entry, Arc::clone(&slot));
        let taken = self.take(item, 1, bytes, in_turn)?;
        Ok(taken.map(|(number, turn)| (Sent::new(self.clone(), slot, number), turn)))
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
        Ok(self.take(item, rows, bytes, false)?.is_some())
    }

    /// The number of its first row, and the caller's turn if it may have one and there is one.
    fn take(
        &self,
        item: Item,
        rows: usize,
        bytes: usize,
        in_turn: bool,
    ) -> Result<Option<(usize, Option<Turn>)>> {
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
        if state.has_turn(in_turn) {
            let items = state.next(1);
            state.by_turn = Some(true);
            drop(state);
            return Ok(Some((number, Some(Turn::new(self.clone(), items)))));
        }
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        self.shared.work.notify_one();
        Ok(Some((number, None)))
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
            let is_stopped = self.shared.request.control.is_stopped();
            let wait = match self.state().plan(is_stopped, &self.shared.options) {
                Plan::Write(items) => return Some(items),
                Plan::End => return None,
                Plan::Wait(wait) => wait,
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
        self.end_turn(state);
        is_in
    }

    /// What was taken out of the queue is settled.
    fn end_turn(&self, mut state: MutexGuard<'_, State>) {
        state.writing = false;
        let has_work = !state.queue.is_empty() || state.closed;
        drop(state);
        self.shared.done.notify_waiters();
        if has_work {
            self.shared.work.notify_one();
        }
    }
}

/// The ID that entries of this age have.
fn oldest(age: Duration) -> Option<EntryId> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let ms = now.saturating_sub(age).as_millis();
    Some(EntryId::new(u64::try_from(ms).ok()?, 0))
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
