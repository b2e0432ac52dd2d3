//! How the server tells a row that comes again from a new one (IDMP, Redis 8.6).

use std::time::{Duration, Instant};

/// How many rows of a producer the server recognises, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdmpWindow {
    pub(super) rows: usize,
    pub(super) duration: Duration,
}

impl IdmpWindow {
    /// Whether it still recognises rows that were first sent then.
    pub(super) fn holds(self, since: Instant) -> bool {
        /// The server's clock may be ahead by this much, and the next request takes time.
        const MARGIN: Duration = Duration::from_secs(2);
        since.elapsed() + MARGIN < self.duration
    }
}
