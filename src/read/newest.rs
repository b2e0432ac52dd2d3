//! Where the newest entries begin: XREVRANGE, in pages, of which only the IDs are looked at.

use super::bounds::no_columns;
use super::feed::{Feed, PageRequest, Received};
use super::request::BatchBounds;
use crate::client::Client;
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::resp::{self, PageLimit};

/// The first and the last of the `count` newest IDs from `first` to `last`; `None` where there are
/// none.
///
/// The entries are read by XRANGE then, like all others, because what they become depends on their
/// order: columns of an open schema come in the order in which their fields are first seen.
pub(super) async fn newest_range(
    client: &Client,
    stream: &[u8],
    first: EntryId,
    last: EntryId,
    count: u64,
) -> Result<Option<(EntryId, EntryId)>> {
    let mut feed = Feed::new(client, no_columns(), ReplyShape::Entries, BatchBounds::NONE)?;
    loop {
        let end = match feed.last_id() {
            Some(come) => come.predecessor(),
            None => Some(last),
        };
        let page = feed.page().min(feed.missing(Some(count)));
        let Some(end) = end.filter(|end| first <= *end && page > 0) else {
            break;
        };
        let command = resp::range_backwards(stream, end, first, page);
        let request = PageRequest::new(command, PageLimit::of_count(page));
        match take_page(&mut feed, request).await {
            Ok(true) => feed.build()?,
            Ok(false) => break,
            Err(error) => feed.recover(error).await?,
        }
    }
    let batch = feed.flush_all()?;
    Ok(batch.ids().last().copied().zip(batch.ids().first().copied()))
}

/// Takes a page; says whether there may be more.
async fn take_page(feed: &mut Feed, page: PageRequest) -> Result<bool> {
    feed.send(page).await?;
    loop {
        if let Received::End { request, entries } = feed.receive().await? {
            return Ok(entries == request.limit.count);
        }
    }
}
