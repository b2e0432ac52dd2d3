//! Durations of one unit, for formats that have durations.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};

use super::encode::unwritable;
use crate::error::Result;

/// A column whose durations, at any depth, are of one unit.
pub(super) fn with_durations_in(
    unit: TimeUnit,
    field: &Field,
    array: &ArrayRef,
) -> Result<(Field, ArrayRef)> {
    let data_type = durations_in(unit, field.data_type());
    if data_type == *field.data_type() {
        return Ok((field.clone(), Arc::clone(array)));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let array = cast_with_options(array, &data_type, &options)
        .map_err(|error| unwritable(field).with_source(error))?;
    Ok((field.clone().with_data_type(data_type), array))
}

fn durations_in(unit: TimeUnit, data_type: &DataType) -> DataType {
    let inside = |field: &FieldRef| {
        let data_type = durations_in(unit, field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    match data_type {
        DataType::Duration(_) => DataType::Duration(unit),
        DataType::List(item) => DataType::List(inside(item)),
        DataType::LargeList(item) => DataType::LargeList(inside(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inside(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inside).collect()),
        other => other.clone(),
    }
}
