//! A page, as far as it is not committed: pure, without IO.

use std::ops::Range;
use std::sync::Arc;

use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::process::page::Page;

/// What is left of a page.
#[derive(Debug)]
pub(super) struct Rest {
    page: Arc<Batch>,
    /// The position at which what is left begins.
    from: EntryId,
    /// The first row that is left.
    row: usize,
    last: EntryId,
    /// It was planned as one batch, and stays one.
    is_whole: bool,
}

impl Rest {
    /// Of a page that was read from this position on.
    pub(super) fn of(page: Page, from: EntryId, is_whole: bool) -> Self {
        Rest { page: Arc::new(page.batch), from, row: 0, last: page.last, is_whole }
    }

    /// The position at which what is left begins.
    pub(super) fn from(&self) -> EntryId {
        self.from
    }

    /// Where the page ends.
    pub(super) fn last(&self) -> EntryId {
        self.last
    }

    /// All rows of the page, and the first of them that is left.
    pub(super) fn page(&self) -> (&Arc<Batch>, usize) {
        (&self.page, self.row)
    }

    /// The next batch, of no more than so many rows, and where it ends.
    pub(super) fn batch(&self, rows: usize) -> (Batch, EntryId) {
        let most = if self.is_whole { usize::MAX } else { rows.max(1) };
        part(&self.page, self.row..self.row.saturating_add(most), self.last)
    }

    /// What was committed up to there is left no more; `None` once nothing is.
    pub(super) fn after(mut self, to: EntryId) -> Option<Self> {
        if to == self.last {
            return None;
        }
        self.row = self.page.ids().partition_point(|id| *id <= to);
        self.from = to;
        Some(self)
    }
}

/// Some rows of a batch that ends at `last`, with the entries that were rejected among them; and where
/// these rows end.
pub(super) fn part(batch: &Batch, rows: Range<usize>, last: EntryId) -> (Batch, EntryId) {
    let ids = batch.ids();
    let before = rows.start.checked_sub(1).and_then(|row| ids.get(row)).copied();
    let is_last = rows.end >= batch.len();
    let end = match rows.end.checked_sub(1).and_then(|row| ids.get(row)) {
        Some(id) if !is_last => *id,
        _ => last,
    };
    let among = |id: EntryId| before.is_none_or(|before| id > before) && (is_last || id <= end);
    let rejected = batch.rejected().iter().filter(|entry| among(entry.id)).cloned().collect();
    (batch.part(rows).with_these_rejected(rejected), end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatch};

    use super::*;
    use crate::decode::Rejected;
    use crate::error::Error;

    fn id(number: u64) -> EntryId {
        EntryId::new(number, 0)
    }

    /// Rows of these entries, and others that were rejected.
    fn page(rows: &[u64], rejected: &[u64], last: u64) -> Page {
        let column = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| *row as i64)));
        let records = RecordBatch::try_from_iter([("n", column as _)]).unwrap();
        let ids = rows.iter().copied().map(id).collect();
        let error = Arc::new(Error::invalid("x"));
        let rejected =
            rejected.iter().map(|number| Rejected::new(id(*number), Arc::clone(&error), 0));
        let batch = Batch::new(records, ids, Vec::new()).with_these_rejected(rejected.collect());
        Page { batch, after: id(0), last: id(last) }
    }

    fn numbers(batch: &Batch) -> (Vec<u64>, Vec<u64>) {
        let ms = |id: &EntryId| id.ms;
        let rejected = batch.rejected().iter().map(|entry| entry.id.ms).collect();
        (batch.ids().iter().map(ms).collect(), rejected)
    }

    #[test]
    fn a_page_is_handed_out_batch_by_batch_each_rejected_entry_once() {
        for size in 1..=6 {
            let mut rest = Some(Rest::of(page(&[2, 4, 5, 8], &[1, 3, 6, 7, 9], 9), id(0), false));
            let (mut rows, mut rejected, mut position) = (Vec::new(), Vec::new(), id(0));
            while let Some(left) = rest {
                assert_eq!(left.from(), position);
                let (batch, end) = left.batch(size);
                assert!(batch.len() <= size && end > position);
                let (these, those) = numbers(&batch);
                assert!(those.iter().all(|number| id(*number) > position && id(*number) <= end));
                rows.extend(these);
                rejected.extend(those);
                position = end;
                rest = left.after(end);
            }
            assert_eq!((rows, rejected), (vec![2, 4, 5, 8], vec![1, 3, 6, 7, 9]));
            assert_eq!(position, id(9));
        }
    }

    #[test]
    fn what_was_planned_is_one_batch() {
        let rest = Rest::of(page(&[1, 2, 3], &[], 7), id(0), true);
        let (batch, end) = rest.batch(1);
        assert_eq!((numbers(&batch).0, end), (vec![1, 2, 3], id(7)));
        assert!(rest.after(end).is_none());
    }

    #[test]
    fn a_part_may_be_committed_alone() {
        let rest = Rest::of(page(&[1, 2, 3, 4], &[], 4), id(0), false);
        let (batch, end) = rest.batch(4);
        let (half, middle) = part(&batch, 0..2, end);
        assert_eq!((numbers(&half).0, middle), (vec![1, 2], id(2)));
        let rest = rest.after(middle).unwrap();
        assert_eq!(rest.from(), id(2));
        assert_eq!(numbers(&rest.batch(4).0).0, [3, 4]);
    }

    #[test]
    fn a_stream_that_was_begun_anew_has_smaller_ids_than_the_position() {
        let rest = Rest::of(page(&[1, 2, 3], &[], 3), id(90), false);
        let (batch, end) = rest.batch(2);
        assert_eq!((numbers(&batch).0, end), (vec![1, 2], id(2)));
        let rest = rest.after(end).unwrap();
        assert_eq!((rest.from(), numbers(&rest.batch(2).0).0), (id(2), vec![3]));
    }

    #[test]
    fn a_page_may_have_no_row_at_all() {
        let rest = Rest::of(page(&[], &[3], 3), id(0), false);
        let (batch, end) = rest.batch(5);
        assert_eq!((numbers(&batch), end), ((vec![], vec![3]), id(3)));
    }
}
