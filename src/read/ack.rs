//! Acknowledgement.

use super::watchers::report_acknowledged;
use crate::client::{Client, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::resp::{self, Packed, RawReply};

/// The IDs in one XACK; a command of millions would keep other clients waiting.
const IDS: usize = 1_000;

/// Acknowledges entries (XACK, Redis 5.0): they leave their consumer's pending list. Says how many
/// were pending. No IDs, and those of entries that are not pending, are no error.
///
/// After a lost connection the command is repeated; what the lost one acknowledged then does not
/// count.
///
/// A reader of the group in this process takes note, so that the entries which it has handed out
/// count as done with.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn ack_entries(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    ids: &[EntryId],
) -> Result<u64> {
    let number = acknowledge(&mut client.session(), stream, group, ids).await.map_err(|error| {
        error.with_context("stream", String::from_utf8_lossy(stream).into_owned())
    })?;
    report_acknowledged(client.options(), stream, group, ids)?;
    Ok(number)
}

pub(super) async fn acknowledge(
    session: &mut Session,
    stream: &[u8],
    group: &[u8],
    ids: &[EntryId],
) -> Result<u64> {
    let mut acknowledged = 0;
    for command in commands(stream, group, ids) {
        let reply = session.request(&command, || Ok(RawReply::new()), RawReply::into_value).await?;
        acknowledged += match reply {
            redis::Value::Int(number) => u64::try_from(number).unwrap_or_default(),
            other => return Err(Error::protocol(format_args!("{other:?} came for XACK"))),
        };
    }
    Ok(acknowledged)
}

/// The commands that acknowledge these entries.
pub(super) fn commands<'a>(
    stream: &'a [u8],
    group: &'a [u8],
    ids: &'a [EntryId],
) -> impl ExactSizeIterator<Item = Packed> + 'a {
    ids.chunks(IDS).map(move |ids| resp::acknowledge(stream, group, ids))
}
