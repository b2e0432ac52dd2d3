//! What a commit writes of a table.

use super::index::Texts;

/// Fields of the table's hash: those to set, and those to delete.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// A key, and then its row.
    set: Texts,
    deleted: Texts,
}

impl Changes {
    pub(super) fn set(&mut self, key: &[u8], row: &[u8]) {
        self.set.push(key);
        self.set.push(row);
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        self.deleted.push(key);
    }

    /// Fields and their values, for HSET.
    pub(crate) fn sets(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        (0..self.set.len() / 2).map(|n| (self.set.get(2 * n), self.set.get(2 * n + 1)))
    }

    /// Fields, for HDEL.
    pub(crate) fn deletes(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.deleted.iter()
    }
}
