//! What a reader has done so far, for those who watch it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::keeper::Keeper;
use super::member::Member;
use super::nack::Returns;
use crate::client::Users;
use crate::decode::Batch;
#[cfg(feature = "python")]
use crate::decode::{StreamNames, readable};
use crate::entry_id::EntryId;
use crate::ledger::Ledger;
#[cfg(feature = "python")]
use crate::ledger::{Acknowledge, Positions};

/// What a reader has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Batches handed out.
    pub batches: u64,
    /// Entries handed out.
    pub entries: u64,
    /// Bytes of replies with entries.
    pub bytes: u64,
    /// Entries that this consumer has acknowledged, dead letters not included; not those that others had
    /// acknowledged before it did. Of those whose XACK was repeated, because its answer was lost, all
    /// count.
    pub acknowledged: u64,
    /// Entries taken over from other consumers, or from this one's own past.
    pub reclaimed: u64,
    /// Entries moved to the dead-letter stream.
    pub dead_lettered: u64,
    /// Pending entries that had been deleted from the stream when they were to be handed out or moved
    /// to the dead-letter stream; they are acknowledged.
    pub deleted: u64,
    /// The greatest ID handed out.
    pub last_id: Option<EntryId>,
    /// The greatest ID that was acknowledged.
    pub done_up_to: Option<EntryId>,
    /// How many entries the group had still to deliver when it was last asked (Redis 7.0).
    pub lag: Option<u64>,
}

impl Stats {
    /// Takes in what was done of one of several streams.
    fn add(&mut self, part: &Stats) {
        self.entries += part.entries;
        self.acknowledged += part.acknowledged;
        self.reclaimed += part.reclaimed;
        self.dead_lettered += part.dead_lettered;
        self.deleted += part.deleted;
        self.last_id = self.last_id.max(part.last_id);
        self.done_up_to = self.done_up_to.max(part.done_up_to);
        if let Some(lag) = part.lag {
            self.lag = Some(self.lag.unwrap_or_default().saturating_add(lag));
        }
    }
}

/// Stats that a reader writes while others look at them.
///
/// Where the reader has several streams, there is one for each, as [parts](Watched::part) of the
/// reader's: what is known of entries is known by stream.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Who reads, and who else holds the locks here, where the process may fork meanwhile.
    pub(crate) users: Arc<Users>,
    stats: Mutex<Stats>,
    /// Entries that were given back, and when they are delivered again.
    returns: Mutex<Returns>,
    /// Some more were, of any of the streams.
    gave_back: Arc<Notify>,
    reports: Mutex<Vec<Report>>,
    /// What is in hand, where it is kept from being claimed.
    keeper: Keeper,
    /// What is handed out of all streams and done with, where somebody keeps checkpoints.
    #[cfg(feature = "python")]
    positions: Arc<OnceLock<Mutex<Positions>>>,
    /// The consumer of each of several streams, which has the part of that stream.
    parts: Mutex<Vec<Member>>,
    /// The streams of a reader without a group, and that of one with a single stream.
    #[cfg(feature = "python")]
    names: Mutex<Arc<StreamNames>>,
    /// The number of the stream that this is a part for.
    number: OnceLock<usize>,
}

/// What was done to entries that were handed out, beside reading.
#[derive(Debug)]
pub(crate) enum Report {
    /// They were acknowledged.
    Acked(Vec<EntryId>),
    /// These were acknowledged in the group; some may be this reader's.
    AckedInGroup(Vec<EntryId>),
    /// They stay pending when their batch is done with, and come again when they are given back or
    /// claimed.
    Left(Vec<EntryId>),
    /// They are in the dead letters.
    Failed(Vec<EntryId>),
}

impl Report {
    fn ids(&self) -> &[EntryId] {
        match self {
            Report::Acked(ids)
            | Report::AckedInGroup(ids)
            | Report::Left(ids)
            | Report::Failed(ids) => ids,
        }
    }

    fn tell(&self, ledger: &mut Ledger) {
        match self {
            Report::Acked(ids) => ledger.acked(ids),
            Report::AckedInGroup(ids) => ledger.acked(&ledger.own_of(ids)),
            Report::Left(ids) => ledger.left(ids),
            Report::Failed(ids) => ledger.failed(ids),
        }
    }

    /// Takes in what was done next, if it is the same: who acknowledges row by row makes one report.
    fn takes_in(&mut self, next: &Report) -> bool {
        let (ids, more) = match (self, next) {
            (Report::Acked(ids), Report::Acked(more))
            | (Report::AckedInGroup(ids), Report::AckedInGroup(more))
            | (Report::Left(ids), Report::Left(more))
            | (Report::Failed(ids), Report::Failed(more)) => (ids, more),
            _ => return false,
        };
        ids.extend(more);
        true
    }
}

/// What there is to know of a batch that is ready, when it is handed out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handing {
    /// The bytes of all replies so far.
    pub(super) received: u64,
    /// When the server had delivered the first of its rows to this consumer of a group.
    pub(super) delivered: Option<Instant>,
    /// From when on others may have claimed them, or soon may.
    pub(super) old_at: Option<Instant>,
}

impl Handing {
    /// The bytes of all replies so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Of both batches as one.
    pub(super) fn with(self, other: Handing) -> Self {
        let first = |one: Option<Instant>, other| one.into_iter().chain(other).min();
        Handing {
            received: self.received.saturating_add(other.received),
            delivered: first(self.delivered, other.delivered),
            old_at: first(self.old_at, other.old_at),
        }
    }

    /// Whether the batch has waited for too long to be handed out.
    pub(crate) fn is_old(&self) -> bool {
        self.old_at.is_some_and(|old_at| old_at <= Instant::now())
    }
}

impl Watched {
    /// Of a reader whose entries are kept.
    pub(super) fn new(keeper: Keeper) -> Self {
        Watched { keeper, ..Watched::default() }
    }

    /// What is watched of some of several streams, for who reads those alone.
    pub(super) fn of_some(&self) -> Self {
        Watched {
            users: Arc::clone(&self.users),
            gave_back: Arc::clone(&self.gave_back),
            ..Watched::default()
        }
    }

    /// What is watched of one of several streams.
    pub(super) fn part(&self) -> Self {
        Watched {
            users: Arc::clone(&self.users),
            gave_back: Arc::clone(&self.gave_back),
            keeper: self.keeper.of_another_stream(),
            #[cfg(feature = "python")]
            positions: Arc::clone(&self.positions),
            ..Watched::default()
        }
    }

    /// There are more streams, after those that there were.
    pub(super) fn add_parts(&self, members: impl IntoIterator<Item = Member>) {
        let mut parts = self.parts();
        for member in members {
            member.watched.number.get_or_init(|| parts.len());
            parts.push(member);
        }
    }

    /// Gives those streams of some to another, by their numbers among all.
    pub(super) fn give_parts(&self, other: &Watched, is_other_s: impl Fn(usize) -> bool) {
        let own = std::mem::take(&mut *self.parts());
        let is_given =
            |member: &Member| member.watched.number.get().is_some_and(|n| is_other_s(*n));
        let (given, kept): (Vec<Member>, Vec<Member>) = own.into_iter().partition(is_given);
        self.parts().extend(kept);
        other.parts().extend(given);
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Member>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams of a reader without a group are these, by their numbers.
    #[cfg(feature = "python")]
    pub(super) fn set_names(&self, names: &Arc<StreamNames>) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(names);
    }

    /// The key of the stream of that number.
    #[cfg(feature = "python")]
    pub(crate) fn key(&self, stream: usize) -> Option<Vec<u8>> {
        if let Some(member) = self.member(stream) {
            return Some(member.stream);
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.keys().get(stream).cloned()
    }

    /// The consumer of one of several streams.
    #[cfg(feature = "python")]
    pub(crate) fn member(&self, stream: usize) -> Option<Member> {
        self.parts().get(stream).cloned()
    }

    /// What was done of each of several streams; nothing where the reader has one.
    #[cfg(feature = "python")]
    pub(crate) fn by_stream(&self) -> Vec<(String, Stats)> {
        let of_part = |member: &Member| (readable(&member.stream), *member.watched.lock());
        self.parts().iter().map(of_part).collect()
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Nothing is kept any more.
    pub(crate) fn keeps_no_more(&self) {
        self.keeper.end();
        self.parts().iter().for_each(|member| member.watched.keeper.end());
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let mut stats = *self.lock();
        self.parts().iter().for_each(|member| stats.add(&member.watched.lock()));
        stats
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.lock());
    }

    /// A batch is in its consumer's hands.
    pub(crate) fn hand_out(&self, batch: &Batch, handing: &Handing) {
        self.update(|stats| {
            stats.batches += 1;
            stats.bytes = stats.bytes.max(handing.received);
        });
        let parts = self.parts();
        if parts.is_empty() {
            self.took(batch.ids(), batch.delivery_counts(), handing);
            return;
        }
        for (stream, rows) in batch.rows_by_stream() {
            let counts = rows.iter().filter_map(|row| batch.delivery_counts().get(*row).copied());
            if let Some(member) = parts.get(stream) {
                member.watched.took(&batch.ids_of(&rows), &counts.collect::<Vec<u64>>(), handing);
                member.watched.lock().batches += 1;
            }
        }
    }

    /// Entries of one stream are in their consumer's hands, each delivered that often.
    fn took(&self, ids: &[EntryId], counts: &[u64], handing: &Handing) {
        let again = counts.iter().filter(|count| **count > 1).count();
        self.update(|stats| {
            stats.entries += ids.len() as u64;
            stats.reclaimed += again as u64;
            stats.last_id = stats.last_id.max(ids.last().copied());
        });
        if let Some(delivered) = handing.delivered {
            self.keeper.handed_out(ids, delivered);
        }
    }

    /// Entries were given back, each to be delivered again at its time.
    pub(crate) fn give_back(&self, entries: impl IntoIterator<Item = (EntryId, Instant)>) {
        let mut returns = self.returns();
        entries.into_iter().for_each(|(id, due)| returns.insert(id, due));
        drop(returns);
        self.gave_back.notify_waiters();
    }

    /// Waits until an entry that was given back is due, if that is before `end`.
    pub(crate) async fn returns_before(&self, end: Instant) {
        loop {
            let gave_back = self.gave_back.notified();
            match self.next_return().filter(|due| *due < end) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => drop(timeout_at(due.into(), gave_back).await),
                None => gave_back.await,
            }
        }
    }

    /// When the next of the entries that were given back is due.
    pub(crate) fn next_return(&self) -> Option<Instant> {
        let parts = self.parts();
        let of_parts = parts.iter().filter_map(|member| member.watched.returns().next());
        self.returns().next().into_iter().chain(of_parts).min()
    }

    /// The entries that were given back and have not been taken, each with when it is due.
    pub(crate) fn returns_left(&self) -> Vec<(Instant, EntryId)> {
        self.returns().all().collect()
    }

    /// Takes entries that were given back and are due, at most `most`.
    pub(crate) fn take_returns(&self, now: Instant, most: u64) -> Vec<EntryId> {
        self.returns().take(now, usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn returns(&self) -> MutexGuard<'_, Returns> {
        self.returns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the reader what was done to entries.
    pub(crate) fn report(&self, report: Report) {
        self.tell_position(|ledger| report.tell(ledger));
        self.keeper.done(report.ids());
        let mut reports = self.reports();
        if !reports.last_mut().is_some_and(|last| last.takes_in(&report)) {
            reports.push(report);
        }
    }

    /// Entries of the group were acknowledged by another way than this reader's. What it has not
    /// handed out yet cannot be its own, and is not kept: it may never ask for it.
    pub(crate) fn acknowledged_elsewhere(&self, ids: &[EntryId]) {
        // In a forked child the reader may be refused, and then need not know.
        let Some(_user) = self.users.enter() else { return };
        let last = self.lock().last_id;
        let perhaps_own: Vec<EntryId> =
            ids.iter().copied().filter(|id| last.is_some_and(|last| *id <= last)).collect();
        if !perhaps_own.is_empty() {
            self.report(Report::AckedInGroup(perhaps_own));
        }
    }

    /// Takes what was reported since the last call, in order.
    fn take_reports(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports())
    }

    /// Tells a reader's ledger what was reported since the last call.
    pub(super) fn tell_reports(&self, ledger: &mut Ledger) {
        for report in self.take_reports() {
            if let Report::AckedInGroup(ids) = &report {
                let own = ledger.own_of(ids);
                self.update(|stats| {
                    stats.acknowledged += own.len() as u64;
                    stats.done_up_to = stats.done_up_to.max(own.iter().max().copied());
                });
            }
            report.tell(ledger);
        }
    }

    fn reports(&self) -> MutexGuard<'_, Vec<Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on knows the position in each stream, which moves by this policy.
    #[cfg(feature = "python")]
    pub(crate) fn keep_positions(&self, acknowledge: Acknowledge) {
        self.positions.get_or_init(|| Mutex::new(Positions::new(acknowledge)));
    }

    /// Tells, or asks, where the reader's caller has come to, if that is kept.
    #[cfg(feature = "python")]
    pub(crate) fn positions<T>(&self, tell: impl FnOnce(&mut Positions) -> T) -> Option<T> {
        let positions = self.positions.get()?;
        Some(tell(&mut positions.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Tells the ledger of this stream's position, if one is kept.
    fn tell_position(&self, tell: impl FnOnce(&mut Ledger)) {
        #[cfg(feature = "python")]
        self.positions(|all| all.tell(self.number.get().copied().unwrap_or_default(), tell));
        #[cfg(not(feature = "python"))]
        let _ = tell;
    }

    /// What is known of entries is of those of a stream that was deleted.
    pub(crate) fn stream_replaced(&self) {
        self.tell_position(Ledger::stream_replaced);
        self.update(|stats| stats.done_up_to = None);
        self.keeper.all_done();
        *self.returns() = Returns::default();
    }

    /// These are done with although nobody has them in hand: dead letters, and deleted entries.
    pub(crate) fn gone(&self, ids: &[EntryId]) {
        self.tell_position(|ledger| ledger.failed(ids));
    }

    fn lock(&self) -> MutexGuard<'_, Stats> {
        // Numbers are whole whatever their holder was doing when it panicked.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
