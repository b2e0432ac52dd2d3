//! What streams hold of some rows, and what follows for the others.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::InFlight;
use crate::entry_id::EntryId;
use crate::write::rows::{Row, RowState};

/// What streams hold of some rows.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::write) struct Found {
    /// The first row that is not in, or the end of the rows.
    pub(in crate::write) next: usize,
    /// Rows that are not there although a later one of their stream is.
    pub(in crate::write) missing: Option<Range<usize>>,
}

impl InFlight {
    /// Streams hold these IDs, by the streams' keys, of the rows in the range: those are added, `all` of
    /// them, or those before the first that is not in. Where the write `trims`, a row may be gone that
    /// was in.
    pub(in crate::write) fn found(
        &mut self,
        range: Range<usize>,
        held: &HashSet<(usize, EntryId)>,
        trims: bool,
        all: bool,
    ) -> Found {
        let is_held = |row: &Row| row.own.is_some_and(|id| held.contains(&(row.key, id)));
        let is_added = |row: &Row| matches!(row.state, RowState::Added(_));
        // The server takes commands in order: what comes before a row of the same stream that is there
        // was there. Unless something removes entries, which this write may do itself.
        let mut last: HashMap<usize, usize> = HashMap::new();
        for (row, number) in self.rows(range.clone()).zip(range.clone()) {
            if is_held(row) || is_added(row) {
                last.insert(row.key, number);
            }
        }
        let was_there =
            |row: &Row, number: usize| last.get(&row.key).is_some_and(|last| number <= *last);
        let (mut next, mut missing) = (range.end, None::<Range<usize>>);
        for (row, number) in self.rows(range.clone()).zip(range.clone()) {
            if matches!(row.state, RowState::Added(_) | RowState::NotAdded) || is_held(row) {
                continue;
            }
            match was_there(row, number) {
                false => next = next.min(number),
                true if trims => {}
                true => {
                    missing = Some(missing.map_or(number, |rows| rows.start)..number + 1);
                }
            }
        }
        let added = range.start..if all { range.end } else { next };
        let mut ends = Vec::new();
        for (row, number) in self.rows_mut(added.clone()).zip(added) {
            if let (Some(id), RowState::Unanswered | RowState::Refused) = (row.own, row.state)
                && (is_held(row) || trims && was_there(row, number))
            {
                row.state = RowState::Added(id);
                ends.push((row.key, id));
            }
        }
        self.control.add_rows(ends.len() as u64);
        ends.into_iter().for_each(|(key, id)| self.ends.acknowledged(key, id));
        Found { next, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LENGTH, pushed};
    use super::*;

    /// Rows of two streams in turns, with IDs of their own, of which the first has the answer `state`.
    fn of_two_streams(rows: usize, state: RowState) -> InFlight {
        let mut in_flight = pushed(rows);
        for (index, row) in in_flight.rows_mut(0..rows).enumerate() {
            row.key = index % 2;
            row.own = Some(EntryId::new(index as u64, 1));
        }
        in_flight.note_sent(rows * LENGTH);
        in_flight.rows_mut(0..1).for_each(|row| row.state = state);
        in_flight
    }

    fn held(rows: &[usize]) -> HashSet<(usize, EntryId)> {
        rows.iter().map(|row| (row % 2, EntryId::new(*row as u64, 1))).collect()
    }

    fn added(in_flight: &InFlight, rows: usize) -> Vec<usize> {
        let is_added = |(_, row): &(usize, &Row)| matches!(row.state, RowState::Added(_));
        let rows = (0..).zip(in_flight.rows(0..rows));
        rows.filter(is_added).map(|(number, _)| number).collect()
    }

    #[test]
    fn each_stream_is_judged_by_its_own_rows() {
        // The second stream has all of its rows, the first none.
        let mut rows = of_two_streams(6, RowState::Refused);
        let found = rows.found(0..6, &held(&[1, 3, 5]), false, false);
        assert_eq!(found, Found { next: 0, missing: None });
        assert!(added(&rows, 6).is_empty());
        let found = rows.found(0..6, &held(&[1, 3, 5]), false, true);
        assert_eq!(found, Found { next: 0, missing: None });
        assert_eq!(added(&rows, 6), [1, 3, 5]);
    }

    #[test]
    fn a_row_before_one_of_its_stream_that_is_there_was_there() {
        let mut rows = of_two_streams(6, RowState::Unanswered);
        let found = rows.found(0..6, &held(&[4, 1]), false, false);
        assert_eq!(found, Found { next: 3, missing: Some(0..3) });
        let found = rows.found(0..6, &held(&[4, 1]), true, false);
        assert_eq!(found, Found { next: 3, missing: None });
        assert_eq!(added(&rows, 6), [0, 1, 2]);
    }

    #[test]
    fn a_row_that_has_its_answer_is_not_doubted() {
        // Somebody has deleted it since.
        let mut rows = of_two_streams(4, RowState::Added(EntryId::new(0, 1)));
        let found = rows.found(0..4, &held(&[1, 2, 3]), false, false);
        assert_eq!(found, Found { next: 4, missing: None });
        let mut rows = of_two_streams(4, RowState::NotAdded);
        let found = rows.found(0..4, &held(&[1]), false, false);
        assert_eq!(found, Found { next: 2, missing: None });
    }
}
