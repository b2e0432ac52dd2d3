//! How far a consumer has come: what a store of checkpoints keeps.

use super::{Acknowledge, Ledger, Terms};
use crate::entry_id::EntryId;

impl Ledger {
    /// A ledger of what is handed out and done with, and of nothing that is asked of a server.
    ///
    /// Where entries are done with batch by batch, or up to an ID, it is enough to hand out the last
    /// ID of each batch.
    pub(crate) fn of_position(acknowledge: Acknowledge) -> Self {
        Ledger::new(Terms {
            acknowledge,
            noack: false,
            lists: false,
            max_deliveries: None,
            recreates: true,
            hands_over: false,
        })
    }

    /// The greatest ID that is done with, as all is that was handed out before it. It does not go
    /// back where entries with smaller IDs are claimed later.
    pub(crate) fn position(&self) -> Option<EntryId> {
        self.position
    }

    /// All up to this ID counts as done with: where the reading begins.
    pub(crate) fn was_at(&mut self, id: EntryId) {
        self.position = self.position.max(Some(id));
    }

    /// Where that is the policy, what is in hand is done with now; no server has to be told.
    pub(crate) fn done_with_batch(&mut self) {
        self.asked_for_more();
        let _ = self.acknowledgements();
        self.acknowledged(0);
    }

    /// These rows of a batch that its last ID stands for are done with, as is all that was handed out
    /// before the batch; its other rows are not. The last ID alone stands for all rows.
    pub(crate) fn acked_of(&mut self, batch: &[EntryId], ids: &[EntryId]) {
        let (batch, ids) = (self.of_this_stream(batch), self.of_this_stream(ids));
        let Some(first) = batch.iter().min() else {
            return;
        };
        let sets = [&self.in_hand, &self.left];
        let before = sets.into_iter().flat_map(|set| set.iter().take_while(|id| id < first));
        let before: Vec<EntryId> = before.collect();
        let is_done = |id: &EntryId| self.position >= Some(*id) || self.finished.contains(*id);
        let undone: Vec<EntryId> = batch.iter().copied().filter(|id| !is_done(id)).collect();
        self.in_hand.extend(&undone);
        self.finish(&[&before, ids.as_ref()].concat());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Ask;
    use super::*;

    fn id(number: u64) -> EntryId {
        EntryId::new(number, 0)
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        /// A batch of this number of rows is handed out; the one before is done with where that is the
        /// policy.
        Batch(u64),
        /// An entry that was left, and claimed, is a batch of its own.
        Again(usize),
        Ack(usize),
        Fail(usize),
        Leave(usize),
        LeaveBatch,
        BeginAnew,
        /// An entry of the stream before is acknowledged.
        AckLate(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (1u64..6).prop_map(Event::Batch),
            1 => (0usize..60).prop_map(Event::Again),
            6 => (0usize..60).prop_map(Event::Ack),
            2 => (0usize..60).prop_map(Event::Fail),
            2 => (0usize..60).prop_map(Event::Leave),
            1 => Just(Event::LeaveBatch),
        ];
        let event = prop_oneof![
            60 => event,
            1 => Just(Event::BeginAnew),
            4 => (0usize..60).prop_map(Event::AckLate),
        ];
        vec(event, 0..80)
    }

    fn nth(set: &BTreeSet<u64>, nth: usize) -> Option<u64> {
        set.iter().nth(nth % set.len().max(1)).copied()
    }

    proptest! {
        #[test]
        fn everything_up_to_the_position_is_done_with(
            automatic in any::<bool>(), events in events(),
        ) {
            let policy = match automatic {
                true => Acknowledge::Automatically,
                false => Acknowledge::Manually,
            };
            let mut ledger = Ledger::of_position(policy);
            let (mut last, mut position) = (0, None);
            let (mut in_hand, mut left) = (BTreeSet::new(), BTreeSet::new());
            let mut done: BTreeSet<u64> = BTreeSet::new();
            let mut before: BTreeSet<u64> = BTreeSet::new();
            for event in events {
                let batch = match event {
                    Event::Batch(rows) => (last + 1..=last + rows).collect(),
                    Event::Again(n) => nth(&left, n).into_iter().collect(),
                    _ => Vec::new(),
                };
                if !batch.is_empty() {
                    if automatic {
                        done.append(&mut in_hand);
                    }
                    ledger.done_with_batch();
                    let ids: Vec<EntryId> = batch.iter().copied().map(id).collect();
                    ledger.handed_out(&ids);
                    last = last.max(*batch.last().unwrap());
                    left.retain(|number| !batch.contains(number));
                    in_hand.extend(batch);
                }
                match event {
                    Event::Batch(_) | Event::Again(_) => {}
                    Event::Ack(n) | Event::Fail(n) => {
                        if let Some(number) = nth(&in_hand, n) {
                            in_hand.remove(&number);
                            done.insert(number);
                            match event {
                                Event::Ack(_) => ledger.acked(&[id(number)]),
                                _ => ledger.failed(&[id(number)]),
                            }
                        }
                    }
                    Event::Leave(n) => {
                        if let Some(number) = nth(&in_hand, n) {
                            in_hand.remove(&number);
                            left.insert(number);
                            ledger.left(&[id(number)]);
                        }
                    }
                    Event::LeaveBatch => {
                        ledger.left_in_hand();
                        if automatic {
                            left.append(&mut in_hand);
                        }
                    }
                    Event::BeginAnew => {
                        ledger.stream_replaced();
                        (last, position) = (0, None);
                        before = &in_hand | &left;
                        in_hand.clear();
                        left.clear();
                        done.clear();
                    }
                    Event::AckLate(n) => {
                        // Smaller IDs may be of either stream.
                        if let Some(number) = nth(&before, n).filter(|number| *number > last) {
                            ledger.acked(&[id(number)]);
                        }
                    }
                }
                let undone = in_hand.first().into_iter().chain(left.first()).min();
                let up_to = done.iter().rev().find(|number| undone.is_none_or(|first| number < &first));
                position = position.max(up_to.copied());
                prop_assert_eq!(ledger.position(), position.map(id), "after {:?}", event);
            }
        }

        /// Without a group the last ID stands for a batch, and who acknowledges says how far.
        #[test]
        fn the_last_id_stands_for_a_batch(
            automatic in any::<bool>(), steps in vec((1u64..6, 0u64..8), 0..30),
        ) {
            let policy = match automatic {
                true => Acknowledge::Automatically,
                false => Acknowledge::Manually,
            };
            let mut ledger = Ledger::of_position(policy);
            let (mut last, mut in_hand, mut position) = (0, None, None);
            for (rows, acked) in steps {
                ledger.done_with_batch();
                position = position.max(in_hand.filter(|_| automatic));
                prop_assert_eq!(ledger.position(), position.map(id));
                last += rows;
                in_hand = Some(last);
                ledger.handed_out(&[id(last)]);
                prop_assert_eq!(ledger.position(), position.map(id));
                if (1..=last).contains(&acked) {
                    ledger.acked_of(&[id(acked)], &[id(acked)]);
                    position = position.max(Some(acked));
                }
                prop_assert_eq!(ledger.position(), position.map(id));
            }
        }

        /// Rows of a batch are acknowledged one by one, or as they come.
        #[test]
        fn rows_of_a_batch_are_done_with_one_by_one(
            automatic in any::<bool>(),
            steps in vec((1u64..6, vec((0usize..8, vec(0usize..6, 0..4)), 0..5)), 0..12),
        ) {
            let policy = match automatic {
                true => Acknowledge::Automatically,
                false => Acknowledge::Manually,
            };
            let mut ledger = Ledger::of_position(policy);
            let mut batches: Vec<Vec<u64>> = Vec::new();
            let (mut last, mut undone) = (0, BTreeSet::new());
            for (rows, acks) in steps {
                ledger.done_with_batch();
                if automatic {
                    undone.clear();
                }
                let batch: Vec<u64> = (last + 1..=last + rows).collect();
                last += rows;
                undone.extend(batch.iter().copied());
                ledger.handed_out(&[id(last)]);
                batches.push(batch);
                for (which, rows) in acks {
                    let batch = &batches[which % batches.len()];
                    let acked: Vec<u64> = rows.iter().map(|row| batch[row % batch.len()]).collect();
                    undone.retain(|number| *number >= batch[0] && !acked.contains(number));
                    let ids = |numbers: &[u64]| numbers.iter().copied().map(id).collect::<Vec<_>>();
                    ledger.acked_of(&ids(batch), &ids(&acked));
                    let position = undone.first().map_or(last, |first| first - 1);
                    prop_assert_eq!(ledger.position(), (position > 0).then(|| id(position)));
                }
            }
        }
    }

    /// Row by row, in the reverse order, as a group that may get lost remembers it: 0.2 s in a debug
    /// build, and minutes where each ID costs as much as there are.
    #[test]
    fn acknowledgements_may_come_in_any_order() {
        const NUMBER: u64 = 100_000;
        let ids: Vec<EntryId> = (1..=NUMBER).map(id).collect();
        let begun = std::time::Instant::now();
        for is_waiting in [false, true] {
            let mut ledger = Ledger::of_position(Acknowledge::Manually);
            ledger.handed_out(&ids);
            if is_waiting {
                ledger.asked(Ask::New { count: 1 });
            }
            for id in ids.iter().skip(1).rev() {
                ledger.acked(&[*id]);
                assert_eq!(ledger.position(), None);
            }
            ledger.acked(&[id(1)]);
            assert_eq!(ledger.position(), Some(id(NUMBER)));
            assert!(ledger.finished.is_empty() && ledger.in_hand.is_empty());
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}
