//! Entries of several streams that may be handed out only once: each is asked for alone.
//!
//! What the server has sent counts as delivered. So no entry may be sent before it is to be handed out, and
//! one XREADGROUP for several streams may send one of each. Here XREAD, which delivers nothing, says
//! which streams have entries that nobody was sent, and these take turns.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use super::GroupReader;
use super::begin::{Found, look_up_all};
use super::lane::Lane;
use crate::decode::{Decoder, Reply, ReplyShape, Run, ends};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::ledger::Ask;
use crate::read::bounds::ids_only;
use crate::read::deadline::block_ms;
use crate::read::many;
use crate::read::poll::Polled;
use crate::resp::{self, PageLimit};

/// Which streams have entries that nobody was sent, as far as is known; by their places.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// What comes after this ID nobody was sent.
    after: HashMap<usize, EntryId>,
    turns: VecDeque<Turn>,
    /// The user may not ask how far some groups have come, nor some streams.
    is_blind: bool,
    /// When the positions were asked for, and when the streams were.
    located: Option<Instant>,
    looked: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    lane: usize,
    /// Nobody has said that it has entries, but only the group itself can tell.
    is_guess: bool,
}

impl Alone {
    /// A group may be set back, or get lost, while nothing comes.
    const LOCATED: Duration = Duration::from_secs(1);
    /// Those that nothing can be asked about have their turns that often.
    const BLIND: Duration = Duration::from_millis(100);

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        *self = Alone::default();
    }

    /// Those of these streams whose groups are to be asked how far they have come.
    fn unknown(&mut self, wanted: &[usize]) -> Vec<usize> {
        if self.located.is_none_or(|at| at.elapsed() >= Self::LOCATED) {
            self.located = Some(Instant::now());
            self.is_blind = false;
            self.after.clear();
        }
        wanted.iter().copied().filter(|lane| !self.after.contains_key(lane)).collect()
    }

    /// Whose turn it is, of these.
    fn turn(&self, wanted: &[usize]) -> Option<usize> {
        self.turns.iter().map(|turn| turn.lane).find(|lane| wanted.contains(lane))
    }

    fn add(&mut self, lane: usize, is_guess: bool) {
        if self.turns.iter().all(|turn| turn.lane != lane) {
            self.turns.push_back(Turn { lane, is_guess });
        }
    }

    /// A stream had its turn, and an entry came of it, or none.
    pub(super) fn took(&mut self, lane: usize, came: bool) {
        let place = self.turns.iter().position(|turn| turn.lane == lane);
        let Some(turn) = place.and_then(|place| self.turns.remove(place)) else { return };
        match came {
            true => self.turns.push_back(turn),
            // Another consumer was sent what there was.
            false if !turn.is_guess => drop(self.after.remove(&lane)),
            false => {}
        }
    }
}

impl GroupReader {
    /// Whether each entry is asked for alone because no other may be sent along.
    pub(super) fn hands_out_once(&self) -> bool {
        self.is_many() && self.options.max_deliveries() == Some(1)
    }

    /// Asks the stream whose turn it is for one new entry; where none has any, waits for that.
    pub(super) async fn ask_for_one(
        &mut self,
        new: Vec<usize>,
        wait: Option<Duration>,
        waits: bool,
    ) -> Result<Polled> {
        let asked = Instant::now();
        self.locate_all(&new).await?;
        let Some(streams) = &mut self.streams else { return Ok(Polled::More) };
        // A stream that has entries all the time keeps no other from being found.
        let looks_for = streams.looks_for();
        let is_due = streams.alone.looked.is_none_or(|at| at.elapsed() >= looks_for);
        let turn = streams.alone.turn(&new);
        if let Some(stream) = turn.filter(|_| !is_due) {
            let mut request = self.new_request(vec![stream], 1, None);
            (request.0.is_of_all, request.0.is_for_more) = (false, false);
            self.send(vec![request]).await?;
            return self.receive(waits).await;
        }
        if new.is_empty() {
            return self.without_streams(wait, waits).await;
        }
        let longest = if streams.alone.is_blind { Alone::BLIND } else { Alone::LOCATED };
        let wait = wait.filter(|_| turn.is_none()).map(|wait| wait.min(longest));
        let found = self.look_for_entries(&new, wait).await?;
        let Some(streams) = &mut self.streams else { return Ok(Polled::More) };
        found.iter().for_each(|stream| streams.alone.add(*stream, false));
        streams.alone.looked = Some(Instant::now());
        if turn.is_some() || !found.is_empty() {
            return Ok(Polled::More);
        }
        if streams.alone.is_blind && wait.is_some() {
            streams.alone.located = None;
        }
        self.nothing_new(&new, asked, wait, waits).await
    }

    /// As if the groups had been asked: there is nothing new for anybody.
    pub(super) async fn nothing_new(
        &mut self,
        new: &[usize],
        asked: Instant,
        wait: Option<Duration>,
        waits: bool,
    ) -> Result<Polled> {
        for stream in new {
            if let Some(lane) = self.lanes.get_mut(*stream) {
                lane.ledger.asked(Ask::New { count: 1 });
                lane.ledger.ended();
            }
        }
        self.no_others(new, asked, wait, waits).await
    }

    /// Finds out how far the groups of these streams have come, where that is not known.
    async fn locate_all(&mut self, new: &[usize]) -> Result<()> {
        let Some(streams) = &mut self.streams else { return Ok(()) };
        let unknown = streams.alone.unknown(new);
        if unknown.is_empty() {
            return Ok(());
        }
        let lanes: Vec<&Lane> = unknown.iter().filter_map(|one| self.lanes.get(*one)).collect();
        let found = look_up_all(&mut self.feed.session, &lanes).await?;
        let mut silent = Vec::new();
        for (stream, found) in unknown.into_iter().zip(found) {
            match found {
                Found::Group(position) => {
                    streams.alone.after.insert(stream, position.last_delivered);
                }
                // The read itself says what is wrong.
                Found::Nothing => {
                    streams.alone.after.insert(stream, EntryId::MAX);
                    streams.alone.add(stream, true);
                }
                Found::Unknown => silent.push(stream),
            }
        }
        if silent.is_empty() {
            return Ok(());
        }
        // What the stream has now is somebody's once its group has nothing more to give.
        let names = Arc::clone(streams.names());
        let ends = many::last_generated(&mut self.feed.session, &names, &silent).await?;
        let ends: HashMap<usize, EntryId> = ends.into_iter().collect();
        for stream in silent {
            let end = ends.get(&stream).copied();
            streams.alone.is_blind |= end.is_none();
            streams.alone.after.insert(stream, end.unwrap_or(EntryId::MAX));
            streams.alone.add(stream, true);
        }
        Ok(())
    }

    /// Which of these streams have entries that nobody was sent (XREAD, which delivers nothing), after
    /// waiting for some where that is asked for.
    async fn look_for_entries(
        &mut self,
        new: &[usize],
        wait: Option<Duration>,
    ) -> Result<Vec<usize>> {
        let Some(streams) = &self.streams else { return Ok(Vec::new()) };
        let after = |stream: &usize| {
            let lane = self.lanes.get(*stream)?;
            let after = streams.alone.after.get(stream).copied()?;
            Some((lane.member.stream.as_slice(), after))
        };
        let asked: Vec<(&[u8], EntryId)> = new.iter().filter_map(after).collect();
        let command = resp::read_many_after(&asked, PageLimit::of_count(1), wait.map(block_ms));
        let mut decoder = ids_only(ReplyShape::Streams)?;
        decoder.set_streams(streams.names());
        let looking = self.feed.session.attempt(&command, wait, decoder, named);
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        let Some(until) = until else { return looking.await };
        // What was given back meanwhile is due before.
        match select(pin!(looking), pin!(self.watched.returns_before(until))).await {
            Either::Left((found, _)) => found,
            Either::Right(_) => Ok(Vec::new()),
        }
    }
}

/// The streams that the one reply has entries of.
fn named(mut decoder: Decoder) -> Result<Vec<usize>> {
    match decoder.take_reply() {
        Some(Reply::Error(error)) => Err(error),
        _ => {
            let runs = ends(decoder.runs(), decoder.rows());
            Ok(runs.map(|(run, _): (Run, usize)| run.stream).collect())
        }
    }
}
