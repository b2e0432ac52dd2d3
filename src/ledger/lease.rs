//! How long entries stay a consumer's while somebody works on them: what is in hand is to be kept
//! (its idle time set back) before others may claim it, for so long and no longer.
//!
//! As the [ledger](super) this does no IO and has no clock.

use std::time::{Duration, Instant};

use super::IdSet;
use crate::entry_id::EntryId;

/// The terms on which entries are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseTerms {
    /// Others claim an entry that has been idle for so long.
    pub(crate) min_idle: Duration,
    /// Others may claim it so long after it was handed out, whatever its consumer does.
    pub(crate) most: Duration,
}

impl LeaseTerms {
    /// Twice before others may claim an entry, so that one attempt may fail.
    fn interval(self) -> Duration {
        (self.min_idle / 3).max(Duration::from_millis(1))
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Have the server set back the idle time of these entries: those that are this consumer's still.
    Now { lease: u64, ids: Vec<EntryId> },
    /// Look again at that time, unless something says so before.
    At(Instant),
}

/// Entries that were handed out together and are not done with.
#[derive(Debug)]
struct Lease {
    number: u64,
    ids: IdSet,
    /// When the last of them may be kept.
    until: Instant,
    kept_at: Instant,
}

impl Lease {
    fn due(&self, terms: LeaseTerms) -> Option<Instant> {
        let due = self.kept_at.checked_add(terms.interval()).unwrap_or(self.until);
        (self.kept_at < self.until).then_some(due.min(self.until))
    }
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Leases {
    terms: LeaseTerms,
    /// In the order in which they were handed out.
    held: Vec<Lease>,
    numbers: u64,
    /// Whoever keeps them looks again at that time.
    looks_at: Option<Instant>,
    /// After a failure: nothing is tried before.
    not_before: Option<Instant>,
}

impl Leases {
    /// Entries in one lease, and so in one script, which keeps other clients waiting.
    const ENTRIES: usize = 100;

    pub(crate) fn new(terms: LeaseTerms) -> Self {
        Leases { terms, held: Vec::new(), numbers: 0, looks_at: None, not_before: None }
    }

    /// These were handed out; the server had delivered the first of them at that time. Says whether
    /// something is to be done before the time that [`Leases::next`] said.
    #[must_use]
    pub(crate) fn handed_out(&mut self, ids: &[EntryId], delivered: Instant, now: Instant) -> bool {
        self.done(ids);
        let longest = self.terms.most.saturating_sub(self.terms.min_idle);
        let until = now.checked_add(longest).unwrap_or(now);
        let mut due = None;
        for ids in ids.chunks(Self::ENTRIES) {
            self.numbers += 1;
            let lease = Lease {
                number: self.numbers,
                ids: IdSet::from(ids.to_vec()),
                until,
                kept_at: delivered,
            };
            due = due.max(lease.due(self.terms));
            self.held.push(lease);
        }
        match (due, self.looks_at) {
            (Some(due), Some(looks_at)) => due < looks_at,
            _ => false,
        }
    }

    /// Whoever has these in hand says that the work goes on, and their consumer has them still: they
    /// are kept for as long again.
    #[must_use]
    pub(crate) fn renewed(&mut self, ids: &[EntryId], now: Instant) -> bool {
        let in_hand = |id: &EntryId| self.held.iter().any(|lease| lease.ids.contains(*id));
        let ids: Vec<EntryId> = ids.iter().copied().filter(in_hand).collect();
        self.handed_out(&ids, now, now)
    }

    /// These are done with, or given back, left or moved.
    pub(crate) fn done(&mut self, ids: &[EntryId]) {
        if self.held.is_empty() {
            return;
        }
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        for lease in &mut self.held {
            let (Some(first), Some(last)) = (lease.ids.first(), lease.ids.last()) else {
                continue;
            };
            let start = ids.partition_point(|id| *id < first);
            let end = ids.partition_point(|id| *id <= last);
            if let Some(ids) = ids.get(start..end).filter(|ids| !ids.is_empty()) {
                lease.ids.remove(ids);
            }
        }
        self.held.retain(|lease| !lease.ids.is_empty());
    }

    /// All that was handed out is done with.
    pub(crate) fn all_done(&mut self) {
        self.held.clear();
    }

    /// What to do next.
    pub(crate) fn next(&mut self, now: Instant) -> Keep {
        // A worker that is quick never has it look earlier.
        let mut looks_at = now.checked_add(self.terms.interval()).unwrap_or(now);
        if let Some(not_before) = self.not_before.filter(|not_before| *not_before > now) {
            looks_at = not_before;
        } else if let Some((due, lease)) = self.next_due() {
            if due <= now {
                return Keep::Now { lease: lease.number, ids: lease.ids.iter().collect() };
            }
            looks_at = looks_at.min(due);
        }
        self.looks_at = Some(looks_at);
        Keep::At(looks_at)
    }

    fn next_due(&self) -> Option<(Instant, &Lease)> {
        let due = self.held.iter().filter_map(|lease| Some((lease.due(self.terms)?, lease)));
        due.min_by_key(|(due, _)| *due)
    }

    /// The server has set back the idle times at that time or later, but of these, which are not this
    /// consumer's any more.
    pub(crate) fn kept(&mut self, lease: u64, lost: &[EntryId], at: Instant) {
        self.not_before = None;
        if let Some(lease) = self.held.iter_mut().find(|one| one.number == lease) {
            lease.kept_at = at;
        }
        self.done(lost);
    }

    /// The server could not be told.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.not_before = now.checked_add(self.terms.interval() / 4);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<EntryId> {
        numbers.into_iter().map(|number| EntryId::new(number, 0)).collect()
    }

    fn leases() -> Leases {
        Leases::new(LeaseTerms { min_idle: ms(300), most: ms(1_000) })
    }

    #[test]
    fn entries_are_kept_until_they_have_been_in_hand_for_so_long() {
        let start = Instant::now();
        let mut leases = leases();
        assert_eq!(leases.next(start), Keep::At(start + ms(100)));
        assert!(!leases.handed_out(&ids(1..=2), start, start));
        let mut kept = Vec::new();
        for at in (0..3_000).step_by(10) {
            let now = start + ms(at);
            if let Keep::Now { lease, ids: due } = leases.next(now) {
                assert_eq!(due, ids(1..=2));
                leases.kept(lease, &[], now);
                kept.push(at);
            }
        }
        // Others may claim them at 1,000.
        assert_eq!(kept, [100, 200, 300, 400, 500, 600, 700]);
    }

    #[test]
    fn what_was_delivered_long_ago_is_kept_at_once() {
        let start = Instant::now();
        let now = start + ms(250);
        let mut leases = leases();
        assert_eq!(leases.next(now), Keep::At(now + ms(100)));
        assert!(leases.handed_out(&ids([1]), start, now));
        assert!(matches!(leases.next(now), Keep::Now { .. }));
    }

    #[test]
    fn what_is_done_with_is_kept_no_more() {
        let start = Instant::now();
        let mut leases = leases();
        let _ = leases.handed_out(&ids(1..=250), start, start);
        leases.done(&ids((1..=250).filter(|number| number % 10 != 0)));
        let mut kept = Vec::new();
        while let Keep::Now { lease, ids } = leases.next(start + ms(100)) {
            kept.extend(ids);
            leases.kept(lease, &[], start + ms(100));
        }
        assert_eq!(kept, ids((10..=250).step_by(10)));
        leases.all_done();
        assert_eq!(leases.next(start + ms(500)), Keep::At(start + ms(600)));
    }

    #[test]
    fn what_another_has_claimed_is_kept_no_more() {
        let start = Instant::now();
        let mut leases = leases();
        let _ = leases.handed_out(&ids(1..=3), start, start);
        let Keep::Now { lease, .. } = leases.next(start + ms(100)) else { panic!() };
        // What is done with meanwhile stays so.
        leases.done(&ids([1]));
        leases.kept(lease, &ids([2]), start + ms(100));
        let next = leases.next(start + ms(200));
        assert_eq!(next, Keep::Now { lease, ids: ids([3]) });
    }

    #[test]
    fn whoever_says_so_goes_on_for_as_long_again() {
        let start = Instant::now();
        let mut leases = leases();
        let _ = leases.handed_out(&ids(1..=3), start, start);
        leases.done(&ids([3]));
        assert!(matches!(leases.next(start + ms(900)), Keep::Now { lease, .. } if {
            leases.kept(lease, &[], start + ms(900));
            true
        }));
        // Its time is over; 3 is nobody's business any more.
        assert_eq!(leases.next(start + ms(1_500)), Keep::At(start + ms(1_600)));
        assert!(!leases.renewed(&ids(2..=3), start + ms(1_500)));
        let next = leases.next(start + ms(1_600));
        assert!(matches!(next, Keep::Now { ids: kept, .. } if kept == ids([2])));
    }

    #[test]
    fn a_failure_is_tried_again_after_a_while() {
        let start = Instant::now();
        let mut leases = leases();
        let _ = leases.handed_out(&ids([1]), start, start);
        assert!(matches!(leases.next(start + ms(100)), Keep::Now { .. }));
        leases.failed(start + ms(100));
        assert_eq!(leases.next(start + ms(110)), Keep::At(start + ms(125)));
        assert!(matches!(leases.next(start + ms(125)), Keep::Now { .. }));
    }

    #[derive(Debug, Clone)]
    enum Event {
        HandOut(u64),
        Done(Vec<usize>),
        AllDone,
        Fails,
        Claimed(usize),
    }

    proptest! {
        /// Whoever does what `next` says keeps each entry from being idle for too long while it is in
        /// hand and may be, and touches nothing else.
        #[test]
        fn nothing_in_hand_is_idle_for_too_long(
            events in vec((0u64..80, prop_oneof![
                4 => (1u64..250).prop_map(Event::HandOut),
                4 => vec(0usize..500, 0..40).prop_map(Event::Done),
                1 => Just(Event::AllDone),
                1 => Just(Event::Fails),
                1 => (0usize..500).prop_map(Event::Claimed),
            ]), 0..40),
        ) {
            let terms = LeaseTerms { min_idle: ms(300), most: ms(1_000) };
            let mut leases = Leases::new(terms);
            let start = Instant::now();
            let (mut now, mut last) = (start, 0);
            // When each was handed out and kept, and which another has claimed.
            let mut held: BTreeMap<u64, (Instant, Instant)> = BTreeMap::new();
            let mut claimed: Vec<u64> = Vec::new();
            let mut fails = false;
            for (pause, event) in events {
                let end = now + ms(pause);
                // The keeper wakes when it said that it would.
                loop {
                    match leases.next(now) {
                        Keep::At(at) if at > end => break,
                        Keep::At(at) => now = at,
                        Keep::Now { .. } if fails => {
                            fails = false;
                            leases.failed(now);
                        }
                        Keep::Now { lease, ids: due } => {
                            let mut lost = Vec::new();
                            for id in due {
                                prop_assert!(held.contains_key(&id.ms));
                                if claimed.contains(&id.ms) {
                                    lost.push(id);
                                    held.remove(&id.ms);
                                } else if let Some((since, kept)) = held.get_mut(&id.ms) {
                                    prop_assert!(now <= *since + ms(700 + 125));
                                    *kept = now;
                                }
                            }
                            leases.kept(lease, &lost, now);
                        }
                    }
                    for (number, (since, kept)) in &held {
                        let over = now >= *since + ms(1_000) || claimed.contains(number);
                        prop_assert!(over || now < *kept + ms(300), "{number} is idle");
                    }
                }
                now = end;
                match event {
                    Event::HandOut(rows) => {
                        let numbers = last + 1..=last + rows;
                        last += rows;
                        let _ = leases.handed_out(&ids(numbers.clone()), now, now);
                        held.extend(numbers.map(|number| (number, (now, now))));
                    }
                    Event::Done(which) => {
                        let all: Vec<u64> = held.keys().copied().collect();
                        let numbers: Vec<u64> =
                            which.iter().filter_map(|at| all.get(*at).copied()).collect();
                        leases.done(&ids(numbers.iter().copied()));
                        held.retain(|number, _| !numbers.contains(number));
                    }
                    Event::AllDone => {
                        leases.all_done();
                        held.clear();
                    }
                    Event::Fails => fails = true,
                    Event::Claimed(at) => claimed.extend(held.keys().nth(at)),
                }
            }
        }
    }
}
