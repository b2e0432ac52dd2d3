//! Which part a stream belongs to, and how much each part may bring: pure, without IO.

use std::collections::HashMap;

/// Streams divided into parts, each of which one request can ask for.
#[derive(Debug, Default)]
pub(super) struct Placing {
    /// The part of each slot that has one.
    parts: HashMap<u16, usize>,
    number: usize,
}

impl Placing {
    /// Another stream, of that slot; says which part it belongs to, which may be one more than there
    /// were. Where streams are not `apart`, one request reaches all of them, whatever their slots.
    pub(super) fn add(&mut self, slot: u16, apart: bool) -> usize {
        let known = match apart {
            true => self.parts.get(&slot).copied(),
            false => self.number.checked_sub(1),
        };
        let part = known.unwrap_or(self.number);
        if known.is_none() {
            self.number += 1;
            self.parts.insert(slot, part);
        }
        part
    }

    /// How many parts adding streams of these slots would make.
    pub(super) fn parts_with(&self, slots: impl IntoIterator<Item = u16>, apart: bool) -> usize {
        if !apart {
            return self.number.max(1);
        }
        let mut new: Vec<u16> =
            slots.into_iter().filter(|slot| !self.parts.contains_key(slot)).collect();
        new.sort_unstable();
        new.dedup();
        self.number + new.len()
    }
}

/// Divides what may come still between parts: each has the same, and at least one; those for which
/// nothing is left have none.
pub(super) fn budgets(free: u64, parts: usize) -> impl Iterator<Item = u64> {
    let mut free = free;
    (0..parts).rev().map(move |others| {
        let own = (free / (others as u64 + 1)).max(1).min(free);
        free -= own;
        own
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Streams of a slot are always in one part, those of two never.
        #[test]
        fn a_part_is_a_slot(slots in vec(0u16..9, 0..40)) {
            let (mut placing, mut model) = (Placing::default(), Vec::new());
            for slot in slots {
                let expected = placing.parts_with([slot], true);
                model.push((slot, placing.add(slot, true)));
                prop_assert_eq!(placing.number, expected);
                for (slot, part) in &model {
                    for (other, other_part) in &model {
                        prop_assert_eq!(slot == other, part == other_part);
                    }
                }
            }
        }

        #[test]
        fn a_server_that_is_no_cluster_has_one_part(slots in vec(0u16..9, 1..40)) {
            let mut placing = Placing::default();
            prop_assert!(slots.iter().all(|slot| placing.add(*slot, false) == 0));
            prop_assert_eq!(placing.number, 1);
        }

        /// Nothing is given twice, nobody goes without as long as there is something, and all is given.
        #[test]
        fn budgets_are_what_there_is(free in 0u64..200, parts in 1usize..50) {
            let all: Vec<u64> = budgets(free, parts).collect();
            prop_assert_eq!(all.len(), parts);
            prop_assert_eq!(all.iter().sum::<u64>(), free);
            let with = all.iter().filter(|own| **own > 0).count();
            prop_assert_eq!(with as u64, free.min(parts as u64));
            let most = all.iter().max().copied().unwrap_or_default();
            prop_assert!(all.iter().all(|own| *own + 1 >= most || *own == 0 && most == 1));
        }
    }
}
