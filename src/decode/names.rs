//! The names of columns: each kept once, in one buffer, and found by its bytes.
//!
//! An open schema learns a name with each new field, and a reader keeps what it has learnt for as
//! long as it reads. So a name takes little more than its own bytes here: no allocation of its own.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

#[derive(Debug, Default)]
pub(crate) struct Names {
    text: String,
    /// Where each name ends in the text.
    ends: Vec<usize>,
    table: HashTable<u32>,
    hasher: RandomState,
    weight: usize,
}

impl Names {
    /// A longer name counts as several columns, so that a bound on columns bounds their names too.
    const LONG: usize = 100;

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// How many columns a name counts as.
    pub(crate) fn weight_of(name: &[u8]) -> usize {
        name.len().div_ceil(Self::LONG).max(1)
    }

    /// How many columns all names count as.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn get(&self, index: usize) -> &str {
        part(&self.text, &self.ends, index)
    }

    #[inline(always)]
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        let is_it = |index: &u32| self.get(*index as usize).as_bytes() == name;
        self.table.find(self.hasher.hash_one(name), is_it).map(|index| *index as usize)
    }

    /// Adds a name that is not there yet, and gives its index.
    pub(crate) fn push(&mut self, name: &str) -> usize {
        let index = self.ends.len();
        self.text.push_str(name);
        self.ends.push(self.text.len());
        self.weight += Self::weight_of(name.as_bytes());
        let hash = self.hasher.hash_one(name.as_bytes());
        let Names { text, ends, table, hasher, .. } = self;
        let rehash = |index: &u32| hasher.hash_one(part(text, ends, *index as usize).as_bytes());
        // More than four billion names do not fit into memory.
        table.insert_unique(hash, index as u32, rehash);
        index
    }

    /// Forgets all names from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        for index in len..self.ends.len() {
            let name = self.get(index);
            let (hash, weight) =
                (self.hasher.hash_one(name.as_bytes()), Self::weight_of(name.as_bytes()));
            self.weight -= weight;
            if let Ok(entry) = self.table.find_entry(hash, |other| *other as usize == index) {
                entry.remove();
            }
        }
        self.ends.truncate(len);
        self.text.truncate(self.ends.last().copied().unwrap_or_default());
    }

    /// Gives memory back that growing has left over.
    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

fn part<'a>(text: &'a str, ends: &[usize], index: usize) -> &'a str {
    let start = index.checked_sub(1).and_then(|before| ends.get(before)).copied();
    let (start, end) = (start.unwrap_or_default(), ends.get(index).copied().unwrap_or_default());
    text.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_until_they_are_forgotten() {
        let mut names = Names::default();
        for n in 0..1000 {
            assert_eq!(names.find(format!("n{n}").as_bytes()), None);
            assert_eq!(names.push(&format!("n{n}")), n);
        }
        assert_eq!(
            (names.find(b"n999"), names.get(999), names.weight()),
            (Some(999), "n999", 1000)
        );
        names.truncate(10);
        assert_eq!((names.find(b"n9"), names.find(b"n10"), names.len()), (Some(9), None, 10));
        assert_eq!(names.push(&"x".repeat(101)), 10);
        assert_eq!(names.push(""), 11);
        assert_eq!((names.find(b""), names.get(11), names.weight()), (Some(11), "", 13));
        names.truncate(0);
        assert_eq!((names.find(b"n0"), names.len(), names.weight()), (None, 0, 0));
    }
}
