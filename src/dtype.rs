//! What several parts of the crate need to know of `DataType`s, in one place, so that they agree.
//!
//! Two more files match on them: `decode/make.rs` makes the builder of each, and `write/encode.rs`
//! its encoder.

use std::slice;

use arrow_schema::{DataType, Field, FieldRef, TimeUnit};

/// Marks a `Decimal128(38, 0)` field whose values are 128-bit integers, which Arrow has no type
/// for but Polars does. The metadata's value does not matter.
pub const INT128_METADATA: &str = "redfloe.int128";

/// A field's metadata that lists the members of an Enum, as Polars writes it: `3;low4;high`, each
/// member behind its length in bytes.
pub const ENUM_METADATA: [&str; 2] = ["_PL_ENUM_VALUES2", "_PL_ENUM_VALUES"];

/// Whether a field holds 128-bit integers, in the guise of decimals.
pub(crate) fn is_int128(field: &Field) -> bool {
    field.metadata().contains_key(INT128_METADATA)
}

/// The members of an Enum, as its field's metadata lists them; `None` for a Categorical.
pub(crate) fn enum_members(field: &Field) -> Option<&String> {
    ENUM_METADATA.iter().find_map(|name| field.metadata().get(*name))
}

/// The most categories that keys of a type tell apart. Like Polars, it keeps the largest key free.
pub(crate) fn most_categories(key_type: &DataType) -> u32 {
    match key_type {
        DataType::UInt8 => u32::from(u8::MAX),
        DataType::UInt16 => u32::from(u16::MAX),
        _ => u32::MAX,
    }
}

/// Whether there are categories in it, at any depth.
pub(crate) fn has_dictionary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, _) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_dictionary(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| has_dictionary(field.data_type())),
        _ => false,
    }
}

/// Whether values are text, however Arrow lays it out.
pub(crate) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8)
}

/// Whether the empty text is a value, when it is read; else it is null.
pub(crate) fn empty_is_value(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8View | DataType::BinaryView)
}

/// Whether values are the key of a table: those that are equal have one text, and others have another.
/// Of floats that is not true.
pub(crate) fn can_be_key(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View
        | DataType::BinaryView
        | DataType::Boolean
        | DataType::Date32
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_)
        | DataType::Decimal128(_, _)
        | DataType::Dictionary(_, _) => true,
        other => other.is_integer(),
    }
}

/// The unit of a datetime.
pub(crate) fn timestamp_unit(data_type: &DataType) -> Option<TimeUnit> {
    match data_type {
        DataType::Timestamp(unit, _) => Some(*unit),
        _ => None,
    }
}

/// The factor from a `Timestamp`'s unit down from milliseconds: multiply, then divide.
pub(crate) fn from_millis(unit: TimeUnit) -> (i64, i64) {
    match unit {
        TimeUnit::Second => (1, 1000),
        TimeUnit::Millisecond => (1, 1),
        TimeUnit::Microsecond => (1000, 1),
        TimeUnit::Nanosecond => (1_000_000, 1),
    }
}

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

/// A field with its children changed.
#[cfg(feature = "python")]
pub(crate) fn with_children(field: &Field, change: fn(&FieldRef) -> FieldRef) -> Field {
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(change(item)),
        DataType::LargeList(item) => DataType::LargeList(change(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(change(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(change).collect()),
        other => other.clone(),
    };
    field.clone().with_data_type(data_type)
}

/// A field of Polars' 128-bit integers as the decimal that Arrow has in their place; a number of 39
/// digits then does not fit.
#[cfg(feature = "python")]
pub(crate) fn without_int128(field: &FieldRef) -> FieldRef {
    let mut metadata = field.metadata().clone();
    metadata.remove(INT128_METADATA);
    with_children(field, without_int128).with_metadata(metadata).into()
}

/// A field of what every consumer can compute with, which is not yet true of views.
#[cfg(feature = "python")]
pub(crate) fn without_views(field: &FieldRef) -> FieldRef {
    let field = with_children(field, without_views);
    let data_type = match field.data_type() {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(key, _) => DataType::Dictionary(key.clone(), Box::new(DataType::Utf8)),
        other => other.clone(),
    };
    field.with_data_type(data_type).into()
}

/// The dtype as Polars writes it, for error messages.
pub(crate) fn dtype_name(field: &Field) -> String {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    };
    match field.data_type() {
        DataType::Utf8View => "String".to_owned(),
        DataType::BinaryView => "Binary".to_owned(),
        DataType::Date32 => "Date".to_owned(),
        DataType::Time64(_) => "Time".to_owned(),
        DataType::Timestamp(u, None) => format!("Datetime({})", unit(u)),
        DataType::Timestamp(u, Some(zone)) => format!("Datetime({}, {zone})", unit(u)),
        DataType::Duration(u) => format!("Duration({})", unit(u)),
        DataType::Decimal128(_, _) if is_int128(field) => "Int128".to_owned(),
        DataType::Decimal128(precision, scale) => format!("Decimal({precision}, {scale})"),
        DataType::Dictionary(_, _) => {
            if enum_members(field).is_some() { "Enum" } else { "Categorical" }.to_owned()
        }
        DataType::List(_) | DataType::LargeList(_) => "List".to_owned(),
        DataType::FixedSizeList(_, size) => format!("Array({size})"),
        DataType::Struct(_) => "Struct".to_owned(),
        other => other.to_string(),
    }
}
