//! Rows of several sources, each in the order of the read, as one sequence in that order: without IO.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::StreamOrder;
use super::columns::Columns;
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
    pages: BTreeMap<usize, RecordBatch>,
    next_page: usize,
    /// The rows of the batch so far: those of pages, their IDs and streams, and the bytes that they
    /// took in replies.
    slices: Vec<(usize, Range<usize>)>,
    ids: Vec<EntryId>,
    runs: Vec<Run>,
    bytes: u64,
}

#[derive(Debug)]
enum Source {
    /// What comes next is not known.
    Dry {
        /// The key of the last row that was taken.
        after: Key,
    },
    Page(Page),
    Failed(Key),
    Ended,
}

/// The rows of a source that come next.
#[derive(Debug)]
struct Page {
    number: usize,
    ids: Vec<EntryId>,
    runs: Vec<Run>,
    row: usize,
    /// The place in `runs` of the row's stream.
    run: usize,
    row_bytes: u64,
}

impl Page {
    fn stream(&self) -> usize {
        self.runs.get(self.run).map_or(0, |run| run.stream)
    }

    /// The row after the last one of this row's stream.
    fn end_of_run(&self) -> usize {
        self.runs.get(self.run + 1).map_or(self.ids.len(), |run| run.row).min(self.ids.len())
    }

    fn key(&self, order: StreamOrder) -> Key {
        key(order, self.ids.get(self.row).copied().unwrap_or(EntryId::MAX), self.stream())
    }

    /// Goes on to that row.
    fn go_to(&mut self, row: usize) {
        self.row = row;
        while self.runs.get(self.run + 1).is_some_and(|run| run.row <= row) {
            self.run += 1;
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
    pub(super) fn new(order: StreamOrder, sources: usize, columns: Columns) -> Self {
        let dry = || Source::Dry { after: (EntryId::MIN, 0) };
        Weave {
            order,
            sources: (0..sources).map(|_| dry()).collect(),
            columns,
            pages: BTreeMap::new(),
            next_page: 0,
            slices: Vec::new(),
            ids: Vec::new(),
            runs: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn into_columns(self) -> Columns {
        self.columns
    }

    /// The rows of the batch so far, and the bytes that they took.
    pub(super) fn collected(&self) -> (usize, u64) {
        (self.ids.len(), self.bytes)
    }

    /// Rows of a source that is dry have come.
    pub(super) fn add(&mut self, source: usize, batch: Batch, bytes: u64) {
        if batch.is_empty() {
            return;
        }
        let number = self.next_page;
        self.next_page += 1;
        let row_bytes = bytes.div_ceil(batch.len() as u64);
        let (ids, runs) = (batch.ids().to_vec(), batch.runs().to_vec());
        self.pages.insert(number, batch.into_records());
        if let Some(source) = self.sources.get_mut(source) {
            *source = Source::Page(Page { number, ids, runs, row: 0, run: 0, row_bytes });
        }
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
                Source::Page(page) => page.key(self.order),
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
        let Source::Page(page) = source else { return Ok(0) };
        let first = page.row;
        let most = first.saturating_add(most).min(page.ids.len());
        let Some(records) = self.pages.get(&page.number) else { return Ok(0) };
        let mut last = page.key(order);
        while page.row < most {
            last = page.key(order);
            if page.row > first && until.is_some_and(|until| last > until) {
                break;
            }
            let (row, stream) = (page.row, page.stream());
            let end = match order {
                StreamOrder::ByStream => page.end_of_run().min(most),
                // Up to the first that comes after the other source's.
                StreamOrder::ById => {
                    let of_run = page.ids.get(row..page.end_of_run().min(most)).unwrap_or_default();
                    let before = |id: &EntryId| until.is_none_or(|until| (*id, stream) < until);
                    row + of_run.partition_point(before).max(1)
                }
            };
            if self.runs.last().is_none_or(|run| run.stream != stream) {
                self.runs.push(Run { row: self.ids.len() + (row - first), stream });
            }
            self.columns.look(records, row..end)?;
            page.go_to(end);
        }
        let rows = first..page.row;
        self.ids.extend_from_slice(page.ids.get(rows.clone()).unwrap_or_default());
        self.bytes += page.row_bytes.saturating_mul(rows.len() as u64);
        match self.slices.last_mut() {
            Some((number, before)) if *number == page.number && before.end == rows.start => {
                before.end = rows.end;
            }
            _ => self.slices.push((page.number, rows.clone())),
        }
        if page.row >= page.ids.len() {
            self.columns.look_at_rest(records)?;
            *source = Source::Dry { after: last };
        }
        Ok(rows.len())
    }

    /// The batch so far.
    pub(super) fn take(&mut self) -> Result<Batch> {
        let slices = std::mem::take(&mut self.slices);
        let (ids, runs) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.runs));
        self.bytes = 0;
        let records = self.columns.gather(&self.pages, &slices)?;
        let is_current = |number: usize| {
            let of =
                |source: &Source| matches!(source, Source::Page(page) if page.number == number);
            self.sources.iter().any(of)
        };
        self.pages.retain(|number, _| is_current(*number));
        Ok(Batch::new(records, ids, Vec::new()).with_runs(runs))
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
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;
    use arrow_array::{ArrayRef, UInt64Array};
    use proptest::prelude::*;

    use super::*;

    /// Rows `(stream, id)`, which are also the values of one column; in other pages it is another.
    fn page(rows: &[(usize, u64)], column: &str) -> Batch {
        let values: UInt64Array =
            rows.iter().map(|(stream, ms)| *stream as u64 * 100 + ms).collect();
        let records = RecordBatch::try_from_iter_with_nullable([(
            column,
            Arc::new(values) as ArrayRef,
            true,
        )])
        .unwrap();
        let ids = rows.iter().map(|(_, ms)| EntryId { ms: *ms, seq: 0 }).collect();
        let mut runs: Vec<Run> = Vec::new();
        for (row, (stream, _)) in rows.iter().enumerate() {
            if runs.last().is_none_or(|run| run.stream != *stream) {
                runs.push(Run { row, stream: *stream });
            }
        }
        Batch::new(records, ids, Vec::new()).with_runs(runs)
    }

    fn columns() -> Columns {
        let schema = StreamSchema::default().with_id_column(None).with_timestamp_column(None);
        Columns::new(&Arc::new(schema))
    }

    proptest! {
        /// As a sort of all rows, in whichever portions they come and are taken.
        #[test]
        fn rows_come_sorted(
            streams in prop::collection::vec(prop::collection::btree_set(0u64..60, 0..20), 0..8),
            nodes in prop::collection::vec(0usize..3, 8),
            by_id in any::<bool>(),
            pages in prop::collection::vec(1usize..9, 1..9),
            batches in prop::collection::vec(1usize..9, 1..9),
        ) {
            let order = if by_id { StreamOrder::ById } else { StreamOrder::ByStream };
            let sort = |rows: &mut Vec<(usize, u64)>| match by_id {
                true => rows.sort_by_key(|(stream, ms)| (*ms, *stream)),
                false => rows.sort(),
            };
            let mut sources = vec![Vec::new(); 3];
            for ((stream, ids), node) in streams.iter().enumerate().zip(&nodes) {
                sources[*node].extend(ids.iter().map(|ms| (stream, *ms)));
            }
            let mut expected: Vec<(usize, u64)> = sources.concat();
            sort(&mut expected);
            sources.iter_mut().for_each(sort);
            let mut weave = Weave::new(order, 3, columns());
            let (mut pages, mut batches) = (pages.iter().cycle(), batches.iter().cycle());
            let (mut got, mut values) = (Vec::new(), Vec::new());
            loop {
                let most = *batches.next().unwrap();
                let next = loop {
                    let room = most - weave.collected().0;
                    if room == 0 {
                        break Next::Rows(0);
                    }
                    match weave.take_next(room).unwrap() {
                        Next::Rows(rows) => prop_assert!((1..=room).contains(&rows)),
                        Next::Dry(source) => {
                            let rows = &mut sources[source];
                            let number = rows.len().min(*pages.next().unwrap());
                            match rows.drain(..number).collect::<Vec<_>>() {
                                rows if rows.is_empty() => weave.end(source),
                                rows => weave.add(source, page(&rows, &format!("of {source}")), 0),
                            }
                        }
                        other => break other,
                    }
                };
                let batch = weave.take().unwrap();
                prop_assert!(batch.len() <= most);
                for (run, end) in crate::decode::ends(batch.runs(), batch.len()) {
                    got.extend((run.row..end).map(|row| (run.stream, batch.ids()[row].ms)));
                }
                for row in 0..batch.len() {
                    let columns = batch.records().columns().iter().map(|c| c.as_primitive::<UInt64Type>());
                    values.extend(columns.filter_map(|c| c.iter().nth(row)).flatten());
                }
                if next == Next::End {
                    break;
                }
            }
            let of_rows: Vec<u64> = expected.iter().map(|(stream, ms)| *stream as u64 * 100 + ms).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(values, of_rows);
        }
    }

    #[test]
    fn a_failure_has_its_place_and_columns_come_as_they_are_met() {
        let mut weave = Weave::new(StreamOrder::ByStream, 2, columns());
        weave.add(0, page(&[(0, 1), (3, 1)], "y"), 20);
        weave.add(1, page(&[(1, 5), (1, 6)], "x"), 40);
        for rows in [1, 2] {
            assert_eq!(weave.take_next(9).unwrap(), Next::Rows(rows));
        }
        assert_eq!(weave.take_next(9).unwrap(), Next::Dry(1));
        assert_eq!(weave.collected(), (3, 50));
        weave.fail(1, Some(4));
        assert_eq!(weave.take_next(9).unwrap(), Next::Rows(1));
        assert_eq!(weave.take_next(9).unwrap(), Next::Dry(0));
        weave.end(0);
        assert_eq!(weave.take_next(9).unwrap(), Next::Failure(1));
        let batch = weave.take().unwrap();
        let names: Vec<_> =
            batch.records().schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["y", "x"]);
        assert_eq!(batch.records().column(1).null_count(), 2);
    }
}
