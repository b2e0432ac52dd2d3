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

mod ask;
mod done;
mod group_lost;
mod ids;
mod lease;
#[cfg(test)]
mod model;
mod own;
#[cfg(any(feature = "python", test))]
mod position;
#[cfg(any(feature = "python", test))]
mod positions;
mod replies;
#[cfg(test)]
mod tests;

use std::time::Instant;

pub(crate) use ask::{Apart, Ask, Others};
use done::Acknowledgements;
pub(crate) use done::Flushed;
pub(crate) use ids::IdSet;
pub(crate) use lease::{InHand, Keep, LeaseTerms, Leases};
use own::OwnPending;
#[cfg(feature = "python")]
pub(crate) use positions::Positions;

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
    /// What nobody has seen is handed over to others at the end, so that it is to be known.
    pub(crate) hands_over: bool,
}

/// What a reply that is on its way brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Nothing,
    New,
    /// A page of own pending entries, as they come.
    Page,
    /// Entries of the first run, `missing` in number.
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
    /// The greatest ID that the stream is known to have had.
    stream_had: Option<EntryId>,
    /// It took the place of another.
    replaced: bool,
    /// Entries up to here were known before the group was created again.
    known_up_to: EntryId,
    /// The new group brings those after this ID again.
    brings_again_after: Option<EntryId>,
}

impl Ledger {
    /// In hand, left or finished at once; beyond that the oldest are forgotten, and would come twice
    /// if the group got lost.
    const REMEMBERED: usize = 1 << 20;

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
            stream_had: None,
            replaced: false,
            known_up_to: EntryId::MIN,
            brings_again_after: None,
        }
    }

    /// Up to this entry an earlier run was done.
    pub(crate) fn was_done_up_to(&mut self, id: Option<EntryId>) {
        self.done_up_to = id;
        self.stream_had = self.stream_had.max(id);
    }
}
