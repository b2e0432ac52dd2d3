//! All streams of a server, and all their groups, in few round trips.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::{join_all, try_join_all};
use redis::Value;

use super::{GroupInfo, StreamInfo, about, groups_of, is_missing_key, stream_of};
use crate::client::{About, Client, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, Result, ServerCode};
use crate::resp::{self, RawReply, number, text};

/// A stream of those that a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedStream {
    /// Its key.
    pub name: Vec<u8>,
    /// What the server knows of it.
    pub info: StreamInfo,
    /// How many bytes it takes, as the server estimates; `None` where the user may not ask, or the
    /// server does not have the command, as some managed ones do not.
    pub memory: Option<u64>,
}

/// A group of a stream of those that a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedGroup {
    /// The stream's key.
    pub stream: Vec<u8>,
    /// What the server knows of the group.
    pub info: GroupInfo,
    /// The oldest entry that was not delivered; `None` where there is none.
    pub next_entry_id: Option<EntryId>,
    /// How long that entry has been waiting: since the time in its ID, by the server's clock. Zero
    /// where nothing waits, or the ID is of the future.
    pub lag_time: Duration,
}

/// The keys of the streams that match a pattern (SCAN TYPE, Redis 6.0), in order.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn find_streams(client: &Client, pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
    keys_of_streams(client, pattern).await
}

/// Lists the streams whose keys match a pattern (SCAN TYPE, Redis 6.0), in the order of their keys, as
/// XINFO STREAM and MEMORY USAGE describe them. What is deleted meanwhile is left out.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn list_streams(client: &Client, pattern: &[u8]) -> Result<Vec<ListedStream>> {
    let keys = keys_of_streams(client, pattern).await?;
    let mut listed = Vec::with_capacity(keys.len());
    for keys in keys.chunks(AT_ONCE) {
        let about: Vec<About<'_>> = keys
            .iter()
            .map(|key| About {
                key,
                questions: vec![resp::stream_info(key), resp::memory_usage(key)],
            })
            .collect();
        for (key, answers) in keys.iter().zip(client.ask_about(&about).await?) {
            let mut answers = answers.into_iter();
            let (Some(info), Some(memory)) = (answers.next(), answers.next()) else { break };
            if let Some(info) = if_there(info, key)? {
                let memory = if_answered(memory)?.as_ref().and_then(number);
                listed.push(ListedStream { name: key.clone(), info: stream_of(&info), memory });
            }
        }
    }
    Ok(listed)
}

/// Lists the groups of the streams whose keys match a pattern (SCAN TYPE, Redis 6.0), in the order of
/// their keys, with the time that their oldest undelivered entry has waited.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn list_groups(client: &Client, pattern: &[u8]) -> Result<Vec<ListedGroup>> {
    let keys = keys_of_streams(client, pattern).await?;
    let mut listed = Vec::new();
    for keys in keys.chunks(AT_ONCE) {
        let about: Vec<About<'_>> =
            keys.iter().map(|key| About { key, questions: vec![resp::groups_info(key)] }).collect();
        let mut found = Vec::new();
        for (key, answers) in keys.iter().zip(client.ask_about(&about).await?) {
            let Some(answer) = answers.into_iter().next() else { continue };
            let groups = if_there(answer, key)?.map_or_else(Vec::new, |reply| groups_of(&reply));
            found.extend(groups.into_iter().map(|group| (key, group)));
        }
        wait_of(client, found, &mut listed).await?;
    }
    Ok(listed)
}

/// Streams that are asked for together: more would keep other clients waiting.
pub(crate) const AT_ONCE: usize = 200;

/// Asks for the oldest undelivered entry of each group, and how long it has waited.
async fn wait_of(
    client: &Client,
    groups: Vec<(&Vec<u8>, GroupInfo)>,
    listed: &mut Vec<ListedGroup>,
) -> Result<()> {
    // In a cluster each by the clock of the node that serves the stream.
    let about: Vec<About<'_>> = groups
        .iter()
        .map(|(key, group)| {
            let first = first_undelivered(group);
            let next = first.map(|first| resp::range(key, first, EntryId::MAX, 1));
            About { key, questions: std::iter::once(resp::time()).chain(next).collect() }
        })
        .collect();
    let answers = client.ask_about(&about).await?;
    for ((key, info), answers) in groups.into_iter().zip(answers) {
        let mut answers = answers.into_iter();
        let now = clock(answers.next())?;
        let next_entry_id = first_entry(answers.next(), key)?;
        let waited = next_entry_id.map_or(0, |id| now.saturating_sub(id.ms));
        listed.push(ListedGroup {
            stream: key.clone(),
            info,
            next_entry_id,
            lag_time: Duration::from_millis(waited),
        });
    }
    Ok(())
}

/// The lowest ID that an entry can have which was not delivered; `None` after the last of all IDs.
pub(crate) fn first_undelivered(group: &GroupInfo) -> Option<EntryId> {
    group.last_delivered_id.map_or(Some(EntryId::MIN), EntryId::successor)
}

/// The keys of the streams that match, in order, each once: SCAN may give one twice. In a cluster all
/// masters are asked at the same time.
async fn keys_of_streams(client: &Client, pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
    find_keys(client, pattern, STREAMS).await
}

/// The same of keys of a type.
pub(crate) async fn find_keys(
    client: &Client,
    pattern: &[u8],
    kind: &'static [u8],
) -> Result<Vec<Vec<u8>>> {
    let mut sessions = client.master_sessions().await?;
    let scanning = sessions.iter_mut().map(|session| Scan::of(kind).all(session, pattern));
    Ok(sorted(try_join_all(scanning).await?))
}

/// The same of those that one node serves, with the key that the session is for.
pub(crate) async fn find_keys_of_node(
    session: &mut Session,
    pattern: &[u8],
    kind: &'static [u8],
) -> Result<Vec<Vec<u8>>> {
    Ok(sorted(vec![Scan::of(kind).all(session, pattern).await?]))
}

/// The type of streams, as SCAN knows it.
const STREAMS: &[u8] = b"stream";

fn sorted(found: Vec<BTreeSet<Vec<u8>>>) -> Vec<Vec<u8>> {
    found.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

/// What those nodes of a cluster have that have answered.
pub(crate) struct Found {
    /// Also those of the others, as far as these have answered.
    pub(crate) keys: Vec<Vec<u8>>,
    /// A slot of each of the others.
    pub(crate) silent: Vec<u16>,
}

/// The keys of the streams that match a pattern, as far as nodes of a cluster answer: one that says nothing
/// for this time is not waited for, however long the others take with all their keys. A server that is
/// alone has as long as it takes.
pub(crate) async fn find_streams_unless_silent(
    client: &Client,
    pattern: &[u8],
    limit: Duration,
) -> Result<Found> {
    let mut sessions = client.master_sessions().await?;
    if let [session] = sessions.as_mut_slice() {
        let keys = sorted(vec![Scan::of(STREAMS).all(session, pattern).await?]);
        return Ok(Found { keys, silent: Vec::new() });
    }
    let scanning = sessions.iter_mut().map(|session| {
        let slot = session.slot();
        async move { (slot, Scan::of(STREAMS).until_silent(session, pattern, limit).await) }
    });
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (slot, scanned) in join_all(scanning).await {
        let (keys, is_silent) = scanned?;
        found.push(keys);
        silent.extend(slot.filter(|_| is_silent));
    }
    Ok(Found { keys: sorted(found), silent })
}

/// The keys that one server has.
struct Scan {
    kind: &'static [u8],
    keys: BTreeSet<Vec<u8>>,
    cursor: Vec<u8>,
    /// The number of keys when a cursor came: a server that goes in circles finds no others.
    cursors: HashMap<Vec<u8>, usize>,
}

impl Scan {
    fn of(kind: &'static [u8]) -> Self {
        Scan { kind, keys: BTreeSet::new(), cursor: b"0".to_vec(), cursors: HashMap::new() }
    }

    async fn all(mut self, session: &mut Session, pattern: &[u8]) -> Result<BTreeSet<Vec<u8>>> {
        while !self.step(session, pattern).await? {}
        Ok(self.keys)
    }

    /// Those that come before the server says nothing for this time, and whether it does.
    async fn until_silent(
        mut self,
        session: &mut Session,
        pattern: &[u8],
        limit: Duration,
    ) -> Result<(BTreeSet<Vec<u8>>, bool)> {
        loop {
            match tokio::time::timeout(limit, self.step(session, pattern)).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => return Ok((self.keys, false)),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok((self.keys, true)),
            }
        }
    }

    /// Takes one reply, and says whether it was the last.
    async fn step(&mut self, session: &mut Session, pattern: &[u8]) -> Result<bool> {
        let reply = loop {
            let packed = resp::scan(&self.cursor, pattern, self.kind);
            let scanning = session.exchange(
                &packed,
                Some(Duration::ZERO),
                RawReply::new(),
                RawReply::into_value,
            );
            match scanning.await {
                Ok(reply) => break reply,
                Err(error) => {
                    let error = session.about_node(error);
                    session.recover(error).await?;
                    // It may be another server by now, to which the cursor says nothing.
                    self.cursor = b"0".to_vec();
                    self.cursors.clear();
                }
            }
        };
        let scanned = match reply.as_sequence() {
            Some([next, found]) => text(next).zip(found.as_sequence()),
            _ => None,
        };
        let Some((next, found)) = scanned else {
            return Err(Error::protocol("what came for SCAN is no cursor with keys"));
        };
        let before = self.keys.len();
        self.keys.extend(found.iter().filter_map(text).map(<[u8]>::to_vec));
        // Nor does one go on that is lost again and again after the same keys.
        if self.keys.len() > before {
            session.succeeded();
        }
        if next == b"0" {
            return Ok(true);
        }
        if self.cursors.insert(next.to_vec(), self.keys.len()) == Some(self.keys.len()) {
            return Err(Error::protocol("SCAN's cursors repeat without new keys"));
        }
        self.cursor = next.to_vec();
        Ok(false)
    }
}

/// `None` where the stream is gone meanwhile, or the key holds something else by now.
pub(crate) fn if_there(answer: Result<Value>, key: &[u8]) -> Result<Option<Value>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_missing_key(&error) => Ok(None),
        Err(error) if error.server_code() == Some(ServerCode::WrongType) => Ok(None),
        Err(error) => Err(about(error, key)),
    }
}

/// `None` where the user may not ask that, or the server does not have the command.
fn if_answered(answer: Result<Value>) -> Result<Option<Value>> {
    match answer {
        Err(error) if error.server_code().is_some_and(ServerCode::is_withheld) => Ok(None),
        answer => answer.map(Some),
    }
}

/// The time in milliseconds that a server answers TIME with; this machine's where it does not.
pub(crate) fn clock(answer: Option<Result<Value>>) -> Result<u64> {
    let time = answer.map_or(Ok(None), if_answered)?;
    Ok(time.as_ref().and_then(milliseconds).unwrap_or_else(own_clock))
}

/// The ID of the first entry that a server answers XRANGE with.
pub(crate) fn first_entry(answer: Option<Result<Value>>, key: &[u8]) -> Result<Option<EntryId>> {
    let entries = answer.map_or(Ok(None), |answer| if_there(answer, key))?;
    let entry = entries.as_ref().and_then(|entries| entries.as_sequence()?.first()?.as_sequence());
    Ok(entry.and_then(|entry| resp::id(entry.first()?)))
}

/// Of an answer to TIME: seconds and microseconds.
fn milliseconds(time: &Value) -> Option<u64> {
    let [seconds, micros] = time.as_sequence()? else { return None };
    let parsed = |value| std::str::from_utf8(text(value)?).ok()?.parse::<u64>().ok();
    parsed(seconds)?.checked_mul(1_000)?.checked_add(parsed(micros)? / 1_000)
}

fn own_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
