//! Bounded reads: XRANGE in pages between two IDs that are pinned when the read starts.

use std::sync::Arc;

use super::bounds::{
    can_come, check_exists, first_id, ids_only, last_decoded, last_generated, last_id,
};
use super::deadline::{Deadline, block_ms};
use super::feed::{Feed, Received};
use super::group::Groups;
use super::lost::lost_end;
use super::many;
use super::page_request::PageRequest;
use super::pages::newest_range;
use super::poll::Pace;
use super::request::{BatchBounds, ReadRequest, about};
use super::sample::infer_range;
use crate::client::Client;
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result};
use crate::resp::{self, PageLimit};

/// Reads the entries of a request into one batch; an empty or missing stream gives no rows.
///
/// Pages of XRANGE (Redis 5.0), the next one requested before the columns of the current one are
/// built. An open end is pinned to the newest entry at the start (XREVRANGE, sent with the first
/// page), so that a read of a stream that grows comes to its end. After a lost connection the read
/// goes on after the last whole entry.
///
/// With a group: what there is for the consumer (XREADGROUP). Without one the name of a
/// [sharded stream](crate::ShardedStream) stands for its shards.
///
/// # Errors
///
/// Every kind that connecting, the server or decoding can raise; an error leaves nothing behind,
/// but what was read through a group stays pending.
pub async fn read(client: &Client, request: ReadRequest) -> Result<Batch> {
    Batch::joined(read_pieces(client, request).await?)
}

/// The same in several batches where one would be a copy of all rows, but at least one, which all have
/// the same columns.
pub(crate) async fn read_pieces(client: &Client, request: ReadRequest) -> Result<Vec<Batch>> {
    match read_as_asked(client, request.clone()).await {
        Err(error) => {
            let request = Box::pin(request.over_shards(client, error)).await?;
            Box::pin(read_as_asked(client, request)).await
        }
        pieces => pieces,
    }
}

/// The same of streams alone.
async fn read_as_asked(client: &Client, request: ReadRequest) -> Result<Vec<Batch>> {
    let (name, is_many) = (request.stream_name(), request.many.is_some());
    let reading = async {
        if is_many && request.group.is_none() {
            return Box::pin(many::read_all(client, request)).await;
        }
        let request = ReadRequest { bounds: BatchBounds::NONE, ..request };
        // Each in a box of its own: a future is as large as all that it may ever hold at once, and
        // is moved to where it runs.
        if let Some(group) = request.group.clone() {
            let reader = Groups::new(client, request, group, Arc::default())?;
            return Ok(vec![Box::pin(reader.read_all()).await?]);
        }
        let mut reader = Box::new(RangeReader::new(client, request)?);
        Ok(vec![Box::pin(reader.read_all()).await?])
    };
    reading.await.map_err(|error| about(error, is_many, &name))
}

/// The first and the last ID of a request's entries, as things are now; `None` where there are
/// none. A request of these bounds gives the same entries however often it is read.
///
/// # Errors
///
/// As [`read`].
pub async fn pin(client: &Client, request: &ReadRequest) -> Result<Option<(EntryId, EntryId)>> {
    let mut session = client.reading_session(&request.stream);
    let pinning = async {
        let first = first_id(&mut session, &request.stream, request.start).await?;
        if let (Some(first), Some(count)) = (first, request.last) {
            return newest_of(client, request, first, count).await;
        }
        let last = last_id(&mut session, &request.stream, request.end).await?;
        Ok(first.zip(last))
    };
    pinning.await.map_err(|error: Error| error.with_context("stream", request.stream_name()))
}

/// The first and the last of the `count` newest IDs within a request's bounds.
async fn newest_of(
    client: &Client,
    request: &ReadRequest,
    first: EntryId,
    count: u64,
) -> Result<Option<(EntryId, EntryId)>> {
    let last = match request.end {
        IdBound::Id(last) => last,
        IdBound::Newest | IdBound::AfterNewest => EntryId::MAX,
        IdBound::Nothing => return Ok(None),
    };
    newest_range(client, &request.stream, (first, last), count).await
}

/// Makes sure that all streams of a list exist, for who reads them later.
///
/// # Errors
///
/// [`NoStream`](crate::ErrorKind::NoStream) where there is none, and every kind that connecting or
/// the server can raise.
#[cfg(feature = "python")]
pub(crate) async fn check_streams(client: &Client, streams: &[Vec<u8>]) -> Result<()> {
    many::check_exist(client, streams).await
}

/// Makes sure that there is a stream, for who reads it later.
///
/// # Errors
///
/// As [`check_streams`].
pub(super) async fn check_stream(client: &Client, stream: &[u8]) -> Result<()> {
    check_exists(&mut client.session_for(stream), stream)
        .await
        .map_err(|error| error.with_context("stream", String::from_utf8_lossy(stream).into_owned()))
}

/// Reads between two IDs, batch by batch.
pub(super) struct RangeReader {
    client: Client,
    feed: Feed,
    request: ReadRequest,
    /// The pinned bounds; `None` before they are, and then perhaps an empty range.
    range: Option<(EntryId, EntryId)>,
    /// The end is the newest entry, which is not known yet: the next page asks for it, unless there
    /// is no page after it.
    is_open: bool,
    /// The newest entry within the bounds when the read began, and whether it is still to be asked for.
    end: Option<EntryId>,
    asks_end: bool,
    /// A page came short: nothing is behind it.
    exhausted: bool,
}

impl RangeReader {
    pub(super) fn new(client: &Client, request: ReadRequest) -> Result<Self> {
        let schema = request.schema.clone();
        let session = client.reading_session(&request.stream);
        let feed = Feed::new(client, session, schema, ReplyShape::Entries, request.bounds)?;
        let feed = feed.watch_fields(request.who());
        let client = client.clone();
        Ok(RangeReader {
            client,
            feed,
            request,
            range: None,
            is_open: false,
            end: None,
            asks_end: true,
            exhausted: false,
        })
    }

    /// All entries, after waiting for the first where that is asked for.
    async fn read_all(&mut self) -> Result<Batch> {
        let deadline = self.request.block.map(Deadline::of_block);
        loop {
            self.collect().await?;
            let batch = self.feed.flush_all()?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            let waited = match &deadline {
                Some(deadline) if self.request.count != Some(0) => self.wait(deadline).await?,
                _ => false,
            };
            if !waited {
                return Ok(batch);
            }
            // An open end is pinned anew after each wait: whatever has come is wanted.
            self.repin().await?;
        }
    }

    /// The next batch, or `None` where there is no more.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        self.collect().await?;
        let batch = self.feed.flush()?;
        Ok((!batch.is_empty() || !batch.rejected().is_empty()).then_some(batch))
    }

    /// Reads until the batch is full or nothing is left.
    async fn collect(&mut self) -> Result<()> {
        if self.range.is_none() {
            self.pin().await?;
        }
        while !self.feed.is_full() {
            match self.advance().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.feed.recover(error).await?,
            }
        }
        Ok(())
    }

    /// After an error: what was handed out stays so, the rest is read again.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.exhausted = false;
        self.feed.rewind()
    }

    /// Fixes the bounds, and the dtypes of the fields where they are to be inferred.
    async fn pin(&mut self) -> Result<()> {
        const NOTHING: (EntryId, EntryId) = (EntryId::MAX, EntryId::MIN);
        let stream = &self.request.stream;
        if self.request.must_exist {
            check_exists(&mut self.feed.session, stream).await?;
        }
        let first = match self.request.count {
            Some(0) => None,
            _ => first_id(&mut self.feed.session, stream, self.request.start).await?,
        };
        let Some(first) = first else {
            self.range = Some(NOTHING);
            return Ok(());
        };
        self.request.start = IdBound::Id(first);
        if let Some(count) = self.request.last.take() {
            let range = Box::pin(newest_of(&self.client, &self.request, first, count)).await?;
            let Some((first, last)) = range else {
                self.range = Some(NOTHING);
                return Ok(());
            };
            self.request.start = IdBound::Id(first);
            self.request.end = IdBound::Id(last);
        }
        self.repin().await
    }

    /// Fixes the end; the start is known.
    async fn repin(&mut self) -> Result<()> {
        let IdBound::Id(first) = self.request.start else {
            return Ok(());
        };
        let end = self.request.end;
        // A sample and the read of which it is one end together.
        self.is_open = end.is_newest() && self.request.sample.is_none();
        let end = match self.is_open {
            true => Some(EntryId::MAX),
            false => last_id(&mut self.feed.session, &self.request.stream, end).await?,
        };
        let last = end.unwrap_or(EntryId::MIN);
        if let Some(sample) = self.request.sample
            && first <= last
            && let Some(schema) =
                Box::pin(infer_range(&self.client, &self.request, sample, first, last)).await?
        {
            self.feed.restart(schema)?;
            self.request.sample = None;
        }
        self.exhausted = false;
        self.range = Some((first, last));
        (self.end, self.asks_end) = (None, true);
        Ok(())
    }

    /// Asks for a page where none is in flight and takes what comes of it; says whether there may
    /// be more.
    async fn advance(&mut self) -> Result<bool> {
        if !self.feed.is_in_flight() {
            match self.next_page() {
                Some(page) => {
                    self.check_end().await?;
                    self.feed.send(page).await?;
                }
                None => return Ok(false),
            }
        }
        let received = self.feed.receive().await;
        let newest = self.feed.take_newest();
        self.asks_end &= match &newest {
            None => true,
            Some(Ok(_)) => false,
            // An open end has to be known. Another is of use where it can be had: asked for once.
            Some(Err(_)) => self.is_open || received.is_err(),
        };
        if let (Some(Ok(newest)), Some((_, last))) = (&newest, &mut self.range) {
            self.end = *newest;
            if std::mem::take(&mut self.is_open) {
                *last = newest.unwrap_or(EntryId::MIN);
            }
        }
        if let Received::End { request, entries } = received? {
            self.exhausted = entries < request.limit.count;
            // Without an end there is no next page; with one it would have told of a loss.
            if let (Some(Err(error)), false) = (newest, self.exhausted || !self.is_open) {
                return Err(error);
            }
            if let Some(page) = self.next_page() {
                self.feed.send(page).await?;
            }
            // The server works on the next page while the columns of this one are built.
            self.feed.build()?;
        }
        Ok(true)
    }

    /// Before a page on another connection: the server may have lost what was read, or the end that
    /// the stream had when the read began.
    async fn check_end(&mut self) -> Result<()> {
        if self.feed.session.is_connected() {
            return Ok(());
        }
        let Some(seen) = self.feed.last_id().max(self.end) else {
            return Ok(());
        };
        let stream = &self.request.stream;
        let session = &mut self.feed.session;
        // A replica may be behind another, or not even have the stream yet: goes on with their master.
        if self.client.reads_from_replicas() && last_generated(session, stream).await? < Some(seen)
        {
            *session = self.client.session_for(stream);
        }
        let lost = lost_end(session, stream, seen).await?;
        lost.map_or(Ok(()), |lost| Err(lost.error_of_bounded(seen)))
    }

    /// The page after the last whole entry, or `None` where nothing is left to read.
    fn next_page(&mut self) -> Option<PageRequest> {
        let (first, last) = self.range?;
        let next = match self.feed.last_id() {
            Some(come) => come.successor()?,
            None => first,
        };
        let missing = self.feed.missing(self.request.count);
        let count = self.feed.page().min(missing);
        if self.exhausted || next > last || count == 0 {
            return None;
        }
        let stream = &self.request.stream;
        let command = resp::range(stream, next, last, count);
        let page = PageRequest::new(command, PageLimit::of_count(count));
        Some(match self.asks_end && count < missing {
            true if self.is_open => page.with_newest(stream),
            // A read that fits a page needs none.
            true if self.feed.last_id().is_some() => {
                page.with_newest_by(resp::range_backwards(stream, last, first, 1))
            }
            _ => page,
        })
    }

    /// Waits until an entry is there, from the start on; says whether one is.
    async fn wait(&mut self, deadline: &Deadline) -> Result<bool> {
        // Only `pin` makes an ID of it, and only where there can be an entry from there on.
        let IdBound::Id(first) = self.request.start else {
            return Ok(false);
        };
        let stream = &self.request.stream;
        let session = &mut self.feed.session;
        match self.request.end {
            IdBound::Nothing => return Ok(false),
            IdBound::Id(end) if first > end || !can_come(session, stream, end).await? => {
                return Ok(false);
            }
            _ => {}
        }
        let after = first.predecessor().unwrap_or(EntryId::MIN);
        loop {
            let left = deadline.left();
            let command = resp::read_after(
                stream,
                after,
                PageLimit::of_count(1),
                Some(left.map_or(0, block_ms)),
            );
            let decoder = ids_only(ReplyShape::Streams)?;
            match session.attempt(&command, left, decoder, last_decoded).await {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {
                    let pause = deadline.left_up_to(Pace::PAUSE);
                    if pause.is_zero() {
                        return Ok(false);
                    }
                    tokio::time::sleep(pause).await;
                }
                // Not `request`: after a lost connection only the rest of the time is waited for.
                Err(error) => session.recover(error).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ConnectionOptions;
    use crate::schema::StreamSchema;

    #[test]
    fn the_future_of_a_read_is_small() -> Result<()> {
        let client = Client::new(ConnectionOptions::parse("redis://h")?);
        let request = ReadRequest::new("events", StreamSchema::default());
        let size = size_of_val(&read(&client, request));
        assert!(size < 4_096, "{size}");
        Ok(())
    }
}
