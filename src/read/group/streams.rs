//! Several streams that one server, or one slot of a cluster, has, read through their groups: which have
//! many entries, and what is to be done where one is lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::GroupReader;
use super::alone::Alone;
use super::begin::{Found, look_up_all, remember_all};
use super::joint::{Inbox, Joint, News};
use super::lane::Lane;
use crate::client::Client;
use crate::decode::{Batch, StreamNames};
use crate::entry_id::{EntryId, GroupStart};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Flushed, IdSet};
use crate::read::group_options::OwnPending;
use crate::read::many::{self, Side};
use crate::read::request::ReadRequest;

/// The streams of a reader that may have several.
pub(super) struct Streams {
    names: Arc<StreamNames>,
    /// What there is to know of other parts, and of other streams.
    pub(super) joint: Arc<Joint>,
    inbox: Arc<Inbox>,
    /// Where the lane is of a stream of that number.
    places: HashMap<usize, usize>,
    started: bool,
    /// How many had entries the last time.
    active: usize,
    /// Those that may have more for the batch that is being collected, and whether they alone are asked.
    more: Vec<usize>,
    is_for_more: bool,
    /// Which had new entries, of each reply since a batch was given.
    replies: Vec<HashSet<usize>>,
    /// Which of the streams that one request could ask for these are.
    side: Side,
    /// It has come to rest because that was asked for.
    pub(super) rests: bool,
    /// Some are asked at a time, and so many in a row had nothing.
    is_turn: bool,
    in_vain: usize,
    /// Where entries may be handed out only once: which streams have some.
    pub(super) alone: Alone,
}

impl Streams {
    /// Others may become hot, which are asked for along with those that are.
    const HOT_WAIT: Duration = Duration::from_secs(1);
    /// Where each entry is asked for alone, others that have some are looked for after this long for
    /// each stream that there is: naming one costs a server half a microsecond.
    const LOOKS: Duration = Duration::from_micros(10);
    const LEAST: Duration = Duration::from_millis(5);

    pub(super) fn new(joint: Arc<Joint>, inbox: Arc<Inbox>, side: Side) -> Self {
        Streams {
            names: Arc::default(),
            joint,
            inbox,
            places: HashMap::new(),
            started: false,
            active: 1,
            more: Vec::new(),
            is_for_more: false,
            replies: Vec::new(),
            side,
            rests: false,
            is_turn: false,
            in_vain: 0,
            alone: Alone::default(),
        }
    }

    /// These are its streams from now on.
    pub(super) fn set_lanes(&mut self, lanes: &[Lane], started: bool) {
        let keys = lanes.iter().map(|lane| lane.member.stream.clone()).collect();
        self.names = Arc::new(StreamNames::new(keys));
        self.places = lanes.iter().map(|lane| lane.number).zip(0..).collect();
        self.started = started;
        (self.active, self.more) = (1, Vec::new());
    }

    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// The streams by their places.
    pub(super) fn names(&self) -> &Arc<StreamNames> {
        &self.names
    }

    /// Where the lane is of the stream of that number.
    pub(super) fn place(&self, number: usize) -> Option<usize> {
        self.places.get(&number).copied()
    }

    /// Leaves out those that are not to be asked now because no more entries than `missing` are wanted,
    /// and each that is asked may give one.
    pub(super) fn take_turns(&mut self, asked: &mut Vec<usize>, missing: u64) {
        let most = usize::try_from(missing).unwrap_or(usize::MAX);
        self.is_turn = asked.len() > most;
        asked.truncate(most);
    }

    /// Whether some had to be left out.
    pub(super) fn is_turn(&self) -> bool {
        self.is_turn
    }

    /// That many had nothing when it was their turn; says whether that makes all that there are.
    pub(super) fn are_all_in_vain(&mut self, asked: usize, there: usize) -> bool {
        self.in_vain += asked;
        let are_all = self.in_vain >= there;
        if are_all {
            self.in_vain = 0;
        }
        are_all
    }

    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// For how long streams that have entries may be asked while nobody looks for others that have.
    pub(super) fn looks_for(&self) -> Duration {
        let streams = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        Self::LOOKS.saturating_mul(streams).max(Self::LEAST)
    }

    /// Leaves out those that have nothing more, as far as is known, for a batch that has rows.
    pub(super) fn choose(&mut self, asked: &mut Vec<usize>, has_rows: bool) {
        self.is_for_more = has_rows && asked.iter().any(|stream| self.more.contains(stream));
        if self.is_for_more {
            asked.retain(|stream| self.more.contains(stream));
        }
    }

    /// Another batch is collected.
    pub(super) fn batch_over(&mut self) {
        self.more.clear();
    }

    /// Whether some are asked alone because they may have more for the batch.
    pub(super) fn is_for_more(&self) -> bool {
        self.is_for_more
    }

    /// New entries came of the streams of these numbers, and those in these places may have more.
    pub(super) fn came(&mut self, active: HashSet<usize>, more: Vec<usize>) {
        self.active = active.len().max(1);
        self.more = more;
        if !active.is_empty() {
            self.in_vain = 0;
            self.replies.push(active);
        }
    }

    /// Which streams had new entries, of each reply since the last call.
    pub(super) fn take_replies(&mut self) -> Vec<HashSet<usize>> {
        std::mem::take(&mut self.replies)
    }

    /// The longest that a request waits for its own sake.
    pub(super) fn longest_wait(&self) -> Option<Duration> {
        (self.side == Side::Hot).then_some(Self::HOT_WAIT)
    }

    /// Whether the reader is to come to rest, so that streams may change parts.
    pub(super) fn is_called(&self) -> bool {
        self.inbox.is_called()
    }
}

impl GroupReader {
    /// Creates the groups that are missing where that is asked for, now rather than with the first
    /// batch.
    pub(in crate::read) async fn start(&mut self) -> Result<()> {
        match (&self.streams, self.lanes.first_mut()) {
            (None, Some(lane)) => lane.start(&mut self.feed.session).await,
            (None, None) => Ok(()),
            (Some(_), _) => self.start_streams().await,
        }
    }

    async fn start_streams(&mut self) -> Result<()> {
        // What others have found since is for the next poll to begin with.
        if self.streams.as_ref().is_none_or(|streams| streams.started) {
            return Ok(());
        }
        self.take_lanes()?;
        self.start_lanes((0..self.lanes.len()).collect()).await?;
        if self.takes_all {
            self.set_ends().await?;
        }
        if let Some(streams) = &mut self.streams {
            streams.started = true;
        }
        Ok(())
    }

    /// Takes in what was found meanwhile: streams that have come, or gone.
    pub(super) async fn take_news(&mut self) -> Result<()> {
        let number = self.lanes.len();
        let found = self.take_lanes()?;
        let is_new = |(_, lane): &(usize, &Lane)| !lane.prepared;
        let new = self.lanes.iter().enumerate().filter(is_new);
        let mut starting: Vec<usize> = new.map(|(stream, _)| stream).collect();
        let known = self.lanes.iter_mut().take(number).enumerate();
        for (stream, lane) in known.filter(|_| found.is_some()) {
            let is_there = found.as_ref().is_some_and(|found| found.contains(&lane.member.stream));
            match (is_there, lane.gone) {
                (false, false) => lane.vanished(),
                (true, true) if lane.prepared => starting.push(stream),
                _ => {}
            }
        }
        self.find_again(starting).await
    }

    /// There may be more streams, after those that there were. Says which are there at all, where that
    /// was found out.
    fn take_lanes(&mut self) -> Result<Option<Arc<HashSet<Vec<u8>>>>> {
        let Some(streams) = &mut self.streams else { return Ok(None) };
        let News { lanes, found } = streams.inbox.take();
        if lanes.is_empty() {
            return Ok(found);
        }
        let keys: Vec<Vec<u8>> = lanes.iter().map(|lane| lane.member.stream.clone()).collect();
        let names = Arc::new(StreamNames::new([streams.names.keys(), &keys].concat()));
        self.feed.set_streams(&names);
        streams.names = names;
        for lane in lanes {
            streams.places.insert(lane.number, self.lanes.len());
            self.lanes.push(lane);
        }
        if self.lanes.len() > 1 {
            self.feed.session.are_of_several();
        }
        Ok(found)
    }

    /// Finds out what has to be known before the first read of some streams, and creates the groups that
    /// are missing.
    async fn start_lanes(&mut self, starting: Vec<usize>) -> Result<()> {
        self.streams.iter_mut().for_each(|streams| streams.alone.forget());
        let GroupReader { lanes, feed, .. } = self;
        let asked: Vec<&Lane> = starting.iter().filter_map(|stream| lanes.get(*stream)).collect();
        let found = look_up_all(&mut feed.session, &asked).await?;
        remember_all(&mut feed.session, lanes, &starting).await?;
        for (stream, found) in starting.into_iter().zip(found) {
            let Some(lane) = lanes.get_mut(stream) else { continue };
            if lane.gone
                && matches!(found, Found::Group(_))
                && lane.options.own_pending != OwnPending::Skip
            {
                // It has come back, and perhaps with what this consumer had.
                lane.ledger.read_own_pending();
            }
            lane.gone = false;
            let starting = async {
                if let Found::Group(position) = &found
                    && lane.needs_position()
                {
                    lane.prepare_with(&mut feed.session, position).await?;
                }
                lane.prepared = true;
                match (&found, lane.create_at, lane.member.is_found) {
                    // The others do not wait for its group.
                    (Found::Nothing, None, true) => lane.gone = true,
                    (Found::Nothing | Found::Unknown, None, _) => {}
                    _ => lane.start_with(&mut feed.session, &found).await?,
                }
                Ok(())
            };
            let started: Result<()> = starting.await;
            started.map_err(|error| lane.member.about(error))?;
        }
        Ok(())
    }

    /// A read of all there is ends with the entries that the streams have now.
    async fn set_ends(&mut self) -> Result<()> {
        let Some(streams) = &self.streams else { return Ok(()) };
        let all: Vec<usize> = (0..self.lanes.len()).collect();
        let ends = many::last_generated(&mut self.feed.session, &streams.names, &all).await?;
        for (stream, end) in ends {
            self.lanes.get_mut(stream).into_iter().for_each(|lane| lane.end = end);
        }
        Ok(())
    }

    pub(super) async fn infer_many(
        &mut self,
        client: &Client,
        request: &ReadRequest,
    ) -> Result<()> {
        let Some(streams) = &self.streams else { return Ok(()) };
        let asked = Instant::now();
        let mut schema = streams.joint.schema();
        if schema.is_none() {
            let mut found_nothing = streams.joint.inferring.lock().await;
            // Another part may have inferred them meanwhile.
            schema = streams.joint.schema();
            if schema.is_none() && found_nothing.is_none_or(|begun| begun < asked) {
                let begun = Instant::now();
                // By what is in any of them, wherever that is served.
                let request = request.with_names(&streams.joint.names());
                let inferring = Box::pin(many::infer_now(client, &request));
                match inferring.await? {
                    Some(found) => schema = Some(streams.joint.inferred(Arc::new(found))),
                    None => *found_nothing = Some(begun),
                }
            }
        }
        if let Some(schema) = schema {
            self.feed.restart(schema)?;
            self.feed.set_streams(&streams.names);
            self.request.sample = None;
        }
        Ok(())
    }

    /// The batch as others know its streams, by their numbers among all.
    pub(super) fn renumbered(&self, batch: Batch) -> Batch {
        if !self.is_many() {
            return batch;
        }
        batch.renumbered(|place| self.lanes.get(place).map_or(place, |lane| lane.number))
    }

    /// The lane of the stream of that number.
    pub(super) fn lane_of(&mut self, number: usize) -> Option<&mut Lane> {
        let place = match &self.streams {
            None => Some(number),
            Some(streams) => streams.place(number),
        };
        self.lanes.get_mut(place?)
    }

    /// The rows of a flushed batch that are to be seen, those of each stream in order and counted.
    pub(super) fn seen_of_many(&mut self, batch: Batch) -> Result<Batch> {
        let mut rejected: HashMap<usize, Vec<EntryId>> = HashMap::new();
        for entry in batch.rejected() {
            rejected.entry(entry.stream).or_default().push(entry.id);
        }
        let mut by_stream: HashMap<usize, Vec<usize>> =
            batch.rows_by_stream().into_iter().collect();
        let mut dropped: HashMap<usize, IdSet> = HashMap::new();
        let mut flushed: Vec<(Vec<usize>, Flushed)> = Vec::new();
        for (stream, lane) in self.lanes.iter_mut().enumerate() {
            let rows = by_stream.remove(&stream).unwrap_or_default();
            let rejected = rejected.remove(&stream).unwrap_or_default();
            let mut of_lane = lane.ledger.flushed(&batch.ids_of(&rows), &rejected);
            if !of_lane.dropped.is_empty() {
                dropped.insert(stream, std::mem::take(&mut of_lane.dropped));
            }
            if !rows.is_empty() {
                flushed.push((rows, of_lane));
            }
        }
        let (rows, counts) = seen(batch.len(), &flushed);
        let batch = match rows {
            Some(rows) => batch.select(&rows)?,
            None => batch,
        };
        let is_seen = |stream, id| !dropped.get(&stream).is_some_and(|ids| ids.contains(id));
        Ok(batch
            .with_rejected(|entry| is_seen(entry.stream, entry.id))
            .with_delivery_counts(counts))
    }

    /// What to do after an error of a read of several streams.
    pub(super) async fn recover_many(&mut self, error: Error) -> Result<()> {
        self.streams.iter_mut().for_each(|streams| streams.alone.forget());
        let error = match error.kind() {
            ErrorKind::NoGroup => match Box::pin(self.groups_lost(error)).await {
                Err(error) if error.kind() == ErrorKind::WrongType => error,
                found => return found,
            },
            _ => error,
        };
        let blocks_until = self.blocks_until.filter(|_| error.server_code().is_none());
        self.lost(blocks_until);
        let is_other_type = error.kind() == ErrorKind::WrongType;
        let mut error = match &self.streams {
            Some(streams) => many::about_type(&self.client, &streams.names, error).await,
            None => error,
        };
        if let Some(streams) = self.streams.as_ref().filter(|_| is_other_type)
            && streams.joint.looks_at().is_some()
        {
            // It matches the pattern no more, as one that is deleted.
            streams.joint.set_looks_at(Some(Instant::now()));
            error = error.with_retryable(true);
        }
        self.feed.recover(error).await
    }

    /// One of the streams has no group, and so nothing was read of any.
    async fn groups_lost(&mut self, error: Error) -> Result<()> {
        self.feed.give_up();
        let failed = self.flights.pop_front();
        for stream in failed.iter().flat_map(|flight| &flight.lanes) {
            self.lanes.get_mut(*stream).into_iter().for_each(|lane| lane.ledger.refused());
        }
        self.lost(None);
        let there = self.lanes.iter().enumerate().filter(|(_, lane)| !lane.gone);
        let (numbers, lanes): (Vec<usize>, Vec<&Lane>) = there.unzip();
        let found = look_up_all(&mut self.feed.session, &lanes).await?;
        let is_named = |lane: &Lane| !lane.gone && lane.is_named_by(&error);
        let is_lost = |(stream, found): &(usize, Found)| match found {
            Found::Nothing => true,
            // Where the user may not ask, what the server has said decides.
            Found::Unknown => self.lanes.get(*stream).is_some_and(is_named),
            Found::Group(_) => false,
        };
        let found = numbers.into_iter().zip(found).filter(is_lost);
        let lost: Vec<usize> = found.map(|(stream, _)| stream).collect();
        if lost.is_empty() {
            // It is there again.
            let named = self.lanes.iter().position(is_named).unwrap_or_default();
            let Some(lane) = self.lanes.get_mut(named) else { return Err(error) };
            let error = match lane.is_named_by(&error) {
                true => lane.member.about(error),
                false => error,
            };
            return lane.recreations.pause(error.with_retryable(true)).await;
        }
        // One pause is enough for all.
        let (mut recreating, mut fresh, mut pause) = (Vec::new(), Vec::new(), Duration::ZERO);
        for stream in lost {
            let GroupReader { lanes, feed, options, .. } = self;
            let Some(lane) = lanes.get_mut(stream) else { continue };
            let message = error.message().to_owned();
            let error = Error::new(ErrorKind::NoGroup, message);
            let is_missing = |error| lane.member.about(error);
            match (lane.create_at, options.recreates()) {
                (Some(_), _) if !lane.found => lane.create(&mut feed.session).await?,
                (None, _) if lane.member.is_found && !lane.found => lane.gone = true,
                // Where it is only the group that is gone, creating it again says so.
                _ if lane.member.is_found && !lane.exists(&mut feed.session).await? => {
                    lane.vanished();
                }
                (_, true) => {
                    pause = pause.max(lane.is_lost(is_missing(error))?);
                    recreating.push(stream);
                }
                _ if lane.member.is_found && lane.was_replaced(&mut feed.session).await? => {
                    lane.vanished();
                    fresh.push(stream);
                }
                _ => return Err(is_missing(error)),
            }
        }
        tokio::time::sleep(pause).await;
        for stream in recreating {
            self.recreate(stream).await?;
        }
        self.find_again(fresh).await
    }

    /// These were gone, and are there; what they have was added since the reading began.
    async fn find_again(&mut self, streams: Vec<usize>) -> Result<()> {
        if streams.is_empty() {
            return Ok(());
        }
        for stream in &streams {
            if let Some(lane) = self.lanes.get_mut(*stream)
                && lane.create_at == Some(GroupStart::BehindNewest)
            {
                lane.create_at = Some(GroupStart::Behind(EntryId::MIN));
            }
        }
        self.start_lanes(streams).await
    }
}

/// Which rows of a batch are seen, and how often each was delivered, by what the ledgers say of the rows of
/// their streams: each keeps its place among those of the others. `None` for all rows as they are.
fn seen(rows: usize, flushed: &[(Vec<usize>, Flushed)]) -> (Option<Vec<usize>>, Vec<u64>) {
    let is_counted = flushed.iter().any(|(_, flushed)| !flushed.counts.is_empty());
    let is_changed = flushed.iter().any(|(_, flushed)| flushed.rows.is_some());
    if !is_counted && !is_changed {
        return (None, Vec::new());
    }
    // In the place of each row: which is seen there.
    let mut places: Vec<Option<(usize, u64)>> = vec![None; rows];
    for (own, flushed) in flushed {
        let kept: Vec<usize> = match &flushed.rows {
            Some(kept) => kept.iter().filter_map(|at| own.get(*at).copied()).collect(),
            None => own.clone(),
        };
        let counts = flushed.counts.iter().copied().chain(std::iter::repeat(1));
        for ((place, row), count) in own.iter().zip(kept).zip(counts) {
            if let Some(place) = places.get_mut(*place) {
                *place = Some((row, count));
            }
        }
    }
    let (seen, counts): (Vec<usize>, Vec<u64>) = places.into_iter().flatten().unzip();
    (is_changed.then_some(seen), if is_counted { counts } else { Vec::new() })
}
