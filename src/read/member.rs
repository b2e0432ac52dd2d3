//! What a consumer does to entries that were delivered to it, apart from reading.

use std::sync::Arc;

use redis::Value;

use super::ack;
use super::stats::Watched;
use crate::client::{Client, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::resp::Membership;

/// Entries in one script, which keeps other clients waiting.
const IDS: usize = 100;

/// Gives entries back, or keeps them: those that are this consumer's still. ARGV: group, consumer,
/// what to do, IDs. XNACK (8.8) gives an entry back at once; before, the entry is made to look idle
/// for a day. An error of the group is given as it is: before 7.0 that of a script has another code.
const SET_IDLE: &str = r"
local key, group, consumer, what = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local done = 0
for i = 4, #ARGV do
  local id = ARGV[i]
  local pending = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
  if pending.err then
    return pending
  end
  if #pending > 0 then
    if what == 'keep' then
      redis.call('XCLAIM', key, group, consumer, 0, id, 'JUSTID')
    else
      local reply = redis.pcall('XNACK', key, group, 'FAIL', 'IDS', 1, id)
      if type(reply) == 'table' and reply.err then
        redis.call('XCLAIM', key, group, consumer, 0, id, 'IDLE', 86400000, 'JUSTID')
      end
    end
    done = done + 1
  end
end
return done
";

/// Moves entries that are this consumer's still to another stream, each in one step with its
/// acknowledgement. ARGV: group, consumer, IDs with reasons. What is written comes first, because
/// a script is not rolled back.
const TO_DEAD_LETTER: &str = r"
local key, dead, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local kind = redis.call('TYPE', dead)['ok']
if kind ~= 'none' and kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE the dead-letter stream is the key of a ' .. kind)
end
local now = redis.call('TIME')
local ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
local moved = 0
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local found = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
  if found.err then
    return found
  end
  local pending = found[1]
  if pending then
    local entry = redis.call('XRANGE', key, id, id)[1]
    if entry then
      local letter = {'XADD', dead, '*'}
      for _, part in ipairs(entry[2]) do
        letter[#letter + 1] = part
      end
      for _, part in ipairs({
        '_dead_stream', key, '_dead_id', id, '_dead_group', group, '_dead_consumer', consumer,
        '_dead_deliveries', pending[4], '_dead_reason', ARGV[i + 1], '_dead_time', ms,
      }) do
        letter[#letter + 1] = part
      end
      redis.call(unpack(letter))
      moved = moved + 1
    end
    redis.call('XACK', key, group, id)
  end
end
return moved
";

/// A consumer of a group, for what it does to entries beside reading them: acknowledge, give back,
/// keep, move to the dead-letter stream. Made by [`Batches::member`](crate::Batches::member).
///
/// Each command is about those entries only that are pending for this consumer still; another may
/// have claimed the rest meanwhile, or they are acknowledged. After a lost connection a command is
/// repeated, and then does not count what the lost one did.
#[derive(Clone)]
pub struct Member {
    pub(super) client: Client,
    pub(super) stream: Vec<u8>,
    pub(super) group: Vec<u8>,
    pub(super) consumer: Vec<u8>,
    pub(super) dead_letter: Option<Vec<u8>>,
    pub(super) watched: Arc<Watched>,
}

impl Member {
    /// Acknowledges entries (XACK, Redis 5.0); says how many were pending.
    ///
    /// # Errors
    ///
    /// Every kind that connecting or the server can raise.
    pub async fn acknowledge(&self, ids: &[EntryId]) -> Result<u64> {
        let session = &mut self.client.session();
        let number = ack::acknowledge(session, &self.stream, &self.group, ids).await;
        let number = number.map_err(|error| self.about(error))?;
        // Not once more with their batch.
        self.leave_pending(ids);
        self.watched.update(|stats| {
            stats.acknowledged += number;
            stats.done_up_to = stats.done_up_to.max(ids.iter().max().copied());
        });
        Ok(number)
    }

    /// Gives entries back to the group: they are delivered again, to whichever consumer claims
    /// them next (XNACK, Redis 8.8; before, XCLAIM with an idle time of a day). Says how many were
    /// this consumer's.
    ///
    /// # Errors
    ///
    /// As [`acknowledge`](Member::acknowledge).
    pub async fn give_back(&self, ids: &[EntryId]) -> Result<u64> {
        self.leave_pending(ids);
        let number = self.set_idle(b"give back", ids).await?;
        self.watched.give_back();
        Ok(number)
    }

    /// Keeps entries of the batch in hand from being acknowledged with it; they are claimed again
    /// once they have been idle for long enough. Sends nothing.
    pub fn leave_pending(&self, ids: &[EntryId]) {
        self.watched.keep_pending(ids);
    }

    /// Keeps entries from being claimed by others for another while (XCLAIM JUSTID, Redis 5.0).
    /// Says how many are this consumer's still.
    ///
    /// # Errors
    ///
    /// As [`acknowledge`](Member::acknowledge).
    pub async fn keep(&self, ids: &[EntryId]) -> Result<u64> {
        self.set_idle(b"keep", ids).await
    }

    async fn set_idle(&self, what: &[u8], ids: &[EntryId]) -> Result<u64> {
        let session = &mut self.client.session();
        let mut number = 0;
        for ids in ids.chunks(IDS) {
            let ids = ids.iter().map(|id| id.to_string().into_bytes());
            let arguments: Vec<Vec<u8>> = std::iter::once(what.to_vec()).chain(ids).collect();
            let command = self.membership().script(SET_IDLE, &[], &arguments);
            let reply = session.value(&command).await.map_err(|error| self.about(error))?;
            number += as_number(&reply)?;
        }
        Ok(number)
    }

    /// Moves entries to the dead-letter stream, each in one step with its acknowledgement, with
    /// their fields and `_dead_stream`, `_dead_id`, `_dead_group`, `_dead_consumer`,
    /// `_dead_deliveries`, `_dead_reason` and `_dead_time` (milliseconds). Says how many. What
    /// cannot be written stays pending. A script (EVAL) of XRANGE, XADD and XACK.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where there is no dead-letter stream;
    /// [`WrongType`](crate::ErrorKind::WrongType) where its key is no stream; and as
    /// [`acknowledge`](Member::acknowledge).
    pub async fn dead_letter(&self, entries: &[(EntryId, String)]) -> Result<u64> {
        // Those that cannot be moved are not to be acknowledged with their batch.
        self.leave_pending(&entries.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        let session = &mut self.client.session();
        let moved = self.move_to_dead_letter(session, entries).await;
        moved.map_err(|error| self.about(error))
    }

    pub(super) async fn move_to_dead_letter(
        &self,
        session: &mut Session,
        entries: &[(EntryId, String)],
    ) -> Result<u64> {
        let Some(dead_letter) = &self.dead_letter else {
            return Err(Error::invalid(
                "there is no dead-letter stream; name one: dead_letter=...",
            ));
        };
        let mut number = 0;
        for entries in entries.chunks(IDS) {
            let pairs = entries.iter();
            let arguments: Vec<Vec<u8>> = pairs
                .flat_map(|(id, why)| [id.to_string().into_bytes(), why.clone().into_bytes()])
                .collect();
            let command = self.membership().script(TO_DEAD_LETTER, &[dead_letter], &arguments);
            let moved = as_number(&session.value(&command).await?)?;
            self.watched.update(|stats| stats.dead_lettered += moved);
            number += moved;
        }
        Ok(number)
    }

    /// The same consumer over other connections, such as those of another runtime.
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    pub(super) fn membership(&self) -> Membership<'_> {
        Membership { stream: &self.stream, group: &self.group, consumer: &self.consumer }
    }

    fn about(&self, error: Error) -> Error {
        error.with_context("stream", String::from_utf8_lossy(&self.stream).into_owned())
    }
}

fn as_number(reply: &Value) -> Result<u64> {
    match reply {
        Value::Int(number) => Ok(u64::try_from(*number).unwrap_or_default()),
        other => Err(Error::protocol(format_args!("{other:?} came for a script's number"))),
    }
}
