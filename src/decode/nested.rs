//! Lists, arrays and structs from JSON.
//!
//! A value is split into the texts of its elements, and each goes to the builder of its own dtype:
//! inside JSON, `"2024-01-31"` is a date by the same rule as outside, and `""` is null.

use std::fmt;
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, LargeListArray, ListArray, StructArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{FieldRef, Fields};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::column::{ColumnBuilder, Misfit, Text};
use super::make::Made;
use super::primitive::internal;
use crate::error::Result;

/// What a field of JSON holds when there is no list or struct.
const JSON_NULL: &[u8] = b"null";

/// Appends one JSON value to the builder of its dtype.
fn append_json(child: &mut Made, value: &RawValue) -> Result<(), Misfit> {
    let text = value.get();
    let unescaped: String;
    let bytes = match text.as_bytes() {
        JSON_NULL => {
            child.builder.append_nulls(1);
            return Ok(());
        }
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => inner,
        [b'"', ..] => {
            unescaped =
                serde_json::from_str(text).map_err(|_| Misfit::from("is not a JSON string"))?;
            unescaped.as_bytes()
        }
        text => text,
    };
    if child.nulls.is_null(bytes) {
        child.builder.append_nulls(1);
        return Ok(());
    }
    child.builder.append(Text { bytes, is_utf8: true })
}

fn utf8(text: Text<'_>) -> Result<&str, Misfit> {
    simdutf8::basic::from_utf8(text.bytes).map_err(|_| "is not UTF-8, as JSON must be".into())
}

fn at(place: impl std::fmt::Display, misfit: Misfit) -> Misfit {
    format!("does not fit at {place}: {}", misfit.0).into()
}

/// The texts of a list's elements.
fn parse_list(text: Text<'_>) -> Result<Vec<&RawValue>, Misfit> {
    serde_json::from_str(utf8(text)?).map_err(|_| "is not a JSON array".into())
}

/// The texts of a struct's fields, in the order of the fields.
fn parse_struct<'a>(fields: &Fields, text: Text<'a>) -> Result<Vec<Option<&'a RawValue>>, Misfit> {
    let mut json = serde_json::Deserializer::from_str(utf8(text)?);
    let members = Members(fields).deserialize(&mut json);
    members
        .and_then(|members| json.end().map(|()| members))
        .map_err(|_| "is not a JSON object".into())
}

/// Picks the members of an object that are fields of a struct.
struct Members<'f>(&'f Fields);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut members = vec![None; self.0.len()];
        while let Some(index) = object.next_key_seed(Key(self.0))? {
            let value = object.next_value()?;
            // Of a repeated key the last wins, as in every JSON library's dict.
            if let Some(member) = index.and_then(|index| members.get_mut(index)) {
                *member = Some(value);
            }
        }
        Ok(members)
    }
}

/// Finds the field that a key names.
struct Key<'f>(&'f Fields);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|field| field.name() == key))
    }
}

/// How a list column delimits its lists.
enum ListShape {
    /// `List` has offsets of 32 bits, `LargeList` of 64.
    Variable {
        large: bool,
        offsets: Vec<i64>,
    },
    Fixed {
        size: i32,
        rows: usize,
    },
}

pub(crate) struct ListColumn {
    item: FieldRef,
    child: Made,
    shape: ListShape,
    nulls: NullBufferBuilder,
}

impl ListColumn {
    pub(crate) fn variable(item: FieldRef, child: Made, large: bool) -> Self {
        let shape = ListShape::Variable { large, offsets: vec![0] };
        ListColumn { item, child, shape, nulls: NullBufferBuilder::new(0) }
    }

    pub(crate) fn fixed(item: FieldRef, child: Made, size: i32) -> Self {
        let shape = ListShape::Fixed { size, rows: 0 };
        ListColumn { item, child, shape, nulls: NullBufferBuilder::new(0) }
    }
}

/// The number of elements in so many lists of a fixed size.
fn fixed_len(size: i32, rows: usize) -> usize {
    usize::try_from(size).unwrap_or(0) * rows
}

impl ColumnBuilder for ListColumn {
    fn len(&self) -> usize {
        match &self.shape {
            ListShape::Variable { offsets, .. } => offsets.len() - 1,
            ListShape::Fixed { rows, .. } => *rows,
        }
    }

    fn append(&mut self, text: Text<'_>) -> Result<(), Misfit> {
        if text.bytes == JSON_NULL {
            self.append_nulls(1);
            return Ok(());
        }
        let values = parse_list(text)?;
        if let ListShape::Fixed { size, .. } = self.shape
            && values.len() != fixed_len(size, 1)
        {
            return Err(format!("has {} elements, not {size}", values.len()).into());
        }
        let start = self.child.builder.len();
        for (index, value) in values.iter().enumerate() {
            if let Err(misfit) = append_json(&mut self.child, value) {
                self.child.builder.truncate(start);
                return Err(at(format_args!("[{index}]"), misfit));
            }
        }
        match &mut self.shape {
            ListShape::Variable { large, offsets } => {
                let end = self.child.builder.len();
                match i64::try_from(end) {
                    Ok(end) if *large || end <= i64::from(i32::MAX) => offsets.push(end),
                    _ => {
                        self.child.builder.truncate(start);
                        return Err("makes the column longer than its dtype allows".into());
                    }
                }
            }
            ListShape::Fixed { rows, .. } => *rows += 1,
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_nulls(&mut self, count: usize) {
        match &mut self.shape {
            ListShape::Variable { offsets, .. } => {
                let end = offsets.last().copied().unwrap_or(0);
                offsets.resize(offsets.len() + count, end);
            }
            ListShape::Fixed { size, rows } => {
                self.child.builder.append_nulls(fixed_len(*size, count));
                *rows += count;
            }
        }
        self.nulls.append_n_nulls(count);
    }

    fn truncate(&mut self, len: usize) {
        match &mut self.shape {
            ListShape::Variable { offsets, .. } => {
                offsets.truncate(len + 1);
                let end = offsets.last().copied().unwrap_or(0);
                self.child.builder.truncate(usize::try_from(end).unwrap_or(0));
            }
            ListShape::Fixed { size, rows } => {
                *rows = len;
                self.child.builder.truncate(fixed_len(*size, len));
            }
        }
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let values = self.child.builder.finish()?;
        let nulls = self.nulls.finish();
        let item = Arc::clone(&self.item);
        match &mut self.shape {
            ListShape::Fixed { size, rows } => {
                let rows = std::mem::take(rows);
                let array =
                    FixedSizeListArray::try_new_with_length(item, *size, values, nulls, rows);
                Ok(Arc::new(array.map_err(internal)?))
            }
            ListShape::Variable { large, offsets } => {
                let offsets = std::mem::replace(offsets, vec![0]);
                if *large {
                    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                    let array = LargeListArray::try_new(item, offsets, values, nulls);
                    return Ok(Arc::new(array.map_err(internal)?));
                }
                // `append` keeps them within 31 bits.
                let offsets: Vec<i32> = offsets.into_iter().map(|offset| offset as i32).collect();
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                let array = ListArray::try_new(item, offsets, values, nulls);
                Ok(Arc::new(array.map_err(internal)?))
            }
        }
    }
}

pub(crate) struct StructColumn {
    fields: Fields,
    children: Vec<Made>,
    nulls: NullBufferBuilder,
}

impl StructColumn {
    pub(crate) fn new(fields: Fields, children: Vec<Made>) -> Self {
        StructColumn { fields, children, nulls: NullBufferBuilder::new(0) }
    }
}

impl ColumnBuilder for StructColumn {
    fn len(&self) -> usize {
        self.nulls.len()
    }

    /// A key that is missing is null; one that the dtype does not know is left out.
    fn append(&mut self, text: Text<'_>) -> Result<(), Misfit> {
        if text.bytes == JSON_NULL {
            self.append_nulls(1);
            return Ok(());
        }
        let members = parse_struct(&self.fields, text)?;
        let start = self.nulls.len();
        for ((field, child), member) in self.fields.iter().zip(&mut self.children).zip(members) {
            let appended = match member {
                Some(value) => append_json(child, value),
                None => {
                    child.builder.append_nulls(1);
                    Ok(())
                }
            };
            if let Err(misfit) = appended {
                let misfit = at(format_args!("{:?}", field.name()), misfit);
                self.children.iter_mut().for_each(|child| child.builder.truncate(start));
                return Err(misfit);
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_nulls(&mut self, count: usize) {
        self.children.iter_mut().for_each(|child| child.builder.append_nulls(count));
        self.nulls.append_n_nulls(count);
    }

    fn truncate(&mut self, len: usize) {
        self.children.iter_mut().for_each(|child| child.builder.truncate(len));
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let rows = self.nulls.len();
        let nulls = self.nulls.finish();
        let children: Result<Vec<ArrayRef>> =
            self.children.iter_mut().map(|child| child.builder.finish()).collect();
        let array = StructArray::try_new_with_length(self.fields.clone(), children?, nulls, rows);
        Ok(Arc::new(array.map_err(internal)?))
    }
}
