//! What the expressions do.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, StructArray, UInt64Array, new_empty_array};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields};
use redfloe::{EntryId, Error, ErrorKind, OnError, Result, decode_payloads, encode_payloads};

use crate::options::{Decode, Encode, IdParts};
use crate::plugin::{Column, Expression, export_expression};

export_expression!(Decode, _polars_plugin_decode, _polars_plugin_field_decode);
export_expression!(Encode, _polars_plugin_encode, _polars_plugin_field_encode);
export_expression!(IdParts, _polars_plugin_entry_id, _polars_plugin_field_entry_id);

impl Expression for Decode {
    fn field(&self, input: &Field) -> Result<Field> {
        match input.data_type() {
            DataType::Utf8View | DataType::BinaryView | DataType::Null => {
                let rows = decode_payloads([], self.schema(input.name())?)?;
                Ok(Field::new(input.name(), rows.data_type().clone(), true))
            }
            _ => Err(refused("decode takes a column of String or Binary", input)),
        }
    }

    fn values(&self, input: &Column) -> Result<Vec<ArrayRef>> {
        // In one array, so that its categories are in one dictionary.
        let chunks = input.chunks.iter().map(AsRef::as_ref);
        let rows = decode_payloads(chunks, self.schema(input.field.name())?)?;
        Ok(vec![Arc::new(rows)])
    }
}

impl Expression for Encode {
    fn field(&self, input: &Field) -> Result<Field> {
        let DataType::Struct(fields) = input.data_type() else {
            return Err(refused(
                "encode takes a column of Structs, as pl.struct(...) makes",
                input,
            ));
        };
        // So the planner finds a dtype that cannot be encoded.
        let columns = fields.iter().map(|field| new_empty_array(field.data_type())).collect();
        let rows = StructArray::try_new_with_length(fields.clone(), columns, None, 0);
        let payloads = encode_payloads(&rows.map_err(internal)?, &self.payload()?)?;
        Ok(Field::new(input.name(), payloads.data_type().clone(), true))
    }

    fn values(&self, input: &Column) -> Result<Vec<ArrayRef>> {
        let payload = self.payload()?;
        input.chunks.iter().map(|rows| encode_payloads(rows.as_struct(), &payload)).collect()
    }
}

impl IdParts {
    /// Structs compare by one field after the other, so they sort as Redis sorts.
    fn parts() -> Fields {
        ["ms", "seq"].into_iter().map(|name| Field::new(name, DataType::UInt64, true)).collect()
    }
}

impl Expression for IdParts {
    fn field(&self, input: &Field) -> Result<Field> {
        match input.data_type() {
            DataType::Utf8View | DataType::Null => {
                Ok(Field::new(input.name(), DataType::Struct(IdParts::parts()), true))
            }
            _ => Err(refused("entry_id takes a column of String", input)),
        }
    }

    fn values(&self, input: &Column) -> Result<Vec<ArrayRef>> {
        let raises = self.on_error()? == OnError::Raise;
        let mut first = 0;
        let mut made = Vec::with_capacity(input.chunks.len());
        for chunk in &input.chunks {
            let rows = chunk.len();
            let ids: Vec<Option<EntryId>> = match chunk.data_type() {
                DataType::Null => vec![None; rows],
                _ => {
                    let parsed = chunk.as_string_view().iter().map(|text| text.map(str::parse));
                    let parsed = parsed.enumerate().map(|(row, id)| match id {
                        Some(Err(error)) if raises => Err(at_row(error, first + row)),
                        Some(id) => Ok(id.ok()),
                        None => Ok(None),
                    });
                    parsed.collect::<Result<_>>()?
                }
            };
            first += rows;
            let nulls = NullBuffer::from_iter(ids.iter().map(Option::is_some));
            let part = |part: fn(EntryId) -> u64| -> ArrayRef {
                Arc::new(ids.iter().map(|id| id.map(part)).collect::<UInt64Array>())
            };
            let columns = vec![part(|id| id.ms), part(|id| id.seq)];
            let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
            let structs = StructArray::try_new(IdParts::parts(), columns, nulls);
            made.push(Arc::new(structs.map_err(internal)?) as ArrayRef);
        }
        Ok(made)
    }
}

fn at_row(error: Error, row: usize) -> Error {
    let at = Error::new(ErrorKind::Decode, error.message());
    at.with_context("row", row.to_string())
}

fn refused(wanted: &str, input: &Field) -> Error {
    let message = format!("{wanted}; {:?} is of {}", input.name(), input.data_type());
    Error::new(ErrorKind::Schema, message)
}

fn internal(error: ArrowError) -> Error {
    Error::new(ErrorKind::Internal, format!("{error}; please report this"))
}
