//! What columns a read yields: fields, metadata columns, and what to do with text that does not
//! fit.

mod misfits;
mod names;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::decode::{Enums, Names, StreamNames};
use crate::dtype;
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::payload::Payload;

pub use misfits::{NullValues, OnError};
use names::{check_names, check_nul};

/// The columns of a read. Made by [`StreamSchema::closed`], [`StreamSchema::open`] or
/// [`StreamSchema::default`], and changed by its `with_` methods.
///
/// Columns come in this order: entry ID, milliseconds, sequence number, stream, the fields, the rescue
/// column; each metadata column only where it is switched on.
///
/// ```
/// use arrow_schema::{DataType, Field};
/// use redfloe::StreamSchema;
///
/// let schema = StreamSchema::closed([Field::new("value", DataType::Int64, true)])
///     .with_sequence_column(Some("_seq"));
/// let names: Vec<_> = schema.arrow()?.fields().iter().map(|f| f.name().clone()).collect();
/// assert_eq!(names, ["_id", "_ts", "_seq", "value"]);
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StreamSchema {
    pub(crate) fields: Vec<FieldRef>,
    pub(crate) open: bool,
    /// The dtypes of some of the fields that an open schema finds.
    pub(crate) overrides: Vec<FieldRef>,
    /// The dtype of the others.
    pub(crate) found_type: DataType,
    pub(crate) id_column: Option<String>,
    pub(crate) timestamp_column: Option<String>,
    pub(crate) timestamp_type: DataType,
    pub(crate) sequence_column: Option<String>,
    pub(crate) stream_column: Option<String>,
    /// The streams whose names are in that column, and in errors where there are several.
    pub(crate) sources: Option<Arc<StreamNames>>,
    pub(crate) rescue_column: Option<String>,
    pub(crate) on_error: OnError,
    pub(crate) null_values: NullValues,
    pub(crate) max_columns: usize,
    pub(crate) payload: Option<Payload>,
    /// An entry with a metadata column's name is rejected also where values that do not fit become
    /// null or are rescued; for readers that have a place for such entries.
    pub(crate) rejects_clashes: bool,
    /// Somebody wrote down the fields, so that it is worth a word if they never occur.
    pub(crate) expects_fields: bool,
    /// Fields that no key of a payload takes the place of, and that nobody misses.
    pub(crate) beside: Vec<String>,
    /// Those of copies are the same, so that all batches of a read have the same ones.
    pub(crate) enums: Enums,
    arrow: Derived,
}

/// The Arrow schema once it is asked for where nothing changes any more; a copy begins anew, because
/// it may be changed.
#[derive(Debug, Default)]
struct Derived(OnceLock<SchemaRef>);

impl Clone for Derived {
    fn clone(&self) -> Self {
        Derived::default()
    }
}

/// What becomes of a field that an open schema cannot make a column of.
#[derive(Debug)]
pub(crate) enum NoColumn {
    LeftOut,
    Rescued,
    /// The read fails.
    Raised(Error),
    /// The entry is left out of its batch.
    Rejected(Error),
}

impl Default for StreamSchema {
    /// Every field that occurs, as text, after `_id` and `_ts`.
    fn default() -> Self {
        StreamSchema::open(Vec::<Field>::new())
    }
}

impl StreamSchema {
    /// The most columns of an open schema, unless [`with_max_columns`] says otherwise.
    ///
    /// [`with_max_columns`]: StreamSchema::with_max_columns
    pub const MAX_COLUMNS: usize = 5_000;

    /// Exactly these fields, in this order, with these types.
    pub fn closed<F: Into<FieldRef>>(fields: impl IntoIterator<Item = F>) -> Self {
        StreamSchema {
            fields: fields.into_iter().map(Into::into).collect(),
            open: false,
            overrides: Vec::new(),
            found_type: DataType::Utf8View,
            id_column: Some("_id".to_owned()),
            timestamp_column: Some("_ts".to_owned()),
            timestamp_type: DataType::Int64,
            sequence_column: None,
            stream_column: None,
            sources: None,
            rescue_column: None,
            on_error: OnError::default(),
            null_values: NullValues::default(),
            max_columns: Self::MAX_COLUMNS,
            payload: None,
            rejects_clashes: false,
            expects_fields: true,
            beside: Vec::new(),
            enums: Enums::default(),
            arrow: Derived::default(),
        }
    }

    /// These fields first, then every other that occurs, as text, in order of first appearance.
    pub fn open<F: Into<FieldRef>>(fields: impl IntoIterator<Item = F>) -> Self {
        StreamSchema { open: true, ..StreamSchema::closed(fields) }
    }

    /// The dtypes of fields that an open schema finds, which are text otherwise, also where they are
    /// inferred. A field that does not occur has a column of nulls, after the others.
    pub fn with_overrides<F: Into<FieldRef>>(
        mut self,
        fields: impl IntoIterator<Item = F>,
    ) -> Self {
        self.overrides = fields.into_iter().map(Into::into).collect();
        self
    }

    /// The field of that name that an open schema has found.
    pub(crate) fn found_field(&self, name: &str) -> FieldRef {
        match self.overrides.iter().find(|field| field.name() == name) {
            Some(field) => Arc::clone(field),
            None => Arc::new(Field::new(name, self.found_type.clone(), true)),
        }
    }

    /// The same with these fields behind its own, which were inferred, and those that are overridden.
    pub(crate) fn with_fields_of(&self, mut inferred: Vec<Field>) -> Self {
        inferred.retain(|field| self.fields.iter().all(|own| own.name() != field.name()));
        let is_overridden =
            |field: &Field| self.overrides.iter().any(|other| other.name() == field.name());
        let is_inferred = |name: &String| inferred.iter().any(|field| field.name() == name);
        let missing = self.missing_overrides().filter(|field| !is_inferred(field.name()));
        let fields = inferred.iter().map(|field| match is_overridden(field) {
            true => self.found_field(field.name()),
            false => Arc::new(field.clone()),
        });
        let fields = self.fields.iter().cloned().chain(fields).chain(missing).collect();
        StreamSchema { fields, ..self.clone() }
    }

    /// Names the column of entry IDs (`Utf8View`), or leaves it out.
    pub fn with_id_column(mut self, name: Option<&str>) -> Self {
        self.id_column = name.map(str::to_owned);
        self
    }

    /// Names the column of the IDs' milliseconds, or leaves it out.
    pub fn with_timestamp_column(mut self, name: Option<&str>) -> Self {
        self.timestamp_column = name.map(str::to_owned);
        self
    }

    /// The type of the milliseconds' column: `Int64` (the default) or a `Timestamp`.
    pub fn with_timestamp_type(mut self, data_type: DataType) -> Self {
        self.timestamp_type = data_type;
        self
    }

    /// Names the column of the IDs' sequence numbers (`UInt64`), or leaves it out.
    pub fn with_sequence_column(mut self, name: Option<&str>) -> Self {
        self.sequence_column = name.map(str::to_owned);
        self
    }

    /// Names the column of the streams' keys (`Utf8View`), or leaves it out. A byte of a key that is
    /// not UTF-8 is `\\xff` there.
    pub fn with_stream_column(mut self, name: Option<&str>) -> Self {
        self.stream_column = name.map(str::to_owned);
        self
    }

    /// The keys of the streams, for a [`Decoder`](crate::Decoder): replies that name their streams
    /// name one of these, and entries of others are of the first. A reader sets them itself.
    pub fn with_streams(mut self, keys: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.sources = Some(StreamNames::new(keys.into_iter().collect()).into());
        self
    }

    /// Names a text column that keeps what did not fit as one JSON object a row. With it nothing
    /// raises: a value that does not fit its type is null in its own column.
    pub fn with_rescue_column(mut self, name: Option<&str>) -> Self {
        self.rescue_column = name.map(str::to_owned);
        self
    }

    /// What happens to text that does not fit.
    pub fn with_on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// Texts that mean null.
    pub fn with_null_values(mut self, null_values: NullValues) -> Self {
        self.null_values = null_values;
        self
    }

    /// The most columns that an open schema may come to, where a name of more than 100 bytes counts
    /// as one for each 100 bytes. A further field goes to the rescue column; without one the read
    /// fails, or the entry is left out ([`OnError::Reject`]). The schema's own fields may be more.
    pub fn with_max_columns(mut self, columns: usize) -> Self {
        self.max_columns = columns;
        self
    }

    /// Takes the keys of a document in one field for fields of their own, in place of that
    /// field. All that holds for fields holds for them: those of the schema, those that an open one
    /// finds, values that do not fit. A document that is none is a misfit of its field.
    ///
    /// Where the payload has a schema of its own, an open schema has all its fields, with the dtypes that
    /// it says, but for those that are overridden by then.
    pub fn with_payload(mut self, payload: Option<Payload>) -> Self {
        let columns = payload.as_ref().filter(|_| self.open).map(Payload::columns);
        for column in columns.into_iter().flatten() {
            if self.fields.iter().all(|field| field.name() != column.name()) {
                let is_same = |field: &&FieldRef| field.name() == column.name();
                let overridden = self.overrides.iter().find(is_same).cloned();
                self.fields.push(overridden.unwrap_or_else(|| Arc::new(column)));
            }
        }
        self.payload = payload;
        self
    }

    /// Whether a reader says so if fields of a closed schema do not occur.
    #[cfg(feature = "python")]
    pub(crate) fn with_expected_fields(mut self, expected: bool) -> Self {
        self.expects_fields = expected;
        self
    }

    /// Fields that come beside what is asked for, such as a trace context: a payload's key of that
    /// name is no column's, and nobody is told that entries lack them.
    #[cfg(feature = "python")]
    pub(crate) fn with_beside(mut self, names: Vec<String>) -> Self {
        self.beside = names;
        self
    }

    pub(crate) fn is_beside(&self, name: &[u8]) -> bool {
        self.beside.iter().any(|beside| beside.as_bytes() == name)
    }

    /// The same with other fields in place of its own.
    #[cfg(feature = "python")]
    pub(crate) fn map_fields(mut self, change: fn(&FieldRef) -> FieldRef) -> Self {
        self.fields = self.fields.iter().map(change).collect();
        self
    }

    /// The Arrow schema, as far as it is known before the first entry.
    ///
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) where two columns share a name, or the milliseconds' type is
    /// neither `Int64` nor a `Timestamp`.
    pub fn arrow(&self) -> Result<SchemaRef> {
        self.validate()?;
        let columns = self
            .metadata_fields()
            .into_iter()
            .chain(self.fields.iter().cloned())
            .chain(self.missing_overrides())
            .chain(self.rescue_field());
        Ok(Arc::new(Schema::new(columns.collect::<Vec<_>>())))
    }

    /// The same, and made once.
    pub(crate) fn shared_arrow(self: &Arc<Self>) -> Result<SchemaRef> {
        if let Some(arrow) = self.arrow.0.get() {
            return Ok(Arc::clone(arrow));
        }
        let arrow = self.arrow()?;
        Ok(Arc::clone(self.arrow.0.get_or_init(|| arrow)))
    }

    /// The metadata columns that are switched on, in their order.
    pub(crate) fn metadata_fields(&self) -> Vec<FieldRef> {
        [
            (&self.id_column, DataType::Utf8View),
            (&self.timestamp_column, self.timestamp_type.clone()),
            (&self.sequence_column, DataType::UInt64),
            (&self.stream_column, DataType::Utf8View),
        ]
        .into_iter()
        .filter_map(|(name, data_type)| {
            name.as_ref().map(|name| Arc::new(Field::new(name, data_type, true)))
        })
        .collect()
    }

    /// The fields whose dtype is overridden, where none of the schema's own has the name.
    fn missing_overrides(&self) -> impl Iterator<Item = FieldRef> {
        let is_named = |name: &String| self.fields.iter().any(|field| field.name() == name);
        let missing = self.overrides.iter().filter(move |field| !is_named(field.name()));
        missing.filter(|_| self.open).cloned()
    }

    pub(crate) fn rescue_field(&self) -> Option<FieldRef> {
        let name = self.rescue_column.as_ref()?;
        Some(Arc::new(Field::new(name, DataType::Utf8View, true)))
    }

    /// Whether a null takes the place of what does not fit.
    pub(crate) fn tolerates_misfits(&self) -> bool {
        self.on_error == OnError::Null || self.rescue_column.is_some()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let other = &self.timestamp_type;
        if *other != DataType::Int64 && dtype::timestamp_unit(other).is_none() {
            return Err(Error::new(
                ErrorKind::Schema,
                format!("timestamp_dtype must be Int64 or a Datetime, not {other}"),
            ));
        }
        let mut seen = HashSet::new();
        for (parameter, name) in self.reserved() {
            check_nul(name, parameter)?;
            if !seen.insert(name) {
                return Err(Error::new(
                    ErrorKind::Schema,
                    format!("two metadata columns are called {name:?}; change {parameter}"),
                ));
            }
        }
        for fields in [&self.fields, &self.overrides] {
            if let Some(error) = fields.iter().find_map(|field| self.clash(field.name())) {
                return Err(error);
            }
            check_names(fields, None)?;
        }
        Ok(())
    }

    /// The name of a column for a field that was found in an entry, where the names so far count as
    /// `columns`; or what becomes of that field.
    pub(crate) fn column_name<'n>(
        &self,
        name: &'n [u8],
        columns: usize,
    ) -> Result<&'n str, NoColumn> {
        let advice =
            "give a schema, or on_error=\"null\" to leave the field out, or a rescue_column";
        let text = std::str::from_utf8(name).map_err(|_| {
            let message = format!("the field name {} is not UTF-8", shorten(name));
            self.unnameable(Error::new(ErrorKind::Decode, message).with_advice(advice))
        })?;
        if text.contains('\0') {
            let message = format!(
                "the field name {} has a NUL, which ends a column's name in Arrow",
                shorten(name)
            );
            let error = Error::new(ErrorKind::Schema, message).with_advice(advice);
            return Err(self.unnameable(error));
        }
        if let Some(error) = self.clash(text) {
            // It is never given under another name, and never left out unseen.
            return Err(self.without_place(error));
        }
        if columns.saturating_add(Names::weight_of(name)) > self.max_columns {
            return Err(match self.rescue_column {
                Some(_) => NoColumn::Rescued,
                None => {
                    let message = format!(
                        "the field {} would be a column beyond max_columns={}",
                        shorten(name),
                        self.max_columns
                    );
                    self.without_place(Error::new(ErrorKind::Schema, message).with_advice(
                        "give a schema, or a rescue_column for the fields beyond, or raise \
                         max_columns",
                    ))
                }
            });
        }
        Ok(text)
    }

    /// What becomes of an entry whose payload has a key for the column of one of its other fields.
    pub(crate) fn refuse_clash(&self, column: &str) -> NoColumn {
        let message = format!(
            "the entry has both a field and a key of its payload for the column {}",
            shorten(column.as_bytes())
        );
        let advice = "pass payload_prefix=\"payload_\", say, to give keys other names";
        let error = Error::new(ErrorKind::Schema, message).with_advice(advice);
        self.without_place(error.with_context("field", column))
    }

    /// Whether the field of that name holds the document.
    pub(crate) fn is_payload(&self, field: &[u8]) -> bool {
        self.payload.as_ref().is_some_and(|payload| payload.field.as_bytes() == field)
    }

    /// What becomes of a field that no policy for values has a place for.
    fn without_place(&self, error: Error) -> NoColumn {
        let rejects = match self.on_error {
            OnError::Raise => self.rescue_column.is_some() && self.rejects_clashes,
            OnError::Null => self.rejects_clashes,
            OnError::Reject => true,
        };
        if rejects { NoColumn::Rejected(error) } else { NoColumn::Raised(error) }
    }

    /// What becomes of a field whose name no column can have.
    fn unnameable(&self, error: Error) -> NoColumn {
        match self.on_error {
            _ if self.rescue_column.is_some() => NoColumn::Rescued,
            OnError::Null => NoColumn::LeftOut,
            OnError::Raise => NoColumn::Raised(error),
            OnError::Reject => NoColumn::Rejected(error),
        }
    }

    /// Refuses a field that has a metadata column's name: a payload never overwrites an ID.
    fn clash(&self, name: &str) -> Option<Error> {
        let (parameter, _) = self.reserved().find(|(_, reserved)| *reserved == name)?;
        let prefix = match self.payload {
            Some(_) => ", or give the payload's keys other names with payload_prefix",
            None => "",
        };
        let message =
            format!("the field {} has the name of a metadata column", shorten(name.as_bytes()));
        let advice = format!("rename that column with {parameter}{prefix}");
        let error = Error::new(ErrorKind::Schema, message).with_advice(advice);
        Some(error.with_context("field", name))
    }

    /// The parameters that name metadata columns, and the names they give.
    fn reserved(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("id_column", &self.id_column),
            ("timestamp_column", &self.timestamp_column),
            ("sequence_column", &self.sequence_column),
            ("stream_column", &self.stream_column),
            ("rescue_column", &self.rescue_column),
        ]
        .into_iter()
        .filter_map(|(parameter, name)| Some((parameter, name.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> Field {
        Field::new(name, DataType::Utf8View, true)
    }

    #[test]
    fn names_that_clash_are_refused_and_the_parameter_is_named() {
        for (schema, expected) in [
            (StreamSchema::closed([text("a"), text("a")]), "twice"),
            (StreamSchema::closed([text("_id")]), "id_column"),
            (StreamSchema::closed([text("_ts")]), "timestamp_column"),
            (StreamSchema::default().with_sequence_column(Some("_id")), "sequence_column"),
            (StreamSchema::closed([text("r")]).with_rescue_column(Some("r")), "rescue_column"),
            (StreamSchema::default().with_timestamp_type(DataType::Utf8), "timestamp_dtype"),
        ] {
            let error = schema.arrow().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_column_that_is_off_frees_its_name() {
        let schema = StreamSchema::closed([text("_id")]).with_id_column(None);
        assert!(schema.arrow().is_ok());
    }
}
