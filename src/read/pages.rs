//! Ranges of entries, page by page, for those that want all of them at once.

use super::bounds::no_columns;
use super::feed::{Feed, Received};
use super::page_request::PageRequest;
use super::request::BatchBounds;
use crate::client::Client;
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::resp::{self, PageLimit};

/// From which end a range is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// XRANGE (Redis 5.0).
    Oldest,
    /// XREVRANGE (Redis 5.0).
    Newest,
}

/// Takes up to `count` entries from `first` to `last` into the feed, beside those that it has.
pub(super) async fn take(
    feed: &mut Feed,
    stream: &[u8],
    from: From,
    (mut first, mut last): (EntryId, EntryId),
    count: u64,
) -> Result<()> {
    // Others may have been given out of this feed before.
    let there = feed.delivered_rows().saturating_add(feed.rows() as u64);
    let most = there.saturating_add(count);
    loop {
        let page = feed.page().min(feed.missing(Some(most)));
        if page == 0 || first > last {
            return Ok(());
        }
        let command = match from {
            From::Oldest => resp::range(stream, first, last, page),
            From::Newest => resp::range_backwards(stream, last, first, page),
        };
        let limit = PageLimit::of_count(page);
        let rows = feed.rows();
        let more = match take_page(feed, PageRequest::new(command, limit)).await {
            Ok(entries) => entries == page,
            Err(error) => {
                feed.recover(error).await?;
                true
            }
        };
        if let Some(come) = feed.last_id().filter(|_| feed.rows() > rows) {
            let next = match from {
                From::Oldest => come.successor().map(|next| first = next),
                From::Newest => come.predecessor().map(|next| last = next),
            };
            if next.is_none() {
                return Ok(());
            }
        }
        if !more {
            return Ok(());
        }
        feed.build()?;
    }
}

/// Takes a page to its end; says how many entries it had: none where one cannot be read, and then
/// `flush_all` says why.
async fn take_page(feed: &mut Feed, page: PageRequest) -> Result<u64> {
    feed.send(page).await?;
    while !feed.is_full() {
        if let Received::End { entries, .. } = feed.receive().await? {
            return Ok(entries);
        }
    }
    feed.give_up();
    Ok(0)
}

/// The first and the last of the `count` newest IDs from `first` to `last`; `None` where there are
/// none.
///
/// The entries are read by XRANGE then, like all others, because what they become depends on their
/// order: columns of an open schema come in the order in which their fields are first seen.
pub(super) async fn newest_range(
    client: &Client,
    stream: &[u8],
    range: (EntryId, EntryId),
    count: u64,
) -> Result<Option<(EntryId, EntryId)>> {
    let session = client.reading_session(stream);
    let (shape, bounds) = (ReplyShape::Entries, BatchBounds::NONE);
    let mut feed = Feed::new(client, session, no_columns(), shape, bounds)?;
    take(&mut feed, stream, From::Newest, range, count).await?;
    let batch = feed.flush_all()?;
    Ok(batch.ids().last().copied().zip(batch.ids().first().copied()))
}
