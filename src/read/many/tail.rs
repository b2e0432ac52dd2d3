//! Following several streams: an XREAD for many of them, after the last entry of each.
//!
//! The streams of one server, or of one slot of a cluster, are a [`Place`]. It has two followers, which
//! wait at the same time: one for the streams that have entries all the time, one for the others
//! ([`Split`]). Their replies go into one batch.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::followed::Followed;
use super::follower::Follower;
use super::parts::Part;
use super::sample::with_inferred;
use super::split::{Side, Split};
use super::{Pattern, ask};
use crate::client::{Client, slot_of};
use crate::decode::{Batch, ReplyShape, StreamNames};
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result, ServerCode};
use crate::read::bounds::no_match;
use crate::read::intake::{Intake, Received};
use crate::read::poll::{Collecting, Pace, Polled, within};
use crate::read::request::{OnIdle, ReadRequest};

mod asking;
mod beginning;
mod looking;

/// Each slot of a cluster takes a connection.
pub(in crate::read) const MOST_PLACES: usize = 256;

/// Follows several streams, batch by batch.
pub(in crate::read) struct ManyTail {
    client: Client,
    intake: Intake,
    request: ReadRequest,
    streams: Followed,
    /// The last ID that is wanted.
    end: EntryId,
    places: Vec<Place>,
    /// The streams that have a place, by their numbers up to this one.
    placed: usize,
    /// Two of each place, the quiet one first.
    followers: Vec<Follower>,
    /// Whose answer is taken first, where several have one.
    turn: usize,
    /// The rows of the batch that the positions take account of.
    told: usize,
    /// How many entries are wanted still, where that is limited.
    left: Option<u64>,
    pace: Pace,
    started: bool,
    /// When to look next for streams that match the pattern.
    discover_due: Option<Instant>,
    /// Those that were found to be others than before.
    replaced: Vec<usize>,
    ended: bool,
}

/// Streams that one request may ask for.
#[derive(Default)]
struct Place {
    /// The slot of a cluster that they have in common.
    slot: u16,
    split: Split,
    /// When to look next whether they are those that were read before, and from which of them on.
    look_due: Option<Instant>,
    look_from: usize,
}

impl ManyTail {
    /// How often at most streams are asked for what they have come to.
    const INTERVAL: Duration = Duration::from_secs(1);

    pub(in crate::read) fn new(client: &Client, request: ReadRequest) -> Result<Self> {
        let end = match request.end {
            IdBound::Id(end) => end,
            _ => EntryId::MAX,
        };
        let has_pattern = request.many.as_ref().is_some_and(|many| many.pattern.is_some());
        let names = request.schema.sources.clone().unwrap_or_default();
        let schema = request.schema.clone();
        let intake = Intake::new(client, schema, ReplyShape::Streams, request.bounds)?;
        Ok(ManyTail {
            client: client.clone(),
            intake: intake.watch_fields(request.who()).up_to(end),
            places: Vec::new(),
            placed: 0,
            followers: Vec::new(),
            turn: 0,
            told: 0,
            left: request.count,
            pace: Pace::new(&request),
            started: false,
            discover_due: None,
            replaced: Vec::new(),
            ended: request.count == Some(0)
                || request.start == IdBound::Nothing
                || request.end == IdBound::Nothing
                || (names.len() == 0 && !has_pattern),
            streams: Followed::new(names, Vec::new(), end),
            end,
            request,
        })
    }

    /// Resolves the start; done by the first batch where it was not done before.
    pub(in crate::read) async fn start(&mut self) -> Result<()> {
        if self.ended || self.started {
            return Ok(());
        }
        let names = match self.pattern() {
            Some(pattern) => {
                let keys = self.found(&pattern).await?;
                if keys.is_empty() && self.request.must_exist {
                    return Err(no_match(&pattern.text));
                }
                StreamNames::new(keys).into()
            }
            None => Arc::clone(&self.streams.names),
        };
        (self.places, self.followers, self.placed) = (Vec::new(), Vec::new(), 0);
        self.streams = Followed::new(Arc::clone(&names), Vec::new(), self.end);
        self.name(&names);
        self.place().await?;
        if self.request.must_exist {
            ask::check_exist(&self.client, names.keys()).await?;
        }
        let Some(many) = self.request.many.clone() else { return Ok(()) };
        let positions = self.begin(&names, &many).await?;
        self.streams = Followed::new(names, positions, self.end);
        self.started = true;
        Ok(())
    }

    fn pattern(&self) -> Option<Pattern> {
        self.request.many.as_ref().and_then(|many| many.pattern.clone())
    }

    fn name(&mut self, names: &Arc<StreamNames>) {
        self.intake.set_streams(names);
        if let Some(many) = &mut self.request.many {
            Arc::make_mut(many).names = Arc::clone(names);
        }
    }

    /// Finds places for the streams that have none. In a cluster those of a slot share one: no XREAD
    /// reaches another slot, of the same node neither.
    async fn place(&mut self) -> Result<()> {
        let names = Arc::clone(&self.streams.names);
        let are_apart = ask::are_apart(&self.client, &names).await?;
        for (stream, key) in names.keys().iter().enumerate().skip(self.placed) {
            let slot = slot_of(key);
            let known = self.places.iter().position(|place| !are_apart || place.slot == slot);
            if known.is_none() {
                if self.places.len() >= MOST_PLACES {
                    return Err(too_many_slots(MOST_PLACES));
                }
                let look_due = Instant::now().checked_add(Self::INTERVAL);
                self.places.push(Place { slot, look_due, ..Place::default() });
                self.followers.extend(Side::BOTH.map(|_| Follower::new(&self.client, key)));
            }
            let place = known.unwrap_or(self.places.len() - 1);
            if let Some(place) = self.places.get_mut(place) {
                place.split.add(stream);
            }
            self.placed = stream + 1;
        }
        Ok(())
    }

    /// The next batch, never empty; `None` at the end.
    pub(in crate::read) async fn next(&mut self) -> Result<Option<Batch>> {
        Box::pin(self.start()).await?;
        self.pace.begin_poll();
        self.followers.iter_mut().for_each(|follower| follower.is_drained = false);
        while !self.ended && !self.intake.is_full() && self.missing() > 0 {
            let polled = self.poll().await?;
            match self.pace.after(polled, self.intake.rows()) {
                Collecting::GoesOn => {}
                Collecting::Over => break,
                Collecting::Ended => self.ended = true,
            }
        }
        self.tell();
        self.told = 0;
        let mut batch = self.intake.flush()?;
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
        self.streams.delivered(&batch);
        if self.ended {
            self.followers.iter_mut().for_each(Follower::reset);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// The streams by their numbers, as far as they are known.
    #[cfg(feature = "python")]
    pub(in crate::read) fn names(&self) -> &Arc<StreamNames> {
        &self.streams.names
    }

    /// The bytes of all replies so far.
    pub(in crate::read) fn received(&self) -> u64 {
        self.intake.received()
    }

    /// After an error: what was handed out stays so, the rest is read again.
    pub(in crate::read) fn rewind(&mut self) -> Result<()> {
        self.pace.flushed();
        self.streams.rewind();
        self.told = 0;
        self.followers.iter_mut().for_each(Follower::reset);
        self.intake.discard()
    }

    /// How many of the entries that are wanted have not come.
    fn missing(&self) -> u64 {
        self.left.map_or(u64::MAX, |left| left.saturating_sub(self.intake.rows() as u64))
    }

    /// Moves the positions on to what has come, also where nobody waited for the rest.
    fn tell(&mut self) {
        // What only says that there is something to type the fields by is read again.
        if self.intake.rows() <= self.told || self.request.sample.is_some() {
            return;
        }
        self.streams.came(&self.intake.last_ids(self.told));
        self.told = self.intake.rows();
        self.pace.came(Instant::now());
    }

    async fn poll(&mut self) -> Result<Polled> {
        self.tell();
        let halfway = self.followers.iter().position(Follower::is_halfway);
        if let Some(halfway) = halfway {
            return self.take(halfway).await;
        }
        if self.streams.are_all_closed() {
            return Ok(Polled::Ended);
        }
        if self.pace.collects() && self.is_over() {
            return Ok(Polled::Nothing);
        }
        Box::pin(self.discover()).await?;
        if self.request.sample.is_some() {
            Box::pin(self.infer()).await?;
        }
        self.ask().await?;
        let gives_at_once = self.gives_at_once();
        let is_prompt = |follower: &Follower| follower.is_busy() && follower.is_prompt;
        let wait = match gives_at_once {
            true if self.followers.iter().any(is_prompt) => None,
            true => Some(Duration::ZERO),
            false => self.until_next_step(),
        };
        if !gives_at_once && self.followers.iter().all(Follower::is_idle) {
            return Ok(self.rest(wait).await);
        }
        match self.answered(wait).await {
            Some(follower) => self.take(follower).await,
            None if gives_at_once => Ok(Polled::Drained),
            None if self.is_over() => Ok(Polled::Nothing),
            None => Ok(Polled::More),
        }
    }

    /// Waits where there is nobody to wait for: no stream is there to be asked, or those that are have
    /// said that they have nothing.
    async fn rest(&mut self, wait: Option<Duration>) -> Polled {
        let longest = wait.unwrap_or(Pace::SLICE);
        tokio::time::sleep(match self.request.on_idle {
            OnIdle::Wait if self.intake.rows() == 0 => longest,
            _ => self.pace.deadline().left_up_to(longest),
        })
        .await;
        match self.pace.deadline().left_up_to(Pace::SLICE).is_zero() {
            true => Polled::Nothing,
            false => Polled::More,
        }
    }

    /// Whether the rows that there are go to the caller as soon as nothing is left.
    fn gives_at_once(&self) -> bool {
        self.intake.rows() > 0 && !self.pace.collects()
    }

    /// Whether the time is over for what is being collected.
    fn is_over(&self) -> bool {
        self.intake.rows() > 0 && self.pace.deadline().left_up_to(Pace::SLICE).is_zero()
    }

    /// How long nothing else is to be done than to wait for answers.
    fn until_next_step(&self) -> Option<Duration> {
        let now = Instant::now();
        let idle = self.followers.iter().filter(|follower| follower.is_idle());
        let pauses = idle.filter_map(|follower| follower.not_before);
        let next = pauses.chain(self.discover_due).min();
        let next = next.map(|next| next.saturating_duration_since(now).max(Pace::PAUSE));
        let collected = match self.intake.rows() {
            0 => None,
            _ => self.pace.deadline().left(),
        };
        [next, collected].into_iter().flatten().min()
    }

    /// Waits until a follower has an answer, perhaps not for long, and says which.
    async fn answered(&mut self, wait: Option<Duration>) -> Option<usize> {
        let (number, turn) = (self.followers.len(), self.turn);
        let followers = &mut self.followers;
        let any = poll_fn(|context| {
            for step in 0..number {
                let place = (turn + step) % number;
                let polled = followers.get_mut(place).map(|follower| follower.poll(context));
                if let Some(Poll::Ready(())) = polled {
                    return Poll::Ready(place);
                }
            }
            Poll::Pending
        });
        match wait {
            None => Some(any.await),
            Some(wait) => within(wait, any).await,
        }
    }

    /// Takes what a follower has got.
    async fn take(&mut self, number: usize) -> Result<Polled> {
        self.turn = number + 1;
        let Some(follower) = self.followers.get_mut(number) else { return Ok(Polled::More) };
        let before = self.told;
        let lost = follower.take_lost();
        let taken = follower.take(&mut self.intake).await;
        // Also where the reply did not come whole: none is left for the next to find.
        self.intake.take_beyond().into_iter().for_each(|stream| self.streams.close(stream));
        let received = match taken {
            Ok(received) => received,
            Err(error) => {
                let (client, names) = (&self.client, &self.streams.names);
                let is_other_type = error.server_code() == Some(ServerCode::WrongType);
                let mut error = ask::about_type(client, names, error).await;
                if is_other_type && self.discover_due.is_some() {
                    // It matches the pattern no more, as one that is deleted.
                    self.discover_due = Some(Instant::now());
                    error = error.with_retryable(true);
                }
                if let Some(place) = self.places.get_mut(number / 2) {
                    place.look_due = Some(Instant::now());
                }
                follower.recover(&mut self.intake, error)?;
                return Ok(Polled::More);
            }
        };
        if !lost.is_empty() {
            self.went_on_without(lost)?;
            return Ok(Polled::More);
        }
        follower.active.extend(self.intake.last_ids(before).into_keys());
        follower.has_more = matches!(received, Some(Received::Full));
        if self.request.sample.is_some() {
            return self.take_as_sign(number, received);
        }
        self.tell();
        let Some(follower) = self.followers.get_mut(number) else { return Ok(Polled::More) };
        let Some(Received::End { request, entries }) = received else { return Ok(Polled::More) };
        follower.has_more = entries >= request.limit.count;
        follower.is_drained = entries == 0;
        follower.is_late = false;
        if let Some(place) = self.places.get_mut(number / 2) {
            place.split.came(side_of(number), &follower.active);
        }
        if entries == 0 {
            // A server that answers nil before the time is over is not asked again at once.
            if request.wait.is_some_and(|wait| follower.asked.elapsed() < wait) {
                follower.not_before = Instant::now().checked_add(Pace::PAUSE);
            }
            return Ok(match self.gives_at_once() {
                true => self.unless_others_have(Polled::Drained).await,
                false => Polled::More,
            });
        }
        // No stream can have more. What came last may have been after the end, and no row.
        if !follower.has_more {
            return Ok(match self.intake.rows() {
                0 => Polled::More,
                _ => self.unless_others_have(Polled::Drained).await,
            });
        }
        // Where others are busy all the time, there is no other moment to look, nor for streams to
        // change sides.
        let is_unsettled = self.places.get(number / 2).is_some_and(|at| at.split.is_unsettled());
        if self.missing() > 0
            && !self.is_look_due(number / 2)
            && !is_unsettled
            && self.gives_at_once()
        {
            self.send(number).await;
        }
        self.intake.build()?;
        Ok(Polled::More)
    }

    /// Goes on with the batch where others have something for it already.
    async fn unless_others_have(&mut self, polled: Polled) -> Polled {
        let is_another = self.gives_at_once()
            && !self.intake.is_full()
            && self.followers.iter().any(Follower::is_busy)
            && self.answered(Some(Duration::ZERO)).await.is_some();
        if is_another { Polled::More } else { polled }
    }

    /// There is something to type the fields by; it is read when that is done.
    fn take_as_sign(&mut self, number: usize, received: Option<Received>) -> Result<Polled> {
        self.intake.discard()?;
        let Some(follower) = self.followers.get_mut(number) else { return Ok(Polled::More) };
        match received {
            Some(Received::End { entries, .. }) => follower.is_drained = entries == 0,
            // Its rest is not wanted.
            Some(_) => follower.reset(),
            None => {}
        }
        Ok(Polled::More)
    }

    /// Types the fields where that is asked for, once there is something to type them by.
    async fn infer(&mut self) -> Result<()> {
        self.intake.discard()?;
        let after = self.streams.positions().iter().map(|after| after.successor());
        let last = self.end;
        let part =
            |(stream, first): (usize, Option<EntryId>)| Some(Part::of(stream, (first?, last)));
        let parts: Vec<Part> = after.enumerate().filter_map(part).collect();
        let parts = ask::counted(&self.client, &self.streams.names, parts).await?;
        if let Some(schema) = with_inferred(&self.client, &self.request, &parts).await? {
            self.intake.restart(schema)?;
            self.intake.set_streams(&self.streams.names);
            self.told = 0;
            self.request.sample = None;
        }
        Ok(())
    }
}

/// The followers of a place are the quiet one and the hot one.
fn side_of(follower: usize) -> Side {
    if follower.is_multiple_of(2) { Side::Quiet } else { Side::Hot }
}

fn until(due: Option<Instant>) -> Duration {
    due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()))
}

/// The error where streams of more slots are followed.
pub(in crate::read) fn too_many_slots(most: usize) -> Error {
    Error::invalid(format!(
        "in a cluster an iterator follows streams of at most {most} slots, each on a connection of its own; \
         give the names of some of them a common part in braces, which puts them into one slot"
    ))
}
