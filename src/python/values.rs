//! Values of other libraries' frames that Polars would change without a word while it imports them.
//!
//! It has no seconds: they become milliseconds, and wrap around where these are too many. A time
//! that is not within a day becomes null.

use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::{DurationSecondType, TimestampSecondType};
use arrow_array::{Array, ArrowPrimitiveType, RecordBatchIterator, downcast_dictionary_array};
use arrow_buffer::ArrowNativeType;
use arrow_schema::{DataType, Schema, TimeUnit};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::arrow::batches_of;
use super::error::{exception, no_panic};
use crate::error::{Error, ErrorKind};
use crate::write::time_beyond_a_day;

/// Reads an Arrow stream, refuses values that Polars would change, and gives the stream anew.
/// Documented in `_core.pyi`.
#[pyfunction]
pub(crate) fn checked_arrow_stream<'py>(
    frame: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let py = frame.py();
    no_panic(py, || {
        let (fields, batches) = batches_of(frame)?;
        let mut rows = 0;
        for batch in &batches {
            for (field, column) in fields.iter().zip(batch.columns()) {
                if let Some((row, why)) = changed(column, &|_| true) {
                    let message =
                        format!("the column {:?} has {why}; nothing has been sent", field.name());
                    let error = Error::new(ErrorKind::Schema, message);
                    return Err(exception(
                        py,
                        &error.with_context("row", (rows + row).to_string()),
                    ));
                }
            }
            rows += batch.num_rows();
        }
        let batches =
            RecordBatchIterator::new(batches.into_iter().map(Ok), Schema::new(fields).into());
        let stream = FFI_ArrowArrayStream::new(Box::new(batches));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    })
}

/// The first value that would be changed among those that are `visible`: its row, and what it is.
fn changed(array: &dyn Array, visible: &dyn Fn(usize) -> bool) -> Option<(usize, String)> {
    let visible = |row: usize| array.is_valid(row) && visible(row);
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            seconds::<TimestampSecondType>(array, "timestamp", &visible)
        }
        DataType::Duration(TimeUnit::Second) => {
            seconds::<DurationSecondType>(array, "duration", &visible)
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            time_beyond_a_day(array, visible).map(|(row, value)| {
                let unit = array.data_type();
                (row, format!("the value {value} of {unit}, which is no time of a day"))
            })
        }
        DataType::Struct(_) => {
            array.as_struct().columns().iter().find_map(|member| changed(member, &visible))
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            items(list.values(), list.offsets(), &visible)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            items(list.values(), list.offsets(), &visible)
        }
        DataType::FixedSizeList(_, size) => {
            let size = usize::try_from(*size).unwrap_or_default().max(1);
            let values = array.as_fixed_size_list().values();
            let (item, why) = changed(values, &|item| visible(item / size))?;
            Some((item / size, why))
        }
        DataType::Dictionary(_, _) => downcast_dictionary_array!(
            array => {
                let mut rows = vec![None; array.values().len()];
                for row in (0..array.len()).rev().filter(|row| visible(*row)) {
                    let key = array.keys().value(row).as_usize();
                    if let Some(first) = rows.get_mut(key) {
                        *first = Some(row);
                    }
                }
                let row_of = |member: usize| rows.get(member).copied().flatten();
                let (member, why) = changed(array.values(), &|member| row_of(member).is_some())?;
                Some((row_of(member)?, why))
            },
            _ => None,
        ),
        // Polars' maps cannot be written.
        _ => None,
    }
}

/// Among the values of lists, which end at these offsets.
fn items<O: ArrowNativeType>(
    values: &dyn Array,
    offsets: &[O],
    visible: &dyn Fn(usize) -> bool,
) -> Option<(usize, String)> {
    let row_of = |item: usize| offsets.partition_point(|end| end.as_usize() <= item).checked_sub(1);
    let in_rows = |row: &usize| row + 1 < offsets.len();
    let shown = |item: usize| row_of(item).filter(in_rows).is_some_and(visible);
    let (item, why) = changed(values, &shown)?;
    Some((row_of(item)?, why))
}

fn seconds<T: ArrowPrimitiveType<Native = i64>>(
    array: &dyn Array,
    kind: &str,
    visible: &dyn Fn(usize) -> bool,
) -> Option<(usize, String)> {
    let values = array.as_primitive::<T>().values();
    let beyond = |(row, value): &(usize, &i64)| value.checked_mul(1000).is_none() && visible(*row);
    let (row, value) = values.iter().enumerate().find(beyond)?;
    let why = format!("a {kind} of {value} seconds, which overflows Polars' milliseconds");
    Some((row, why))
}
