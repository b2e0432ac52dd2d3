//! Lists, arrays and structs from JSON, and from what a payload of another format has in their place.
//!
//! A value is split into its elements, and each goes to the builder of its own dtype: inside JSON,
//! `"2024-01-31"` is a date by the same rule as outside, and `""` is null.

use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, LargeListArray, ListArray, StructArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{FieldRef, Fields};

use super::column::{ColumnBuilder, Origin, Text, append_value};
use super::json::Json;
use super::make::Made;
use super::misfit::{Leaves, Misfit, Step};
use super::packed::Packed;
use super::primitive::internal;
use super::value::{Kind, Notation, Value};
use crate::error::{Result, counted};

/// Appends a value inside another to the builder of its dtype; null where it does not fit.
fn append_inner<N: Notation>(
    child: &mut Made,
    field: &FieldRef,
    (value, outer): (Value, Text<'_>),
    leaves: &mut Leaves,
    step: impl Fn() -> Step,
) {
    let raw = value.of(outer.bytes);
    let unescaped: Vec<u8>;
    let (bytes, is_utf8) = match value.is_escaped() {
        false => (raw, outer.is_utf8),
        true => {
            let mut text = Vec::with_capacity(raw.len());
            N::push_string(raw, &mut text);
            unescaped = text;
            (unescaped.as_slice(), false)
        }
    };
    let text = Text { bytes, is_utf8, origin: N::origin(value.kind) };
    if child.nulls.make_null(text) {
        child.builder.append_nulls(1);
        return;
    }
    let known = leaves.len();
    if let Err(misfit) = append_value(&mut *child.builder, text, leaves) {
        child.builder.append_nulls(1);
        leaves.add(field, &text.shown(), misfit);
    }
    leaves.lie_in(known, step);
}

/// As MessagePack has it.
fn packed(bytes: &[u8]) -> Text<'_> {
    Text { bytes, is_utf8: false, origin: Origin::Packed }
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

    /// An element that does not fit is null; a value that is no such list is refused.
    fn read<N: Notation>(&mut self, text: Text<'_>, leaves: &mut Leaves) -> Result<(), Misfit> {
        if N::is_null(text.bytes) {
            self.append_nulls(1);
            return Ok(());
        }
        let (start, known) = (self.child.builder.len(), leaves.len());
        let mut index = 0;
        let split = N::split_array(text.bytes, |value| {
            let step = || Step::Index(index);
            append_inner::<N>(&mut self.child, &self.item, (value, text), leaves, step);
            index += 1;
        });
        let refused = match (split, &self.shape) {
            (Err(_), _) => Some(N::NO_ARRAY.into()),
            (_, ListShape::Fixed { size, .. }) if index != fixed_len(*size, 1) => {
                Some(format!("has {}, not {size}", counted(index, "element", "elements")).into())
            }
            _ => None,
        };
        if let Some(misfit) = refused {
            self.child.builder.truncate(start);
            leaves.truncate(known);
            return Err(misfit);
        }
        match &mut self.shape {
            ListShape::Variable { large, offsets } => {
                let end = self.child.builder.len();
                match i64::try_from(end) {
                    Ok(end) if *large || end <= i64::from(i32::MAX) => offsets.push(end),
                    _ => {
                        self.child.builder.truncate(start);
                        leaves.truncate(known);
                        return Err("makes the column longer than its dtype allows".into());
                    }
                }
            }
            ListShape::Fixed { rows, .. } => *rows += 1,
        }
        self.nulls.append_non_null();
        Ok(())
    }
}

/// The number of elements in a number of lists of a fixed size.
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

    fn append(&mut self, text: Text<'_>, leaves: &mut Leaves) -> Result<(), Misfit> {
        self.read::<Json>(text, leaves)
    }

    fn append_packed(&mut self, bytes: &[u8], leaves: &mut Leaves) -> Result<(), Misfit> {
        self.read::<Packed>(packed(bytes), leaves)
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
    /// The values of one object, in the order of the fields.
    members: Vec<Option<Value>>,
}

impl StructColumn {
    pub(crate) fn new(fields: Fields, children: Vec<Made>) -> Self {
        StructColumn { fields, children, nulls: NullBufferBuilder::new(0), members: Vec::new() }
    }

    /// Finds the members of an object that are fields.
    fn split<N: Notation>(&mut self, text: Text<'_>) -> Result<(), Misfit> {
        let StructColumn { fields, members, .. } = self;
        members.clear();
        members.resize(fields.len(), None);
        let mut next = 0;
        let mut name = Vec::new();
        let split = N::split_object(text.bytes, |key, value| {
            let mut wanted = key.of(text.bytes);
            if !matches!(key.kind, Kind::String { escaped: false }) {
                name.clear();
                N::push_text(key, text.bytes, &mut name);
                wanted = &name;
            }
            let is_it = |field: &FieldRef| field.name().as_bytes() == wanted;
            // Most objects have their keys in the order of the fields.
            let index = match fields.get(next).is_some_and(is_it) {
                true => Some(next),
                false => fields.iter().position(is_it),
            };
            // Of a repeated key the last wins, as in every JSON library's dict.
            if let Some(index) = index
                && let Some(member) = members.get_mut(index)
            {
                *member = Some(value);
                next = index + 1;
            }
        });
        split.map_err(|_| N::NO_OBJECT.into())
    }

    /// A key that is missing is null, as is one whose value does not fit; one that the dtype does not
    /// know is left out.
    fn read<N: Notation>(&mut self, text: Text<'_>, leaves: &mut Leaves) -> Result<(), Misfit> {
        if N::is_null(text.bytes) {
            self.append_nulls(1);
            return Ok(());
        }
        self.split::<N>(text)?;
        let children = self.fields.iter().zip(&mut self.children);
        for ((field, child), member) in children.zip(&self.members) {
            match member {
                Some(value) => {
                    let step = || Step::Key(Arc::clone(field));
                    append_inner::<N>(child, field, (*value, text), leaves, step);
                }
                None => child.builder.append_nulls(1),
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }
}

impl ColumnBuilder for StructColumn {
    fn len(&self) -> usize {
        self.nulls.len()
    }

    fn append(&mut self, text: Text<'_>, leaves: &mut Leaves) -> Result<(), Misfit> {
        self.read::<Json>(text, leaves)
    }

    fn append_packed(&mut self, bytes: &[u8], leaves: &mut Leaves) -> Result<(), Misfit> {
        self.read::<Packed>(packed(bytes), leaves)
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
