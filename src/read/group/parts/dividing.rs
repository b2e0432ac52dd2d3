//! Streams that have entries all the time, apart from those that seldom have any.

use std::time::{Duration, Instant};

use super::Parts;
use crate::error::Result;
use crate::read::group::division::{Division, Step};
use crate::read::group::mingle::Given;
use crate::read::group::part::Part;
use crate::read::many::Side;
use crate::read::request::OnIdle;

/// Streams that one request could ask for: those of a slot, or all where there are no slots.
pub(super) struct Place {
    pub(super) division: Division,
    /// The parts that read them, by their numbers: one, until some streams are hot.
    quiet: usize,
    hot: Option<usize>,
    /// One of the streams.
    key: Vec<u8>,
}

impl Place {
    pub(super) fn new(key: &[u8], quiet: usize) -> Self {
        Place { division: Division::default(), quiet, hot: None, key: key.to_vec() }
    }

    /// The part that another stream is given to.
    pub(super) fn quiet(&self) -> usize {
        self.quiet
    }
}

impl Parts {
    /// Who takes longer than that over a batch has one request for all streams: another one's entries,
    /// which come meanwhile, would be pending for who is busy. It is seldom made then.
    const SLOW: Duration = Duration::from_millis(500);

    /// A part has given a batch.
    pub(super) fn came(&mut self, place: usize, side: Side, given: &Given) {
        // With a count nobody may wait. Where entries may be handed out once only, none may come that
        // was not asked for alone.
        if self.request.count.is_some() || self.options.max_deliveries() == Some(1) {
            return;
        }
        if let Some(place) = self.places.get_mut(place) {
            given.replies.iter().for_each(|active| place.division.came(side, active));
        }
    }

    /// Nobody has asked for more for so long.
    pub(super) fn was_away(&mut self, away: Duration) {
        if away > Self::SLOW {
            self.places.iter_mut().for_each(|place| place.division.join());
        }
    }

    /// For how long a part is not to go on.
    pub(super) fn held_for(&self) -> Option<Duration> {
        let now = Instant::now();
        self.places.iter().filter_map(|place| place.division.held_for(now)).min()
    }

    /// Has streams change parts where they are to and can.
    pub(super) fn divide(&mut self) -> Result<()> {
        // A poll that is to end is not begun again.
        let may_call = self.request.on_idle == OnIdle::Wait;
        for number in 0..self.places.len() {
            let Some(place) = self.places.get(number) else { break };
            let (quiet, hot) = match (place.hot, place.division.is_settled()) {
                (Some(hot), _) => (place.quiet, hot),
                (None, false) => (place.quiet, self.hot_part_of(number)?),
                (None, true) => continue,
            };
            let (Some(place), Ok([quiet, hot])) =
                (self.places.get_mut(number), self.parts.get_disjoint_mut([quiet, hot]))
            else {
                continue;
            };
            let step = place.division.step(quiet.doing(), hot.doing(), Instant::now());
            if step == Step::Exchange {
                exchange(&place.division, quiet, hot);
            }
            let is_called = step == Step::Call && may_call;
            quiet.inbox.call(is_called);
            hot.inbox.call(is_called);
        }
        Ok(())
    }

    /// Another part of the same streams as that of a place, which has none yet.
    fn hot_part_of(&mut self, number: usize) -> Result<usize> {
        let hot = self.parts.len();
        if let Some(place) = self.places.get(number) {
            let part = self.part_of(&place.key, (number, Side::Hot))?;
            self.parts.push(part);
            self.share_out();
        }
        self.places.get_mut(number).into_iter().for_each(|place| place.hot = Some(hot));
        Ok(hot)
    }

    /// All requests together ask for a few batches' worth.
    pub(super) fn share_out(&mut self) {
        let all = (self.request.bounds.rows as u64).saturating_mul(Self::BATCHES);
        self.joint.set_share(match self.parts.len() {
            0 | 1 => u64::MAX,
            parts => (all / parts as u64).max(1),
        });
    }
}

/// Gives each of two parts, which are at rest, the streams that are its own now.
fn exchange(division: &Division, quiet: &mut Part, hot: &mut Part) {
    quiet.inbox.share(&hot.inbox);
    quiet.watched.give_parts(&hot.watched, |stream| division.is_hot(stream));
    hot.watched.give_parts(&quiet.watched, |stream| !division.is_hot(stream));
    (quiet.is_drained, hot.is_drained) = (false, false);
    let (Some(quiet), Some(hot)) = (quiet.reader(), hot.reader()) else { return };
    let started = quiet.is_started();
    let mut lanes = quiet.give_lanes();
    lanes.extend(hot.give_lanes());
    lanes.sort_by_key(|lane| lane.number);
    let (of_hot, of_quiet) = lanes.into_iter().partition(|lane| division.is_hot(lane.number));
    quiet.set_lanes(of_quiet, started);
    hot.set_lanes(of_hot, started);
}
