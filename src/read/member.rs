//! What a consumer does to entries that were delivered to it, apart from reading.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ack::{self, Acknowledged};
#[cfg(feature = "python")]
use super::ack_each::acknowledge_each;
use super::dead_letter::Letter;
use super::nack::{Portion, idle_of, idle_without, pause};
use super::stats::{Report, Watched};
use crate::admin::{delete_if_idle, delete_others_idle_for};
use crate::client::{Client, Session, Who};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{self, Membership};

/// How long a worker that ends hands over what it gave back; the rest waits longer.
pub(super) const HANDING_OVER: Duration = Duration::from_secs(1);

/// Sets how long entries look idle: those that are this consumer's still. ARGV: group, consumer, and
/// for each entry its ID and idle time in milliseconds. Gives the IDs of the others. An error of the group is given as it is:
/// before 7.0 that of a script has another code.
const SET_IDLE: &str = r"
local key, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local lost = {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local pending = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
  if pending.err then
    return pending
  end
  if #pending > 0 then
    redis.call('XCLAIM', key, group, consumer, 0, id, 'IDLE', ARGV[i + 1], 'JUSTID')
  else
    lost[#lost + 1] = id
  end
end
return lost
";

/// A consumer of a group, for what it does to entries beside reading them: acknowledge, give back
/// (nack), keep, move to the dead-letter stream. Made by [`Batches::member`](crate::Batches::member).
///
/// Each command is about those entries only that are pending for this consumer still; another may
/// have claimed the rest meanwhile, or they are acknowledged. After a lost connection a command is
/// repeated, and then does not count what the lost one did; only of dead letters the stream tells.
#[derive(Clone)]
pub struct Member {
    pub(super) client: Client,
    /// For what a loop does of its own accord: as patient as its reader.
    pub(super) patient: Client,
    pub(super) stream: Vec<u8>,
    pub(super) group: Vec<u8>,
    pub(super) consumer: Vec<u8>,
    pub(super) dead_letter: Option<Vec<u8>>,
    /// After how long others claim an entry, as far as this consumer's options say.
    pub(super) reclaim_min_idle: Option<Duration>,
    /// The stream is one that a pattern matches; it may go.
    pub(super) is_found: bool,
    /// The reader goes on where the group is gone.
    pub(super) outlives_group: bool,
    pub(super) watched: Arc<Watched>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        f.debug_struct("Member")
            .field("stream", &text(&self.stream))
            .field("group", &text(&self.group))
            .field("consumer", &text(&self.consumer))
            .finish_non_exhaustive()
    }
}

impl Member {
    /// Acknowledges entries (XACK, Redis 5.0); says how many were pending.
    ///
    /// # Errors
    ///
    /// Every kind that connecting or the server can raise.
    pub async fn acknowledge(&self, ids: &[EntryId]) -> Result<u64> {
        let session = &mut self.client.session_for(&self.stream);
        let acknowledged = ack::acknowledge(session, &self.stream, &self.group, ids).await;
        self.acknowledged(ids, acknowledged)
    }

    fn acknowledged(&self, ids: &[EntryId], acknowledged: Result<Acknowledged>) -> Result<u64> {
        let acknowledged = acknowledged.map_err(|error| self.about(error))?;
        // Not once more with their batch.
        self.watched.report(Report::Acked(ids.to_vec()));
        self.watched.update(|stats| {
            stats.acknowledged += acknowledged.own;
            stats.done_up_to = stats.done_up_to.max(ids.iter().max().copied());
        });
        Ok(acknowledged.pending)
    }

    /// Entries were acknowledged by a script of which this was a part: they are done with.
    pub(crate) fn acknowledged_with_others(&self, ids: &[EntryId]) {
        let number = ids.len() as u64;
        let _ = self.acknowledged(ids, Ok(Acknowledged { pending: number, own: number }));
    }

    /// As [`acknowledge`](Member::acknowledge), of several streams that one reader has: in few round
    /// trips. An error does not keep others from it.
    #[cfg(feature = "python")]
    pub(crate) async fn acknowledge_each(all: &[(Member, Vec<EntryId>)]) -> Result<u64> {
        let [(one, _), ..] = all else { return Ok(0) };
        let entries = all.iter().map(|(member, ids)| (member.stream.as_slice(), ids.as_slice()));
        let entries: Vec<_> = entries.collect();
        let acknowledged = acknowledge_each(&one.client, &one.group, &entries).await;
        let told = all.iter().zip(acknowledged);
        let told = told.map(|((member, ids), one)| member.acknowledged(ids, one));
        // All of them take note.
        told.collect::<Vec<_>>().into_iter().sum()
    }

    /// Gives entries back, each with how often it has been delivered: they are delivered again after
    /// `delay`, or by default after a time that doubles with each delivery, from 100 ms to 30 s. To
    /// this consumer, which asks for them when the time has come, or to another that claims idle
    /// entries. Says how many were this consumer's.
    ///
    /// They stay this consumer's meanwhile, and look as if they had just been delivered (XCLAIM IDLE
    /// JUSTID in a script, Redis 5.0). [`Batches::finish`](crate::Batches::finish) has others wait no
    /// longer than this consumer would have. After a restart they come at once, with what else is
    /// pending. An entry that is named twice counts once.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a delay longer than the idle time
    /// after which entries are reclaimed; and as [`acknowledge`](Member::acknowledge).
    pub async fn nack(&self, entries: &[(EntryId, u64)], delay: Option<Duration>) -> Result<u64> {
        let mut seen = HashSet::new();
        let pauses: Vec<(EntryId, Duration)> = entries
            .iter()
            .filter(|(id, _)| seen.insert(*id))
            .map(|(id, deliveries)| Ok((*id, pause(delay, *deliveries, self.reclaim_min_idle)?)))
            .collect::<Result<_>>()?;
        let ids: Vec<EntryId> = pauses.iter().map(|(id, _)| *id).collect();
        self.leave_pending(&ids);
        let _pausing = self.watched.keeper().pause().await;
        let session = &mut self.client.session_for(&self.stream);
        let (mut number, mut rest) = (0, pauses.as_slice());
        let mut portion = Portion::new();
        while let Some((_, first)) = rest.first() {
            // An entry that has to wait costs the same whatever else is pending.
            let at_once = if first.is_zero() { portion.size } else { Portion::MOST };
            let (pauses, others) = rest.split_at(at_once.min(rest.len()));
            let begun = Instant::now();
            let idle = pauses.iter().map(|(id, pause)| (*id, idle_of(*pause)));
            number += pauses.len() - self.set_idle(session, idle).await?.len();
            // After the reply, so that none is asked for before the server makes it look idle.
            let now = Instant::now();
            portion.took(now.saturating_duration_since(begun));
            let due = |pause: Duration| now.checked_add(pause).unwrap_or(now);
            self.watched.give_back(pauses.iter().map(|(id, pause)| (*id, due(*pause))));
            rest = others;
        }
        Ok(number as u64)
    }

    /// Has others wait no longer than this consumer would have for what it gave back, as it will not
    /// ask for it, and not at all for what it has fetched and nobody has seen; those first that are due
    /// first. What is left, because of an error perhaps, others claim when
    /// they claim what else is pending.
    pub(super) async fn hand_over(&self, session: &mut Session, unseen: &[EntryId]) {
        let Some(min_idle) = self.reclaim_min_idle else {
            // Nobody is known to claim anything.
            return;
        };
        let now = Instant::now();
        let unseen = unseen.iter().map(|id| (now, *id));
        let mut returns = self.watched.returns_left();
        returns.extend(unseen.filter(|_| !min_idle.is_zero()));
        returns.sort_unstable();
        let (mut portion, mut rest) = (Portion::new(), returns.as_slice());
        while !rest.is_empty() {
            let (returns, others) = rest.split_at(portion.size.min(rest.len()));
            let now = Instant::now();
            let idle = returns
                .iter()
                .map(|(due, id)| (*id, idle_without(due.saturating_duration_since(now), min_idle)));
            if self.set_idle(session, idle).await.is_err() {
                return;
            }
            portion.took(now.elapsed());
            rest = others;
        }
    }

    /// Keeps entries of the batch in hand from being acknowledged with it; they are claimed again
    /// once they have been idle for long enough. Sends nothing.
    pub fn leave_pending(&self, ids: &[EntryId]) {
        self.watched.report(Report::Left(ids.to_vec()));
    }

    /// Keeps entries from being claimed by others for another while (XCLAIM JUSTID in a script, Redis
    /// 5.0), and says how many are this consumer's still. Those that are
    /// [kept anyhow](Member::keep_in_hand) may be for as long as if they had been handed out now.
    ///
    /// # Errors
    ///
    /// As [`acknowledge`](Member::acknowledge).
    pub async fn keep(&self, ids: &[EntryId]) -> Result<u64> {
        let session = &mut self.client.session_for(&self.stream);
        let mut number = 0;
        for ids in ids.chunks(Portion::MOST) {
            let lost = self.set_back(session, ids).await?;
            let own: Vec<EntryId> = ids.iter().copied().filter(|id| !lost.contains(id)).collect();
            self.watched.keeper().renewed(&own);
            number += own.len() as u64;
        }
        Ok(number)
    }

    /// Makes entries look as if they had just been delivered, in one script; gives those that are not
    /// this consumer's any more.
    pub(super) async fn set_back(
        &self,
        session: &mut Session,
        ids: &[EntryId],
    ) -> Result<Vec<EntryId>> {
        self.set_idle(session, ids.iter().map(|id| (*id, Duration::ZERO))).await
    }

    /// Makes entries look idle for so long, in one script; gives those that are not this consumer's
    /// any more.
    async fn set_idle(
        &self,
        session: &mut Session,
        idle: impl Iterator<Item = (EntryId, Duration)>,
    ) -> Result<Vec<EntryId>> {
        let arguments: Vec<Vec<u8>> = idle
            .flat_map(|(id, idle)| [id.to_string(), idle.as_millis().to_string()])
            .map(String::into_bytes)
            .collect();
        let command = self.membership().script(SET_IDLE, &[], &arguments);
        let reply = session.value(&command).await.map_err(|error| self.about(error))?;
        let lost = reply.as_sequence().map(|ids| ids.iter().map(resp::id).collect());
        lost.flatten().ok_or_else(|| Error::protocol("what came for a script is not what it gives"))
    }

    /// Moves entries to the dead-letter stream, each in one step with its acknowledgement, with
    /// their fields and `_dead_stream`, `_dead_id`, `_dead_group`, `_dead_consumer`,
    /// `_dead_deliveries`, `_dead_reason` (64 KiB of it at most) and `_dead_time` (milliseconds). Says
    /// how many. What cannot be written stays pending. A script (EVAL) of XRANGE, XADD and XACK; for
    /// an entry of more than about 3,900 fields a transaction.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where there is no dead-letter stream;
    /// [`WrongType`](crate::ErrorKind::WrongType) where its key is no stream; and as
    /// [`acknowledge`](Member::acknowledge). An error names the entry that could not be moved; those
    /// after it have not been moved either.
    pub async fn dead_letter(&self, ids: &[EntryId], reason: &str) -> Result<u64> {
        // Those that cannot be moved are not to be acknowledged with their batch.
        self.leave_pending(ids);
        let letters: Vec<Letter> = ids.iter().map(|id| Letter::told(*id, reason)).collect();
        let session = &mut self.client.session_for(&self.stream);
        let (settled, moved) = self.move_to_dead_letter(session, &letters, true).await;
        self.watched.report(Report::Failed(settled));
        match moved {
            // Nothing is pending any more, and the reader goes on without.
            Err(error) if error.kind() == ErrorKind::NoGroup && self.outlives_group => Ok(0),
            moved => moved.map_err(|error| self.about(error)),
        }
    }

    /// Removes this consumer from its group where nothing is pending for it; says whether it is gone.
    ///
    /// # Errors
    ///
    /// As [`acknowledge`](Member::acknowledge).
    pub async fn remove(&self) -> Result<bool> {
        let session = &mut self.client.session_for(&self.stream);
        match delete_if_idle(session, self.membership()).await {
            Err(error) if error.kind() == ErrorKind::NoGroup => Ok(true),
            pending => Ok(pending? == 0),
        }
    }

    /// Removes other consumers of the group that have not asked for entries for `idle`, where
    /// nothing is pending for them; says how many.
    ///
    /// # Errors
    ///
    /// As [`acknowledge`](Member::acknowledge).
    pub async fn remove_others(&self, idle: Duration) -> Result<u64> {
        let session = &mut self.client.session_for(&self.stream);
        match delete_others_idle_for(session, self.membership(), idle).await {
            // It is yet to be created.
            Err(error) if error.kind() == ErrorKind::NoGroup => Ok(0),
            removed => removed,
        }
    }

    /// The same consumer over other connections, such as those of another runtime.
    pub fn with_client(mut self, client: Client) -> Self {
        self.patient = client.as_patient_as(&self.patient);
        self.client = client;
        self
    }

    /// The same consumer for what its loop does of its own accord, through any outage that the loop
    /// itself outlasts.
    pub(crate) fn patiently(&self) -> Self {
        Member { client: self.patient.clone(), ..self.clone() }
    }

    /// What is watched of its stream.
    #[cfg(feature = "python")]
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    pub(super) fn membership(&self) -> Membership<'_> {
        Membership { stream: &self.stream, group: &self.group, consumer: &self.consumer }
    }

    /// This consumer, for the log.
    pub(super) fn who(&self) -> Who {
        Who::new(&self.stream).with_group(&self.group, &self.consumer)
    }

    /// The error with the stream's name.
    pub(super) fn about(&self, error: Error) -> Error {
        error.with_context("stream", String::from_utf8_lossy(&self.stream).into_owned())
    }
}
