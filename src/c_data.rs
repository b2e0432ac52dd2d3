//! Fields over Arrow's C data interface, as Polars exchanges them.
//!
//! Arrow has no 128-bit integer; Polars passes its own as the format `_pli128`, which arrow-rs
//! cannot read. Inside the crate such a field is a marked `Decimal128(38, 0)` of the same layout,
//! and only here the two are exchanged.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::ffi::{FFI_ArrowSchema, Flags};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields};

use crate::dtype::{INT128_METADATA, children, is_int128};

const POLARS_INT128: &str = "_pli128";

/// A field for the C data interface, its 128-bit integers ([`INT128_METADATA`]) as Polars knows them.
///
/// # Errors
///
/// Where the interface has no format for the field's type.
pub fn export_field(field: &Field) -> Result<FFI_ArrowSchema, ArrowError> {
    let nested = children(field.data_type());
    let schema = if is_int128(field) {
        FFI_ArrowSchema::try_new(POLARS_INT128, vec![], None)?
    } else if nested.is_empty() {
        FFI_ArrowSchema::try_from(field.data_type())?
    } else {
        let format = FFI_ArrowSchema::try_from(field.data_type())?.format().to_owned();
        let nested: Result<Vec<_>, _> = nested.iter().map(|child| export_field(child)).collect();
        FFI_ArrowSchema::try_new(&format, nested?, None)?
    };
    let metadata = field.metadata().iter().filter(|(name, _)| *name != INT128_METADATA);
    schema
        .with_name(field.name())?
        .with_flags(if field.is_nullable() { Flags::NULLABLE } else { Flags::empty() })?
        .with_metadata(metadata.collect::<Vec<_>>())
}

/// A field from the C data interface; one of Polars' 128-bit integers has [`INT128_METADATA`].
///
/// # Errors
///
/// Where its format, or one inside it, is not known.
pub fn import_field(schema: &FFI_ArrowSchema) -> Result<Field, ArrowError> {
    let metadata = schema.metadata()?;
    let name = schema.name().unwrap_or_default();
    if schema.format() == POLARS_INT128 {
        let metadata = HashMap::from([(INT128_METADATA.to_owned(), String::new())]);
        return Ok(Field::new(name, DataType::Decimal128(38, 0), true).with_metadata(metadata));
    }
    let children = || -> Result<Vec<FieldRef>, ArrowError> {
        schema.children().map(|child| import_field(child).map(Arc::new)).collect()
    };
    let item = || -> Result<FieldRef, ArrowError> {
        children()?.pop().ok_or_else(|| ArrowError::CDataInterface("a list has no item".to_owned()))
    };
    let data_type = match schema.format() {
        "+l" => DataType::List(item()?),
        "+L" => DataType::LargeList(item()?),
        "+s" => DataType::Struct(Fields::from(children()?)),
        format => match format.strip_prefix("+w:") {
            Some(size) => {
                let size = size.parse().map_err(|_| {
                    ArrowError::CDataInterface(format!("{size} is no size of a list"))
                })?;
                DataType::FixedSizeList(item()?, size)
            }
            None => DataType::try_from(schema)?,
        },
    };
    Ok(Field::new(name, data_type, true).with_metadata(metadata))
}
