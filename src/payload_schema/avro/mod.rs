//! Avro payloads: which schemas there are, and how a payload says which of them it is of.

mod canonical;
mod columns;
mod container;
mod decimal;
mod defaults;
mod encode;
mod known;
mod logical;
mod pack;
mod reading;
mod resolve;
mod schema;
mod unpack;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow_schema::Fields;

use super::{Pack, PayloadSchema, Schema, Unpack, Wanted};
use crate::error::Result;
use known::Known;
use pack::Writing;
use reading::Reading;

/// What tells the schema of an ID that is not known yet, as JSON; or that there is none. Its error
/// says why it cannot, such as that a registry does not answer, and is the read's.
pub type AvroLookup = Arc<dyn Fn(u32) -> Result<Option<String>> + Send + Sync>;

/// How an Avro payload says of which schema it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AvroFraming {
    /// It does not: it is a datum of the one schema.
    #[default]
    None,
    /// By the header that the specification calls single-object encoding: the schema's fingerprint.
    SingleObject,
    /// By the header of Confluent's serializers: a zero byte, and the ID that a registry gave the
    /// schema.
    Confluent,
    /// It is an object container file with one record, and brings its schema with it. Such payloads are
    /// read, and not written.
    Container,
}

/// Which schemas Avro payloads have. Made by [`AvroOptions::new`] and changed by its `with_` methods.
///
/// ```
/// use redfloe::{AvroFraming, AvroOptions, Payload, PayloadFormat, PayloadSchema, StreamSchema};
///
/// let order = r#"{"type": "record", "name": "shop.Order", "fields": [
///     {"name": "id", "type": "long"},
///     {"name": "price", "type": ["null", "double"], "default": null}
/// ]}"#;
/// let options = AvroOptions::new().with_schema(order).with_framing(AvroFraming::Confluent);
/// let schema = PayloadSchema::avro(options)?;
/// assert_eq!(schema.fields().len(), 2);
/// let payload = Payload::new("data").with_format(PayloadFormat::Schema(schema));
/// let schema = StreamSchema::default().with_payload(Some(payload));
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct AvroOptions {
    schema: Option<String>,
    schemas: BTreeMap<u32, String>,
    lookup: Option<AvroLookup>,
    reader_schema: Option<String>,
    framing: AvroFraming,
    schema_id: Option<u32>,
}

impl AvroOptions {
    /// No schemas yet.
    pub fn new() -> Self {
        AvroOptions::default()
    }

    /// The schema that payloads are written by, as JSON. With containers, which bring theirs with
    /// them, it is the one that they are read by.
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Schemas by the IDs that Confluent's header has. A single-object header tells them apart by
    /// their fingerprints; there, IDs do not matter.
    pub fn with_schemas(mut self, schemas: impl IntoIterator<Item = (u32, String)>) -> Self {
        self.schemas = schemas.into_iter().collect();
        self
    }

    /// What is asked for the schema of an ID that is not known, such as a client of a registry. Its
    /// answer is remembered; that there is none, for ten seconds.
    pub fn with_lookup(mut self, lookup: AvroLookup) -> Self {
        self.lookup = Some(lookup);
        self
    }

    /// The schema whose fields become columns, whatever schema a payload is written by: fields may have
    /// other names, more types, and defaults for what the payload lacks.
    pub fn with_reader_schema(mut self, schema: impl Into<String>) -> Self {
        self.reader_schema = Some(schema.into());
        self
    }

    /// How payloads say of which schema they are.
    pub fn with_framing(mut self, framing: AvroFraming) -> Self {
        self.framing = framing;
        self
    }

    /// The ID that Confluent's header must have where there is one schema; else it is passed over. It
    /// is the ID that is written.
    pub fn with_schema_id(mut self, id: u32) -> Self {
        self.schema_id = Some(id);
        self
    }
}

impl fmt::Debug for AvroOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AvroOptions").field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl PayloadSchema {
    /// Avro payloads.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for options that do not go together, and
    /// for schemas that are none, or that the reader's schema cannot be read from.
    pub fn avro(options: AvroOptions) -> Result<Self> {
        let known = Arc::new(Known::new(options)?);
        Ok(PayloadSchema { schema: Arc::new(Avro { columns: known.columns(), known }) })
    }
}

#[derive(Debug)]
struct Avro {
    known: Arc<Known>,
    columns: Fields,
}

impl Schema for Avro {
    fn fields(&self) -> Fields {
        self.columns.clone()
    }

    fn unpacker(&self, wanted: Wanted) -> Box<dyn Unpack> {
        Box::new(Reading::new(Arc::clone(&self.known), wanted))
    }

    fn packer(&self) -> Box<dyn Pack> {
        Box::new(Writing::new(&self.known))
    }
}

#[cfg(test)]
mod tests;
