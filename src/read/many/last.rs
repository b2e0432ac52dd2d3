//! The newest entries of several streams.

use std::collections::BTreeMap;

use super::parts::Part;
use super::{Many, StreamOrder, ask};
use crate::client::Client;
use crate::entry_id::EntryId;
use crate::error::Result;

/// Leaves of the parts what has the last `wanted` entries of all, in the order of the read.
pub(super) async fn last_of(
    client: &Client,
    many: &Many,
    parts: &[Part],
    wanted: u64,
) -> Result<Vec<Part>> {
    match many.order {
        StreamOrder::ByStream => of_last_streams(client, many, parts, wanted).await,
        StreamOrder::ById => of_newest(client, many, parts, wanted).await,
    }
}

/// Stream after stream, from the last one backwards.
async fn of_last_streams(
    client: &Client,
    many: &Many,
    parts: &[Part],
    mut wanted: u64,
) -> Result<Vec<Part>> {
    let (mut kept, mut left) = (Vec::new(), parts);
    while wanted > 0 && !left.is_empty() {
        // No more than may be needed.
        let mut sum = 0_u64;
        let needed = left.iter().rev().take_while(|part| {
            let is_needed = sum < wanted;
            sum = sum.saturating_add(part.most);
            is_needed
        });
        let (before, asked) = left.split_at(left.len() - needed.count());
        let number = |part: &Part| part.most.min(wanted);
        let found = ask::newest(client, &many.names, asked, number).await?;
        for (part, ids) in asked.iter().zip(found).rev() {
            let most = wanted.min(ids.len() as u64);
            let first = usize::try_from(most).ok().and_then(|most| ids.get(most.checked_sub(1)?));
            if let (Some(first), Some(last)) = (first, ids.first()) {
                let range = (*first, *last);
                kept.push(Part { most, end: Some(*last), ..Part::of(part.stream, range) });
            }
            wanted -= most;
        }
        left = before;
    }
    kept.reverse();
    Ok(kept)
}

/// The newest of all streams.
async fn of_newest(client: &Client, many: &Many, parts: &[Part], wanted: u64) -> Result<Vec<Part>> {
    /// Streams that are asked at once; their newest entries tell how far back to look in others.
    const AT_ONCE: usize = 100;
    let most = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut newest: Vec<(EntryId, usize)> = Vec::new();
    for parts in parts.chunks(AT_ONCE) {
        let from = newest.get(most.saturating_sub(1)).map_or(EntryId::MIN, |(id, _)| *id);
        let parts = parts.iter().map(|part| Part { first: part.first.max(from), ..*part });
        let parts: Vec<Part> = parts.filter(|part| part.first <= part.last).collect();
        let number = |part: &Part| part.most.min(wanted);
        let found = ask::newest(client, &many.names, &parts, number).await?;
        for (part, ids) in parts.iter().zip(found) {
            newest.extend(ids.into_iter().map(|id| (id, part.stream)));
        }
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.truncate(most);
    }
    let mut streams: BTreeMap<usize, Part> = BTreeMap::new();
    for (id, stream) in newest {
        let new = Part { most: 0, end: Some(id), ..Part::of(stream, (id, id)) };
        let part = streams.entry(stream).or_insert(new);
        part.first = id; // the newest came first
        part.most += 1;
    }
    Ok(streams.into_values().collect())
}
