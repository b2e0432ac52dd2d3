//! Entries that were given back: how long they wait before they are delivered again.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::entry_id::EntryId;
use crate::error::{Error, Result};

/// How long an entry waits that is given back after its first delivery, where nobody says.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest that it waits, where nobody says.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The idle time of an entry that anybody may claim at once.
const CLAIMABLE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long to wait before an entry is delivered again, and how idle to make it look meanwhile, so
/// that workers which claim idle entries wait as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) delay: Duration,
    pub(super) idle: Duration,
}

impl Pause {
    /// The pause before the next delivery: `delay`, or one that doubles with each delivery.
    ///
    /// Others claim an entry once it has been idle for `min_idle`. An idle time cannot be negative
    /// (XCLAIM sets a TIME in the future to now), so no delay is longer than that.
    pub(super) fn new(
        delay: Option<Duration>,
        deliveries: u64,
        min_idle: Option<Duration>,
    ) -> Result<Self> {
        let most = min_idle.unwrap_or(Duration::MAX);
        let delay = match delay {
            Some(delay) if delay > most => {
                return Err(Error::invalid(format!(
                    "delay_ms is {}, but after reclaim_min_idle_ms ({}) any worker may take the \
                     entry; pass a shorter delay_ms or a longer reclaim_min_idle_ms",
                    delay.as_millis(),
                    most.as_millis(),
                )));
            }
            Some(delay) => delay,
            None => default_delay(deliveries).min(most),
        };
        let idle = match min_idle {
            _ if delay.is_zero() => CLAIMABLE,
            Some(min_idle) => min_idle.saturating_sub(delay),
            None => Duration::ZERO,
        };
        Ok(Pause { delay, idle })
    }
}

/// Doubles with each delivery, so that a service that is down for a while does not use up an
/// entry's deliveries at once.
fn default_delay(deliveries: u64) -> Duration {
    let doublings = u32::try_from(deliveries.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY)
}

/// The entries that a consumer gave back and is to be given again, and when.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// In the order of their times.
    queue: BTreeSet<(Instant, EntryId)>,
    due: HashMap<EntryId, Instant>,
}

impl Returns {
    /// The entry is to be given again at this time, and not at one that was set before.
    pub(super) fn insert(&mut self, id: EntryId, due: Instant) {
        if let Some(before) = self.due.insert(id, due) {
            self.queue.remove(&(before, id));
        }
        self.queue.insert((due, id));
    }

    /// When the next entry is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Takes the entries that are due, at most `most` of them.
    pub(super) fn take(&mut self, now: Instant, most: usize) -> Vec<EntryId> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((_, id)) = self.queue.first().copied().filter(|(due, _)| *due <= now)
        {
            self.queue.pop_first();
            self.due.remove(&id);
            taken.push(id);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    const fn id(number: u64) -> EntryId {
        EntryId::new(number, 0)
    }

    #[test]
    fn a_delay_doubles_with_each_delivery_up_to_a_bound() -> Result<()> {
        let delays: Result<Vec<u64>> = (0..=11)
            .map(|deliveries| Ok(Pause::new(None, deliveries, None)?.delay.as_millis() as u64))
            .collect();
        let doubled = [100, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600];
        assert_eq!(delays?, [&doubled[..], &[30_000, 30_000]].concat());
        assert_eq!(Pause::new(None, u64::MAX, None)?.delay, LONGEST_DELAY);
        // No longer than others wait before they claim it.
        assert_eq!(Pause::new(None, 5, Some(ms(1_000)))?.delay, ms(1_000));
        assert_eq!(Pause::new(None, 5, Some(ms(0)))?.delay, ms(0));
        Ok(())
    }

    #[test]
    fn others_may_claim_it_when_the_delay_is_over() -> Result<()> {
        let pause = Pause::new(Some(ms(400)), 1, Some(ms(30_000)))?;
        assert_eq!(pause, Pause { delay: ms(400), idle: ms(29_600) });
        assert_eq!(Pause::new(Some(ms(30_000)), 1, Some(ms(30_000)))?.idle, ms(0));
        // Nobody claims in this worker's place where it is not known after how long.
        assert_eq!(Pause::new(Some(ms(400)), 1, None)?.idle, ms(0));
        for min_idle in [None, Some(ms(30_000))] {
            assert_eq!(Pause::new(Some(ms(0)), 9, min_idle)?.idle, CLAIMABLE);
        }
        Ok(())
    }

    #[test]
    fn a_delay_is_not_longer_than_others_wait() {
        let error = Pause::new(Some(ms(501)), 1, Some(ms(500))).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("delay_ms is 501"), "{error}");
        assert!(error.to_string().contains("reclaim_min_idle_ms (500)"), "{error}");
        assert!(Pause::new(Some(ms(501)), 1, None).is_ok());
    }

    #[test]
    fn entries_return_in_the_order_of_their_times() {
        let start = Instant::now();
        let mut returns = Returns::default();
        assert_eq!(returns.next(), None);
        for (number, delay) in [(1, 300), (2, 100), (3, 200), (4, 100)] {
            returns.insert(id(number), start + ms(delay));
        }
        assert_eq!(returns.next(), Some(start + ms(100)));
        assert_eq!(returns.take(start + ms(99), 10), []);
        assert_eq!(returns.take(start + ms(200), 2), [id(2), id(4)]);
        assert_eq!(returns.take(start + ms(200), 2), [id(3)]);
        assert_eq!(returns.next(), Some(start + ms(300)));
        assert_eq!(returns.take(start + ms(300), 2), [id(1)]);
        assert_eq!(returns.next(), None);
    }

    #[test]
    fn an_entry_that_is_given_back_twice_returns_once() {
        let start = Instant::now();
        let mut returns = Returns::default();
        returns.insert(id(1), start);
        returns.insert(id(1), start + ms(50));
        assert_eq!(returns.take(start, 10), []);
        assert_eq!(returns.take(start + ms(50), 10), [id(1)]);
        assert_eq!(returns.take(start + ms(50), 10), []);
    }
}
