//! The schemas that there are, by what payloads call them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_schema::{Field, FieldRef, Fields};

use super::canonical::fingerprint;
use super::resolve::Plan;
use super::schema::Parsed;
use super::{AvroFraming, AvroLookup, AvroOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::payload_schema::{NotUnpacked, Wanted};

/// The schemas of one `AvroOptions`.
pub(super) struct Known {
    pub(super) framing: AvroFraming,
    /// The one schema, where payloads say nothing else.
    pub(super) one: Option<Arc<Parsed>>,
    /// By ID, or by fingerprint.
    named: HashMap<u64, Arc<Parsed>>,
    pub(super) reader: Option<Arc<Parsed>>,
    pub(super) schema_id: Option<u32>,
    lookup: Option<AvroLookup>,
    /// What the lookup said.
    found: Mutex<HashMap<u32, Found>>,
    columns: Fields,
}

/// A schema, or until when there is none, and why.
#[derive(Clone)]
enum Found {
    Schema(Arc<Parsed>),
    Not(Instant, String),
}

/// How long it is remembered that there is no schema: neither forever, nor is it asked for each payload.
const REMEMBERED: Duration = Duration::from_secs(10);

/// How many answers are remembered.
const MOST_FOUND: usize = 4_096;

impl Known {
    pub(super) fn new(options: AvroOptions) -> Result<Self> {
        let AvroOptions { schema, schemas, lookup, reader_schema, framing, schema_id } = options;
        let by_id = !schemas.is_empty() || lookup.is_some();
        let refused = match framing {
            AvroFraming::None if by_id => {
                Some("Avro payloads without a header do not say of which schema they are: give one")
            }
            AvroFraming::Container if by_id => {
                Some("Avro containers bring their schemas with them, so there are none by ID")
            }
            AvroFraming::SingleObject if lookup.is_some() => {
                Some("single-object headers have no schema IDs to look up: give the schemas")
            }
            _ if schema.is_some() && by_id => Some("give either one Avro schema or several"),
            _ if schema.is_none() && !by_id && framing != AvroFraming::Container => {
                Some("Avro payloads need a schema")
            }
            AvroFraming::Confluent => None,
            _ if schema_id.is_some() => {
                Some("only Confluent's header has a schema ID: set the framing")
            }
            _ => None,
        };
        if let Some(refused) = refused {
            return Err(Error::invalid(refused));
        }
        let parse = |what: &str, text: &str| {
            let parsed = document(text);
            parsed.map_err(|why| Error::invalid(format!("the Avro {what} {why}")))
        };
        let mut one = schema.map(|text| parse("schema", &text)).transpose()?;
        let mut reader = reader_schema.map(|text| parse("reader schema", &text)).transpose()?;
        if framing == AvroFraming::Container {
            reader = reader.or(one.take());
        }
        let by_id = schemas
            .iter()
            .map(|(id, text)| Ok((u64::from(*id), parse(&format!("schema of ID {id},"), text)?)));
        let by_id: Result<Vec<(u64, Arc<Parsed>)>> = by_id.collect();
        let by_id = by_id?;
        let all: Vec<_> =
            one.iter().chain(by_id.iter().map(|(_, schema)| schema)).cloned().collect();
        let columns = match &reader {
            Some(reader) => reader.columns(),
            None => merged(&all),
        };
        for writer in &all {
            let reader = reader.as_ref().unwrap_or(writer);
            if let Some(why) = Plan::new(writer, reader, &Wanted::All).contradiction() {
                let name = writer.name();
                return Err(Error::invalid(format!("the Avro schema {name} {why}")));
            }
        }
        let named = match framing {
            AvroFraming::SingleObject => {
                all.iter().map(|schema| (fingerprint(schema), Arc::clone(schema))).collect()
            }
            _ => by_id.into_iter().collect(),
        };
        if framing == AvroFraming::SingleObject && all.len() > 1 {
            one = None;
        } else if framing == AvroFraming::SingleObject {
            one = all.into_iter().next();
        }
        Ok(Known {
            framing,
            one,
            named,
            reader,
            schema_id,
            lookup,
            found: Mutex::default(),
            columns,
        })
    }

    pub(super) fn columns(&self) -> Fields {
        self.columns.clone()
    }

    pub(super) fn of_fingerprint(&self, print: u64) -> Option<&Arc<Parsed>> {
        self.named.get(&print)
    }

    /// The schema of an ID. There may be none, or none that has records.
    pub(super) fn of_id(&self, id: u32) -> Result<Arc<Parsed>, NotUnpacked> {
        let unknown = || format!("has the schema ID {id}, which is not known");
        if let Some(schema) = self.named.get(&id.into()) {
            return Ok(Arc::clone(schema));
        }
        let Some(lookup) = &self.lookup else {
            return Err(unknown().into());
        };
        let remembered = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered().get(&id).cloned();
        match known {
            Some(Found::Schema(schema)) => return Ok(schema),
            Some(Found::Not(until, why)) if Instant::now() < until => return Err(why.into()),
            _ => {}
        }
        // No lock is held while the lookup runs: it may wait for a thread that wants the lock.
        let answer = match lookup(id).map_err(|error| not_told(id, error))? {
            None => Err(unknown()),
            Some(text) => {
                // What is no schema says that something answered in the registry's place.
                let parsed = Parsed::parse(&text).map_err(|why| {
                    let message = format!("the schema {why}");
                    not_told(id, Error::new(ErrorKind::Schema, message))
                })?;
                records(parsed).map_err(|why| format!("has the schema ID {id}, whose schema {why}"))
            }
        };
        let mut found = remembered();
        if found.len() >= MOST_FOUND {
            found.clear();
        }
        let kept = match &answer {
            Ok(schema) => Found::Schema(Arc::clone(schema)),
            Err(why) => Found::Not(Instant::now() + REMEMBERED, why.clone()),
        };
        found.insert(id, kept);
        answer.map_err(NotUnpacked::from)
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("framing", &self.framing).finish_non_exhaustive()
    }
}

/// The read fails: another time the payload may well be read.
#[cold]
fn not_told(id: u32, error: Error) -> NotUnpacked {
    let what = format!("nobody could tell the Avro schema of the ID {id}");
    NotUnpacked::Failed(error.reframed(ErrorKind::Schema, &what))
}

/// A schema whose data are documents.
pub(super) fn document(text: &str) -> Result<Arc<Parsed>, String> {
    records(Parsed::parse(text)?)
}

fn records(parsed: Parsed) -> Result<Arc<Parsed>, String> {
    match parsed.record() {
        Some(_) => Ok(Arc::new(parsed)),
        None => Err(format!(
            "is that of {}; it must be a record, whose fields become columns",
            parsed.describe(parsed.root)
        )),
    }
}

/// The columns of several schemas. Where they have a field of one name, the last says what it is.
fn merged(schemas: &[Arc<Parsed>]) -> Fields {
    let mut all: Vec<FieldRef> = Vec::new();
    for column in
        schemas.iter().flat_map(|schema| schema.columns().iter().cloned().collect::<Vec<_>>())
    {
        match all.iter_mut().find(|one| Field::name(one) == column.name()) {
            Some(place) => *place = column,
            None => all.push(column),
        }
    }
    all.into()
}
