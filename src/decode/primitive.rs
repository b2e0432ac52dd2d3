//! Columns of fixed-width values: one builder, and a parser for each dtype.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray};
use arrow_buffer::{BooleanBufferBuilder, NullBufferBuilder, ScalarBuffer};
use arrow_schema::DataType;

use super::column::{ColumnBuilder, Text, append_as_text};
use super::misfit::{Leaves, Misfit};
use super::packed::Scalar;
use crate::error::{Error, ErrorKind, Result};

/// Text to the value of one dtype.
pub(crate) trait Parse: Send {
    type Type: ArrowPrimitiveType;

    fn parse(&self, text: &[u8]) -> Result<<Self::Type as ArrowPrimitiveType>::Native, Misfit>;

    /// What a value that has no text yet is without making one; the same as by its text. Where that
    /// says more, or knows why it is none, there is nothing here.
    #[inline]
    fn convert(&self, _: Scalar) -> Option<<Self::Type as ArrowPrimitiveType>::Native> {
        None
    }
}

pub(crate) struct PrimitiveColumn<P: Parse> {
    parser: P,
    data_type: DataType,
    values: Vec<<P::Type as ArrowPrimitiveType>::Native>,
    nulls: NullBufferBuilder,
}

impl<P: Parse> PrimitiveColumn<P> {
    pub(crate) fn new(parser: P, data_type: DataType) -> Self {
        PrimitiveColumn { parser, data_type, values: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }
}

impl<P: Parse> ColumnBuilder for PrimitiveColumn<P> {
    fn len(&self) -> usize {
        self.values.len()
    }

    #[inline(always)]
    fn append(&mut self, text: Text<'_>, _: &mut Leaves) -> Result<(), Misfit> {
        self.values.push(self.parser.parse(text.bytes)?);
        self.nulls.append_non_null();
        Ok(())
    }

    #[inline]
    fn append_packed(&mut self, packed: &[u8], leaves: &mut Leaves) -> Result<(), Misfit> {
        let Some(value) = Scalar::of(packed).and_then(|scalar| self.parser.convert(scalar)) else {
            return append_as_text(self, packed, leaves);
        };
        self.values.push(value);
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_nulls(&mut self, count: usize) {
        self.values.resize(self.values.len() + count, Default::default());
        self.nulls.append_n_nulls(count);
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let values = ScalarBuffer::from(std::mem::take(&mut self.values));
        let array = PrimitiveArray::<P::Type>::try_new(values, self.nulls.finish())
            .map_err(internal)?
            .with_data_type(self.data_type.clone());
        Ok(Arc::new(array) as ArrayRef)
    }
}

/// An array that its builder did not put together rightly: a defect of this crate.
pub(crate) fn internal(error: arrow_schema::ArrowError) -> Error {
    Error::new(ErrorKind::Internal, "a column could not be put together; please report this")
        .with_source(error)
}

/// true/false, t/f, yes/no, 1/0, in any case.
pub(crate) struct BooleanColumn {
    values: BooleanBufferBuilder,
    nulls: NullBufferBuilder,
}

impl BooleanColumn {
    pub(crate) fn new() -> Self {
        BooleanColumn { values: BooleanBufferBuilder::new(0), nulls: NullBufferBuilder::new(0) }
    }
}

fn parse_boolean(text: &[u8]) -> Result<bool, Misfit> {
    let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
    match text {
        b"1" | b"true" => Ok(true),
        b"0" | b"false" => Ok(false),
        _ if is("true") || is("t") || is("yes") => Ok(true),
        _ if is("false") || is("f") || is("no") => Ok(false),
        _ => Err("is none of true/false, t/f, yes/no, 1/0".into()),
    }
}

impl ColumnBuilder for BooleanColumn {
    fn len(&self) -> usize {
        self.values.len()
    }

    #[inline(always)]
    fn append(&mut self, text: Text<'_>, _: &mut Leaves) -> Result<(), Misfit> {
        self.values.append(parse_boolean(text.bytes)?);
        self.nulls.append_non_null();
        Ok(())
    }

    #[inline]
    fn append_packed(&mut self, packed: &[u8], leaves: &mut Leaves) -> Result<(), Misfit> {
        let Some(Scalar::Boolean(value)) = Scalar::of(packed) else {
            return append_as_text(self, packed, leaves);
        };
        self.values.append(value);
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_nulls(&mut self, count: usize) {
        self.values.append_n(count, false);
        self.nulls.append_n_nulls(count);
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let array = BooleanArray::new(self.values.finish(), self.nulls.finish());
        debug_assert_eq!(array.data_type(), &DataType::Boolean);
        Ok(Arc::new(array))
    }
}
