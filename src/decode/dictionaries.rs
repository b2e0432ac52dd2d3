//! Dictionaries of arrays whose rows are put together.
//!
//! Arrow writes the dictionaries of several arrays one after the other unless they are the same memory: more
//! than small keys can tell apart, and the members of an Enum more than once. So those of a read's
//! Enums are made once, and what else differs is made one here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowDictionaryKeyType, UInt8Type, UInt16Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, DictionaryArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
    StringViewArray, make_array, new_empty_array,
};
use arrow_buffer::ArrowNativeType;
use arrow_data::ArrayData;
use arrow_schema::{DataType, Field, FieldRef, SchemaRef};
use arrow_select::concat::concat;

use super::primitive::internal;
use crate::dtype::{has_dictionary, most_categories};
use crate::error::{Error, ErrorKind, Result};

/// The members of an Enum, and the key of each.
#[derive(Debug)]
pub(crate) struct Members {
    pub(super) values: ArrayRef,
    pub(super) keys: HashMap<Box<[u8]>, u32>,
}

impl Members {
    fn new(members: &[&str]) -> Self {
        let keys = members.iter().map(|member| Box::from(member.as_bytes())).zip(0..).collect();
        Members { values: Arc::new(StringViewArray::from_iter_values(members)), keys }
    }
}

/// The members of all Enums of a schema and its copies, by the texts that list them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Enums(Arc<Mutex<HashMap<String, Arc<Members>>>>);

impl Enums {
    /// The members that a text lists, each behind its length; `None` where it lists none that way.
    pub(super) fn members(&self, text: &str) -> Option<Arc<Members>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(members) = known.get(text) {
            return Some(Arc::clone(members));
        }
        let members = Arc::new(Members::new(&listed(text)?));
        known.insert(text.to_owned(), Arc::clone(&members));
        Some(members)
    }
}

fn listed(mut rest: &str) -> Option<Vec<&str>> {
    let mut members = Vec::new();
    while !rest.is_empty() {
        let (len, tail) = rest.split_once(';')?;
        let (member, tail) = tail.split_at_checked(len.parse().ok()?)?;
        members.push(member);
        rest = tail;
    }
    Some(members)
}

/// The same columns of one field, whose dictionaries are one where rows of them could not be put together
/// otherwise; at any depth.
///
/// # Errors
///
/// [`Schema`](ErrorKind::Schema) where they have more categories than the dtype tells apart.
pub(crate) fn with_one_dictionary(field: &Field, columns: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
    if columns.len() < 2 || !has_dictionary(field.data_type()) {
        return Ok(columns);
    }
    let data: Vec<ArrayData> = columns.iter().map(Array::to_data).collect();
    let unified = unified(&data).map_err(|error| error.with_context("field", field.name()))?;
    Ok(unified.map_or(columns, |unified| unified.into_iter().map(make_array).collect()))
}

/// The rows of batches with these columns, one batch after the other.
///
/// # Errors
///
/// As [`with_one_dictionary`].
pub(crate) fn joined(schema: &SchemaRef, batches: &[&RecordBatch]) -> Result<RecordBatch> {
    let column = |(column, field): (usize, &FieldRef)| {
        let parts = batches.iter().map(|batch| Arc::clone(batch.column(column))).collect();
        let parts = with_one_dictionary(field, parts)?;
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        match parts.is_empty() {
            true => Ok(new_empty_array(field.data_type())),
            false => concat(&parts).map_err(internal),
        }
    };
    let columns: Result<Vec<ArrayRef>> = schema.fields().iter().enumerate().map(column).collect();
    let rows = batches.iter().map(|batch| batch.num_rows()).sum();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &options).map_err(internal)
}

/// `None` where nothing has to change.
fn unified(all: &[ArrayData]) -> Result<Option<Vec<ArrayData>>> {
    let Some(first) = all.first() else { return Ok(None) };
    match first.data_type() {
        DataType::Dictionary(key, value) if **value == DataType::Utf8View => match **key {
            DataType::UInt8 => of_one_level::<UInt8Type>(all),
            DataType::UInt16 => of_one_level::<UInt16Type>(all),
            DataType::UInt32 => of_one_level::<UInt32Type>(all),
            _ => Ok(None),
        },
        data_type if has_dictionary(data_type) => {
            let mut changed: Option<Vec<ArrayData>> = None;
            for child in 0..first.child_data().len() {
                let children = all.iter().filter_map(|data| data.child_data().get(child).cloned());
                let Some(children) = unified(&children.collect::<Vec<_>>())? else { continue };
                let with_child = |(data, one): (&ArrayData, ArrayData)| {
                    let mut children = data.child_data().to_vec();
                    children.get_mut(child).into_iter().for_each(|child| *child = one.clone());
                    let builder = data.clone().into_builder().child_data(children);
                    builder.build().map_err(internal)
                };
                let before = changed.as_deref().unwrap_or(all);
                let with_child: Result<_> = before.iter().zip(children).map(with_child).collect();
                changed = Some(with_child?);
            }
            Ok(changed)
        }
        _ => Ok(None),
    }
}

fn of_one_level<K: ArrowDictionaryKeyType>(all: &[ArrayData]) -> Result<Option<Vec<ArrayData>>> {
    let values: Vec<&ArrayData> = all.iter().flat_map(ArrayData::child_data).collect();
    if values.iter().zip(values.iter().skip(1)).all(|(one, next)| one.ptr_eq(next)) {
        return Ok(None);
    }
    let arrays: Vec<DictionaryArray<K>> = all.iter().cloned().map(Into::into).collect();
    // Those without a value are columns of nulls.
    let there = || arrays.iter().map(DictionaryArray::values).filter(|values| !values.is_empty());
    let Some(base) = there().next() else { return Ok(None) };
    if there().all(|values| values == base) {
        let with_base = |array: &DictionaryArray<K>| array.with_values(Arc::clone(base)).to_data();
        return Ok(Some(arrays.iter().map(with_base).collect()));
    }
    let most = most_categories(&K::DATA_TYPE) as usize;
    if there().map(|values| values.len()).sum::<usize>() <= most {
        // Arrow puts them together.
        return Ok(None);
    }
    let mut keys: HashMap<&str, usize> = HashMap::new();
    let mut merged: Vec<&str> = Vec::new();
    let mut places: Vec<Vec<K::Native>> = Vec::with_capacity(arrays.len());
    for array in &arrays {
        let mut of_array = Vec::with_capacity(array.values().len());
        for text in array.values().as_string_view().iter().map(Option::unwrap_or_default) {
            let key = *keys.entry(text).or_insert_with(|| {
                merged.push(text);
                merged.len() - 1
            });
            let key = Some(key).filter(|key| *key < most).and_then(K::Native::from_usize);
            of_array.push(key.ok_or_else(too_many)?);
        }
        places.push(of_array);
    }
    let values: ArrayRef = Arc::new(StringViewArray::from_iter_values(merged));
    let mapped = |(array, places): (&DictionaryArray<K>, &Vec<K::Native>)| {
        let place = |key: K::Native| places.get(key.as_usize()).copied().unwrap_or_default();
        let keys: PrimitiveArray<K> = array.keys().unary(place);
        let mapped = DictionaryArray::try_new(keys, Arc::clone(&values)).map_err(internal)?;
        Ok(mapped.to_data())
    };
    arrays.iter().zip(&places).map(mapped).collect::<Result<_>>().map(Some)
}

fn too_many() -> Error {
    Error::new(ErrorKind::Schema, "the column has more categories than its dtype can hold")
        .with_advice("read the field as a String, or as a Categorical of a larger physical type")
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use arrow_array::{ListArray, UInt8Array, new_null_array};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::Schema;

    use super::*;

    fn category() -> DataType {
        DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8View))
    }

    /// Each number once, as text.
    fn numbers(range: Range<usize>) -> ArrayRef {
        let keys: UInt8Array = (0..range.len()).map(|key| u8::try_from(key).ok()).collect();
        let values: StringViewArray = range.map(|number| Some(number.to_string())).collect();
        Arc::new(DictionaryArray::new(keys, Arc::new(values)))
    }

    /// All values as one list.
    fn list(values: ArrayRef) -> ArrayRef {
        let item = Arc::new(Field::new("item", category(), true));
        let offsets = OffsetBuffer::from_lengths([values.len()]);
        Arc::new(ListArray::new(item, offsets, values, None))
    }

    fn join(columns: Vec<ArrayRef>) -> Result<ArrayRef> {
        let field = Field::new("f", columns[0].data_type().clone(), true);
        let schema = Arc::new(Schema::new(vec![field]));
        let batch = |column| RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
        let batches: Vec<RecordBatch> = columns.into_iter().map(batch).collect();
        let joined = joined(&schema, &batches.iter().collect::<Vec<_>>())?;
        Ok(Arc::clone(joined.column(0)))
    }

    fn texts(column: &ArrayRef) -> Vec<Option<String>> {
        let column = column.as_dictionary::<UInt8Type>();
        let column = column.downcast_dict::<StringViewArray>().unwrap();
        column.into_iter().map(|text| text.map(str::to_owned)).collect()
    }

    fn expected(ranges: &[Range<usize>]) -> Vec<Option<String>> {
        let all = ranges.iter().cloned().flatten();
        all.map(|number| Some(number.to_string())).collect()
    }

    #[test]
    fn small_keys_tell_apart_what_is_there_however_many_batches_there_are() {
        for ranges in [vec![0..200, 0..200, 0..200], vec![0..150, 100..255, 20..30]] {
            let all = join(ranges.iter().cloned().map(numbers).collect()).unwrap();
            assert_eq!(texts(&all), expected(&ranges));
            let lists = join(ranges.iter().cloned().map(numbers).map(list).collect()).unwrap();
            assert_eq!(texts(lists.as_list::<i32>().values()), expected(&ranges));
        }
        let error = join(vec![numbers(0..200), numbers(100..256)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.to_string().contains("more categories"), "{error}");
    }

    #[test]
    fn members_are_there_once_also_beside_columns_of_nulls() {
        for members in [0..20, 0..200] {
            let nulls = new_null_array(&category(), 3);
            let columns = vec![nulls, numbers(members.clone()), numbers(members.clone())];
            let all = join(columns).unwrap();
            let with_nulls = [vec![None; 3], expected(&[members.clone(), members.clone()])];
            assert_eq!(texts(&all), with_nulls.concat());
            assert_eq!(all.as_dictionary::<UInt8Type>().values().len(), members.len());
        }
    }
}
