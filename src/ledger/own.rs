//! A consumer's own pending entries: which of them are still to be read, and in which portions.

use std::collections::{BTreeMap, VecDeque};

use super::ids::IdSet;
use crate::entry_id::EntryId;

/// An entry and how often it has been handed out.
pub(crate) type Counted = (EntryId, u64);

/// What is still to be looked at of this consumer's pending list, and what was found there.
///
/// Where deliveries count, entries are listed (XPENDING) before they are read, because reading them
/// counts as a delivery.
#[derive(Debug, Default)]
pub(super) struct OwnPending {
    /// The most deliveries of an entry.
    pub(super) max_deliveries: Option<u64>,
    /// The list after this ID is to be gone through.
    sweep: Option<EntryId>,
    /// The first delivery of entries after this ID may have gone to a connection that was lost.
    unseen_after: Option<EntryId>,
    /// These are to be looked up in the list.
    wanted: IdSet,
    /// Those among them, and among the runs, that were claimed.
    claimed: IdSet,
    /// Those that are known to have been handed out before.
    seen: IdSet,
    /// What was listed and is to be read.
    runs: VecDeque<Run>,
    /// Claimed entries that had still to be looked up when the reading ended.
    unlisted: IdSet,
    /// Entries that have been handed out as often as they may be.
    pub(super) exhausted: Vec<Counted>,
    /// How often entries were handed out, where a reply that nobody saw may have counted too.
    believed: BTreeMap<EntryId, u64>,
    /// Entries that came without having been asked for: the server counts one delivery too many.
    raised: IdSet,
    /// What the server is to be told of entries that it counts too often.
    pub(super) corrections: Vec<Counted>,
}

/// Entries that follow one another in this consumer's pending list, so that one command reads them
/// and nothing else.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) entries: VecDeque<Counted>,
    /// It is one entry that may be handed out only once more.
    pub(super) alone: bool,
    pub(super) claimed: bool,
}

/// What is known of a listed entry besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it has not been handed out by this reader, or not since it was claimed.
    No,
    /// It is in somebody's hand, or done with, or was left pending: it is not to be read.
    Busy,
}

impl OwnPending {
    pub(super) fn new(max_deliveries: Option<u64>) -> Self {
        OwnPending { max_deliveries, ..OwnPending::default() }
    }

    /// Goes through the list after this ID; with `unseen` nobody saw the first delivery of what is
    /// found there.
    pub(super) fn look_after(&mut self, after: EntryId, unseen: bool) {
        self.sweep = Some(self.sweep.map_or(after, |sweep| sweep.min(after)));
        if unseen {
            self.unseen_after = Some(self.unseen_after.map_or(after, |unseen| unseen.min(after)));
        }
    }

    pub(super) fn sweep(&self) -> Option<EntryId> {
        self.sweep
    }

    /// No entry goes to a lost connection any more.
    pub(super) fn all_is_seen(&mut self) {
        if self.sweep.is_none() {
            self.unseen_after = None;
        }
    }

    /// A page of the list came by itself, up to this ID; `None` where nothing is left.
    pub(super) fn swept(&mut self, up_to: Option<EntryId>) {
        match (up_to, &mut self.sweep) {
            (Some(up_to), Some(sweep)) => *sweep = up_to.max(*sweep),
            _ => self.sweep = None,
        }
    }

    /// These were claimed, which does not count as a delivery; some of them this reader had handed
    /// out.
    pub(super) fn claim(&mut self, ids: &[EntryId], seen: &[EntryId]) {
        self.seen.extend(seen);
        self.wanted.extend(ids);
        self.claimed.extend(ids);
    }

    /// These were read and not handed out; each with the number of its deliveries that were.
    pub(super) fn read_again(&mut self, entries: impl IntoIterator<Item = Counted>) {
        for (id, deliveries) in entries {
            self.wanted.insert(id);
            self.believed.insert(id, deliveries);
            if deliveries > 0 {
                self.seen.insert(id);
            }
        }
    }

    /// This one came without having been asked for.
    pub(super) fn came_unasked(&mut self, id: EntryId) {
        self.wanted.insert(id);
        self.raised.insert(id);
    }

    /// Whether the server may count deliveries that nobody saw, which a look at the list tells.
    pub(super) fn has_lost(&self) -> bool {
        let wanted =
            !(self.wanted.is_empty() || self.believed.is_empty() && self.raised.is_empty());
        wanted || self.sweep.is_some() && self.unseen_after.is_some()
    }

    /// Nothing is read any more: only what the server may count too often is to be looked up.
    pub(super) fn ends(&mut self) {
        let mut lost: Vec<EntryId> = self.believed.keys().copied().collect();
        lost.extend(self.raised.iter());
        self.unlisted = std::mem::replace(&mut self.wanted, IdSet::from(lost));
        let listed: Vec<EntryId> = self.wanted.iter().collect();
        self.unlisted.remove(&listed);
        self.sweep = match (self.sweep, self.unseen_after) {
            (Some(sweep), Some(unseen_after)) => Some(sweep.max(unseen_after)),
            _ => None,
        };
    }

    /// The bounds of the entries to look up next: those that are wanted first, then the sweep's.
    pub(super) fn to_list(&self) -> Option<(EntryId, EntryId)> {
        match (self.wanted.first(), self.wanted.last()) {
            (Some(first), Some(last)) => Some((first, last)),
            _ => {
                let from = self.sweep?.successor().unwrap_or(EntryId::MAX);
                Some((from, EntryId::MAX))
            }
        }
    }

    /// A page of the pending list came for what [`OwnPending::to_list`] said; it is the last one
    /// where there is no more up to the end.
    pub(super) fn listed(
        &mut self,
        page: &[Counted],
        is_last: bool,
        known: impl Fn(EntryId) -> Known,
    ) {
        let sweeps = self.wanted.is_empty();
        let unseen_after = self.unseen_after;
        // What was queued before need not be next to what comes now.
        let mut is_next = false;
        for &(id, counted) in page {
            let is_known = known(id);
            // What is to be read, or moved, has been looked up already.
            let is_queued = sweeps && self.is_queued(id);
            let is_raised = u64::from(self.raised.contains(id));
            let delivered = match self.believed.get(&id) {
                Some(believed) => counted.min(*believed),
                None if is_known == Known::No
                    && !is_queued
                    && counted == 1
                    && unseen_after.is_some_and(|after| id > after)
                    && !self.seen.contains(id)
                    // Its first delivery was another consumer's.
                    && !self.claimed.contains(id) =>
                {
                    0
                }
                None => counted.saturating_sub(is_raised),
            };
            if delivered < counted {
                self.corrections.push((id, delivered));
            }
            let is_wanted = match sweeps {
                true => !is_queued,
                false => self.wanted.contains(id),
            };
            if is_known == Known::Busy || !is_wanted {
                is_next = false;
                continue;
            }
            self.queue((id, delivered), is_next);
            is_next = true;
        }
        let last = page.last().map(|(id, _)| *id).filter(|_| !is_last);
        match (sweeps, last) {
            (true, last) => self.swept(last),
            // What was wanted and is not in the list is somebody else's, or done with.
            (false, Some(last)) => self.forget_wanted_up_to(last),
            (false, None) => self.forget_wanted_up_to(EntryId::MAX),
        }
    }

    fn forget_wanted_up_to(&mut self, last: EntryId) {
        self.wanted.remove_up_to(last);
        self.believed = self.believed.split_off(&last);
        self.believed.remove(&last);
        self.raised.remove_up_to(last);
        if self.wanted.is_empty() {
            self.believed.clear();
            self.raised.clear();
        }
    }

    fn queue(&mut self, (id, delivered): Counted, is_next: bool) {
        let most = self.max_deliveries.unwrap_or(u64::MAX);
        let claimed = self.claimed.contains(id);
        if delivered >= most {
            self.exhausted.push((id, delivered));
            return;
        }
        let alone = delivered.saturating_add(1) >= most;
        match self.runs.back_mut() {
            Some(run) if is_next && !alone && !run.alone && run.claimed == claimed => {
                run.entries.push_back((id, delivered));
            }
            _ => self.runs.push_back(Run { entries: [(id, delivered)].into(), alone, claimed }),
        }
    }

    /// Whether an entry is to be looked up, read, or moved to the dead letters anyhow.
    pub(super) fn is_queued(&self, id: EntryId) -> bool {
        let within = |run: &Run| {
            let entries = &run.entries;
            entries.binary_search_by_key(&id, |(id, _)| *id).is_ok()
        };
        self.wanted.contains(id)
            || self.exhausted.iter().any(|(exhausted, _)| *exhausted == id)
            || self.runs.iter().any(within)
    }

    /// What is to be read, as far as the list has told, and what was claimed.
    pub(super) fn unread(&self) -> impl Iterator<Item = EntryId> + '_ {
        let runs = self.runs.iter().flat_map(|run| &run.entries).map(|(id, _)| *id);
        runs.chain(self.unlisted.iter())
    }

    /// What is to be read next.
    pub(super) fn run(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// An entry came for a run: how often it had been handed out; `None` where it was not asked
    /// for. Those before it did not come, and so are not this consumer's any more.
    pub(super) fn came(&mut self, id: EntryId) -> Option<u64> {
        let run = self.runs.front_mut()?;
        while run.entries.front().is_some_and(|(first, _)| *first < id) {
            run.entries.pop_front();
        }
        match run.entries.front() {
            Some((first, delivered)) if *first == id => {
                let delivered = *delivered;
                run.entries.pop_front();
                Some(delivered)
            }
            _ => None,
        }
    }

    /// The reply to a run has come to its end, up to this ID; `asked` entries were asked for.
    pub(super) fn run_ended(&mut self, up_to: Option<EntryId>, asked: u64) {
        if let Some(run) = self.runs.front_mut() {
            match up_to {
                Some(up_to) => run.entries.retain(|(id, _)| *id > up_to),
                None => {
                    let asked = usize::try_from(asked).unwrap_or(usize::MAX);
                    run.entries.drain(..asked.min(run.entries.len()));
                }
            }
        }
        self.drop_empty_run();
    }

    pub(super) fn drop_empty_run(&mut self) {
        if self.runs.front().is_some_and(|run| run.entries.is_empty()) {
            self.runs.pop_front();
        }
        if self.runs.is_empty() && self.wanted.is_empty() {
            self.claimed.clear();
            self.seen.clear();
        }
    }

    /// The reply to a run was lost: `missing` of its entries may have been counted once more.
    pub(super) fn run_lost(&mut self, missing: u64) {
        if let Some(run) = self.runs.front_mut() {
            let missing = usize::try_from(missing).unwrap_or(usize::MAX);
            let lost: Vec<Counted> = run.entries.drain(..missing.min(run.entries.len())).collect();
            self.read_again(lost);
        }
        self.drop_empty_run();
    }

    /// An entry is no more to be read: it was deleted, or has been acknowledged.
    pub(super) fn forget(&mut self, ids: &[EntryId]) {
        let gone = IdSet::from(ids.to_vec());
        self.wanted.remove(ids);
        self.raised.remove(ids);
        if !self.believed.is_empty() {
            self.believed.retain(|id, _| !gone.contains(*id));
        }
        self.exhausted.retain(|(id, _)| !gone.contains(*id));
        if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
            for run in &mut self.runs {
                let touched = run.entries.front().is_some_and(|(id, _)| *id <= last)
                    && run.entries.back().is_some_and(|(id, _)| *id >= first);
                if touched {
                    run.entries.retain(|(id, _)| !gone.contains(*id));
                }
            }
            // The first may be on its way.
            let mut first = true;
            self.runs.retain(|run| std::mem::take(&mut first) || !run.entries.is_empty());
        }
    }

    /// Whether anything is left to be listed, read or moved.
    pub(super) fn is_empty(&self) -> bool {
        self.sweep.is_none()
            && self.wanted.is_empty()
            && self.runs.is_empty()
            && self.exhausted.is_empty()
            && self.corrections.is_empty()
    }

    /// The smallest ID that is known to be pending and was not read.
    pub(super) fn first(&self) -> Option<EntryId> {
        let runs = self.runs.iter().filter_map(|run| run.entries.front()).map(|(id, _)| *id);
        let exhausted = self.exhausted.iter().map(|(id, _)| *id);
        runs.chain(exhausted).chain(self.wanted.first()).min()
    }

    /// The group is gone, and with it all that was pending.
    pub(super) fn clear(&mut self) {
        *self = OwnPending::new(self.max_deliveries);
    }
}
