//! Reads through a consumer group: XREADGROUP, own pending entries and acknowledgement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ack;
use super::bounds::{last_generated, newest};
use super::claim::{Claimer, Method, Step, pending};
use super::deadline::{Deadline, block_ms};
use super::feed::{Feed, Received, Request};
use super::group_options::{GroupOptions, OnGroupLost, OwnPending};
use super::request::{OnIdle, ReadRequest};
use super::stats::Watched;
use crate::admin::create_group_in;
use crate::client::{Client, Retry};
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::{EntryId, GroupStart};
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{self, Info, Membership, Packed, ReadGroup};

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
}

/// What a poll came to.
enum Polled {
    /// Entries, and perhaps there are more.
    More,
    /// All that there was.
    Drained,
    /// No own pending entries are left; new ones have not been asked for.
    Caught,
    /// Entries that make a batch of their own.
    Whole,
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
        self.let_go(true);
        let mut poll = self.new_poll();
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll(Some(&poll)).await {
                Ok(Polled::More) => {}
                Ok(Polled::Caught) if self.feed.rows() == 0 => {}
                Ok(Polled::Drained | Polled::Caught) if self.request.batch_timeout.is_some() => {}
                Ok(Polled::Drained | Polled::Caught | Polled::Whole) => break,
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
        self.handed_out = self.seen;
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

    async fn recover(&mut self, error: Error) -> Result<()> {
        if let (AskedFor::Claims { .. }, Some(claimer)) = (&self.asked_for, &mut self.claimer)
            && claimer.fall_back(&error)
        {
            return Ok(());
        }
        if error.kind() == ErrorKind::NoGroup && self.options.on_lost == OnGroupLost::Recreate {
            // Somebody may delete it again and again: with pauses, and not for ever.
            self.recreations.pause(error.with_retryable(true)).await?;
            return self.recreate().await;
        }
        self.feed.recover(error).await?;
        self.read_own_pending()
    }

    /// Creates the group again where this consumer stood; its pending entries are no more.
    async fn recreate(&mut self) -> Result<()> {
        // What has been processed is done, though nobody takes its acknowledgement any more.
        let done = self.done.iter().max().copied();
        self.watched.update(|stats| stats.done_up_to = stats.done_up_to.max(done));
        let start = self.stood_at().await?;
        let (stream, group) = (&self.request.stream, &self.options.group);
        create_group_in(&mut self.feed.session, stream, group, start, true).await?;
        if start == GroupStart::Behind(EntryId::MIN) {
            // What was done says nothing of the entries that come now.
            self.watched.update(|stats| stats.done_up_to = None);
            self.options.done_up_to = None;
        }
        self.done.clear();
        self.gone.clear();
        self.sent = (0, 0);
        self.seen = EntryId::MIN;
        self.handed_out = EntryId::MIN;
        self.pending_after = None;
        Ok(())
    }

    /// Where a group begins that takes the place of a lost one.
    async fn stood_at(&mut self) -> Result<GroupStart> {
        let done = self.watched.snapshot().done_up_to.max(self.options.done_up_to);
        let Some(done) = done else {
            return Ok(self.options.create_at.unwrap_or(GroupStart::Behind(EntryId::MIN)));
        };
        let newest = last_generated(&mut self.feed.session, &self.request.stream).await?;
        // In a stream begun anew this consumer has been nowhere yet.
        let at = newest.filter(|newest| done <= *newest).map_or(EntryId::MIN, |_| done);
        Ok(GroupStart::Behind(at))
    }

    /// What a lost reply held is this consumer's, and has to be read from its pending list.
    fn read_own_pending(&mut self) -> Result<()> {
        self.note_rows();
        let after = match self.asked_for {
            _ if self.options.noack => return Ok(()),
            AskedFor::OwnPending { after } => after,
            // Where all that was handed out is acknowledged, nothing but what was claimed is
            // pending. Elsewhere it is claimed again once it has been idle for long enough.
            AskedFor::Claims { .. } if self.options.auto_ack => {
                self.feed.discard()?;
                EntryId::MIN
            }
            AskedFor::Claims { .. } | AskedFor::New => self.seen,
        };
        self.pending_after = Some(after);
        Ok(())
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
            AskedFor::Claims { .. } => {}
        }
        self.again |= !matches!(self.asked_for, AskedFor::New);
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
                self.read_own_pending()?;
            }
            let may_wait = deadline.map(|deadline| deadline.left_up_to(self.longest_wait()));
            let may_wait = match (self.feed.rows(), may_wait) {
                (0, wait) => wait,
                // What is there is given at once.
                _ if self.request.batch_timeout.is_none() => None,
                (_, Some(wait)) if wait.is_zero() => return Ok(Polled::Nothing),
                (_, wait) => wait,
            };
            self.ask(may_wait).await?;
        }
        let asked = Instant::now();
        let received = self.feed.receive().await;
        if self.feed.has_passed_before() {
            let (done, gone) = std::mem::take(&mut self.sent);
            self.are_done(done);
            self.gone.drain(..gone.min(self.gone.len()));
        }
        let received = received?;
        self.recreations.succeeded();
        self.note_rows();
        let Received::End { request, entries } = received else {
            return Ok(Polled::More);
        };
        // A reply that says nothing of the entries before it: they have been noted.
        self.rows_before = self.feed.rows();
        match self.asked_for {
            AskedFor::OwnPending { after } => return Ok(self.pending_came(after, entries)),
            AskedFor::Claims { .. } => return self.claims_came(entries, request.count).await,
            AskedFor::New => {}
        }
        if let Some(claimer) = &mut self.claimer {
            claimer.others_came();
        }
        match (entries, request.wait) {
            (0, Some(waited)) => {
                self.watched.update(|stats| stats.lag = stats.lag.map(|_| 0));
                self.idle(deadline.as_ref(), asked, waited).await
            }
            // Claims go on: nothing was waited for.
            (0, None) if self.feed.rows() == 0 && deadline.is_some() => {
                let claims = self.claimer.as_ref().is_some_and(Claimer::has_more);
                let over =
                    deadline.is_some_and(|deadline| deadline.left_up_to(Self::SLICE).is_zero());
                Ok(if over && !claims { Polled::Nothing } else { Polled::More })
            }
            (entries, _) if entries < request.count => Ok(Polled::Drained),
            _ => {
                self.feed.build()?;
                Ok(Polled::More)
            }
        }
    }

    /// The longest that one command may block.
    fn longest_wait(&self) -> Duration {
        let claims = self.claimer.as_ref().map(Claimer::time_for_others);
        claims.map_or(Self::SLICE, |claims| claims.min(Self::SLICE))
    }

    /// Sends the next request, with acknowledgements before it.
    async fn ask(&mut self, may_wait: Option<Duration>) -> Result<()> {
        self.rows_before = self.feed.rows();
        if let Some(claimer) = &mut self.claimer
            && self.watched.take_given_back()
        {
            claimer.hurry();
        }
        let claim = self.pending_after.is_none() && self.feed.rows() == 0;
        if claim
            && self.claimer.as_ref().is_some_and(Claimer::is_due)
            && self.ask_for_claims().await?
        {
            return Ok(());
        }
        self.asked_for = match self.pending_after {
            Some(after) => AskedFor::OwnPending { after },
            None => AskedFor::New,
        };
        let claims_wait = self.longest_wait().is_zero();
        let wait = may_wait.filter(|_| self.pending_after.is_none() && !claims_wait);
        let count = self.next_count();
        let read = self.read_command(count);
        let read =
            ReadGroup { block_ms: wait.map(block_ms), pending_after: self.pending_after, ..read };
        let command = read.packed();
        self.send(command, count, wait, ReplyShape::Streams).await
    }

    /// Sends the next step of a pass of claims; `false` where the pass has come to its end.
    async fn ask_for_claims(&mut self) -> Result<bool> {
        let count = self.next_count();
        let member = Membership {
            stream: &self.request.stream,
            group: &self.options.group,
            consumer: &self.options.consumer,
        };
        let Some(claimer) = &mut self.claimer else {
            return Ok(false);
        };
        let Some(step) = claimer.next_step(&mut self.feed.session, member, count).await? else {
            return Ok(false);
        };
        let min_idle_ms = claimer.min_idle_ms();
        let (command, shape, asked_for) = match (claimer.method(), step) {
            (_, Step::Listed(listed)) => {
                let from = listed.first().copied().unwrap_or(EntryId::MIN);
                let command = member.claim(&listed, min_idle_ms);
                (command, ReplyShape::Entries, AskedFor::Claims { from, listed })
            }
            (Method::WithRead, Step::From(from)) => {
                let read = self.read_command(count);
                let read = ReadGroup { claim_ms: Some(min_idle_ms), ..read };
                let asked_for = AskedFor::Claims { from, listed: Vec::new() };
                (read.packed(), ReplyShape::Streams, asked_for)
            }
            (_, Step::From(from)) => {
                let command = member.claim_from(from, min_idle_ms, count).get_packed_command();
                let asked_for = AskedFor::Claims { from, listed: Vec::new() };
                (command, ReplyShape::Claimed, asked_for)
            }
        };
        self.asked_for = asked_for;
        self.send(command, count, None, shape).await?;
        Ok(true)
    }

    /// How many entries to ask for.
    fn next_count(&mut self) -> u64 {
        let missing = self.feed.missing(self.request.count);
        self.feed.page().min(self.feed.room()).min(missing)
    }

    fn read_command(&self, count: u64) -> ReadGroup<'_> {
        ReadGroup {
            stream: &self.request.stream,
            group: &self.options.group,
            consumer: &self.options.consumer,
            count,
            block_ms: None,
            noack: self.options.noack,
            pending_after: None,
            claim_ms: None,
        }
    }

    async fn send(
        &mut self,
        command: Packed,
        count: u64,
        wait: Option<Duration>,
        shape: ReplyShape,
    ) -> Result<()> {
        let (stream, group) = (&self.request.stream, &self.options.group);
        let done = ack::commands(stream, group, &self.done);
        let gone = ack::commands(stream, group, &self.gone);
        let before = done.len() + gone.len();
        let mut commands = done.chain(gone).flatten().collect::<Vec<u8>>();
        commands.extend(command);
        self.sent = (self.done.len(), self.gone.len());
        self.feed.ask_for(Request { command: commands, count, wait, before }, shape).await
    }

    /// Own pending entries came, or there are no more of them.
    fn pending_came(&mut self, after: EntryId, entries: u64) -> Polled {
        let deleted = self.take_deleted();
        if entries > 0 || deleted.is_some() {
            // A page holds the one as well as the other, in order.
            self.pending_after = Some(deleted.map_or(after, |last| last.max(after)));
            return Polled::More;
        }
        self.pending_after = None;
        if self.options.own_pending == OwnPending::Only {
            self.ended = true;
        }
        Polled::Caught
    }

    /// Has the pending entries that came without fields acknowledged: they were deleted, can never
    /// be delivered, and are of no use in the pending list. Gives the last.
    fn take_deleted(&mut self) -> Option<EntryId> {
        let deleted = self.feed.take_deleted();
        self.watched.update(|stats| stats.deleted += deleted.len() as u64);
        let last = deleted.iter().copied().max();
        self.gone.extend(deleted);
        last
    }

    /// A step of a pass of claims came to its end.
    async fn claims_came(&mut self, entries: u64, asked: u64) -> Result<Polled> {
        let claimed = self.feed.take_claimed();
        self.take_deleted();
        let AskedFor::Claims { from, listed } =
            std::mem::replace(&mut self.asked_for, AskedFor::New)
        else {
            return Ok(Polled::More);
        };
        let Some(claimer) = &mut self.claimer else {
            return Ok(Polled::More);
        };
        let asked = if listed.is_empty() { asked } else { listed.len() as u64 };
        claimer.came(entries.saturating_sub(claimed.fresh), asked, claimed.cursor);
        let over = !claimer.in_pass();
        let member = Membership {
            stream: &self.request.stream,
            group: &self.options.group,
            consumer: &self.options.consumer,
        };
        let session = &mut self.feed.session;
        let mut gone = Vec::new();
        if over && claimer.method() == Method::WithRead {
            // The server has acknowledged them.
            let swept = claimer.sweep(session, member).await?.len() as u64;
            self.watched.update(|stats| stats.deleted += swept);
        } else if claimed.nils > 0 || (entries as usize) < listed.len() {
            // Before 7.0 what was deleted is claimed too, and is nil or missing.
            let candidates = match listed.is_empty() {
                false => listed,
                true => {
                    let last = match claimed.cursor {
                        EntryId::MIN => EntryId::MAX,
                        next => next.predecessor().unwrap_or(EntryId::MAX),
                    };
                    let consumer = Some(member.consumer);
                    let page = pending(session, member, (from, last), 10_000, consumer).await?;
                    page.into_iter().map(|entry| entry.id).collect()
                }
            };
            for id in candidates {
                let entries = session.value(&resp::range(member.stream, id, id, 1)).await?;
                if entries.as_sequence().is_some_and(<[redis::Value]>::is_empty) {
                    gone.push(id);
                }
            }
        }
        self.watched.update(|stats| stats.deleted += gone.len() as u64);
        self.gone.extend(gone);
        if over {
            let lag = self.standing().await?.lag;
            self.watched.update(|stats| stats.lag = lag);
        }
        Ok(if self.feed.rows() > 0 { Polled::Whole } else { Polled::More })
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
        if self.claimer.as_ref().is_some_and(Claimer::has_more) {
            return Ok(Polled::More);
        }
        if left.is_zero() {
            return Ok(Polled::Nothing);
        }
        if self.claimer.as_ref().is_some_and(Claimer::is_due) {
            return Ok(Polled::More);
        }
        if asked.elapsed() < waited {
            tokio::time::sleep(left.min(PAUSE)).await;
        }
        Ok(Polled::More)
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
