//! What is asked of the server next, and what came of it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{AskedFor, GroupReader};
use crate::admin::{PendingFilter, pending_entries_in};
use crate::decode::ReplyShape;
use crate::entry_id::{EntryId, IdBound};
use crate::error::Result;
use crate::read::ack;
use crate::read::bounds::{ids_only, last_decoded};
use crate::read::claim::{Claimer, Method, Step};
use crate::read::deadline::{Deadline, block_ms};
use crate::read::feed::{Received, Request};
use crate::read::group_options::OwnPending;
use crate::resp::{self, Membership, Packed, ReadGroup};

/// What a poll came to.
pub(super) enum Polled {
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

    /// Asks for entries where none are under way, with acknowledgements sent along, and takes what
    /// comes. Without a deadline only for what is there.
    pub(super) async fn poll(&mut self, poll: Option<&Deadline>) -> Result<Polled> {
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
            AskedFor::Returns => return self.returns_came(entries).await,
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
        let now = Instant::now();
        let returns = self.watched.next_return().map(|due| due.saturating_duration_since(now));
        [claims, returns].into_iter().flatten().fold(Self::SLICE, Duration::min)
    }

    /// Sends the next request, with acknowledgements before it.
    async fn ask(&mut self, may_wait: Option<Duration>) -> Result<()> {
        self.rows_before = self.feed.rows();
        let claim = self.pending_after.is_none() && self.feed.rows() == 0;
        if claim && self.ask_for_returns().await? {
            return Ok(());
        }
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

    /// Asks for entries that this consumer gave back and that are due, where they are its own still:
    /// another may have claimed them. `false` where there are none.
    async fn ask_for_returns(&mut self) -> Result<bool> {
        let count = self.next_count();
        if self.returning.is_empty() {
            self.returning = self.watched.take_returns(Instant::now(), count);
        }
        let (Some(first), Some(last)) = (self.returning.iter().min(), self.returning.iter().max())
        else {
            return Ok(false);
        };
        let member = Membership {
            stream: &self.request.stream,
            group: &self.options.group,
            consumer: &self.options.consumer,
        };
        let filter = PendingFilter {
            consumer: Some(member.consumer.to_vec()),
            start: IdBound::Id(*first),
            end: IdBound::Id(*last),
            ..PendingFilter::default()
        };
        let session = &mut self.feed.session;
        let pending = pending_entries_in(session, member.stream, member.group, &filter).await?;
        let own: HashSet<EntryId> = pending.into_iter().map(|entry| entry.id).collect();
        self.returning.retain(|id| own.contains(id));
        if self.returning.is_empty() {
            return Ok(false);
        }
        let command = member.claim(&self.returning, 0);
        self.asked_for = AskedFor::Returns;
        self.send(command, self.returning.len() as u64, None, ReplyShape::Entries).await?;
        Ok(true)
    }

    /// What this consumer had given back came.
    async fn returns_came(&mut self, entries: u64) -> Result<Polled> {
        self.feed.take_claimed();
        self.take_deleted();
        let asked = std::mem::take(&mut self.returning);
        if (entries as usize) < asked.len() {
            self.find_deleted(asked).await?;
        }
        Ok(if self.feed.rows() > 0 { Polled::Whole } else { Polled::More })
    }

    /// Has those of the entries acknowledged that were deleted from the stream.
    async fn find_deleted(&mut self, candidates: Vec<EntryId>) -> Result<()> {
        let before = self.gone.len();
        for id in candidates {
            let command = resp::range(&self.request.stream, id, id, 1);
            let decode = || ids_only(ReplyShape::Entries);
            if self.feed.session.request(&command, decode, last_decoded).await?.is_none() {
                self.gone.push(id);
            }
        }
        let found = self.gone.len() - before;
        self.watched.update(|stats| stats.deleted += found as u64);
        Ok(())
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
                    let filter = PendingFilter {
                        consumer: Some(member.consumer.to_vec()),
                        start: IdBound::Id(from),
                        end: IdBound::Id(last),
                        count: Some(10_000),
                        ..PendingFilter::default()
                    };
                    let Membership { stream, group, .. } = member;
                    let page = pending_entries_in(session, stream, group, &filter).await?;
                    page.into_iter().map(|entry| entry.id).collect()
                }
            };
            self.find_deleted(candidates).await?;
        }
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
}
