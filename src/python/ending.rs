//! The end of a loop, for those who wait in it.

use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::sleep;

use crate::error::Result;

/// How a loop is to end: not at all, before the next batch, when it is finished, or at once.
const GOES_ON: u8 = 0;
pub(super) const STOPPED: u8 = 1;
pub(super) const LEFT: u8 = 2;
pub(super) const CLOSED: u8 = 3;

/// How long what a loop does of its own accord goes on once the loop is to end.
const AFTER_END: Duration = Duration::from_millis(700);

/// Whether and how a loop is to end.
#[derive(Default)]
pub(super) struct Ending {
    how: AtomicU8,
    comes: Notify,
}

impl Ending {
    /// The loop is to end; those who wait have still to be [woken](Ending::wake).
    pub(super) fn set(&self, how: u8) {
        self.how.fetch_max(how, Ordering::AcqRel);
    }

    pub(super) fn wake(&self) {
        self.comes.notify_waiters();
    }

    pub(super) fn has_come(&self) -> bool {
        self.how() != GOES_ON
    }

    pub(super) fn how(&self) -> u8 {
        self.how.load(Ordering::Acquire)
    }

    /// Resolves when the loop is ended after this call.
    pub(super) fn comes(&self) -> Notified<'_> {
        self.comes.notified()
    }

    /// Waits for what the loop does of its own accord, through any outage that the loop itself
    /// outlasts; `None` where the loop was ended first.
    pub(super) async fn or<T>(&self, doing: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        let ended = pin!(async {
            let comes = self.comes();
            if !self.has_come() {
                comes.await;
            }
            sleep(AFTER_END).await;
        });
        match select(pin!(doing), ended).await {
            Either::Left((done, _)) => done.map(Some),
            Either::Right(_) => Ok(None),
        }
    }
}
