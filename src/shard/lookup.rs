//! Asks a server what is at a sharded stream's name, and writes it there.

use redis::Value;

use super::layout::ShardedStream;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result, counted, shorten};
use crate::resp::{cmd, command, script, text};

/// Writes the hash unless something is there, and gives what is there then, in one step.
const CLAIM: &str = "if redis.call('EXISTS', KEYS[1]) == 0 then \
                     redis.call('HSET', KEYS[1], unpack(ARGV)) end \
                     return redis.call('HGETALL', KEYS[1])";

/// The sharded stream of that name (HGETALL, Redis 2.0); `None` where the key holds no such thing.
///
/// # Errors
///
/// Every kind that connecting or the server can raise;
/// [`Response`](ErrorKind::Response) where another version has written what this one cannot read.
pub async fn sharded_stream(client: &Client, name: &[u8]) -> Result<Option<ShardedStream>> {
    let asked = client.session_for(name).value(&command(&[b"HGETALL", name])).await;
    match asked {
        Ok(value) => ShardedStream::parse(name, &pairs(&value)),
        Err(error) if error.kind() == ErrorKind::WrongType => Ok(None),
        Err(error) => Err(about(error, name)),
    }
}

/// The same; where there is one, another is made sure of that is like it, and is for its dead letters.
///
/// # Errors
///
/// As [`sharded_stream`] and [`claim`].
#[cfg(feature = "python")]
pub(crate) async fn find_shards(
    client: &Client,
    name: &[u8],
    dead_letter: Option<Vec<u8>>,
) -> Result<Option<ShardedStream>> {
    let found = sharded_stream(client, name).await?;
    if let (Some(stream), Some(dead)) = (&found, dead_letter) {
        claim(client, &ShardedStream::new(dead, stream.shards(), stream.by())?).await?;
    }
    Ok(found)
}

/// Creates an empty sharded stream (a script of HSET, Redis 4.0); says whether there was none.
///
/// # Errors
///
/// [`InvalidArgument`](ErrorKind::InvalidArgument) where there is one that has other shards;
/// [`WrongType`](ErrorKind::WrongType) where something else is at its name; and as [`sharded_stream`].
pub async fn create_sharded_stream(client: &Client, stream: &ShardedStream) -> Result<bool> {
    let was_there = sharded_stream(client, stream.name()).await?.is_some();
    claim(client, stream).await?;
    Ok(!was_there)
}

/// Makes sure that the sharded stream is there as it is wanted: creates it (a script of HSET, Redis 4.0)
/// where nothing is at its name.
///
/// # Errors
///
/// [`InvalidArgument`](ErrorKind::InvalidArgument) where it has other shards,
/// [`WrongType`](ErrorKind::WrongType) where something else is at its name; and as [`sharded_stream`].
pub(crate) async fn claim(client: &Client, wanted: &ShardedStream) -> Result<()> {
    let name = wanted.name();
    let mut session = client.session_for(name);
    let asking = command(&[b"HGETALL", name]);
    let mut found = session.value(&asking).await;
    if matches!(&found, Ok(value) if pairs(value).is_empty()) {
        let mut script = cmd("EVAL");
        script.arg(CLAIM).arg(1_u32).arg(name);
        for (field, value) in wanted.fields() {
            script.arg(field).arg(value.as_str());
        }
        found = session.value(&script.get_packed_command()).await;
    }
    let stream = match found {
        Ok(value) => ShardedStream::parse(name, &pairs(&value))?,
        Err(error) if error.kind() == ErrorKind::WrongType => None,
        Err(error) => return Err(about(error, name)),
    };
    match stream {
        Some(stream) => stream.check(wanted),
        None => Err(about(
            Error::new(
                ErrorKind::WrongType,
                "the key holds something else than a sharded stream, which needs a name of its own; \
                 nothing has been sent",
            )
            .with_code("WRONGTYPE"),
            name,
        )),
    }
}

/// The keys of the shards, where an error was that the key is a sharded stream's name; else that error.
pub(crate) async fn shards_of(client: &Client, name: &[u8], error: Error) -> Result<Vec<Vec<u8>>> {
    if error.kind() != ErrorKind::WrongType {
        return Err(error);
    }
    // The error says more than one of looking for more.
    match sharded_stream(client, name).await {
        Ok(Some(stream)) => Ok(stream.keys()),
        _ => Err(error),
    }
}

/// Deletes the name (a script of UNLINK, Redis 5.0), if it is that of a sharded stream.
pub(crate) async fn delete_name(client: &Client, name: &[u8]) -> Result<()> {
    const DELETE: &str = "if redis.call('HGET', KEYS[1], 'redfloe') == 'sharded-stream' then \
                          return redis.call('UNLINK', KEYS[1]) end";
    let deleting = client.session_for(name).value(&script(DELETE, &[name], &[])).await;
    deleting.map(|_| ()).map_err(|error| about(error, name))
}

/// The error of what takes the key of a single stream; it says what to do where that is the name of a sharded
/// one.
pub(crate) async fn told(client: &Client, error: Error) -> Error {
    match misnamed(client, &error).await {
        Some(message) => error.with_message(message),
        None => error,
    }
}

/// What to say in place of an error's message, where it is that its stream is a sharded one.
pub(crate) async fn misnamed(client: &Client, error: &Error) -> Option<String> {
    if error.kind() != ErrorKind::WrongType {
        return None;
    }
    let (_, name) = error.context().iter().find(|(name, _)| *name == "stream")?;
    // The error says more than one of looking for more.
    let stream = sharded_stream(client, name.as_bytes()).await.ok()??;
    Some(format!(
        "{} is a sharded stream, and this takes the key of a single one: name one of its {}, such as {}",
        shorten(name.as_bytes()),
        counted(stream.shards(), "shard", "shards"),
        shorten(&stream.key(0)),
    ))
}

fn about(error: Error, name: &[u8]) -> Error {
    error.with_context("stream", String::from_utf8_lossy(name).into_owned())
}

/// The fields of a reply to HGETALL, which is a map or a list by turns.
fn pairs(value: &Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes = |value: &Value| text(value).map(<[u8]>::to_vec);
    let pair = |(field, value): (&Value, &Value)| Some((bytes(field)?, bytes(value)?));
    match value {
        Value::Map(pairs) => pairs.iter().filter_map(|(f, v)| pair((f, v))).collect(),
        value => {
            let items = value.as_sequence().unwrap_or_default().chunks_exact(2);
            let both = |items: &[Value]| match items {
                [field, value] => pair((field, value)),
                _ => None,
            };
            items.filter_map(both).collect()
        }
    }
}
