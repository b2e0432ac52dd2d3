//! After a lost reply: which rows the streams hold.

use std::collections::{BTreeMap, HashSet};

use super::frame::Keys;
use super::rows::Row;
use crate::client::Session;
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::ids_only;
use crate::resp;

/// The IDs that streams hold of some rows, by the indexes of the streams' keys.
pub(super) async fn held(
    session: &mut Session,
    keys: &Keys,
    rows: impl Iterator<Item = &Row>,
) -> Result<HashSet<(usize, EntryId)>> {
    let mut wanted: BTreeMap<usize, (EntryId, EntryId)> = BTreeMap::new();
    for row in rows {
        if let Some(id) = row.own {
            wanted.entry(row.key).or_insert((id, id)).1 = id;
        }
    }
    let mut held = HashSet::new();
    for (key, (first, last)) in wanted {
        let stream = keys.get(key);
        // Another node may have it than the one that has the stream before.
        session.aim(stream, false);
        let ids = present(session, stream, first, last).await?;
        held.extend(ids.into_iter().map(|id| (key, id)));
    }
    Ok(held)
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
