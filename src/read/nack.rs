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

/// How long to wait before an entry is delivered again: `delay`, or a time that doubles with each
/// delivery.
///
/// Others claim an entry once it has been idle for `min_idle`. An idle time cannot be negative
/// (XCLAIM sets a TIME in the future to now), so no delay is longer than that.
pub(super) fn pause(
    delay: Option<Duration>,
    deliveries: u64,
    min_idle: Option<Duration>,
) -> Result<Duration> {
    let most = min_idle.unwrap_or(Duration::MAX);
    match delay {
        Some(delay) if delay > most => Err(Error::invalid(format!(
            "delay_ms is {}, but after reclaim_min_idle_ms ({}) any worker may take the entry; \
             pass a shorter delay_ms or a longer reclaim_min_idle_ms",
            delay.as_millis(),
            most.as_millis(),
        ))),
        Some(delay) => Ok(delay),
        None => Ok(default_delay(deliveries).min(most)),
    }
}

/// How idle an entry is made to look when it is given back: as if it had just been delivered, or,
/// with nothing to wait for, so that anybody may claim it.
pub(super) fn idle_of(pause: Duration) -> Duration {
    if pause.is_zero() { CLAIMABLE } else { Duration::ZERO }
}

/// How idle an entry that has still to wait is made to look when its worker ends, so that those who
/// claim entries after `min_idle` do so when the wait is over.
pub(super) fn idle_without(worker_waits: Duration, min_idle: Duration) -> Duration {
    if worker_waits.is_zero() { CLAIMABLE } else { min_idle.saturating_sub(worker_waits) }
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

    /// The entries that are to be given again and have not been taken, the next one first.
    pub(super) fn all(&self) -> impl Iterator<Item = (Instant, EntryId)> {
        self.queue.iter().copied()
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

/// How many entries one script makes look idle. Redis 8.10 keeps pending entries in the order of
/// their times, and walks past all that are younger than the one whose time is set back: 12 ms where
/// 100,000 are pending. So there are more of them only for as long as the script takes no longer.
#[derive(Debug)]
pub(super) struct Portion {
    pub(super) size: usize,
    /// The time of a script that took no longer than a round trip, as far as is known.
    fastest: Duration,
}

impl Portion {
    /// Entries in one script, which keeps other clients waiting.
    pub(super) const MOST: usize = 100;
    /// A script that takes so much longer than the fastest is not to grow.
    const LONG: Duration = Duration::from_millis(5);

    pub(super) fn new() -> Self {
        Portion { size: 1, fastest: Duration::MAX }
    }

    /// The script took so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.fastest = self.fastest.min(time);
        self.size = match time.saturating_sub(self.fastest) < Self::LONG {
            true => (self.size * 2).min(Self::MOST),
            false => (self.size / 2).max(1),
        };
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
            .map(|deliveries| Ok(pause(None, deliveries, None)?.as_millis() as u64))
            .collect();
        let doubled = [100, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600];
        assert_eq!(delays?, [&doubled[..], &[30_000, 30_000]].concat());
        assert_eq!(pause(None, u64::MAX, None)?, LONGEST_DELAY);
        // No longer than others wait before they claim it.
        assert_eq!(pause(None, 5, Some(ms(1_000)))?, ms(1_000));
        assert_eq!(pause(None, 5, Some(ms(0)))?, ms(0));
        Ok(())
    }

    #[test]
    fn others_may_claim_it_when_the_delay_is_over() {
        assert_eq!(idle_of(ms(0)), CLAIMABLE);
        assert_eq!(idle_of(ms(1)), ms(0));
        assert_eq!(idle_without(ms(400), ms(30_000)), ms(29_600));
        assert_eq!(idle_without(ms(30_000), ms(30_000)), ms(0));
        assert_eq!(idle_without(ms(0), ms(30_000)), CLAIMABLE);
    }

    #[test]
    fn no_script_takes_long() {
        // So much a round trip and so much an entry, and how many entries come together.
        for (round_trip, entry, least, most) in [
            (ms(0), Duration::from_micros(10), 100, 100),
            (ms(20), Duration::from_micros(10), 100, 100),
            (ms(0), ms(1), 2, 8),
            (ms(20), ms(12), 1, 2),
        ] {
            let mut portion = Portion::new();
            let mut sizes = Vec::new();
            for _ in 0..20 {
                sizes.push(portion.size);
                portion.took(round_trip + entry * u32::try_from(portion.size).unwrap_or(u32::MAX));
            }
            assert!(sizes.iter().all(|size| *size <= most), "{sizes:?}");
            assert!(sizes.iter().skip(10).all(|size| *size >= least), "{sizes:?}");
        }
    }

    #[test]
    fn a_delay_is_not_longer_than_others_wait() {
        let error = pause(Some(ms(501)), 1, Some(ms(500))).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("delay_ms is 501"), "{error}");
        assert!(error.to_string().contains("reclaim_min_idle_ms (500)"), "{error}");
        assert!(pause(Some(ms(501)), 1, None).is_ok());
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
        let all = [(100, 2), (100, 4), (200, 3), (300, 1)];
        assert!(returns.all().eq(all.map(|(delay, number)| (start + ms(delay), id(number)))));
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
