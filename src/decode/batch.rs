//! Whole entries as columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::take::take_record_batch;

use super::dictionaries::joined;
use super::primitive::internal;
use super::sources::{Run, ends, select, stream_at};
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
    /// Which of a read's streams it is of.
    pub(crate) stream: usize,
}

#[cfg(test)]
impl Rejected {
    pub(crate) fn new(id: EntryId, error: Arc<Error>, stream: usize) -> Self {
        Rejected { id, error, stream }
    }
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

    /// One batch of some with the same columns, one after the other.
    ///
    /// # Errors
    ///
    /// [`Internal`](crate::ErrorKind::Internal) where Arrow cannot put them together.
    pub(crate) fn joined(mut pieces: Vec<Batch>) -> Result<Self> {
        if pieces.len() <= 1
            && let Some(only) = pieces.pop()
        {
            return Ok(only);
        }
        let none = || SchemaRef::new(Schema::empty());
        let schema = pieces.first().map_or_else(none, |first| first.records.schema());
        let records: Vec<&RecordBatch> = pieces.iter().map(|piece| &piece.records).collect();
        let records = joined(&schema, &records)?;
        Ok(Batch::of_rows(pieces, records))
    }

    /// The rows, their IDs and their streams.
    pub(crate) fn into_parts(self) -> (RecordBatch, Vec<EntryId>, Vec<Run>) {
        (self.records, self.ids, self.runs)
    }

    /// The same rows with other columns.
    pub(crate) fn set_records(&mut self, records: RecordBatch) {
        self.records = records;
    }

    /// Which of a read's streams the rows are of, in the order of rows; empty where it has one.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The same rows of streams that have other numbers: these, by those that they had.
    pub(crate) fn renumbered(mut self, numbers: impl Fn(usize) -> usize) -> Self {
        if self.runs.is_empty() {
            self.runs.push(Run { row: 0, stream: 0 });
        }
        self.runs.iter_mut().for_each(|run| run.stream = numbers(run.stream));
        self.rejected.iter_mut().for_each(|entry| entry.stream = numbers(entry.stream));
        self
    }

    /// The rows of several batches, one after the other, whose columns together are these.
    pub(crate) fn of_rows(batches: Vec<Batch>, records: RecordBatch) -> Self {
        let is_counted = batches.iter().any(|batch| !batch.delivery_counts.is_empty());
        let mut all = Batch::new(records, Vec::new(), Vec::new());
        for batch in batches {
            let (before, rows) = (all.ids.len(), batch.len());
            for run in batch.runs.iter().filter(|run| run.row < rows) {
                if all.runs.last().is_none_or(|last| last.stream != run.stream) {
                    all.runs.push(Run { row: before + run.row, ..*run });
                }
            }
            if is_counted {
                let counts = batch.delivery_counts.into_iter().chain(std::iter::repeat(1));
                all.delivery_counts.extend(counts.take(rows));
            }
            all.ids.extend(batch.ids);
            all.deleted.extend(batch.deleted);
            all.rejected.extend(batch.rejected);
        }
        all
    }

    /// Leaves these rows out, which are in order.
    pub(super) fn reject(mut self, rejected: Vec<(usize, Error)>) -> Result<Self> {
        let mut rows = rejected.iter().map(|(row, _)| *row).peekable();
        let kept: Vec<usize> =
            (0..self.len()).filter(|row| rows.next_if_eq(row).is_none()).collect();
        let entry = |(row, error): (usize, Error)| Rejected {
            id: self.ids.get(row).copied().unwrap_or_default(),
            error: Arc::new(error),
            stream: stream_at(&self.runs, row),
        };
        let rejected = rejected.into_iter().map(entry).collect();
        self = self.select(&kept)?;
        self.rejected = rejected;
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

    /// Some of the rows, which follow one another; without a copy of their values. They are all of one
    /// stream.
    pub(crate) fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let end = rows.end.min(self.len());
        let start = rows.start.min(end);
        let ids = self.ids.get(start..end).unwrap_or_default().to_vec();
        Batch::new(self.records.slice(start, end - start), ids, Vec::new())
    }

    pub(crate) fn with_delivery_counts(mut self, counts: Vec<u64>) -> Self {
        self.delivery_counts = counts;
        self
    }

    /// Of each row the number of its stream, where a read has several: as they were listed, those that
    /// were found later after the others. Empty where it has one.
    pub fn streams(&self) -> Vec<usize> {
        let mut all = Vec::new();
        for (run, end) in ends(&self.runs, self.len()) {
            all.resize(end, run.stream);
        }
        all
    }

    /// The number of each stream that has rows here, once.
    #[cfg(feature = "python")]
    pub(crate) fn streams_in_order(&self) -> Vec<usize> {
        let mut streams = match self.runs.as_slice() {
            [] => vec![0],
            runs => ends(runs, self.len()).map(|(run, _)| run.stream).collect(),
        };
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    /// Which rows are of which stream; the streams in the order in which they appear.
    pub(crate) fn rows_by_stream(&self) -> Vec<(usize, Vec<usize>)> {
        let mut all: Vec<(usize, Vec<usize>)> = Vec::new();
        if self.runs.is_empty() {
            all.push((0, (0..self.len()).collect()));
            return all;
        }
        let mut places: HashMap<usize, usize> = HashMap::new();
        for (run, end) in ends(&self.runs, self.len()) {
            let place = *places.entry(run.stream).or_insert(all.len());
            match all.get_mut(place) {
                Some((_, rows)) => rows.extend(run.row..end),
                None => all.push((run.stream, (run.row..end).collect())),
            }
        }
        all
    }

    /// The IDs of these rows.
    pub(crate) fn ids_of(&self, rows: &[usize]) -> Vec<EntryId> {
        rows.iter().filter_map(|row| self.ids.get(*row).copied()).collect()
    }

    /// The rejected entries that pass.
    pub(crate) fn with_rejected(mut self, passes: impl Fn(&Rejected) -> bool) -> Self {
        self.rejected.retain(passes);
        self
    }

    /// These entries were left out.
    pub(crate) fn with_these_rejected(mut self, rejected: Vec<Rejected>) -> Self {
        self.rejected = rejected;
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
