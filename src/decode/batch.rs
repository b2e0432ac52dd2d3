//! Whole entries as columns.

use arrow_array::RecordBatch;

use crate::entry_id::EntryId;

/// Whole entries, in stream order, as columns; and their IDs.
#[derive(Debug, Clone)]
pub struct Batch {
    records: RecordBatch,
    ids: Vec<EntryId>,
    deleted: Vec<EntryId>,
}

impl Batch {
    pub(crate) fn new(records: RecordBatch, ids: Vec<EntryId>, deleted: Vec<EntryId>) -> Self {
        Batch { records, ids, deleted }
    }

    /// The columns.
    pub fn records(&self) -> &RecordBatch {
        &self.records
    }

    /// The columns alone.
    pub fn into_records(self) -> RecordBatch {
        self.records
    }

    /// The entry ID of each row.
    pub fn ids(&self) -> &[EntryId] {
        &self.ids
    }

    /// Pending entries that came without fields because they were deleted from the stream.
    pub fn deleted(&self) -> &[EntryId] {
        &self.deleted
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.records.num_rows()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
