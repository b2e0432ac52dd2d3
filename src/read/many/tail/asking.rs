//! What is asked for when, and for how long the server may wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::looking::is_to_come;
use super::{ManyTail, side_of, until};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::deadline::block_ms;
use crate::read::many::follower::{Follower, Seen};
use crate::read::many::split::Side;
use crate::read::page_request::PageRequest;
use crate::read::poll::Pace;
use crate::read::request::OnIdle;
use crate::resp::{self, PageLimit};

impl ManyTail {
    /// How long a request for hot streams waits: they change places only once it is answered.
    const HOT_SLICE: Duration = Duration::from_secs(1);
    /// How long quiet ones are not asked for because of that.
    const MOVING: Duration = Duration::from_millis(20);
    /// A reply has at most this many pages, where all streams have more than was expected.
    const PAGES: u64 = 4;

    /// Asks with each follower that is idle for what its streams have.
    pub(super) async fn ask(&mut self) -> Result<()> {
        for number in 0..self.followers.len() {
            if self.may_be_asked(number) && self.is_to_be_asked(number) {
                // Whether a node that has failed is there again its next answer tells sooner.
                let is_failing = self.followers.get(number).is_some_and(Follower::is_failing);
                if self.intake.rows() == 0 && !is_failing && self.is_look_due(number / 2) {
                    self.look_after(number).await?;
                }
                self.send(number).await;
            }
        }
        Ok(())
    }

    /// Whether a follower is idle, and neither pauses nor has streams that are to change sides soon.
    /// Those do where the other one of the place is idle, too.
    fn may_be_asked(&mut self, number: usize) -> bool {
        let is_other_idle = self.followers.get(number ^ 1).is_none_or(Follower::is_idle);
        let (Some(follower), Some(place)) =
            (self.followers.get_mut(number), self.places.get_mut(number / 2))
        else {
            return false;
        };
        if !follower.is_idle() {
            return false;
        }
        if place.split.is_unsettled() {
            if is_other_idle {
                place.split.settle();
                follower.not_before.take_if(|_| follower.is_late);
            } else if side_of(number) == Side::Quiet && !follower.is_late {
                // What is hot has an answer soon.
                follower.is_late = true;
                follower.not_before = Instant::now().checked_add(Self::MOVING);
            }
        }
        follower.not_before.take_if(|due| *due <= Instant::now());
        follower.not_before.is_none()
    }

    fn is_to_be_asked(&self, number: usize) -> bool {
        let (Some(follower), Some(place)) =
            (self.followers.get(number), self.places.get(number / 2))
        else {
            return false;
        };
        if !place.split.has(side_of(number)) || !self.has_streams(number) {
            return false;
        }
        if self.gives_at_once() {
            // Where the other one of the place has more all the time, there may be no moment without
            // rows.
            let other = self.followers.get(number ^ 1);
            return follower.has_more || other.is_some_and(|other| other.has_more);
        }
        let stops = self.intake.rows() > 0 || self.request.on_idle == OnIdle::Stop;
        // What has had nothing until the time was over has nothing.
        !(stops && follower.is_drained && self.pace.deadline().left_up_to(Pace::SLICE).is_zero())
    }

    /// Whether there is a stream to ask for that is not gone.
    fn has_streams(&self, number: usize) -> bool {
        let split = self.places.get(number / 2).map(|place| &place.split);
        let mut streams = split.into_iter().flat_map(|split| split.streams(side_of(number)));
        streams.any(|stream| self.streams.is_open(stream))
    }

    /// How long the server may wait with its answer; not at all where rows are given at once, and more
    /// are there.
    fn server_wait(&self, number: usize) -> Option<Duration> {
        let (Some(follower), Some(place)) =
            (self.followers.get(number), self.places.get(number / 2))
        else {
            return None;
        };
        if self.gives_at_once() && follower.has_more {
            return None;
        }
        if follower.is_failing() {
            // Its answer tells soon whether that is over.
            return Some(Duration::from_millis(1));
        }
        let has_hot = place.split.has(Side::Hot);
        let longest = match side_of(number) {
            Side::Hot => Self::HOT_SLICE,
            Side::Quiet if has_hot => Pace::SLICE,
            Side::Quiet => until(place.look_due).min(Pace::SLICE),
        };
        let longest = longest.min(until(self.discover_due)).max(Pace::PAUSE);
        Some(match self.request.on_idle {
            // Its answer may come after the poll is over, or the batch.
            OnIdle::Wait => longest,
            OnIdle::Stop => self.pace.deadline().left_up_to(longest),
        })
    }

    /// Asks for a share of each stream. Whichever came first in the last request comes last in this
    /// one: where a batch is full before all have had their turn, it is another's the next time.
    pub(super) async fn send(&mut self, number: usize) {
        let (wait, missing) = (self.server_wait(number), self.missing());
        let is_sampling = self.request.sample.is_some();
        let (Some(follower), Some(place)) =
            (self.followers.get_mut(number), self.places.get(number / 2))
        else {
            return;
        };
        let streams = place.split.streams(side_of(number));
        let mut asked: Vec<usize> =
            streams.filter(|stream| self.streams.is_open(*stream)).collect();
        let first = follower.first.checked_rem(asked.len()).unwrap_or_default();
        asked.rotate_left(first);
        follower.first = first + 1;
        let page = follower.page(&mut self.intake).min(missing);
        let share = page.saturating_mul(Self::PAGES) / (asked.len() as u64).max(1);
        let count = match is_sampling {
            true => 1,
            false => (page / follower.active.len().max(1) as u64).min(share).max(1),
        };
        let limit = PageLimit::of_count(count);
        let names = &self.streams.names;
        let mut seen = Seen::default();
        if follower.is_in_doubt() {
            let ends = asked.iter().map(|stream| (*stream, self.streams.position(*stream)));
            let is_read =
                |seen: EntryId| seen > EntryId::MIN && !is_to_come(self.request.start, seen);
            seen.ends = ends.filter(|(_, seen)| is_read(*seen)).collect();
            seen.names = Arc::clone(names);
        }
        let asked: Vec<(&[u8], EntryId)> = asked
            .into_iter()
            .map(|stream| (names.key(stream), self.streams.position(stream)))
            .collect();
        let command = resp::read_many_after(&asked, limit, wait.map(block_ms));
        follower.ask(PageRequest { wait, ..PageRequest::new(command, limit) }, seen).await;
    }
}
