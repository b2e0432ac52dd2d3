//! What a table's rows are made of, and how keys and rows are written.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::expiry::is_time;
use super::index::Texts;
use crate::dtype::{can_be_key, children, dtype_name};
use crate::error::{Error, ErrorKind, Result};
use crate::write::Column;

/// When a table's rows are deleted: once this column's time is that much older than the newest.
#[derive(Debug, Clone)]
pub(crate) struct Expiry {
    pub(crate) column: String,
    pub(crate) after_millis: i64,
}

/// The columns of a table.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Those of the key, then those of the rows.
    fields: Vec<FieldRef>,
    keys: usize,
    /// The same as they are kept: categories as text.
    pub(super) stored: SchemaRef,
    /// The number of the column of times, and the milliseconds after which rows expire.
    pub(super) expiry: Option<(usize, i64)>,
    /// Some columns of a key may be null, where others are not.
    has_null_keys: bool,
}

impl Spec {
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) for dtypes that a key or a column of a table cannot have.
    pub(crate) fn new(
        keys: Vec<Field>,
        values: Vec<Field>,
        expiry: Option<Expiry>,
    ) -> Result<Self> {
        let schema_error = |message| Err(Error::new(ErrorKind::Schema, message));
        if keys.is_empty() || values.is_empty() {
            return schema_error("a table has a key, and a column beside it".to_owned());
        }
        for key in &keys {
            if !can_be_key(key.data_type()) {
                return schema_error(format!(
                    "the key {:?} has the dtype {}, which no key of a table can have; cast it to a \
                     String, an integer or a Decimal",
                    key.name(),
                    dtype_name(key)
                ));
            }
        }
        for field in &values {
            if children(field.data_type()).iter().any(has_categories) {
                return schema_error(format!(
                    "the column {:?} has categories inside a List, Array or Struct; make them \
                     pl.String",
                    field.name()
                ));
            }
        }
        let count = keys.len();
        let fields: Vec<FieldRef> = keys.into_iter().chain(values).map(Arc::new).collect();
        let expiry = match expiry {
            None => None,
            Some(Expiry { column, after_millis }) => {
                let place = fields.iter().position(|field| *field.name() == column);
                match place.and_then(|place| Some((place, fields.get(place)?))) {
                    Some((place, field)) if is_time(field.data_type()) => {
                        Some((place, after_millis))
                    }
                    Some((_, field)) => {
                        return schema_error(format!(
                            "event_time must name a Datetime, or an Int64 of milliseconds, but \
                             {column:?} is {}",
                            dtype_name(field)
                        ));
                    }
                    None => {
                        return schema_error(format!("event_time names no column: {column:?}"));
                    }
                }
            }
        };
        let stored: Vec<FieldRef> = fields.iter().map(without_categories).collect();
        let stored = Arc::new(Schema::new(stored));
        Ok(Spec { stored, fields, keys: count, expiry, has_null_keys: false })
    }

    /// The same where some columns of a key may be null, as long as one is not: a JSON array has nulls.
    pub(crate) fn with_null_keys(self, has_null_keys: bool) -> Self {
        Spec { has_null_keys: has_null_keys && self.keys > 1, ..self }
    }

    pub(super) fn key_fields(&self) -> &[FieldRef] {
        self.fields.get(..self.keys).unwrap_or_default()
    }

    pub(super) fn value_fields(&self) -> &[FieldRef] {
        self.fields.get(self.keys..).unwrap_or_default()
    }

    pub(super) fn value_columns(&self) -> std::ops::Range<usize> {
        self.keys..self.fields.len()
    }

    pub(super) fn all_columns(&self) -> std::ops::Range<usize> {
        0..self.fields.len()
    }

    /// Whether a key is its text.
    pub(super) fn has_plain_key(&self) -> bool {
        let plain = |field: &FieldRef| {
            matches!(field.data_type(), DataType::Utf8View | DataType::BinaryView)
        };
        matches!(self.key_fields(), [key] if plain(key))
    }

    /// The columns of a frame as they are kept: from the first column on, so it may be keys alone.
    ///
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) for values that do not fit.
    pub(super) fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(batch.num_columns());
        for ((declared, kept), array) in
            self.fields.iter().zip(self.stored.fields()).zip(batch.columns())
        {
            columns.push(conform(kept, array)?);
            if matches!(declared.data_type(), DataType::Dictionary(_, _)) {
                refuse_empty(declared, columns.last())?;
            }
        }
        let fields = self.stored.fields().get(..columns.len()).unwrap_or_default();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| Error::new(ErrorKind::Schema, error.to_string()))
    }

    /// How the keys of rows are written; `None` for one that is null.
    ///
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) for a dtype that has no text form.
    pub(super) fn key_texts(&self, batch: &RecordBatch) -> Result<KeyTexts> {
        let mut columns = Vec::with_capacity(self.keys);
        for (field, array) in self.stored.fields().iter().zip(batch.columns()).take(self.keys) {
            columns.push(Column::new(field, array)?);
        }
        let mut texts = Texts::default();
        let mut nulls = Vec::new();
        let mut scratch = Vec::new();
        for row in 0..batch.num_rows() {
            let mut nulls_of = columns.iter().map(|column| column.is_null(row));
            if match self.has_null_keys {
                true => nulls_of.all(|is_null| is_null),
                false => nulls_of.any(|is_null| is_null),
            } {
                nulls.push(row);
                texts.push(b"");
                continue;
            }
            match &*columns {
                [column] => texts.push(column.text(row, &mut scratch)),
                several => texts.push_with(|out| {
                    for (number, column) in several.iter().enumerate() {
                        out.push(if number == 0 { b'[' } else { b',' });
                        match column.is_null(row) {
                            true => out.extend_from_slice(b"null"),
                            false => column.json(row, out),
                        }
                    }
                    out.push(b']');
                }),
            }
        }
        Ok(KeyTexts { texts, nulls })
    }

    /// The rows as JSON: a batch of the columns beside the key.
    pub(super) fn documents(&self, values: &RecordBatch) -> Result<Column> {
        Column::of_rows(values)
    }

    /// The error for a row whose key is null.
    pub(super) fn null_key(&self, batch: &RecordBatch, row: usize) -> Error {
        let is_null = |number: &usize| batch.columns().get(*number).is_some_and(|a| a.is_null(row));
        let column = (0..self.keys).find(is_null).and_then(|number| self.fields.get(number));
        let name = column.map_or("", |field| field.name());
        Error::invalid(format!(
            "the key is null in the column {name:?}, and a key of a table never is"
        ))
        .with_advice("filter such rows out, or fill_null")
        .with_context("row", row.to_string())
    }
}

/// The texts of keys, and the rows that have none.
pub(super) struct KeyTexts {
    pub(super) texts: Texts,
    /// In order.
    nulls: Vec<usize>,
}

impl KeyTexts {
    pub(super) fn get(&self, row: usize) -> Option<&[u8]> {
        self.nulls.binary_search(&row).is_err().then(|| self.texts.get(row))
    }

    pub(super) fn first_null(&self) -> Option<usize> {
        self.nulls.first().copied()
    }
}

fn has_categories(field: &FieldRef) -> bool {
    matches!(field.data_type(), DataType::Dictionary(_, _))
        || children(field.data_type()).iter().any(has_categories)
}

fn without_categories(field: &FieldRef) -> FieldRef {
    match field.data_type() {
        DataType::Dictionary(_, _) => Arc::new(Field::new(field.name(), DataType::Utf8View, true)),
        _ => Arc::clone(field),
    }
}

/// An array as its column is kept.
pub(super) fn conform(field: &Field, array: &ArrayRef) -> Result<ArrayRef> {
    if array.data_type() == field.data_type() {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, field.data_type(), &options).map_err(|error| {
        let (name, dtype) = (field.name(), dtype_name(field));
        Error::new(ErrorKind::Schema, format!("the column {name:?} is no {dtype}: {error}"))
    })
}

/// The empty text as a category would be read as null.
fn refuse_empty(field: &Field, array: Option<&ArrayRef>) -> Result<()> {
    use arrow_array::cast::AsArray;

    let texts = array.and_then(|array| array.as_string_view_opt());
    match texts.and_then(|texts| texts.iter().position(|text| text == Some(""))) {
        None => Ok(()),
        Some(row) => Err(Error::invalid(format!(
            "the column {:?} has the empty text as a category, which would be read as null; make \
             the column pl.String",
            field.name()
        ))
        .with_context("row", row.to_string())),
    }
}
