//! Batches of several decoders as one: their columns are those of any.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::ByteViewType;
use arrow_array::{
    Array, ArrayRef, GenericByteViewArray, RecordBatch, RecordBatchOptions, make_array,
    new_null_array,
};
use arrow_data::ArrayData;
use arrow_data::transform::MutableArrayData;
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow_select::interleave::interleave;

use crate::decode::{Batch, Names, internal, with_one_dictionary};
use crate::dtype::has_dictionary;
use crate::error::Result;
use crate::schema::{NoColumn, StreamSchema};

/// Columns of a page that were not known when it came, and the first row in which each has a value;
/// by that row, the latest first.
#[derive(Debug)]
pub(super) struct Unknown(Vec<(usize, usize)>);

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

    /// A page has come: the columns that may be met as its rows are taken.
    pub(super) fn unknown_of(&self, page: &RecordBatch) -> Unknown {
        if self.knows_all_of(page) {
            return Unknown(Vec::new());
        }
        let fields = page.schema_ref().fields().iter().zip(page.columns()).enumerate();
        let unknown = fields.filter(|(_, (field, _))| !self.names.contains(field.name()));
        let first = |(column, (_, values)): (usize, (_, &ArrayRef))| {
            let first = match values.nulls() {
                None => (!values.is_empty()).then_some(0),
                Some(nulls) => nulls.valid_indices().next(),
            };
            first.map(|row| (row, column))
        };
        let mut unknown: Vec<(usize, usize)> = unknown.filter_map(first).collect();
        unknown.sort_unstable_by(|one, other| other.cmp(one));
        Unknown(unknown)
    }

    /// The rows of a page up to this one were taken, and with them the columns that they have values of.
    ///
    /// # Errors
    ///
    /// [`Schema`](crate::ErrorKind::Schema) where these are too many.
    pub(super) fn look(
        &mut self,
        page: &RecordBatch,
        unknown: &mut Unknown,
        end: usize,
    ) -> Result<()> {
        while let Some((_, column)) = unknown.0.pop_if(|(row, _)| *row < end) {
            if let Some(field) = page.schema_ref().fields().get(column) {
                self.add(field)?;
            }
        }
        Ok(())
    }

    /// All rows of a page have been taken: the columns without values are some as well.
    ///
    /// # Errors
    ///
    /// As [`look`](Self::look).
    pub(in crate::read) fn look_at_rest(&mut self, page: &RecordBatch) -> Result<()> {
        if self.knows_all_of(page) {
            return Ok(());
        }
        let overrides: HashSet<String> =
            self.schema.overrides.iter().map(|field| field.name().clone()).collect();
        let fields = page.schema_ref().fields().iter();
        fields.filter(|field| !overrides.contains(field.name())).try_for_each(|one| self.add(one))
    }

    fn knows_all_of(&self, page: &RecordBatch) -> bool {
        !self.schema.open || self.arrow.as_ref().is_some_and(|all| all == page.schema_ref())
    }

    fn add(&mut self, field: &FieldRef) -> Result<()> {
        if self.names.contains(field.name()) {
            return Ok(());
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

    /// These rows of the pages, in this order. They keep no more memory than twice what they need: where
    /// they are few of their pages, they are copied.
    pub(in crate::read) fn gather<'p>(
        &mut self,
        page_of: impl Fn(usize) -> Option<&'p RecordBatch>,
        slices: &[(usize, Range<usize>)],
    ) -> Result<RecordBatch> {
        let schema = self.arrow()?;
        let rows = slices.iter().map(|(_, rows)| rows.len()).sum();
        // Only the pages that have some of the rows, by their places.
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        let mut used: Vec<(&RecordBatch, Vec<Option<usize>>)> = Vec::new();
        for (number, _) in slices {
            if let (false, Some(page)) = (places.contains_key(number), page_of(*number)) {
                places.insert(*number, used.len());
                used.push((page, places_of(page.schema_ref(), &schema)));
            }
        }
        let placed =
            slices.iter().filter_map(|(page, rows)| Some((*places.get(page)?, rows.clone())));
        let placed: Vec<(usize, Range<usize>)> = placed.collect();
        let column = |(column, field): (usize, &FieldRef)| {
            let of_page = |(page, places): &(&RecordBatch, Vec<Option<usize>>)| {
                Some(Arc::clone(page.column(places.get(column).copied()??)))
            };
            let all: Vec<Option<ArrayRef>> = used.iter().map(of_page).collect();
            if let ([Some(all)], [(_, rows)]) = (all.as_slice(), placed.as_slice())
                && rows.len().saturating_mul(2) >= all.len()
            {
                return without_rest(&all.slice(rows.start, rows.len()));
            }
            match copied(field, &all, &placed, rows)? {
                Some(copied) => without_rest(&copied),
                None => Ok(new_null_array(field.data_type(), rows)),
            }
        };
        let columns: Result<Vec<ArrayRef>> =
            schema.fields().iter().enumerate().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&schema), columns?, &options).map_err(internal)
    }
}

/// For each column of `all`, which one that is in `schema`.
fn places_of(schema: &SchemaRef, all: &SchemaRef) -> Vec<Option<usize>> {
    if schema == all {
        return (0..all.fields().len()).map(Some).collect();
    }
    let places: HashMap<&str, usize> =
        schema.fields().iter().map(|field| field.name().as_str()).zip(0..).collect();
    all.fields().iter().map(|field| places.get(field.name().as_str()).copied()).collect()
}

/// Slices of a column's pages in this order, null where a page lacks it; `None` where all do.
fn copied(
    field: &Field,
    pages: &[Option<ArrayRef>],
    slices: &[(usize, Range<usize>)],
    rows: usize,
) -> Result<Option<ArrayRef>> {
    let mut number = 0..;
    let places: Vec<Option<usize>> =
        pages.iter().map(|page| page.as_ref().and_then(|_| number.next())).collect();
    let there = with_one_dictionary(field, pages.iter().flatten().cloned().collect())?;
    let there: Vec<ArrayData> = there.iter().map(Array::to_data).collect();
    if there.is_empty() {
        return Ok(None);
    }
    let mut copied = MutableArrayData::new(there.iter().collect(), true, rows);
    for (page, rows) in slices {
        match places.get(*page).copied().flatten() {
            Some(place) => copied.try_extend(place, rows.start, rows.end),
            None => copied.try_extend_nulls(rows.len()),
        }
        .map_err(internal)?;
    }
    Ok(Some(make_array(copied.freeze())))
}

/// These rows of a column's pages, in this order.
pub(super) fn interleaved(
    field: &Field,
    pages: &[ArrayRef],
    rows: &[(usize, usize)],
) -> Result<ArrayRef> {
    if !has_dictionary(field.data_type()) {
        let pages: Vec<&dyn Array> = pages.iter().map(AsRef::as_ref).collect();
        return interleave(&pages, rows).map_err(internal);
    }
    // Which would write dictionaries one after the other also where they are one.
    let mut slices: Vec<(usize, Range<usize>)> = Vec::new();
    for (page, row) in rows {
        match slices.last_mut() {
            Some((last, slice)) if last == page && slice.end == *row => slice.end += 1,
            _ => slices.push((*page, *row..row + 1)),
        }
    }
    let pages: Vec<Option<ArrayRef>> = pages.iter().cloned().map(Some).collect();
    let copied = copied(field, &pages, &slices, rows.len())?;
    Ok(copied.unwrap_or_else(|| new_null_array(field.data_type(), rows.len())))
}

/// The column with its own texts alone, where it keeps much more alive, such as those of whole pages.
pub(super) fn without_rest(column: &ArrayRef) -> Result<ArrayRef> {
    fn of_views<T: ByteViewType>(views: &GenericByteViewArray<T>, column: &ArrayRef) -> ArrayRef {
        let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
        match views.total_buffer_bytes_used().saturating_mul(2) < held {
            true => Arc::new(views.gc()),
            false => Arc::clone(column),
        }
    }
    Ok(match column.data_type() {
        DataType::Utf8View => of_views(column.as_string_view(), column),
        DataType::BinaryView => of_views(column.as_binary_view(), column),
        data_type if data_type.is_nested() => {
            let data = column.to_data();
            let child = |child: &ArrayData| -> Result<ArrayData> {
                Ok(without_rest(&make_array(child.clone()))?.to_data())
            };
            let children: Result<Vec<ArrayData>> = data.child_data().iter().map(child).collect();
            let builder = data.into_builder().child_data(children?);
            make_array(builder.build().map_err(internal)?)
        }
        _ => Arc::clone(column),
    })
}

/// Batches of which each has the columns of those before it, all with those of the last.
pub(super) fn with_columns_of_last(mut batches: Vec<Batch>) -> Result<Vec<Batch>> {
    let Some(schema) = batches.last().map(|last| last.records().schema()) else {
        return Ok(batches);
    };
    for batch in &mut batches {
        let records = aligned(batch.records(), &schema)?;
        batch.set_records(records);
    }
    Ok(batches)
}

/// The batch with the columns of a later one, which has more where the schema is open.
pub(super) fn aligned(records: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if records.schema_ref() == schema {
        return Ok(records.clone());
    }
    let places = places_of(records.schema_ref(), schema);
    let columns = schema.fields().iter().zip(places).map(|(field, place)| match place {
        Some(place) => Arc::clone(records.column(place)),
        None => new_null_array(field.data_type(), records.num_rows()),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)
        .map_err(internal)
}
