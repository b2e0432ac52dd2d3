//! The rows that were decoded, as a batch.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::{DataType, Schema, SchemaRef};

use super::batch::Batch;
use super::presence::Presence;
use super::primitive::internal;
use super::{Column, Decoder};
use crate::error::{Error, ErrorKind, Result};

impl Decoder {
    /// The rows since the last flush; perhaps none, but always every column.
    ///
    /// # Errors
    ///
    /// [`Decode`](ErrorKind::Decode) where a text does not fit its dtype and the schema says to
    /// raise; [`Schema`](ErrorKind::Schema) where a field's name cannot be a column's, or there
    /// are too many. The decoder is of no use afterwards.
    pub fn flush(&mut self) -> Result<Batch> {
        self.build();
        self.take_failure()?;
        self.finish()
    }

    /// The rows since the last flush up to an entry that cannot be read; the error where there are
    /// none before it.
    ///
    /// # Errors
    ///
    /// As [`flush`](Decoder::flush).
    pub fn flush_up_to_error(&mut self) -> Result<Batch> {
        self.build();
        if self.ids.is_empty() {
            self.take_failure()?;
        }
        self.finish()
    }

    fn take_failure(&mut self) -> Result<()> {
        let used = || Error::new(ErrorKind::Internal, "a decoder was used after its error");
        match &mut self.failure {
            Some(failure) => Err(std::mem::replace(failure, used())),
            None => Ok(()),
        }
    }

    /// The columns, which start afresh.
    fn finish(&mut self) -> Result<Batch> {
        let ids = std::mem::take(&mut self.ids);
        let judge = |presence: &mut Presence| presence.judge(ids.len(), &self.schema, &self.tape);
        if let Some(judged) = self.presence.as_mut().and_then(judge) {
            self.presence = None;
            self.missing = judged;
        }
        let mut arrays = self.metadata.finish()?;
        if let (Some(_), Some(sources)) = (&self.schema.stream_column, self.tape.sources()) {
            arrays.push(sources.column(ids.len())?);
        }
        for column in &mut self.columns {
            arrays.push(column.made.builder.finish()?);
        }
        let schema = match self.schema.open {
            true => self.finish_found(ids.len(), &mut arrays)?,
            false => self.schema.shared_arrow()?,
        };
        if let Some(rescue) = &mut self.rescue {
            arrays.push(rescue.finish()?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(ids.len()));
        let records =
            RecordBatch::try_new_with_options(schema, arrays, &options).map_err(internal)?;
        let deleted = self.reader.take_deleted().into_iter().map(|(_, id)| id).collect();
        let batch = Batch::new(records, ids, deleted);
        self.found.shrink_to_fit();
        let batch = batch.with_runs(self.tape.begin_batch());
        self.last_before = self.last_id;
        let mut rejected = std::mem::take(&mut self.rejected);
        if rejected.is_empty() {
            return Ok(batch);
        }
        // Columns are built one after the other; the first that does not fit is the reason.
        rejected.sort_by_key(|(row, _)| *row);
        rejected.dedup_by_key(|(row, _)| *row);
        batch.reject(rejected)
    }

    /// Adds the columns that an open schema has found; gives the schema of them all.
    fn finish_found(&mut self, rows: usize, arrays: &mut Vec<ArrayRef>) -> Result<SchemaRef> {
        let mut fields = self.schema.metadata_fields();
        fields.extend(self.columns.iter().map(|column| Arc::clone(&column.field)));
        // Columns without a value are all the same.
        let mut empty = None;
        for (index, column) in (self.columns.len()..).zip(&mut self.found) {
            // It stays for the next batch where this one has values of it.
            column.take_if(|column| column.made.builder.len() == 0);
            match column {
                Some(column) => {
                    fields.push(Arc::clone(&column.field));
                    arrays.push(column.finish(rows)?);
                }
                None => {
                    let field = self.schema.found_field(self.tape.column_name(index));
                    arrays.push(match field.data_type() {
                        DataType::Utf8View => {
                            let new = || new_null_array(&DataType::Utf8View, rows);
                            Arc::clone(empty.get_or_insert_with(new))
                        }
                        _ => Column::found(field.name(), &self.schema).finish(rows)?,
                    });
                    fields.push(field);
                }
            }
        }
        for field in &self.schema.overrides {
            if !self.tape.has_column(field.name()) {
                fields.push(Arc::clone(field));
                arrays.push(Column::found(field.name(), &self.schema).finish(rows)?);
            }
        }
        fields.extend(self.schema.rescue_field());
        Ok(Arc::new(Schema::new(fields)))
    }
}
