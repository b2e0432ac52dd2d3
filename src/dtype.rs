//! What the crate's parts need to know of `DataType`s, so that they agree on it.

use std::slice;

use arrow_schema::{DataType, FieldRef};

/// The fields inside a dtype: a list's item, a struct's members.
pub(crate) fn children(data_type: &DataType) -> &[FieldRef] {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            slice::from_ref(item)
        }
        DataType::Struct(fields) => fields,
        _ => &[],
    }
}
