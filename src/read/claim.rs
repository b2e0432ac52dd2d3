//! Taking over what consumers have left pending for too long.

use std::time::{Duration, Instant};

use redis::Value;

use super::group_options::Reclaim;
use crate::admin::{PendingFilter, pending_entries_in};
use crate::client::Session;
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result, ServerCode};
use crate::resp::{self, Membership};

/// How a server hands over entries that are another consumer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// XREADGROUP CLAIM, before new entries. Redis 8.4.
    WithRead,
    /// XAUTOCLAIM, along the pending list. Redis 6.2.
    Automatic,
    /// XPENDING, and XCLAIM of what has been idle for long enough. Redis 5.0.
    Listed,
}

/// Passes over a group's pending list, each in as many steps as it takes.
pub(super) struct Claimer {
    min_idle_ms: u64,
    interval: Duration,
    method: Method,
    /// When the next pass begins.
    due: Instant,
    /// Where the pass that is under way goes on.
    at: Option<EntryId>,
    /// Entries were claimed, or a pass is over, and others come first now.
    others_first: bool,
    /// Up to where the pending list was searched for deleted entries, where no claim tells them.
    swept: EntryId,
}

/// One step of a pass.
pub(super) enum Step {
    /// Asks for entries from there on.
    From(EntryId),
    /// Asks for these.
    Listed(Vec<EntryId>),
}

impl Claimer {
    /// Entries in one step of a pass that is not bounded by a batch.
    const LISTED: u64 = 1_000;
    /// Passes follow one another no faster, or nothing else would be done.
    const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

    pub(super) fn new(options: Reclaim) -> Self {
        Claimer {
            min_idle_ms: u64::try_from(options.min_idle.as_millis()).unwrap_or(u64::MAX),
            interval: options.interval.max(Self::SHORTEST_INTERVAL),
            method: Method::WithRead,
            due: Instant::now(),
            at: None,
            others_first: false,
            swept: EntryId::MIN,
        }
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn min_idle_ms(&self) -> u64 {
        self.min_idle_ms
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

    /// Whether there is more to be claimed than time alone brings.
    pub(super) fn has_more(&self) -> bool {
        self.at.is_some()
    }

    /// Takes the next older method where the server does not know this one.
    pub(super) fn fall_back(&mut self, error: &Error) -> bool {
        let unknown = matches!(
            error.server_code(),
            Some(ServerCode::SyntaxError | ServerCode::UnknownCommand)
        );
        let older = match self.method {
            Method::WithRead => Method::Automatic,
            Method::Automatic => Method::Listed,
            Method::Listed => return false,
        };
        if unknown {
            self.method = older;
        }
        unknown
    }

    /// The next step, for so many entries at most; `None` at the end of the pass.
    pub(super) async fn next_step(
        &mut self,
        session: &mut Session,
        member: Membership<'_>,
        count: u64,
    ) -> Result<Option<Step>> {
        let mut at = self.at.unwrap_or(EntryId::MIN);
        self.at = Some(at);
        if self.method != Method::Listed {
            return Ok(Some(Step::From(at)));
        }
        loop {
            let filter = PendingFilter {
                start: IdBound::Id(at),
                count: Some(Self::LISTED),
                ..PendingFilter::default()
            };
            let Membership { stream, group, .. } = member;
            let page = pending_entries_in(session, stream, group, &filter).await?;
            let least = Duration::from_millis(self.min_idle_ms);
            // What was given back has no idle time.
            let idle = page.iter().filter(|entry| entry.idle.is_none_or(|idle| idle >= least));
            let mut ids: Vec<EntryId> = idle.map(|entry| entry.id).collect();
            let most = usize::try_from(count).unwrap_or(usize::MAX).max(1);
            if ids.len() > most {
                ids.truncate(most);
                self.at = ids.last().and_then(|id| id.successor());
                return Ok(Some(Step::Listed(ids)));
            }
            let next = page.last().and_then(|entry| entry.id.successor());
            match next.filter(|_| page.len() as u64 >= Self::LISTED) {
                None if ids.is_empty() => {
                    self.end_pass();
                    return Ok(None);
                }
                None => self.at = Some(EntryId::MAX),
                Some(next) => self.at = Some(next),
            }
            if !ids.is_empty() {
                return Ok(Some(Step::Listed(ids)));
            }
            at = self.at.unwrap_or(at);
        }
    }

    /// So many entries came for a step that asked for so many; the pass goes on at the cursor.
    pub(super) fn came(&mut self, entries: u64, asked: u64, cursor: EntryId) {
        self.others_first = entries > 0;
        match self.method {
            Method::WithRead if entries < asked => self.end_pass(),
            // 0-0 at the end; a cursor that stands still would be followed for ever.
            Method::Automatic if Some(cursor) <= self.at => self.end_pass(),
            Method::Automatic => self.at = Some(cursor),
            Method::Listed if self.at == Some(EntryId::MAX) => self.end_pass(),
            Method::WithRead | Method::Listed => {}
        }
    }

    /// Whether a pass is under way.
    pub(super) fn in_pass(&self) -> bool {
        self.at.is_some()
    }

    fn end_pass(&mut self) {
        self.at = None;
        self.others_first = true;
        self.due = Instant::now().checked_add(self.interval).unwrap_or(self.due);
    }

    /// Acknowledges idle entries that were deleted, which XREADGROUP CLAIM passes over: a part of
    /// the pending list each time. Gives their IDs.
    pub(super) async fn sweep(
        &mut self,
        session: &mut Session,
        member: Membership<'_>,
    ) -> Result<Vec<EntryId>> {
        let mut command = member.claim_from(self.swept, self.min_idle_ms, Self::LISTED);
        let reply = session.value(&command.arg("JUSTID").get_packed_command()).await?;
        let parts: Vec<&Value> = reply.as_sequence().into_iter().flatten().collect();
        let (cursor, deleted) = match parts.as_slice() {
            [cursor, _, deleted] => (resp::id(cursor), deleted.as_sequence()),
            _ => (None, None),
        };
        self.swept = cursor.unwrap_or(EntryId::MIN);
        Ok(deleted.into_iter().flatten().filter_map(resp::id).collect())
    }
}
