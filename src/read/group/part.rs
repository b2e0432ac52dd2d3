//! One of the parts of a consumer: the streams that one request can ask for.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::Notify;

use super::GroupReader;
use super::division::Doing;
use super::joint::Inbox;
use super::mingle::Given;
use crate::error::{Error, ErrorKind, Result};
use crate::read::keeper::Turns;
use crate::read::many::Side;
use crate::read::stats::Watched;

/// A reader, and what it is doing, which goes on while others are waited for. Of a part that is dropped
/// the connection is closed if it owes an answer.
pub(super) struct Part {
    /// Which streams it has, and which of them.
    pub(super) place: usize,
    pub(super) side: Side,
    pub(super) inbox: Arc<Inbox>,
    /// What is watched of its streams.
    pub(super) watched: Arc<Watched>,
    /// One of them at a time is kept.
    pub(super) turns: Turns,
    state: State,
    stop: Arc<Notify>,
    /// It has said that there is nothing, since the caller asked for more.
    pub(super) is_drained: bool,
    /// The most that may come of what it does.
    pub(super) budget: u64,
    /// How often its batch was read again because it had waited for too long.
    pub(super) read_again: u8,
    /// The bytes of all its replies.
    pub(super) received: u64,
}

enum State {
    Idle(Box<GroupReader>),
    Busy(BoxFuture<'static, (Box<GroupReader>, Outcome)>),
    Done(Box<GroupReader>, Box<Outcome>),
    /// Its reader waited in the process that this one was forked from.
    Lost,
}

/// A batch, or nothing.
pub(super) type Outcome = Result<Option<Given>>;

/// What a reader is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    /// Wait for the next batch.
    Next,
    /// Say what there is now.
    Pass,
}

impl Part {
    pub(super) fn new(
        reader: GroupReader,
        (place, side): (usize, Side),
        inbox: Arc<Inbox>,
        watched: Arc<Watched>,
    ) -> Self {
        Part {
            place,
            side,
            inbox,
            watched,
            turns: Turns::default(),
            state: State::Idle(Box::new(reader)),
            stop: Arc::new(Notify::new()),
            is_drained: false,
            budget: 0,
            read_again: 0,
            received: 0,
        }
    }

    /// The reader, while it does nothing.
    pub(super) fn reader(&mut self) -> Option<&mut GroupReader> {
        match &mut self.state {
            State::Idle(reader) => Some(reader),
            _ => None,
        }
    }

    pub(super) fn doing(&self) -> Doing {
        match &self.state {
            State::Idle(reader) if reader.is_at_rest() => Doing::Rests,
            State::Idle(_) => Doing::HasMore,
            _ => Doing::Works,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle(_))
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self.state, State::Busy(_))
    }

    /// Has an idle reader do something, of which at most `budget` rows may come.
    pub(super) fn begin(&mut self, job: Job, budget: Option<u64>) {
        let State::Idle(mut reader) = std::mem::replace(&mut self.state, State::Lost) else {
            return;
        };
        self.budget = budget.unwrap_or_default();
        reader.limit(budget);
        let stop = Arc::clone(&self.stop);
        self.state = State::Busy(Box::pin(async move {
            let working = async {
                let batch = match job {
                    Job::Next => reader.next().await?,
                    Job::Pass => reader.pass().await?,
                };
                Ok(batch.map(|batch| Given::of(&mut reader, batch)))
            };
            let outcome = match select(pin!(stop.notified()), pin!(working)).await {
                Either::Left(_) => Ok(None),
                Either::Right((outcome, _)) => outcome,
            };
            (reader, outcome)
        }));
    }

    /// Goes on with what it does; ready where that has come to something.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let State::Busy(busy) = &mut self.state else {
            return match self.state {
                State::Done(..) => Poll::Ready(()),
                _ => Poll::Pending,
            };
        };
        let (reader, outcome) = ready!(busy.as_mut().poll(context));
        self.state = State::Done(reader, Box::new(outcome));
        Poll::Ready(())
    }

    /// Whether that has come to a batch of which this holds, or to nothing.
    pub(super) fn has(&self, fits: impl FnOnce(&Given) -> bool) -> bool {
        match &self.state {
            State::Done(_, outcome) => {
                outcome.as_ref().as_ref().is_ok_and(|given| given.as_ref().is_none_or(fits))
            }
            _ => false,
        }
    }

    /// Takes what it has come to.
    pub(super) fn take(&mut self) -> Option<Outcome> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Done(reader, outcome) => {
                self.state = State::Idle(reader);
                self.budget = 0;
                Some(*outcome)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// What it does comes to an end. A batch that nobody has taken is as one that nobody was given.
    pub(super) async fn halt(&mut self) {
        if let State::Busy(busy) = &mut self.state {
            self.stop.notify_one();
            let (reader, _) = busy.await;
            self.state = State::Idle(reader);
        }
        if let Some(Ok(Some(given))) = self.take()
            && let State::Idle(reader) = &mut self.state
        {
            reader.withdrawn(&given.batch);
        }
        self.budget = 0;
    }

    /// In a forked child what was waited for is the parent's, down to the socket.
    pub(super) fn was_forked(&mut self) {
        if let State::Busy(_) = &self.state {
            std::mem::forget(std::mem::replace(&mut self.state, State::Lost));
        }
    }

    /// # Errors
    ///
    /// Where it waited when the process was forked.
    pub(super) fn check(&self) -> Result<()> {
        match self.state {
            State::Lost => Err(Error::new(
                ErrorKind::Connection,
                "this reader waited with several connections when the process was forked; make \
                 another reader in the child",
            )),
            _ => Ok(()),
        }
    }
}

/// Polls a future once.
pub(super) fn poll_once<F: Future + Unpin>(
    future: &mut Option<F>,
    context: &mut Context<'_>,
) -> Poll<F::Output> {
    let Some(one) = future else { return Poll::Pending };
    let output = ready!(std::pin::Pin::new(one).poll(context));
    *future = None;
    Poll::Ready(output)
}
