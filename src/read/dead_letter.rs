//! Entries that are moved to the dead-letter stream, each in one atomic step with its acknowledgement.
//!
//! A script of XPENDING, XRANGE, XADD and XACK does it. Lua passes a command at most 8,000 arguments
//! (LUAI_MAXCSTACK), so an entry of more fields goes through its client: its XADD and a script that
//! acknowledges it are one transaction.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::Value;

use super::member::Member;
use crate::client::{Exclusive, Session, slot_of, tagged};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, ServerCode, shorten};
use crate::resp::{self, Membership, RawReply};

/// Entries in one script, which keeps other clients waiting.
const ENTRIES: usize = 100;

/// How much later than the first an attempt may reach the server, beside the pause between them.
const SLACK: Duration = Duration::from_millis(200);

/// Moves entries that are this consumer's still. ARGV: group, consumer, how many milliseconds ago the
/// same was sent whose reply was lost, or nothing, and for each entry its ID, the reason and the
/// number of deliveries, empty for the server's own. What that has moved counts as moved by this;
/// its letters are among the newest. Gives how many were moved,
/// how many had been deleted, the IDs of those that are too large for a script, the time, and where
/// one could not be moved its ID, the error, and whether that is of its own stream: it and those after it
/// stay pending.
///
/// A script is not rolled back. What is written comes first; where the user may not acknowledge, it
/// is taken away again.
const MOVE: &str = r"
local key, dead, group, consumer, lost = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local now = redis.call('TIME')
local ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
local moved, deleted, large = 0, 0, {}
local function failed(id, reply, of)
  if type(reply) == 'table' and reply.err then
    return {moved, deleted, large, ms, id, reply.err, of}
  end
end
local before = {}
if lost ~= '' then
  for _, letter in ipairs(redis.pcall('XREVRANGE', dead, '+', '-', 'COUNT', 200)) do
    local parts = letter[2]
    local story = #parts - 14
    if parts[story + 1] == '_dead_stream' and parts[story + 2] == key and parts[story + 6] == group
      and parts[story + 8] == consumer and ms - parts[story + 14] <= tonumber(lost) then
      before[parts[story + 4]] = parts[story + 12]
    end
  end
end
for i = 4, #ARGV, 3 do
  local id = ARGV[i]
  local found = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
  local failure = failed(id, found, 'source')
  if failure then return failure end
  local pending = found[1]
  if pending then
    local range = redis.pcall('XRANGE', key, id, id)
    failure = failed(id, range, 'source')
    if failure then return failure end
    local entry, written = range[1], nil
    if entry and #entry[2] > 7900 then
      large[#large + 1] = id
    else
      if entry then
        local letter = {'XADD', dead, '*'}
        for _, part in ipairs(entry[2]) do
          letter[#letter + 1] = part
        end
        local deliveries = ARGV[i + 2]
        if deliveries == '' then deliveries = pending[4] end
        for _, part in ipairs({
          '_dead_stream', key, '_dead_id', id, '_dead_group', group, '_dead_consumer', consumer,
          '_dead_deliveries', deliveries, '_dead_reason', ARGV[i + 1], '_dead_time', ms,
        }) do
          letter[#letter + 1] = part
        end
        written = redis.pcall(unpack(letter))
        failure = failed(id, written, 'dead')
        if failure then return failure end
      end
      failure = failed(id, redis.pcall('XACK', key, group, id), 'source')
      if failure then
        if written then redis.pcall('XDEL', dead, written) end
        return failure
      end
      if written then moved = moved + 1 else deleted = deleted + 1 end
    end
  elseif before[id] == ARGV[i + 1] then
    moved = moved + 1
  end
end
return {moved, deleted, large, ms}
";

/// The second half of a transaction whose first half wrote a dead letter: acknowledges its entry, or
/// takes the letter away where the entry is not this consumer's any more. ARGV: group, consumer, ID,
/// and the fields that are the letter's last.
const CONCLUDE: &str = r"
local key, dead, group, consumer, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local newest = redis.call('XREVRANGE', dead, '+', '-', 'COUNT', 1)[1]
local parts = newest and newest[2] or {}
for i = 4, #ARGV do
  if parts[#parts - #ARGV + i] ~= ARGV[i] then
    return 0
  end
end
local found = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
if #found == 0 then
  redis.pcall('XDEL', dead, newest[1])
  return 0
end
local acknowledged = redis.pcall('XACK', key, group, id)
if type(acknowledged) == 'table' then
  redis.pcall('XDEL', dead, newest[1])
end
return acknowledged
";

/// Refuses a dead-letter stream that one step cannot reach together with the stream, in a cluster.
///
/// # Errors
///
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), which says what name serves.
pub(crate) fn check_slots(stream: &[u8], dead_letter: &[u8]) -> Result<()> {
    if slot_of(stream) == slot_of(dead_letter) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "in a cluster a dead-letter stream shares the slot of its stream, and {} does not share that of \
         {}; name it {}, for example",
        shorten(dead_letter),
        shorten(stream),
        shorten(&tagged(stream, b"dead")),
    )))
}

/// An entry that is to be moved, and why.
pub(super) struct Letter {
    pub(super) id: EntryId,
    pub(super) reason: String,
    /// How often it was handed out, where that is not what the server counts.
    pub(super) deliveries: Option<u64>,
}

impl Letter {
    /// One whose caller says why; with the beginning of that where it is long.
    pub(super) fn told(id: EntryId, reason: &str) -> Self {
        Letter { id, reason: bounded_reason(reason), deliveries: None }
    }
}

/// The beginning of a reason that is long. Some servers hang up on a megabyte (proto-max-bulk-len), and
/// the text of an exception may quote a whole document.
pub(crate) fn bounded_reason(reason: &str) -> String {
    const MOST: usize = 64 * 1024;
    let mut end = reason.len().min(MOST);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    match reason.get(..end) {
        Some(begin) if end < reason.len() => format!("{begin}... ({} bytes)", reason.len()),
        _ => reason.to_owned(),
    }
}

impl Member {
    /// Moves entries; says how many, and which are settled: in the dead letters, or not this
    /// consumer's any more, also where the next could not be moved. That one stays pending, and is
    /// named by the error; only a `patient` mover asks the server again that has refused it.
    pub(super) async fn move_to_dead_letter(
        &self,
        session: &mut Session,
        letters: &[Letter],
        patient: bool,
    ) -> (Vec<EntryId>, Result<u64>) {
        let Some(dead_letter) = &self.dead_letter else {
            let message = "there is no dead-letter stream; name one: dead_letter=...";
            return (Vec::new(), Err(Error::invalid(message)));
        };
        let (moved, settled) = (AtomicU64::new(0), Mutex::default());
        let mover = Mover { member: self, dead_letter, patient, moved, settled };
        let moving = mover.move_all(session, letters).await;
        let moved = mover.moved.into_inner();
        let settled = mover.settled.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let (Some(first), 1..) = (letters.first(), moved) {
            self.who()
                .event("dead_lettered")
                .with("dead_letter", String::from_utf8_lossy(dead_letter).into_owned())
                .with("entries", moved)
                .with("entry_id", first.id.to_string())
                .with("reason", first.reason.clone())
                .record();
        }
        (settled, moving.map(|()| moved))
    }
}

/// What the script says: which entries it could not move because of their size, and its time.
struct Moved {
    large: Vec<EntryId>,
    time: Vec<u8>,
}

struct Mover<'a> {
    member: &'a Member,
    dead_letter: &'a [u8],
    patient: bool,
    moved: AtomicU64,
    settled: Mutex<Vec<EntryId>>,
}

impl Mover<'_> {
    async fn move_all(&self, session: &mut Session, letters: &[Letter]) -> Result<()> {
        for letters in letters.chunks(ENTRIES) {
            let begun = Instant::now();
            let moved = self.by_script(session, letters, None).await?;
            for letter in letters.iter().filter(|letter| moved.large.contains(&letter.id)) {
                let moving = self.by_transaction(session, letter, (&moved.time, begun)).await;
                moving.map_err(|error| self.about(letter.id, error))?;
            }
            self.settle(letters.iter());
        }
        Ok(())
    }

    fn settle<'a>(&self, letters: impl Iterator<Item = &'a Letter>) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.extend(letters.map(|letter| letter.id));
    }

    /// Waits before the next attempt, or gives the error back.
    async fn recover(&self, session: &mut Session, error: Error) -> Result<()> {
        match self.patient || error.server_code().is_none() {
            true => session.recover(error).await,
            false => Err(error),
        }
    }

    /// Moves entries; `lost` is when the reply to an attempt at the same was lost.
    async fn by_script(
        &self,
        session: &mut Session,
        letters: &[Letter],
        mut lost: Option<Instant>,
    ) -> Result<Moved> {
        loop {
            let sent = Instant::now();
            match self.script(session, letters, lost).await {
                Ok(moved) => return Ok(moved),
                Err(error) => {
                    if matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) {
                        lost.get_or_insert(sent);
                    }
                    self.recover(session, error).await?;
                }
            }
        }
    }

    async fn script(
        &self,
        session: &mut Session,
        letters: &[Letter],
        lost: Option<Instant>,
    ) -> Result<Moved> {
        if lost.is_some() {
            let connection = session.take_connection().await?;
            session.put_back(connection);
        }
        // From now on until the server looks at its clock time goes by too.
        let lost = lost.map(|sent| (sent.elapsed() + SLACK).as_millis().to_string());
        let letters_of_script = letters.iter().flat_map(|Letter { id, reason, deliveries }| {
            let deliveries = deliveries.map(|number| number.to_string()).unwrap_or_default();
            [id.to_string(), reason.clone(), deliveries]
        });
        let arguments: Vec<Vec<u8>> = std::iter::once(lost.unwrap_or_default())
            .chain(letters_of_script)
            .map(String::into_bytes)
            .collect();
        let command = self.member.membership().script(MOVE, &[self.dead_letter], &arguments);
        let first = letters.first().map(|letter| letter.id);
        // Those that were moved are, whatever became of the next.
        let finish = |reply: RawReply| match reply.into_value() {
            Ok(reply) => self.read(&reply, letters),
            Err(error) => Err(match first {
                Some(id) => self.about(id, error),
                None => error,
            }),
        };
        session.attempt(&command, Some(Duration::ZERO), RawReply::new(), finish).await
    }

    fn read(&self, reply: &Value, letters: &[Letter]) -> Result<Moved> {
        let unreadable = || Error::protocol("what came for a script is not what it gives");
        let parts = reply.as_sequence().unwrap_or_default();
        let [moved, deleted, large, time, failure @ ..] = parts else {
            return Err(unreadable());
        };
        let deleted = resp::number(deleted).ok_or_else(unreadable)?;
        self.member.watched.update(|stats| stats.deleted += deleted);
        self.count(resp::number(moved).ok_or_else(unreadable)?);
        let large = large.as_sequence().unwrap_or_default();
        let large: Vec<EntryId> = large.iter().filter_map(resp::id).collect();
        if let [id, message, of] = failure {
            let id = resp::id(id).ok_or_else(unreadable)?;
            let before = letters.iter().take_while(|letter| letter.id != id);
            self.settle(before.filter(|letter| !large.contains(&letter.id)));
            let message = resp::text(message).unwrap_or_default();
            let error = Error::from_server(message.trim_ascii_end());
            return Err(match resp::text(of) {
                Some(b"source") => self.about_source(id, error),
                _ => self.about(id, error),
            });
        }
        Ok(Moved { large, time: resp::text(time).ok_or_else(unreadable)?.to_vec() })
    }

    /// Moves an entry of more fields than Lua passes on, where it is this consumer's still.
    async fn by_transaction(
        &self,
        session: &mut Session,
        letter: &Letter,
        (time, begun): (&[u8], Instant),
    ) -> Result<()> {
        let mut lost = None;
        loop {
            match self.attempt(session, letter, time, lost).await {
                Ok(moved) => {
                    self.count(moved);
                    return Ok(());
                }
                Err(error) => {
                    // The letter's time is that of the script before.
                    lost = Some(begun);
                    self.recover(session, error).await?;
                }
            }
        }
    }

    async fn attempt(
        &self,
        session: &mut Session,
        letter: &Letter,
        time: &[u8],
        lost: Option<Instant>,
    ) -> Result<u64> {
        let Membership { stream, group, consumer } = self.member.membership();
        let id = letter.id;
        let question = resp::Pending {
            stream,
            group,
            min_idle: None,
            start: id,
            end: id,
            count: 1,
            consumer: Some(consumer),
        };
        let pending = session.value(&question.packed()).await;
        let pending = pending.map_err(|error| self.about_source(id, error))?;
        let Some([_, _, _, delivered]) = first(&pending) else {
            if lost.is_some() {
                // The script counts it if its reply is what was lost.
                self.by_script(session, std::slice::from_ref(letter), lost).await?;
            }
            return Ok(0);
        };
        let delivered = resp::number(delivered).unwrap_or_default();
        let range = resp::range(stream, id, id, 1);
        let entry = session.request(&range, || Ok(RawReply::of_any_size()), RawReply::into_value);
        let entry = entry.await?;
        let Some([_, fields]) = first(&entry) else {
            // Deleted meanwhile: the script acknowledges it, however large it was.
            self.by_script(session, std::slice::from_ref(letter), None).await?;
            return Ok(0);
        };
        let fields: Vec<&[u8]> =
            fields.as_sequence().unwrap_or_default().iter().filter_map(resp::text).collect();
        let id = id.to_string();
        let deliveries = letter.deliveries.unwrap_or(delivered).to_string();
        let story: [&[u8]; 14] = [
            b"_dead_stream",
            stream,
            b"_dead_id",
            id.as_bytes(),
            b"_dead_group",
            group,
            b"_dead_consumer",
            consumer,
            b"_dead_deliveries",
            deliveries.as_bytes(),
            b"_dead_reason",
            letter.reason.as_bytes(),
            b"_dead_time",
            time,
        ];
        let conclusion: Vec<Vec<u8>> =
            std::iter::once(id.as_bytes()).chain(story).map(<[u8]>::to_vec).collect();
        let mut connection = Exclusive::take(session).await?;
        // Without MULTI the commands would be executed one by one.
        for opened in connection.ask(&resp::command(&[b"MULTI"]), 1).await? {
            opened?;
        }
        let commands = [
            resp::add(self.dead_letter, fields.into_iter().chain(story)),
            self.member.membership().script(CONCLUDE, &[self.dead_letter], &conclusion),
            resp::command(&[b"EXEC"]),
        ];
        let replies = connection.ask(&commands.concat(), commands.len()).await?;
        let executed = last_executed(replies)?;
        let executed = resp::number(&executed)
            .ok_or_else(|| Error::protocol("what came for a script is not what it gives"))?;
        connection.release();
        session.succeeded();
        Ok(executed)
    }

    fn count(&self, moved: u64) {
        self.moved.fetch_add(moved, Ordering::Relaxed);
        self.member.watched.update(|stats| stats.dead_lettered += moved);
    }

    /// The same where it is not the dead-letter stream that refuses it. In what is no stream any more
    /// nothing is pending, as where there is no group.
    fn about_source(&self, id: EntryId, error: Error) -> Error {
        if error.kind() != ErrorKind::WrongType {
            return self.about(id, error);
        }
        let stream = shorten(&self.member.stream);
        let message = format!(
            "the entry {id} could not be moved to the dead-letter stream {}: {stream} is no stream any \
             more, its key holds something else",
            shorten(self.dead_letter),
        );
        match self.member.is_found {
            true => Error::new(ErrorKind::NoGroup, message),
            false => error.with_message(message),
        }
    }

    /// The error of an entry that could not be moved: which it is, and what to do.
    fn about(&self, id: EntryId, error: Error) -> Error {
        let advice = match error.kind() {
            ErrorKind::WrongType => {
                "; its key holds something else: delete that, or choose another dead_letter"
            }
            ErrorKind::Authentication => {
                "; the user needs EVAL, TIME, XPENDING, XRANGE, XADD and XACK on both keys, and \
                 for entries of thousands of fields MULTI, EXEC, XREVRANGE and XDEL"
            }
            _ if error.server_code() == Some(ServerCode::OutOfMemory) => {
                "; the server is at its maxmemory: free some memory, or raise it"
            }
            // They are not about this entry.
            ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::NoGroup => return error,
            _ => "",
        };
        let message = format!(
            "the entry {id} could not be moved to the dead-letter stream {} and stays pending: \
             {}{advice}",
            shorten(self.dead_letter),
            error.message(),
        );
        error.with_message(message)
    }
}

/// The parts of the first item of an array of arrays.
pub(super) fn first(reply: &Value) -> Option<&[Value]> {
    reply.as_sequence()?.first()?.as_sequence()
}

/// What the last command of a transaction answered, from the replies to its commands and to EXEC. The
/// first error says why EXEC gave up.
pub(super) fn last_executed(replies: Vec<Result<Value>>) -> Result<Value> {
    let mut executed = Value::Nil;
    for reply in replies {
        executed = reply?;
    }
    match executed {
        Value::Array(mut values) => values.pop(),
        _ => None,
    }
    .ok_or_else(|| Error::protocol("what came for EXEC is not what was sent"))
}
