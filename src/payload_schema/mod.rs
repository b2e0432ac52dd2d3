//! Payloads of formats whose bytes tell neither names nor, in part, types: a schema does.
//!
//! Such a payload is turned into MessagePack by its schema where it lies on the tape, and goes on as
//! one of that format does; and a writer's MessagePack is turned into a payload.

mod avro;
mod packer;
mod protobuf;

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow_schema::{DataType, Fields, TimeUnit};

use crate::decode::Misfit;
use crate::error::{Error, Result};
pub use avro::{AvroFraming, AvroLookup, AvroOptions};
pub(crate) use packer::Packer;

/// What the payloads of a stream are by. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PayloadSchema {
    schema: Arc<dyn Schema>,
}

/// A format that has schemas.
pub(crate) trait Schema: Debug + Send + Sync {
    /// What its documents have, as the columns that hold all of it. What has no dtype, such as what
    /// contains itself, is text that holds JSON.
    fn fields(&self) -> Fields;

    /// The unit in which its packer takes durations, if it has durations; else they are counts of
    /// whichever unit their columns have.
    fn duration_unit(&self) -> Option<TimeUnit> {
        None
    }

    /// Whether no bytes are a payload; else they are none, and null.
    fn takes_empty(&self) -> bool {
        false
    }

    /// What reads payloads of which only some members are wanted.
    fn unpacker(&self, wanted: Wanted) -> Box<dyn Unpack>;

    /// What writes them.
    fn packer(&self) -> Box<dyn Pack>;
}

/// Turns payloads into MessagePack.
pub(crate) trait Unpack: Debug + Send {
    /// Appends the map that a payload is. Where it fails, what has been appended is left out.
    fn unpack(&mut self, payload: &[u8], out: &mut Packer) -> Result<(), NotUnpacked>;
}

/// Why a payload has not been read.
#[derive(Debug)]
pub(crate) enum NotUnpacked {
    /// It does not follow its schema.
    Misfit(Misfit),
    /// Nobody could say what its schema is. It may be read another time.
    Failed(Error),
}

impl fmt::Display for NotUnpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotUnpacked::Misfit(Misfit(why)) => f.write_str(why),
            NotUnpacked::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl<M: Into<Misfit>> From<M> for NotUnpacked {
    fn from(misfit: M) -> Self {
        NotUnpacked::Misfit(misfit.into())
    }
}

/// Turns MessagePack into payloads.
pub(crate) trait Pack: Debug + Send {
    /// Appends the payload that a map is. An error says what does not fit, and where.
    fn pack(&mut self, document: &[u8], out: &mut Vec<u8>) -> Result<(), String>;
}

/// Which members of documents are wanted; others may be left out of what is unpacked.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    All,
    Only(HashSet<String>),
}

impl Wanted {
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Only(names) => names.contains(name),
        }
    }
}

/// Schemas are the same where they are one.
impl PartialEq for PayloadSchema {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.schema, &other.schema)
    }
}

impl Eq for PayloadSchema {}

impl PayloadSchema {
    /// The columns that hold all that the payloads have, at the end of a path of names.
    pub(crate) fn fields_at(&self, path: &[String]) -> Fields {
        path.iter().fold(self.schema.fields(), |fields, name| {
            match fields.find(name).map(|(_, field)| field.data_type()) {
                Some(DataType::Struct(fields)) => fields.clone(),
                _ => Fields::empty(),
            }
        })
    }

    /// The first name of a path that no payload can have, with what is there in its place.
    pub(crate) fn misnamed<'a>(&self, path: &'a [String]) -> Option<(usize, &'a str, Fields)> {
        let mut fields = self.schema.fields();
        for (depth, name) in path.iter().enumerate() {
            let inner = match fields.find(name).map(|(_, field)| field.data_type()) {
                Some(DataType::Struct(inner)) => inner.clone(),
                // It may hold a document, of which the schema says no more.
                Some(DataType::Utf8 | DataType::Utf8View) => return None,
                _ => return Some((depth, name, fields)),
            };
            fields = inner;
        }
        None
    }

    /// The columns that hold all that the payloads have.
    pub fn fields(&self) -> Fields {
        self.schema.fields()
    }

    pub(crate) fn takes_empty(&self) -> bool {
        self.schema.takes_empty()
    }

    pub(crate) fn duration_unit(&self) -> Option<TimeUnit> {
        self.schema.duration_unit()
    }

    pub(crate) fn unpacker(&self, wanted: Wanted) -> Box<dyn Unpack> {
        self.schema.unpacker(wanted)
    }

    pub(crate) fn packer(&self) -> Box<dyn Pack> {
        self.schema.packer()
    }
}
