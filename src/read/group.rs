//! Reads through a consumer group: XREADGROUP, own pending entries and acknowledgement.

use std::time::{Duration, Instant};

use super::ack;
use super::bounds::newest;
use super::deadline::{Deadline, block_ms};
use super::feed::{Feed, Received, Request};
use super::request::{GroupOptions, OnIdle, OwnPending, ReadRequest};
use crate::admin::create_group_in;
use crate::client::Client;
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{self, Info, RawReply, ReadGroup};

/// Reads as one consumer of a group, batch by batch.
///
/// What the server has sent is pending until it is acknowledged, whether or not it arrived. So a
/// request asks for no more than the batch has room for, and after a lost reply the consumer's own
/// pending entries are read first, from behind the last one that came.
pub(super) struct GroupReader {
    feed: Feed,
    request: ReadRequest,
    options: GroupOptions,
    started: bool,
    /// Own pending entries after this ID are read; `None` reads new ones.
    pending_after: Option<EntryId>,
    /// No new entry that was asked for here has an ID up to this one.
    seen: EntryId,
    /// The rows of the latest batch, which its caller may still be busy with.
    in_hand: Vec<EntryId>,
    /// What is done with, and has not certainly been acknowledged.
    done: Vec<EntryId>,
    /// So many of these went along with the request that is under way.
    sent: usize,
    first_came: Option<Instant>,
    ended: bool,
}

/// What a poll came to.
enum Polled {
    /// Entries, and perhaps there are more.
    More,
    /// All that there was.
    Drained,
    /// No own pending entries are left; new ones have not been asked for.
    Caught,
    /// Nothing, for as long as the poll may last.
    Nothing,
}

impl GroupReader {
    /// The longest that one command blocks.
    const SLICE: Duration = Duration::from_secs(5);

    pub(super) fn new(
        client: &Client,
        request: ReadRequest,
        options: GroupOptions,
    ) -> Result<Self> {
        if request.sample.is_some() {
            return Err(Error::invalid(
                "a group's entries cannot be looked at beforehand to infer a schema; give one",
            ));
        }
        let shape = ReplyShape::Streams;
        Ok(GroupReader {
            feed: Feed::new(client, request.schema.clone(), shape, request.bounds)?,
            ended: request.count == Some(0),
            pending_after: match options.own_pending {
                OwnPending::Skip => None,
                OwnPending::First | OwnPending::Only => Some(EntryId::MIN),
            },
            request,
            options,
            started: false,
            seen: EntryId::MIN,
            in_hand: Vec::new(),
            done: Vec::new(),
            sent: 0,
            first_came: None,
        })
    }

    /// Creates the group where that is asked for, and finds out where it stands.
    pub(super) async fn start(&mut self) -> Result<()> {
        if self.started {
            return Ok(());
        }
        let (stream, group) = (&self.request.stream, &self.options.group);
        if let Some(at) = &self.options.create_at {
            create_group_in(&mut self.feed.session, stream, group, *at, true).await?;
        }
        if self.options.own_pending == OwnPending::Skip {
            self.seen = self.last_delivered().await?;
        }
        self.started = true;
        Ok(())
    }

    /// The ID up to which the group has been delivered: what comes later has a greater one.
    async fn last_delivered(&mut self) -> Result<EntryId> {
        let group = &self.options.group;
        let command = resp::groups_info(&self.request.stream);
        let session = &mut self.feed.session;
        let asking = session.request(&command, || Ok(RawReply::new()), RawReply::into_value);
        let groups = match asking.await {
            Ok(groups) => groups,
            // No such key, or the user may not ask: the read itself will say what is wrong.
            Err(error)
                if matches!(error.kind(), ErrorKind::Response | ErrorKind::Authentication)
                    && !error.retryable() =>
            {
                return Ok(EntryId::MIN);
            }
            Err(error) => return Err(error),
        };
        let found = Info::each(&groups).find(|info| info.text("name") == Some(group.as_slice()));
        Ok(found.and_then(|info| info.id("last-delivered-id")).unwrap_or(EntryId::MIN))
    }

    /// All that there is for this consumer, or so many entries of it; after waiting for the first
    /// where that is asked for.
    pub(super) async fn read_all(mut self) -> Result<Batch> {
        self.start().await?;
        // What is added meanwhile would keep the read from ending.
        let end = newest(&mut self.feed.session, &self.request.stream).await?;
        let poll = self.request.block.map(Deadline::of_block);
        while !self.ended && self.feed.missing(self.request.count) > 0 {
            match self.poll(poll.as_ref()).await {
                Ok(Polled::More | Polled::Caught)
                    if end > self.feed.last_id() || self.feed.rows() == 0 => {}
                Ok(_) => break,
                Err(error) => self.recover(error).await?,
            }
        }
        let batch = self.feed.flush()?;
        if self.options.auto_ack {
            self.done.extend_from_slice(batch.ids());
        }
        match self.acknowledge().await {
            // Perhaps the server took note, and then the rows would be lost with this error.
            Err(error)
                if error.retryable()
                    || matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) => {}
            acknowledged => acknowledged?,
        }
        Ok(batch)
    }

    /// The next batch, never empty; `None` at the end. The one before is done with.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        self.start().await?;
        let in_hand = std::mem::take(&mut self.in_hand);
        if self.options.auto_ack {
            self.done.extend(in_hand);
        }
        let mut poll = self.new_poll();
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll(Some(&poll)).await {
                Ok(Polled::More) => {}
                Ok(Polled::Caught) if self.feed.rows() == 0 => {}
                Ok(Polled::Drained | Polled::Caught) if self.request.batch_timeout.is_some() => {}
                Ok(Polled::Drained | Polled::Caught) => break,
                Ok(Polled::Nothing) if self.feed.rows() > 0 => break,
                Ok(Polled::Nothing) => match self.request.on_idle {
                    OnIdle::Wait => poll = self.new_poll(),
                    OnIdle::Stop => self.ended = true,
                },
                Err(error) => self.recover(error).await?,
            }
        }
        // Those that no request has taken along.
        self.acknowledge().await?;
        let batch = self.feed.flush()?;
        self.first_came = None;
        self.in_hand = batch.ids().to_vec();
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// After an error: what was handed out stays so; the rest is pending, and comes first.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.first_came = None;
        self.feed.rewind()?;
        self.read_own_pending();
        Ok(())
    }

    async fn recover(&mut self, error: Error) -> Result<()> {
        self.feed.recover(error).await?;
        self.read_own_pending();
        Ok(())
    }

    /// What a lost reply held is this consumer's, and has to be read from its pending list.
    fn read_own_pending(&mut self) {
        if !self.options.noack {
            self.pending_after = Some(self.feed.last_id().unwrap_or(EntryId::MIN).max(self.seen));
        }
    }

    fn new_poll(&self) -> Deadline {
        Deadline::of_block(self.request.block.unwrap_or_default())
    }

    /// Asks for entries where none are under way, with acknowledgements sent along, and takes what
    /// comes. Without a deadline only for what is there.
    async fn poll(&mut self, poll: Option<&Deadline>) -> Result<Polled> {
        let deadline = match (self.first_came, self.request.batch_timeout) {
            (Some(start), Some(timeout)) => Some(Deadline::after(start, timeout)),
            _ => poll.copied(),
        };
        if !self.feed.is_asked() {
            if self.feed.was_cut() {
                self.read_own_pending();
            }
            let wait = deadline.map(|deadline| deadline.left_up_to(Self::SLICE));
            let wait = match (self.feed.rows(), wait) {
                (0, wait) => wait,
                // What is there is given at once.
                _ if self.request.batch_timeout.is_none() => None,
                (_, Some(wait)) if wait.is_zero() => return Ok(Polled::Nothing),
                (_, wait) => wait,
            };
            let request = self.next_request(wait.filter(|_| self.pending_after.is_none()));
            self.sent = self.done.len();
            self.feed.ask(request).await?;
        }
        let asked = Instant::now();
        let received = self.feed.receive().await?;
        // Their replies came before any entry.
        self.done.drain(..std::mem::take(&mut self.sent).min(self.done.len()));
        let Received::End { request, entries } = received else {
            self.came();
            return Ok(Polled::More);
        };
        let deleted = self.feed.take_deleted();
        self.came();
        if let Some(after) = self.pending_after {
            return Ok(self.pending_came(after, entries, &deleted));
        }
        match (entries, request.wait) {
            (0, Some(waited)) => self.idle(deadline.as_ref(), asked, waited).await,
            (0, None) if self.feed.rows() == 0 && deadline.is_some() => Ok(Polled::More),
            (entries, _) if entries < request.count => Ok(Polled::Drained),
            _ => {
                self.feed.build()?;
                Ok(Polled::More)
            }
        }
    }

    /// Own pending entries came, or there are no more of them.
    fn pending_came(&mut self, after: EntryId, entries: u64, deleted: &[EntryId]) -> Polled {
        // What was deleted can never be delivered, and is of no use in the pending list.
        self.done.extend_from_slice(deleted);
        if entries > 0 || !deleted.is_empty() {
            let last = deleted.iter().copied().max().max(self.feed.last_id());
            self.pending_after = Some(last.unwrap_or(after).max(after));
            return Polled::More;
        }
        self.pending_after = None;
        if self.options.own_pending == OwnPending::Only {
            self.ended = true;
        }
        Polled::Caught
    }

    /// The batch has its first entry, if it had none.
    fn came(&mut self) {
        if self.feed.rows() > 0 && self.first_came.is_none() {
            self.first_came = Some(Instant::now());
        }
    }

    /// The server waited, and nothing came.
    async fn idle(
        &mut self,
        deadline: Option<&Deadline>,
        asked: Instant,
        waited: Duration,
    ) -> Result<Polled> {
        /// A server that answers nil before the time is over is not asked again at once.
        const PAUSE: Duration = Duration::from_millis(20);
        let left = deadline.map_or(Duration::ZERO, |deadline| deadline.left_up_to(Self::SLICE));
        if left.is_zero() {
            return Ok(Polled::Nothing);
        }
        if asked.elapsed() < waited {
            tokio::time::sleep(left.min(PAUSE)).await;
        }
        Ok(Polled::More)
    }

    fn next_request(&mut self, wait: Option<Duration>) -> Request {
        let missing = self.feed.missing(self.request.count);
        let count = self.feed.page().min(self.feed.room()).min(missing);
        let (stream, group) = (&self.request.stream, &self.options.group);
        let acknowledgements = ack::commands(stream, group, &self.done);
        let before = acknowledgements.len();
        let mut command = acknowledgements.flatten().collect::<Vec<u8>>();
        let read = ReadGroup {
            stream,
            group,
            consumer: &self.options.consumer,
            count,
            block_ms: wait.map(block_ms),
            noack: self.options.noack,
            pending_after: self.pending_after,
        };
        command.extend(read.packed());
        Request { command, count, wait, before }
    }

    /// Acknowledges what is done with, without a read.
    async fn acknowledge(&mut self) -> Result<()> {
        if !self.done.is_empty() {
            let (stream, group) = (&self.request.stream, &self.options.group);
            ack::acknowledge(&mut self.feed.session, stream, group, &self.done).await?;
            self.done.clear();
        }
        Ok(())
    }
}
