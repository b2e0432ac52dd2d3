//! What a server knows of streams and groups, and what may be done to them.

mod consumers;
mod listing;
mod streams;

use std::collections::HashSet;
use std::time::Duration;

use redis::Value;

pub use self::consumers::{IfPending, delete_consumer};
pub(crate) use self::consumers::{delete_if_idle, delete_others_idle_for};
pub(crate) use self::listing::{
    AT_ONCE, clock, find_keys, find_keys_of_node, find_streams_unless_silent, first_entry,
    first_undelivered, if_there,
};
pub use self::listing::{ListedGroup, ListedStream, find_streams, list_groups, list_streams};
pub use self::streams::{TrimTo, create_stream, delete_entries, delete_stream, trim_stream};
use crate::client::{Client, Session};
use crate::entry_id::{EntryId, GroupStart, IdBound};
use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::resp::{self, Info, Membership, Outline};
use crate::shard::shards_of;

/// A stream, as XINFO STREAM describes it. `None` is what the server is too old to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// How many entries it has.
    pub length: u64,
    /// How many groups read it.
    pub groups: u64,
    /// Keys of the radix tree that holds the entries.
    pub radix_tree_keys: u64,
    /// Nodes of that tree.
    pub radix_tree_nodes: u64,
    /// The greatest ID that it ever had.
    pub last_generated_id: Option<EntryId>,
    /// The greatest ID that was deleted. Redis 7.0.
    pub max_deleted_entry_id: Option<EntryId>,
    /// How many entries it ever had. Redis 7.0.
    pub entries_added: Option<u64>,
    /// The oldest entry, where there is one.
    pub first_entry_id: Option<EntryId>,
    /// The newest entry, where there is one.
    pub last_entry_id: Option<EntryId>,
}

/// A consumer group, as XINFO GROUPS describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: Vec<u8>,
    /// How many consumers it has.
    pub consumers: u64,
    /// How many entries are delivered and not acknowledged.
    pub pending: u64,
    /// Up to where it has been delivered.
    pub last_delivered_id: Option<EntryId>,
    /// How many entries were delivered, where the server can tell. Redis 7.0.
    pub entries_read: Option<u64>,
    /// How many entries have not been delivered, where the server can tell. Redis 7.0.
    pub lag: Option<u64>,
}

/// A consumer, as XINFO CONSUMERS describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// Its name.
    pub name: Vec<u8>,
    /// How many entries it has not acknowledged.
    pub pending: u64,
    /// Since it last asked for entries.
    pub idle: Duration,
    /// Since it last got one; `None` where it never did, or the server is older than Redis 7.2.
    pub inactive: Option<Duration>,
}

/// An entry that was delivered and not acknowledged, as XPENDING lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingEntry {
    /// Its ID. The entry may have been deleted meanwhile.
    pub id: EntryId,
    /// Whose it is; `None` where it was given back (XNACK, Redis 8.8) and nobody's yet.
    pub consumer: Option<Vec<u8>>,
    /// Since it was last delivered; `None` where it was given back.
    pub idle: Option<Duration>,
    /// How often it was delivered.
    pub delivery_count: u64,
}

/// Which pending entries to list; all of them by default.
#[derive(Debug, Clone)]
pub struct PendingFilter {
    /// Only this consumer's.
    pub consumer: Option<Vec<u8>>,
    /// Only those that were last delivered at least so long ago, and those that were given back.
    pub min_idle: Duration,
    /// The first ID; `$` makes no sense here.
    pub start: IdBound,
    /// The last ID.
    pub end: IdBound,
    /// At most so many.
    pub count: Option<u64>,
}

impl Default for PendingFilter {
    fn default() -> Self {
        PendingFilter {
            consumer: None,
            min_idle: Duration::ZERO,
            start: IdBound::Id(EntryId::MIN),
            end: IdBound::Newest,
            count: None,
        }
    }
}

/// Describes a stream (XINFO STREAM, Redis 5.0); `None` where there is none.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn stream_info(client: &Client, stream: &[u8]) -> Result<Option<StreamInfo>> {
    // It ships the first and the last entry whole, which may be of any size.
    let command = resp::stream_info(stream);
    let outline = || Ok(Outline::new());
    let reply =
        match client.session_for(stream).request(&command, outline, Outline::into_value).await {
            Err(error) if is_missing_key(&error) => return Ok(None),
            reply => reply.map_err(|error| about(error, stream))?,
        };
    Ok(Some(stream_of(&reply)))
}

/// A stream as a reply to XINFO STREAM describes it.
fn stream_of(reply: &Value) -> StreamInfo {
    let info = Info(reply);
    let count = |name: &str| info.number(name).unwrap_or_default();
    // An entry is its ID and its fields.
    let entry = |name: &str| resp::id(info.get(name)?.as_sequence()?.first()?);
    StreamInfo {
        length: count("length"),
        groups: count("groups"),
        radix_tree_keys: count("radix-tree-keys"),
        radix_tree_nodes: count("radix-tree-nodes"),
        last_generated_id: info.id("last-generated-id"),
        max_deleted_entry_id: info.id("max-deleted-entry-id"),
        entries_added: info.number("entries-added"),
        first_entry_id: entry("first-entry"),
        last_entry_id: entry("last-entry"),
    }
}

/// Describes the groups of a stream (XINFO GROUPS, Redis 5.0); none where there is no stream.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn group_info(client: &Client, stream: &[u8]) -> Result<Vec<GroupInfo>> {
    let reply = match client.session_for(stream).value(&resp::groups_info(stream)).await {
        Err(error) if is_missing_key(&error) => return Ok(Vec::new()),
        reply => reply.map_err(|error| about(error, stream))?,
    };
    Ok(groups_of(&reply))
}

/// Groups as a reply to XINFO GROUPS describes them.
pub(crate) fn groups_of(reply: &Value) -> Vec<GroupInfo> {
    let groups = Info::each(reply).map(|info| GroupInfo {
        name: info.text("name").unwrap_or_default().to_vec(),
        consumers: info.number("consumers").unwrap_or_default(),
        pending: info.number("pending").unwrap_or_default(),
        last_delivered_id: info.id("last-delivered-id"),
        entries_read: info.number("entries-read"),
        lag: info.number("lag"),
    });
    groups.collect()
}

/// Describes the consumers of a group (XINFO CONSUMERS, Redis 5.0).
///
/// # Errors
///
/// [`NoGroup`](ErrorKind::NoGroup) where the group or the stream is missing, and every kind that
/// connecting or the server can raise.
pub async fn consumer_info(
    client: &Client,
    stream: &[u8],
    group: &[u8],
) -> Result<Vec<ConsumerInfo>> {
    let command = resp::consumers_info(stream, group);
    let asking = client.session_for(stream).value(&command).await;
    let reply = asking.map_err(|error| about(no_group(error, group), stream))?;
    let consumers = Info::each(&reply).map(|info| ConsumerInfo {
        name: info.text("name").unwrap_or_default().to_vec(),
        pending: info.number("pending").unwrap_or_default(),
        idle: Duration::from_millis(info.number("idle").unwrap_or_default()),
        inactive: info.number("inactive").map(Duration::from_millis),
    });
    Ok(consumers.collect())
}

/// Lists the pending entries of a group in the order of their IDs (XPENDING, Redis 5.0), in
/// commands of ten thousand. Servers before Redis 6.2, which do not filter by idle time, send all
/// entries for that.
///
/// # Errors
///
/// [`NoGroup`](ErrorKind::NoGroup) where the group or the stream is missing,
/// [`InvalidArgument`](ErrorKind::InvalidArgument) for a start at `$`, and every kind that
/// connecting or the server can raise.
pub async fn pending_entries(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    filter: &PendingFilter,
) -> Result<Vec<PendingEntry>> {
    let mut session = client.session_for(stream);
    let listing = pending_entries_in(&mut session, stream, group, filter);
    listing.await.map_err(|error| about(error, stream))
}

pub(crate) async fn pending_entries_in(
    session: &mut Session,
    stream: &[u8],
    group: &[u8],
    filter: &PendingFilter,
) -> Result<Vec<PendingEntry>> {
    /// The entries of one command: more would keep other clients waiting.
    const PAGE: u64 = 10_000;
    let mut start = match filter.start {
        IdBound::Id(id) => Some(id),
        IdBound::Nothing => None,
        IdBound::Newest | IdBound::AfterNewest => {
            return Err(Error::invalid("start_id \"$\" has no meaning for pending entries"));
        }
    };
    let end = match filter.end {
        IdBound::Id(id) => id,
        IdBound::Newest | IdBound::AfterNewest => EntryId::MAX,
        IdBound::Nothing => return Ok(Vec::new()),
    };
    let mut filters = !filter.min_idle.is_zero();
    let mut found: Vec<PendingEntry> = Vec::new();
    while let Some(first) = start.filter(|first| *first <= end) {
        let missing = filter.count.map(|count| count.saturating_sub(found.len() as u64));
        let count = missing.map_or(PAGE, |missing| missing.min(PAGE));
        if count == 0 {
            break;
        }
        let command = resp::Pending {
            stream,
            group,
            min_idle: filters.then_some(filter.min_idle),
            start: first,
            end,
            count,
            consumer: filter.consumer.as_deref(),
        };
        let reply = match session.value(&command.packed()).await {
            Err(error) if filters && error.server_code() == Some(ServerCode::SyntaxError) => {
                filters = false;
                continue;
            }
            reply => reply?,
        };
        let items = reply.as_sequence().unwrap_or_default();
        let page: Option<Vec<PendingEntry>> = items.iter().map(pending_entry).collect();
        // An entry before the first that was asked for would be asked for again and again.
        let page = page
            .filter(|page| page.iter().all(|entry| entry.id >= first))
            .ok_or_else(|| Error::protocol("what came for XPENDING is no list of it"))?;
        let came = page.len() as u64;
        start = page.last().and_then(|last| last.id.successor()).filter(|_| came == count);
        let is_idle = |entry: &PendingEntry| entry.idle.is_none_or(|idle| idle >= filter.min_idle);
        found.extend(page.into_iter().filter(is_idle));
    }
    Ok(found)
}

/// The first `count` entries that are pending for a consumer between two IDs, both inclusive.
pub(crate) async fn pending_page(
    session: &mut Session,
    member: Membership<'_>,
    from: EntryId,
    to: EntryId,
    count: u64,
) -> Result<Vec<PendingEntry>> {
    let filter = PendingFilter {
        consumer: Some(member.consumer.to_vec()),
        start: IdBound::Id(from),
        end: IdBound::Id(to),
        count: Some(count),
        ..PendingFilter::default()
    };
    pending_entries_in(session, member.stream, member.group, &filter).await
}

/// What XPENDING has answered with; `None` where that is no list.
pub(crate) fn pending_entries_of(reply: &Value) -> Option<Vec<PendingEntry>> {
    reply.as_sequence()?.iter().map(pending_entry).collect()
}

fn pending_entry(item: &Value) -> Option<PendingEntry> {
    match item.as_sequence()? {
        [id, consumer, idle, delivery_count] => {
            // -1 for what was given back; the consumer has no name then.
            let idle = resp::number(idle).map(Duration::from_millis);
            Some(PendingEntry {
                id: resp::id(id)?,
                consumer: idle.and_then(|_| resp::text(consumer)).map(<[u8]>::to_vec),
                idle,
                delivery_count: resp::number(delivery_count)?,
            })
        }
        _ => None,
    }
}

/// Creates a consumer group (XGROUP CREATE, Redis 5.0), and with `make_stream` the stream where it
/// is missing; says whether it was created: `false` where there is a group of that name already,
/// which stays as it is.
///
/// After a lost connection the command is repeated, and may then find what the lost one created. Of a
/// sharded stream's name each shard gets the group.
///
/// # Errors
///
/// [`Response`](ErrorKind::Response) where the stream is missing and is not to be made, and every
/// kind that connecting or the server can raise.
pub async fn create_group(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    start: GroupStart,
    make_stream: bool,
) -> Result<bool> {
    match create_group_of(client, stream, group, start, make_stream).await {
        Err(error) => {
            let mut created = false;
            for shard in shards_of(client, stream, error).await? {
                // A shard that nothing was written to is part of a stream that is there.
                created |= create_group_of(client, &shard, group, start, true).await?;
            }
            Ok(created)
        }
        created => created,
    }
}

async fn create_group_of(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    start: GroupStart,
    make_stream: bool,
) -> Result<bool> {
    let mut session = client.session_for(stream);
    let creating = create_group_in(&mut session, stream, group, start, make_stream);
    creating.await.map_err(|error| about(error, stream))
}

pub(crate) async fn create_group_in(
    session: &mut Session,
    stream: &[u8],
    group: &[u8],
    start: GroupStart,
    make_stream: bool,
) -> Result<bool> {
    let command = resp::create_group(stream, group, start, make_stream);
    match session.value(&command).await {
        Ok(_) => Ok(true),
        Err(error) if error.server_code() == Some(ServerCode::BusyGroup) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a consumer group with all that is pending in it (XGROUP DESTROY, Redis 5.0); says
/// whether there was one. Of a sharded stream's name those of all shards.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn delete_group(client: &Client, stream: &[u8], group: &[u8]) -> Result<bool> {
    match delete_group_of(client, stream, group).await {
        Err(error) => {
            let mut deleted = false;
            for shard in shards_of(client, stream, error).await? {
                deleted |= delete_group_of(client, &shard, group).await?;
            }
            Ok(deleted)
        }
        deleted => deleted,
    }
}

async fn delete_group_of(client: &Client, stream: &[u8], group: &[u8]) -> Result<bool> {
    let command = resp::delete_group(stream, group);
    match client.session_for(stream).value(&command).await {
        Err(error) if is_missing_key(&error) => Ok(false),
        reply => Ok(count_of(reply, stream)? > 0),
    }
}

/// Makes pending entries a consumer's own (XCLAIM JUSTID, Redis 5.0), where they have been pending for
/// `min_idle`; gives those that are. The consumer is created where it is missing. It is no delivery:
/// the consumer gets the entries when it reads its own pending ones.
///
/// # Errors
///
/// [`NoGroup`](ErrorKind::NoGroup) where the group or the stream is missing, and every kind that
/// connecting or the server can raise.
pub async fn claim_entries(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    consumer: &[u8],
    ids: &[EntryId],
    min_idle: Duration,
) -> Result<Vec<EntryId>> {
    /// The IDs in one XCLAIM; a command of millions would keep other clients waiting.
    const IDS: usize = 1_000;
    let (mut session, mut claimed) = (client.session_for(stream), Vec::new());
    let member = Membership { stream, group, consumer };
    let min_idle_ms = u64::try_from(min_idle.as_millis()).unwrap_or(u64::MAX);
    let mut named = HashSet::new();
    let ids: Vec<EntryId> = ids.iter().copied().filter(|id| named.insert(*id)).collect();
    for ids in ids.chunks(IDS) {
        let reply = session.value(&member.claim(ids, min_idle_ms)).await;
        let reply = reply.map_err(|error| about(no_group(error, group), stream))?;
        let items = reply.as_sequence().unwrap_or_default();
        // Before Redis 7.0 an entry that was deleted is nil.
        claimed.extend(items.iter().filter_map(resp::id));
    }
    Ok(claimed)
}

fn count_of(reply: Result<Value>, stream: &[u8]) -> Result<u64> {
    let counted = reply.and_then(|reply| {
        resp::number(&reply).ok_or_else(|| {
            Error::protocol(format_args!("{reply:?} came where a number was expected"))
        })
    });
    counted.map_err(|error| about(error, stream))
}

/// Whether the server says that there is no such stream.
fn is_missing_key(error: &Error) -> bool {
    matches!(error.server_code(), Some(ServerCode::NoKey | ServerCode::NoKeyForGroup))
}

/// Where there is no stream there is no group either, and callers should not have to tell them
/// apart.
fn no_group(error: Error, group: &[u8]) -> Error {
    match is_missing_key(&error) {
        true => {
            let message = "the stream does not exist, and so neither does the group";
            Error::new(ErrorKind::NoGroup, message)
                .with_context("group", String::from_utf8_lossy(group).into_owned())
        }
        false => error,
    }
}

fn about(error: Error, stream: &[u8]) -> Error {
    error.with_context("stream", String::from_utf8_lossy(stream).into_owned())
}
