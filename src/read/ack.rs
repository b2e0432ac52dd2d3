//! Acknowledgement.

use super::watchers::report_acknowledged;
use crate::client::{Client, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::resp::{self, Packed, RawReply};
use crate::shard::told;

/// The IDs in one XACK; a command of millions would keep other clients waiting.
pub(super) const IDS: usize = 1_000;

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
/// Every kind that connecting or the server can raise;
/// [`WrongType`](crate::ErrorKind::WrongType) names a shard where that is a sharded stream's name.
pub async fn ack_entries(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    ids: &[EntryId],
) -> Result<u64> {
    let acknowledged = match acknowledge(&mut client.session_for(stream), stream, group, ids).await
    {
        Ok(acknowledged) => acknowledged,
        Err(error) => {
            let name = String::from_utf8_lossy(stream).into_owned();
            return Err(told(client, error.with_context("stream", name)).await);
        }
    };
    report_acknowledged(client.options(), stream, group, ids)?;
    Ok(acknowledged.pending)
}

/// What acknowledging entries came to.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// The server has said that this number of them were pending.
    pub(super) pending: u64,
    /// This number may have been acknowledged by this client: those, and all of a command that was
    /// repeated, as an answer that was lost may have acknowledged them.
    pub(super) own: u64,
}

pub(super) async fn acknowledge(
    session: &mut Session,
    stream: &[u8],
    group: &[u8],
    ids: &[EntryId],
) -> Result<Acknowledged> {
    let mut acknowledged = Acknowledged::default();
    for (command, ids) in commands(stream, group, ids).zip(ids.chunks(IDS)) {
        let mut attempts = 0;
        let sink = || {
            attempts += 1;
            Ok(RawReply::new())
        };
        let pending = match session.request(&command, sink, RawReply::into_value).await? {
            redis::Value::Int(number) => u64::try_from(number).unwrap_or_default(),
            other => return Err(Error::protocol(format_args!("{other:?} came for XACK"))),
        };
        acknowledged.pending += pending;
        acknowledged.own += if attempts > 1 { ids.len() as u64 } else { pending };
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
