//! A builder for each dtype. What else the crate needs to know of dtypes is in `dtype.rs`.

use std::sync::Arc;

use arrow_array::timezone::Tz;
use arrow_array::types::*;
use arrow_schema::{DataType, Field, TimeUnit};

use super::column::{ColumnBuilder, NullRules};
use super::dictionaries::{Enums, Members};
use super::nested::{ListColumn, StructColumn};
use super::number::{Decimal, Float, Int128, Integer};
use super::primitive::{BooleanColumn, Parse, PrimitiveColumn};
use super::text::{Content, DictionaryColumn, ViewColumn};
use super::time::{Date, Duration, Time, Timestamp};
use crate::dtype;
use crate::error::{Error, ErrorKind, Result};

/// A builder, and which texts are null in its column.
pub(crate) struct Made {
    pub(crate) builder: Box<dyn ColumnBuilder>,
    pub(crate) nulls: NullRules,
}

/// A builder for a field, and for those inside it, where `null_values` hold as well.
pub(crate) fn make_builder(
    field: &Field,
    null_values: &Arc<[Box<[u8]>]>,
    enums: &Enums,
) -> Result<Made> {
    if !field.is_nullable() {
        return Err(Error::new(
            ErrorKind::Schema,
            format!(
                "the field {:?} must be nullable: an entry may lack any field, and a JSON value \
                 may be null",
                field.name()
            ),
        ));
    }
    let data_type = field.data_type().clone();
    let inside = |field: &Field| make_builder(field, null_values, enums);
    let builder: Box<dyn ColumnBuilder> = match &data_type {
        DataType::Utf8View => Box::new(ViewColumn::new(Content::Utf8)),
        DataType::BinaryView => Box::new(ViewColumn::new(Content::Binary)),
        DataType::Boolean => Box::new(BooleanColumn::new()),
        DataType::Int8 => primitive(Integer::<Int8Type>::new(), data_type),
        DataType::Int16 => primitive(Integer::<Int16Type>::new(), data_type),
        DataType::Int32 => primitive(Integer::<Int32Type>::new(), data_type),
        DataType::Int64 => primitive(Integer::<Int64Type>::new(), data_type),
        DataType::UInt8 => primitive(Integer::<UInt8Type>::new(), data_type),
        DataType::UInt16 => primitive(Integer::<UInt16Type>::new(), data_type),
        DataType::UInt32 => primitive(Integer::<UInt32Type>::new(), data_type),
        DataType::UInt64 => primitive(Integer::<UInt64Type>::new(), data_type),
        DataType::Float32 => primitive(Float::<Float32Type>::new(), data_type),
        DataType::Float64 => primitive(Float::<Float64Type>::new(), data_type),
        DataType::Decimal128(_, _) if dtype::is_int128(field) => primitive(Int128, data_type),
        DataType::Decimal128(precision, scale) => {
            primitive(Decimal::new(*precision, *scale), data_type)
        }
        DataType::Date32 => primitive(Date, data_type),
        DataType::Time64(TimeUnit::Nanosecond) => primitive(Time, data_type),
        DataType::Timestamp(unit, zone) => {
            let zone = zone.as_deref().map(|name| parse_zone(field, name)).transpose()?;
            match unit {
                TimeUnit::Second => {
                    primitive(Timestamp::<TimestampSecondType>::new(zone), data_type)
                }
                TimeUnit::Millisecond => {
                    primitive(Timestamp::<TimestampMillisecondType>::new(zone), data_type)
                }
                TimeUnit::Microsecond => {
                    primitive(Timestamp::<TimestampMicrosecondType>::new(zone), data_type)
                }
                TimeUnit::Nanosecond => {
                    primitive(Timestamp::<TimestampNanosecondType>::new(zone), data_type)
                }
            }
        }
        DataType::Duration(unit) => match unit {
            TimeUnit::Second => primitive(Duration::<DurationSecondType>::new(*unit), data_type),
            TimeUnit::Millisecond => {
                primitive(Duration::<DurationMillisecondType>::new(*unit), data_type)
            }
            TimeUnit::Microsecond => {
                primitive(Duration::<DurationMicrosecondType>::new(*unit), data_type)
            }
            TimeUnit::Nanosecond => {
                primitive(Duration::<DurationNanosecondType>::new(*unit), data_type)
            }
        },
        DataType::Dictionary(key, value)
            if **value == DataType::Utf8View
                && matches!(**key, DataType::UInt8 | DataType::UInt16 | DataType::UInt32) =>
        {
            let members = dtype::enum_members(field)
                .map(|text| members_of(field, key, enums.members(text)))
                .transpose()?;
            Box::new(DictionaryColumn::new((**key).clone(), members))
        }
        DataType::List(item) | DataType::LargeList(item) => {
            let large = matches!(data_type, DataType::LargeList(_));
            Box::new(ListColumn::variable(Arc::clone(item), inside(item)?, large))
        }
        DataType::FixedSizeList(item, size) => {
            Box::new(ListColumn::fixed(Arc::clone(item), inside(item)?, *size))
        }
        DataType::Struct(fields) => {
            let children: Result<Vec<_>> = fields.iter().map(|child| inside(child)).collect();
            Box::new(StructColumn::new(fields.clone(), children?))
        }
        other => {
            return Err(Error::new(
                ErrorKind::Schema,
                format!(
                    "the field {:?} has the dtype {other}, which has no text form; read it as a \
                     string and convert it",
                    field.name()
                ),
            ));
        }
    };
    let empty = !dtype::empty_is_value(field.data_type());
    Ok(Made { builder, nulls: NullRules { empty, values: Arc::clone(null_values) } })
}

fn primitive<P: Parse + 'static>(parser: P, data_type: DataType) -> Box<dyn ColumnBuilder> {
    Box::new(PrimitiveColumn::new(parser, data_type))
}

fn parse_zone(field: &Field, name: &str) -> Result<Tz> {
    name.parse().map_err(|_| {
        Error::new(
            ErrorKind::Schema,
            format!("the field {:?} has the unknown time zone {name:?}", field.name()),
        )
    })
}

fn members_of(
    field: &Field,
    key_type: &DataType,
    members: Option<Arc<Members>>,
) -> Result<Arc<Members>> {
    let Some(members) = members else {
        return Err(Error::new(
            ErrorKind::Schema,
            format!("the members of the Enum {:?} cannot be read", field.name()),
        ));
    };
    if members.values.len() > dtype::most_categories(key_type) as usize {
        return Err(Error::new(
            ErrorKind::Schema,
            format!("the Enum {:?} has more members than {key_type} keys", field.name()),
        ));
    }
    Ok(members)
}
