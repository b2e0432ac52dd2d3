//! A table's rows, each in a slot of its own: written once, never changed.
//!
//! What is written is a batch beside those that there are, and neighbours become one where the later has
//! come near the earlier's size. So there are few batches, and each row is copied a few times at most.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, GenericListArray, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray, new_null_array,
};
use arrow_schema::{DataType, FieldRef, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave;

use crate::decode::internal;
use crate::error::Result;

#[derive(Debug)]
pub(super) struct Rows {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// The first slot of each batch.
    starts: Vec<usize>,
    len: usize,
    /// Slots below this one stay in batches of their own, so that all later ones can be forgotten.
    floor: usize,
}

impl Rows {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Rows { schema, batches: Vec::new(), starts: Vec::new(), len: 0, floor: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds rows of this schema; the first has the slot that was the number of rows before.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.starts.push(self.len);
        self.len += batch.num_rows();
        self.batches.push(batch);
        self.merge()
    }

    /// Makes one of the last two batches while the later is half as large as the earlier, or more.
    fn merge(&mut self) -> Result<()> {
        while let ([.., one, two], [.., start, _]) = (&*self.batches, &*self.starts)
            && *start >= self.floor
            && one.num_rows() <= two.num_rows().saturating_mul(2)
        {
            let merged = concat_batches(&self.schema, [one, two]).map_err(internal)?;
            let merged = without_garbage(&merged)?;
            self.starts.pop();
            self.batches.truncate(self.batches.len() - 2);
            self.batches.push(merged);
        }
        Ok(())
    }

    /// What there is stays.
    pub(super) fn settle(&mut self) -> Result<()> {
        // All may be merged again, with what was there before; later rows only with each other.
        self.floor = 0;
        self.merge()?;
        self.floor = self.len;
        Ok(())
    }

    /// Forgets the rows that have come since they were settled.
    pub(super) fn forget_unsettled(&mut self) {
        let kept = self.starts.partition_point(|start| *start < self.floor);
        self.starts.truncate(kept);
        self.batches.truncate(kept);
        self.len = self.floor;
    }

    /// All rows, where they are one batch.
    pub(super) fn single(&self) -> Option<&RecordBatch> {
        match &*self.batches {
            [batch] => Some(batch),
            _ => None,
        }
    }

    /// Of a slot its batch and its row there.
    pub(super) fn place(&self, slot: usize) -> Option<(&RecordBatch, usize)> {
        let batch = self.batch_of(slot)?;
        let (batch, start) = (self.batches.get(batch)?, self.starts.get(batch)?);
        Some((batch, slot - start))
    }

    fn batch_of(&self, slot: usize) -> Option<usize> {
        self.starts.partition_point(|start| *start <= slot).checked_sub(1)
    }

    /// These columns of the rows in these slots, in their order; nulls where there is no slot.
    pub(super) fn gather(
        &self,
        columns: std::ops::Range<usize>,
        slots: impl Iterator<Item = Option<u32>>,
    ) -> Result<RecordBatch> {
        // The first array that is drawn from is a null.
        let place = |slot: Option<u32>| {
            let slot = slot? as usize;
            let batch = self.batch_of(slot)?;
            Some((batch + 1, slot - self.starts.get(batch)?))
        };
        let places: Vec<(usize, usize)> = slots.map(|slot| place(slot).unwrap_or((0, 0))).collect();
        let fields: Vec<FieldRef> =
            self.schema.fields().get(columns.clone()).unwrap_or_default().to_vec();
        let mut arrays = Vec::with_capacity(fields.len());
        for (column, field) in columns.zip(&fields) {
            let null = new_null_array(field.data_type(), 1);
            let held = self.batches.iter().map(|batch| batch.column(column));
            let held: Vec<&dyn Array> =
                std::iter::once(&null).chain(held).map(AsRef::as_ref).collect();
            arrays.push(interleave(&held, &places).map_err(internal)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        let schema = Arc::new(Schema::new(fields));
        RecordBatch::try_new_with_options(schema, arrays, &options).map_err(internal)
    }
}

/// The same rows, with the memory of no others.
pub(super) fn without_garbage(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns: Result<Vec<ArrayRef>> = batch.columns().iter().map(compact).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns?, &options).map_err(internal)
}

/// A view keeps the buffer that it looks into, and with it the texts of rows that are gone.
fn compact(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let columns: Result<Vec<_>> = array.columns().iter().map(compact).collect();
            let (columns, nulls) = (columns?, array.nulls().cloned());
            let made =
                StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len());
            Arc::new(made.map_err(internal)?)
        }
        DataType::List(_) => compact_list::<i32>(array)?,
        DataType::LargeList(_) => compact_list::<i64>(array)?,
        DataType::FixedSizeList(item, size) => {
            let array = array.as_fixed_size_list();
            let (values, nulls) = (compact(array.values())?, array.nulls().cloned());
            let made = FixedSizeListArray::try_new(Arc::clone(item), *size, values, nulls);
            Arc::new(made.map_err(internal)?)
        }
        _ => Arc::clone(array),
    })
}

fn compact_list<O: OffsetSizeTrait>(array: &ArrayRef) -> Result<ArrayRef> {
    let (item, offsets, values, nulls) = array.as_list::<O>().clone().into_parts();
    let made = GenericListArray::try_new(item, offsets, compact(&values)?, nulls);
    Ok(Arc::new(made.map_err(internal)?))
}
