//! Fields and arrays over Arrow's C data interface, as Polars exchanges them.
//!
//! Arrow has no 128-bit integer; Polars passes its own as the format `_pli128`, which arrow-rs
//! cannot read. Inside the crate such a field is a marked `Decimal128(38, 0)` of the same layout,
//! and only here the two are exchanged.
//!
//! Some of its arrays are not as the interface has them, either. Nulls have a buffer. And where a Struct
//! or an Array was sliced, its offset may count for its validity alone, because what is in it was sliced
//! as well. So those are put together here.

use std::collections::HashMap;
use std::ffi::c_void;
use std::slice;
use std::sync::Arc;

use arrow_array::ffi::{FFI_ArrowArray, from_ffi_and_data_type};
use arrow_array::{
    ArrayRef, FixedSizeListArray, GenericListArray, NullArray, OffsetSizeTrait, StructArray,
    make_array, new_empty_array,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
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

/// An array from the C data interface, of a type that [`import_field`] has given.
///
/// # Safety
///
/// It must be an array of this type, which nobody has released.
///
/// # Errors
///
/// Where its parts do not fit together.
pub unsafe fn import_array(
    array: FFI_ArrowArray,
    data_type: &DataType,
) -> Result<ArrayRef, ArrowError> {
    if array.is_empty() {
        // Categories without any are a dictionary that arrow-rs does not take.
        return Ok(new_empty_array(data_type));
    }
    // SAFETY: the caller says that it is of this type, and so its children are of theirs.
    unsafe {
        match data_type {
            DataType::Null => Ok(Arc::new(NullArray::new(array.len()))),
            DataType::Struct(fields) => import_struct(array, fields),
            DataType::List(item) => import_list::<i32>(array, item),
            DataType::LargeList(item) => import_list::<i64>(array, item),
            DataType::FixedSizeList(item, size) => import_fixed(array, item, *size),
            other => from_ffi_and_data_type(array, other.clone()).map(make_array),
        }
    }
}

unsafe fn import_struct(array: FFI_ArrowArray, fields: &Fields) -> Result<ArrayRef, ArrowError> {
    let (len, nulls) = (array.len(), nulls(&array));
    let columns = (0..).zip(fields).map(|(index, field)| {
        // SAFETY: the child is of its field's type.
        unsafe { import_child(&array, index, field.data_type(), 1) }
    });
    let columns = columns.collect::<Result<_, _>>()?;
    let made = StructArray::try_new_with_length(fields.clone(), columns, nulls, len)?;
    Ok(Arc::new(made))
}

unsafe fn import_fixed(
    array: FFI_ArrowArray,
    item: &FieldRef,
    size: i32,
) -> Result<ArrayRef, ArrowError> {
    let (len, nulls) = (array.len(), nulls(&array));
    let each = usize::try_from(size).map_err(|_| broken("an Array has a negative size"))?;
    // SAFETY: the child is of its field's type.
    let values = unsafe { import_child(&array, 0, item.data_type(), each)? };
    let item = Arc::clone(item);
    Ok(Arc::new(FixedSizeListArray::try_new_with_length(item, size, values, nulls, len)?))
}

unsafe fn import_list<O: OffsetSizeTrait>(
    array: FFI_ArrowArray,
    item: &FieldRef,
) -> Result<ArrayRef, ArrowError> {
    let (len, nulls) = (array.len(), nulls(&array));
    if array.num_buffers() < 2 || array.buffer(1).is_null() {
        return Err(broken("a List has no offsets"));
    }
    let start = array.buffer(1).cast::<O>();
    // SAFETY: after those that the array leaves out there is one more offset than it has values.
    let offsets = unsafe { slice::from_raw_parts(start.add(array.offset()), len + 1) };
    let is_order = offsets.is_sorted() && offsets.first().is_some_and(|first| *first >= O::zero());
    if !is_order {
        return Err(broken("the offsets of a List are in no order"));
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets.to_vec()));
    // SAFETY: the child is of its field's type.
    let values = unsafe { import_array(child(&array, 0)?, item.data_type())? };
    Ok(Arc::new(GenericListArray::try_new(Arc::clone(item), offsets, values, nulls)?))
}

/// The values of a child that belong to the parent's, each of which has that many.
unsafe fn import_child(
    parent: &FFI_ArrowArray,
    index: usize,
    data_type: &DataType,
    each: usize,
) -> Result<ArrayRef, ArrowError> {
    let (start, wanted) = (parent.offset() * each, parent.len() * each);
    // SAFETY: the child is of this type, says the caller.
    let values = unsafe { import_array(child(parent, index)?, data_type)? };
    if values.len() >= start + wanted {
        Ok(values.slice(start, wanted))
    } else if values.len() == wanted {
        Ok(values)
    } else {
        Err(broken("a column has fewer values than rows"))
    }
}

/// Moves a child out of its parent, which allows that.
///
/// # Safety
///
/// The parent must be an array that nobody has released.
unsafe fn child(parent: &FFI_ArrowArray, index: usize) -> Result<FFI_ArrowArray, ArrowError> {
    /// The beginning of an array, as the interface lays it out.
    #[repr(C)]
    struct Layout {
        numbers: [i64; 5],
        buffers: *mut *const c_void,
        children: *mut *mut FFI_ArrowArray,
    }

    if index >= parent.num_children() {
        return Err(broken("a column lacks a part"));
    }
    let layout = std::ptr::from_ref(parent).cast::<Layout>();
    // SAFETY: there are that many children, none of which anybody else refers to.
    Ok(unsafe { FFI_ArrowArray::from_raw(*(*layout).children.add(index)) })
}

/// Which values of an array are there; `None` where all are.
fn nulls(array: &FFI_ArrowArray) -> Option<NullBuffer> {
    let (offset, len) = (array.offset(), array.len());
    if array.num_buffers() == 0 || array.buffer(0).is_null() {
        return None;
    }
    // SAFETY: there is a bit for each value, after those that the array leaves out.
    let bits = unsafe { slice::from_raw_parts(array.buffer(0), (offset + len).div_ceil(8)) };
    let nulls = NullBuffer::new(BooleanBuffer::new(Buffer::from(bits), offset, len));
    (nulls.null_count() > 0).then_some(nulls)
}

fn broken(what: &str) -> ArrowError {
    ArrowError::CDataInterface(what.to_owned())
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{Int8Type, UInt32Type};
    use arrow_array::{Array, DictionaryArray, Int8Array, ListArray};

    use super::*;

    #[test]
    fn what_is_exported_is_imported_also_in_slices() -> Result<(), ArrowError> {
        let numbers: ArrayRef = Arc::new(Int8Array::from(vec![Some(1), None, Some(3), None]));
        let words: DictionaryArray<UInt32Type> =
            vec![None, Some("a"), Some("b"), None].into_iter().collect();
        let lists = ListArray::from_iter_primitive::<Int8Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
            Some(vec![Some(2)]),
        ]);
        let item = Arc::new(Field::new("item", DataType::Int8, true));
        let pairs: Int8Array = (0..8).collect();
        let nulls = NullBuffer::from(vec![true, false, true, true]);
        let pairs = FixedSizeListArray::try_new(item, 2, Arc::new(pairs), Some(nulls.clone()))?;
        let columns: Vec<ArrayRef> = vec![
            numbers,
            Arc::new(words),
            Arc::new(lists),
            Arc::new(pairs),
            Arc::new(NullArray::new(4)),
        ];
        let field = |(n, column): (usize, &ArrayRef)| {
            Field::new(n.to_string(), column.data_type().clone(), true)
        };
        let fields: Fields = columns.iter().enumerate().map(field).collect();
        let rows = StructArray::try_new(fields, columns, Some(nulls))?;
        for (start, len) in [(0, 4), (1, 2), (3, 1), (2, 0)] {
            let part = rows.slice(start, len);
            let exported = FFI_ArrowArray::new(&part.to_data());
            // SAFETY: it is of this type.
            let imported = unsafe { import_array(exported, part.data_type())? };
            assert_eq!(imported.to_data(), part.to_data());
        }
        Ok(())
    }
}
