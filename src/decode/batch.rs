//! Whole entries as columns.

use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;

use super::primitive::internal;
use super::sources::{Run, select};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};

/// Whole entries, in stream order, as columns; and their IDs.
#[derive(Debug, Clone)]
pub struct Batch {
    records: RecordBatch,
    ids: Vec<EntryId>,
    deleted: Vec<EntryId>,
    rejected: Vec<Rejected>,
    delivery_counts: Vec<u64>,
    /// Which streams the rows are of, where that matters.
    runs: Vec<Run>,
}

/// An entry that was left out of a batch because it does not fit the schema.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rejected {
    /// Which entry.
    pub id: EntryId,
    /// Why.
    pub error: Arc<Error>,
}

impl Batch {
    pub(crate) fn new(records: RecordBatch, ids: Vec<EntryId>, deleted: Vec<EntryId>) -> Self {
        Batch {
            records,
            ids,
            deleted,
            rejected: Vec::new(),
            delivery_counts: Vec::new(),
            runs: Vec::new(),
        }
    }

    pub(crate) fn with_runs(mut self, runs: Vec<Run>) -> Self {
        self.runs = runs;
        self
    }

    /// Which of a read's streams the rows are of, in the order of rows; empty where it has one.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Leaves these rows out, which are in order.
    pub(super) fn reject(mut self, rejected: Vec<(usize, Error)>) -> Result<Self> {
        let mut rows = rejected.iter().map(|(row, _)| *row).peekable();
        let kept: Vec<usize> =
            (0..self.len()).filter(|row| rows.next_if_eq(row).is_none()).collect();
        let ids = rejected.iter().map(|(row, _)| self.ids.get(*row).copied().unwrap_or_default());
        let ids: Vec<EntryId> = ids.collect();
        let errors = rejected.into_iter().map(|(_, error)| Arc::new(error));
        self = self.select(&kept)?;
        self.rejected =
            ids.into_iter().zip(errors).map(|(id, error)| Rejected { id, error }).collect();
        Ok(self)
    }

    /// These rows, in this order.
    pub(crate) fn select(mut self, rows: &[usize]) -> Result<Self> {
        let indices: UInt32Array = rows.iter().map(|row| u32::try_from(*row).ok()).collect();
        self.records = take_record_batch(&self.records, &indices).map_err(internal)?;
        self.ids = rows.iter().filter_map(|row| self.ids.get(*row).copied()).collect();
        let counts = rows.iter().filter_map(|row| self.delivery_counts.get(*row).copied());
        self.delivery_counts = counts.collect();
        if !self.runs.is_empty() {
            self.runs = select(&self.runs, rows);
        }
        Ok(self)
    }

    pub(crate) fn with_delivery_counts(mut self, counts: Vec<u64>) -> Self {
        self.delivery_counts = counts;
        self
    }

    /// The rejected entries that pass.
    pub(crate) fn with_rejected(mut self, passes: impl Fn(EntryId) -> bool) -> Self {
        self.rejected.retain(|rejected| passes(rejected.id));
        self
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

    /// Entries that were left out because they do not fit the schema, where
    /// [`OnError::Reject`](crate::OnError::Reject) asks for that.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// How often each row has been delivered, this time included; empty where that is not asked
    /// for, or where it is the first time for all.
    pub fn delivery_counts(&self) -> &[u64] {
        &self.delivery_counts
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
