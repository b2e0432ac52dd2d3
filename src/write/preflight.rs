//! Questions to the server before a write, and after a lost reply.

use std::time::Duration;

use redis::Value;

use super::frame::at_row;
use super::idmp_window::IdmpWindow;
use super::row_id::RowId;
use super::rows::Rows;
use crate::client::Session;
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::read::{ids_only, last_generated};
use crate::resp;

/// Asks the server something harmless, as often as it takes.
async fn ask(session: &mut Session, arguments: &[&[u8]]) -> Result<Value> {
    let mut command = redis::Cmd::new();
    arguments.iter().for_each(|word| {
        command.arg(word);
    });
    let packed = command.get_packed_command();
    session.value(&packed).await
}

/// An answer, or `None` where the server knows no answer or the user may not ask.
fn if_known(answer: Result<Value>) -> Result<Option<Value>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(error.kind(), ErrorKind::Response | ErrorKind::Authentication)
                && error.code().is_some()
                && !error.retryable() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Refuses keys that hold something other than a stream.
pub(super) async fn check_types(session: &mut Session, rows: &Rows) -> Result<()> {
    for key in rows.keys.iter() {
        let kind = match if_known(ask(session, &[b"TYPE", key]).await)? {
            Some(Value::SimpleString(kind)) => kind,
            _ => continue,
        };
        if !matches!(kind.as_str(), "stream" | "none") {
            let message = format!("the key holds a {kind}, not a stream; nothing has been sent");
            return Err(Error::new(ErrorKind::WrongType, message)
                .with_code("WRONGTYPE")
                .with_context("stream", String::from_utf8_lossy(key).into_owned()));
        }
    }
    Ok(())
}

/// Refuses IDs that the streams are past already; gives the last ID that each stream had.
pub(super) async fn check_ids(session: &mut Session, rows: &Rows) -> Result<Vec<Option<EntryId>>> {
    let mut last_ids = Vec::new();
    for (key, first) in rows.keys.iter().zip(rows.first_ids()) {
        let last = last_generated(session, key).await?;
        if let (Some(last), Some((row, id))) = (last, first)
            && !RowId::Whole(last).may_precede(id)
        {
            let reason = format!(
                "the ID {id} does not come after {last}, the last that the stream has had; nothing \
                 has been sent"
            );
            return Err(at_row(row, &reason)
                .into_kind(ErrorKind::Write)
                .with_context("stream", String::from_utf8_lossy(key).into_owned()));
        }
        last_ids.push(last);
    }
    Ok(last_ids)
}

/// Whether the server knows a form of XADD, asked with a field that lacks its value: it looks at the
/// options and the ID before it counts, and adds nothing either way.
async fn knows(session: &mut Session, rows: &Rows, arguments: &[&[u8]]) -> Result<bool> {
    let key = rows.keys.get(0);
    let asked = ask(session, &[&[b"XADD", key], arguments, &[b"f"]].concat()).await;
    match asked {
        Err(error) if error.message().contains("Invalid stream ID") => Ok(false),
        answer => if_known(answer).map(|_| true),
    }
}

/// Whether the server adds sequence numbers to milliseconds (Redis 7.0).
pub(super) async fn knows_partial_ids(session: &mut Session, rows: &Rows) -> Result<bool> {
    knows(session, rows, &[b"1-*", b"f", b"v"]).await
}

/// How many rows of a producer the server recognises, and for how long; `None` where it knows no
/// producers (IDMP, Redis 8.6).
pub(super) async fn idmp_window(session: &mut Session, rows: &Rows) -> Result<Option<IdmpWindow>> {
    if !knows(session, rows, &[b"IDMP", b"p", b"i", b"*", b"f", b"v"]).await? {
        return Ok(None);
    }
    let mut least: Option<(i64, i64)> = None;
    for key in rows.keys.iter() {
        let info = if_known(ask(session, &[b"XINFO", b"STREAM", key]).await)?;
        let found = match info {
            Some(info) => (number(&info, "idmp-maxsize"), number(&info, "idmp-duration")),
            None => {
                let config = ask(session, &[b"CONFIG", b"GET", b"stream-idmp-*"]).await;
                let config = if_known(config)?.unwrap_or(Value::Nil);
                let of = |name| number(&config, name);
                (of("stream-idmp-maxsize"), of("stream-idmp-duration"))
            }
        };
        // Where nobody says, it is at least one row.
        let (rows, seconds) = (found.0.unwrap_or(1), found.1.unwrap_or(0));
        least = Some(least.map_or((rows, seconds), |(r, s)| (r.min(rows), s.min(seconds))));
    }
    Ok(least.map(|(rows, seconds)| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        let rows = usize::try_from(rows).unwrap_or(1);
        IdmpWindow { rows, duration: Duration::from_secs(seconds) }
    }))
}

/// A number in a reply of names and values.
fn number(reply: &Value, name: &str) -> Option<i64> {
    let (_, value) = reply.as_map_iter()?.find(|(key, _)| match key {
        Value::BulkString(key) => key == name.as_bytes(),
        Value::SimpleString(key) => key == name,
        _ => false,
    })?;
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// Refuses a value that the server would hang up on.
pub(super) async fn check_lengths(session: &mut Session, rows: &Rows) -> Result<()> {
    /// No server can be told to take less.
    const ALWAYS_TAKEN: usize = 1024 * 1024;
    let Some((length, row, field)) = rows.longest() else {
        return Ok(());
    };
    if length <= ALWAYS_TAKEN {
        return Ok(());
    }
    let config = ask(session, &[b"CONFIG", b"GET", b"proto-max-bulk-len"]).await;
    let limit = if_known(config)?.and_then(|config| number(&config, "proto-max-bulk-len"));
    match limit.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) if length > limit => Err(at_row(
            row,
            &format!(
                "the value of {field:?} has {length} bytes, more than the {limit} that the server \
                 takes (proto-max-bulk-len); nothing has been sent"
            ),
        )),
        _ => Ok(()),
    }
}

/// The IDs that a stream holds from `first` to `last`.
pub(super) async fn present(
    session: &mut Session,
    stream: &[u8],
    first: EntryId,
    last: EntryId,
) -> Result<Vec<EntryId>> {
    const PAGE: u64 = 1_000;
    let mut ids = Vec::new();
    let mut next = Some(first);
    while let Some(start) = next.filter(|start| *start <= last) {
        let command = resp::range(stream, start, last, PAGE);
        let decoder = || ids_only(ReplyShape::Entries);
        let finish = |mut decoder: crate::decode::Decoder| match decoder.take_reply() {
            Some(crate::decode::Reply::Error(error)) => Err(error),
            _ => decoder.flush(),
        };
        let page = session.request(&command, decoder, finish).await?;
        ids.extend_from_slice(page.ids());
        next = match page.len() as u64 {
            PAGE => page.ids().last().and_then(|id| id.successor()),
            _ => None,
        };
    }
    Ok(ids)
}
