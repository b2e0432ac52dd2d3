//! How a write is watched, and stopped, from another task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::outcome::counted_in;
use super::request::RowsBefore;
use crate::error::{Error, ErrorKind};

/// A look at a write that is in progress, from another task. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct WriteControl {
    shared: Arc<ControlState>,
}

#[derive(Debug, Default)]
struct ControlState {
    stopped: OnceLock<Instant>,
    stopping: Notify,
    rows: AtomicU64,
}

impl WriteControl {
    /// How long the rows that are in flight when a write is stopped may take to be answered.
    const GRACE: Duration = Duration::from_secs(1);

    /// Sends no more rows. The write then ends within a second, whatever it is waiting for: at once
    /// where no row is in flight, and otherwise as soon as those are answered. Its error says which
    /// rows are in; a write whose rows are all in by then succeeds.
    pub fn stop(&self) {
        self.shared.stopped.get_or_init(Instant::now);
        self.shared.stopping.notify_waiters();
    }

    /// How many rows are in so far.
    pub fn rows_written(&self) -> u64 {
        self.shared.rows.load(Ordering::Relaxed)
    }

    pub(super) fn add_rows(&self, rows: u64) {
        self.shared.rows.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.shared.stopped.get().is_some()
    }

    /// Returns once the write is to stop.
    pub(super) async fn stopped(&self) -> Instant {
        loop {
            let stopping = self.shared.stopping.notified();
            // A stop before `stopping` was made has set `stopped` before.
            if let Some(stopped) = self.shared.stopped.get() {
                return *stopped;
            }
            stopping.await;
        }
    }

    /// What comes of it, or `None` where the write is stopped before: for what may be dropped at any
    /// time, because no row is in flight.
    pub(super) async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = future => Some(output),
            _ = self.stopped() => None,
        }
    }

    /// What comes of it, or `None` where the write is stopped and a second goes by: for what tells
    /// whether rows are in.
    pub(super) async fn within_grace<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let grace_is_over = async {
            let deadline = self.stopped().await + Self::GRACE;
            tokio::time::sleep_until(deadline.into()).await;
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = grace_is_over => None,
        }
    }
}

/// The error of a write that was stopped before its end.
pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::Write, "the write was stopped")
}

/// The error of a write that was stopped before any of its rows was sent.
pub(super) fn stopped_before_the_first(rows: usize, before: RowsBefore) -> Error {
    let message = counted_in(before.written, before.rows + rows);
    stopped().reframed(ErrorKind::Write, &message).with_context("row", "0")
}

/// The error of a write that was stopped and whose last answers did not come in time.
pub(super) fn unanswered() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "the server did not answer within a second after the write was stopped",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_ends_every_wait_within_a_second() {
        let control = WriteControl::default();
        assert_eq!(control.unless_stopped(async { 1 }).await, Some(1));
        let stopper = control.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            stopper.stop();
        });
        let forever = std::future::pending::<()>;
        assert_eq!(control.unless_stopped(forever()).await, None);
        let since = Instant::now();
        assert_eq!(control.within_grace(forever()).await, None);
        let waited = since.elapsed();
        assert!(waited <= Duration::from_secs(2) && waited >= Duration::from_millis(500));
        // What is there already counts, also then.
        assert_eq!(control.within_grace(async { 2 }).await, Some(2));
        assert_eq!(control.unless_stopped(async { 3 }).await, Some(3));
        assert!(control.is_stopped());
    }
}
