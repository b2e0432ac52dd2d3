//! Columns of strings and bytes, as view arrays; and categories, as dictionaries of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::types::{ArrowDictionaryKeyType, UInt8Type, UInt16Type, UInt32Type};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BinaryViewArray, DictionaryArray, PrimitiveArray, StringViewArray,
};
use arrow_buffer::{Buffer, NullBufferBuilder, ScalarBuffer};
use arrow_schema::DataType;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::column::{ColumnBuilder, Origin, Text, append_as_text};
use super::dictionaries::Members;
use super::misfit::{Leaves, Misfit};
use super::primitive::internal;
use crate::dtype::most_categories;
use crate::error::Result;

/// Values of any length as views: twelve bytes or less lie in the view itself, longer ones in
/// blocks that the views point into.
#[derive(Default)]
struct Views {
    views: Vec<u128>,
    /// Full blocks.
    blocks: Vec<Buffer>,
    /// The block that is being filled; it never grows, so that a value is written once.
    block: Vec<u8>,
}

/// The parts that a view array is made of.
struct ViewParts {
    views: ScalarBuffer<u128>,
    buffers: Vec<Buffer>,
}

impl Views {
    /// Small, for there may be ten thousand columns of one value each.
    const FIRST_BLOCK: usize = 1024;
    const LARGEST_BLOCK: usize = 4 * 1024 * 1024;

    #[inline]
    fn push(&mut self, bytes: &[u8]) -> Result<(), Misfit> {
        // Offsets and lengths of views are 31 bits wide.
        let Ok(len) = i32::try_from(bytes.len()) else {
            return Err("is longer than 2147483647 bytes".into());
        };
        let mut view = [0u8; 16];
        let (length, rest) = view.split_at_mut(4);
        length.copy_from_slice(&len.to_le_bytes());
        if let Some(inline) = rest.get_mut(..bytes.len()) {
            inline.copy_from_slice(bytes);
        } else {
            let (index, offset) = self.store(bytes)?;
            let (prefix, place) = rest.split_at_mut(4);
            prefix.copy_from_slice(bytes.get(..4).unwrap_or_default());
            let (index_bytes, offset_bytes) = place.split_at_mut(4);
            index_bytes.copy_from_slice(&index.to_le_bytes());
            offset_bytes.copy_from_slice(&offset.to_le_bytes());
        }
        self.views.push(u128::from_le_bytes(view));
        Ok(())
    }

    /// Copies the bytes into a block; gives the block's index and the offset in it.
    #[inline]
    fn store(&mut self, bytes: &[u8]) -> Result<(i32, i32), Misfit> {
        if self.block.len() + bytes.len() > self.block.capacity() {
            self.next_block(bytes.len());
        }
        let offset = self.block.len();
        self.block.extend_from_slice(bytes);
        match (i32::try_from(self.blocks.len()), i32::try_from(offset)) {
            (Ok(index), Ok(offset)) => Ok((index, offset)),
            _ => Err("exceeds what one column can hold".into()),
        }
    }

    #[cold]
    fn next_block(&mut self, needed: usize) {
        let size = match self.block.capacity() {
            0 => Self::FIRST_BLOCK,
            capacity => (capacity * 2).min(Self::LARGEST_BLOCK),
        };
        let full = std::mem::replace(&mut self.block, Vec::with_capacity(size.max(needed)));
        if !full.is_empty() {
            self.blocks.push(Buffer::from_vec(full));
        }
    }

    fn finish(&mut self) -> ViewParts {
        let Views { views, blocks: mut buffers, block } = std::mem::take(self);
        if !block.is_empty() {
            buffers.push(Buffer::from_vec(block));
        }
        ViewParts { views: ScalarBuffer::from(views), buffers }
    }
}

/// What bytes a column of views accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Utf8,
    /// Inside JSON, which has no bytes of its own, as base64; other formats have them.
    Binary,
}

pub(crate) struct ViewColumn {
    content: Content,
    views: Views,
    nulls: NullBufferBuilder,
}

impl ViewColumn {
    pub(crate) fn new(content: Content) -> Self {
        ViewColumn { content, views: Views::default(), nulls: NullBufferBuilder::new(0) }
    }

    /// Appends bytes that are known to be UTF-8, such as an entry ID.
    #[inline]
    pub(crate) fn append_utf8(&mut self, bytes: &[u8]) {
        if self.push(Text { bytes, is_utf8: true, origin: Origin::Field }).is_err() {
            self.append_nulls(1);
        }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, text: Text<'_>) -> Result<(), Misfit> {
        match self.content {
            Content::Utf8 => {
                check_utf8(text)?;
                self.views.push(text.bytes)?;
            }
            Content::Binary if matches!(text.origin, Origin::Field | Origin::Bytes) => {
                self.views.push(text.bytes)?;
            }
            Content::Binary => {
                let bytes = BASE64_STANDARD
                    .decode(text.bytes)
                    .map_err(|_| Misfit::from("is not base64, as bytes inside JSON must be"))?;
                self.views.push(&bytes)?;
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }
}

#[inline]
fn check_utf8(text: Text<'_>) -> Result<(), Misfit> {
    match text.is_utf8 || simdutf8::basic::from_utf8(text.bytes).is_ok() {
        true => Ok(()),
        false if matches!(text.origin, Origin::JsonString | Origin::Json) => {
            Err("is not UTF-8, as JSON must be".into())
        }
        false if text.origin == Origin::Bytes => Err("is not UTF-8; read it as Binary".into()),
        false => Err("is not UTF-8; read the field as Binary".into()),
    }
}

impl ColumnBuilder for ViewColumn {
    fn len(&self) -> usize {
        self.views.views.len()
    }

    #[inline(always)]
    fn append(&mut self, text: Text<'_>, _: &mut Leaves) -> Result<(), Misfit> {
        self.push(text)
    }

    fn append_packed(&mut self, packed: &[u8], leaves: &mut Leaves) -> Result<(), Misfit> {
        match self.content {
            Content::Utf8 => append_as_text(self, packed, leaves),
            Content::Binary => Err("is neither bytes nor text".into()),
        }
    }

    fn append_nulls(&mut self, count: usize) {
        self.views.views.resize(self.views.views.len() + count, 0);
        self.nulls.append_n_nulls(count);
    }

    fn truncate(&mut self, len: usize) {
        self.views.views.truncate(len);
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let ViewParts { views, buffers } = self.views.finish();
        let nulls = self.nulls.finish();
        Ok(match self.content {
            Content::Utf8 => {
                // SAFETY: `Views::push` made each view from its own length and, where it is longer
                // than twelve bytes, its prefix, the index of an existing buffer and an offset
                // within it; null views are zero. `check_utf8` saw the bytes of each, or the caller
                // vouched for them: entry IDs are digits and a dash, an Enum's members are strings.
                Arc::new(unsafe { StringViewArray::new_unchecked(views, buffers, nulls) })
            }
            Content::Binary => {
                // SAFETY: as above; bytes need no check.
                Arc::new(unsafe { BinaryViewArray::new_unchecked(views, buffers, nulls) })
            }
        })
    }
}

/// Categories: a dictionary that grows (Categorical) or whose members are given (Enum).
pub(crate) struct DictionaryColumn {
    key_type: DataType,
    keys: Vec<u32>,
    nulls: NullBufferBuilder,
    /// Those that grow.
    index: HashMap<Box<[u8]>, u32>,
    values: ViewColumn,
    members: Option<Arc<Members>>,
}

impl DictionaryColumn {
    pub(crate) fn new(key_type: DataType, members: Option<Arc<Members>>) -> Self {
        DictionaryColumn {
            key_type,
            keys: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            index: HashMap::new(),
            values: ViewColumn::new(Content::Utf8),
            members,
        }
    }

    #[cold]
    fn add(&mut self, text: Text<'_>) -> Result<u32, Misfit> {
        if self.members.is_some() {
            return Err("is not a member of the Enum".into());
        }
        let key = u32::try_from(self.values.len())
            .ok()
            .filter(|key| *key < most_categories(&self.key_type))
            .ok_or_else(|| Misfit::from("is one category more than the dtype can hold"))?;
        self.values.push(text)?;
        self.index.insert(text.bytes.into(), key);
        Ok(key)
    }

    fn dictionary<K: ArrowDictionaryKeyType>(
        keys: Vec<u32>,
        convert: impl Fn(u32) -> <K as ArrowPrimitiveType>::Native,
        nulls: Option<arrow_buffer::NullBuffer>,
        values: ArrayRef,
    ) -> Result<ArrayRef> {
        let keys: Vec<_> = keys.into_iter().map(convert).collect();
        let keys = PrimitiveArray::<K>::try_new(keys.into(), nulls).map_err(internal)?;
        Ok(Arc::new(DictionaryArray::try_new(keys, values).map_err(internal)?))
    }
}

impl ColumnBuilder for DictionaryColumn {
    fn len(&self) -> usize {
        self.keys.len()
    }

    #[inline(always)]
    fn append(&mut self, text: Text<'_>, _: &mut Leaves) -> Result<(), Misfit> {
        let index = self.members.as_ref().map_or(&self.index, |members| &members.keys);
        let key = match index.get(text.bytes) {
            Some(key) => *key,
            None => self.add(text)?,
        };
        self.keys.push(key);
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_nulls(&mut self, count: usize) {
        self.keys.resize(self.keys.len() + count, 0);
        self.nulls.append_n_nulls(count);
    }

    fn truncate(&mut self, len: usize) {
        self.keys.truncate(len);
        self.nulls.truncate(len);
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let keys = std::mem::take(&mut self.keys);
        let nulls = self.nulls.finish();
        let values = match &self.members {
            Some(members) => Arc::clone(&members.values),
            None => {
                self.index.clear();
                self.values.finish()?
            }
        };
        // `add` and `make_builder` keep keys within the key type, so the casts lose nothing.
        match self.key_type {
            DataType::UInt8 => Self::dictionary::<UInt8Type>(keys, |key| key as u8, nulls, values),
            DataType::UInt16 => {
                Self::dictionary::<UInt16Type>(keys, |key| key as u16, nulls, values)
            }
            _ => Self::dictionary::<UInt32Type>(keys, |key| key, nulls, values),
        }
    }
}
