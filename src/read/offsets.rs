//! Positions in streams: the ID of the last entry before each, so that a range begins after it.

use super::bounds::no_columns;
use super::feed::Feed;
use super::lost::{lost_behind, lost_since};
use super::many::{Part, lost_since as lost_since_of_many, newest_of_parts};
use super::partition::portion;
use super::request::BatchBounds;
use crate::client::Client;
use crate::decode::{ReplyShape, StreamNames};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};

/// The newest entry of each stream that is no newer than `last`; `0-0` where there is none. XREVRANGE
/// (Redis 5.0), for many streams in one round trip.
///
/// # Errors
///
/// As [`read`](crate::read).
pub async fn offsets(client: &Client, streams: &[Vec<u8>], last: EntryId) -> Result<Vec<EntryId>> {
    let names = &StreamNames::new(streams.to_vec());
    let all = (0..names.len()).map(|stream| Part::of(stream, (EntryId::MIN, last)));
    let all: Vec<Part> = all.collect();
    let newest = newest_of_parts(client, names, &all, |_| 1).await?;
    Ok(newest.iter().map(|newest| newest.first().copied().unwrap_or(EntryId::MIN)).collect())
}

/// The positions `count` entries in all after those of `ranges`, of which each goes up to an ID: as many
/// of each stream, and more of some where others have fewer. The server has no such index: these entries
/// are sent by it (XRANGE, Redis 5.0), and skipped here.
///
/// # Errors
///
/// As [`read`](crate::read).
pub async fn offsets_ahead(
    client: &Client,
    streams: &[Vec<u8>],
    ranges: &[(EntryId, EntryId)],
    mut count: u64,
) -> Result<Vec<EntryId>> {
    /// Entries whose IDs are in memory at the same time.
    const PORTION: u64 = 50_000;
    let names = &StreamNames::new(streams.to_vec());
    let mut places: Vec<EntryId> = ranges.iter().map(|(after, _)| *after).collect();
    let mut feeds: Vec<(usize, EntryId, Feed)> = Vec::new();
    for (stream, (after, up_to)) in ranges.iter().enumerate() {
        if after < up_to {
            let session = client.reading_session(names.key(stream));
            let (shape, bounds) = (ReplyShape::Entries, BatchBounds::NONE);
            feeds.push((stream, *up_to, Feed::new(client, session, no_columns(), shape, bounds)?));
        }
    }
    while count > 0 && !feeds.is_empty() {
        let share = (count / feeds.len() as u64).clamp(1, PORTION);
        let mut others = Vec::with_capacity(feeds.len());
        for (stream, up_to, mut feed) in feeds {
            let wanted = share.min(count);
            let Some(place) = places.get_mut(stream).filter(|_| wanted > 0) else { continue };
            let Some(first) = place.successor().filter(|first| *first <= up_to) else { continue };
            let ids = portion(&mut feed, names.key(stream), (first, up_to), wanted).await;
            let ids = ids.map_err(|error| error.with_context("stream", names.text(stream)))?;
            count -= (ids.len() as u64).min(count);
            match ids.last() {
                Some(last) if ids.len() as u64 == wanted => {
                    *place = *last;
                    // Not a connection for each stream, of which there may be thousands.
                    feed.session.release();
                    others.push((stream, up_to, feed));
                }
                // Whatever there was up to there.
                _ => *place = up_to,
            }
        }
        feeds = others;
    }
    Ok(places)
}

/// Makes sure that no entries after these positions are lost: trimmed, or with the stream. XINFO STREAM and
/// XREVRANGE (Redis 5.0), for many streams in few round trips. Where the positions `are_entries` that have
/// been read, that the server has lost the end of a stream shows as well; others are looked at one by one.
///
/// # Errors
///
/// [`DataLoss`](crate::ErrorKind::DataLoss) where some may be, and as [`read`](crate::read).
pub async fn check_offsets(
    client: &Client,
    streams: &[Vec<u8>],
    after: &[EntryId],
    are_entries: bool,
) -> Result<()> {
    let names = &StreamNames::new(streams.to_vec());
    let about = |error: Error, stream| error.with_context("stream", names.text(stream));
    if !are_entries {
        for (stream, seen) in after.iter().enumerate() {
            let key = names.key(stream);
            let lost = lost_behind(&mut client.session_for(key), key, *seen).await;
            if let Some(loss) = lost.map_err(|error| about(error, stream))? {
                return Err(about(loss.error(*seen), stream));
            }
        }
        return Ok(());
    }
    let lost = match after {
        [seen] => {
            let key = names.key(0);
            let lost = lost_since(&mut client.session_for(key), key, *seen).await;
            lost.map_err(|error| about(error, 0))?.map(|loss| (0, *seen, loss))
        }
        _ => {
            let seen: Vec<(usize, EntryId)> = after.iter().copied().enumerate().collect();
            let lost = lost_since_of_many(client, names, &seen).await?;
            lost.into_iter().min_by_key(|(stream, ..)| *stream)
        }
    };
    lost.map_or(Ok(()), |(stream, seen, loss)| Err(about(loss.error(seen), stream)))
}
