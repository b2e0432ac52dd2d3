//! How long a reader waits for entries, and when a batch is whole: the same for all that follow a
//! stream.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::timeout;

use super::deadline::Deadline;
use super::request::{OnIdle, ReadRequest};

/// What a poll came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    /// Entries, and perhaps there are more.
    More,
    /// All that there was.
    Drained,
    /// Entries that make a batch of their own.
    Whole,
    /// Nothing, for as long as the poll may last.
    Nothing,
    /// Nothing can come any more.
    Ended,
}

/// What becomes of the batch that is being collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collecting {
    GoesOn,
    Over,
    /// And no other batch comes after it.
    Ended,
}

/// The time that a reader has.
#[derive(Debug)]
pub(super) struct Pace {
    block: Duration,
    batch_timeout: Option<Duration>,
    on_idle: OnIdle,
    poll: Deadline,
    /// When the batch's first entry came.
    first_came: Option<Instant>,
    /// The same of a batch that others collect as well.
    joint: Option<Arc<FirstCame>>,
    /// Of which of those it has rows.
    batch: Option<u64>,
}

/// A batch that several readers collect, each a part of it.
#[derive(Debug, Default)]
pub(super) struct FirstCame(Mutex<Collected>);

#[derive(Debug, Default)]
struct Collected {
    /// Which of the batches it is.
    number: u64,
    /// When its first entry came, of any part.
    first_came: Option<Instant>,
    /// How many parts have rows of it that are still to be given.
    parts: usize,
}

/// What comes of it within that time; without any, what has come of it now.
pub(super) async fn within<F: Future>(wait: Duration, future: F) -> Option<F::Output> {
    if !wait.is_zero() {
        return timeout(wait, future).await.ok();
    }
    // The runtime of a thread that waits has looked at no socket since that did so. A timer would take
    // up to a millisecond.
    yield_now().await;
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl FirstCame {
    /// A part has its first row; says when the first of any did, and which batch that is.
    fn came(&self, at: Instant) -> (Instant, u64) {
        let mut batch = self.lock();
        batch.parts += 1;
        (*batch.first_came.get_or_insert(at), batch.number)
    }

    /// A part has given its rows of that batch.
    fn flushed(&self, number: u64) {
        let mut batch = self.lock();
        batch.parts -= usize::from(batch.number == number && batch.parts > 0);
    }

    /// Whether a part has rows of the batch, which are given at the same time as those of others.
    pub(super) fn has_more(&self) -> bool {
        self.lock().parts > 0
    }

    /// The batch has gone to the caller.
    pub(super) fn reset(&self) {
        let mut batch = self.lock();
        *batch = Collected { number: batch.number + 1, ..Collected::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pace {
    /// The longest that one command blocks: a wait without limit still looks after its stream.
    pub(super) const SLICE: Duration = Duration::from_secs(5);
    /// A server that answers nil before the time is over, because of CLIENT UNBLOCK or because it
    /// cannot block, is not asked again at once.
    pub(super) const PAUSE: Duration = Duration::from_millis(20);

    pub(super) fn new(request: &ReadRequest) -> Self {
        let block = request.block.unwrap_or_default();
        Pace {
            block,
            batch_timeout: request.batch_timeout,
            on_idle: request.on_idle,
            poll: Deadline::of_block(block),
            first_came: None,
            joint: None,
            batch: None,
        }
    }

    /// What is collected is a part of a batch.
    pub(super) fn with_others(self, joint: Arc<FirstCame>) -> Self {
        Pace { joint: Some(joint), ..self }
    }

    /// Entries are not collected for longer than that.
    pub(super) fn with_longest_collecting(self, longest: Option<Duration>) -> Self {
        let shorter = |timeout: Duration| longest.map_or(timeout, |longest| longest.min(timeout));
        Pace { batch_timeout: self.batch_timeout.map(shorter), ..self }
    }

    /// A poll begins, which may last as long as BLOCK says.
    pub(super) fn begin_poll(&mut self) {
        self.poll = Deadline::of_block(self.block);
    }

    /// The poll lasts until then.
    pub(super) fn poll_until(&mut self, end: Instant) {
        self.poll = Deadline::after(end, Duration::ZERO);
    }

    /// The batch has a row; the first came at that time.
    pub(super) fn came(&mut self, first: Instant) {
        if self.first_came.is_none() {
            let (joint, batch) = self.joint.as_ref().map(|joint| joint.came(first)).unzip();
            self.first_came = Some(joint.map_or(first, |joint| joint.min(first)));
            self.batch = batch;
        }
        if self.on_idle == OnIdle::Stop {
            self.begin_poll(); // for the entry after it
        }
    }

    /// The batch has gone to the caller, or its rows are gone.
    pub(super) fn flushed(&mut self) {
        self.first_came = None;
        if let (Some(joint), Some(batch)) = (&self.joint, self.batch.take()) {
            joint.flushed(batch);
        }
    }

    /// Whether entries are collected until a time is over.
    pub(super) fn collects(&self) -> bool {
        self.batch_timeout.is_some()
    }

    /// Until when to wait for more: the poll's end, or that of the batch that is being collected.
    pub(super) fn deadline(&self) -> Deadline {
        match (self.first_came, self.batch_timeout) {
            (Some(start), Some(timeout)) => {
                let whole = Deadline::after(start, timeout);
                match self.on_idle {
                    OnIdle::Wait => whole,
                    // A poll that finds nothing ends the batch, and the next one the reading.
                    OnIdle::Stop => whole.earlier(self.poll),
                }
            }
            _ => self.poll,
        }
    }

    /// How long the next request of a batch that has `rows` rows may wait: not at all where they
    /// are given at once; `None` where its time is over.
    pub(super) fn wait(&self, rows: usize, longest: Duration) -> Option<Option<Duration>> {
        let wait = self.deadline().left_up_to(longest);
        match rows {
            0 => Some(Some(wait)),
            _ if !self.collects() => Some(None),
            _ if self.deadline().left_up_to(Self::SLICE).is_zero() => None,
            _ => Some(Some(wait)),
        }
    }

    /// What a poll means for a batch of `rows` rows.
    pub(super) fn after(&mut self, polled: Polled, rows: usize) -> Collecting {
        match polled {
            Polled::More => Collecting::GoesOn,
            Polled::Drained if self.collects() => Collecting::GoesOn,
            Polled::Drained | Polled::Whole => Collecting::Over,
            Polled::Nothing if rows > 0 => Collecting::Over,
            Polled::Nothing if self.on_idle == OnIdle::Wait => {
                self.begin_poll();
                Collecting::GoesOn
            }
            Polled::Nothing | Polled::Ended => Collecting::Ended,
        }
    }

    /// After a server has answered nil, asked to wait so long at that time: waits where it did not,
    /// and says whether the time is over.
    pub(super) async fn after_nil(&self, asked: Instant, waited: Duration) -> Polled {
        let left = self.deadline().left_up_to(Self::SLICE);
        if left.is_zero() {
            return Polled::Nothing;
        }
        if asked.elapsed() < waited {
            tokio::time::sleep(left.min(Self::PAUSE)).await;
        }
        Polled::More
    }
}
