//! Reads through a consumer group: XREADGROUP, own pending entries and acknowledgement.

mod poll;
mod recover;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::poll::Polled;
use super::ack;
use super::bounds::newest;
use super::claim::Claimer;
use super::deadline::Deadline;
use super::feed::Feed;
use super::group_options::{GroupOptions, OnGroupLost, OwnPending};
use super::request::{OnIdle, ReadRequest};
use super::stats::Watched;
use crate::admin::create_group_in;
use crate::client::{Client, Retry};
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{self, Info};

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
    /// No new entry that is still to come has an ID up to this one.
    seen: EntryId,
    /// The same, were what has come since the last batch to come again.
    handed_out: EntryId,
    claimer: Option<Claimer>,
    /// What the request that is under way, or was the last one, asks for.
    asked_for: AskedFor,
    /// The batch has entries that were delivered before.
    again: bool,
    /// The batch's rows when the request was sent.
    rows_before: usize,
    watched: Arc<Watched>,
    /// The rows of the latest batch, which its caller may still be busy with.
    in_hand: Vec<EntryId>,
    /// What is done with, and has not certainly been acknowledged.
    done: Vec<EntryId>,
    /// Pending entries that were deleted from the stream, and have to be acknowledged.
    gone: Vec<EntryId>,
    /// What this consumer gave back, is due, and has not come again.
    returning: Vec<EntryId>,
    /// So many of the former and of the latter went along with the request that is under way.
    sent: (usize, usize),
    first_came: Option<Instant>,
    /// When to create a lost group again, and when to give up.
    recreations: Retry,
    ended: bool,
}

/// What a request asks for.
enum AskedFor {
    New,
    OwnPending {
        after: EntryId,
    },
    /// What others left pending; or these, from a list.
    Claims {
        from: EntryId,
        listed: Vec<EntryId>,
    },
    /// What this consumer gave back, and is due.
    Returns,
}

impl GroupReader {
    pub(super) fn new(
        client: &Client,
        request: ReadRequest,
        options: GroupOptions,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        if request.sample.is_some() {
            return Err(Error::invalid(
                "a group's entries cannot be looked at beforehand to infer a schema; give one",
            ));
        }
        let shape = ReplyShape::Streams;
        let mut recreations = Retry::new(client.options());
        // It takes a connection to learn that the group is lost.
        recreations.connected();
        Ok(GroupReader {
            feed: Feed::new(client, request.schema.clone(), shape, request.bounds)?,
            ended: request.count == Some(0),
            pending_after: match options.own_pending {
                OwnPending::Skip => None,
                OwnPending::First | OwnPending::Only => Some(EntryId::MIN),
            },
            request,
            claimer: options.reclaim.filter(|_| !options.noack).map(Claimer::new),
            options,
            started: false,
            seen: EntryId::MIN,
            handed_out: EntryId::MIN,
            asked_for: AskedFor::New,
            again: false,
            rows_before: 0,
            watched,
            in_hand: Vec::new(),
            done: Vec::new(),
            gone: Vec::new(),
            returning: Vec::new(),
            sent: (0, 0),
            first_came: None,
            recreations,
        })
    }

    /// Creates the group where that is asked for, and finds out where it stands.
    pub(super) async fn start(&mut self) -> Result<()> {
        if self.started {
            return Ok(());
        }
        if let Some(at) = self.options.create_at {
            // A group that was lost while nobody read begins where this consumer stood as well.
            let start = match self.options.on_lost {
                OnGroupLost::Raise => at,
                OnGroupLost::Recreate => self.stood_at().await?,
            };
            let (stream, group) = (&self.request.stream, &self.options.group);
            create_group_in(&mut self.feed.session, stream, group, start, true).await?;
        }
        if self.options.own_pending == OwnPending::Skip {
            self.seen = self.standing().await?.last_delivered;
            self.handed_out = self.seen;
        }
        self.started = true;
        Ok(())
    }

    /// How far the group has come.
    async fn standing(&mut self) -> Result<Standing> {
        let command = resp::groups_info(&self.request.stream);
        let groups = match self.feed.session.value(&command).await {
            Ok(groups) => groups,
            // No such key, or the user may not ask: the read itself will say what is wrong.
            Err(error)
                if matches!(error.kind(), ErrorKind::Response | ErrorKind::Authentication)
                    && !error.retryable() =>
            {
                return Ok(Standing::default());
            }
            Err(error) => return Err(error),
        };
        let named = |info: &Info<'_>| info.text("name") == Some(self.options.group.as_slice());
        let standing = |info: Info<'_>| {
            let last_delivered = info.id("last-delivered-id")?;
            Some(Standing { last_delivered, lag: info.number("lag") })
        };
        let found = Info::each(&groups).find(named).and_then(standing);
        Ok(found.unwrap_or_default())
    }

    /// All that there is for this consumer, or so many entries of it; after waiting for the first
    /// where that is asked for.
    pub(super) async fn read_all(mut self) -> Result<Batch> {
        self.start().await?;
        // What is added meanwhile would keep the read from ending.
        let end = newest(&mut self.feed.session, &self.request.stream).await?;
        let poll = self.request.block.map(Deadline::of_block);
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll(poll.as_ref()).await {
                Ok(Polled::More | Polled::Caught)
                    if end > self.feed.last_id() || self.feed.rows() == 0 => {}
                Ok(_) => break,
                Err(error) => self.recover(error).await?,
            }
        }
        let batch = self.feed.flush_all()?;
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
        self.let_go(true);
        let mut poll = self.new_poll();
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll(Some(&poll)).await {
                Ok(Polled::More) => {}
                Ok(Polled::Caught) if self.feed.rows() == 0 => {}
                Ok(Polled::Drained | Polled::Caught) if self.request.batch_timeout.is_some() => {}
                Ok(Polled::Drained | Polled::Caught | Polled::Whole) => break,
                Ok(Polled::Nothing) if self.feed.rows() > 0 => break,
                Ok(Polled::Nothing) => match (self.request.on_idle, self.watched.next_return()) {
                    (OnIdle::Wait, _) => poll = self.new_poll(),
                    // Work that was put off is not done.
                    (OnIdle::Stop, Some(due)) => poll = Deadline::after(due, Duration::ZERO),
                    (OnIdle::Stop, None) => self.ended = true,
                },
                Err(error) => self.recover(error).await?,
            }
        }
        // Those that no request has taken along.
        self.acknowledge().await?;
        let batch = self.feed.flush()?;
        self.first_came = None;
        self.in_hand = batch.ids().to_vec();
        if !self.returning.is_empty() {
            // The reply may go on in the next batch.
            let came: HashSet<&EntryId> = batch.ids().iter().collect();
            self.returning.retain(|id| !came.contains(id));
        }
        // What follows an entry that cannot be read has come, and has to come again.
        self.handed_out = match self.feed.has_failed() {
            true => batch.ids().last().copied().unwrap_or(self.handed_out),
            false => self.seen,
        };
        Ok((!batch.is_empty() || !batch.rejected().is_empty()).then_some(batch))
    }

    /// Whether the latest batch has entries that were delivered before.
    pub(super) fn came_again(&mut self) -> bool {
        // A reply may go on in the next batch.
        let goes_on = self.feed.is_asked() && !matches!(self.asked_for, AskedFor::New);
        std::mem::replace(&mut self.again, goes_on)
    }

    /// The bytes of all replies so far.
    pub(super) fn received(&self) -> u64 {
        self.feed.received()
    }

    /// Acknowledges what is done with; with `success` also the batch in hand.
    pub(super) async fn finish(&mut self, success: bool) -> Result<()> {
        self.let_go(success);
        self.acknowledge().await
    }

    /// The batch in hand is done with, or stays pending.
    fn let_go(&mut self, success: bool) {
        let in_hand = std::mem::take(&mut self.in_hand);
        let pending = self.watched.take_kept_pending();
        if success && self.options.auto_ack {
            self.done.extend(in_hand.into_iter().filter(|id| !pending.contains(id)));
        }
    }

    /// After an error: what was handed out stays so; the rest is pending, and comes first.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.first_came = None;
        self.feed.rewind()?;
        self.again = false;
        self.recreations.succeeded();
        self.seen = self.handed_out;
        if let AskedFor::OwnPending { after } = &mut self.asked_for {
            *after = self.handed_out;
        }
        self.read_own_pending()
    }

    /// Remembers how far the request that is under way has come.
    fn note_rows(&mut self) {
        let Some(last) = self.feed.last_id().filter(|_| self.feed.rows() > self.rows_before) else {
            return;
        };
        self.first_came.get_or_insert_with(Instant::now);
        self.seen = self.seen.max(last);
        match &mut self.asked_for {
            AskedFor::New => {}
            AskedFor::OwnPending { after } => *after = last,
            AskedFor::Claims { .. } | AskedFor::Returns => {}
        }
        self.again |= !matches!(self.asked_for, AskedFor::New);
    }

    fn new_poll(&self) -> Deadline {
        Deadline::of_block(self.request.block.unwrap_or_default())
    }

    /// The first so many of what is done with are acknowledged.
    fn are_done(&mut self, number: usize) {
        let number = number.min(self.done.len());
        let done = self.done.drain(..number).max();
        self.watched.update(|stats| {
            stats.acknowledged += number as u64;
            stats.done_up_to = stats.done_up_to.max(done);
        });
    }

    /// Acknowledges what is done with, without a read.
    async fn acknowledge(&mut self) -> Result<()> {
        let (stream, group) = (&self.request.stream, &self.options.group);
        let session = &mut self.feed.session;
        ack::acknowledge(session, stream, group, &self.gone).await?;
        self.gone.clear();
        ack::acknowledge(session, stream, group, &self.done).await?;
        self.are_done(self.done.len());
        Ok(())
    }
}

/// How far a group has come: entries with greater IDs are still to be delivered, `lag` in number.
#[derive(Default)]
struct Standing {
    last_delivered: EntryId,
    lag: Option<u64>,
}
