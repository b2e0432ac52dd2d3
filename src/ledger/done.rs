//! What becomes of rows once they have come: batches and acknowledgements.

use super::ids::IdSet;
use super::own::Counted;
use super::{Acknowledge, Ask, InFlight, Ledger, Row};
use crate::entry_id::EntryId;

/// What to make of the rows that were flushed.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    /// These rows, in this order; `None` for all as they are.
    pub(crate) rows: Option<Vec<usize>>,
    /// How often each has been delivered, this time included; empty where that is not known, or
    /// where it is the first time for all.
    pub(crate) counts: Vec<u64>,
    /// Entries that are not to be seen, though they came.
    pub(crate) dropped: IdSet,
}

/// Entries that are to be acknowledged, and those of which it is not known whether they have been.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    pub(super) due: IdSet,
    /// In order.
    sent: Vec<EntryId>,
    /// How many of those had been sent before, and nobody knows what came of that.
    again: usize,
}

impl Acknowledgements {
    pub(super) fn contains(&self, id: EntryId) -> bool {
        self.due.contains(id) || self.sent.binary_search(&id).is_ok()
    }

    /// Those that are to go along with the next request; what came of the latest is not known.
    fn send(&mut self) -> &[EntryId] {
        self.again = self.sent.len();
        self.sent = self.take();
        &self.sent
    }

    pub(super) fn take(&mut self) -> Vec<EntryId> {
        self.due.extend(&self.sent);
        self.sent.clear();
        std::mem::take(&mut self.due).iter().collect()
    }
}

impl Ledger {
    /// The rows that were collected are gone; they are still pending.
    pub(crate) fn discarded(&mut self) {
        let rows = std::mem::take(&mut self.collected);
        self.forget_collected();
        self.read_again(&rows);
    }

    fn read_again(&mut self, rows: &[Row]) {
        if self.terms.noack {
            return;
        }
        let kept = || rows.iter().filter(|row| row.keep);
        if self.terms.lists {
            self.own.read_again(kept().map(|row| (row.id, row.delivered.unwrap_or_default())));
        } else if let Some(first) = kept().map(|row| row.id).min() {
            self.own.look_after(first.predecessor().unwrap_or(EntryId::MIN), true);
        }
    }

    pub(super) fn forget_collected(&mut self) {
        self.collected_ids.clear();
        self.collected_claimed = false;
        self.collected_own = false;
        self.sealed = false;
    }

    /// The collected rows are a batch of these IDs and of those that were rejected. What is missing
    /// follows an entry that cannot be read, and has to come again.
    pub(crate) fn flushed(&mut self, ids: &[EntryId], rejected: &[EntryId]) -> Flushed {
        let rows = std::mem::take(&mut self.collected);
        self.others_first |= self.collected_claimed;
        self.forget_collected();
        let mut kept: Vec<(EntryId, usize, u64)> = Vec::with_capacity(ids.len());
        let mut came = rows.iter();
        for (at, id) in ids.iter().enumerate() {
            match came.find(|row| row.id == *id) {
                Some(Row { keep: false, .. }) => {}
                row => {
                    let delivered = row.and_then(|row| row.delivered).unwrap_or_default();
                    kept.push((*id, at, delivered.saturating_add(1)));
                }
            }
        }
        let all_kept = kept.len() == ids.len();
        let ascends = kept.is_sorted_by(|one, next| one.0 <= next.0);
        kept.sort_unstable_by_key(|(id, _, _)| *id);
        let counted = self.terms.lists && kept.iter().any(|(_, _, count)| *count > 1);
        let mut dropped: Vec<EntryId> = Vec::new();
        for row in &rows {
            if !row.keep {
                dropped.push(row.id);
            }
        }
        let mut dropped = IdSet::from(dropped);
        if !dropped.is_empty() {
            let kept: Vec<EntryId> = rows.iter().filter(|row| row.keep).map(|row| row.id).collect();
            dropped.remove(&kept);
        }
        let is_whole = ids.len() + rejected.len() == rows.len();
        let (there, missing): (Vec<Row>, Vec<Row>) = match is_whole {
            true => (rows, Vec::new()),
            false => {
                let mut came = IdSet::from(ids.to_vec());
                came.extend(rejected);
                rows.into_iter().partition(|row| came.contains(row.id))
            }
        };
        self.staged.extend(there.into_iter().filter(|row| row.keep));
        self.read_again(&missing);
        Flushed {
            rows: (!(all_kept && ascends)).then(|| kept.iter().map(|(_, at, _)| *at).collect()),
            counts: match counted {
                true => kept.iter().map(|(_, _, count)| *count).collect(),
                false => Vec::new(),
            },
            dropped,
        }
    }

    /// The batch of these entries goes to the caller.
    pub(crate) fn handed_out(&mut self, ids: &[EntryId]) {
        self.staged.clear();
        self.take_in_hand(ids);
    }

    /// These of the entries go to the caller; the others stay staged.
    pub(crate) fn handed_out_first(&mut self, ids: &[EntryId]) {
        let first = IdSet::from(ids.to_vec());
        self.staged.retain(|row| !first.contains(row.id));
        self.take_in_hand(ids);
    }

    fn take_in_hand(&mut self, ids: &[EntryId]) {
        ids.iter().max().into_iter().for_each(|last| self.stream_had(*last));
        let is_tracked = !self.terms.noack || self.terms.acknowledge == Acknowledge::Automatically;
        if is_tracked {
            // Where one comes again that was left, somebody has claimed it.
            if !self.left.is_empty() {
                self.left.remove(ids);
            }
            self.in_hand.extend(ids);
            if let Some(many) = self.in_hand.len().checked_sub(Self::REMEMBERED) {
                let forgotten = self.in_hand.take_first(many);
                self.forgotten = self.forgotten.or(forgotten);
            }
        }
    }

    /// The batch that was flushed is not handed out: its rows are read again.
    pub(crate) fn withdrawn(&mut self) {
        let rows = std::mem::take(&mut self.staged);
        self.read_again(&rows);
    }

    /// The batch of these entries did not come into the caller's hands; `counts` are their deliveries,
    /// this one included, and empty where it is the first for all.
    #[cfg(any(feature = "python", test))]
    pub(crate) fn not_handed_out(&mut self, ids: &[EntryId], counts: &[u64]) {
        self.in_hand.remove(ids);
        let counts = counts.iter().copied().chain(std::iter::repeat(1));
        let rows: Vec<Row> = ids
            .iter()
            .zip(counts)
            .map(|(id, count)| Row {
                id: *id,
                delivered: Some(count.saturating_sub(1)),
                keep: true,
            })
            .collect();
        self.read_again(&rows);
    }

    /// The next batch is asked for: where that is the policy, what is in hand is done with.
    pub(crate) fn asked_for_more(&mut self) {
        if self.terms.acknowledge == Acknowledge::Automatically {
            self.done.due.append(std::mem::take(&mut self.in_hand));
        }
    }

    /// The reading was left in the middle of what is in hand, which stays pending.
    pub(crate) fn left_in_hand(&mut self) {
        if self.terms.acknowledge == Acknowledge::Automatically {
            let ids: Vec<EntryId> = self.in_hand.iter().collect();
            self.left(&ids);
        }
    }

    /// Somebody has acknowledged these.
    pub(crate) fn acked(&mut self, ids: &[EntryId]) {
        self.finish(ids);
    }

    /// Those of a group's entries that this reader has handed out and is not done with.
    pub(crate) fn own_of(&self, ids: &[EntryId]) -> Vec<EntryId> {
        let is_own = |id: &EntryId| self.in_hand.contains(*id) || self.left.contains(*id);
        ids.iter().copied().filter(is_own).collect()
    }

    /// These stay pending when their batch is done with; they come again when they are claimed.
    pub(crate) fn left(&mut self, ids: &[EntryId]) {
        self.in_hand.remove(ids);
        self.left.extend(&self.of_this_stream(ids));
        if let Some(many) = self.left.len().checked_sub(Self::REMEMBERED) {
            self.left.take_first(many);
        }
    }

    /// These are in the dead letters.
    pub(crate) fn failed(&mut self, ids: &[EntryId]) {
        self.finish(ids);
    }

    pub(super) fn finish(&mut self, ids: &[EntryId]) {
        self.in_hand.remove(ids);
        self.left.remove(ids);
        let ids = &*self.of_this_stream(ids);
        self.own.forget(ids);
        if self.in_flight != InFlight::Nothing {
            self.done_meanwhile.extend(ids);
        }
        self.note_finished(ids);
    }

    pub(super) fn note_finished(&mut self, ids: &[EntryId]) {
        let ids = self.of_this_stream(ids);
        self.done_up_to = self.done_up_to.max(ids.iter().max().copied());
        if !self.terms.recreates {
            return;
        }
        self.finished.extend(&ids);
        let undone = self.first_undone();
        let done = match undone {
            None => self.finished.last(),
            Some(first) => self.finished.last_before(first),
        };
        self.position = self.position.max(done);
        if self.newest >= self.known_up_to {
            match undone {
                None => self.finished.clear(),
                Some(first) => self.finished.remove_up_to(first),
            }
        }
        if let Some(many) = self.finished.len().checked_sub(Self::REMEMBERED) {
            self.finished.take_first(many);
        }
    }

    // Acknowledgements

    /// The greatest ID that is acknowledged.
    pub(crate) fn done_up_to(&self) -> Option<EntryId> {
        self.done_up_to
    }

    /// What is to go along with the next request: entries that are done with, and deleted ones.
    pub(crate) fn acknowledgements(&mut self) -> [&[EntryId]; 2] {
        [self.done.send(), self.deleted.send()]
    }

    /// The server has taken them, of which `number` were pending. Says how many of what was done with
    /// this consumer has acknowledged: those, and what was not pending any more because an answer that
    /// was lost had acknowledged it. The rest was acknowledged by others.
    pub(crate) fn acknowledged(&mut self, number: u64) -> u64 {
        let done = std::mem::take(&mut self.done.sent);
        self.deleted.sent.clear();
        self.note_finished(&done);
        let again = std::mem::take(&mut self.done.again);
        let others = (done.len() as u64).saturating_sub(number);
        number.saturating_add(others.min(again as u64))
    }

    // Counts

    /// Entries that have been handed out as often as they may be.
    pub(crate) fn exhausted(&self) -> &[Counted] {
        &self.own.exhausted
    }

    /// Entries of which the server counts deliveries that nobody saw, and how many there were.
    pub(crate) fn corrections(&self) -> &[Counted] {
        &self.own.corrections
    }

    /// The reading ends: what came and was not handed out, and what is on its way, nobody sees.
    /// [`Ledger::at_the_end`] says what that takes.
    pub(crate) fn ends(&mut self) {
        self.lost(None);
        if let Some((after, _)) = self.stranded.take() {
            self.own.look_after(after, true);
        }
        let mut rows = std::mem::take(&mut self.collected);
        rows.append(&mut self.staged);
        self.forget_collected();
        self.read_again(&rows);
        self.own.ends();
    }

    /// What to do next, once the reading ends, for the server to count no delivery that nobody saw.
    pub(crate) fn at_the_end(&self) -> Option<Ask> {
        let is_needed = self.terms.max_deliveries.is_some() || self.terms.hands_over;
        if !self.terms.lists || !is_needed {
            return None;
        }
        if !self.own.corrections.is_empty() {
            return Some(Ask::Correct);
        }
        self.own.to_list().map(|(from, to)| Ask::List { from, to })
    }

    /// What this consumer has fetched, or claimed, and nobody has seen, once there is nothing to do at
    /// the end.
    pub(crate) fn unseen(&self) -> Vec<EntryId> {
        let is_seen = |id: &EntryId| {
            self.in_hand.contains(*id) || self.left.contains(*id) || self.done.contains(*id)
        };
        self.own.unread().filter(|id| !is_seen(id)).collect()
    }
}
