//! What came of a request.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use super::GroupReader;
use super::ask::Flight;
use super::lane::Lane;
use crate::error::Result;
use crate::read::claim::Claimer;
use crate::read::feed::Received;
use crate::read::poll::{Pace, Polled};

impl GroupReader {
    /// Takes note of what the acknowledgements before the reply have been answered with.
    fn note_said_before(&mut self) {
        let Some(said) = self.feed.take_said_before() else { return };
        let mut said = said.into_iter();
        for (stream, done, deleted) in std::mem::take(&mut self.acknowledging) {
            let acknowledged = said.by_ref().take(done).sum();
            // Acknowledgements of deleted entries are not counted.
            said.by_ref().take(deleted).for_each(drop);
            if let Some(lane) = self.lanes.get_mut(stream) {
                lane.note_acknowledged(acknowledged);
            }
        }
    }

    /// Takes what comes of the reply.
    pub(super) async fn receive(&mut self, waits: bool) -> Result<Polled> {
        let asked = Instant::now();
        let received = self.receive_before_returns().await;
        self.note_said_before();
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
                for stream in self.flights.drain(..).flat_map(|flight| flight.lanes) {
                    if let Some(lane) = self.lanes.get_mut(stream) {
                        lane.ledger.refused();
                    }
                }
                return Ok(Polled::More);
            }
        };
        for stream in self.flights.front().into_iter().flat_map(|flight| &flight.lanes) {
            if let Some(lane) = self.lanes.get_mut(*stream) {
                lane.found = true;
                lane.recreations.succeeded();
            }
        }
        let Some(request) = request else {
            return Ok(Polled::More);
        };
        let Some(flight) = self.flights.pop_front() else { return Ok(Polled::More) };
        let (active, full) = self.ended(&flight, request.limit.count);
        if let (Some(streams), [stream]) = (&mut self.streams, flight.lanes.as_slice())
            && flight.is_new
        {
            streams.alone.took(*stream, entries > 0);
        }
        if let (Some(Err(error)), true) = (newest, entries >= request.limit.count) {
            return Err(error);
        }
        if !flight.is_new {
            // Own pending entries.
            self.feed.build()?;
            return Ok(Polled::More);
        }
        let is_of_all = flight.is_of_all || flight.is_for_more || !self.is_many();
        let is_drained = full.is_empty() && is_of_all;
        let active = active.iter().filter_map(|place| self.lanes.get(*place));
        let active = active.map(|lane| lane.number).collect();
        if let Some(streams) = &mut self.streams {
            streams.came(active, full);
        }
        if flight.is_turn && entries == 0 && !is_drained {
            return Ok(self.turn_in_vain(&flight, asked, waits).await);
        }
        match entries {
            0 if is_drained => self.no_others(&flight.lanes, asked, request.wait, waits).await,
            _ => {
                self.others_came(&flight.lanes);
                match is_drained {
                    true => Ok(Polled::Drained),
                    false => {
                        self.feed.build()?;
                        Ok(Polled::More)
                    }
                }
            }
        }
    }

    /// Some streams had nothing, of more than entries are wanted: only once all have had their turn is
    /// there nothing.
    async fn turn_in_vain(&mut self, flight: &Flight, asked: Instant, waits: bool) -> Polled {
        self.others_came(&flight.lanes);
        let there = self.lanes.iter().filter(|lane| !lane.gone).count();
        let is_waiting = !self.takes_all || waits && self.feed.rows() == 0;
        let streams = self.streams.as_mut().filter(|_| is_waiting);
        match streams.is_some_and(|streams| streams.are_all_in_vain(flight.lanes.len(), there)) {
            true if self.feed.rows() > 0 && !self.pace.collects() => Polled::Drained,
            true if !waits => Polled::Drained,
            true => self.pace.after_nil(asked, Pace::SLICE).await,
            false => Polled::More,
        }
    }

    /// A reply has come to its end, of `count` entries of each stream at most. Says which streams it
    /// has entries of, and which may have more.
    fn ended(&mut self, flight: &Flight, count: u64) -> (Vec<usize>, Vec<usize>) {
        let (mut active, mut full) = (Vec::new(), Vec::new());
        for stream in &flight.lanes {
            let Some(lane) = self.lanes.get_mut(*stream) else { continue };
            lane.ledger.ended();
            let is_full = lane.came >= count;
            lane.delivered += if flight.is_new { lane.came } else { 0 };
            active.extend((lane.came > 0).then_some(*stream));
            full.extend(is_full.then_some(*stream));
            if flight.is_new && self.takes_all {
                lane.is_at_end |= !is_full || lane.ledger.newest() >= lane.end;
            }
        }
        (active, full)
    }

    fn others_came(&mut self, lanes: &[usize]) {
        for stream in lanes {
            self.lanes.get_mut(*stream).into_iter().for_each(Lane::others_came);
        }
    }

    /// The groups were asked for new entries, and there were none.
    pub(super) async fn no_others(
        &mut self,
        lanes: &[usize],
        asked: Instant,
        waited: Option<Duration>,
        waits: bool,
    ) -> Result<Polled> {
        self.others_came(lanes);
        match waited {
            Some(waited) => {
                for stream in lanes {
                    if let Some(lane) = self.lanes.get(*stream) {
                        lane.watched().update(|stats| stats.lag = stats.lag.map(|_| 0));
                    }
                }
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
        let is_due = |lane: &Lane| lane.claimer.as_ref().is_some_and(Claimer::is_due);
        if self.lanes.iter().any(|lane| !lane.gone && is_due(lane))
            && !self.pace.deadline().left_up_to(Pace::SLICE).is_zero()
        {
            return Ok(Polled::More);
        }
        Ok(self.pace.after_nil(asked, waited).await)
    }
}
