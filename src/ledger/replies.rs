//! What replies bring, and what is lost with one.

use std::time::Instant;

use super::own::{Counted, Known};
use super::{Ask, InFlight, Ledger, Row};
use crate::entry_id::EntryId;

impl Ledger {
    /// A request that [`Ledger::next`] named is sent.
    pub(crate) fn asked(&mut self, ask: Ask) {
        self.came_up_to = None;
        self.looked = None;
        self.done_meanwhile.clear();
        self.in_flight = match ask {
            Ask::New { .. } => InFlight::New,
            Ask::Own { count, .. } if self.own.run().is_some() => InFlight::Run { missing: count },
            Ask::Own { .. } => InFlight::Page,
            Ask::Claim => InFlight::Claims,
            _ => InFlight::Nothing,
        };
    }

    /// These rows came of the reply.
    pub(crate) fn came(&mut self, ids: impl IntoIterator<Item = EntryId>) {
        for id in ids {
            self.came_up_to = self.came_up_to.max(Some(id));
            self.stream_had(id);
            let row = match self.in_flight {
                InFlight::New | InFlight::Nothing => {
                    let is_fresh = id > self.newest.max(self.known_up_to);
                    self.newest = self.newest.max(id);
                    let keep = is_fresh || !self.comes_again(id);
                    Row { id, delivered: Some(0), keep }
                }
                InFlight::Page => {
                    self.own.swept(Some(id));
                    self.collected_own = true;
                    Row { id, delivered: None, keep: !self.comes_again(id) }
                }
                InFlight::Run { missing } => {
                    self.in_flight = InFlight::Run { missing: missing.saturating_sub(1) };
                    let alone = self.own.run().is_some_and(|run| run.alone);
                    let claimed = self.own.run().is_some_and(|run| run.claimed);
                    let delivered = self.own.came(id);
                    let keep = delivered.is_some() && !self.collected_ids.contains(id);
                    if delivered.is_none() && self.known(id) == Known::No {
                        self.own.came_unasked(id);
                    }
                    self.collected_own = true;
                    self.sealed |= alone && keep;
                    self.collected_claimed |= claimed;
                    Row { id, delivered, keep }
                }
                InFlight::Claims => Row { id, delivered: None, keep: false },
            };
            self.collected.push(row);
            if row.keep {
                self.collected_ids.insert(id);
            }
        }
    }

    /// Whether an entry is known already, which should not be seen twice. Where the group was created
    /// again, what is done with is acknowledged once more.
    fn comes_again(&mut self, id: EntryId) -> bool {
        if self.finished.contains(id) {
            self.finished.remove(&[id]);
            self.done.due.insert(id);
            return true;
        }
        self.known(id) == Known::Busy
    }

    /// Whether an entry is anywhere but in the queue.
    fn known(&self, id: EntryId) -> Known {
        let is_busy = self.in_hand.contains(id)
            || self.done_meanwhile.contains(id)
            || self.left.contains(id)
            || self.collected_ids.contains(id)
            || self.staged.iter().any(|row| row.id == id)
            || self.done.contains(id)
            || self.deleted.contains(id);
        if is_busy { Known::Busy } else { Known::No }
    }

    /// Pending entries came without fields, because they were deleted: they have to be acknowledged.
    pub(crate) fn came_deleted(&mut self, ids: Vec<EntryId>) {
        let Some(last) = ids.iter().max().copied() else {
            return;
        };
        self.came_up_to = self.came_up_to.max(Some(last));
        self.stream_had(last);
        match self.in_flight {
            InFlight::Page => self.own.swept(Some(last)),
            InFlight::Run { missing } => {
                let missing = missing.saturating_sub(ids.len() as u64);
                self.in_flight = InFlight::Run { missing };
            }
            _ => {}
        }
        self.own.forget(&ids);
        self.deleted.due.extend(&ids);
    }

    /// The server has found these deleted, and acknowledged them; says how many are news.
    pub(crate) fn found_deleted(&mut self, ids: &[EntryId]) -> u64 {
        self.own.forget(ids);
        ids.iter().filter(|id| !self.deleted.contains(**id)).count() as u64
    }

    /// The reply has come to its end; says whether it was one of new entries.
    pub(crate) fn ended(&mut self) -> bool {
        let in_flight = std::mem::replace(&mut self.in_flight, InFlight::Nothing);
        match in_flight {
            InFlight::New => {
                self.others_first = false;
                if self.came_up_to.is_none() {
                    // The group has given out all there is.
                    self.newest = self.newest.max(self.known_up_to);
                }
            }
            InFlight::Page if self.came_up_to.is_none() => self.own.swept(None),
            InFlight::Run { missing } => self.own.run_ended(self.came_up_to, missing),
            InFlight::Page | InFlight::Claims | InFlight::Nothing => {}
        }
        if self.stranded.is_none() {
            self.own.all_is_seen();
        }
        in_flight == InFlight::New
    }

    /// The server has not understood the request, and done nothing.
    pub(crate) fn refused(&mut self) {
        self.in_flight = InFlight::Nothing;
    }

    /// A page of the pending list came, with how often the server has delivered each entry; it is
    /// the last of what was asked for.
    pub(crate) fn listed(&mut self, page: &[Counted], is_last: bool) {
        self.in_flight = InFlight::Nothing;
        for (id, _) in page {
            self.stream_had(*id);
            if self.finished.contains(*id) {
                self.comes_again(*id);
            }
        }
        let mut own = std::mem::take(&mut self.own);
        own.listed(page, is_last, |id| self.known(id));
        self.own = own;
    }

    /// These entries are this consumer's now.
    pub(crate) fn claimed(&mut self, ids: &[EntryId]) {
        self.in_flight = InFlight::Nothing;
        ids.iter().max().into_iter().for_each(|last| self.stream_had(*last));
        // What is in the caller's hand, on its way there, or to be acknowledged, is this consumer's
        // already, however long that takes.
        let fresh = |id: &&EntryId| {
            !self.own.is_queued(**id)
                && !self.collected_ids.contains(**id)
                && !self.staged.iter().any(|row| row.id == **id)
                && !self.in_hand.contains(**id)
                && !self.done.contains(**id)
        };
        let fresh: Vec<EntryId> = ids.iter().filter(fresh).copied().collect();
        let seen: Vec<EntryId> =
            fresh.iter().copied().filter(|id| self.left.contains(*id)).collect();
        self.left.remove(&fresh);
        match fresh.iter().min() {
            Some(first) if !self.terms.lists => {
                self.own.look_after(first.predecessor().unwrap_or(EntryId::MIN), false);
            }
            _ => self.own.claim(&fresh, &seen),
        }
    }

    /// The server has been told of these corrections.
    pub(crate) fn corrected(&mut self) {
        self.own.corrections.clear();
    }

    /// The connection was lost with the rest of the reply. Where the server waited, it may go on to
    /// give entries to that connection until `blocks_until`.
    pub(crate) fn lost(&mut self, blocks_until: Option<Instant>) {
        let in_flight = std::mem::replace(&mut self.in_flight, InFlight::Nothing);
        if self.terms.noack {
            return;
        }
        match in_flight {
            InFlight::New => {
                self.own.look_after(self.newest, true);
                if let Some(until) = blocks_until {
                    self.stranded = Some(match self.stranded {
                        None => (self.newest, until),
                        Some((after, due)) => (after.min(self.newest), due.max(until)),
                    });
                }
            }
            InFlight::Run { missing } => self.own.run_lost(missing),
            // Nobody knows which they were, nor that another consumer had them.
            InFlight::Claims => {
                if self.stranded.is_none() {
                    self.own.all_is_seen();
                }
                self.own.look_after(EntryId::MIN, false);
            }
            InFlight::Page | InFlight::Nothing => {}
        }
    }
}
