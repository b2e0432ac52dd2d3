//! Unbounded reads: XREAD, poll after poll, each behind the last entry that came.

use std::time::{Duration, Instant};

use super::bounds::{LastIdWatch, check_exists, first_id, ids_only, last_decoded, newest};
use super::deadline::block_ms;
use super::feed::{Feed, Received};
use super::lost::{StreamLoss, is_certain, lost_end, lost_since};
use super::page_request::PageRequest;
use super::poll::{Collecting, Pace, Polled};
use super::request::ReadRequest;
use super::sample::infer_range;
use crate::client::Client;
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::{EntryId, IdBound};
use crate::error::Result;
use crate::resp::{self, PageLimit};

/// Follows a stream, batch by batch.
pub(super) struct TailReader {
    client: Client,
    feed: Feed,
    request: ReadRequest,
    /// Entries come after this ID; `None` before the start is known.
    after: Option<EntryId>,
    /// An ID that the stream has certainly reached.
    reached: Option<EntryId>,
    pace: Pace,
    /// Tells whether the stream is the one that was read before, and how far it has come.
    watch: LastIdWatch,
    /// Nothing can be added up to the end that was asked for; what is there may be unread.
    closed: bool,
    /// The stream is another one than before, since that was asked last.
    replaced: bool,
    ended: bool,
}

impl TailReader {
    pub(super) fn new(client: &Client, request: ReadRequest) -> Result<Self> {
        let shape = match request.end {
            IdBound::Id(_) => ReplyShape::Entries,
            _ => ReplyShape::Streams,
        };
        let session = client.session_for(&request.stream);
        Ok(TailReader {
            client: client.clone(),
            feed: Feed::new(client, session, request.schema.clone(), shape, request.bounds)?
                .watch_fields(request.who()),
            ended: request.count == Some(0) || request.end == IdBound::Nothing,
            pace: Pace::new(&request),
            request,
            after: None,
            reached: None,
            watch: LastIdWatch::default(),
            closed: false,
            replaced: false,
        })
    }

    /// Resolves the start; done by the first batch where it was not done before.
    pub(super) async fn start(&mut self) -> Result<()> {
        if self.ended || self.after.is_some() {
            return Ok(());
        }
        if self.request.must_exist {
            check_exists(&mut self.feed.session, &self.request.stream).await?;
        }
        if let Some(after) = self.resumes_after() {
            return self.resume(after).await;
        }
        let start = self.request.start;
        match first_id(&mut self.feed.session, &self.request.stream, start).await? {
            Some(first) => {
                let after = first.predecessor().unwrap_or(EntryId::MIN);
                self.after = Some(after);
                self.reached = (start == IdBound::AfterNewest).then_some(after);
            }
            None if start == IdBound::Newest => self.after = Some(EntryId::MIN),
            None => self.ended = true,
        }
        Ok(())
    }

    fn resumes_after(&self) -> Option<EntryId> {
        let resume = self.request.resume.as_ref()?;
        resume.after.get(&self.request.stream).copied()
    }

    /// Where it has begun, before anything was read; nothing where an earlier run says that.
    #[cfg(feature = "python")]
    pub(super) fn begins_after(&self) -> Option<EntryId> {
        self.after.filter(|_| self.resumes_after().is_none())
    }

    /// Whether the stream was found to be another one since the last call, which is read from its
    /// first entry on.
    #[cfg(feature = "python")]
    pub(super) fn take_replaced(&mut self) -> bool {
        std::mem::take(&mut self.replaced)
    }

    /// Goes on where an earlier run had come to, if nothing behind that is lost.
    async fn resume(&mut self, seen: EntryId) -> Result<()> {
        if matches!(self.request.end, IdBound::Id(end) if end <= seen) {
            // Whatever has become of the stream since.
            self.ended = true;
            return Ok(());
        }
        let lost = lost_since(&mut self.feed.session, &self.request.stream, seen).await?;
        let after = match lost {
            Some(lost) => self.go_on_after(lost, seen)?,
            None => seen,
        };
        self.replaced |= after < seen;
        self.after = Some(after);
        self.reached = Some(after);
        Ok(())
    }

    /// The ID after which to go on although entries up to `seen`, or behind it, are lost; the error
    /// where that is not the policy.
    fn go_on_after(&self, lost: StreamLoss, seen: EntryId) -> Result<EntryId> {
        lost.go_on_after(seen, self.request.on_data_loss(), self.request.who())
    }

    /// Before the first read on another connection: the server may have lost what was read last.
    async fn check_end(&mut self) -> Result<()> {
        let Some(seen) = self.feed.last_id().max(self.reached) else {
            return Ok(());
        };
        if self.feed.session.is_connected() || seen == EntryId::MIN {
            return Ok(());
        }
        let lost = lost_end(&mut self.feed.session, &self.request.stream, seen).await?;
        lost.filter(is_certain).map_or(Ok(()), |lost| self.lost(lost, seen))
    }

    /// The stream has lost its end, or has been created again: goes on where that is the policy.
    fn lost(&mut self, lost: StreamLoss, seen: EntryId) -> Result<()> {
        let after = self.go_on_after(lost, seen)?;
        if after < seen {
            self.feed.forget_position()?;
            self.after = Some(after);
            self.reached = None;
            self.replaced = true;
        }
        Ok(())
    }

    /// The next batch, never empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        self.start().await?;
        self.pace.begin_poll();
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll().await {
                Ok(polled) => match self.pace.after(polled, self.feed.rows()) {
                    Collecting::GoesOn => {}
                    Collecting::Over => break,
                    Collecting::Ended => self.ended = true,
                },
                Err(error) => {
                    self.watch.hurry();
                    self.feed.recover(error).await?;
                }
            }
        }
        let batch = self.feed.flush()?;
        self.pace.flushed();
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// The bytes of all replies so far.
    pub(super) fn received(&self) -> u64 {
        self.feed.received()
    }

    /// After an error: what was handed out stays so, the rest is read again.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.pace.flushed();
        self.feed.rewind()
    }

    async fn poll(&mut self) -> Result<Polled> {
        if self.request.sample.is_some() && !self.infer().await? {
            return self.wait_for_one().await;
        }
        if !self.feed.is_in_flight() {
            self.check_end().await?;
            let Some(wait) = self.pace.wait(self.feed.rows(), self.feed.longest_wait()) else {
                return Ok(Polled::Nothing);
            };
            match self.next_page(wait) {
                Some(request) => self.feed.send(request).await?,
                None => return Ok(Polled::Ended),
            }
        }
        let asked = Instant::now();
        let Received::End { request, entries } = self.feed.receive().await? else {
            self.came();
            return Ok(Polled::More);
        };
        if entries == 0 {
            return self.nothing_came(asked, request.wait).await;
        }
        self.came();
        if entries < request.limit.count {
            return Ok(Polled::Drained);
        }
        // There is more, most likely, and the server fetches it while columns are built.
        if let Some(next) = self.next_page(None) {
            self.feed.send(next).await?;
        }
        self.feed.build()?;
        Ok(Polled::More)
    }

    /// The batch has its first entry, if it had none.
    fn came(&mut self) {
        if self.feed.rows() > 0 {
            self.pace.came(Instant::now());
        }
    }

    async fn nothing_came(&mut self, asked: Instant, waited: Option<Duration>) -> Result<Polled> {
        if let IdBound::Id(end) = self.request.end {
            if self.closed {
                return Ok(Polled::Ended);
            }
            // What came before the last that can come is read once more.
            self.closed = self.has_reached(end).await?;
            if self.closed {
                return Ok(Polled::More);
            }
            return match (self.feed.rows(), self.pace.collects()) {
                (1.., false) => Ok(Polled::Drained),
                _ => self.wait_for_one().await,
            };
        }
        match waited {
            Some(waited) => self.idle(asked, waited).await,
            None if self.feed.rows() == 0 => Ok(Polled::More),
            None => Ok(Polled::Drained),
        }
    }

    /// Waits until an entry is there behind the last, without reading it.
    async fn wait_for_one(&mut self) -> Result<Polled> {
        let asked = Instant::now();
        let wait = self.pace.deadline().left_up_to(self.feed.longest_wait());
        let (stream, limit) = (&self.request.stream, PageLimit::of_count(1));
        let command = resp::read_after(stream, self.position(), limit, Some(block_ms(wait)));
        let decoder = ids_only(ReplyShape::Streams)?;
        let waiting = self.feed.session.attempt(&command, Some(wait), decoder, last_decoded);
        match waiting.await? {
            Some(came) => {
                // IDs only grow: nothing can come up to the end any more.
                self.closed |= matches!(self.request.end, IdBound::Id(end) if came > end);
                Ok(Polled::More)
            }
            None => self.idle(asked, wait).await,
        }
    }

    /// The server waited, and nothing came.
    async fn idle(&mut self, asked: Instant, waited: Duration) -> Result<Polled> {
        if self.feed.rows() == 0 {
            self.look_after().await?;
        }
        Ok(self.pace.after_nil(asked, waited).await)
    }

    /// The ID behind which to read on.
    fn position(&self) -> EntryId {
        self.feed.last_id().or(self.after).unwrap_or(EntryId::MIN)
    }

    /// What to ask for next, without `wait` only what is there; `None` where nothing is left.
    fn next_page(&mut self, wait: Option<Duration>) -> Option<PageRequest> {
        let stream = &self.request.stream;
        let after = self.position();
        let count = self.feed.page().min(self.feed.missing(self.request.count));
        let request = match self.request.end {
            IdBound::Id(end) => {
                let first = after.successor().filter(|first| *first <= end)?;
                let command = resp::range(stream, first, end, count);
                PageRequest::new(command, PageLimit::of_count(count))
            }
            _ => {
                let limit = self.feed.limit(count);
                let command = resp::read_after(stream, after, limit, wait.map(block_ms));
                PageRequest { wait, ..PageRequest::new(command, limit) }
            }
        };
        (count > 0).then_some(request)
    }

    /// Types the fields where that is asked for, once there is something to type them by.
    async fn infer(&mut self) -> Result<bool> {
        let Some(sample) = self.request.sample else {
            return Ok(false);
        };
        let start = self.position().successor().unwrap_or(EntryId::MAX);
        let inferred =
            infer_range(&self.client, &self.request, sample, start, EntryId::MAX).await?;
        if let Some(schema) = inferred {
            self.feed.restart(schema)?;
            self.request.sample = None;
        }
        Ok(self.request.sample.is_none())
    }

    /// Whether nothing can be added up to `end` any more, by what was learned last.
    async fn has_reached(&mut self, end: EntryId) -> Result<bool> {
        // Entries at the end may have come and gone, which only the server's own record tells.
        let mut reached = self.watch.latest();
        if self.watch.is_due() {
            let (session, stream) = (&mut self.feed.session, &self.request.stream);
            reached = self.watch.fetch(session, stream).await?;
            if reached.is_none() {
                reached = newest(session, stream).await?;
            }
        }
        Ok(reached.is_some_and(|reached| reached >= end))
    }

    /// Makes sure that the stream has not been created again with smaller IDs, which no read behind
    /// the last one would ever see.
    async fn look_after(&mut self) -> Result<()> {
        let Some(seen) = self.feed.last_id().max(self.reached).filter(|_| self.watch.is_due())
        else {
            return Ok(());
        };
        match self.watch.fetch(&mut self.feed.session, &self.request.stream).await? {
            Some(newest) if newest < seen && newest > EntryId::MIN => {
                self.watch.hurry();
                self.lost(StreamLoss::BegunAnew { newest }, seen)
            }
            _ => Ok(()),
        }
    }
}
