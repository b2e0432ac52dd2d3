//! What is asked of the server next, and what came of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use super::GroupReader;
use crate::admin::pending_page;
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::{Result, ServerCode, counted};
use crate::ledger::Ask;
use crate::read::ack;
use crate::read::bounds::{ids_only, last_decoded};
use crate::read::claim::Claimer;
use crate::read::counts::write_back;
use crate::read::dead_letter::Letter;
use crate::read::deadline::block_ms;
use crate::read::feed::Received;
use crate::read::group_options::OwnPending;
use crate::read::page_request::PageRequest;
use crate::read::poll::{Pace, Polled};
use crate::resp::{self, PageLimit, ReadGroup};

impl GroupReader {
    /// Entries in one XPENDING: more would keep other clients waiting.
    pub(super) const LISTED: u64 = 10_000;
    /// A command that was sent when its connection got lost has reached the server by then.
    const LATENCY: Duration = Duration::from_millis(200);

    /// Does the next thing to do, or takes what came of the last. Only where it `waits` may a
    /// request do so.
    pub(super) async fn poll(&mut self, waits: bool) -> Result<Polled> {
        if self.feed.is_in_flight() {
            return self.receive(waits).await;
        }
        if self.ledger.is_waiting() {
            // Its caller gave up.
            self.note_rows();
            self.ledger.lost(self.blocks_until);
        }
        self.infer().await?;
        self.take_reports();
        let room = self.room();
        let returned = self.watched.take_returns(Instant::now(), room);
        self.ledger.claimed(&returned);
        let claims_due = self.claimer.as_ref().is_some_and(Claimer::is_due);
        let ask = self.ledger.next(Instant::now(), room, claims_due);
        match ask {
            Ask::Flush => return Ok(Polled::Whole),
            Ask::Correct => self.correct().await?,
            Ask::MoveExhausted => self.move_exhausted().await?,
            Ask::List { from, to } => self.list(from, to).await?,
            Ask::Claim => {
                self.ledger.asked(ask);
                self.claim(room).await?;
            }
            Ask::Own { after, count } => {
                let limit = self.feed.limit(count);
                let read = ReadGroup { pending_after: Some(after), ..self.read_command(limit) };
                let command = read.packed();
                self.send(ask, command, limit, None).await?;
                return self.receive(waits).await;
            }
            Ask::New { count } => return self.ask_for_new(ask, count, waits).await,
        }
        Ok(Polled::More)
    }

    async fn ask_for_new(&mut self, ask: Ask, count: u64, waits: bool) -> Result<Polled> {
        if self.options.own_pending == OwnPending::Only {
            return Ok(Polled::Ended);
        }
        // Own pending entries and new ones share a batch only where it is collected.
        if self.ledger.has_own_rows() && !self.pace.collects() && !self.takes_all {
            return Ok(Polled::Drained);
        }
        let Some(wait) = self.pace.wait(self.feed.rows(), self.longest_wait()) else {
            return Ok(Polled::Nothing);
        };
        let wait = wait.filter(|_| waits && !self.has_work());
        if self.request.sample.is_some() {
            return self.wait_for_one(ask, wait, waits).await;
        }
        let limit = self.feed.limit(count);
        let read = ReadGroup { block_ms: wait.map(block_ms), ..self.read_command(limit) };
        let command = read.packed();
        self.send(ask, command, limit, wait).await?;
        self.receive(waits).await
    }

    /// Waits until there is an entry to infer dtypes from, without reading it.
    async fn wait_for_one(
        &mut self,
        ask: Ask,
        wait: Option<Duration>,
        waits: bool,
    ) -> Result<Polled> {
        let asked = Instant::now();
        if let Some(wait) = wait {
            let (stream, limit) = (&self.request.stream, PageLimit::of_count(1));
            let command = resp::read_after(stream, EntryId::MIN, limit, Some(block_ms(wait)));
            let decoder = ids_only(ReplyShape::Streams)?;
            let session = &mut self.feed.session;
            if session.attempt(&command, Some(wait), decoder, last_decoded).await?.is_some() {
                return Ok(Polled::More);
            }
        }
        // As if the group had been asked: there is nothing new for anybody.
        self.ledger.asked(ask);
        self.ledger.ended();
        self.no_others(asked, wait, waits).await
    }

    /// How many entries to ask for.
    fn room(&mut self) -> u64 {
        let missing = self.feed.missing(self.request.count);
        self.feed.page().min(self.feed.room()).min(missing)
    }

    /// Whether there is something to do that time alone does not bring.
    fn has_work(&self) -> bool {
        self.ledger.has_work() || self.claimer.as_ref().is_some_and(Claimer::in_pass)
    }

    /// The longest that one command may block.
    fn longest_wait(&self) -> Duration {
        let claims = self.claimer.as_ref().map(Claimer::time_for_others);
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let wakes = self.ledger.wakes_at().map(until);
        let returns = self.watched.next_return().map(until);
        [claims, wakes, returns].into_iter().flatten().fold(self.feed.longest_wait(), Duration::min)
    }

    pub(super) fn read_command(&self, limit: PageLimit) -> ReadGroup<'_> {
        ReadGroup {
            stream: &self.request.stream,
            group: &self.options.group,
            consumer: &self.options.consumer,
            limit,
            block_ms: None,
            noack: self.options.noack,
            pending_after: None,
        }
    }

    /// Sends a read, with acknowledgements before it.
    async fn send(
        &mut self,
        ask: Ask,
        command: Vec<u8>,
        limit: PageLimit,
        wait: Option<Duration>,
    ) -> Result<()> {
        let (stream, group) = (&self.request.stream, &self.options.group);
        let [done, deleted] = self.ledger.acknowledgements();
        let (done, deleted) =
            (ack::commands(stream, group, done), ack::commands(stream, group, deleted));
        self.acknowledging = done.len();
        let before = done.len() + deleted.len();
        let mut commands = done.chain(deleted).flatten().collect::<Vec<u8>>();
        commands.extend(command);
        self.ledger.asked(ask);
        self.reply_came = None;
        let serves = wait.unwrap_or_default().saturating_add(Self::LATENCY);
        self.blocks_until = Instant::now().checked_add(serves);
        self.waits_until = wait.and_then(|wait| Instant::now().checked_add(wait));
        self.sent_at = Some(Instant::now());
        let page = PageRequest { wait, before, ..PageRequest::new(commands, limit) };
        let is_last = self.feed.missing(self.request.count) <= limit.count;
        let asks_newest = self.takes_all && self.end.is_none() && !is_last;
        let page = if asks_newest { page.with_newest(&self.request.stream) } else { page };
        self.feed.send(page).await
    }

    /// Takes what comes of the reply.
    async fn receive(&mut self, waits: bool) -> Result<Polled> {
        let asked = Instant::now();
        let received = self.receive_before_returns().await;
        if let Some(said) = self.feed.take_said_before() {
            // Acknowledgements of deleted entries are not counted.
            self.note_acknowledged(said.iter().take(self.acknowledging).sum());
        }
        self.note_rows();
        let newest = self.feed.take_newest();
        if let Some(Ok(newest)) = newest {
            self.end = Some(newest);
        }
        let Some(received) = received else {
            // The next poll gives the request up.
            return Ok(Polled::More);
        };
        let (request, entries) = match received? {
            Received::End { request, entries } => (Some(request), entries),
            Received::Full => (None, 0),
            Received::Refused => {
                self.ledger.refused();
                return Ok(Polled::More);
            }
        };
        self.found = true;
        self.recreations.succeeded();
        let Some(request) = request else {
            return Ok(Polled::More);
        };
        let are_new = self.ledger.ended();
        if let (Some(Err(error)), true) = (newest, entries >= request.limit.count) {
            return Err(error);
        }
        if !are_new {
            // Own pending entries.
            self.feed.build()?;
            return Ok(Polled::More);
        }
        match entries {
            0 => self.no_others(asked, request.wait, waits).await,
            entries if entries < request.limit.count => {
                self.others_came();
                Ok(Polled::Drained)
            }
            _ => {
                self.others_came();
                self.feed.build()?;
                Ok(Polled::More)
            }
        }
    }

    /// Claims have their turn again.
    fn others_came(&mut self) {
        if let Some(claimer) = &mut self.claimer {
            claimer.others_came();
        }
    }

    /// The group was asked for new entries, and there were none.
    async fn no_others(
        &mut self,
        asked: Instant,
        waited: Option<Duration>,
        waits: bool,
    ) -> Result<Polled> {
        self.others_came();
        match waited {
            Some(waited) => {
                self.watched.update(|stats| stats.lag = stats.lag.map(|_| 0));
                self.idle(asked, waited).await
            }
            // What is there to do goes on: nothing was waited for.
            None if self.feed.rows() == 0 && waits => {
                let over = self.pace.deadline().left_up_to(Pace::SLICE).is_zero();
                Ok(if over && !self.has_work() { Polled::Nothing } else { Polled::More })
            }
            None if self.has_work() => Ok(Polled::More),
            None => Ok(Polled::Drained),
        }
    }

    /// Takes what comes of the reply. Where the server waits for entries and one that was given back
    /// meanwhile is due before it does no more, the request is given up, and `None` comes: what the
    /// server gives to that connection is read as after any other that was lost. A reply that has
    /// begun to come is not given up.
    async fn receive_before_returns(&mut self) -> Option<Result<Received>> {
        if let Some(end) = self.waits_until.filter(|_| !self.options.noack) {
            let watched = Arc::clone(&self.watched);
            match select(pin!(self.feed.listen()), pin!(watched.returns_before(end))).await {
                Either::Left((Ok(()), _)) => {}
                Either::Left((Err(error), _)) => return Some(Err(error)),
                Either::Right(_) => return None,
            }
        }
        Some(self.feed.receive().await)
    }

    /// The server waited, and nothing came.
    async fn idle(&mut self, asked: Instant, waited: Duration) -> Result<Polled> {
        if self.has_work() {
            return Ok(Polled::More);
        }
        if self.claimer.as_ref().is_some_and(Claimer::is_due)
            && !self.pace.deadline().left_up_to(Pace::SLICE).is_zero()
        {
            return Ok(Polled::More);
        }
        Ok(self.pace.after_nil(asked, waited).await)
    }

    /// Lists own pending entries, with how often they were delivered.
    async fn list(&mut self, from: EntryId, to: EntryId) -> Result<()> {
        let member = self.member.membership();
        let session = &mut self.feed.session;
        match pending_page(session, member, from, to, Self::LISTED).await {
            Ok(page) => {
                let page: Vec<_> = page.iter().map(|one| (one.id, one.delivery_count)).collect();
                self.ledger.listed(&page, (page.len() as u64) < Self::LISTED);
                Ok(())
            }
            // Without the list they are read as they come, which is well where nothing depends on
            // how often they were delivered.
            Err(error)
                if error.server_code().is_some_and(ServerCode::is_no_permission)
                    && self.options.max_deliveries().is_none()
                    && self.claimer.is_none() =>
            {
                self.ledger.cannot_list();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the server how often entries were really handed out.
    async fn correct(&mut self) -> Result<()> {
        let corrections = self.ledger.corrections();
        match write_back(&mut self.feed.session, self.member.membership(), corrections).await {
            // Where nothing depends on counts, those in a batch are right all the same.
            Err(error)
                if error.server_code().is_some_and(ServerCode::is_no_permission)
                    && self.options.max_deliveries().is_none() => {}
            written => written?,
        }
        self.ledger.corrected();
        Ok(())
    }

    /// At the end has the server count no delivery that nobody saw.
    pub(super) async fn settle_counts(&mut self) -> Result<()> {
        while let Some(ask) = self.ledger.at_the_end() {
            match ask {
                Ask::List { from, to } => self.list(from, to).await?,
                _ => self.correct().await?,
            }
        }
        Ok(())
    }

    /// Moves entries to the dead letters that have been handed out as often as they may be.
    async fn move_exhausted(&mut self) -> Result<()> {
        let most = self.options.max_deliveries().unwrap_or_default();
        let exhausted = self.ledger.exhausted().iter();
        let letters: Vec<Letter> = exhausted
            .map(|(id, times)| Letter {
                id: *id,
                reason: format!(
                    "delivered {}, of at most {most}",
                    counted(*times, "time", "times")
                ),
                deliveries: Some(*times),
            })
            .collect();
        let session = &mut self.feed.session;
        let (settled, moved) = self.member.move_to_dead_letter(session, &letters, true).await;
        self.failed(&settled);
        moved.map(drop)
    }

    /// Takes one step of a pass of claims.
    async fn claim(&mut self, count: u64) -> Result<()> {
        let Some(claimer) = &mut self.claimer else {
            return Ok(());
        };
        let member = self.member.membership();
        let step = claimer.step(&mut self.feed.session, member, count).await?;
        let over = !claimer.in_pass();
        if !step.claimed.is_empty() {
            let entries = step.claimed.len() as u64;
            self.request.who().event("reclaimed").with("entries", entries).record();
        }
        self.ledger.claimed(&step.claimed);
        // This consumer may have come upon some of them before.
        self.watched.gone(&step.deleted);
        let deleted = self.ledger.found_deleted(&step.deleted);
        self.watched.update(|stats| stats.deleted += deleted);
        if over {
            let lag = self.position().await?.and_then(|position| position.lag);
            self.watched.update(|stats| stats.lag = lag);
        }
        Ok(())
    }
}
