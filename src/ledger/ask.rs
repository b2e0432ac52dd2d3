//! What to ask the server next.

use std::time::{Duration, Instant};

use super::{InFlight, Ledger};
use crate::entry_id::EntryId;

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

/// Which entries are in no batch with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apart {
    /// That was claimed; with what else was.
    Claimed,
    /// One that may be handed out once more only.
    Alone,
}

/// What the batch that is being collected has of other streams, each of which has a ledger of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Others {
    /// Any rows.
    pub(crate) rows: bool,
    /// Rows that were claimed, and so nothing else.
    pub(crate) claimed: bool,
    /// A row that is to be alone.
    pub(crate) sealed: bool,
}

impl Others {
    /// And these.
    pub(crate) fn add(&mut self, more: Others) {
        self.rows |= more.rows;
        self.claimed |= more.claimed;
        self.sealed |= more.sealed;
    }
}

impl Ledger {
    /// What can be claimed within this time of a look at the pending list was listed by it.
    const LOOKED: Duration = Duration::from_secs(1);

    /// Has all own pending entries read first.
    pub(crate) fn read_own_pending(&mut self) {
        self.own.look_after(EntryId::MIN, false);
    }

    /// New entries come after this ID.
    pub(crate) fn begins_after(&mut self, id: EntryId) {
        self.newest = self.newest.max(id);
    }

    /// New entries up to this ID have come.
    pub(crate) fn newest(&self) -> EntryId {
        self.newest
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

    /// What to do next, with room for `room` rows, in a batch that may have rows of other streams.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        room: u64,
        claims_due: bool,
        others: Others,
    ) -> Ask {
        let rows = !self.collected.is_empty() || others.rows;
        let batch_is_claimed = self.collected_claimed || others.claimed;
        self.own.drop_empty_run();
        if let Some((after, _)) = self.stranded.filter(|(_, due)| *due <= now) {
            self.stranded = None;
            self.own.look_after(after, true);
        }
        let first_is_last = self.terms.max_deliveries == Some(1);
        if rows && (self.sealed || others.sealed || first_is_last) {
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
            if rows && (run.alone || run.claimed != batch_is_claimed) {
                return Ask::Flush;
            }
            if let Some((first, _)) = run.entries.front() {
                let after = first.predecessor().unwrap_or(EntryId::MIN);
                return Ask::Own { after, count: room.min(run.entries.len() as u64) };
            }
        }
        if !(self.others_first || batch_is_claimed && rows) {
            match (self.own.to_list(), self.own.sweep()) {
                (Some((from, to)), _) if self.terms.lists => return Ask::List { from, to },
                (_, Some(sweep)) => return Ask::Own { after: sweep, count: room },
                _ => {}
            }
        }
        if rows && batch_is_claimed {
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

    /// Whether there is something to do that can be done at once.
    pub(crate) fn has_work(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether a reply is on its way, or was when its caller gave up.
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

    /// What the batch that is being collected has of this stream, for the ledgers of others.
    pub(crate) fn has_of_batch(&self) -> Others {
        Others {
            rows: !self.collected.is_empty(),
            claimed: self.collected_claimed,
            sealed: self.sealed,
        }
    }

    /// Whether what is to be read next makes batches of its own: it was claimed, or is to be alone.
    pub(crate) fn reads_apart(&self) -> Option<Apart> {
        let run = self.own.run()?;
        match (run.alone, run.claimed) {
            (true, _) => Some(Apart::Alone),
            (false, true) => Some(Apart::Claimed),
            (false, false) => None,
        }
    }
}
