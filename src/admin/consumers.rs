//! Consumers that are no more, taken out of their group.

use std::time::Duration;

use super::{about, count_of, no_group};
use crate::client::{Client, Session};
use crate::error::{Error, ErrorKind, Result, counted};
use crate::resp::{self, Membership};

/// Deletes a consumer where nothing is pending for it; gives how many entries are. An error of the
/// group is given as it is: before 7.0 that of a script has another code.
const DELETE: &str = r"
local key, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local summary = redis.pcall('XPENDING', key, group)
if summary.err then
  return summary
end
for _, one in ipairs(summary[4] or {}) do
  if one[1] == consumer then
    return tonumber(one[2])
  end
end
redis.call('XGROUP', 'DELCONSUMER', key, group, consumer)
return 0
";

/// Deletes the other consumers of a group that have been idle for a time and have nothing pending;
/// gives how many. ARGV: group, consumer, milliseconds.
const DELETE_IDLE: &str = r"
local key, group, consumer, idle = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local consumers = redis.pcall('XINFO', 'CONSUMERS', key, group)
if consumers.err then
  return consumers
end
local deleted = 0
for _, info in ipairs(consumers) do
  local known = {}
  for i = 1, #info, 2 do
    known[info[i]] = info[i + 1]
  end
  if known.pending == 0 and known.idle >= idle and known.name ~= consumer then
    redis.call('XGROUP', 'DELCONSUMER', key, group, known.name)
    deleted = deleted + 1
  end
end
return deleted
";

/// What to do with entries that are pending for a consumer which is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfPending {
    /// Delete nothing and fail.
    #[default]
    Fail,
    /// Delete them from the pending list too: nobody is given them again.
    Discard,
}

/// Deletes a consumer from its group (XGROUP DELCONSUMER, Redis 5.0); says how many entries were
/// pending for it and have gone with it, which is none but for [`IfPending::Discard`]. That nothing
/// is pending is found out in the same step (EVAL).
///
/// # Errors
///
/// [`PendingEntries`](ErrorKind::PendingEntries) where entries are pending and are not to be
/// discarded; [`NoGroup`](ErrorKind::NoGroup) where the group or the stream is missing; and every
/// kind that connecting or the server can raise.
pub async fn delete_consumer(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    consumer: &[u8],
    if_pending: IfPending,
) -> Result<u64> {
    let session = &mut client.session_for(stream);
    if if_pending == IfPending::Discard {
        let command = resp::delete_consumer(stream, group, consumer);
        let reply = session.value(&command).await;
        return count_of(reply.map_err(|error| no_group(error, group)), stream);
    }
    match delete_if_idle(session, Membership { stream, group, consumer }).await? {
        0 => Ok(0),
        pending => {
            let name = String::from_utf8_lossy(consumer);
            let message = format!(
                "{} pending for the consumer {name:?}, and would never be delivered again; let \
                 another worker claim them first (StreamConsumer does, once they are idle), or \
                 pass if_pending=\"discard\"",
                counted(pending, "entry is", "entries are")
            );
            Err(about(Error::new(ErrorKind::PendingEntries, message), stream))
        }
    }
}

/// Deletes a consumer where nothing is pending for it; says how many entries are.
pub(crate) async fn delete_if_idle(session: &mut Session, member: Membership<'_>) -> Result<u64> {
    let reply = session.value(&member.script(DELETE, &[], &[])).await;
    count_of(reply.map_err(|error| no_group(error, member.group)), member.stream)
}

/// Deletes the other consumers of a member's group that have not asked for entries for `idle` and
/// have none pending, in one step (EVAL of XINFO CONSUMERS and XGROUP DELCONSUMER); says how many.
pub(crate) async fn delete_others_idle_for(
    session: &mut Session,
    member: Membership<'_>,
    idle: Duration,
) -> Result<u64> {
    let arguments = [idle.as_millis().to_string().into_bytes()];
    let reply = session.value(&member.script(DELETE_IDLE, &[], &arguments)).await;
    count_of(reply.map_err(|error| no_group(error, member.group)), member.stream)
}
