//! What a reader has done so far, for whoever watches it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::decode::Batch;
use crate::entry_id::EntryId;

/// What a reader has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches handed out.
    pub batches: u64,
    /// Entries handed out.
    pub entries: u64,
    /// Bytes of replies with entries.
    pub bytes: u64,
    /// Entries acknowledged, dead letters not included.
    pub acknowledged: u64,
    /// Entries taken over from other consumers, or from this one's own past.
    pub reclaimed: u64,
    /// Entries moved to the dead-letter stream.
    pub dead_lettered: u64,
    /// Pending entries that were deleted from the stream, and so were never handed out.
    pub deleted: u64,
    /// The greatest ID handed out.
    pub last_id: Option<EntryId>,
    /// The greatest ID that was acknowledged.
    pub done_up_to: Option<EntryId>,
    /// How many entries the group had still to deliver when it was last asked (Redis 7.0).
    pub lag: Option<u64>,
}

/// Stats that a reader writes while others look at them.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    stats: Mutex<Stats>,
    given_back: AtomicBool,
    /// Entries in hand that stay pending whatever becomes of their batch.
    kept_pending: Mutex<HashSet<EntryId>>,
}

impl Watched {
    pub(crate) fn snapshot(&self) -> Stats {
        *self.lock()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.lock());
    }

    /// A batch goes to its consumer; so many bytes of replies have come in all.
    pub(crate) fn hand_out(&self, batch: &Batch, received: u64) {
        self.update(|stats| {
            stats.batches += 1;
            stats.entries += batch.len() as u64;
            stats.bytes = received;
            stats.last_id = stats.last_id.max(batch.ids().last().copied());
        });
    }

    /// Entries were given back, and can be claimed at once.
    pub(crate) fn give_back(&self) {
        self.given_back.store(true, Ordering::Release);
    }

    /// These entries stay pending when their batch is done with.
    pub(crate) fn keep_pending(&self, ids: &[EntryId]) {
        self.kept_pending().extend(ids);
    }

    /// Takes the entries of a batch that stay pending.
    pub(crate) fn take_kept_pending(&self) -> HashSet<EntryId> {
        std::mem::take(&mut *self.kept_pending())
    }

    fn kept_pending(&self) -> MutexGuard<'_, HashSet<EntryId>> {
        self.kept_pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether entries have been given back since the last call.
    pub(crate) fn take_given_back(&self) -> bool {
        self.given_back.swap(false, Ordering::AcqRel)
    }

    fn lock(&self) -> MutexGuard<'_, Stats> {
        // Numbers are whole whatever their holder was doing when it panicked.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
