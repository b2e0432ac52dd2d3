//! Which row is whose: a table's keys, each kept once, and found by its text.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// Texts in one buffer.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
    }

    /// Appends one that `write` makes.
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn get(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(number).copied().unwrap_or_default();
        self.bytes.get(start.unwrap_or_default()..end).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|number| self.get(number))
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().copied().unwrap_or_default());
    }
}

/// The slot of a key that has no row.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// A table's keys. Each has a number, and the slot of its row, if it has one.
#[derive(Debug, Default)]
pub(super) struct Index {
    texts: Texts,
    slots: Vec<u32>,
    numbers: HashTable<u32>,
    hasher: RandomState,
    live: usize,
}

impl Index {
    pub(super) fn with_capacity(keys: usize) -> Self {
        Index { numbers: HashTable::with_capacity(keys), ..Index::default() }
    }

    /// How many keys there have been.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many of them have a row.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn text(&self, number: u32) -> &[u8] {
        self.texts.get(number as usize)
    }

    pub(super) fn slot(&self, number: u32) -> u32 {
        self.slots.get(number as usize).copied().unwrap_or(NO_SLOT)
    }

    /// The slot of a key's row.
    pub(super) fn find_slot(&self, text: &[u8]) -> Option<u32> {
        self.find(text).map(|number| self.slot(number)).filter(|slot| *slot != NO_SLOT)
    }

    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        let is_it = |number: &u32| self.texts.get(*number as usize) == text;
        self.numbers.find(self.hasher.hash_one(text), is_it).copied()
    }

    /// The number of a key, which may be new.
    pub(super) fn add(&mut self, text: &[u8]) -> u32 {
        if let Some(number) = self.find(text) {
            return number;
        }
        // Four billion keys do not fit into memory.
        let number = self.slots.len() as u32;
        self.texts.push(text);
        self.slots.push(NO_SLOT);
        let hash = self.hasher.hash_one(text);
        let Index { texts, numbers, hasher, .. } = self;
        let rehash = |number: &u32| hasher.hash_one(texts.get(*number as usize));
        numbers.insert_unique(hash, number, rehash);
        number
    }

    /// Gives a key another slot; returns the one that it had.
    pub(super) fn set(&mut self, number: u32, slot: u32) -> u32 {
        let Some(held) = self.slots.get_mut(number as usize) else {
            return NO_SLOT;
        };
        let before = std::mem::replace(held, slot);
        self.live = self.live + usize::from(slot != NO_SLOT) - usize::from(before != NO_SLOT);
        before
    }

    /// The keys that have rows, in the order in which they came.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let numbered = (0..).zip(self.slots.iter().copied());
        numbered.filter(|(_, slot)| *slot != NO_SLOT)
    }

    /// Forgets the keys from this number on, which have no rows.
    pub(super) fn truncate(&mut self, len: usize) {
        for number in len..self.len() {
            let hash = self.hasher.hash_one(self.texts.get(number));
            if let Ok(entry) = self.numbers.find_entry(hash, |other| *other as usize == number) {
                entry.remove();
            }
        }
        self.texts.truncate(len);
        self.slots.truncate(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_numbers_until_they_are_forgotten() {
        let mut index = Index::with_capacity(2);
        for n in 0..1000_u32 {
            assert_eq!(index.find(format!("k{n}").as_bytes()), None);
            assert_eq!(index.add(format!("k{n}").as_bytes()), n);
            assert_eq!(index.set(n, n + 1), NO_SLOT);
        }
        assert_eq!((index.add(b"k7"), index.len(), index.live()), (7, 1000, 1000));
        assert_eq!((index.set(7, NO_SLOT), index.live(), index.find_slot(b"k7")), (8, 999, None));
        assert_eq!((index.set(7, NO_SLOT), index.live()), (NO_SLOT, 999));
        assert_eq!(index.keys().nth(7), Some((8, 9)));
        for n in 500..1000 {
            index.set(n, NO_SLOT);
        }
        index.truncate(500);
        assert_eq!((index.len(), index.live(), index.find(b"k500")), (500, 499, None));
        assert_eq!(
            (index.find(b"k499"), index.add(b""), index.text(500)),
            (Some(499), 500, &b""[..])
        );
    }
}
