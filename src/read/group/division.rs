//! The streams that one request could ask for, divided between two parts: those that have entries all the
//! time are read over a connection of their own. Pure, without IO.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::read::many::{Side, Split};

/// What one of the two parts does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing, and nothing of it is left: its streams may be given to the other.
    Rests,
    /// It has given a batch, and has the rest of a reply.
    HasMore,
    Works,
}

/// What is to be done about streams that are to change parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: all are where they belong.
    Stay,
    /// Both are to come to rest where they have nothing in hand.
    Call,
    /// They change parts now.
    Exchange,
}

/// Which of two parts each stream belongs to, and when that changes: while both rest.
#[derive(Debug, Default)]
pub(super) struct Division {
    split: Split,
    /// Until when the quiet part does not go on, so that both rest at the same time.
    held_until: Option<Instant>,
}

impl Division {
    /// How long the quiet streams are not asked for: what is hot has an answer soon.
    const HOLD: Duration = Duration::from_millis(20);

    /// Another stream, which has had no entries so far.
    pub(super) fn add(&mut self, stream: usize) {
        self.split.add(stream);
    }

    pub(super) fn is_hot(&self, stream: usize) -> bool {
        self.split.is_hot(stream)
    }

    /// A reply of a part had entries of these streams.
    pub(super) fn came(&mut self, side: Side, active: &HashSet<usize>) {
        self.split.came(side, active);
    }

    /// All streams are to be asked for by one request again.
    pub(super) fn join(&mut self) {
        self.split.join();
    }

    /// Whether all streams are where they belong.
    pub(super) fn is_settled(&self) -> bool {
        !self.split.is_unsettled()
    }

    /// Says whether streams may change parts now, where some are to.
    pub(super) fn step(&mut self, quiet: Doing, hot: Doing, now: Instant) -> Step {
        if self.is_settled() {
            self.held_until = None;
            return Step::Stay;
        }
        if quiet == Doing::Rests && hot == Doing::Rests {
            self.held_until = None;
            self.split.settle();
            return Step::Exchange;
        }
        if quiet == Doing::Rests && self.held_until.is_none() {
            self.held_until = now.checked_add(Self::HOLD);
        }
        Step::Call
    }

    /// Whether a part that does nothing is to go on.
    pub(super) fn goes_on(&self, side: Side, now: Instant) -> bool {
        self.split.has(side) && !(side == Side::Quiet && self.held_for(now).is_some())
    }

    /// For how long the quiet part is held back.
    pub(super) fn held_for(&self, now: Instant) -> Option<Duration> {
        let left = self.held_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// A part goes on.
    pub(super) fn began(&mut self, side: Side) {
        if side == Side::Quiet {
            self.held_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{hash_set, vec};
    use proptest::prelude::*;

    use super::*;

    /// A part as a reader is: it works for some ticks, and then rests, or has more.
    #[derive(Debug, Default)]
    struct Model {
        streams: HashSet<usize>,
        works_until: Option<u64>,
        has_more: bool,
    }

    impl Model {
        fn doing(&self) -> Doing {
            match (self.works_until, self.has_more) {
                (Some(_), _) => Doing::Works,
                (None, true) => Doing::HasMore,
                (None, false) => Doing::Rests,
            }
        }
    }

    const STREAMS: usize = 40;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever comes when: each stream has one part, which never changes while one of the two
        /// does something; no part with streams is idle for longer than the hold; and what is hot
        /// is soon apart where the parts come to rest.
        #[test]
        fn each_stream_has_one_part_that_goes_on(
            ticks in vec((hash_set(0..STREAMS, 0..3), 1u64..60, any::<bool>(), 0u8..40), 50..400),
        ) {
            let mut division = Division::default();
            (0..STREAMS).for_each(|stream| division.add(stream));
            let mut quiet = Model { streams: (0..STREAMS).collect(), ..Model::default() };
            let (mut hot, begun) = (Model::default(), Instant::now());
            let mut idle_since = [None; 2];
            for (tick, (active, works, has_more, join)) in ticks.into_iter().enumerate() {
                let tick = tick as u64;
                let now = begun + Duration::from_millis(tick);
                if join == 0 {
                    division.join();
                }
                for (side, part) in [(Side::Quiet, &mut quiet), (Side::Hot, &mut hot)] {
                    let own: HashSet<usize> =
                        active.iter().copied().filter(|one| part.streams.contains(one)).collect();
                    // A batch, or a request that is over.
                    let ends = part.works_until.is_some_and(|end| end <= tick || !own.is_empty());
                    if ends {
                        division.came(side, &own);
                        (part.works_until, part.has_more) = (None, has_more && !own.is_empty());
                    }
                }
                let before = (quiet.streams.clone(), hot.streams.clone());
                let is_settled = division.is_settled();
                let both = (quiet.doing(), hot.doing());
                let step = division.step(both.0, both.1, now);
                prop_assert_eq!(step == Step::Stay, is_settled);
                if step == Step::Exchange {
                    prop_assert_eq!(both, (Doing::Rests, Doing::Rests));
                    let all = 0..STREAMS;
                    (hot.streams, quiet.streams) = all.partition(|one| division.is_hot(*one));
                    prop_assert!(division.is_settled());
                } else {
                    prop_assert_eq!(&before, &(quiet.streams.clone(), hot.streams.clone()));
                }
                let is_own = |one: usize| hot.streams.contains(&one) == division.is_hot(one);
                prop_assert!((0..STREAMS).all(is_own));
                for (place, (side, part)) in
                    [(Side::Quiet, &mut quiet), (Side::Hot, &mut hot)].into_iter().enumerate()
                {
                    if part.works_until.is_some() {
                        continue;
                    }
                    if division.goes_on(side, now) {
                        division.began(side);
                        (part.works_until, idle_since[place]) = (Some(tick + works), None);
                        prop_assert!(!part.streams.is_empty());
                    } else if !part.streams.is_empty() {
                        prop_assert_eq!(side, Side::Quiet, "only the quiet ones are held back");
                        let since = *idle_since[place].get_or_insert(tick);
                        prop_assert!(tick - since < 20, "held back for {} ms", tick - since);
                    }
                }
            }
        }
    }

    #[test]
    fn a_hot_stream_is_soon_apart() {
        let (mut division, now) = (Division::default(), Instant::now());
        (0..1_000).for_each(|stream| division.add(stream));
        let came = |division: &mut Division, side, stream: usize| {
            division.came(side, &HashSet::from([stream]));
        };
        assert_eq!(division.step(Doing::Rests, Doing::Rests, now), Step::Stay);
        came(&mut division, Side::Quiet, 7);
        assert_eq!(division.step(Doing::Rests, Doing::Rests, now), Step::Exchange);
        assert!(division.is_hot(7) && division.goes_on(Side::Hot, now));
        // Another, while the hot part waits: the quiet one is held for it, but not for long.
        came(&mut division, Side::Quiet, 8);
        assert_eq!(division.step(Doing::Rests, Doing::Works, now), Step::Call);
        assert!(!division.goes_on(Side::Quiet, now) && division.goes_on(Side::Hot, now));
        let later = now + Duration::from_millis(21);
        assert_eq!(division.step(Doing::Rests, Doing::Works, later), Step::Call);
        assert!(division.goes_on(Side::Quiet, later) && !division.is_hot(8));
        division.began(Side::Quiet);
        assert_eq!(division.step(Doing::Works, Doing::Rests, later), Step::Call);
        assert_eq!(division.step(Doing::HasMore, Doing::Rests, later), Step::Call);
        assert!(division.goes_on(Side::Quiet, later), "what it has is taken first");
        assert_eq!(division.step(Doing::Rests, Doing::Rests, later), Step::Exchange);
        assert!(division.is_hot(7) && division.is_hot(8));
        // Who takes long over a batch has one part again.
        division.join();
        assert_eq!(division.step(Doing::Rests, Doing::Rests, later), Step::Exchange);
        assert!(!division.is_hot(7) && !division.goes_on(Side::Hot, later));
    }
}
