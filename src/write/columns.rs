//! A Struct column as payloads: what writers make of rows, without a stream.

use std::sync::Arc;

use arrow_array::builder::BinaryViewBuilder;
use arrow_array::{Array, ArrayRef, StructArray};

use super::documents::{Member, Rows};
use super::encode::Column;
use super::frame::at_row;
use crate::decode::internal;
use crate::error::{Error, Result};
use crate::payload::{Payload, PayloadFormat};

/// Encodes each row of a Struct as a payload: `Utf8View` where that is JSON, else `BinaryView`. A
/// null row has none, and a null value is a key that its payload lacks.
///
/// [`decode_payloads`](crate::decode_payloads) is its inverse, given the same fields.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow_array::cast::AsArray;
/// use arrow_array::{ArrayRef, Int64Array, StructArray};
/// use redfloe::{Payload, encode_payloads};
///
/// let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
/// let rows = StructArray::try_from(vec![("n", numbers)])?;
/// let payloads = encode_payloads(&rows, &Payload::new("data"))?;
/// let texts: Vec<_> = payloads.as_string_view().iter().flatten().collect();
/// assert_eq!(texts, [r#"{"n":1}"#, "{}"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Schema`](crate::ErrorKind::Schema) for a field that has no text form;
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a payload with a path, a prefix or
/// positions, which are for reading alone, and for a row that the payload's schema has no place for.
pub fn encode_payloads(rows: &StructArray, payload: &Payload) -> Result<ArrayRef> {
    if !(payload.path.is_empty() && payload.prefix.is_empty() && payload.positions.is_empty()) {
        return Err(Error::invalid("payloads with a path, a prefix or positions are only read"));
    }
    let mut members = Vec::with_capacity(rows.num_columns());
    for (field, array) in rows.fields().iter().zip(rows.columns()) {
        members.push(Member::new(
            field.name(),
            Column::of_member(field, array, &payload.format)?,
            None,
        ));
    }
    let count = Rows { count: rows.len(), nulls: rows.nulls() };
    let documents = Column::of_documents(members, &payload.format, count)
        .map_err(|(row, misfit)| at_row(row, &misfit))?
        .compressed(payload.compression);
    let mut payloads = BinaryViewBuilder::with_capacity(rows.len());
    let mut scratch = Vec::new();
    for row in 0..rows.len() {
        match rows.is_null(row) {
            true => payloads.append_null(),
            false => {
                let text = documents.text(row, &mut scratch);
                payloads.try_append_value(text).map_err(internal)?;
            }
        }
    }
    let payloads = payloads.finish();
    Ok(match (&payload.format, payload.compression) {
        (PayloadFormat::Json, None) => Arc::new(payloads.to_string_view().map_err(internal)?),
        _ => Arc::new(payloads),
    })
}
