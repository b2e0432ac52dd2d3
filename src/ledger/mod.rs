//! What was asked of the server, delivered, handed out, acknowledged and lost: one ledger for each
//! reader, without IO and without a clock of its own.
//!
//! A reader tells it what happens ([`Ledger::came`], [`Ledger::ended`], [`Ledger::lost`],
//! [`Ledger::flushed`], [`Ledger::handed_out`], ...) and is told what to ask next
//! ([`Ledger::next`]), what to acknowledge ([`Ledger::acknowledgements`]), and which rows of a batch
//! nobody is to see ([`Flushed`]). Entries are told apart by their IDs, never by how many there were:
//! a batch may be closed in the middle of a reply.
//!
//! An entry that is pending for this consumer is in one of these places:
//!
//! ```text
//! queued (to be listed or read) -> collected -> staged -> in hand -> done -> acknowledged
//!                                                            |-> left (comes again when claimed)
//! ```

mod done;
mod ids;
mod lease;
#[cfg(test)]
mod model;
mod own;
#[cfg(any(feature = "python", test))]
mod position;

use std::time::{Duration, Instant};

use done::Acknowledgements;
pub(crate) use ids::IdSet;
pub(crate) use lease::{Keep, LeaseTerms, Leases};
pub(crate) use own::Counted;
use own::{Known, OwnPending};

use crate::entry_id::EntryId;

/// When a row that was handed out is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    /// When the next batch is asked for.
    Automatically,
    /// When somebody says so.
    Manually,
}

/// The terms on which a consumer reads.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) acknowledge: Acknowledge,
    /// The server acknowledges what it sends: what is lost on the way is lost.
    pub(crate) noack: bool,
    /// Own pending entries are listed before they are read, so that their deliveries are known.
    pub(crate) lists: bool,
    /// The most deliveries of an entry.
    pub(crate) max_deliveries: Option<u64>,
    /// What is done with is remembered as long as an entry before it is not: the group may get lost.
    pub(crate) recreates: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The batch is whole as it is.
    Flush,
    /// Tell the server how often entries were really handed out: [`Ledger::corrections`].
    Correct,
    /// Move [`Ledger::exhausted`] to the dead letters.
    MoveExhausted,
    /// List own pending entries between these IDs, both inclusive.
    List { from: EntryId, to: EntryId },
    /// Read `count` own pending entries after this ID.
    Own { after: EntryId, count: u64 },
    /// Claim what others left.
    Claim,
    /// Read `count` new entries.
    New { count: u64 },
}

/// What a reply that is on its way brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Nothing,
    New,
    /// A page of own pending entries, as they come.
    Page,
    /// So many entries of the first run.
    Run {
        missing: u64,
    },
    Claims,
}

/// A row of the batch that is being collected, or was flushed.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: EntryId,
    /// How often it had been handed out before; `None` where that was not looked up.
    delivered: Option<u64>,
    /// It is to be handed out.
    keep: bool,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Ledger {
    terms: Terms,
    own: OwnPending,
    in_flight: InFlight,
    /// The greatest ID that a reply has brought since the request was sent.
    came_up_to: Option<EntryId>,
    /// What somebody has acknowledged since then may be in the reply.
    done_meanwhile: IdSet,
    /// New entries up to here have come.
    newest: EntryId,
    /// A server that has not noticed the loss of a connection may give it entries after this ID
    /// until then.
    stranded: Option<(EntryId, Instant)>,
    /// When the pending list was looked at for the sake of a claim.
    looked: Option<Instant>,
    collected: Vec<Row>,
    /// The IDs among them that are to be handed out.
    collected_ids: IdSet,
    /// The batch has claimed entries, or has one that is to be alone.
    collected_claimed: bool,
    collected_own: bool,
    sealed: bool,
    /// New entries have their turn before more of what was claimed.
    others_first: bool,
    staged: Vec<Row>,
    in_hand: IdSet,
    /// Too many were in hand at once to remember all; these were the first.
    forgotten: Option<EntryId>,
    /// Entries that stay pending until they are claimed.
    left: IdSet,
    /// What is done with and has not certainly been acknowledged, and the same of deleted entries.
    done: Acknowledgements,
    deleted: Acknowledgements,
    /// What is done with and acknowledged, as long as something before it is not.
    finished: IdSet,
    done_up_to: Option<EntryId>,
    /// The greatest ID of those that had nothing before them that was not done with.
    position: Option<EntryId>,
    /// Entries up to here were known before the group was created again.
    known_up_to: EntryId,
}

impl Ledger {
    /// In hand, left or finished at once; beyond that the oldest are forgotten, and would come twice
    /// if the group got lost.
    const REMEMBERED: usize = 1 << 20;
    /// What can be claimed so soon after a look at the pending list was there.
    const LOOKED: Duration = Duration::from_secs(1);

    pub(crate) fn new(terms: Terms) -> Self {
        Ledger {
            own: OwnPending::new(terms.max_deliveries),
            terms,
            in_flight: InFlight::Nothing,
            came_up_to: None,
            done_meanwhile: IdSet::default(),
            newest: EntryId::MIN,
            stranded: None,
            looked: None,
            collected: Vec::new(),
            collected_ids: IdSet::default(),
            collected_claimed: false,
            collected_own: false,
            sealed: false,
            others_first: false,
            staged: Vec::new(),
            in_hand: IdSet::default(),
            forgotten: None,
            left: IdSet::default(),
            done: Acknowledgements::default(),
            deleted: Acknowledgements::default(),
            finished: IdSet::default(),
            done_up_to: None,
            position: None,
            known_up_to: EntryId::MIN,
        }
    }

    /// Up to this entry an earlier run was done.
    pub(crate) fn was_done_up_to(&mut self, id: Option<EntryId>) {
        self.done_up_to = id;
    }

    // What to ask

    /// Has all own pending entries read first.
    pub(crate) fn read_own_pending(&mut self) {
        self.own.look_after(EntryId::MIN, false);
    }

    /// New entries come after this ID.
    pub(crate) fn begins_after(&mut self, id: EntryId) {
        self.newest = self.newest.max(id);
    }

    /// Whether it is known where new entries begin, or some have come.
    pub(crate) fn has_position(&self) -> bool {
        self.newest > EntryId::MIN
    }

    /// Own pending entries cannot be listed, so that they are read as they come.
    pub(crate) fn cannot_list(&mut self) {
        self.terms.lists = false;
        let first = self.own.to_list().map(|(first, _)| first);
        self.own.clear();
        if let Some(first) = first {
            self.own.look_after(first.predecessor().unwrap_or(EntryId::MIN), false);
        }
    }

    /// What to do next, with room for `room` rows.
    pub(crate) fn next(&mut self, now: Instant, room: u64, claims_due: bool) -> Ask {
        let rows = !self.collected.is_empty();
        self.own.drop_empty_run();
        if let Some((after, _)) = self.stranded.filter(|(_, due)| *due <= now) {
            self.stranded = None;
            self.own.look_after(after, true);
        }
        let first_is_last = self.terms.max_deliveries == Some(1);
        if rows && (self.sealed || first_is_last) {
            return Ask::Flush;
        }
        if !self.own.corrections.is_empty() {
            return Ask::Correct;
        }
        // Before anything else is handed out, which may end the process.
        if self.terms.lists
            && self.own.has_lost()
            && let Some((from, to)) = self.own.to_list()
        {
            return Ask::List { from, to };
        }
        if !self.own.exhausted.is_empty() {
            return if rows { Ask::Flush } else { Ask::MoveExhausted };
        }
        if let Some(run) = self.own.run().filter(|run| !(run.claimed && self.others_first)) {
            if rows && (run.alone || run.claimed != self.collected_claimed) {
                return Ask::Flush;
            }
            if let Some((first, _)) = run.entries.front() {
                let after = first.predecessor().unwrap_or(EntryId::MIN);
                return Ask::Own { after, count: room.min(run.entries.len() as u64) };
            }
        }
        if !(self.others_first || self.collected_claimed && rows) {
            match (self.own.to_list(), self.own.sweep()) {
                (Some((from, to)), _) if self.terms.lists => return Ask::List { from, to },
                (_, Some(sweep)) => return Ask::Own { after: sweep, count: room },
                _ => {}
            }
        }
        if rows && self.collected_claimed {
            return Ask::Flush;
        }
        if claims_due && !rows && !self.others_first {
            return self.look_before_claim(now).unwrap_or(Ask::Claim);
        }
        Ask::New { count: if first_is_last { 1 } else { room } }
    }

    /// A claim tells nobody whose an entry was. What went to a dead connection of this very reader,
    /// and is claimed by it, was never seen; an entry of another consumer was. So those are looked for
    /// before.
    fn look_before_claim(&mut self, now: Instant) -> Option<Ask> {
        let (after, _) = self.stranded.filter(|_| self.terms.lists)?;
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < Self::LOOKED) {
            return None;
        }
        self.looked = Some(now);
        self.own.look_after(after, true);
        self.own.to_list().map(|(from, to)| Ask::List { from, to })
    }

    /// Whether there is something to do that need not be waited for.
    pub(crate) fn has_work(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether a reply is on its way, or was when whoever waited for it gave up.
    pub(crate) fn is_waiting(&self) -> bool {
        self.in_flight != InFlight::Nothing
    }

    /// When there will be, unless something happens before.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        self.stranded.map(|(_, due)| due)
    }

    /// The batch has entries that had been pending.
    pub(crate) fn has_own_rows(&self) -> bool {
        self.collected_own
    }

    /// How many rows have been collected since the last batch.
    pub(crate) fn collected(&self) -> usize {
        self.collected.len()
    }

    // What happens

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
            InFlight::New => self.others_first = false,
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

    /// The exhausted entries are in the dead letters, or somebody else's.
    pub(crate) fn exhausted_moved(&mut self) {
        let exhausted = std::mem::take(&mut self.own.exhausted);
        let ids: Vec<EntryId> = exhausted.into_iter().map(|(id, _)| id).collect();
        self.finish(&ids);
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
