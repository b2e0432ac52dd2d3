//! When a wait is over.

use std::time::{Duration, Instant};

/// When a wait is over; perhaps never.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// So long after `start`.
    pub(super) fn after(start: Instant, wait: Duration) -> Self {
        Deadline(start.checked_add(wait))
    }

    /// As long from now as BLOCK says, which is without limit for `Duration::ZERO`.
    pub(super) fn of_block(block: Duration) -> Self {
        Deadline(if block.is_zero() { None } else { Instant::now().checked_add(block) })
    }

    /// Whichever comes first.
    pub(super) fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(another)) => Deadline(Some(one.min(another))),
            (one, another) => Deadline(one.or(another)),
        }
    }

    /// The time that is left, or `None` without limit.
    pub(super) fn left(&self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// The time that is left, but at most `most`.
    pub(super) fn left_up_to(&self, most: Duration) -> Duration {
        self.left().map_or(most, |left| left.min(most))
    }
}

/// BLOCK's argument for a wait: whole milliseconds, rounded up, because 0 would wait for ever.
pub(super) fn block_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
