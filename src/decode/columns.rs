//! A column of payloads as columns: what readers make of a stream's payloads, without a stream.

use arrow_array::cast::AsArray;
use arrow_array::{Array, StructArray};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer};
use arrow_schema::DataType;

use super::primitive::internal;
use super::{Decoder, ReplyShape};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::{OnError, StreamSchema};

/// Decodes columns of payloads, one after the other: the rows of all of them as one Struct, whose
/// fields are those of the schema and its rescue column. The schema says which
/// [`Payload`](crate::Payload) they are, and what holds for readers holds here: dtypes at any depth,
/// `null_values`, what becomes of values that do not fit. Its columns of entries' IDs and streams are
/// left out.
///
/// A row is null where its payload is null, is empty (but for Protobuf, where that is a message), or is
/// no document at all and nothing raises or keeps it.
///
/// ```
/// use arrow_array::cast::AsArray;
/// use arrow_array::types::Int64Type;
/// use arrow_array::{Array, StringViewArray};
/// use arrow_schema::{DataType, Field};
/// use redfloe::{Payload, StreamSchema, decode_payloads};
///
/// let schema = StreamSchema::closed([Field::new("n", DataType::Int64, true)])
///     .with_payload(Some(Payload::new("data")));
/// let payloads = StringViewArray::from(vec![Some(r#"{"n": 1}"#), None, Some("{}")]);
/// let rows = decode_payloads([&payloads as &dyn Array], schema)?;
/// let numbers = rows.column(0).as_primitive::<Int64Type>();
/// assert_eq!(numbers.iter().collect::<Vec<_>>(), [Some(1), None, None]);
/// assert!(rows.is_null(1) && rows.is_valid(2));
/// # Ok::<(), redfloe::Error>(())
/// ```
///
/// # Errors
///
/// [`Decode`](ErrorKind::Decode) with the row of a value that does not fit, where the schema says to
/// raise; [`Schema`](ErrorKind::Schema) for a column that is neither text nor binary, or a schema
/// that no payload can have; [`InvalidArgument`](ErrorKind::InvalidArgument) for a schema that has no
/// payload, or leaves rows out.
pub fn decode_payloads<'a>(
    columns: impl IntoIterator<Item = &'a dyn Array>,
    schema: StreamSchema,
) -> Result<StructArray> {
    let schema = schema
        .with_id_column(None)
        .with_timestamp_column(None)
        .with_sequence_column(None)
        .with_stream_column(None);
    let mut rows = Rows::new(schema)?;
    for column in columns {
        rows.push_column(column)?;
    }
    rows.finish().map_err(at_row)
}

/// The rows so far.
struct Rows {
    decoder: Decoder,
    /// The field that holds the payloads.
    name: String,
    /// Which rows are there.
    there: BooleanBufferBuilder,
    /// Whether the text of what is no document is kept in the row.
    rescues: bool,
    /// Whether no bytes are a document, as a Protobuf message of nothing but zeros is.
    takes_empty: bool,
}

impl Rows {
    /// What there may be on the tape before columns are built of it.
    const ROWS: usize = 16 * 1024;
    const BYTES: usize = 4 * 1024 * 1024;

    fn new(schema: StreamSchema) -> Result<Self> {
        let Some(payload) = &schema.payload else {
            return Err(Error::invalid("the schema does not say what the payloads are"));
        };
        if schema.on_error == OnError::Reject {
            return Err(Error::invalid("a column keeps its rows; on_error cannot be Reject"));
        }
        Ok(Rows {
            name: payload.field.clone(),
            rescues: schema.rescue_column.is_some(),
            takes_empty: payload.format.takes_empty(),
            decoder: Decoder::new(schema, ReplyShape::Entries)?,
            there: BooleanBufferBuilder::new(0),
        })
    }

    fn push_column(&mut self, column: &dyn Array) -> Result<()> {
        match column.data_type() {
            DataType::Utf8View => self.push_texts(column.as_string_view().iter()),
            DataType::Utf8 => self.push_texts(column.as_string::<i32>().iter()),
            DataType::LargeUtf8 => self.push_texts(column.as_string::<i64>().iter()),
            DataType::BinaryView => self.push(column.as_binary_view().iter()),
            DataType::Binary => self.push(column.as_binary::<i32>().iter()),
            DataType::LargeBinary => self.push(column.as_binary::<i64>().iter()),
            DataType::Null => self.push(std::iter::repeat_n(None, column.len())),
            other => Err(Error::new(
                ErrorKind::Schema,
                format!("payloads are a column of String or Binary, not of {other}"),
            )),
        }
    }

    fn push_texts<'a>(&mut self, texts: impl Iterator<Item = Option<&'a str>>) -> Result<()> {
        self.push(texts.map(|text| text.map(str::as_bytes)))
    }

    fn push<'a>(&mut self, payloads: impl Iterator<Item = Option<&'a [u8]>>) -> Result<()> {
        for payload in payloads {
            if self.decoder.failure.is_some() {
                break;
            }
            let payload = payload.filter(|payload| self.takes_empty || !payload.is_empty());
            // Errors name the entry, which is the row's number here.
            let row = EntryId::new(self.there.len() as u64, 0);
            self.decoder.push_entry(row, payload.map(|payload| (self.name.as_bytes(), payload)))?;
            self.there.append(payload.is_some());
            let tape = &self.decoder.tape;
            let is_long = tape.ids().len() >= Self::ROWS || tape.bytes().len() >= Self::BYTES;
            if is_long || tape.is_heavy() {
                self.build();
            }
        }
        Ok(())
    }

    /// Builds columns of the rows on the tape.
    fn build(&mut self) {
        let first = self.decoder.ids.len();
        if !self.rescues {
            for unreadable in self.decoder.tape.unreadable() {
                let row = first + unreadable.slot.row as usize;
                if row < self.there.len() {
                    self.there.set_bit(row, false);
                }
            }
        }
        self.decoder.build();
    }

    fn finish(mut self) -> Result<StructArray> {
        self.build();
        let records = self.decoder.flush()?.into_records();
        let there = NullBuffer::new(self.there.finish());
        let nulls = (there.null_count() > 0).then_some(there);
        let (schema, columns, rows) = records.into_parts();
        StructArray::try_new_with_length(schema.fields().clone(), columns, nulls, rows)
            .map_err(internal)
    }
}

/// The error of a row.
fn at_row(error: Error) -> Error {
    let number = |id: &str| id.split('-').next().unwrap_or_default().to_owned();
    error.rename_context("entry ID", "row").map_context("row", number)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::{Int8Type, Int64Type};
    use arrow_array::{ArrayRef, BinaryArray, Int32Array, NullArray, StringArray, StringViewArray};
    use arrow_schema::{Field, Fields};

    use super::*;
    use crate::payload::{Payload, PayloadFormat};
    use crate::schema::NullValues;
    use crate::write::encode_payloads;

    fn schema() -> StreamSchema {
        let item = Arc::new(Field::new("item", DataType::Int8, true));
        StreamSchema::closed([
            Field::new("n", DataType::Int64, true),
            Field::new("list", DataType::LargeList(item), true),
        ])
        .with_payload(Some(Payload::new("")))
    }

    fn texts(texts: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringViewArray::from_iter(texts))
    }

    fn numbers(rows: &StructArray) -> Vec<Option<i64>> {
        let numbers = rows.column(0).as_primitive::<Int64Type>().iter();
        numbers.enumerate().map(|(row, n)| n.filter(|_| rows.is_valid(row))).collect()
    }

    #[test]
    fn columns_of_every_layout_follow_one_another() -> Result<()> {
        let one = Some(r#"{"n": 1, "list": [1, null, "x"]}"#);
        let columns: [ArrayRef; 5] = [
            texts(&[one, None, Some(""), Some("{}")]).slice(1, 3),
            Arc::new(StringArray::from(vec![one])),
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"{\"n\": 2}"), None])),
            Arc::new(NullArray::new(2)),
            texts(&[]),
        ];
        let schema = schema().with_on_error(OnError::Null);
        let rows = decode_payloads(columns.iter().map(AsRef::as_ref), schema)?;
        assert_eq!(numbers(&rows), [None, None, None, Some(1), Some(2), None, None, None]);
        let there: Vec<bool> = (0..rows.len()).map(|row| rows.is_valid(row)).collect();
        assert_eq!(there, [false, false, true, true, true, false, false, false]);
        let list = rows.column(1).as_list::<i64>().value(3);
        assert_eq!(
            list.as_primitive::<Int8Type>().iter().collect::<Vec<_>>(),
            [Some(1), None, None]
        );
        Ok(())
    }

    #[test]
    fn a_value_that_does_not_fit_raises_with_its_row_or_is_null() -> Result<()> {
        let (long, bad) = (Rows::ROWS + 2, r#"{"n": "x"}"#);
        let mut payloads = vec![Some(r#"{"n": 7}"#); long];
        for (text, field) in [(bad, "n"), ("[1", "")] {
            payloads[long - 1] = Some(text);
            let column = texts(&payloads);
            let error = decode_payloads([&*column], schema()).unwrap_err();
            let row = (long - 1).to_string();
            assert_eq!(error.kind(), ErrorKind::Decode);
            let context: Vec<_> = error.context().iter().map(|(n, v)| (*n, &**v)).collect();
            assert_eq!(context[..2], [("row", &*row), ("field", field)]);
        }
        // What is no document is null as a whole.
        payloads[0] = Some(bad);
        let column = texts(&payloads);
        let rows = decode_payloads([&*column], schema().with_on_error(OnError::Null))?;
        assert_eq!(
            (rows.is_valid(0), rows.is_valid(long - 1), rows.null_count()),
            (true, false, 1)
        );
        assert_eq!(numbers(&rows)[..2], [None, Some(7)]);
        // With a rescue column it is kept.
        let rows = decode_payloads([&*column], schema().with_rescue_column(Some("rest")))?;
        let rescued = rows.column(2).as_string_view();
        assert_eq!((rows.null_count(), rescued.value(0)), (0, r#"{"n":"x"}"#));
        assert_eq!(rescued.value(long - 1), r#"{"":"[1"}"#);
        Ok(())
    }

    #[test]
    fn what_is_written_is_read_again() -> Result<()> {
        let text = [Some(r#"{"n": 1, "list": [1, null]}"#), None, Some("{}"), Some(r#"{"n":-5}"#)];
        let rows = decode_payloads([&*texts(&text)], schema())?;
        for format in [PayloadFormat::Json, PayloadFormat::MessagePack] {
            let payload = Payload::new("").with_format(format.clone());
            let written = encode_payloads(&rows, &payload)?;
            assert_eq!(written.null_count(), 1);
            let again = schema().with_payload(Some(payload));
            assert_eq!(decode_payloads([&*written], again)?, rows);
            // A part of the rows has its own payloads.
            let part =
                encode_payloads(&rows.slice(2, 2), &Payload::new("").with_format(format.clone()))?;
            assert_eq!(&part, &written.slice(2, 2));
        }
        let none = StructArray::new_empty_fields(2, None);
        let json = encode_payloads(&none, &Payload::new(""))?;
        assert_eq!(json.as_string_view().iter().collect::<Vec<_>>(), [Some("{}"), Some("{}")]);
        Ok(())
    }

    #[test]
    fn null_values_hold_and_no_rows_have_columns() -> Result<()> {
        let values = NullValues { all: vec!["-".to_owned()], ..NullValues::default() };
        let column = texts(&[Some(r#"{"n": "-"}"#), Some("-")]);
        let rows = decode_payloads([&*column], schema().with_null_values(values))?;
        assert_eq!((numbers(&rows), rows.null_count()), (vec![None, None], 0));
        let rows = decode_payloads([], schema())?;
        assert_eq!((rows.len(), rows.num_columns()), (0, 2));
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let column = Int32Array::from(vec![1]);
        let kind = |schema| decode_payloads([&column as &dyn Array], schema).unwrap_err().kind();
        assert_eq!(kind(schema()), ErrorKind::Schema);
        assert_eq!(kind(schema().with_payload(None)), ErrorKind::InvalidArgument);
        assert_eq!(kind(schema().with_on_error(OnError::Reject)), ErrorKind::InvalidArgument);
        let odd = Field::new("odd", DataType::Struct(Fields::empty()), false);
        let schema = StreamSchema::closed([odd]).with_payload(Some(Payload::new("")));
        assert_eq!(kind(schema), ErrorKind::Schema);
        let rows = StructArray::new_empty_fields(1, None);
        let payload = Payload::new("").with_prefix("a");
        let error = encode_payloads(&rows, &payload).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
