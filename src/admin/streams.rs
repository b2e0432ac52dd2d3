//! Streams that are made, shortened and deleted.

use redis::Value;

use super::count_of;
use crate::client::{Client, Session};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::resp;
use crate::shard::{delete_name, shards_of};

/// Creates an empty stream, which only XGROUP CREATE does; gives whether there was none.
const CREATE: &str = r"
local key = KEYS[1]
if redis.call('EXISTS', key) == 1 then
  redis.call('XLEN', key) -- fails where it is of another type
  return 0
end
redis.call('XGROUP', 'CREATE', key, 'redfloe', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', key, 'redfloe')
return 1
";

/// Deletes a stream, and nothing of another type; gives whether there was one.
const DELETE: &str = r"
redis.call('XLEN', KEYS[1]) -- fails where it is of another type
return redis.call('UNLINK', KEYS[1])
";

/// The IDs in one XDEL; a command of millions would keep other clients waiting.
const IDS: usize = 1_000;

/// What a stream is trimmed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrimTo {
    /// At most this many entries, the newest.
    MaxLen(u64),
    /// The entries from this ID on. Redis 6.2.
    MinId(EntryId),
}

/// Creates an empty stream, without a group (a script of XGROUP CREATE MKSTREAM, Redis 5.0); says
/// whether there was none.
///
/// # Errors
///
/// [`WrongType`](crate::ErrorKind::WrongType) where the key holds something else, and every kind
/// that connecting or the server can raise.
pub async fn create_stream(client: &Client, stream: &[u8]) -> Result<bool> {
    let reply = run(&mut client.session_for(stream), CREATE, stream).await;
    Ok(count_of(reply, stream)? > 0)
}

/// Deletes a stream with its groups (a script of UNLINK, Redis 5.0); says whether there was one. Of a
/// sharded stream's name all shards are deleted, and then the name: what an error cuts off can be done
/// again.
///
/// # Errors
///
/// [`WrongType`](crate::ErrorKind::WrongType) where the key holds something else, which stays; and
/// every kind that connecting or the server can raise.
pub async fn delete_stream(client: &Client, stream: &[u8]) -> Result<bool> {
    match delete_one(client, stream).await {
        Err(error) => {
            for shard in shards_of(client, stream, error).await? {
                delete_one(client, &shard).await?;
            }
            delete_name(client, stream).await?;
            Ok(true)
        }
        deleted => deleted,
    }
}

async fn delete_one(client: &Client, stream: &[u8]) -> Result<bool> {
    let reply = run(&mut client.session_for(stream), DELETE, stream).await;
    Ok(count_of(reply, stream)? > 0)
}

async fn run(session: &mut Session, script: &str, stream: &[u8]) -> Result<Value> {
    session.value(&resp::script(script, &[stream], &[])).await
}

/// Deletes entries (XDEL, Redis 5.0); says how many there were. They stay in the pending lists of
/// groups that have read them, until their consumers see that they are gone.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn delete_entries(client: &Client, stream: &[u8], ids: &[EntryId]) -> Result<u64> {
    let (mut session, mut deleted) = (client.session_for(stream), 0);
    for ids in ids.chunks(IDS) {
        deleted += count_of(session.value(&resp::delete_entries(stream, ids)).await, stream)?;
    }
    Ok(deleted)
}

/// Deletes the oldest entries of a stream (XTRIM, Redis 5.0); says how many. None where there is no
/// stream.
///
/// With `approximate` the server deletes whole nodes of its tree only, which is quick and leaves
/// some entries more; `limit` is then the most that it deletes (Redis 6.2). Of a sharded stream's name each
/// shard is trimmed to the ID; a length is that of a single stream.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn trim_stream(
    client: &Client,
    stream: &[u8],
    to: TrimTo,
    approximate: bool,
    limit: Option<u64>,
) -> Result<u64> {
    match trim_one(client, stream, to, approximate, limit).await {
        Err(error) if matches!(to, TrimTo::MinId(_)) => {
            let mut deleted = 0;
            for shard in shards_of(client, stream, error).await? {
                deleted += trim_one(client, &shard, to, approximate, limit).await?;
            }
            Ok(deleted)
        }
        deleted => deleted,
    }
}

async fn trim_one(
    client: &Client,
    stream: &[u8],
    to: TrimTo,
    approximate: bool,
    limit: Option<u64>,
) -> Result<u64> {
    let to = match to {
        TrimTo::MaxLen(length) => ("MAXLEN", length.to_string()),
        TrimTo::MinId(id) => ("MINID", id.to_string()),
    };
    let command = resp::trim(stream, to, approximate, limit);
    count_of(client.session_for(stream).value(&command).await, stream)
}
