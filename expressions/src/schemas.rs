//! Schemas of payloads that do not say themselves what they are, compiled once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use redfloe::{AvroFraming, AvroOptions, Error, ErrorKind, PayloadSchema, Result};
use serde::{Deserialize, Serialize};

/// What payloads are by; Python writes it as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SchemaOptions {
    Protobuf {
        /// In base64.
        descriptor: String,
        message: String,
    },
    Avro {
        schema: Option<String>,
        schemas: BTreeMap<u32, String>,
        reader_schema: Option<String>,
        framing: String,
        schema_id: Option<u32>,
    },
}

/// The latest, since an expression is called for each part of a column.
static LATEST: Mutex<Vec<(SchemaOptions, PayloadSchema)>> = Mutex::new(Vec::new());

const MOST: usize = 16;

impl SchemaOptions {
    pub(crate) fn compiled(&self) -> Result<PayloadSchema> {
        // A list is whole whatever its holder was doing when it panicked.
        let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, schema)) = latest.iter().rfind(|(options, _)| options == self) {
            return Ok(schema.clone());
        }
        let schema = self.compile()?;
        if latest.len() == MOST {
            latest.remove(0);
        }
        latest.push((self.clone(), schema.clone()));
        Ok(schema)
    }

    fn compile(&self) -> Result<PayloadSchema> {
        let refused = |message: String| Error::new(ErrorKind::InvalidArgument, message);
        match self {
            SchemaOptions::Protobuf { descriptor, message } => {
                let descriptor = BASE64_STANDARD.decode(descriptor);
                let descriptor = descriptor.map_err(|error| refused(error.to_string()))?;
                PayloadSchema::protobuf(&descriptor, message)
            }
            SchemaOptions::Avro { schema, schemas, reader_schema, framing, schema_id } => {
                let framing = match framing.as_str() {
                    "none" => AvroFraming::None,
                    "single-object" => AvroFraming::SingleObject,
                    "confluent" => AvroFraming::Confluent,
                    "container" => AvroFraming::Container,
                    other => {
                        return Err(refused(format!(
                            "framing must be \"none\", \"single-object\", \"confluent\" or \
                             \"container\", not {other:?}"
                        )));
                    }
                };
                let mut options = AvroOptions::new().with_framing(framing);
                options = options.with_schemas(schemas.clone());
                if let Some(schema) = schema {
                    options = options.with_schema(schema);
                }
                if let Some(schema) = reader_schema {
                    options = options.with_reader_schema(schema);
                }
                if let Some(id) = schema_id {
                    options = options.with_schema_id(*id);
                }
                PayloadSchema::avro(options)
            }
        }
    }
}
