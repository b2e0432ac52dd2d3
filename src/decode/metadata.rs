//! The columns that come from the entry ID: its text, its milliseconds, its sequence number.

use std::sync::Arc;

use arrow_array::{ArrayRef, UInt64Array, make_array};
use arrow_buffer::{Buffer, NullBufferBuilder};
use arrow_data::ArrayData;
use arrow_schema::DataType;

use super::column::ColumnBuilder;
use super::misfit::Misfit;
use super::primitive::internal;
use super::text::{Content, ViewColumn};
use crate::dtype::{from_millis, timestamp_unit};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::schema::StreamSchema;

pub(crate) struct MetadataColumns {
    ids: Option<ViewColumn>,
    timestamps: Option<Timestamps>,
    sequences: Option<Vec<u64>>,
}

struct Timestamps {
    data_type: DataType,
    /// From milliseconds to the type's unit: multiply, then divide.
    multiply: i64,
    divide: i64,
    values: Vec<i64>,
    nulls: NullBufferBuilder,
}

impl MetadataColumns {
    pub(crate) fn new(schema: &StreamSchema) -> Self {
        let unit = timestamp_unit(&schema.timestamp_type);
        let (multiply, divide) = unit.map_or((1, 1), from_millis);
        MetadataColumns {
            ids: schema.id_column.as_ref().map(|_| ViewColumn::new(Content::Utf8)),
            timestamps: schema.timestamp_column.as_ref().map(|_| Timestamps {
                data_type: schema.timestamp_type.clone(),
                multiply,
                divide,
                values: Vec::new(),
                nulls: NullBufferBuilder::new(0),
            }),
            sequences: schema.sequence_column.as_ref().map(|_| Vec::new()),
        }
    }

    /// Appends the IDs; `on_misfit` hears of milliseconds that their column cannot hold.
    pub(crate) fn append(
        &mut self,
        ids: &[EntryId],
        mut on_misfit: impl FnMut(usize, EntryId, Misfit),
    ) {
        if let Some(column) = &mut self.ids {
            let mut text = [0; EntryId::MAX_LEN];
            for id in ids {
                column.append_utf8(id.write(&mut text));
            }
        }
        if let Some(column) = &mut self.timestamps {
            for (row, id) in ids.iter().enumerate() {
                let value =
                    i64::try_from(id.ms).ok().and_then(|ms| ms.checked_mul(column.multiply));
                match value {
                    Some(value) => {
                        column.values.push(value / column.divide);
                        column.nulls.append_non_null();
                    }
                    None => {
                        on_misfit(row, *id, "is out of range".into());
                        column.values.push(0);
                        column.nulls.append_null();
                    }
                }
            }
        }
        if let Some(column) = &mut self.sequences {
            column.extend(ids.iter().map(|id| id.seq));
        }
    }

    /// Drops all rows from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        if let Some(column) = &mut self.ids {
            column.truncate(len);
        }
        if let Some(column) = &mut self.timestamps {
            column.values.truncate(len);
            column.nulls.truncate(len);
        }
        if let Some(column) = &mut self.sequences {
            column.truncate(len);
        }
    }

    /// The columns that are switched on, in their order; the builders start afresh.
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::with_capacity(3);
        if let Some(column) = &mut self.ids {
            columns.push(column.finish()?);
        }
        if let Some(column) = &mut self.timestamps {
            let data = ArrayData::builder(column.data_type.clone())
                .len(column.values.len())
                .add_buffer(Buffer::from_vec(std::mem::take(&mut column.values)))
                .nulls(column.nulls.finish())
                .build()
                .map_err(internal)?;
            columns.push(make_array(data));
        }
        if let Some(column) = &mut self.sequences {
            columns.push(Arc::new(UInt64Array::from(std::mem::take(column))));
        }
        Ok(columns)
    }
}
