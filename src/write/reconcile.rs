//! After a lost reply: which rows a stream holds.

use crate::client::Session;
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::ids_only;
use crate::resp;

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
