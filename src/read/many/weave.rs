//! Rows of several sources, each in the order of the read, as one sequence in that order: without IO.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::StreamOrder;
use super::columns::{Columns, Unknown};
use crate::decode::{Batch, Run};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::schema::StreamSchema;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This number of rows was taken.
    Rows(usize),
    /// It is not known before something has come of this source.
    Dry(usize),
    /// Why this source has failed.
    Failure(usize),
    /// No source has more.
    End,
}

/// Where a row has its place: a later one is greater.
type Key = (EntryId, usize);

pub(super) struct Weave {
    order: StreamOrder,
    sources: Vec<Source>,
    columns: Columns,
    /// Those that a source or the batch so far has rows of.
    pages: BTreeMap<usize, Page>,
    next_page: usize,
    /// The batch so far: rows of pages, and the bytes that they took in replies.
    slices: Vec<Slice>,
    rows: usize,
    bytes: u64,
}

/// Rows of the page with this number.
type Slice = (usize, Range<usize>);

/// Rows of a source that came together.
struct Page {
    records: RecordBatch,
    ids: Vec<EntryId>,
    runs: Vec<Run>,
    row_bytes: u64,
}

#[derive(Debug)]
enum Source {
    /// What comes next is not known.
    Dry {
        /// The key of the last row that was taken.
        after: Key,
    },
    Page(Cursor),
    Failed(Key),
    Ended,
}

/// The row of a page that comes next.
#[derive(Debug)]
struct Cursor {
    page: usize,
    row: usize,
    /// The place of its stream in the page's runs.
    run: usize,
    key: Key,
    unknown: Unknown,
}

impl Page {
    fn key(&self, order: StreamOrder, row: usize, run: usize) -> Key {
        let stream = self.runs.get(run).map_or(0, |run| run.stream);
        key(order, self.ids.get(row).copied().unwrap_or(EntryId::MAX), stream)
    }

    /// The row after those of a run.
    fn end_of_run(&self, run: usize) -> usize {
        self.runs.get(run + 1).map_or(self.ids.len(), |next| next.row).min(self.ids.len())
    }

    /// Adds the streams of some rows to others.
    fn add_runs(&self, rows: &Range<usize>, before: usize, all: &mut Vec<Run>) {
        let first = self.runs.partition_point(|run| run.row <= rows.start).saturating_sub(1);
        let of_rows = self.runs.get(first..).unwrap_or_default();
        for run in of_rows.iter().take_while(|run| run.row < rows.end) {
            if all.last().is_none_or(|last| last.stream != run.stream) {
                let row = before + run.row.saturating_sub(rows.start);
                all.push(Run { row, stream: run.stream });
            }
        }
    }
}

fn key(order: StreamOrder, id: EntryId, stream: usize) -> Key {
    match order {
        // A stream has one source.
        StreamOrder::ByStream => (EntryId::MIN, stream),
        StreamOrder::ById => (id, stream),
    }
}

impl Weave {
    /// As many rows that came together are a piece of their own rather than copied.
    const PIECE: usize = 32 * 1024;

    pub(super) fn new(order: StreamOrder, sources: usize, columns: Columns) -> Self {
        let dry = || Source::Dry { after: (EntryId::MIN, 0) };
        Weave {
            order,
            sources: (0..sources).map(|_| dry()).collect(),
            columns,
            pages: BTreeMap::new(),
            next_page: 0,
            slices: Vec::new(),
            rows: 0,
            bytes: 0,
        }
    }

    pub(super) fn into_columns(self) -> Columns {
        self.columns
    }

    /// The rows of the batch so far, and the bytes that they took.
    pub(super) fn collected(&self) -> (usize, u64) {
        (self.rows, self.bytes)
    }

    /// Rows of a source that is dry have come.
    pub(super) fn add(&mut self, source: usize, batch: Batch, bytes: u64) {
        if batch.is_empty() {
            return;
        }
        let number = self.next_page;
        self.next_page += 1;
        let row_bytes = bytes.div_ceil(batch.len() as u64);
        let (records, ids, runs) = batch.into_parts();
        let unknown = self.columns.unknown_of(&records);
        let page = Page { records, ids, runs, row_bytes };
        if let Some(source) = self.sources.get_mut(source) {
            let key = page.key(self.order, 0, 0);
            *source = Source::Page(Cursor { page: number, row: 0, run: 0, key, unknown });
        }
        self.pages.insert(number, page);
    }

    /// A source that is dry has no more.
    pub(super) fn end(&mut self, source: usize) {
        if let Some(source) = self.sources.get_mut(source) {
            *source = Source::Ended;
        }
    }

    /// A source that is dry has failed, where it is known when it read this stream.
    pub(super) fn fail(&mut self, source: usize, stream: Option<usize>) {
        if let Some(source) = self.sources.get_mut(source)
            && let Source::Dry { after } = source
        {
            let of_stream = stream.map(|stream| key(self.order, EntryId::MIN, stream));
            *source = Source::Failed(of_stream.map_or(*after, |failed| failed.max(*after)));
        }
    }

    /// Takes the rows that come next from one source, no more than `most`.
    pub(super) fn take_next(&mut self, most: usize) -> Result<Next> {
        // The least key, and the one after it.
        let (mut least, mut second): (Option<(Key, usize)>, Option<Key>) = (None, None);
        for (index, source) in self.sources.iter().enumerate() {
            let key = match source {
                Source::Dry { .. } => return Ok(Next::Dry(index)),
                Source::Page(cursor) => cursor.key,
                Source::Failed(key) => *key,
                Source::Ended => continue,
            };
            match least {
                Some((other, _)) if other <= key => {
                    second = Some(second.map_or(key, |second| second.min(key)));
                }
                other => {
                    second = other.map(|(key, _)| key).or(second);
                    least = Some((key, index));
                }
            }
        }
        let Some((_, index)) = least else { return Ok(Next::End) };
        match self.sources.get_mut(index) {
            Some(Source::Page(_)) => self.take_from(index, second, most).map(Next::Rows),
            _ => Ok(Next::Failure(index)),
        }
    }

    /// Takes rows of a source up to that key of another.
    fn take_from(&mut self, index: usize, until: Option<Key>, most: usize) -> Result<usize> {
        let order = self.order;
        let Some(source) = self.sources.get_mut(index) else { return Ok(0) };
        let Source::Page(cursor) = source else { return Ok(0) };
        let Some(page) = self.pages.get(&cursor.page) else { return Ok(0) };
        let first = cursor.row;
        let most = first.saturating_add(most).min(page.ids.len());
        let mut last = cursor.key;
        while cursor.row < most {
            let key = page.key(order, cursor.row, cursor.run);
            if cursor.row > first && until.is_some_and(|until| key > until) {
                break;
            }
            last = key;
            let end_of_run = page.end_of_run(cursor.run);
            let end = end_of_run.min(most);
            cursor.row = match order {
                StreamOrder::ByStream => end,
                // Up to the first that comes after the other source's.
                StreamOrder::ById => {
                    let of_run = page.ids.get(cursor.row..end).unwrap_or_default();
                    let before = |id: &EntryId| until.is_none_or(|until| (*id, key.1) < until);
                    cursor.row + of_run.partition_point(before).max(1)
                }
            };
            cursor.run += usize::from(cursor.row >= end_of_run);
        }
        cursor.key = page.key(order, cursor.row, cursor.run);
        self.columns.look(&page.records, &mut cursor.unknown, cursor.row)?;
        let (number, rows) = (cursor.page, first..cursor.row);
        let taken = rows.len();
        self.rows += taken;
        self.bytes += page.row_bytes.saturating_mul(taken as u64);
        match self.slices.last_mut() {
            Some((last, before)) if *last == number && before.end == rows.start => {
                before.end = rows.end;
            }
            _ => self.slices.push((number, rows)),
        }
        if cursor.row >= page.ids.len() {
            self.columns.look_at_rest(&page.records)?;
            *source = Source::Dry { after: last };
        }
        Ok(taken)
    }

    /// The batch so far.
    pub(super) fn take(&mut self) -> Result<Batch> {
        let slices = std::mem::take(&mut self.slices);
        let batch = self.gather(&slices)?;
        self.forget_taken();
        Ok(batch)
    }

    /// The batch so far, in pieces: where many rows come from one page, they are not copied.
    pub(super) fn take_pieces(&mut self) -> Result<Vec<Batch>> {
        let slices = std::mem::take(&mut self.slices);
        let (mut pieces, mut rest) = (Vec::new(), slices.as_slice());
        while let Some((_, first)) = rest.first() {
            let is_small = |(_, rows): &&Slice| rows.len() < Self::PIECE;
            let number = match first.len() >= Self::PIECE {
                true => 1,
                false => rest.iter().take_while(is_small).count(),
            };
            let (piece, after) = rest.split_at(number);
            pieces.push(self.gather(piece)?);
            rest = after;
        }
        if pieces.is_empty() {
            pieces.push(self.gather(&[])?);
        }
        self.forget_taken();
        Ok(pieces)
    }

    /// These rows as a batch.
    fn gather(&mut self, slices: &[Slice]) -> Result<Batch> {
        let pages = &self.pages;
        let page_of = |number: usize| pages.get(&number).map(|page| &page.records);
        let records = self.columns.gather(page_of, slices)?;
        let (mut ids, mut runs) = (Vec::new(), Vec::new());
        for (number, rows) in slices {
            let Some(page) = self.pages.get_mut(number) else { continue };
            page.add_runs(rows, ids.len(), &mut runs);
            match slices.len() == 1 && rows.len() == page.ids.len() {
                // They are not taken again.
                true => ids = std::mem::take(&mut page.ids),
                false => ids.extend_from_slice(page.ids.get(rows.clone()).unwrap_or_default()),
            }
        }
        Ok(Batch::new(records, ids, Vec::new()).with_runs(runs))
    }

    /// What was taken belongs to no batch any more.
    fn forget_taken(&mut self) {
        (self.rows, self.bytes) = (0, 0);
        let is_current = |number: usize| {
            let of = |source: &Source| matches!(source, Source::Page(at) if at.page == number);
            self.sources.iter().any(of)
        };
        self.pages.retain(|number, _| is_current(*number));
    }
}

/// Batches one after the other, whose columns are those of any.
pub(super) fn concat(schema: &Arc<StreamSchema>, batches: Vec<Batch>) -> Result<Batch> {
    // One source, whatever its order is.
    let mut weave = Weave::new(StreamOrder::ByStream, 1, Columns::new(schema));
    for batch in batches {
        weave.add(0, batch, 0);
        while let Next::Rows(_) = weave.take_next(usize::MAX)? {}
    }
    weave.take()
}

#[cfg(test)]
mod tests;
