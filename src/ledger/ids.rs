//! Sets of entry IDs.

use std::collections::VecDeque;

use crate::entry_id::EntryId;

/// A set of entry IDs, in order. Streams give IDs in order, so that most of them go to the end; they
/// leave in any order, one by one perhaps. So it is kept in chunks: no single ID moves more than its
/// chunk.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdSet {
    /// Each in order, after the one before it, and not empty.
    chunks: VecDeque<Vec<EntryId>>,
    len: usize,
}

impl IdSet {
    /// The most IDs in a chunk.
    const CHUNK: usize = 512;

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = EntryId> {
        self.chunks.iter().flatten().copied()
    }

    pub(crate) fn first(&self) -> Option<EntryId> {
        self.chunks.front()?.first().copied()
    }

    pub(crate) fn last(&self) -> Option<EntryId> {
        self.chunks.back()?.last().copied()
    }

    /// The chunk that has this ID, or would have it; the number of chunks where all IDs are smaller.
    fn chunk_of(&self, id: EntryId) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| *last < id))
    }

    /// The greatest one that is smaller than `id`.
    pub(crate) fn last_before(&self, id: EntryId) -> Option<EntryId> {
        let at = self.chunk_of(id);
        let within = self.chunks.get(at).and_then(|chunk| {
            let end = chunk.partition_point(|one| *one < id);
            chunk.get(..end)?.last()
        });
        let before = || self.chunks.get(at.checked_sub(1)?)?.last();
        within.or_else(before).copied()
    }

    pub(crate) fn contains(&self, id: EntryId) -> bool {
        self.last().is_some_and(|last| id <= last)
            && self.chunks.get(self.chunk_of(id)).is_some_and(|ids| ids.binary_search(&id).is_ok())
    }

    pub(crate) fn insert(&mut self, id: EntryId) {
        let at = match self.last() {
            Some(last) if id <= last => self.chunk_of(id),
            _ => return self.push(id),
        };
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let Err(place) = chunk.binary_search(&id) else { return };
        chunk.insert(place, id);
        self.len += 1;
        if chunk.len() > Self::CHUNK {
            let rest = chunk.split_off(Self::CHUNK / 2);
            self.chunks.insert(at + 1, rest);
        }
    }

    /// Adds an ID that is greater than all others.
    fn push(&mut self, id: EntryId) {
        match self.chunks.back_mut().filter(|chunk| chunk.len() < Self::CHUNK) {
            Some(chunk) => chunk.push(id),
            None => self.chunks.push_back(vec![id]),
        }
        self.len += 1;
    }

    /// Adds IDs in any order.
    pub(crate) fn extend(&mut self, ids: &[EntryId]) {
        for id in ids {
            self.insert(*id);
        }
    }

    /// Adds the IDs of another set.
    pub(crate) fn append(&mut self, other: IdSet) {
        match self.is_empty() {
            true => *self = other,
            false => other.iter().for_each(|id| self.insert(id)),
        }
    }

    /// Takes IDs out, in any order; those that are not in it are no matter.
    pub(crate) fn remove(&mut self, ids: &[EntryId]) {
        let (Some(first), Some(last)) = (self.first(), self.last()) else { return };
        let mut ids: Vec<EntryId> =
            ids.iter().copied().filter(|id| (first..=last).contains(id)).collect();
        ids.sort_unstable();
        let mut rest = ids.as_slice();
        while let Some(id) = rest.first() {
            let at = self.chunk_of(*id);
            let Some(chunk) = self.chunks.get_mut(at) else { return };
            let end = chunk.last().map_or(0, |last| rest.partition_point(|id| id <= last));
            let (gone, others) = rest.split_at(end);
            rest = others;
            let before = chunk.len();
            match gone {
                [id] => drop(chunk.binary_search(id).map(|place| chunk.remove(place))),
                gone => {
                    let mut gone = gone.iter().peekable();
                    chunk.retain(|id| {
                        while gone.next_if(|gone| *gone < id).is_some() {}
                        gone.peek() != Some(&id)
                    });
                }
            }
            self.len -= before - chunk.len();
            if chunk.is_empty() {
                self.chunks.remove(at);
            } else if chunk.len() < Self::CHUNK / 4 {
                // Few may stay for long.
                chunk.shrink_to_fit();
            }
        }
    }

    /// Forgets the IDs up to this one.
    pub(crate) fn remove_up_to(&mut self, id: EntryId) {
        while let Some(chunk) = self.chunks.front_mut() {
            let end = chunk.partition_point(|one| *one <= id);
            self.len -= end;
            if end < chunk.len() {
                chunk.drain(..end);
                return;
            }
            self.chunks.pop_front();
        }
    }

    /// Forgets the first `number` IDs; returns the very first.
    pub(crate) fn take_first(&mut self, number: usize) -> Option<EntryId> {
        let last = self.iter().nth(number.checked_sub(1)?)?;
        let first = self.first();
        self.remove_up_to(last);
        first
    }

    pub(crate) fn clear(&mut self) {
        *self = IdSet::default();
    }
}

impl From<Vec<EntryId>> for IdSet {
    fn from(mut ids: Vec<EntryId>) -> Self {
        ids.sort_unstable();
        let mut set = IdSet::default();
        set.extend(&ids);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn id(number: u64) -> EntryId {
        EntryId::new(number, 0)
    }

    /// Some IDs, or all between two, which take several chunks.
    fn ids() -> impl Strategy<Value = Vec<u64>> {
        let range =
            (0u64..2_000, 0u64..1_500).prop_map(|(from, number)| (from..from + number).collect());
        prop_oneof![3 => vec(0u64..2_000, 0..40), 1 => range]
    }

    proptest! {
        #[test]
        fn does_as_any_set_does(
            steps in vec((any::<bool>(), ids()), 0..12), up_to in 0u64..2_000, first in 0usize..1_000,
        ) {
            let (mut set, mut model) = (IdSet::default(), BTreeSet::new());
            for (adds, numbers) in steps {
                let ids: Vec<EntryId> = numbers.iter().copied().map(id).collect();
                if adds {
                    set.extend(&ids);
                    model.extend(ids);
                } else {
                    set.remove(&ids);
                    model.retain(|id| !ids.contains(id));
                }
                prop_assert!(set.iter().eq(model.iter().copied()));
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.is_empty(), model.is_empty());
                prop_assert_eq!(set.first(), model.first().copied());
                prop_assert_eq!(set.last(), model.last().copied());
                for n in numbers.iter().flat_map(|n| [n.saturating_sub(1), *n, n + 1]) {
                    prop_assert_eq!(set.contains(id(n)), model.contains(&id(n)));
                    let before = model.range(..id(n)).next_back().copied();
                    prop_assert_eq!(set.last_before(id(n)), before);
                }
                let backwards: Vec<EntryId> = model.iter().rev().copied().collect();
                prop_assert!(IdSet::from(backwards).iter().eq(set.iter()));
            }
            set.remove_up_to(id(up_to));
            model.retain(|one| *one > id(up_to));
            prop_assert!(set.iter().eq(model.iter().copied()));
            let taken: Vec<EntryId> = model.iter().take(first.min(model.len())).copied().collect();
            prop_assert_eq!(set.take_first(taken.len()), taken.first().copied());
            prop_assert!(set.iter().eq(model.iter().skip(taken.len()).copied()));
            prop_assert_eq!(set.len(), model.len() - taken.len());
        }
    }

    /// What takes so long for each ID that it shows where there are many: 0.1 s in a debug build, and
    /// minutes where each moves all others.
    #[test]
    fn ids_come_and_leave_in_any_order() {
        const NUMBER: u64 = 300_000;
        // A prime that does not divide the number: each comes once.
        let mixed = |n: u64| n * 7_919 % NUMBER;
        let begun = std::time::Instant::now();
        let orders: [&dyn Fn(u64) -> u64; 3] = [&|n| n, &|n| NUMBER - 1 - n, &mixed];
        for order in orders {
            let mut set = IdSet::default();
            (0..NUMBER).for_each(|n| set.extend(&[id(order(n))]));
            assert_eq!(set.len(), 300_000);
            (0..NUMBER).for_each(|n| set.remove(&[id(order(n))]));
            assert!(set.is_empty() && set.chunks.is_empty());
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}
