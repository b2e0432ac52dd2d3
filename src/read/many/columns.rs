//! Batches of several decoders as one: their columns are those of any.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array, new_null_array};
use arrow_data::ArrayData;
use arrow_data::transform::MutableArrayData;
use arrow_schema::{FieldRef, Schema, SchemaRef};

use crate::decode::{Names, internal};
use crate::error::Result;
use crate::schema::{NoColumn, StreamSchema};

/// The columns of all rows so far, in the order in which the first value of each came.
pub(in crate::read) struct Columns {
    schema: Arc<StreamSchema>,
    /// Those that an open schema has found.
    found: Vec<FieldRef>,
    names: HashSet<String>,
    /// How many columns the fields' names count as.
    weight: usize,
    /// All of them, as long as no other is found.
    arrow: Option<SchemaRef>,
}

impl Columns {
    pub(in crate::read) fn new(schema: &Arc<StreamSchema>) -> Self {
        let of_schema = schema.metadata_fields().into_iter().chain(schema.fields.iter().cloned());
        let names = of_schema.chain(schema.rescue_field()).map(|field| field.name().clone());
        Columns {
            schema: Arc::clone(schema),
            found: Vec::new(),
            names: names.collect(),
            weight: schema
                .fields
                .iter()
                .map(|field| Names::weight_of(field.name().as_bytes()))
                .sum(),
            arrow: None,
        }
    }

    /// Rows of a page come next, and with them the columns that they have values of.
    ///
    /// # Errors
    ///
    /// [`Schema`](crate::ErrorKind::Schema) where these are too many.
    pub(in crate::read) fn look(&mut self, page: &RecordBatch, rows: Range<usize>) -> Result<()> {
        self.add(page, |_, column| column.slice(rows.start, rows.len()).null_count() < rows.len())
    }

    /// All rows of a page have been taken: the columns without values are some as well.
    ///
    /// # Errors
    ///
    /// As [`look`](Self::look).
    pub(in crate::read) fn look_at_rest(&mut self, page: &RecordBatch) -> Result<()> {
        let overrides: Vec<FieldRef> = self.schema.overrides.clone();
        self.add(page, |field, _| !overrides.iter().any(|other| other.name() == field.name()))
    }

    fn add(
        &mut self,
        page: &RecordBatch,
        is_one: impl Fn(&FieldRef, &ArrayRef) -> bool,
    ) -> Result<()> {
        if !self.schema.open || self.arrow.as_ref().is_some_and(|all| all == page.schema_ref()) {
            return Ok(());
        }
        for (field, column) in page.schema_ref().fields().iter().zip(page.columns()) {
            if self.names.contains(field.name()) || !is_one(field, column) {
                continue;
            }
            // Each decoder has kept to the limit. What it has a column for is not rescued any more.
            if let Err(NoColumn::Raised(error)) =
                self.schema.column_name(field.name().as_bytes(), self.weight)
            {
                return Err(error);
            }
            self.weight += Names::weight_of(field.name().as_bytes());
            self.names.insert(field.name().clone());
            self.found.push(Arc::clone(field));
            self.arrow = None;
        }
        Ok(())
    }

    fn arrow(&mut self) -> Result<SchemaRef> {
        if !self.schema.open {
            return self.schema.shared_arrow();
        }
        if let Some(arrow) = &self.arrow {
            return Ok(Arc::clone(arrow));
        }
        let fields = self.schema.metadata_fields().into_iter();
        let fields = fields.chain(self.schema.fields.iter().cloned());
        let fields = fields.chain(self.found.iter().cloned());
        let is_missing = |field: &&FieldRef| !self.names.contains(field.name());
        let fields = fields.chain(self.schema.overrides.iter().filter(is_missing).cloned());
        let fields: Vec<FieldRef> = fields.chain(self.schema.rescue_field()).collect();
        Ok(Arc::clone(self.arrow.insert(Arc::new(Schema::new(fields)))))
    }

    /// These rows of the pages, in this order.
    pub(in crate::read) fn gather(
        &mut self,
        pages: &BTreeMap<usize, RecordBatch>,
        slices: &[(usize, Range<usize>)],
    ) -> Result<RecordBatch> {
        let schema = self.arrow()?;
        let rows = slices.iter().map(|(_, rows)| rows.len()).sum();
        // Only the pages that have some of the rows, by their places.
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        let mut used: Vec<&RecordBatch> = Vec::new();
        for (number, _) in slices {
            if let (false, Some(page)) = (places.contains_key(number), pages.get(number)) {
                places.insert(*number, used.len());
                used.push(page);
            }
        }
        let column = |field: &FieldRef| {
            let of_page = |page: &&RecordBatch| match page.column_by_name(field.name()) {
                Some(column) => Arc::clone(column),
                None => new_null_array(field.data_type(), page.num_rows()),
            };
            if let ([page], [(_, rows)]) = (used.as_slice(), slices) {
                return Ok(of_page(page).slice(rows.start, rows.len()));
            }
            let of_pages: Vec<ArrayData> =
                used.iter().map(|page| of_page(page).to_data()).collect();
            if of_pages.is_empty() {
                return Ok(new_null_array(field.data_type(), 0));
            }
            let mut gathered = MutableArrayData::new(of_pages.iter().collect(), true, rows);
            for (number, rows) in slices {
                if let Some(place) = places.get(number) {
                    gathered.try_extend(*place, rows.start, rows.end).map_err(internal)?;
                }
            }
            Ok(make_array(gathered.freeze()))
        };
        let columns: Result<Vec<ArrayRef>> = schema.fields().iter().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&schema), columns?, &options).map_err(internal)
    }
}
