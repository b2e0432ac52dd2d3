//! Which streams are asked for together: those that have entries all the time apart from those that
//! seldom have any. No IO, no clock.
//!
//! An XREAD costs the server some time for each of its keys, whenever an entry wakes it. So an entry
//! of a quiet stream costs as much as there are quiet streams, and a hot one costs a little with each
//! reply that comes without any of its entries. A stream stays hot until it has cost as much as it
//! would have as a quiet one (the rental of skis: never more than twice what was best), and then
//! cools off.

use std::collections::{HashMap, HashSet};

/// Which of two requests a stream belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) enum Side {
    Quiet,
    Hot,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Quiet, Side::Hot];
}

/// Divides streams between two requests. Each belongs to exactly one of them, which changes in
/// [`Split::settle`] alone: while neither is in flight.
#[derive(Debug, Default)]
pub(in crate::read) struct Split {
    all: Vec<usize>,
    hot: HashSet<usize>,
    /// How many replies with entries of others each stream may have before it cools off, or is cool:
    /// the streams that are to be hot.
    credit: HashMap<usize, usize>,
}

impl Split {
    /// As many streams as one request asks for at hardly more cost than for one.
    const FEW: usize = 16;

    /// Another stream is followed.
    pub(in crate::read) fn add(&mut self, stream: usize) {
        self.all.push(stream);
    }

    /// All streams, in the order in which they were added.
    pub(super) fn all(&self) -> &[usize] {
        &self.all
    }

    /// The streams of a side.
    pub(super) fn streams(&self, side: Side) -> impl Iterator<Item = usize> {
        let is_hot = move |stream: &usize| self.is_hot(*stream) == (side == Side::Hot);
        self.all.iter().copied().filter(is_hot)
    }

    pub(in crate::read) fn has(&self, side: Side) -> bool {
        match side {
            Side::Quiet => self.hot.len() < self.all.len(),
            Side::Hot => !self.hot.is_empty(),
        }
    }

    /// A reply has come, with entries of these streams.
    pub(in crate::read) fn came(&mut self, side: Side, active: &HashSet<usize>) {
        if active.is_empty() || self.all.len() <= Self::FEW {
            return;
        }
        if side == Side::Hot {
            self.credit.retain(|stream, credit| {
                // Those that are still to become hot cost nothing yet.
                *credit -= usize::from(self.hot.contains(stream));
                *credit > 0
            });
        }
        // They share what a reply to all would have cost.
        let credit = self.all.len() / active.len();
        // Where most of them have entries, there is nothing to be won.
        if credit > 1 {
            for stream in active {
                let own = self.credit.entry(*stream).or_default();
                *own = credit.max(*own);
            }
        }
    }

    pub(in crate::read) fn is_hot(&self, stream: usize) -> bool {
        self.hot.contains(&stream)
    }

    /// All streams are to be on the quiet side.
    pub(in crate::read) fn join(&mut self) {
        self.credit.clear();
    }

    /// Whether some streams are to change sides.
    pub(in crate::read) fn is_unsettled(&self) -> bool {
        self.credit.len() != self.hot.len()
            || !self.hot.iter().all(|stream| self.credit.contains_key(stream))
    }

    /// Has streams change sides; while neither request is in flight.
    pub(in crate::read) fn settle(&mut self) {
        if self.is_unsettled() {
            self.hot = self.credit.keys().copied().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(streams: usize) -> Split {
        let mut split = Split::default();
        (0..streams).for_each(|stream| split.add(stream));
        split
    }

    fn hot(split: &Split) -> Vec<usize> {
        split.streams(Side::Hot).collect()
    }

    fn came(split: &mut Split, side: Side, active: impl IntoIterator<Item = usize>) {
        split.came(side, &active.into_iter().collect());
    }

    #[test]
    fn one_hot_stream_is_asked_for_alone() {
        let mut split = split(10_000);
        assert!(!split.has(Side::Hot));
        came(&mut split, Side::Quiet, [7]);
        // Not before both requests have been answered.
        assert!(split.is_unsettled() && !split.has(Side::Hot));
        split.settle();
        assert_eq!(hot(&split), [7]);
        assert_eq!(split.streams(Side::Quiet).count(), 9_999);
        for _ in 0..20_000 {
            came(&mut split, Side::Hot, [7]);
            assert!(!split.is_unsettled());
        }
    }

    #[test]
    fn a_stream_that_falls_silent_cools_off() {
        let mut split = split(100);
        came(&mut split, Side::Quiet, [7, 8]);
        split.settle();
        assert_eq!(hot(&split), [7, 8]);
        for _ in 0..49 {
            came(&mut split, Side::Hot, [7]);
            assert!(!split.is_unsettled());
        }
        came(&mut split, Side::Hot, [7]);
        assert!(split.is_unsettled());
        split.settle();
        assert_eq!(hot(&split), [7]);
        // While all are silent nothing costs anything.
        came(&mut split, Side::Hot, []);
        assert_eq!(hot(&split), [7]);
    }

    #[test]
    fn few_streams_and_those_that_all_have_entries_stay_together() {
        let mut few = split(Split::FEW);
        came(&mut few, Side::Quiet, [1]);
        assert!(!few.is_unsettled());
        let mut all = split(100);
        came(&mut all, Side::Quiet, 0..100);
        assert!(!all.is_unsettled());
        came(&mut all, Side::Quiet, 0..20);
        all.settle();
        assert!(all.has(Side::Quiet) && hot(&all).len() == 20);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever comes when, a stream is asked for by exactly one request at a time, and never
        /// changes while that is in flight.
        #[test]
        fn a_stream_has_one_request(
            streams in 17_usize..40,
            steps in prop::collection::vec((any::<bool>(), prop::collection::hash_set(0_usize..40, 0..9)), 1..80),
        ) {
            let mut split = split(streams);
            let mut added = streams;
            let mut in_flight: HashMap<bool, Vec<usize>> = HashMap::new();
            for (is_hot, active) in steps {
                let side = if is_hot { Side::Hot } else { Side::Quiet };
                match in_flight.remove(&is_hot) {
                    Some(asked) => {
                        let active = active.into_iter().filter(|one| asked.contains(one)).collect();
                        split.came(side, &active);
                    }
                    None if active.contains(&0) => {
                        split.add(added);
                        added += 1;
                    }
                    None => {
                        in_flight.insert(is_hot, split.streams(side).collect());
                    }
                }
                if in_flight.is_empty() {
                    split.settle();
                    prop_assert!(!split.is_unsettled());
                }
                let both = Side::BOTH.map(|side| split.streams(side).collect::<HashSet<_>>());
                prop_assert!(both[0].is_disjoint(&both[1]));
                prop_assert_eq!(both[0].len() + both[1].len(), added);
                for (is_hot, asked) in &in_flight {
                    let own = &both[usize::from(*is_hot)];
                    prop_assert!(asked.iter().all(|stream| own.contains(stream)));
                }
            }
        }

        /// What the replies cost is never much more than with the best of all divisions that stay.
        #[test]
        fn it_costs_little_more_than_the_best_division(
            every in prop::collection::vec(1_usize..400, 17..40),
        ) {
            let streams = every.len();
            let mut split = split(streams);
            let (mut cost, mut entries) = (0, vec![0; streams]);
            for tick in 1..=800 {
                for (stream, _) in every.iter().enumerate().filter(|(_, every)| tick % **every == 0) {
                    entries[stream] += 1;
                    let side = if split.hot.contains(&stream) { Side::Hot } else { Side::Quiet };
                    cost += match side {
                        Side::Hot => split.hot.len(),
                        Side::Quiet => streams - split.hot.len(),
                    };
                    came(&mut split, side, [stream]);
                    split.settle();
                }
            }
            entries.sort_unstable_by(|one, other| other.cmp(one));
            let of = |number: usize| {
                let (hot, quiet) = entries.split_at(number);
                hot.iter().sum::<usize>() * hot.len() + quiet.iter().sum::<usize>() * quiet.len()
            };
            let best = (0..=streams).map(of).min().unwrap_or_default();
            prop_assert!(cost <= 3 * best + streams * streams, "{cost} against {best}");
        }
    }
}
