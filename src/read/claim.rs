//! Taking over what consumers have left pending for too long.

use std::time::{Duration, Instant};

use redis::Value;

use super::bounds::{ids_only, last_decoded};
use super::group_options::Reclaim;
use crate::admin::{PendingEntry, PendingFilter, pending_entries_in};
use crate::client::Session;
use crate::decode::ReplyShape;
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result, ServerCode};
use crate::resp::{self, Membership, Packed, RawReply};

/// Passes over a group's pending list, each in as many steps as it takes. What is claimed becomes
/// this consumer's without counting as a delivery, and is then read as own pending entries are.
pub(super) struct Claimer {
    min_idle: Duration,
    interval: Duration,
    /// The server knows XAUTOCLAIM (Redis 6.2); others list what is pending (XPENDING) and claim
    /// what has been idle for long enough (XCLAIM).
    claims_along: bool,
    /// When the next pass begins.
    due: Instant,
    /// Where the pass in progress goes on.
    at: Option<EntryId>,
    /// Entries were claimed, or a pass is over, and others come first now.
    others_first: bool,
}

/// What a step came to.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// These are this consumer's now.
    pub(super) claimed: Vec<EntryId>,
    /// These had been deleted from the stream; the server has acknowledged them.
    pub(super) deleted: Vec<EntryId>,
}

impl Claimer {
    /// Entries that one XPENDING lists.
    const LISTED: u64 = 1_000;
    /// Passes follow one another no faster, or nothing else would be done.
    const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

    pub(super) fn new(options: Reclaim) -> Self {
        Claimer {
            min_idle: options.min_idle,
            interval: options.interval.max(Self::SHORTEST_INTERVAL),
            claims_along: true,
            due: Instant::now(),
            at: None,
            others_first: false,
        }
    }

    /// How long others may be waited for.
    pub(super) fn time_for_others(&self) -> Duration {
        match self.at {
            Some(_) => Duration::ZERO,
            None => self.due.saturating_duration_since(Instant::now()),
        }
    }

    /// Whether it is a claim's turn.
    pub(super) fn is_due(&self) -> bool {
        !self.others_first && self.time_for_others().is_zero()
    }

    /// Others had their turn.
    pub(super) fn others_came(&mut self) {
        self.others_first = false;
    }

    /// Whether a pass is in progress.
    pub(super) fn in_pass(&self) -> bool {
        self.at.is_some()
    }

    /// Takes one step of a pass, for `count` entries at most.
    pub(super) async fn step(
        &mut self,
        session: &mut Session,
        member: Membership<'_>,
        count: u64,
    ) -> Result<Claimed> {
        let at = *self.at.get_or_insert(EntryId::MIN);
        if self.claims_along {
            match self.claim_along(session, member, at, count).await {
                Err(error) if error.server_code() == Some(ServerCode::UnknownCommand) => {
                    self.cannot_claim_along();
                }
                step => return step,
            }
        }
        self.claim_listed(session, member, at, count).await
    }

    /// The server does not know XAUTOCLAIM.
    pub(super) fn cannot_claim_along(&mut self) {
        self.claims_along = false;
    }

    async fn claim_along(
        &mut self,
        session: &mut Session,
        member: Membership<'_>,
        at: EntryId,
        count: u64,
    ) -> Result<Claimed> {
        let command = member.claim_from(at, self.min_idle_ms(), count);
        let reply = claim_once(session, &command).await?;
        self.took(&reply)
    }

    /// The command of the next step, for `count` entries at most, to be sent once together with those
    /// of other streams; `None` where the server does not know it.
    pub(super) fn command(&mut self, member: Membership<'_>, count: u64) -> Option<Packed> {
        let at = *self.at.get_or_insert(EntryId::MIN);
        self.claims_along.then(|| member.claim_from(at, self.min_idle_ms(), count))
    }

    /// The reply to that command has come.
    pub(super) fn took(&mut self, reply: &Value) -> Result<Claimed> {
        let at = self.at.unwrap_or(EntryId::MIN);
        let (cursor, claimed, deleted) = match reply.as_sequence() {
            // Redis 7.0 tells what was deleted; before, it is claimed too, and comes without fields.
            Some([cursor, claimed, rest @ ..]) => (cursor, claimed, rest.first()),
            _ => return Err(Error::protocol(format_args!("{reply:?} came for XAUTOCLAIM"))),
        };
        let ids = |list: &Value| -> Vec<EntryId> {
            list.as_sequence().into_iter().flatten().filter_map(resp::id).collect()
        };
        let claimed = ids(claimed);
        let cursor = resp::id(cursor).unwrap_or(EntryId::MIN);
        // 0-0 at the end; a cursor that stands still would be followed for ever.
        self.went_on((cursor > at).then_some(cursor), !claimed.is_empty());
        Ok(Claimed { claimed, deleted: deleted.map(ids).unwrap_or_default() })
    }

    async fn claim_listed(
        &mut self,
        session: &mut Session,
        member: Membership<'_>,
        at: EntryId,
        count: u64,
    ) -> Result<Claimed> {
        let filter = PendingFilter {
            start: IdBound::Id(at),
            count: Some(Self::LISTED),
            ..PendingFilter::default()
        };
        let Membership { stream, group, .. } = member;
        let page = pending_entries_in(session, stream, group, &filter).await?;
        let (ids, next) = self.idle_of(&page, count);
        let claimed = match ids.as_slice() {
            [] => Vec::new(),
            ids => {
                let command = member.claim(ids, self.min_idle_ms());
                let reply = claim_once(session, &command).await?;
                let claimed = reply.as_sequence().into_iter().flatten();
                claimed.filter_map(resp::id).collect::<Vec<EntryId>>()
            }
        };
        self.went_on(next, !claimed.is_empty());
        // Since 7.0 those that were deleted leave the pending list instead of being claimed.
        let mut deleted = Vec::new();
        for id in ids.into_iter().filter(|id| !claimed.contains(id)) {
            let command = resp::range(stream, id, id, 1);
            let decode = || ids_only(ReplyShape::Entries);
            let found = session.request(&command, decode, last_decoded).await?;
            if found.is_none() {
                deleted.push(id);
            }
        }
        Ok(Claimed { claimed, deleted })
    }

    /// Which entries of a page of the pending list are to be claimed, at most `count`, and where
    /// to go on; `None` at the end.
    fn idle_of(&self, page: &[PendingEntry], count: u64) -> (Vec<EntryId>, Option<EntryId>) {
        // What was given back has no idle time.
        let idle = page.iter().filter(|entry| entry.idle.is_none_or(|idle| idle >= self.min_idle));
        let mut ids: Vec<EntryId> = idle.map(|entry| entry.id).collect();
        let most = usize::try_from(count).unwrap_or(usize::MAX).max(1);
        if ids.len() > most {
            ids.truncate(most);
            let next = ids.last().and_then(|id| id.successor());
            return (ids, next);
        }
        let is_full = page.len() as u64 >= Self::LISTED;
        let next = page.last().and_then(|entry| entry.id.successor()).filter(|_| is_full);
        (ids, next)
    }

    fn min_idle_ms(&self) -> u64 {
        u64::try_from(self.min_idle.as_millis()).unwrap_or(u64::MAX)
    }

    /// The pass goes on there, or is over; it has claimed something.
    fn went_on(&mut self, next: Option<EntryId>, claimed: bool) {
        self.at = next;
        self.others_first = claimed || next.is_none();
        if next.is_none() {
            self.due = Instant::now().checked_add(self.interval).unwrap_or(self.due);
        }
    }
}

/// Claims without trying again: what was claimed by a command whose reply was lost is idle no more,
/// and has to be looked for among this consumer's own.
async fn claim_once(session: &mut Session, command: &[u8]) -> Result<Value> {
    let reply = RawReply::new();
    session.attempt(command, Some(Duration::ZERO), reply, RawReply::into_value).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimer(min_idle_ms: u64) -> Claimer {
        let ms = Duration::from_millis;
        Claimer::new(Reclaim { min_idle: ms(min_idle_ms), interval: ms(60_000) })
    }

    fn entry(number: u64, idle_ms: Option<u64>) -> PendingEntry {
        PendingEntry {
            id: EntryId::new(number, 0),
            consumer: idle_ms.map(|_| b"other".to_vec()),
            idle: idle_ms.map(Duration::from_millis),
            delivery_count: 1,
        }
    }

    #[test]
    fn what_is_idle_or_nobody_s_is_claimed() {
        let page = [entry(1, Some(500)), entry(2, Some(499)), entry(3, None), entry(4, Some(900))];
        let id = |number| EntryId::new(number, 0);
        assert_eq!(claimer(500).idle_of(&page, 10), (vec![id(1), id(3), id(4)], None));
        // The rest of the page has its turn in the next step.
        let (ids, next) = claimer(500).idle_of(&page, 2);
        assert_eq!((ids, next), (vec![id(1), id(3)], id(3).successor()));
        assert_eq!(claimer(500).idle_of(&[], 2), (Vec::new(), None));
    }

    #[test]
    fn a_full_page_is_not_the_last() {
        let page: Vec<PendingEntry> = (1..=Claimer::LISTED).map(|n| entry(n, Some(0))).collect();
        let (ids, next) = claimer(500).idle_of(&page, 10);
        assert!(ids.is_empty());
        assert_eq!(next, EntryId::new(Claimer::LISTED, 0).successor());
    }

    #[test]
    fn claims_and_new_entries_take_turns() {
        let mut claimer = claimer(0);
        assert!(claimer.is_due());
        claimer.went_on(Some(EntryId::new(5, 0)), true);
        assert!(claimer.in_pass() && !claimer.is_due());
        claimer.others_came();
        assert!(claimer.is_due());
        // The pass is over: others first, and then the interval.
        claimer.went_on(None, false);
        claimer.others_came();
        assert!(!claimer.in_pass() && !claimer.is_due());
    }
}
