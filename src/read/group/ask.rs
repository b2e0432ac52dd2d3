//! What is asked of the server next.

use std::time::{Duration, Instant};

use super::GroupReader;
use super::plan::{Asked, Own, Plan, plan, share};
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::ledger::{Ask, Others};
use crate::read::ack;
use crate::read::bounds::{ids_only, last_decoded};
use crate::read::claim::Claimer;
use crate::read::deadline::block_ms;
use crate::read::group_options::OwnPending;
use crate::read::page_request::PageRequest;
use crate::read::poll::Polled;
use crate::resp::{self, Packed, PageLimit, ReadGroup};

/// A request that is on its way: of one stream's own pending entries, or of new ones.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) lanes: Vec<usize>,
    pub(super) is_new: bool,
    /// It asks for new entries of all streams that there are.
    pub(super) is_of_all: bool,
    /// It asks some of them alone, because fewer entries are wanted than there are streams.
    pub(super) is_turn: bool,
    /// It asks some of them alone, because they may have more for the batch.
    pub(super) is_for_more: bool,
}

impl GroupReader {
    /// A command that was sent when its connection got lost has reached the server by then.
    const LATENCY: Duration = Duration::from_millis(200);

    /// Does the next thing to do, or takes what came of the last. Only where it `waits` may a
    /// request do so.
    pub(super) async fn poll(&mut self, waits: bool) -> Result<Polled> {
        if self.feed.is_in_flight() {
            return self.receive(waits).await;
        }
        if self.lanes.iter().any(|lane| lane.ledger.is_waiting()) {
            // Its caller gave up.
            self.note_rows();
            self.flights.clear();
            self.lanes.iter_mut().for_each(|lane| lane.ledger.lost(self.blocks_until));
        }
        if self.is_many() {
            Box::pin(self.take_news()).await?;
        }
        self.infer().await?;
        let room = self.room();
        match self.plan(room) {
            Plan::Flush => return Ok(Polled::Whole),
            Plan::Correct(lane) => self.correct(lane).await?,
            Plan::MoveExhausted(lane) => self.move_exhausted(lane).await?,
            Plan::List(lists) => self.list(&lists).await?,
            Plan::Claim(claims) => self.claim(claims, room).await?,
            Plan::Read { own, new, most } => {
                return self.read(own, new, room.min(most), waits).await;
            }
        }
        Ok(Polled::More)
    }

    /// What is to be done next, by the ledgers of all streams.
    fn plan(&mut self, room: u64) -> Plan {
        let now = Instant::now();
        let mut batch = Others::default();
        for lane in &mut self.lanes {
            lane.take_reports();
            let returned = lane.watched().take_returns(now, room);
            lane.ledger.claimed(&returned);
            batch.add(lane.ledger.has_of_batch());
        }
        let number = self.lanes.len();
        let mut asks = Vec::with_capacity(number);
        for turn in 0..number {
            let stream = (self.first + turn) % number;
            let Some(lane) = self.lanes.get_mut(stream).filter(|lane| !lane.gone) else { continue };
            let claims_due = lane.claimer.as_ref().is_some_and(Claimer::is_due);
            let ask = lane.ledger.next(now, room, claims_due, batch);
            let apart = lane.ledger.reads_apart();
            asks.push(Asked { lane: stream, ask, apart });
        }
        plan(&asks, &mut self.apart_first)
    }

    /// Reads own pending entries of some streams, and new ones of others.
    async fn read(
        &mut self,
        own: Vec<Own>,
        mut new: Vec<usize>,
        room: u64,
        waits: bool,
    ) -> Result<Polled> {
        if own.is_empty() {
            return self.ask_for_new(new, room, waits).await;
        }
        let has_own_rows = self.lanes.iter().any(|lane| lane.ledger.has_own_rows());
        if self.options.own_pending == OwnPending::Only || has_own_rows && !self.may_mix() {
            new.clear();
        }
        let is_only = own.len() == 1 && new.is_empty();
        // Half of the room is for those that have nothing pending; of one row every other time.
        let mut left = match (new.is_empty(), room) {
            (true, _) => room,
            (false, 1) => (self.first % 2) as u64,
            (false, _) => room / 2,
        };
        let share = (left / own.len() as u64).max(1);
        let mut used = 0;
        let mut requests = Vec::new();
        for Own { lane: stream, after, count } in own {
            let count = count.min(share).min(left);
            let Some(lane) = self.lanes.get(stream).filter(|_| count > 0) else { continue };
            left -= count;
            used += count;
            let limit = match is_only {
                true => self.feed.limit(count),
                // Should the server not know the other, what follows would have been done.
                false => PageLimit::of_count(count),
            };
            let read = ReadGroup { pending_after: Some(after), ..lane.read_command(limit) };
            let lanes = vec![stream];
            let flight = Flight { lanes, ..Flight::default() };
            let request = PageRequest::new(read.packed(), limit);
            requests.push((flight, Ask::Own { after, count }, request));
        }
        if used < room && !new.is_empty() {
            let count = self.share_of_new(room - used, used, &mut new);
            if !new.is_empty() {
                requests.push(self.new_request(new, count, None));
            }
        }
        if requests.is_empty() {
            self.first = self.first.wrapping_add(1);
            return Ok(Polled::More);
        }
        self.send(requests).await?;
        self.receive(waits).await
    }

    /// Whether own pending entries and new ones share a batch: only where it is collected.
    fn may_mix(&self) -> bool {
        self.pace.collects() || self.takes_all
    }

    async fn ask_for_new(&mut self, mut new: Vec<usize>, room: u64, waits: bool) -> Result<Polled> {
        if self.options.own_pending == OwnPending::Only {
            return Ok(Polled::Ended);
        }
        if !self.may_mix() && self.lanes.iter().any(|lane| lane.ledger.has_own_rows()) {
            return Ok(Polled::Drained);
        }
        let Some(wait) = self.pace.wait(self.feed.rows(), self.longest_wait()) else {
            return Ok(Polled::Nothing);
        };
        let wait = wait.filter(|_| waits && !self.has_work());
        if self.request.sample.is_some() {
            return self.wait_for_one(new, wait, waits).await;
        }
        if self.hands_out_once() {
            return self.ask_for_one(new, wait, waits).await;
        }
        if self.takes_all
            && wait.is_some()
            && self.feed.rows() == 0
            && self.lanes.iter().all(|lane| lane.gone || lane.is_at_end)
        {
            // Nothing has come yet, and whatever comes now is wanted.
            self.lanes.iter_mut().for_each(|lane| lane.is_at_end = false);
        }
        let asked = new.len();
        let count = self.share_of_new(room, 0, &mut new);
        if new.is_empty() {
            return self.without_streams(wait, waits).await;
        }
        // Those that are left out may have entries now.
        let wait = wait.filter(|_| new.len() == asked);
        let request = self.new_request(new, count, wait);
        self.send(vec![request]).await?;
        self.receive(waits).await
    }

    /// How many entries to ask each of these streams for, where `used` others are asked for as well;
    /// leaves out those that have no turn.
    fn share_of_new(&mut self, room: u64, used: u64, new: &mut Vec<usize>) -> u64 {
        match &mut self.streams {
            None => room,
            Some(streams) => {
                let has_work = self.lanes.iter().any(|lane| !lane.gone && lane.has_work());
                let has_rows = self.feed.rows() > 0;
                let missing = self.feed.missing(self.request.count).saturating_sub(used);
                let lanes = &self.lanes;
                let is_wanted = |stream: &usize| lanes.get(*stream).is_some_and(|l| !l.is_at_end);
                if self.takes_all {
                    new.retain(is_wanted);
                } else {
                    // What is to be done may wait for an answer of others.
                    streams.choose(new, has_rows && !has_work);
                }
                streams.take_turns(new, missing);
                share(room, new.len(), streams.active()).min(missing / new.len().max(1) as u64)
            }
        }
    }

    pub(super) fn new_request(
        &mut self,
        lanes: Vec<usize>,
        count: u64,
        wait: Option<Duration>,
    ) -> (Flight, Ask, PageRequest) {
        let limit = self.feed.limit(count);
        let asked = lanes.iter().filter_map(|stream| self.lanes.get(*stream));
        let streams: Vec<&[u8]> = asked.map(|lane| lane.member.stream.as_slice()).collect();
        let command = ReadGroup {
            streams,
            group: &self.options.group,
            consumer: &self.options.consumer,
            limit,
            block_ms: wait.map(block_ms),
            noack: self.options.noack,
            pending_after: None,
        };
        let request = PageRequest { wait, ..PageRequest::new(command.packed(), limit) };
        let is_of_all = lanes.len() == self.lanes.iter().filter(|lane| !lane.gone).count();
        let is_turn = self.streams.as_ref().is_some_and(|streams| streams.is_turn());
        let is_for_more = self.streams.as_ref().is_some_and(|streams| streams.is_for_more());
        (
            Flight { lanes, is_new: true, is_of_all, is_turn, is_for_more },
            Ask::New { count },
            request,
        )
    }

    /// Waits until there is an entry to infer dtypes from, without reading it.
    async fn wait_for_one(
        &mut self,
        new: Vec<usize>,
        wait: Option<Duration>,
        waits: bool,
    ) -> Result<Polled> {
        let asked = Instant::now();
        if let Some(wait) = wait {
            let asked = new.iter().filter_map(|stream| self.lanes.get(*stream));
            let streams: Vec<(&[u8], EntryId)> =
                asked.map(|lane| (lane.member.stream.as_slice(), EntryId::MIN)).collect();
            if streams.is_empty() {
                return self.without_streams(Some(wait), waits).await;
            }
            let limit = PageLimit::of_count(1);
            let command = resp::read_many_after(&streams, limit, Some(block_ms(wait)));
            let decoder = ids_only(ReplyShape::Streams)?;
            let session = &mut self.feed.session;
            if session.attempt(&command, Some(wait), decoder, last_decoded).await?.is_some() {
                return Ok(Polled::More);
            }
        }
        self.nothing_new(&new, asked, wait, waits).await
    }

    /// There is no stream to be asked for now.
    pub(super) async fn without_streams(
        &mut self,
        wait: Option<Duration>,
        waits: bool,
    ) -> Result<Polled> {
        let asked = Instant::now();
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        self.no_others(&[], asked, wait, waits).await
    }

    /// How many entries to ask for.
    fn room(&mut self) -> u64 {
        let missing = self.feed.missing(self.request.count);
        let share = self.streams.as_ref().map_or(u64::MAX, |streams| streams.joint.share());
        self.feed.page().min(self.feed.room()).min(missing).min(share)
    }

    /// Whether there is something to do that time alone does not bring.
    pub(super) fn has_work(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.gone && lane.has_work())
    }

    /// The longest that one command may block.
    fn longest_wait(&self) -> Duration {
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let there = || self.lanes.iter().filter(|lane| !lane.gone);
        let claims = there().filter_map(|lane| lane.claimer.as_ref()).map(Claimer::time_for_others);
        let wakes = there().filter_map(|lane| lane.ledger.wakes_at()).map(until);
        let returns = self.watched.next_return().map(until);
        let looks = self.streams.as_ref().and_then(|streams| streams.joint.wait_until_look());
        let hot = self.streams.as_ref().and_then(|streams| streams.longest_wait());
        let times = claims.chain(wakes).chain(returns).chain(looks).chain(hot);
        times.fold(self.feed.longest_wait(), Duration::min)
    }

    /// Sends reads, with acknowledgements before them.
    pub(super) async fn send(&mut self, requests: Vec<(Flight, Ask, PageRequest)>) -> Result<()> {
        self.acknowledging.clear();
        let mut commands = Packed::new();
        let mut before = 0;
        for (stream, lane) in self.lanes.iter_mut().enumerate() {
            let (key, group) = (&lane.member.stream, &lane.member.group);
            let [done, deleted] = lane.ledger.acknowledgements();
            let (done, deleted) =
                (ack::commands(key, group, done), ack::commands(key, group, deleted));
            if done.len() + deleted.len() > 0 {
                self.acknowledging.push((stream, done.len(), deleted.len()));
                before += done.len() + deleted.len();
            }
            done.chain(deleted).for_each(|command| commands.extend(command));
            lane.came = 0;
        }
        for (flight, ask, _) in &requests {
            for stream in &flight.lanes {
                self.lanes.get_mut(*stream).into_iter().for_each(|lane| lane.ledger.asked(*ask));
            }
        }
        let first = match requests.last() {
            Some((Flight { is_turn: true, lanes, .. }, ..)) => {
                lanes.last().map_or(0, |last| last + 1)
            }
            _ => self.first.wrapping_add(1),
        };
        self.first = first % self.lanes.len().max(1);
        self.reply_came = None;
        let wait = requests.last().and_then(|(_, _, request)| request.wait);
        let serves = wait.unwrap_or_default().saturating_add(Self::LATENCY);
        self.blocks_until = Instant::now().checked_add(serves);
        self.waits_until = wait.and_then(|wait| Instant::now().checked_add(wait));
        self.sent_at = Some(Instant::now());
        self.flights.clear();
        let mut pages = Vec::with_capacity(requests.len());
        for (flight, _, mut page) in requests {
            if pages.is_empty() {
                commands.append(&mut page.command);
                page = PageRequest { command: std::mem::take(&mut commands), before, ..page };
                let is_last = self.feed.missing(self.request.count) <= page.limit.count;
                if self.takes_all && self.end.is_none() && !is_last && !self.is_many() {
                    page = page.with_newest(&self.request.stream);
                }
            }
            self.flights.push_back(flight);
            pages.push(page);
        }
        match pages.len() {
            1 => match pages.pop() {
                Some(page) => self.feed.send(page).await,
                None => Ok(()),
            },
            _ => self.feed.send_more(pages).await,
        }
    }
}
