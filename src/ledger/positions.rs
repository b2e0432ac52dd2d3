//! How far the consumer of one stream, or of several, has come in each: what a store of checkpoints keeps.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{Acknowledge, Ledger};
use crate::entry_id::EntryId;

/// The positions in all streams of a reader, by their numbers.
#[derive(Debug)]
pub(crate) struct Positions {
    acknowledge: Acknowledge,
    streams: HashMap<usize, Known>,
    /// Those with entries that were handed out since the last batch was done with.
    in_hand: BTreeSet<usize>,
    /// The last ID of each stream in the batches of a reader without a group, the oldest first: who is
    /// done with one is done with those before it.
    batches: VecDeque<Vec<(usize, EntryId)>>,
    /// Those whose positions the store does not have.
    moved: BTreeSet<usize>,
}

#[derive(Debug)]
struct Known {
    ledger: Ledger,
    saved: Option<EntryId>,
}

impl Positions {
    pub(crate) fn new(acknowledge: Acknowledge) -> Self {
        Positions {
            acknowledge,
            streams: HashMap::new(),
            in_hand: BTreeSet::new(),
            batches: VecDeque::new(),
            moved: BTreeSet::new(),
        }
    }

    /// Tells, or asks, the ledger of a stream.
    pub(crate) fn tell<T>(&mut self, stream: usize, tell: impl FnOnce(&mut Ledger) -> T) -> T {
        let acknowledge = self.acknowledge;
        let known = self
            .streams
            .entry(stream)
            .or_insert_with(|| Known { ledger: Ledger::of_position(acknowledge), saved: None });
        let told = tell(&mut known.ledger);
        match known.ledger.position() {
            position if position == known.saved => self.moved.remove(&stream),
            None => self.moved.remove(&stream),
            Some(_) => self.moved.insert(stream),
        };
        told
    }

    /// The reading begins after this ID, which is a position of its own: a later run goes on there.
    pub(crate) fn begins_after(&mut self, stream: usize, id: EntryId) {
        self.tell(stream, |ledger| ledger.was_at(id));
    }

    /// The stream is another one, which is read from its first entry on.
    pub(crate) fn replaced(&mut self, stream: usize) {
        for lasts in &mut self.batches {
            lasts.retain(|(other, _)| *other != stream);
        }
        self.tell(stream, |ledger| {
            ledger.stream_replaced();
            ledger.was_at(EntryId::MIN);
        });
    }

    /// Entries of a group's batch are in the caller's hands.
    pub(crate) fn handed_out(&mut self, stream: usize, ids: &[EntryId]) {
        self.in_hand.insert(stream);
        self.tell(stream, |ledger| ledger.handed_out(ids));
    }

    /// The same of a batch that is done with as a whole, or up to an ID: by the last ID of each stream.
    pub(crate) fn handed_out_up_to(&mut self, lasts: Vec<(usize, EntryId)>) {
        lasts.iter().for_each(|(stream, last)| self.handed_out(*stream, &[*last]));
        self.batches.push_back(lasts);
        if self.batches.len() > Ledger::REMEMBERED {
            self.batches.pop_front();
        }
    }

    /// Where that is the policy, what is in hand is done with now.
    pub(crate) fn done_with_batch(&mut self) {
        for stream in std::mem::take(&mut self.in_hand) {
            self.tell(stream, Ledger::done_with_batch);
        }
        if self.acknowledge == Acknowledge::Automatically {
            self.batches.clear();
        }
    }

    /// What is in hand is not done with, and will not be.
    #[cfg(feature = "python")]
    pub(crate) fn left_in_hand(&mut self) {
        for stream in self.in_hand.clone() {
            self.tell(stream, Ledger::left_in_hand);
        }
    }

    /// Without a group: these rows of a batch are done with, as are all batches before it. The last ID
    /// of a stream alone may stand for all of its rows.
    pub(crate) fn acknowledged(&mut self, batch: &[(usize, EntryId)], done: &[(usize, EntryId)]) {
        let Some((stream, first)) = batch.first() else { return };
        let has_it = |lasts: &Vec<(usize, EntryId)>| {
            lasts.iter().any(|(other, last)| other == stream && last >= first)
        };
        let before = self.batches.iter().position(has_it).unwrap_or_default();
        for (stream, last) in self.batches.drain(..before).flatten().collect::<Vec<_>>() {
            self.tell(stream, |ledger| ledger.acked_of(&[last], &[last]));
        }
        let done = by_stream(done);
        for (stream, rows) in by_stream(batch) {
            let done = done.get(&stream).map(Vec::as_slice).unwrap_or_default();
            self.tell(stream, |ledger| ledger.acked_of(&rows, done));
        }
    }

    /// The positions that the store does not have, by stream.
    pub(crate) fn moved(&self) -> Vec<(usize, EntryId)> {
        let moved = self.moved.iter();
        let position = |stream: &usize| self.streams.get(stream)?.ledger.position();
        moved.filter_map(|stream| Some((*stream, position(stream)?))).collect()
    }

    /// The store has these now.
    pub(crate) fn saved(&mut self, positions: &[(usize, EntryId)]) {
        for (stream, id) in positions {
            if let Some(known) = self.streams.get_mut(stream) {
                known.saved = Some(*id);
                if known.ledger.position() == known.saved {
                    self.moved.remove(stream);
                }
            }
        }
    }
}

fn by_stream(rows: &[(usize, EntryId)]) -> HashMap<usize, Vec<EntryId>> {
    let mut all: HashMap<usize, Vec<EntryId>> = HashMap::new();
    for (stream, id) in rows {
        all.entry(*stream).or_default().push(*id);
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn id(number: u64) -> EntryId {
        EntryId::new(number, 0)
    }

    fn positions(acknowledge: Acknowledge) -> Positions {
        Positions::new(acknowledge)
    }

    #[test]
    fn each_stream_has_its_position_and_only_what_moved_is_saved() {
        let mut all = positions(Acknowledge::Automatically);
        all.handed_out_up_to(vec![(0, id(3)), (7, id(9))]);
        assert_eq!(all.moved(), []);
        all.done_with_batch();
        assert_eq!(all.moved(), [(0, id(3)), (7, id(9))]);
        all.saved(&[(0, id(3))]);
        assert_eq!(all.moved(), [(7, id(9))]);
        all.handed_out_up_to(vec![(0, id(4))]);
        assert_eq!(all.moved(), [(7, id(9))]);
        all.saved(&all.moved().clone());
        all.done_with_batch();
        assert_eq!(all.moved(), [(0, id(4))]);
        // An older position that a slow store has had is not taken for the one of now.
        all.saved(&[(0, id(3))]);
        assert_eq!(all.moved(), [(0, id(4))]);
    }

    #[test]
    fn where_the_reading_begins_is_a_position() {
        let mut all = positions(Acknowledge::Automatically);
        all.begins_after(2, EntryId::MIN);
        assert_eq!(all.moved(), [(2, EntryId::MIN)]);
        all.handed_out_up_to(vec![(2, id(5))]);
        all.done_with_batch();
        assert_eq!(all.moved(), [(2, id(5))]);
        all.saved(&[(2, id(5))]);
        all.replaced(2);
        assert_eq!(all.moved(), [(2, EntryId::MIN)]);
    }

    /// Who is done with a batch is done with those before it, also in streams that it has no rows of.
    #[test]
    fn batches_before_the_one_that_is_done_with_are_done_with() {
        let mut all = positions(Acknowledge::Manually);
        all.handed_out_up_to(vec![(0, id(3))]);
        all.done_with_batch();
        all.handed_out_up_to(vec![(1, id(2))]);
        all.done_with_batch();
        all.handed_out_up_to(vec![(0, id(6)), (1, id(5))]);
        all.done_with_batch();
        assert_eq!(all.moved(), []);
        all.acknowledged(&[(1, id(2))], &[(1, id(2))]);
        assert_eq!(all.moved(), [(0, id(3)), (1, id(2))]);
        // Rows of one stream say nothing of those of another.
        let third = [(0, id(5)), (1, id(4)), (0, id(6)), (1, id(5))];
        all.acknowledged(&third, &[(1, id(4)), (0, id(6))]);
        assert_eq!(all.moved(), [(0, id(3)), (1, id(4))]);
        all.acknowledged(&third, &[(0, id(5))]);
        assert_eq!(all.moved(), [(0, id(6)), (1, id(4))]);
    }

    /// Which stream is another one from now on, seldom.
    fn replaced() -> impl Strategy<Value = Option<usize>> {
        prop_oneof![5 => Just(None), 1 => (0_usize..4).prop_map(Some)]
    }

    proptest! {
        /// However batches are handed out, acknowledged and saved, and streams replaced: a position never passes a row that is
        /// not done with, and the store has had all but those that moved.
        #[test]
        fn no_position_passes_what_is_not_done_with(
            automatic in any::<bool>(),
            steps in vec(
                (vec((0_usize..4, 1_u64..4), 1..4), any::<bool>(), any::<bool>(), replaced()),
                1..40,
            ),
        ) {
            let policy = if automatic { Acknowledge::Automatically } else { Acknowledge::Manually };
            let mut all = positions(policy);
            let (mut last, mut done, mut store) = ([0_u64; 4], [0_u64; 4], [0_u64; 4]);
            for (rows, acks, saves, replaced) in steps {
                if let Some(stream) = replaced {
                    all.replaced(stream);
                    (last[stream], done[stream]) = (0, 0);
                }
                all.done_with_batch();
                if automatic {
                    done = last;
                }
                let mut lasts: HashMap<usize, EntryId> = HashMap::new();
                for (stream, number) in rows {
                    last[stream] += number;
                    lasts.insert(stream, id(last[stream]));
                }
                let lasts: Vec<_> = lasts.into_iter().collect();
                all.handed_out_up_to(lasts.clone());
                if acks {
                    all.acknowledged(&lasts, &lasts);
                    done = last;
                }
                let moved = all.moved();
                if saves {
                    moved.iter().for_each(|(stream, id)| store[*stream] = id.ms);
                    all.saved(&moved);
                    prop_assert_eq!(all.moved(), []);
                    prop_assert_eq!(store, done);
                } else {
                    let known = |stream: usize| {
                        let moved = moved.iter().find(|(other, _)| *other == stream);
                        moved.map_or(store[stream], |(_, id)| id.ms)
                    };
                    prop_assert_eq!([0, 1, 2, 3].map(known), done);
                }
            }
        }
    }
}
