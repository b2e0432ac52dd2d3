//! An encoder for each dtype: Arrow arrays to the text of their values, or to MessagePack.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch, downcast_dictionary_array};
use arrow_buffer::{ArrowNativeType, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use lexical_core::ToLexical;
use num_traits::ToPrimitive;

use super::documents::*;
use super::durations::with_durations_in;
use super::encoders::*;
use crate::compression::PayloadCompression;
use crate::dtype::{dtype_name, is_int128};
use crate::error::{Error, ErrorKind, Result};
use crate::msgpack::pack_null;
use crate::payload::PayloadFormat;

/// Gives the text of an array's values. Rows are those of the array, and never null.
pub(super) trait Encode: Send + Sync {
    /// The value's text, which lies in the array itself or is written into `scratch`.
    fn text<'a>(&'a self, row: usize, scratch: &'a mut Vec<u8>) -> &'a [u8];

    /// Appends the value as JSON.
    fn json(&self, row: usize, out: &mut Vec<u8>);

    /// Appends the value as MessagePack.
    fn pack(&self, row: usize, out: &mut Vec<u8>);

    /// No value of these rows has a longer text, and all together none as JSON or MessagePack. Rows
    /// may be null.
    fn at_most(&self, rows: Range<usize>) -> usize;

    /// Whether a value may have more bytes than that, as far as its type tells.
    fn may_exceed(&self, length: usize) -> bool {
        let _ = length;
        true
    }
}

/// How many rows are looked at together for a long text, of which there hardly ever is one.
const ROWS_LOOKED_AT: usize = 128;

/// A column: which of its values are null, and the text of the others.
pub(crate) struct Column {
    nulls: Option<NullBuffer>,
    encoder: Box<dyn Encode>,
    /// Whether the empty text is a value when it is read; else it would be read as null.
    pub(super) empty_is_value: bool,
}

impl Column {
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) for a dtype that has no text form.
    pub(crate) fn new(field: &Field, array: &ArrayRef) -> Result<Column> {
        make_column(field, array)
    }

    /// A column of values that are members of payloads.
    pub(super) fn of_member(
        field: &Field,
        array: &ArrayRef,
        format: &PayloadFormat,
    ) -> Result<Column> {
        match format.duration_unit() {
            Some(unit) => {
                let (field, array) = with_durations_in(unit, field, array)?;
                Column::new(&field, &array)
            }
            None => Column::new(field, array),
        }
    }

    /// An object in each row. What a schema has no place for is an error with its row.
    pub(super) fn of_documents(
        members: Vec<Member>,
        format: &PayloadFormat,
        rows: Rows<'_>,
    ) -> Result<Column, (usize, String)> {
        let encoder: Box<dyn Encode> = match format {
            PayloadFormat::Json => Box::new(Documents(members)),
            PayloadFormat::MessagePack => Box::new(PackedDocuments(members)),
            PayloadFormat::Schema(schema) => {
                Box::new(Binaries(PackedDocuments(members).by_schema(schema, rows)?))
            }
        };
        Ok(Column { nulls: None, encoder, empty_is_value: true })
    }

    /// An array in each row, of the values of members of these names.
    pub(super) fn of_arrays(
        members: Vec<Member>,
        format: &PayloadFormat,
        positions: &[String],
    ) -> Result<Column> {
        if *format != PayloadFormat::MessagePack {
            return Err(Error::invalid("only payloads of MessagePack are written as arrays"));
        }
        let encoder = Box::new(PackedArrays::new(members, positions)?);
        Ok(Column { nulls: None, encoder, empty_is_value: true })
    }

    /// The same values, each compressed.
    pub(super) fn compressed(self, compression: Option<PayloadCompression>) -> Column {
        match compression {
            Some(compression) => {
                let encoder = Box::new(Compressed { values: self.encoder, compression });
                Column { encoder, ..self }
            }
            None => self,
        }
    }

    /// A JSON object for each row; a null is a key that it lacks.
    pub(crate) fn of_rows(batch: &RecordBatch) -> Result<Column> {
        let mut members = Vec::with_capacity(batch.num_columns());
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            members.push(Member::new(field.name(), Column::new(field, array)?, None));
        }
        let encoder = Box::new(Documents(members));
        Ok(Column { nulls: None, encoder, empty_is_value: true })
    }

    #[inline]
    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Which values are there, or `None` where all are.
    pub(super) fn nulls(&self) -> Option<&NullBuffer> {
        self.nulls.as_ref()
    }

    /// The text of a value that is not null.
    #[inline]
    pub(crate) fn text<'a>(&'a self, row: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        self.encoder.text(row, scratch)
    }

    /// The row and length of the longest text of the first rows that has more bytes than that. Only
    /// values that may be so long are written to see.
    pub(super) fn longest(&self, rows: usize, more_than: usize) -> Option<(usize, usize)> {
        if !self.encoder.may_exceed(more_than) {
            return None;
        }
        let may_exceed = |rows: &Range<usize>| self.encoder.at_most(rows.clone()) > more_than;
        let groups = (0..rows).step_by(ROWS_LOOKED_AT);
        let groups = groups.map(|start| start..rows.min(start + ROWS_LOOKED_AT));
        let single = groups.filter(may_exceed).flatten().filter(|row| !self.is_null(*row));
        let mut scratch = Vec::new();
        let lengths = single
            .filter(|row| may_exceed(&(*row..*row + 1)))
            .map(|row| (row, self.text(row, &mut scratch).len()));
        lengths.filter(|(_, length)| *length > more_than).max_by_key(|(_, length)| *length)
    }

    /// The JSON of these values is together no longer.
    pub(super) fn at_most(&self, rows: Range<usize>) -> usize {
        let nulls = b"null".len() * rows.len();
        nulls.saturating_add(self.encoder.at_most(rows))
    }

    pub(crate) fn json(&self, row: usize, out: &mut Vec<u8>) {
        match self.is_null(row) {
            true => out.extend_from_slice(b"null"),
            false => self.encoder.json(row, out),
        }
    }

    pub(super) fn pack(&self, row: usize, out: &mut Vec<u8>) {
        match self.is_null(row) {
            true => pack_null(out),
            false => self.encoder.pack(row, out),
        }
    }
}

fn make_column(field: &Field, array: &ArrayRef) -> Result<Column> {
    let recast = |to: DataType| -> Result<Column> {
        let array = cast(array, &to).map_err(|error| unwritable(field).with_source(error))?;
        make_column(&field.clone().with_data_type(to), &array)
    };
    if let Some((row, value)) = time_beyond_a_day(array, |row| array.is_valid(row)) {
        let (name, dtype) = (field.name(), dtype_name(field));
        let message = format!(
            "the column {name:?} has the value {value} of {dtype} (at index {row}), which is no time \
             of a day; nothing has been sent"
        );
        return Err(Error::new(ErrorKind::Schema, message));
    }
    let encoder: Box<dyn Encode> = match field.data_type() {
        DataType::Null => Box::new(Nothing),
        DataType::Utf8View => Box::new(Strings(array.as_string_view().clone())),
        DataType::Utf8 => Box::new(Strings(array.as_string::<i32>().clone())),
        DataType::LargeUtf8 => Box::new(Strings(array.as_string::<i64>().clone())),
        DataType::BinaryView => Box::new(Binaries(array.as_binary_view().clone())),
        DataType::Binary => Box::new(Binaries(array.as_binary::<i32>().clone())),
        DataType::LargeBinary => Box::new(Binaries(array.as_binary::<i64>().clone())),
        DataType::FixedSizeBinary(_) => Box::new(Binaries(array.as_fixed_size_binary().clone())),
        DataType::Boolean => Box::new(Booleans(array.as_boolean().clone())),
        DataType::Int8 => numbers::<Int8Type>(array),
        DataType::Int16 => numbers::<Int16Type>(array),
        DataType::Int32 => numbers::<Int32Type>(array),
        DataType::Int64 => numbers::<Int64Type>(array),
        DataType::UInt8 => numbers::<UInt8Type>(array),
        DataType::UInt16 => numbers::<UInt16Type>(array),
        DataType::UInt32 => numbers::<UInt32Type>(array),
        DataType::UInt64 => numbers::<UInt64Type>(array),
        DataType::Float32 => floats::<Float32Type>(array),
        DataType::Float64 => floats::<Float64Type>(array),
        DataType::Decimal128(_, _) if is_int128(field) => {
            Box::new(Decimals { values: array.as_primitive().clone(), scale: 0 })
        }
        DataType::Decimal128(_, scale) => {
            Box::new(Decimals { values: array.as_primitive().clone(), scale: *scale })
        }
        DataType::Date32 => Box::new(Dates(array.as_primitive().clone())),
        DataType::Time64(TimeUnit::Nanosecond) => Box::new(Times(array.as_primitive().clone())),
        DataType::Timestamp(unit, zone) => {
            let values = match unit {
                TimeUnit::Second => values::<TimestampSecondType>(array),
                TimeUnit::Millisecond => values::<TimestampMillisecondType>(array),
                TimeUnit::Microsecond => values::<TimestampMicrosecondType>(array),
                TimeUnit::Nanosecond => values::<TimestampNanosecondType>(array),
            };
            Box::new(Timestamps { values, unit: *unit, zoned: zone.is_some() })
        }
        DataType::Duration(unit) => Box::new(Durations(match unit {
            TimeUnit::Second => values::<DurationSecondType>(array),
            TimeUnit::Millisecond => values::<DurationMillisecondType>(array),
            TimeUnit::Microsecond => values::<DurationMicrosecondType>(array),
            TimeUnit::Nanosecond => values::<DurationNanosecondType>(array),
        })),
        DataType::Dictionary(_, _) => dictionary(field, array)?,
        DataType::List(item) => {
            let array = array.as_list::<i32>();
            lists(item, array.values(), wide(array.offsets()))?
        }
        DataType::LargeList(item) => {
            let array = array.as_list::<i64>();
            lists(item, array.values(), array.offsets().clone())?
        }
        DataType::FixedSizeList(item, size) => {
            let array = array.as_fixed_size_list();
            let size = usize::try_from(*size).unwrap_or_default();
            let offsets = OffsetBuffer::from_repeated_length(size, array.len());
            lists(item, array.values(), offsets)?
        }
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let mut members = Vec::with_capacity(fields.len());
            let mut names = HashSet::with_capacity(fields.len());
            for (child, values) in fields.iter().zip(array.columns()) {
                if !names.insert(child.name()) {
                    return Err(Error::new(
                        ErrorKind::Schema,
                        format!("the field {:?} names {:?} twice", field.name(), child.name()),
                    ));
                }
                members.push((Name::new(child.name()), inside(child, values)?));
            }
            Box::new(Structs(members))
        }
        // What Polars does not have and others do.
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            return recast(DataType::Decimal128(*precision, *scale));
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            return recast(DataType::Time64(TimeUnit::Nanosecond));
        }
        DataType::ListView(item) => return recast(DataType::List(Arc::clone(item))),
        DataType::LargeListView(item) => return recast(DataType::LargeList(Arc::clone(item))),
        DataType::RunEndEncoded(_, values) => return recast(values.data_type().clone()),
        _ => return Err(unwritable(field)),
    };
    let empty_is_value = !matches!(field.data_type(), DataType::Dictionary(_, _));
    Ok(Column { nulls: array.logical_nulls(), encoder, empty_is_value })
}

/// The values inside a list or struct.
fn inside(field: &Field, array: &ArrayRef) -> Result<Column> {
    let column = make_column(field, array)?;
    let is_empty =
        |row: usize| !column.is_null(row) && column.text(row, &mut Vec::new()).is_empty();
    if !column.empty_is_value && (0..array.len()).any(is_empty) {
        return Err(Error::new(
            ErrorKind::Schema,
            format!(
                "the field {:?} inside a List, Array or Struct has the empty text as a category, \
                 which would be read as null; cast it to a string; nothing has been sent",
                field.name()
            ),
        ));
    }
    Ok(column)
}

pub(super) fn unwritable(field: &Field) -> Error {
    Error::new(
        ErrorKind::Schema,
        format!(
            "the column {:?} has the dtype {}, which has no text form; cast it or leave it out",
            field.name(),
            dtype_name(field)
        ),
    )
}

fn numbers<T: ArrowPrimitiveType>(array: &ArrayRef) -> Box<dyn Encode>
where
    T::Native: ToLexical + ToPrimitive,
{
    Box::new(Numbers::<T>(array.as_primitive().clone()))
}

fn floats<T: ArrowPrimitiveType>(array: &ArrayRef) -> Box<dyn Encode>
where
    T::Native: ToLexical + Into<f64>,
{
    Box::new(Floats::<T>(array.as_primitive().clone()))
}

/// The first time of those that are `visible` which is not within a day, and where it is.
pub(crate) fn time_beyond_a_day(
    array: &dyn Array,
    visible: impl Fn(usize) -> bool,
) -> Option<(usize, i64)> {
    fn first<T: ArrowPrimitiveType<Native: Into<i64>>>(
        array: &dyn Array,
        a_day: i64,
        visible: impl Fn(usize) -> bool,
    ) -> Option<(usize, i64)> {
        let values = array.as_primitive::<T>().values().iter().map(|value| (*value).into());
        values.enumerate().find(|(row, value)| !(0..a_day).contains(value) && visible(*row))
    }
    match array.data_type() {
        DataType::Time32(TimeUnit::Second) => first::<Time32SecondType>(array, 86_400, visible),
        DataType::Time32(_) => first::<Time32MillisecondType>(array, 86_400_000, visible),
        DataType::Time64(TimeUnit::Microsecond) => {
            first::<Time64MicrosecondType>(array, 86_400_000_000, visible)
        }
        DataType::Time64(_) => first::<Time64NanosecondType>(array, 86_400_000_000_000, visible),
        _ => None,
    }
}

fn values<T: ArrowPrimitiveType<Native = i64>>(array: &ArrayRef) -> ScalarBuffer<i64> {
    array.as_primitive::<T>().values().clone()
}

fn dictionary(field: &Field, array: &ArrayRef) -> Result<Box<dyn Encode>> {
    let DataType::Dictionary(_, value) = field.data_type() else {
        return Err(unwritable(field));
    };
    let member = Field::new(field.name(), value.as_ref().clone(), true);
    Ok(downcast_dictionary_array!(
        array => {
            let keys = array.keys().values().clone();
            Box::new(Dictionary {
                members: make_column(&member, array.values())?,
                count: array.values().len(),
                member: Box::new(move |row| keys.get(row).map_or(0, |key| key.as_usize())),
            })
        },
        _ => return Err(unwritable(field)),
    ))
}

fn wide(offsets: &OffsetBuffer<i32>) -> OffsetBuffer<i64> {
    OffsetBuffer::new(offsets.iter().map(|offset| i64::from(*offset)).collect())
}

fn lists(
    item: &FieldRef,
    values: &ArrayRef,
    offsets: OffsetBuffer<i64>,
) -> Result<Box<dyn Encode>> {
    Ok(Box::new(Lists { offsets, items: inside(item, values)? }))
}

#[cfg(test)]
mod tests {
    use arrow_array::*;

    use super::*;

    fn check(field: &Field, array: ArrayRef) -> Result<()> {
        let column = Column::new(field, &array)?;
        let mut whole = 0;
        for row in 0..array.len() {
            let mut json = Vec::new();
            column.json(row, &mut json);
            let most = column.at_most(row..row + 1);
            let mut packed = Vec::new();
            column.pack(row, &mut packed);
            assert!(packed.len() <= most, "{} > {most}: {:?}", packed.len(), field.data_type());
            assert!(json.len() <= most, "{} > {most}: {:?}", json.len(), field.data_type());
            if !column.is_null(row) {
                assert!(column.text(row, &mut Vec::new()).len() <= most);
            }
            whole += json.len();
        }
        assert!(whole <= column.at_most(0..array.len()));
        Ok(())
    }

    #[test]
    fn no_value_is_longer_than_its_bound() -> Result<()> {
        let controls = "\u{1}\u{2}\"\\é";
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some(controls), None, Some("")]));
        let bytes: ArrayRef =
            Arc::new(BinaryArray::from(vec![Some(&b"\xff"[..]), None, Some(b"")]));
        let epochs = [Some(i64::MIN), None, Some(i64::MAX), Some(253_402_300_799_999_999)];
        let wide = || Decimal128Array::from(vec![Some(i128::MIN), None, Some(0)]);
        let mut arrays: Vec<ArrayRef> = vec![
            text,
            bytes,
            Arc::new(BooleanArray::from(vec![Some(false), None])),
            Arc::new(Int64Array::from(epochs.to_vec())),
            Arc::new(UInt64Array::from(vec![u64::MAX])),
            Arc::new(Float64Array::from(vec![-f64::MIN_POSITIVE, f64::MAX, f64::NAN, -5e-324])),
            Arc::new(Float32Array::from(vec![f32::MIN, -1e-45])),
            Arc::new(Date32Array::from(vec![i32::MIN, i32::MAX])),
            Arc::new(Time64NanosecondArray::from(vec![86_399_999_999_999])),
            Arc::new(TimestampMicrosecondArray::from(epochs.to_vec()).with_timezone("UTC")),
            Arc::new(DurationNanosecondArray::from(epochs.to_vec())),
            Arc::new(NullArray::new(3)),
        ];
        for scale in [0, 38, -9] {
            let decimals = wide().with_precision_and_scale(38, scale);
            arrays.push(Arc::new(decimals.map_err(|error| Error::invalid(error.to_string()))?));
        }
        let keys = Int8Array::from(vec![Some(0), None, Some(0), Some(2)]);
        let categories = StringArray::from(vec![controls, "b", "long enough"]);
        arrays.push(Arc::new(DictionaryArray::new(keys, Arc::new(categories))));
        let none = StringArray::from(Vec::<&str>::new());
        arrays.push(Arc::new(DictionaryArray::new(Int8Array::from(vec![None]), Arc::new(none))));
        for array in arrays {
            let field = Field::new("x", array.data_type().clone(), true);
            check(&field, Arc::clone(&array))?;
            let within = Arc::new(Field::new("item", array.data_type().clone(), true));
            let nested: ArrayRef = Arc::new(StructArray::from(vec![(within, Arc::clone(&array))]));
            check(&Field::new("x", nested.data_type().clone(), true), Arc::clone(&nested))?;
            let item = Arc::new(Field::new("item", nested.data_type().clone(), true));
            let offsets = OffsetBuffer::<i32>::from_lengths([0, nested.len()]);
            let lists: ArrayRef = Arc::new(ListArray::new(item, offsets, nested, None));
            check(&Field::new("x", lists.data_type().clone(), true), lists)?;
        }
        Ok(())
    }

    #[test]
    fn the_longest_of_nested_values_is_found() -> Result<()> {
        let mut texts = vec!["x".repeat(10); 1_000];
        texts[700] = "y".repeat(3_000);
        texts[900] = "z".repeat(2_000);
        let values: ArrayRef = Arc::new(StringArray::from(texts));
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let offsets = OffsetBuffer::<i32>::from_lengths(vec![1; 1_000]);
        let lists: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::clone(&values), None));
        for (array, around) in [(values, 0), (lists, 4)] {
            let field = Field::new("x", array.data_type().clone(), true);
            let column = Column::new(&field, &array)?;
            assert_eq!(column.longest(1_000, 1_000), Some((700, 3_000 + around)));
            assert_eq!(column.longest(1_000, 3_000 + around), None);
            assert_eq!(column.longest(700, 1_000), None);
        }
        Ok(())
    }
}
