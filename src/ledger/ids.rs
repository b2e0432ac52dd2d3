//! Sets of entry IDs.

use crate::entry_id::EntryId;

/// A set of entry IDs, in order. Streams give IDs in order, so that most of them go to the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdSet(Vec<EntryId>);

impl IdSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn first(&self) -> Option<EntryId> {
        self.0.first().copied()
    }

    pub(crate) fn last(&self) -> Option<EntryId> {
        self.0.last().copied()
    }

    /// The greatest one that is smaller than `id`.
    pub(crate) fn last_before(&self, id: EntryId) -> Option<EntryId> {
        let end = self.0.partition_point(|one| *one < id);
        self.0.get(..end)?.last().copied()
    }

    pub(crate) fn as_slice(&self) -> &[EntryId] {
        &self.0
    }

    pub(crate) fn contains(&self, id: EntryId) -> bool {
        self.last().is_some_and(|last| id <= last) && self.0.binary_search(&id).is_ok()
    }

    pub(crate) fn insert(&mut self, id: EntryId) {
        match self.last() {
            Some(last) if id <= last => {
                if let Err(at) = self.0.binary_search(&id) {
                    self.0.insert(at, id);
                }
            }
            _ => self.0.push(id),
        }
    }

    /// Adds IDs in any order.
    pub(crate) fn extend(&mut self, ids: &[EntryId]) {
        let ascends = ids.is_sorted_by(|one, next| one < next);
        match (self.last(), ids.first()) {
            (_, None) => {}
            (last, Some(first)) if ascends && last.is_none_or(|last| last < *first) => {
                self.0.extend_from_slice(ids);
            }
            _ => {
                self.0.extend_from_slice(ids);
                self.0.sort_unstable();
                self.0.dedup();
            }
        }
    }

    /// Takes IDs out, in any order; those that are not in it are no matter.
    pub(crate) fn remove(&mut self, ids: &[EntryId]) {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
            return;
        };
        // Nothing outside of these bounds has to be moved bit by bit.
        let start = self.0.partition_point(|id| id < first);
        let end = self.0.partition_point(|id| id <= last);
        let mut ids = ids.iter().peekable();
        let between = self.0.get(start..end).unwrap_or_default().iter().copied();
        let kept: Vec<EntryId> = between
            .filter(|id| {
                while ids.next_if(|gone| *gone < id).is_some() {}
                ids.peek() != Some(&id)
            })
            .collect();
        self.0.splice(start..end, kept);
    }

    /// Forgets the IDs up to this one.
    pub(crate) fn remove_up_to(&mut self, id: EntryId) {
        let end = self.0.partition_point(|one| *one <= id);
        self.0.drain(..end);
    }

    /// Forgets the first `number` IDs; returns them.
    pub(crate) fn take_first(&mut self, number: usize) -> Vec<EntryId> {
        self.0.drain(..number.min(self.0.len())).collect()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl From<Vec<EntryId>> for IdSet {
    fn from(mut ids: Vec<EntryId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        IdSet(ids)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn does_as_any_set_does(steps in vec((any::<bool>(), vec(0u64..40, 0..12)), 0..12)) {
            let (mut set, mut model) = (IdSet::default(), BTreeSet::new());
            for (adds, numbers) in steps {
                let ids: Vec<EntryId> = numbers.into_iter().map(|n| EntryId::new(n, 0)).collect();
                if adds {
                    set.extend(&ids);
                    model.extend(ids);
                } else {
                    set.remove(&ids);
                    model.retain(|id| !ids.contains(id));
                }
                prop_assert!(set.as_slice().iter().eq(&model));
                for n in 0..40 {
                    let id = EntryId::new(n, 0);
                    prop_assert_eq!(set.contains(id), model.contains(&id));
                }
                for n in 0..41 {
                    let before = model.range(..EntryId::new(n, 0)).next_back().copied();
                    prop_assert_eq!(set.last_before(EntryId::new(n, 0)), before);
                }
                let mut one_by_one = IdSet::default();
                set.as_slice().iter().rev().for_each(|id| one_by_one.insert(*id));
                prop_assert_eq!(&one_by_one, &set);
            }
            set.remove_up_to(EntryId::new(20, 0));
            model.retain(|id| id.ms > 20);
            prop_assert!(set.as_slice().iter().eq(&model));
        }
    }
}
