//! A batch's columns as the fields, IDs and streams of its rows.

use std::collections::HashMap;

use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, TimeUnit};

use super::documents::{Member, Rows};
use super::encode::Column;
use super::request::{IdSource, Target, WriteRequest};
use super::row_id::RowId;
use crate::dtype::is_text;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::resp::push_bulk;
use crate::shard::ShardedStream;

pub(super) fn at_row(row: usize, reason: &str) -> Error {
    Error::invalid(reason.to_owned()).with_context("row", row.to_string())
}

/// The keys of the streams that rows go to, each once.
#[derive(Default)]
pub(super) struct Keys {
    keys: Vec<Vec<u8>>,
    index: HashMap<Vec<u8>, usize>,
}

impl Keys {
    pub(super) fn add(&mut self, key: &[u8]) -> usize {
        if let Some(index) = self.index.get(key) {
            return *index;
        }
        let index = self.keys.len();
        self.keys.push(key.to_vec());
        self.index.insert(key.to_vec(), index);
        index
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        self.keys.get(index).map_or(&[], Vec::as_slice)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.keys.iter().map(Vec::as_slice)
    }
}

/// One batch's columns, ready to be written.
pub(super) struct Frame {
    pub(super) fields: Vec<FieldColumn>,
    pub(super) ids: RowIds,
    /// The index of each row's key; empty where there is one for all.
    keys: Vec<u32>,
    pub(super) rows: usize,
    /// The number of its first row among all.
    pub(super) first: usize,
}

pub(super) struct FieldColumn {
    /// `$4\r\nname\r\n`
    name: Vec<u8>,
    pub(super) column: Column,
    /// `$4\r\nnull\r\n`, where a null is to be written.
    null: Option<Vec<u8>>,
}

pub(super) enum RowIds {
    Server,
    Text(Column),
    Milliseconds(Vec<i64>),
}

impl Frame {
    pub(super) fn new(
        batch: &RecordBatch,
        request: &WriteRequest,
        keys: &mut Keys,
        first: usize,
    ) -> Result<Frame> {
        let names = field_names(batch, request);
        if names.is_empty() {
            return Err(Error::new(
                ErrorKind::Schema,
                "there is no column to write, and an entry needs a field",
            ));
        }
        let columns = Columns::of(batch);
        let mut fields = Vec::with_capacity(names.len());
        let mut members = Vec::new();
        for name in names {
            let (field, array) = columns.get(&name)?;
            let is_member = request.payload.is_some() && !request.beside.contains(&name);
            let column = match is_member {
                true => Column::of_member(field, array, &request.payload_format)?,
                false => Column::new(field, array)?,
            };
            if !column.empty_is_value
                && let Some(row) = (0..batch.num_rows()).find(|row| {
                    !column.is_null(*row) && column.text(*row, &mut Vec::new()).is_empty()
                })
            {
                return Err(at_row(
                    first + row,
                    &format!(
                        "the column {name:?} has the empty text as a category, which would be read \
                         as null; cast it to a string; nothing has been sent"
                    ),
                ));
            }
            let null = request.null_texts.of(&name);
            match is_member {
                true => members.push(Member::new(&name, column, null)),
                false => fields.push(FieldColumn::new(&name, column, null)),
            }
        }
        if let Some(name) = &request.payload {
            let rows = Rows { count: batch.num_rows(), nulls: None };
            let documents = match request.payload_positions.as_slice() {
                [] => Column::of_documents(members, &request.payload_format, rows).map_err(
                    |(row, misfit)| {
                        at_row(first + row, &format!("{misfit}; nothing has been sent"))
                    },
                )?,
                positions => Column::of_arrays(members, &request.payload_format, positions)?,
            };
            let documents = documents.compressed(request.payload_compression);
            fields.push(FieldColumn::new(name, documents, None));
        }
        let ids = match &request.ids {
            IdSource::Server => RowIds::Server,
            IdSource::Column(name) => {
                let (field, array) = columns.get(name)?;
                if !is_text(field.data_type()) {
                    return Err(wrong_type(name, "id_column", "text such as \"5-1\""));
                }
                RowIds::Text(Column::new(field, array)?)
            }
            IdSource::Timestamp(name) => RowIds::Milliseconds(milliseconds(&columns, name, first)?),
        };
        let keys = match &request.stream {
            Target::One(_) => Vec::new(),
            Target::Column(name) => key_indices(&columns, name, first, keys)?,
            Target::Shards(stream) => shard_indices(&columns, stream, keys)?,
        };
        Ok(Frame { fields, ids, keys, rows: batch.num_rows(), first })
    }

    pub(super) fn key(&self, row: usize) -> usize {
        self.keys.get(row).map_or(0, |key| *key as usize)
    }

    /// The arguments that a row's fields take.
    #[inline]
    pub(super) fn arguments(&self, row: usize) -> usize {
        2 * self.fields.iter().filter(|field| field.is_written(row)).count()
    }

    pub(super) fn is_never_empty(&self) -> bool {
        self.fields.iter().any(|field| field.null.is_some() || field.column.nulls().is_none())
    }

    #[inline]
    pub(super) fn push_fields(&self, row: usize, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        for field in &self.fields {
            if !field.column.is_null(row) {
                out.extend_from_slice(&field.name);
                push_bulk(field.column.text(row, scratch), out);
            } else if let Some(null) = &field.null {
                out.extend_from_slice(&field.name);
                out.extend_from_slice(null);
            }
        }
    }

    pub(super) fn id(&self, row: usize) -> Option<RowId> {
        self.checked_id(row).ok()
    }

    pub(super) fn checked_id(&self, row: usize) -> Result<RowId, String> {
        match &self.ids {
            RowIds::Server => Err(String::new()),
            RowIds::Milliseconds(values) => {
                let ms = values.get(row).copied().unwrap_or_default();
                u64::try_from(ms).map(RowId::Milliseconds).map_err(|_| {
                    "the timestamp is before 1970, which no ID can be; nothing has been sent".into()
                })
            }
            RowIds::Text(column) if column.is_null(row) => {
                Err("the ID is null; nothing has been sent".into())
            }
            RowIds::Text(column) => {
                let mut scratch = Vec::new();
                let text = column.text(row, &mut scratch);
                match RowId::parse(text) {
                    None => Err(format!(
                        "{} is no entry ID; write \"ms-seq\", \"ms\" or \"ms-*\"; nothing has been \
                         sent",
                        shorten(text)
                    )),
                    Some(RowId::Whole(EntryId::MIN)) => {
                        Err("no entry can have the ID 0-0; nothing has been sent".into())
                    }
                    Some(id) => Ok(id),
                }
            }
        }
    }
}

impl FieldColumn {
    fn new(name: &str, column: Column, null: Option<&String>) -> Self {
        let bulk = |text: &str| {
            let mut bulk = Vec::new();
            push_bulk(text.as_bytes(), &mut bulk);
            bulk
        };
        FieldColumn { name: bulk(name), column, null: null.map(|text| bulk(text)) }
    }

    #[inline]
    fn is_written(&self, row: usize) -> bool {
        self.null.is_some() || !self.column.is_null(row)
    }

    pub(super) fn plain_name(&self) -> String {
        plain_name(&self.name)
    }
}

/// The name in `$4\r\nname\r\n`.
pub(super) fn plain_name(bulk: &[u8]) -> String {
    let name = String::from_utf8_lossy(bulk);
    name.split_once("\r\n").map_or("", |(_, name)| name).trim_end_matches("\r\n").to_owned()
}

/// The names of the columns that become fields.
fn field_names(batch: &RecordBatch, request: &WriteRequest) -> Vec<String> {
    if let Some(names) = &request.fields {
        return names.clone();
    }
    let id = match &request.ids {
        IdSource::Server => None,
        IdSource::Column(name) | IdSource::Timestamp(name) => Some(name),
    };
    let key = match &request.stream {
        Target::One(_) | Target::Shards(_) => None,
        Target::Column(name) => Some(name),
    };
    let schema = batch.schema();
    let names = schema.fields().iter().map(|field| field.name());
    names.filter(|name| Some(*name) != id && Some(*name) != key).cloned().collect()
}

/// A batch's columns by their names.
pub(super) struct Columns<'a> {
    batch: &'a RecordBatch,
    index: HashMap<&'a str, usize>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(batch: &'a RecordBatch) -> Self {
        let fields = batch.schema_ref().fields().iter().enumerate();
        let index = fields.map(|(index, field)| (field.name().as_str(), index)).collect();
        Columns { batch, index }
    }

    pub(super) fn get(&self, name: &str) -> Result<(&'a Field, &'a arrow_array::ArrayRef)> {
        let found = self.index.get(name).and_then(|index| {
            let field = self.batch.schema_ref().fields().get(*index)?;
            Some((field.as_ref(), self.batch.columns().get(*index)?))
        });
        found.ok_or_else(|| Error::new(ErrorKind::Schema, format!("there is no column {name:?}")))
    }
}

fn wrong_type(name: &str, parameter: &str, wanted: &str) -> Error {
    let message = format!("the column {name:?}, which {parameter} names, must hold {wanted}");
    Error::new(ErrorKind::Schema, message)
}

/// The milliseconds of a column of timestamps.
fn milliseconds(columns: &Columns<'_>, name: &str, first: usize) -> Result<Vec<i64>> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::*;

    let (field, array) = columns.get(name)?;
    let scaled = |values: &[i64], per_ms: i64| -> Vec<i64> {
        values.iter().map(|value| value.div_euclid(per_ms)).collect()
    };
    let values = match field.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values().to_vec(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values().to_vec()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            scaled(array.as_primitive::<TimestampMicrosecondType>().values(), 1_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            scaled(array.as_primitive::<TimestampNanosecondType>().values(), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            let seconds = array.as_primitive::<TimestampSecondType>().values();
            seconds.iter().map(|value| value.saturating_mul(1_000)).collect()
        }
        _ => {
            let wanted = "datetimes, or integers that count milliseconds";
            return Err(wrong_type(name, "timestamp_column", wanted));
        }
    };
    if let Some(row) = (0..array.len()).find(|row| array.is_null(*row)) {
        return Err(at_row(first + row, "the timestamp is null; nothing has been sent"));
    }
    Ok(values)
}

/// The index of each row's key.
fn key_indices(
    columns: &Columns<'_>,
    name: &str,
    first: usize,
    keys: &mut Keys,
) -> Result<Vec<u32>> {
    let (field, array) = columns.get(name)?;
    let column = Column::new(field, array)?;
    let mut scratch = Vec::new();
    (0..array.len())
        .map(|row| {
            if column.is_null(row) {
                return Err(at_row(first + row, "the stream is null; nothing has been sent"));
            }
            let index = keys.add(column.text(row, &mut scratch));
            u32::try_from(index).map_err(|_| Error::invalid("there are too many streams"))
        })
        .collect()
}

/// The index of each row's key, which is that of a shard. A null counts as the empty text, as a field does
/// that an entry lacks.
fn shard_indices(
    columns: &Columns<'_>,
    stream: &ShardedStream,
    keys: &mut Keys,
) -> Result<Vec<u32>> {
    let (field, array) = columns.get(stream.by()).map_err(|_| {
        let message = format!(
            "there is no column {:?}, by which the stream's entries are divided among its shards",
            stream.by()
        );
        Error::new(ErrorKind::Schema, message)
    })?;
    let column = Column::new(field, array)?;
    let mut scratch = Vec::new();
    let mut known: Vec<Option<u32>> = vec![None; stream.shards()];
    let index = |row| {
        let text = match column.is_null(row) {
            true => &[],
            false => column.text(row, &mut scratch),
        };
        let shard = stream.shard_of(text);
        let known = known.get_mut(shard).ok_or_else(|| Error::invalid("there is no such shard"))?;
        let index = known.map_or_else(|| u32::try_from(keys.add(&stream.key(shard))), Ok);
        let index = index.map_err(|_| Error::invalid("there are too many streams"))?;
        *known = Some(index);
        Ok(index)
    };
    (0..array.len()).map(index).collect()
}
