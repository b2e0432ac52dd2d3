//! When rows have become too old.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};

use crate::dtype::{from_millis, timestamp_unit};

/// The rows that have a time, the oldest first.
///
/// A row that was replaced or deleted stays until it would be due: whoever takes it has to look whether
/// it still counts.
#[derive(Debug, Default)]
pub(super) struct Expiring {
    due: BinaryHeap<Reverse<(i64, u32)>>,
    /// The newest time that there has been, in whole milliseconds, as it is saved.
    newest: Option<i64>,
    settled_newest: Option<i64>,
    /// Entries were taken or added that a rollback would have to undo.
    changed: bool,
}

impl Expiring {
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// The row of that key has that time, in the unit of its column and in milliseconds.
    pub(super) fn add(&mut self, time: i64, key: u32, millis: i64) {
        self.due.push(Reverse((time, key)));
        self.newest = self.newest.max(Some(millis));
        self.changed = true;
    }

    /// There has been this time, and that is settled.
    pub(super) fn see(&mut self, newest: Option<i64>) {
        self.newest = self.newest.max(newest);
        self.settled_newest = self.settled_newest.max(newest);
    }

    pub(super) fn newest(&self) -> Option<i64> {
        self.newest
    }

    /// Takes the next key that had a row older than that.
    pub(super) fn take(&mut self, bound: i64) -> Option<u32> {
        let Reverse((time, key)) = *self.due.peek()?;
        if time >= bound {
            return None;
        }
        self.due.pop();
        self.changed = true;
        Some(key)
    }

    pub(super) fn settle(&mut self) {
        self.settled_newest = self.newest;
        self.changed = false;
    }

    /// Whether it has to be made anew after a rollback.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Made anew of the rows that there are.
    pub(super) fn restart(&mut self, rows: impl Iterator<Item = (i64, u32)>) {
        self.due = rows.map(Reverse).collect();
        self.newest = self.settled_newest;
        self.changed = false;
    }
}

/// Whether values are times by which rows can expire.
pub(super) fn is_time(data_type: &DataType) -> bool {
    *data_type == DataType::Int64 || timestamp_unit(data_type).is_some()
}

/// Milliseconds in the unit of such a column.
pub(super) fn in_unit_of(data_type: &DataType, millis: i64) -> i64 {
    let (multiply, divide) =
        from_millis(timestamp_unit(data_type).unwrap_or(TimeUnit::Millisecond));
    millis.saturating_mul(multiply).div_euclid(divide)
}

/// The same backwards: whole milliseconds.
pub(super) fn millis_of(data_type: &DataType, time: i64) -> i64 {
    let (multiply, divide) =
        from_millis(timestamp_unit(data_type).unwrap_or(TimeUnit::Millisecond));
    time.saturating_mul(divide).div_euclid(multiply)
}

/// The time of a row, in its column's unit.
pub(super) fn time_at(batch: &RecordBatch, column: usize, row: usize) -> Option<i64> {
    let array = batch.columns().get(column)?;
    (row < array.len() && array.is_valid(row)).then(|| value(array, row)).flatten()
}

fn value(array: &ArrayRef, row: usize) -> Option<i64> {
    Some(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(row),
            TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row),
            TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
            TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row),
        },
        _ => return None,
    })
}
