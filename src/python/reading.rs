//! The batches of a reader on their way to Python.
//!
//! A batch is first made ready. It is then offered: a thread makes a frame of it. Only when that
//! thread has the frame in its caller's hands is the batch handed out, and may be acknowledged; an
//! exception before that, of whatever kind, has it offered again. So neither an interrupted or
//! cancelled wait nor a frame that cannot be made loses a batch.

use std::pin::pin;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::arrow::RecordBatch;
use super::ending::{CLOSED, Ending, LEFT};
use super::error::{exception, no_panic};
use super::members::Members;
use crate::client::{Client, User, spawn};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::read::{Batches, Handing, Watched};

/// How long others wait for a thread that has made its frame and was interrupted before its caller
/// had it. Without an interrupt it takes less than a microsecond.
const HANDING_OUT: Duration = Duration::from_secs(1);

/// How often in a row a batch that has waited for too long is read again: a caller so slow that it
/// takes none in time goes on all the same.
const READ_AGAIN: u8 = 3;

/// How long a reader that ends by an exception tries to acknowledge what was done before.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// What the readers of a stream share: threads, or tasks of event loops. All locks here are held by
/// users of `watched` only.
pub(super) struct Reading {
    stream: String,
    batches: tokio::sync::Mutex<Batches>,
    next: Mutex<Next>,
    /// Told when `next` changes, apart from a batch that is made ready.
    changed: Notify,
    numbers: AtomicU64,
    /// How often the next batch has been read again.
    read_again: AtomicU8,
    pub(super) ending: Ending,
    pub(super) watched: Arc<Watched>,
    pub(super) members: Option<Members>,
    /// How long a clean end may take, and when it was first tried.
    patience: Duration,
    ends_since: OnceLock<Instant>,
}

/// The next batch.
enum Next {
    /// It has to be read.
    Unread,
    Ready(Result<Option<Ready>>),
    Offered(Offered),
}

/// A batch that nobody has in hand.
struct Ready {
    batch: Arc<Batch>,
    handing: Option<Handing>,
}

/// A batch that was taken, and the lock of its place.
type Taken<'a> = (MutexGuard<'a, Next>, Ready);

/// A batch that a thread makes a frame of, or has made one of that is not in its caller's hands.
struct Offered {
    ready: Ready,
    number: u64,
    thread: ThreadId,
    made: bool,
}

impl Reading {
    /// `client` is for what is done beside reading.
    pub(super) fn new(stream: String, batches: Batches, client: Client) -> Arc<Self> {
        Arc::new(Reading {
            stream,
            watched: batches.watched(),
            patience: client.options().response_timeout,
            ends_since: OnceLock::new(),
            members: Members::of_reader(&batches, client),
            batches: tokio::sync::Mutex::new(batches),
            next: Mutex::new(Next::Unread),
            changed: Notify::new(),
            numbers: AtomicU64::new(0),
            read_again: AtomicU8::new(0),
            ending: Ending::default(),
        })
    }

    pub(super) fn enter(&self) -> Result<User<'_>> {
        enter(&self.watched)
    }

    /// Ends all waits, now and from now on.
    pub(super) fn end(&self, how: u8) {
        self.ending.set(how);
        if how == CLOSED {
            self.watched.keeps_no_more();
        }
        // In a forked child nobody waits.
        if let Ok(_user) = self.enter() {
            self.ending.wake();
        }
    }

    fn next(&self) -> MutexGuard<'_, Next> {
        // It is whole whatever its holder was doing when it panicked.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves what the reading starts with.
    pub(super) async fn start(&self) -> Result<()> {
        let _user = self.enter()?;
        let starting = async { self.batches.lock().await.start().await };
        self.ending.or(starting).await.map(drop)
    }

    /// Returns once a batch, the end or an error is ready.
    pub(super) async fn make_ready(&self) -> Result<()> {
        let _user = self.enter()?;
        if !self.ending.has_come() && self.read_until_ending().await {
            return Ok(());
        }
        match self.ending.how() {
            CLOSED => *self.next() = Next::Ready(Ok(None)),
            LEFT => {
                let _finished = self.batches.lock().await;
                *self.next() = Next::Ready(Ok(None));
            }
            _ if self.is_ready() => {}
            _ => {
                // What had not come stays pending; what was handed out has been asked to be done with.
                let finished = self.settle(true).await;
                *self.next() = Next::Ready(finished.map(|()| None));
            }
        }
        Ok(())
    }

    /// Whether something is ready that may be handed out.
    fn is_ready(&self) -> bool {
        match &*self.next() {
            Next::Ready(Ok(Some(ready))) => !self.is_old(ready),
            Next::Ready(_) => true,
            _ => false,
        }
    }

    /// Waits for the next batch; says whether there is one, and not an end that came before.
    async fn read_until_ending(&self) -> bool {
        let ends = pin!(self.ending.comes());
        let reading = pin!(async {
            let mut batches = self.batches.lock().await;
            if let Some(ready) = self.take_old() {
                batches.not_handed_out(&ready.batch);
            }
            if self.is_handed_out().await {
                let ready = batches.ready().await.map(|ready| {
                    ready.map(|(batch, handing)| Ready { batch: Arc::new(batch), handing })
                });
                *self.next() = Next::Ready(ready);
            }
        });
        // Who ended it before `ends` was made has said so before.
        !self.ending.has_come() && matches!(select(ends, reading).await, Either::Right(_))
    }

    /// Waits until nobody is being handed a batch; says whether the next one has to be read.
    async fn is_handed_out(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            let made = match &*self.next() {
                Next::Unread => return true,
                Next::Ready(_) => return false,
                Next::Offered(offered) => offered.made.then_some(offered.number),
            };
            match made {
                None => changed.await,
                Some(number) => {
                    if timeout(HANDING_OUT, changed).await.is_err() {
                        self.take_back(number);
                    }
                }
            }
        }
    }

    /// Acknowledges what is done with; with `success` also the batch in hand, if one is. Whoever waits
    /// for a batch, or asks for one from now on, is told that this is the end.
    pub(super) async fn finish(&self, success: bool) -> Result<()> {
        self.end(LEFT);
        self.settle(success).await
    }

    async fn settle(&self, success: bool) -> Result<()> {
        let _user = self.enter()?;
        if !success && self.ends_since.get().is_some() {
            return Ok(()); // it has been tried, and failed or was interrupted
        }
        let mut batches = self.batches.lock().await;
        let in_hand = matches!(*self.next(), Next::Unread);
        if let Some(ready) = self.take_ready() {
            batches.not_handed_out(&ready.batch);
        }
        // A server that is silent when the loop ends is silent too when the `with` around it does.
        let since = self.ends_since.get_or_init(Instant::now);
        let left = self.patience.saturating_sub(since.elapsed());
        let patience = match success {
            true => left,
            // An exception is on its way, perhaps that of Ctrl-C, which does not wait for it.
            false => left.min(AFTER_FAILURE),
        };
        let finishing = batches.finish(success && in_hand);
        timeout(patience, finishing).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the end took longer than response_timeout ({:?}); what could not be \
                     acknowledged is pending, and comes first when this consumer starts again",
                    self.patience
                ),
            ))
        })
    }

    /// The batch that is ready and that nobody has taken; nobody will.
    fn take_ready(&self) -> Option<Ready> {
        let mut next = self.next();
        match std::mem::replace(&mut *next, Next::Ready(Ok(None))) {
            Next::Ready(Ok(ready)) => ready,
            other => {
                *next = other;
                None
            }
        }
    }

    /// Whether a batch has waited for so long that others may have claimed its entries.
    fn is_old(&self, ready: &Ready) -> bool {
        ready.handing.is_some_and(|handing| handing.is_old())
            && self.read_again.load(Ordering::Relaxed) < READ_AGAIN
    }

    /// The batch that has waited for too long: it has to be read again.
    fn take_old(&self) -> Option<Ready> {
        let mut next = self.next();
        match std::mem::replace(&mut *next, Next::Unread) {
            Next::Ready(Ok(Some(ready))) if self.is_old(&ready) => {
                self.read_again.fetch_add(1, Ordering::Relaxed);
                Some(ready)
            }
            other => {
                *next = other;
                None
            }
        }
    }

    /// Offers the batch that is ready: gives what `make` makes of it, or `None` at the end. The
    /// outer `None` says that nothing is ready.
    pub(super) fn offer(
        self: &Arc<Self>,
        py: Python<'_>,
        make: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Option<Offer>>> {
        let _user = self.enter().map_err(|error| exception(py, &error))?;
        let Some(taken) = self.take(py)? else { return Ok(None) };
        let Some((mut next, ready)) = taken else { return Ok(Some(None)) };
        let batch = Arc::clone(&ready.batch);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let thread = thread::current().id();
        *next = Next::Offered(Offered { ready, number, thread, made: false });
        drop(next);
        let offering = Offering { reading: self, number };
        let value = make_of(slice::from_ref(&batch), make, &self.stream)?;
        offering.made();
        let (reading, accepted) = (Arc::clone(self), AtomicBool::new(false));
        Ok(Some(Some(Offer { reading, number, value, accepted })))
    }

    /// Hands out the batch that is ready, for callers that acknowledge nothing.
    pub(super) fn hand_out(&self, py: Python<'_>) -> PyResult<Option<Option<RecordBatch>>> {
        let _user = self.enter().map_err(|error| exception(py, &error))?;
        Ok(self.take(py)?.map(|ready| {
            ready.map(|(next, ready)| {
                drop(next);
                self.handed_out(&ready);
                RecordBatch::new(ready.batch)
            })
        }))
    }

    /// The batch that is ready, or the end. Before it comes the one that this very thread was
    /// offered and that did not come to its caller. One that has waited for too long is not given: it
    /// has to be read again.
    ///
    /// It comes with the lock: whoever looked before there is an offer in its place would read the next
    /// one, which the offer would take the place of.
    fn take(&self, py: Python<'_>) -> PyResult<Option<Option<Taken<'_>>>> {
        let mut next = self.next();
        let ready = match std::mem::replace(&mut *next, Next::Unread) {
            Next::Ready(Ok(Some(ready))) => ready,
            Next::Ready(Ok(None)) => return Ok(Some(None)),
            Next::Ready(Err(error)) => return Err(exception(py, &error)),
            Next::Offered(offered) if offered.thread == thread::current().id() => {
                if !offered.made {
                    *next = Next::Offered(offered);
                    let message = "the iterator's next batch was asked for while it was being made";
                    return Err(PyRuntimeError::new_err(message));
                }
                offered.ready
            }
            other => {
                *next = other;
                return Ok(None);
            }
        };
        if self.is_old(&ready) {
            *next = Next::Ready(Ok(Some(ready)));
            return Ok(None);
        }
        Ok(Some(Some((next, ready))))
    }

    /// Changes an offer, if it is still the one of that number.
    fn change(&self, number: u64, change: impl FnOnce(Offered) -> Next) {
        // In a forked child the offer is another thread's of the parent.
        let Ok(_user) = self.enter() else { return };
        let mut next = self.next();
        *next = match std::mem::replace(&mut *next, Next::Unread) {
            Next::Offered(offered) if offered.number == number => change(offered),
            other => other,
        };
        self.changed.notify_waiters();
    }

    /// A batch is in its caller's hands.
    fn handed_out(&self, Ready { batch, handing }: &Ready) {
        self.read_again.store(0, Ordering::Relaxed);
        if let Some(handing) = handing {
            self.watched.hand_out(batch, handing);
        }
        self.keep(batch);
        self.watched.positions(|positions| {
            let by_stream = batch.rows_by_stream().into_iter();
            let by_stream = by_stream.map(|(stream, rows)| (stream, batch.ids_of(&rows)));
            match &self.members {
                Some(_) => by_stream.for_each(|(stream, ids)| positions.handed_out(stream, &ids)),
                // Without a group it is done with as a whole, or up to an ID.
                None => {
                    let last = |(stream, ids): (usize, Vec<EntryId>)| Some((stream, *ids.last()?));
                    positions.handed_out_up_to(by_stream.filter_map(last).collect());
                }
            }
        });
    }

    /// Keeps what is in hand from being claimed, on the process's runtime: whatever the caller's
    /// thread is doing.
    fn keep(&self, batch: &Batch) {
        let Some(members) = &self.members else { return };
        for stream in batch.streams_in_order() {
            if let Some(member) = members.of(stream) {
                let keeper = member.watched();
                keeper.keeper().keep_by(|| {
                    let member = member.clone();
                    spawn(async move { member.keep_in_hand().await }).map(drop)
                });
            }
        }
    }

    fn take_back(&self, number: u64) {
        self.change(number, |offered| Next::Ready(Ok(Some(offered.ready))));
    }
}

/// Everything that locks what a reader shares is done by a user.
pub(super) fn enter(watched: &Watched) -> Result<User<'_>> {
    watched.users.enter().ok_or_else(|| {
        Error::new(
            ErrorKind::Connection,
            "another thread was using this reader when the process was forked; make another \
             reader in the child",
        )
    })
}

impl Drop for Reading {
    /// Nobody can be handed anything any more, and nobody has said what became of the last batch.
    fn drop(&mut self) {
        self.watched.keeps_no_more();
    }
}

/// What `make` makes of a batch, or of its pieces; its exception says which entries nobody has seen.
pub(super) fn make_of(
    pieces: &[Arc<Batch>],
    make: &Bound<'_, PyAny>,
    stream: &str,
) -> PyResult<Py<PyAny>> {
    let arguments = pieces.iter().map(|piece| RecordBatch::new(Arc::clone(piece)));
    let arguments = PyTuple::new(make.py(), arguments.collect::<Vec<_>>())?;
    let made = make.call1(arguments).map(Bound::unbind);
    let mut ids =
        pieces.iter().flat_map(|piece| [piece.ids().first(), piece.ids().last()]).flatten();
    if let Err(error) = &made
        && let Some(first) = ids.next()
    {
        let last = ids.last().unwrap_or(first);
        let note = format!(
            "the entries {first} to {last} of the stream {stream} were not handed out, and are not \
             acknowledged"
        );
        // The error itself is what matters.
        let _ = error.value(make.py()).call_method1("add_note", (note,));
    }
    made
}

/// A frame that is being made; what is not made is offered again.
struct Offering<'a> {
    reading: &'a Reading,
    number: u64,
}

impl Offering<'_> {
    fn made(self) {
        self.reading
            .change(self.number, |offered| Next::Offered(Offered { made: true, ..offered }));
        std::mem::forget(self);
    }
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        self.reading.take_back(self.number);
    }
}

/// A frame, or whatever was made of a batch. Documented in `_core.pyi`.
#[pyclass(frozen, generic, module = "redfloe._core")]
pub(crate) struct Offer {
    reading: Arc<Reading>,
    number: u64,
    #[pyo3(get)]
    value: Py<PyAny>,
    accepted: AtomicBool,
}

#[pymethods]
impl Offer {
    #[getter]
    fn accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire)
    }

    /// The caller has it in hand now. An attribute, because Python handles signals after calls.
    #[setter]
    fn set_accepted(&self, py: Python<'_>, accepted: bool) -> PyResult<()> {
        if !accepted {
            return Ok(());
        }
        self.accepted.store(true, Ordering::Release);
        no_panic(py, || {
            self.reading.change(self.number, |offered| {
                self.reading.handed_out(&offered.ready);
                Next::Unread
            });
            Ok(())
        })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if !self.accepted.load(Ordering::Acquire) {
            self.reading.take_back(self.number);
        }
    }
}
