//! How long entries stay a consumer's while somebody works on them: what is in hand is to be kept
//! (its idle time set back) before others may claim it, for that long and no longer. Slow batches are
//! reported.
//!
//! As the [ledger](super) this does no IO and has no clock.

use std::time::{Duration, Instant};

use super::IdSet;
use crate::entry_id::EntryId;

/// The terms on which entries are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseTerms {
    /// Others claim an entry that has been idle for this long.
    pub(crate) min_idle: Duration,
    /// Others may claim it this long after it was handed out, whatever its consumer does; `None` where
    /// nothing is kept, and only slow batches are reported.
    pub(crate) most: Option<Duration>,
}

impl LeaseTerms {
    /// Whoever keeps entries does nothing more often than that; what others claim sooner cannot be
    /// kept.
    const LEAST: Duration = Duration::from_millis(10);

    /// Twice before others may claim an entry, so that one attempt may fail.
    fn interval(self) -> Duration {
        (self.min_idle / 3).max(Self::LEAST)
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Have the server set back the idle time of these entries: those that are this consumer's still.
    Now { lease: u64, ids: Vec<EntryId> },
    /// Tell of a batch, once, that it has been in hand for as long as an entry may be idle.
    Slow(InHand),
    /// Tell of it that it was kept for as long as it may be, and is kept no more.
    Expired(InHand),
    /// Look again at that time, unless something says so before.
    At(Instant),
}

/// How many entries of a batch are in hand, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InHand {
    pub(crate) entries: u64,
    pub(crate) since: Instant,
}

/// Entries that were handed out together and are not done with.
#[derive(Debug)]
struct Lease {
    number: u64,
    batch: u64,
    ids: IdSet,
    since: Instant,
    /// When the last of them may be kept.
    until: Option<Instant>,
    kept_at: Instant,
    /// When to tell that they have been in hand for long, and that they are kept no more.
    slow_at: Option<Instant>,
    expired_at: Option<Instant>,
}

impl Lease {
    fn due(&self, terms: LeaseTerms) -> Option<Instant> {
        let until = self.until?;
        let due = self.kept_at.checked_add(terms.interval()).unwrap_or(until);
        (self.kept_at < until).then_some(due.min(until))
    }

    /// They are kept from now on for as long as they may be.
    fn begin(&mut self, terms: LeaseTerms, now: Instant) {
        let longest = terms.most.map(|most| most.saturating_sub(terms.min_idle));
        self.until = longest.and_then(|longest| now.checked_add(longest));
        self.expired_at = terms.most.and_then(|most| now.checked_add(most));
    }
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Leases {
    terms: LeaseTerms,
    /// In the order in which they were handed out.
    held: Vec<Lease>,
    /// Of leases and of batches.
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

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// These were handed out; the server had delivered the first of them at that time. Says whether
    /// something is to be done before the time that [`Leases::next`] said.
    #[must_use]
    pub(crate) fn handed_out(&mut self, ids: &[EntryId], delivered: Instant, now: Instant) -> bool {
        self.done(ids);
        let batch = self.number();
        let slow_at = now.checked_add(self.terms.min_idle);
        let mut leases = Vec::new();
        for ids in ids.chunks(Self::ENTRIES) {
            let mut lease = Lease {
                number: self.number(),
                batch,
                ids: IdSet::from(ids.to_vec()),
                since: now,
                until: None,
                kept_at: delivered,
                slow_at,
                expired_at: None,
            };
            lease.begin(self.terms, now);
            leases.push(lease);
        }
        self.hold(leases)
    }

    /// Says whether something is to be done before the time that was said.
    fn hold(&mut self, leases: Vec<Lease>) -> bool {
        let due = leases.iter().filter_map(|lease| lease.due(self.terms)).min();
        self.held.extend(leases);
        due.zip(self.looks_at).is_some_and(|(due, looks_at)| due < looks_at)
    }

    /// Whoever has these in hand says that the work goes on, and their consumer has them still: they
    /// are kept for as long again.
    #[must_use]
    pub(crate) fn renewed(&mut self, ids: &[EntryId], now: Instant) -> bool {
        let mut renewed = Vec::new();
        for lease in &mut self.held {
            let own: Vec<EntryId> =
                ids.iter().copied().filter(|id| lease.ids.contains(*id)).collect();
            if !own.is_empty() {
                lease.ids.remove(&own);
                let mut own = Lease { ids: IdSet::from(own), kept_at: now, ..*lease };
                own.begin(self.terms, now);
                renewed.push(own);
            }
        }
        for lease in &mut renewed {
            lease.number = self.number();
        }
        self.held.retain(|lease| !lease.ids.is_empty());
        self.hold(renewed)
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
        let may_keep = self.not_before.is_none_or(|not_before| not_before <= now);
        let due = self.next_due().filter(|_| may_keep);
        if let Some((_, lease)) = due.filter(|(due, _)| *due <= now) {
            return Keep::Now { lease: lease.number, ids: lease.ids.iter().collect() };
        }
        // A worker that is quick never has it look earlier.
        let looks_at = now.checked_add(self.terms.interval()).unwrap_or(now);
        let looks_at = match self.not_before.filter(|_| !may_keep) {
            Some(not_before) => not_before,
            None => due.map_or(looks_at, |(due, _)| looks_at.min(due)),
        };
        if let Some(slow) = self.told(now, |lease| &mut lease.slow_at) {
            return Keep::Slow(slow);
        }
        if let Some(expired) = self.told(now, |lease| &mut lease.expired_at) {
            return Keep::Expired(expired);
        }
        let tells = self.held.iter().flat_map(|lease| [lease.slow_at, lease.expired_at]);
        let looks_at = tells.flatten().fold(looks_at, Instant::min);
        self.looks_at = Some(looks_at);
        Keep::At(looks_at)
    }

    fn next_due(&self) -> Option<(Instant, &Lease)> {
        let due = self.held.iter().filter_map(|lease| Some((lease.due(self.terms)?, lease)));
        due.min_by_key(|(due, _)| *due)
    }

    /// Takes the leases of one batch that are due to be reported; each is reported once.
    fn told(
        &mut self,
        now: Instant,
        at: impl Fn(&mut Lease) -> &mut Option<Instant>,
    ) -> Option<InHand> {
        let mut told: Option<(u64, InHand)> = None;
        for lease in &mut self.held {
            let is_of_batch = told.is_none_or(|(batch, _)| batch == lease.batch);
            if is_of_batch && at(lease).take_if(|at| *at <= now).is_some() {
                let none = InHand { entries: 0, since: lease.since };
                let (_, in_hand) = told.get_or_insert((lease.batch, none));
                in_hand.entries += lease.ids.len() as u64;
            }
        }
        told.map(|(_, in_hand)| in_hand)
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
        self.not_before = now.checked_add((self.terms.interval() / 4).max(LeaseTerms::LEAST));
    }

    /// The user lacks the permission: nothing is kept from now on.
    pub(crate) fn refused(&mut self) {
        self.terms.most = None;
        for lease in &mut self.held {
            (lease.until, lease.expired_at) = (None, None);
        }
    }
}

#[cfg(test)]
mod tests;
