//! How a consumer reads through a consumer group.

use std::collections::HashMap;
use std::time::Duration;

use crate::entry_id::{EntryId, GroupStart};
use crate::ledger::LeaseTerms;
use crate::shard::beside_shard;

/// How a consumer reads through a consumer group.
///
/// ```
/// use redfloe::GroupOptions;
///
/// let options = GroupOptions::new("billing", "worker-1").with_auto_ack(true);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOptions {
    pub(super) group: Vec<u8>,
    pub(super) consumer: Vec<u8>,
    pub(super) create_at: Option<GroupStart>,
    pub(super) own_pending: OwnPending,
    pub(super) auto_ack: bool,
    pub(super) noack: bool,
    pub(super) reclaim: Option<Reclaim>,
    pub(super) dead_letter: Option<DeadLetter>,
    pub(super) of_shards: bool,
    pub(super) on_lost: OnGroupLost,
    pub(super) done_up_to: HashMap<Vec<u8>, EntryId>,
    pub(super) count_deliveries: bool,
    pub(super) removal: Removal,
    pub(super) max_processing: Option<Duration>,
}

/// What becomes of the entries that were delivered to this consumer before, and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnPending {
    /// They stay pending; new entries are read.
    Skip,
    /// They come first, then new entries.
    First,
    /// They alone are read.
    Only,
}

/// When pending entries are taken over from consumers that seem to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaim {
    /// How long an entry must have been pending since it was last delivered.
    pub min_idle: Duration,
    /// How often to look for such entries; no more often than every 10 ms.
    pub interval: Duration,
}

/// Where entries go that cannot be processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The stream that takes them.
    pub stream: Vec<u8>,
    /// How often an entry is delivered before it goes there instead.
    pub max_deliveries: Option<u64>,
}

/// Which consumers are removed from the group; never one for which entries are pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removal {
    /// This one, when its read is [finished](crate::Batches::finish) with success.
    pub on_close: bool,
    /// Others that have not asked for entries for this long, when this one starts.
    pub idle: Option<Duration>,
}

/// What to do when the group is gone: deleted, or lost with the stream or the server's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnGroupLost {
    /// The read fails with [`NoGroup`](crate::ErrorKind::NoGroup).
    #[default]
    Raise,
    /// The group is created again where this consumer stood.
    Recreate,
}

impl GroupOptions {
    /// A consumer, whose name should stay the same across restarts, of a group that is there.
    pub fn new(group: impl Into<Vec<u8>>, consumer: impl Into<Vec<u8>>) -> Self {
        GroupOptions {
            group: group.into(),
            consumer: consumer.into(),
            create_at: None,
            own_pending: OwnPending::First,
            auto_ack: false,
            noack: false,
            reclaim: None,
            dead_letter: None,
            of_shards: false,
            on_lost: OnGroupLost::default(),
            done_up_to: HashMap::new(),
            count_deliveries: false,
            removal: Removal::default(),
            max_processing: None,
        }
    }

    /// The group and the consumer.
    pub(crate) fn names(&self) -> (&[u8], &[u8]) {
        (&self.group, &self.consumer)
    }

    /// The stream for dead letters.
    pub(crate) fn dead_letter(&self) -> Option<&[u8]> {
        self.dead_letter.as_ref().map(|dead_letter| &*dead_letter.stream)
    }

    /// Creates stream and group where they are missing, the group beginning there.
    pub fn with_creation(mut self, at: Option<GroupStart>) -> Self {
        self.create_at = at;
        self
    }

    /// What becomes of this consumer's pending entries.
    pub fn with_own_pending(mut self, own_pending: OwnPending) -> Self {
        self.own_pending = own_pending;
        self
    }

    /// Acknowledges a batch when the next one is asked for, or at the end; [`read`](crate::read)
    /// acknowledges before it returns.
    pub fn with_auto_ack(mut self, auto_ack: bool) -> Self {
        self.auto_ack = auto_ack;
        self
    }

    /// Has the server acknowledge what it sends (NOACK): an entry whose reply is lost is lost.
    pub fn with_noack(mut self, noack: bool) -> Self {
        self.noack = noack;
        self
    }

    /// Takes over what others have left pending for too long, and delivers it in batches of its
    /// own, in turns with new entries. By XAUTOCLAIM (Redis 6.2), or XPENDING and XCLAIM (5.0), with
    /// JUSTID, which does not count as a delivery. Pending entries that were deleted are acknowledged on the way.
    /// For [`tail`](crate::tail) only, and not with NOACK.
    pub fn with_reclaim(mut self, reclaim: Option<Reclaim>) -> Self {
        self.reclaim = reclaim;
        self
    }

    /// How long entries that were handed out are kept from being claimed by others, until they are
    /// done with: by [`Member::keep_in_hand`](crate::Member::keep_in_hand), where entries are
    /// reclaimed. `None`: not at all, so that a batch which takes longer than [`Reclaim::min_idle`]
    /// is processed twice.
    pub fn with_max_processing(mut self, longest: Option<Duration>) -> Self {
        self.max_processing = longest;
        self
    }

    /// Moves entries that cannot be processed to another stream, in one step with their
    /// acknowledgement: those which are delivered too often, and those that the schema's
    /// [`OnError::Reject`](crate::OnError::Reject) leaves out. For [`tail`](crate::tail) only.
    pub fn with_dead_letter(mut self, dead_letter: Option<DeadLetter>) -> Self {
        self.dead_letter = dead_letter;
        self
    }

    /// Whether the streams are the shards of a [sharded stream](crate::ShardedStream): then the dead
    /// letters are one, too, and those of a shard go to the shard that shares its slot.
    pub fn with_shards(mut self, of_shards: bool) -> Self {
        self.of_shards = of_shards;
        self
    }

    /// The key of a stream's dead letters, where there are some.
    pub(super) fn dead_letter_of(&self, stream: &[u8]) -> Option<Vec<u8>> {
        let dead = self.dead_letter.as_ref()?;
        Some(match self.of_shards {
            true => beside_shard(stream, &dead.stream),
            false => dead.stream.clone(),
        })
    }

    /// What to do when the group is gone.
    pub fn with_on_lost(mut self, on_lost: OnGroupLost) -> Self {
        self.on_lost = on_lost;
        self
    }

    /// The entry of each stream, by its key, up to which an earlier run is known to have come: a group
    /// that is lost before anything is acknowledged is created again there.
    pub fn with_done_up_to(mut self, ids: HashMap<Vec<u8>, EntryId>) -> Self {
        self.done_up_to = ids;
        self
    }

    /// Has batches say how often their rows have been delivered: XPENDING for those that come not
    /// for the first time.
    pub fn with_delivery_counts(mut self, count: bool) -> Self {
        self.count_deliveries = count;
        self
    }

    /// Removes consumers that have nothing pending, such as those whose names come and go with their
    /// processes. In one step with finding that out (EVAL, XGROUP DELCONSUMER). For
    /// [`tail`](crate::tail) only.
    pub fn with_removal(mut self, removal: Removal) -> Self {
        self.removal = removal;
        self
    }

    /// On which terms entries are kept; `None` where anybody may claim anything at any time, or
    /// nobody does.
    pub(super) fn lease(&self) -> Option<LeaseTerms> {
        let reclaim = self.reclaim.filter(|reclaim| !self.noack && !reclaim.min_idle.is_zero())?;
        Some(LeaseTerms { min_idle: reclaim.min_idle, most: self.max_processing })
    }

    /// How long entries may wait for the batch that they are part of to be handed out: half of the
    /// time after which others claim them, so that the other half is left for the work on them.
    pub(super) fn longest_wait(&self) -> Option<Duration> {
        let min_idle = self.reclaim.filter(|_| !self.noack)?.min_idle;
        // Otherwise anybody may claim anything at any time.
        (!min_idle.is_zero()).then_some(min_idle / 2)
    }

    /// Whether a lost group is created again.
    pub(super) fn recreates(&self) -> bool {
        self.on_lost == OnGroupLost::Recreate
    }

    /// The most deliveries of an entry.
    pub(super) fn max_deliveries(&self) -> Option<u64> {
        self.dead_letter.as_ref().and_then(|dead_letter| dead_letter.max_deliveries)
    }
}
