//! Dead letters that go back to their streams, each in one atomic step: a script of XRANGE, XADD and
//! XDEL. An entry of more fields than Lua passes on goes through its client, in a transaction.

use redis::Value;

use super::dead_letter::{first, last_executed};
use crate::client::{Client, Exclusive, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::resp::{self, RawReply};
use crate::shard::told;

/// Entries in one script, which keeps other clients waiting.
const ENTRIES: usize = 100;
/// The names and values that a dead letter has beyond those of its entry.
const STORY: usize = 14;

/// Says of dead letters where they are from: the stream's key, 0 where an entry is none, nil where it
/// is gone. ARGV: IDs.
const ORIGINS: &str = r"
local origins = {}
for i, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local parts = entry and entry[2]
  if not parts then
    origins[i] = false
  elseif parts[#parts - 13] == '_dead_stream' then
    origins[i] = parts[#parts - 12]
  else
    origins[i] = 0
  end
end
return origins
";

/// Moves dead letters that are there to their stream, in order. ARGV: IDs. Gives their IDs with those
/// of the new entries in turn, and where it came to an end before, the ID of the letter that is too
/// large for a script, or that failed, with the error.
///
/// A script is not rolled back. What is written comes first, and that the user may delete letters is
/// found out before: there is no such ID.
const REPLAY: &str = r"
local dead, stream = KEYS[1], KEYS[2]
local replayed = {}
local deleted = redis.pcall('XDEL', dead, '0-0')
if type(deleted) == 'table' then
  return {replayed, ARGV[1], deleted.err}
end
for _, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', dead, id, id)[1]
  local parts = entry and entry[2]
  if parts and #parts > 7900 then
    return {replayed, id}
  end
  if parts then
    local command = {'XADD', stream, '*'}
    for i = 1, #parts - 14 do
      command[i + 3] = parts[i]
    end
    local written = redis.pcall(unpack(command))
    if type(written) == 'table' and written.err then
      return {replayed, id, written.err}
    end
    redis.call('XDEL', dead, id)
    replayed[#replayed + 1] = id
    replayed[#replayed + 1] = written
  end
end
return {replayed}
";

/// The second half of a transaction whose first half wrote an entry: deletes its dead letter, or
/// takes the entry away where somebody else has done that. ARGV: the letter's ID, and that of the
/// stream's newest entry before. Gives the new entry's ID.
const CONCLUDE: &str = r"
local dead, stream = KEYS[1], KEYS[2]
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if not newest or newest[1] == ARGV[2] then
  return false
end
if redis.call('XDEL', dead, ARGV[1]) == 1 then
  return newest[1]
end
redis.call('XDEL', stream, newest[1])
return false
";

/// A dead letter that went back to its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// The ID that the letter had.
    pub letter: EntryId,
    /// The ID of the entry that it has become; `None` where the server's answer was lost.
    pub entry: Option<EntryId>,
}

/// Moves dead letters back to the streams they are from, in the order of their IDs: as new entries,
/// without what `_dead_*` says of them. Each goes in one step with its deletion (EVAL of XRANGE, XADD
/// and XDEL; for an entry of more than about 3,900 fields a transaction), so that it is replayed once
/// however often this is called. IDs of letters that are gone are no error.
///
/// What was replayed is added to `replayed`, also where an error comes after it. After a lost
/// connection the command is repeated; letters that are gone then count as replayed by the lost one.
///
/// # Errors
///
/// [`InvalidArgument`](ErrorKind::InvalidArgument) for an entry that is no dead letter; and every kind
/// that connecting or the server can raise. Letters that could not be replayed stay where they are.
pub async fn replay_dead_letters(
    client: &Client,
    dead_letter: &[u8],
    ids: &[EntryId],
    replayed: &mut Vec<Replayed>,
) -> Result<()> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let mut replay = Replay { session: client.session_for(dead_letter), dead_letter, replayed };
    for ids in ids.chunks(ENTRIES) {
        if let Err(error) = replay.chunk(ids).await {
            let name = String::from_utf8_lossy(dead_letter).into_owned();
            return Err(told(client, error.with_context("stream", name)).await);
        }
    }
    Ok(())
}

struct Replay<'a> {
    session: Session,
    dead_letter: &'a [u8],
    replayed: &'a mut Vec<Replayed>,
}

impl Replay<'_> {
    async fn chunk(&mut self, ids: &[EntryId]) -> Result<()> {
        let command = resp::script(ORIGINS, &[self.dead_letter], &arguments(ids));
        let reply = self.session.value(&command).await?;
        let origins = reply.as_sequence().unwrap_or_default();
        // One stream after the other, each in the order of its letters' IDs.
        let mut streams: Vec<(&[u8], Vec<EntryId>)> = Vec::new();
        for (id, origin) in ids.iter().zip(origins) {
            let stream = match origin {
                Value::Nil => continue,
                origin => resp::text(origin).filter(|_| !matches!(origin, Value::Int(_))),
            };
            let stream = stream.ok_or_else(|| no_letter(*id))?;
            match streams.iter_mut().find(|(known, _)| *known == stream) {
                Some((_, letters)) => letters.push(*id),
                None => streams.push((stream, vec![*id])),
            }
        }
        for (stream, letters) in streams {
            self.back_into(stream, &letters).await?;
        }
        Ok(())
    }

    async fn back_into(&mut self, stream: &[u8], mut letters: &[EntryId]) -> Result<()> {
        while let Some(large) = self.by_script(stream, letters).await? {
            self.by_transaction(stream, large).await?;
            letters = letters.get(letters.partition_point(|id| *id <= large)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Replays letters up to one that is too large for a script, which it gives.
    async fn by_script(&mut self, stream: &[u8], letters: &[EntryId]) -> Result<Option<EntryId>> {
        let keys = [self.dead_letter, stream];
        let command = resp::script(REPLAY, &keys, &arguments(letters));
        let mut was_lost = false;
        let reply = loop {
            let reply = RawReply::new();
            let once = self.session.attempt(&command, None, reply, RawReply::into_value).await;
            match once {
                Ok(reply) => break reply,
                Err(error) => {
                    was_lost |= error.server_code().is_none();
                    self.session
                        .recover(error)
                        .await
                        .map_err(|error| about_lost(error, letters))?;
                }
            }
        };
        let unreadable = || Error::protocol("what came for a script is not what it gives");
        let [pairs, stopped @ ..] = reply.as_sequence().unwrap_or_default() else {
            return Err(unreadable());
        };
        let stopped_at =
            stopped.first().map(|id| resp::id(id).ok_or_else(unreadable)).transpose()?;
        let pairs: Option<Vec<EntryId>> =
            pairs.as_sequence().unwrap_or_default().iter().map(resp::id).collect();
        let pairs = pairs.ok_or_else(unreadable)?;
        let mut now = pairs.chunks_exact(2).filter_map(|pair| match pair {
            [letter, entry] => Some((*letter, *entry)),
            _ => None,
        });
        let mut next = now.next();
        for letter in letters.iter().filter(|id| stopped_at.is_none_or(|at| **id < at)) {
            match next {
                Some((replayed, entry)) if replayed == *letter => {
                    self.replayed.push(Replayed { letter: replayed, entry: Some(entry) });
                    next = now.next();
                }
                // They were there a moment ago.
                _ if was_lost => self.replayed.push(Replayed { letter: *letter, entry: None }),
                _ => {}
            }
        }
        match (stopped_at, stopped.get(1).and_then(resp::text)) {
            (Some(id), Some(message)) => {
                Err(self.about(id, stream, Error::from_server(message.trim_ascii_end())))
            }
            (stopped_at, _) => Ok(stopped_at),
        }
    }

    async fn by_transaction(&mut self, stream: &[u8], letter: EntryId) -> Result<()> {
        let mut was_lost = false;
        loop {
            match self.attempt(stream, letter).await {
                Ok(Some(entry)) => {
                    self.replayed.push(Replayed { letter, entry: Some(entry) });
                    return Ok(());
                }
                Ok(None) => {
                    if was_lost {
                        self.replayed.push(Replayed { letter, entry: None });
                    }
                    return Ok(());
                }
                Err(error) => {
                    was_lost |= error.server_code().is_none();
                    let recovered = self.session.recover(error).await;
                    recovered.map_err(|error| self.about(letter, stream, error))?;
                }
            }
        }
    }

    /// The ID of the new entry; `None` where the letter is gone.
    async fn attempt(&mut self, stream: &[u8], letter: EntryId) -> Result<Option<EntryId>> {
        let session = &mut self.session;
        let range = resp::range(self.dead_letter, letter, letter, 1);
        let entry = session.request(&range, || Ok(RawReply::of_any_size()), RawReply::into_value);
        let entry = entry.await?;
        let Some([_, parts]) = first(&entry) else {
            return Ok(None);
        };
        let parts: Vec<&[u8]> =
            parts.as_sequence().unwrap_or_default().iter().filter_map(resp::text).collect();
        let fields = parts.get(..parts.len().saturating_sub(STORY)).unwrap_or_default();
        let newest = resp::newest(stream);
        let before = session.request(&newest, || Ok(RawReply::of_any_size()), RawReply::into_value);
        let before = before.await?;
        let before = match first(&before) {
            Some([id, ..]) => resp::text(id).unwrap_or_default().to_vec(),
            _ => Vec::new(),
        };
        let mut connection = Exclusive::take(session).await?;
        // Without MULTI the commands would be executed one by one. The user may delete letters, or
        // learns now that not: there is no such ID.
        let opening =
            [resp::command(&[b"XDEL", self.dead_letter, b"0-0"]), resp::command(&[b"MULTI"])];
        for opened in connection.ask(&opening.concat(), opening.len()).await? {
            opened?;
        }
        let conclusion = [letter.to_string().into_bytes(), before];
        let commands = [
            resp::add(stream, fields.iter().copied()),
            resp::script(CONCLUDE, &[self.dead_letter, stream], &conclusion),
            resp::command(&[b"EXEC"]),
        ];
        let replies = connection.ask(&commands.concat(), commands.len()).await?;
        let executed = last_executed(replies)?;
        connection.release();
        session.succeeded();
        Ok(resp::id(&executed))
    }

    /// The error of a letter that could not be replayed: which it is, and what to do.
    fn about(&self, letter: EntryId, stream: &[u8], error: Error) -> Error {
        let advice = match error.kind() {
            ErrorKind::WrongType => "; the stream's key holds something else",
            ErrorKind::Authentication => {
                "; the user needs EVAL, XRANGE, XADD and XDEL on both keys, and for entries of \
                 thousands of fields MULTI, EXEC and XREVRANGE"
            }
            // They are not about this letter.
            ErrorKind::Connection | ErrorKind::Timeout => return about_lost(error, &[letter]),
            _ => "",
        };
        let message = format!(
            "the dead letter {letter} could not be replayed into the stream {} and stays where it \
             is: {}{advice}",
            shorten(stream),
            error.message(),
        );
        error.with_message(message)
    }
}

/// An error after which some letters may have been replayed.
fn about_lost(error: Error, letters: &[EntryId]) -> Error {
    let (Some(first), true) = (letters.first(), error.server_code().is_none()) else {
        return error;
    };
    let message = format!(
        "{}; dead letters from {first} on may have been replayed: call it again, and the others are",
        error.message(),
    );
    error.with_message(message)
}

fn no_letter(id: EntryId) -> Error {
    Error::invalid(format!(
        "the entry {id} is no dead letter of a StreamConsumer: it does not end with its \
         _dead_stream, ..., _dead_time; leave it out by ids or where"
    ))
}

fn arguments(ids: &[EntryId]) -> Vec<Vec<u8>> {
    ids.iter().map(|id| id.to_string().into_bytes()).collect()
}
