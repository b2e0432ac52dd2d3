//! Whether several streams have the same fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field};

use super::OnSchemaMismatch;
use crate::decode::{Batch, Run, StreamNames, ends};
use crate::dtype::dtype_name;
use crate::error::{Error, ErrorKind, Result};
use crate::infer::infer_fields;
use crate::read::request::ReadRequest;
use crate::schema::StreamSchema;

const ADVICE: &str = "pass on_schema_mismatch=\"union\" for a column of each field, null where a \
                      stream lacks it, or give a schema";

/// Which fields the entries of each stream have.
pub(super) struct FieldSets {
    names: Arc<StreamNames>,
    schema: Arc<StreamSchema>,
    columns: Vec<String>,
    /// For each stream that has entries, which of the columns have values.
    seen: BTreeMap<usize, Vec<bool>>,
}

impl FieldSets {
    /// `None` where it does not matter, or a sample tells.
    pub(super) fn of(request: &ReadRequest) -> Option<Self> {
        let many = request.many.as_ref()?;
        let is_open = request.schema.open && request.sample.is_none();
        (is_open && many.on_mismatch == OnSchemaMismatch::Raise).then(|| FieldSets {
            names: Arc::clone(&many.names),
            schema: Arc::clone(&request.schema),
            columns: Vec::new(),
            seen: BTreeMap::new(),
        })
    }

    /// Takes note of a batch. A later one has the columns of those before, in their order.
    pub(super) fn look(&mut self, batch: &Batch) {
        let (first, last) = (self.schema.metadata_fields().len(), self.schema.rescue_field());
        let records = batch.records();
        let columns = records.schema_ref().fields().iter().zip(records.columns()).skip(first);
        let columns: Vec<_> =
            columns.filter(|(field, _)| last.as_ref().is_none_or(|last| last != *field)).collect();
        self.columns = columns.iter().map(|(field, _)| field.name().clone()).collect();
        for (run, _) in ends(batch.runs(), batch.len()) {
            self.seen.entry(run.stream).or_default().resize(columns.len(), false);
        }
        for (place, (_, column)) in columns.into_iter().enumerate() {
            let mut see = |run: &Run| {
                let seen = self.seen.get_mut(&run.stream).and_then(|seen| seen.get_mut(place));
                seen.into_iter().for_each(|seen| *seen = true);
            };
            let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) else {
                batch.runs().iter().for_each(see);
                continue;
            };
            // Each value once, and each run that has one, however many there are of either.
            let mut runs = batch.runs();
            let mut met: Option<usize> = None;
            for row in nulls.valid_indices() {
                if met.is_some_and(|end| row < end) {
                    continue;
                }
                let before = runs.partition_point(|run| run.row <= row);
                runs.get(before.saturating_sub(1)).into_iter().for_each(&mut see);
                runs = runs.get(before..).unwrap_or_default();
                met = Some(runs.first().map_or(usize::MAX, |next| next.row));
            }
        }
    }

    /// An error where a field of one stream does not occur in another.
    pub(super) fn check(&self) -> Result<()> {
        for (column, name) in self.columns.iter().enumerate() {
            let has = |(_, seen): &(&usize, &Vec<bool>)| seen.get(column) == Some(&true);
            let with = self.seen.iter().find(has);
            let without = self.seen.iter().find(|stream| !has(stream));
            if let (Some((with, _)), Some((without, _))) = (with, without) {
                return Err(lacks(&self.names, name, *with, *without));
            }
        }
        Ok(())
    }
}

fn lacks(names: &StreamNames, field: &str, with: usize, without: usize) -> Error {
    let (with, without) = (names.text(with), names.text(without));
    let message = format!("the stream {with:?} has the field {field:?}, and {without:?} has not");
    Error::new(ErrorKind::Schema, message).with_advice(ADVICE).with_context("field", field)
}

/// An error where a sample says that the streams do not have the same fields of the same dtypes.
///
/// # Errors
///
/// [`Schema`](ErrorKind::Schema) with the streams and the field.
pub(super) fn check_sample(
    names: &Arc<StreamNames>,
    schema: &Arc<StreamSchema>,
    sample: &Batch,
    sample_schema: &StreamSchema,
    compares_dtypes: bool,
) -> Result<()> {
    let mut streams: BTreeMap<usize, Vec<RecordBatch>> = BTreeMap::new();
    for (run, end) in ends(sample.runs(), sample.len()) {
        streams.entry(run.stream).or_default().push(sample.records().slice(run.row, end - run.row));
    }
    let mut known: Option<(usize, BTreeMap<String, DataType>)> = None;
    for (stream, pieces) in streams {
        let fields = fields_of(&pieces, schema, sample_schema)?;
        let Some((first, expected)) = &known else {
            known = Some((stream, fields));
            continue;
        };
        for (name, data_type) in &fields {
            match expected.get(name) {
                None => return Err(lacks(names, name, stream, *first)),
                Some(other) if compares_dtypes && other != data_type => {
                    return Err(differ(names, name, (*first, other), (stream, data_type)));
                }
                Some(_) => {}
            }
        }
        if let Some(name) = expected.keys().find(|name| !fields.contains_key(*name)) {
            return Err(lacks(names, name, *first, stream));
        }
    }
    Ok(())
}

fn differ(
    names: &StreamNames,
    field: &str,
    (one, its): (usize, &DataType),
    (other, others): (usize, &DataType),
) -> Error {
    let dtype =
        |data_type: &DataType| dtype_name(&Field::new(field, data_type.clone(), true)).to_owned();
    let message = format!(
        "the field {field:?} is {} in the stream {:?}, and {} in {:?}",
        dtype(its),
        names.text(one),
        dtype(others),
        names.text(other)
    );
    Error::new(ErrorKind::Schema, message).with_advice(ADVICE).with_context("field", field)
}

/// The fields that one stream's rows have, and what they are.
fn fields_of(
    pieces: &[RecordBatch],
    schema: &StreamSchema,
    sample_schema: &StreamSchema,
) -> Result<BTreeMap<String, DataType>> {
    let Some(first) = pieces.first() else { return Ok(BTreeMap::new()) };
    let rows = arrow_select::concat::concat_batches(first.schema_ref(), pieces);
    let rows = rows.map_err(crate::decode::internal)?;
    let present: Vec<usize> = (0..rows.num_columns())
        .filter(|column| rows.column(*column).null_count() < rows.num_rows())
        .collect();
    let rows = rows.project(&present).map_err(crate::decode::internal)?;
    let fields = infer_fields(&rows, schema.payload.as_ref(), sample_schema)?;
    let fields =
        fields.into_iter().filter(|field| schema.rescue_column.as_ref() != Some(field.name()));
    Ok(fields.map(|field| (field.name().clone(), field.data_type().clone())).collect())
}
