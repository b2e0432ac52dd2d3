//! Several streams read through their groups, in parts that are waited for at the same time. In a cluster
//! those of a slot are apart, as no XREADGROUP reaches two; and those that have entries all the time are
//! apart from the others.

mod dividing;
mod finding;
mod gathering;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all, try_join_all};

use self::dividing::Place;
use super::GroupReader;
use super::joint::Joint;
use super::lane::Lane;
use super::mingle::{Given, Mingle};
use super::part::{Job, Part, poll_once};
use super::placing::{Placing, budgets};
use crate::client::Client;
use crate::decode::{Batch, Decoder, ReplyShape, StreamNames};
use crate::error::Result;
use crate::read::group_options::GroupOptions;
use crate::read::many::Pattern;
use crate::read::member::Member;
use crate::read::poll::{Collecting, Pace, Polled, within};
use crate::read::request::ReadRequest;
use crate::read::stats::{Handing, Watched};

/// Reads several streams as one consumer, batch by batch.
///
/// Each part is a [`GroupReader`] with a session of its own, and goes on with what it does while a batch
/// of others is in the caller's hands: so what was sent for it may wait, which `resume` takes account
/// of. Batches that are there at the same time become one.
pub(in crate::read) struct Parts {
    client: Client,
    request: ReadRequest,
    options: Arc<GroupOptions>,
    watched: Arc<Watched>,
    joint: Arc<Joint>,
    /// All streams, by their numbers, which parts and lanes have as well.
    names: Arc<StreamNames>,
    members: Vec<Member>,
    /// Those that do not match the pattern any more.
    gone: Vec<bool>,
    pattern: Option<Pattern>,
    placing: Placing,
    /// Those that have no part yet.
    unplaced: VecDeque<Lane>,
    places: Vec<Place>,
    parts: Vec<Part>,
    /// The parts that the latest batch is of, and what there is to know of it.
    given: Vec<usize>,
    /// What was taken of them, before it is a batch.
    collected: Vec<Given>,
    handing: Option<Handing>,
    mingle: Mingle,
    /// Whose answer is taken first, where several have one.
    turn: usize,
    pace: Pace,
    /// How many entries are wanted still, where that is limited.
    left: Option<u64>,
    /// The search for other streams that is under way.
    looking: Option<Looking>,
    planned: bool,
    /// Since when nobody has waited.
    away: Arc<Mutex<Option<Instant>>>,
    process: u32,
}

type Looking = BoxFuture<'static, (Duration, Result<Vec<Vec<u8>>>)>;

/// Parts whose requests were given up, and how long they alone are waited for.
struct Again {
    parts: Vec<usize>,
    longest: Duration,
}

/// Something to go on with.
enum Event {
    Part(usize),
    Found(Duration, Result<Vec<Vec<u8>>>),
    Time,
}

impl Parts {
    /// How long those are waited for whose part of a batch has been collected: a server without other
    /// work looks ten times a second whose BLOCK is over.
    const TOGETHER: Duration = Duration::from_millis(300);
    /// All requests together ask for this number of batches at most, where each part has a share.
    const BATCHES: u64 = 4;
    /// How often a batch that has waited for too long is read again: it may always be so where the
    /// caller takes its time.
    const READ_AGAIN: u8 = 3;

    pub(super) fn new(
        client: &Client,
        request: ReadRequest,
        options: Arc<GroupOptions>,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        // What is wrong with the schema is said now rather than by the first part.
        Decoder::new(Arc::clone(&request.schema), ReplyShape::Streams)?;
        let joint = Arc::new(Joint::default());
        let mut parts = Parts {
            client: client.clone(),
            options,
            watched,
            joint,
            names: Arc::default(),
            members: Vec::new(),
            gone: Vec::new(),
            pattern: request.many.as_ref().and_then(|many| many.pattern.clone()),
            placing: Placing::default(),
            unplaced: VecDeque::new(),
            places: Vec::new(),
            parts: Vec::new(),
            given: Vec::new(),
            collected: Vec::new(),
            handing: None,
            mingle: Mingle::new(&request.schema),
            turn: 0,
            pace: Pace::new(&request),
            left: request.count,
            looking: None,
            planned: false,
            away: Arc::default(),
            process: std::process::id(),
            request,
        };
        parts.joint.set_share(u64::MAX);
        let names = parts.request.many.as_ref().map(|many| Arc::clone(&many.names));
        parts.enlist(names.iter().flat_map(|names| names.keys().iter().cloned()).collect())?;
        Ok(parts)
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The readers that the latest batch came from.
    pub(super) fn given(&mut self) -> Vec<&mut GroupReader> {
        let given = &self.given;
        let parts = self.parts.iter_mut().enumerate();
        parts.filter(|(n, _)| given.contains(n)).filter_map(|(_, part)| part.reader()).collect()
    }

    pub(super) fn handing(&self) -> Handing {
        let received = self.parts.iter().map(|part| part.received).sum();
        let (delivered, old_at) = (None, None);
        let handing = self.handing.unwrap_or(Handing { received, delivered, old_at });
        Handing { received, ..handing }
    }

    /// So many rows of the latest batch are wanted again.
    pub(super) fn came_to_nothing(&mut self, rows: usize) {
        self.left = self.left.map(|left| left.saturating_add(rows as u64));
    }

    /// Creates the groups that are missing where that is asked for, now rather than with the first
    /// batch.
    pub(super) async fn start(&mut self) -> Result<()> {
        Box::pin(self.plan()).await?;
        self.check_process()?;
        let idle = self.parts.iter_mut().filter_map(Part::reader);
        try_join_all(idle.map(GroupReader::start)).await.map(drop)
    }

    /// The next batch; `None` at the end. The one before is done with.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        Box::pin(self.plan()).await?;
        self.check_process()?;
        let mut again = self.resume().await;
        let _away = Away(Arc::clone(&self.away));
        if let Some(batch) = self.complete().await? {
            return Ok(Some(batch));
        }
        self.given.clear();
        self.joint.first_came.reset();
        self.pace.begin_poll();
        self.parts.iter_mut().for_each(|part| part.is_drained = false);
        loop {
            if self.left == Some(0) {
                return self.end().await;
            }
            self.place().await?;
            self.look();
            self.divide()?;
            self.begin();
            let is_over = self.parts.iter().all(|part| part.is_idle());
            if is_over && self.are_drained().await {
                return self.end().await;
            }
            let wait = match (is_over, &self.looking) {
                (true, _) => Some(Duration::ZERO),
                (false, None) => self.joint.wait_until_look(),
                (false, Some(_)) => None,
            };
            let wait = wait.into_iter().chain(self.held_for()).min();
            let event = match again.take() {
                Some(again) => self.event_of(&again).await,
                None => self.event(wait, true).await,
            };
            match event {
                Event::Time => {}
                Event::Found(took, found) => {
                    self.look_later(took);
                    self.found(found?)?;
                }
                Event::Part(part) => {
                    if let Some(batch) = self.take(part).await? {
                        return Ok(Some(batch));
                    }
                }
            }
        }
    }

    /// There is no other batch: what was handed out is done with where that is the policy.
    async fn end(&mut self) -> Result<Option<Batch>> {
        let readers = self.parts.iter_mut().filter_map(Part::reader);
        try_join_all(readers.map(GroupReader::asked_for_more)).await?;
        Ok(None)
    }

    /// Has the parts that do nothing read.
    fn begin(&mut self) {
        let (number, turn, now) = (self.parts.len(), self.turn, Instant::now());
        let order = (0..number).map(|step| (turn + step) % number);
        let places = &mut self.places;
        let is_next = |part: &Part, places: &[Place]| {
            let place = places.get(part.place);
            let goes_on = |place: &Place| place.division.goes_on(part.side, now);
            part.is_idle() && !part.is_drained && place.is_some_and(goes_on)
        };
        let Some(left) = self.left else {
            for part in &mut self.parts {
                if is_next(part, places) {
                    part.begin(Job::Next, None);
                    let place = places.get_mut(part.place);
                    place.into_iter().for_each(|place| place.division.began(part.side));
                }
            }
            return;
        };
        // What one may bring no other may, so none of them may wait.
        let job = if number == 1 { Job::Next } else { Job::Pass };
        let reserved: u64 = self.parts.iter().map(|part| part.budget).sum();
        let is_next = |part: &usize| self.parts.get(*part).is_some_and(|one| is_next(one, places));
        let next: Vec<usize> = order.filter(is_next).collect();
        for (part, budget) in next.iter().zip(budgets(left.saturating_sub(reserved), next.len())) {
            if let Some(part) = self.parts.get_mut(*part).filter(|_| budget > 0) {
                part.begin(job, Some(budget));
            }
        }
    }

    /// Nobody has anything: whether that is the end. Where it is not, they are asked again.
    async fn are_drained(&mut self) -> bool {
        let is_pass = self.left.is_some() && self.parts.len() > 1;
        if !is_pass && !self.parts.is_empty() {
            return true;
        }
        // They were not waited for.
        let left = self.pace.deadline().left_up_to(Pace::SLICE);
        tokio::time::sleep(left.min(Pace::PAUSE)).await;
        let polled = if left.is_zero() { Polled::Nothing } else { Polled::More };
        self.parts.iter_mut().for_each(|part| part.is_drained = false);
        self.pace.after(polled, 0) == Collecting::Ended
    }

    /// Waits until there is something to go on with, of the parts alone or of the search for others as
    /// well, perhaps not for long.
    async fn event(&mut self, wait: Option<Duration>, or_found: bool) -> Event {
        let (number, turn) = (self.parts.len(), self.turn);
        let (parts, looking, joint) = (&mut self.parts, &mut self.looking, &self.joint);
        let any = poll_fn(|context| {
            if or_found && let Poll::Ready((took, found)) = poll_once(looking, context) {
                return Poll::Ready(Event::Found(took, found));
            }
            for step in 0..number {
                let place = (turn + step) % number;
                let polled = parts.get_mut(place).map(|part| part.poll(context));
                if let Some(Poll::Ready(())) = polled {
                    return Poll::Ready(Event::Part(place));
                }
            }
            // One of them may have found that it is time to look for streams.
            match or_found && looking.is_none() && joint.is_time_to_look() {
                true => Poll::Ready(Event::Time),
                false => Poll::Pending,
            }
        });
        match wait {
            None => any.await,
            Some(wait) => within(wait, any).await.unwrap_or(Event::Time),
        }
    }

    /// Waits for those alone that are read again: where others have always something, they would be
    /// given up each time before they have come to anything.
    async fn event_of(&mut self, again: &Again) -> Event {
        let parts = &mut self.parts;
        let any = poll_fn(|context| {
            let mut ready = again.parts.iter().filter(|number| {
                parts.get_mut(**number).is_some_and(|part| part.poll(context).is_ready())
            });
            if let Some(number) = ready.next() {
                return Poll::Ready(Event::Part(*number));
            }
            let mut all = again.parts.iter().filter_map(|number| parts.get(*number));
            if all.all(Part::is_idle) { Poll::Ready(Event::Time) } else { Poll::Pending }
        });
        tokio::time::timeout(again.longest, any).await.unwrap_or(Event::Time)
    }

    /// Takes what a part has come to, and what goes along with it of others.
    async fn take(&mut self, part: usize) -> Result<Option<Batch>> {
        let given = self.take_of(part)?;
        self.collected.extend(given);
        self.complete().await
    }

    /// Takes what goes along with what was taken. Whoever gives up meanwhile goes on with that.
    async fn complete(&mut self) -> Result<Option<Batch>> {
        let Some(first) = self.collected.first() else { return Ok(None) };
        let (kind, until) = (first.kind, Instant::now() + Self::TOGETHER);
        let (most, collects) = (self.request.bounds.rows, self.pace.collects());
        loop {
            let rows: usize = self.collected.iter().map(|given| given.batch.len()).sum();
            if self.parts.len() < 2 || rows >= most {
                break;
            }
            let wait = match collects && self.joint.first_came.has_more() {
                // The time is over for them as well.
                true => until.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            let Event::Part(part) = self.event(Some(wait), false).await else { break };
            let fits = |given: &Given| {
                kind.joins(given.kind, collects) && given.batch.len() <= most.saturating_sub(rows)
            };
            if !self.parts.get(part).is_some_and(|part| part.has(fits)) {
                break;
            }
            let given = self.take_of(part)?;
            self.collected.extend(given);
        }
        let collected = std::mem::take(&mut self.collected);
        self.handing = collected.iter().map(|given| given.handing).reduce(Handing::with);
        let mut batches: Vec<Batch> = collected.into_iter().map(|given| given.batch).collect();
        let rows: usize = batches.iter().map(Batch::len).sum();
        let batch = match (batches.len(), self.parts.len()) {
            (1, 1) => {
                batches.iter().try_for_each(|batch| self.mingle.look(batch))?;
                batches.pop()
            }
            _ => Some(self.mingle.join(batches)?),
        };
        self.left = self.left.map(|left| left.saturating_sub(rows as u64));
        Ok(batch)
    }

    /// Takes what one part has come to.
    fn take_of(&mut self, number: usize) -> Result<Option<Given>> {
        self.turn = number + 1;
        let Some(part) = self.parts.get_mut(number) else { return Ok(None) };
        let given = match part.take() {
            None => return Ok(None),
            Some(Ok(given)) => given,
            Some(Err(error)) => {
                let Some(reader) = part.reader() else { return Err(error) };
                let error = reader.about(error);
                reader.rewind()?;
                return Err(error);
            }
        };
        let Some(given) = given else {
            part.is_drained = !part.reader().is_some_and(|reader| reader.has_come_to_rest());
            return Ok(None);
        };
        part.received = given.handing.received();
        if given.handing.is_old() && part.read_again < Self::READ_AGAIN {
            // It has waited while the caller had others.
            part.read_again += 1;
            part.reader().into_iter().for_each(|reader| reader.withdrawn(&given.batch));
            return Ok(None);
        }
        part.read_again = 0;
        let (place, side) = (part.place, part.side);
        self.came(place, side, &given);
        self.given.push(number);
        Ok(Some(given))
    }

    /// Goes on after nobody has waited for a while. Where that was long, what has come for a part
    /// meanwhile may be another consumer's: it is read again from what is pending, as after a lost
    /// connection. Says which parts those are.
    async fn resume(&mut self) -> Option<Again> {
        let since = self.away.lock().unwrap_or_else(PoisonError::into_inner).take();
        let away = since?.elapsed();
        self.was_away(away);
        if away < self.options.longest_wait()? / 4 {
            return None;
        }
        let busy = self.parts.iter_mut().enumerate().filter(|(_, part)| part.is_busy());
        let (parts, busy): (Vec<usize>, Vec<&mut Part>) = busy.unzip();
        for part in busy {
            part.halt().await;
        }
        // Little where the caller needs less time than that.
        (!parts.is_empty()).then(|| Again { parts, longest: Self::TOGETHER.min(away / 4) })
    }

    fn check_process(&mut self) -> Result<()> {
        if self.process != std::process::id() {
            self.process = std::process::id();
            self.parts.iter_mut().for_each(Part::was_forked);
            std::mem::forget(self.looking.take());
        }
        self.parts.iter().try_for_each(Part::check)
    }

    /// After an error: what was handed out stays so; the rest is pending, and comes first.
    pub(super) fn rewind(&mut self) -> Result<()> {
        // Whose error it was has gone back already, and the others go on.
        self.collected.clear();
        for reader in self.given() {
            reader.rewind()?;
            reader.lanes.iter_mut().for_each(|lane| lane.ledger.withdrawn());
        }
        Ok(())
    }

    /// Acknowledges what is done with; with `success` also the batch in hand.
    pub(super) async fn finish(&mut self, success: bool) -> Result<()> {
        if self.check_process().is_err() {
            return Ok(());
        }
        // What it holds others would wait for.
        self.looking = None;
        for part in &mut self.parts {
            part.halt().await;
        }
        // One that hangs does not keep the others from it.
        let readers = self.parts.iter_mut().filter_map(Part::reader);
        let finished = join_all(readers.map(|reader| pin_box(reader, success))).await;
        finished.into_iter().collect()
    }
}

async fn pin_box(reader: &mut GroupReader, success: bool) -> Result<()> {
    Box::pin(reader.finish(success)).await
}

/// Takes note of when nobody waits any more: when it is dropped.
struct Away(Arc<Mutex<Option<Instant>>>);

impl Drop for Away {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}
