//! Following several streams: one XREAD for all, after the last entry of each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::parts::Part;
use super::sample::with_inferred;
use super::{Pattern, ask};
use crate::admin::find_streams;
use crate::client::Client;
use crate::decode::{Batch, ReplyShape, StreamNames, ends};
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result};
use crate::read::bounds::{StreamLoss, no_match};
use crate::read::deadline::block_ms;
use crate::read::feed::{Feed, Received};
use crate::read::page_request::PageRequest;
use crate::read::poll::{Collecting, Pace, Polled};
use crate::read::request::ReadRequest;
use crate::resp::{self, PageLimit};

/// Follows several streams, batch by batch.
pub(in crate::read) struct ManyTail {
    client: Client,
    feed: Feed,
    request: ReadRequest,
    names: Arc<StreamNames>,
    /// The ID of each stream after which its entries come; none before the start is known.
    positions: Vec<EntryId>,
    /// The same after the batches that were handed out.
    delivered: Vec<EntryId>,
    /// The rows of the batch that the positions take account of.
    told: usize,
    /// The streams that the latest reply had entries of, and which one is asked for first.
    active: usize,
    first: usize,
    /// How many entries are wanted still, where that is limited.
    left: Option<u64>,
    pace: Pace,
    started: bool,
    /// When to look next for streams that match the pattern, and which of the known ones do not any
    /// more.
    discover_due: Option<Instant>,
    gone: Vec<bool>,
    /// When to look next whether the streams are those that were read before.
    look_due: Option<Instant>,
    ended: bool,
}

impl ManyTail {
    /// A reply has at most this many pages, where all streams have more than was expected.
    const PAGES: u64 = 4;
    /// How often at most the streams are asked for what they have come to, and the part of the time
    /// that may take: 1 / SHARE.
    const INTERVAL: Duration = Duration::from_secs(1);
    const SHARE: u32 = 50;

    pub(in crate::read) fn new(client: &Client, request: ReadRequest) -> Result<Self> {
        if !request.end.is_newest() {
            return Err(Error::invalid("several streams are followed without an end"));
        }
        let has_pattern = request.many.as_ref().is_some_and(|many| many.pattern.is_some());
        let schema = request.schema.clone();
        let names = request.schema.sources.clone().unwrap_or_default();
        let session = ask::session(client, &names);
        let feed = Feed::new(client, session, schema, ReplyShape::Streams, request.bounds)?;
        Ok(ManyTail {
            client: client.clone(),
            feed: feed.watch_fields(request.who()),
            positions: Vec::new(),
            delivered: Vec::new(),
            told: 0,
            active: 1,
            first: 0,
            left: request.count,
            pace: Pace::new(&request),
            started: false,
            discover_due: None,
            gone: Vec::new(),
            look_due: None,
            ended: request.count == Some(0)
                || request.start == IdBound::Nothing
                || (names.len() == 0 && !has_pattern),
            names,
            request,
        })
    }

    /// Resolves the start; done by the first batch where it was not done before.
    pub(in crate::read) async fn start(&mut self) -> Result<()> {
        if self.ended || self.started {
            return Ok(());
        }
        if let Some(pattern) = self.pattern() {
            let keys = self.found(&pattern).await?;
            if keys.is_empty() && self.request.must_exist {
                return Err(no_match(&pattern.text));
            }
            self.set_names(StreamNames::new(keys).into()).await?;
        } else if self.request.must_exist {
            ask::check_exist(&self.client, self.names.keys()).await?;
        } else {
            ask::check_slots(&self.client, &self.names).await?;
        }
        let Some(many) = &self.request.many else { return Ok(()) };
        let bounds = ask::bounds(&self.client, &self.request, many).await?;
        let is_newest = self.request.start == IdBound::Newest;
        let after = |(first, last): (EntryId, EntryId)| match first.predecessor() {
            // It has no entry of which the newest could be the start.
            _ if first > last && is_newest => EntryId::MIN,
            before => before.unwrap_or(EntryId::MIN),
        };
        self.positions = bounds.into_iter().map(after).collect();
        self.delivered.clone_from(&self.positions);
        self.gone = vec![false; self.positions.len()];
        self.look_due = Instant::now().checked_add(Self::INTERVAL);
        self.started = true;
        Ok(())
    }

    fn pattern(&self) -> Option<Pattern> {
        self.request.many.as_ref().and_then(|many| many.pattern.clone())
    }

    /// The streams that match the pattern now.
    async fn found(&mut self, pattern: &Pattern) -> Result<Vec<Vec<u8>>> {
        /// Looking takes this part of the time at most: 1 / SHARE.
        const SHARE: u32 = 20;
        let started = Instant::now();
        let keys = find_streams(&self.client, &pattern.text).await?;
        let pause = started.elapsed().saturating_mul(SHARE).max(pattern.every);
        self.discover_due = Instant::now().checked_add(pause);
        Ok(keys)
    }

    /// Looks for streams that have come, or gone, where it is time for that.
    async fn discover(&mut self) -> Result<()> {
        let is_due = self.discover_due.is_some_and(|due| due <= Instant::now());
        let Some(pattern) = self.pattern().filter(|_| is_due) else { return Ok(()) };
        let found: HashSet<Vec<u8>> = self.found(&pattern).await?.into_iter().collect();
        // All that a new one has was added since the start.
        let after = match self.request.start {
            IdBound::Id(first) => first.predecessor().unwrap_or(EntryId::MIN),
            _ => EntryId::MIN,
        };
        for (stream, key) in self.names.keys().iter().enumerate() {
            if let Some(gone) = self.gone.get_mut(stream) {
                *gone = !found.contains(key);
            }
            if !found.contains(key) {
                // Where it comes again it is another stream.
                for positions in [&mut self.positions, &mut self.delivered] {
                    positions.get_mut(stream).into_iter().for_each(|seen| *seen = after);
                }
            }
        }
        let known: HashSet<&Vec<u8>> = self.names.keys().iter().collect();
        let mut new: Vec<Vec<u8>> =
            found.iter().filter(|key| !known.contains(key)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        new.sort_unstable();
        let number = self.names.len() + new.len();
        self.set_names(StreamNames::new([self.names.keys(), &new].concat()).into()).await?;
        self.positions.resize(number, after);
        self.delivered.resize(number, after);
        self.gone.resize(number, false);
        Ok(())
    }

    async fn set_names(&mut self, names: Arc<StreamNames>) -> Result<()> {
        ask::check_slots(&self.client, &names).await?;
        if self.names.len() == 0 {
            self.feed.session = ask::session(&self.client, &names);
        }
        self.feed.set_streams(&names);
        if let Some(many) = &mut self.request.many {
            Arc::make_mut(many).names = Arc::clone(&names);
        }
        self.names = names;
        Ok(())
    }

    /// The next batch, never empty; `None` at the end.
    pub(in crate::read) async fn next(&mut self) -> Result<Option<Batch>> {
        Box::pin(self.start()).await?;
        self.pace.begin_poll();
        while !self.ended && !self.feed.is_full() && self.missing() > 0 {
            match self.poll().await {
                Ok(polled) => match self.pace.after(polled, self.feed.rows()) {
                    Collecting::GoesOn => {}
                    Collecting::Over => break,
                    Collecting::Ended => self.ended = true,
                },
                Err(error) => {
                    self.look_due = None;
                    let error = ask::about_type(&self.client, &self.names, error).await;
                    self.feed.recover(error).await?;
                }
            }
        }
        self.tell();
        self.told = 0;
        let mut batch = self.feed.flush()?;
        self.pace.flushed();
        if let Some(left) = &mut self.left {
            // Each stream was asked for as many as all may have.
            let rows = usize::try_from(*left).unwrap_or(usize::MAX).min(batch.len());
            if rows < batch.len() {
                batch = batch.select(&(0..rows).collect::<Vec<_>>())?;
            }
            *left -= rows as u64;
            self.ended |= *left == 0;
        }
        for (run, end) in ends(batch.runs(), batch.len()) {
            let last = end.checked_sub(1).and_then(|row| batch.ids().get(row));
            if let (Some(delivered), Some(last)) = (self.delivered.get_mut(run.stream), last) {
                *delivered = *last;
            }
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// The bytes of all replies so far.
    pub(in crate::read) fn received(&self) -> u64 {
        self.feed.received()
    }

    /// After an error: what was handed out stays so, the rest is read again.
    pub(in crate::read) fn rewind(&mut self) -> Result<()> {
        self.pace.flushed();
        self.positions.clone_from(&self.delivered);
        self.told = 0;
        self.feed.rewind()
    }

    /// How many of the entries that are wanted have not come.
    fn missing(&self) -> u64 {
        self.left.map_or(u64::MAX, |left| left.saturating_sub(self.feed.rows() as u64))
    }

    /// Moves the positions on to what has come, also where nobody waited for the rest.
    fn tell(&mut self) {
        if self.feed.rows() <= self.told {
            return;
        }
        for (stream, last) in self.feed.last_ids(self.told) {
            if let Some(position) = self.positions.get_mut(stream) {
                *position = last;
            }
        }
        self.told = self.feed.rows();
        self.pace.came(Instant::now());
    }

    async fn poll(&mut self) -> Result<Polled> {
        self.tell();
        if !self.feed.is_in_flight() {
            Box::pin(self.discover()).await?;
            if self.feed.rows() == 0 && self.is_look_due() {
                self.look_after().await?;
            }
        }
        if self.request.sample.is_some() && !Box::pin(self.infer()).await? {
            return self.wait_for_one().await;
        }
        if !self.feed.is_in_flight() {
            let Some(wait) = self.pace.wait(self.feed.rows(), self.feed.longest_wait()) else {
                return Ok(Polled::Nothing);
            };
            let wait = wait.map(|wait| self.until_discovery(wait));
            if self.is_idle() {
                return self.wait_for_one().await;
            }
            let request = self.next_page(wait);
            self.feed.send(request).await?;
        }
        let asked = Instant::now();
        let (before, received) = (self.told, self.feed.receive().await?);
        self.active = self.feed.last_ids(before).len().max(1);
        self.tell();
        let Received::End { request, entries } = received else { return Ok(Polled::More) };
        match (entries, request.wait) {
            (0, Some(waited)) => return self.idle(asked, waited).await,
            (0, None) if self.feed.rows() == 0 => return Ok(Polled::More),
            (0, None) => return Ok(Polled::Drained),
            // No stream can have more.
            (1.., _) if entries < request.limit.count => return Ok(Polled::Drained),
            _ => {}
        }
        // Where others are busy all the time, there is no other moment to look.
        if self.missing() > 0 && !self.is_look_due() {
            let next = self.next_page(None);
            self.feed.send(next).await?;
        }
        self.feed.build()?;
        Ok(Polled::More)
    }

    /// A wait that ends when it is time to look for streams.
    fn until_discovery(&self, wait: Duration) -> Duration {
        let until = self.discover_due.map(|due| due.saturating_duration_since(Instant::now()));
        until.map_or(wait, |until| wait.min(until.max(Pace::PAUSE)))
    }

    /// Whether there is no stream to be asked.
    fn is_idle(&self) -> bool {
        self.gone.iter().all(|gone| *gone)
    }

    /// What to ask for next, without `wait` only what is there. Whichever stream came first in the
    /// last request comes last in this one: where a batch is full before all have had their turn, it is
    /// another's the next time.
    fn next_page(&mut self, wait: Option<Duration>) -> PageRequest {
        let page = self.feed.page().min(self.missing());
        let (streams, active) = (self.names.len() as u64, self.active as u64);
        let share = page.saturating_mul(Self::PAGES) / streams.max(1);
        let count = (page / active).min(share).max(1);
        let limit = PageLimit::of_count(count);
        let command = resp::read_many_after(&self.asked(), limit, wait.map(block_ms));
        self.first = (self.first + 1) % self.names.len().max(1);
        PageRequest { wait, ..PageRequest::new(command, limit) }
    }

    /// Each stream and its position, from the one on whose turn it is.
    fn asked(&self) -> Vec<(&[u8], EntryId)> {
        let keys = self.names.keys().iter().map(Vec::as_slice);
        let all = keys.zip(self.positions.iter().copied()).zip(&self.gone);
        let mut asked: Vec<_> = all.filter(|(_, gone)| !**gone).map(|(stream, _)| stream).collect();
        let first = self.first.min(asked.len());
        asked.rotate_left(first);
        asked
    }

    /// The server waited, and nothing came.
    async fn idle(&mut self, asked: Instant, waited: Duration) -> Result<Polled> {
        if self.feed.rows() == 0 && self.is_look_due() {
            self.look_after().await?;
        }
        Ok(self.pace.after_nil(asked, waited).await)
    }

    /// Makes sure that no stream has been begun anew with smaller IDs, which no read after the last
    /// one would ever see.
    async fn look_after(&mut self) -> Result<()> {
        let started = Instant::now();
        let streams = self.positions.iter().enumerate();
        let read: Vec<usize> =
            streams.filter(|(_, seen)| **seen > EntryId::MIN).map(|(stream, _)| stream).collect();
        let reached = ask::last_generated(&mut self.feed.session, &self.names, &read).await?;
        for (stream, newest) in reached {
            let seen = self.positions.get(stream).copied().unwrap_or_default();
            if newest < seen && !self.is_to_come(seen) {
                let error = StreamLoss::BegunAnew { newest }.error(seen);
                return Err(error.with_context("stream", self.names.text(stream)));
            }
        }
        let pause = started.elapsed().saturating_mul(Self::SHARE).max(Self::INTERVAL);
        self.look_due = Instant::now().checked_add(pause);
        Ok(())
    }

    fn is_look_due(&self) -> bool {
        self.look_due.is_none_or(|due| due <= Instant::now())
    }

    /// Whether a position is where the caller wants to begin, and not that of an entry.
    fn is_to_come(&self, seen: EntryId) -> bool {
        matches!(self.request.start, IdBound::Id(start) if start.predecessor() == Some(seen))
    }

    /// Types the fields where that is asked for, once there is something to type them by.
    async fn infer(&mut self) -> Result<bool> {
        let after = self.positions.iter().map(|after| after.successor());
        let part = |(stream, first): (usize, Option<EntryId>)| {
            Some(Part { stream, first: first?, last: EntryId::MAX, most: u64::MAX })
        };
        let parts: Vec<Part> = after.enumerate().filter_map(part).collect();
        let parts = ask::counted(&self.client, &self.names, parts).await?;
        if let Some(schema) = with_inferred(&self.client, &self.request, &parts).await? {
            self.feed.restart(schema)?;
            self.feed.set_streams(&self.names);
            self.request.sample = None;
        }
        Ok(self.request.sample.is_none())
    }

    /// Waits until an entry is there, without reading it.
    async fn wait_for_one(&mut self) -> Result<Polled> {
        let asked = Instant::now();
        let wait = self.pace.deadline().left_up_to(self.feed.longest_wait());
        let wait = self.until_discovery(wait);
        if self.is_idle() {
            tokio::time::sleep(wait).await;
            return self.idle(asked, wait).await;
        }
        let command =
            resp::read_many_after(&self.asked(), PageLimit::of_count(1), Some(block_ms(wait)));
        match ask::wait_once(&mut self.feed.session, &command, Some(wait)).await?.is_empty() {
            false => Ok(Polled::More),
            true => self.idle(asked, wait).await,
        }
    }
}
