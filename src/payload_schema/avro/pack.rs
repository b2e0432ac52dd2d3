//! MessagePack to data, by the writer's schema.

use std::sync::Arc;

use super::AvroFraming;
use super::canonical::fingerprint;
use super::known::Known;
use super::schema::{Kind, NodeId, Parsed, Record};
use super::wire::{push_bytes, push_long};
use crate::decode::packed::{Packed, Scalar};
use crate::decode::value::{self, Notation, Value};
use crate::payload::write_key;
use crate::payload_schema::{NotUnpacked, Pack};

/// Writes the payloads of one stream.
#[derive(Debug)]
pub(super) struct Writing {
    /// The schema and the header; or why there are none.
    by: Result<(Arc<Parsed>, Vec<u8>), String>,
    members: Vec<(Value, Value)>,
}

impl Pack for Writing {
    fn pack(&mut self, document: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let (schema, header) = self.by.as_ref().map_err(String::clone)?;
        let Some(record) = schema.record() else {
            return Ok(());
        };
        out.extend_from_slice(header);
        self.members.clear();
        let mut packing = Packing { schema, members: &mut self.members };
        packing.record(record, document, out).map_err(|wrong| wrong.message(schema))
    }
}

impl Writing {
    pub(super) fn new(known: &Known) -> Self {
        Writing { by: Self::by(known), members: Vec::new() }
    }

    fn by(known: &Known) -> Result<(Arc<Parsed>, Vec<u8>), String> {
        let one =
            || known.one.clone().ok_or("which of the Avro schemas is to be written: give one");
        match known.framing {
            AvroFraming::None => Ok((one()?, Vec::new())),
            AvroFraming::SingleObject => {
                let schema = one()?;
                let print = fingerprint(&schema).to_le_bytes();
                Ok((schema, [&b"\xc3\x01"[..], &print].concat()))
            }
            AvroFraming::Confluent => {
                let id =
                    known.schema_id.ok_or("Confluent's header needs the schema_id to write")?;
                let schema = match &known.one {
                    Some(one) => Arc::clone(one),
                    None => known.of_id(id).map_err(|why| match why {
                        NotUnpacked::Misfit(_) => format!("the header {why}"),
                        NotUnpacked::Failed(_) => why.to_string(),
                    })?,
                };
                Ok((schema, [&[0][..], &id.to_be_bytes()].concat()))
            }
            AvroFraming::Container => {
                Err("Avro containers are only read: write with a single-object header, or none"
                    .into())
            }
        }
    }
}

/// What does not fit, and where: the way to it, from its end.
#[derive(Debug)]
pub(super) struct Wrong {
    what: String,
    way: Vec<String>,
}

impl Wrong {
    #[cold]
    pub(super) fn new(what: impl Into<String>) -> Self {
        Wrong { what: what.into(), way: Vec::new() }
    }

    #[cold]
    fn at(mut self, name: &str) -> Self {
        let mut step = String::new();
        write_key(&mut step, name);
        self.way.push(step);
        self
    }

    #[cold]
    fn at_item(mut self, place: usize) -> Self {
        self.way.push(format!("[{place}]"));
        self
    }

    fn message(self, schema: &Parsed) -> String {
        let way: String = self.way.into_iter().rev().collect();
        format!("${way} {} by the Avro schema {}", self.what, schema.name())
    }
}

struct Packing<'p> {
    schema: &'p Parsed,
    /// Those of the record that is written, after those of the records around it.
    members: &'p mut Vec<(Value, Value)>,
}

impl Packing<'_> {
    fn record(&mut self, record: &Record, object: &[u8], out: &mut Vec<u8>) -> Result<(), Wrong> {
        let start = self.members.len();
        let split = Packed::split_object(object, |key, value| self.members.push((key, value)));
        split.map_err(|_| Wrong::new("must be a record"))?;
        let count = self.members.len() - start;
        let name = |members: &[(Value, Value)], place: usize| members.get(start + place).copied();
        let (mut used, mut next) = (0, 0);
        for field in &record.fields {
            // Most often it is the next one.
            let places = (next..count).chain(0..next.min(count));
            let found = places.into_iter().find_map(|place| {
                let (key, value) = name(self.members, place)?;
                (key.of(object) == field.name.as_bytes()).then_some((place, value))
            });
            let packed = match found {
                Some((place, value)) => {
                    (used, next) = (used + 1, place + 1);
                    match value.kind {
                        value::Kind::Null => self.absent(field.node, field.default.as_ref(), out),
                        _ => self.value(field.node, object, value, out),
                    }
                }
                None => self.absent(field.node, field.default.as_ref(), out),
            };
            packed.map_err(|wrong| wrong.at(&field.name))?;
        }
        if used < count {
            self.all_known(record, object, start)?;
        }
        self.members.truncate(start);
        Ok(())
    }

    /// Nothing is left out silently.
    #[cold]
    fn all_known(&self, record: &Record, object: &[u8], start: usize) -> Result<(), Wrong> {
        for (key, _) in self.members.iter().skip(start) {
            let key = String::from_utf8_lossy(key.of(object));
            if !record.fields.iter().any(|field| field.name == key) {
                return Err(Wrong::new("is no field").at(&key));
            }
        }
        Ok(())
    }

    /// What stands for a null, or for a member that is missing.
    fn absent(
        &self,
        id: NodeId,
        default: Option<&serde_json::Value>,
        out: &mut Vec<u8>,
    ) -> Result<(), Wrong> {
        match (self.schema.kind(id), default) {
            (Kind::Null, _) => return Ok(()),
            (Kind::Union(branches), _) => {
                let null =
                    branches.iter().position(|id| matches!(self.schema.kind(*id), Kind::Null));
                if let Some(place) = null {
                    push_long(place as i64, out);
                    return Ok(());
                }
            }
            _ => {}
        }
        let Some(default) = default else {
            return Err(Wrong::new(format!("is null and must be {}", self.schema.describe(id))));
        };
        self.schema.encode_default(id, default, out).map_err(Wrong::new)
    }

    fn value(
        &mut self,
        id: NodeId,
        within: &[u8],
        value: Value,
        out: &mut Vec<u8>,
    ) -> Result<(), Wrong> {
        if value.kind == value::Kind::Null {
            return self.absent(id, None, out);
        }
        let schema = self.schema;
        let node = schema.node(id);
        let content = value.of(within);
        let is_text = matches!(value.kind, value::Kind::String { .. });
        match (&node.kind, value.kind) {
            (Kind::Union(branches), _) => return self.union(branches, id, within, value, out),
            (Kind::Record(record), value::Kind::Object) => {
                return self.record(record, content, out);
            }
            (Kind::Array(item), value::Kind::Array) => {
                return self.items(content, out, |packing, item_of, out| {
                    packing.value(*item, content, item_of, out)
                });
            }
            (Kind::Map(of), value::Kind::Array) => {
                return self.items(content, out, |packing, entry, out| {
                    packing.entry(*of, entry.of(content), out)
                });
            }
            (Kind::Map(of), value::Kind::Object) => return self.entries(*of, content, out),
            _ => {}
        }
        if let Some(logical) = node.logical {
            let packed = logical.encode(&node.kind, content, value.kind, out);
            return packed.map_err(|why| {
                let shown = Shown(content, value.kind);
                Wrong::new(format!("is {shown}, and must be {}{why}", schema.describe(id)))
            });
        }
        let scalar = match value.kind {
            value::Kind::Boolean | value::Kind::Number => Scalar::of(content),
            _ => None,
        };
        match (&node.kind, scalar) {
            (Kind::Boolean, Some(Scalar::Boolean(value))) => out.push(value.into()),
            (Kind::Int, Some(Scalar::Integer(value))) if i32::try_from(value).is_ok() => {
                push_long(value, out);
            }
            (Kind::Long, Some(Scalar::Integer(value))) => push_long(value, out),
            (Kind::Float, Some(scalar)) => match scalar.as_single() {
                Some(value) => out.extend_from_slice(&value.to_le_bytes()),
                None => return Err(self.unfit(id, content, value.kind)),
            },
            (Kind::Double, Some(scalar)) => match scalar.as_double() {
                Some(value) => out.extend_from_slice(&value.to_le_bytes()),
                None => return Err(self.unfit(id, content, value.kind)),
            },
            (Kind::String, None) if is_text => push_bytes(content, out),
            (Kind::Bytes, None) if is_text || value.kind == value::Kind::Bytes => {
                push_bytes(content, out);
            }
            (Kind::Fixed(_, size), None) if content.len() == *size => {
                out.extend_from_slice(content);
            }
            (Kind::Enum(of), None) if is_text => {
                let place = of.symbols.iter().position(|symbol| symbol.as_bytes() == content);
                match place {
                    Some(place) => push_long(place as i64, out),
                    None => return Err(self.unfit(id, content, value.kind)),
                }
            }
            _ => return Err(self.unfit(id, content, value.kind)),
        }
        Ok(())
    }

    #[cold]
    fn unfit(&self, id: NodeId, content: &[u8], kind: value::Kind) -> Wrong {
        let must = match self.schema.kind(id) {
            Kind::Enum(of) => format!("one of {}", of.symbols.join(", ")),
            Kind::Fixed(_, size) => format!("{size} bytes"),
            _ => self.schema.describe(id),
        };
        Wrong::new(format!("is {}, and must be {must}", Shown(content, kind)))
    }

    /// The branch whose kind the value has, or else the first that takes it.
    fn union(
        &mut self,
        branches: &[NodeId],
        id: NodeId,
        within: &[u8],
        value: Value,
        out: &mut Vec<u8>,
    ) -> Result<(), Wrong> {
        let (start, members) = (out.len(), self.members.len());
        let schema = self.schema;
        let natural = |branch: NodeId| is_natural(schema, branch, value.of(within), value.kind);
        let mut refused = None;
        for wanted in [true, false] {
            for (place, branch) in branches.iter().enumerate() {
                if natural(*branch) != wanted || matches!(schema.kind(*branch), Kind::Null) {
                    continue;
                }
                push_long(place as i64, out);
                match self.value(*branch, within, value, out) {
                    Ok(()) => return Ok(()),
                    Err(wrong) => refused = Some(wrong),
                }
                out.truncate(start);
                self.members.truncate(members);
            }
        }
        let is_single =
            branches.iter().filter(|id| !matches!(schema.kind(**id), Kind::Null)).count();
        match refused.filter(|_| is_single == 1) {
            Some(wrong) => Err(wrong),
            None => Err(self.unfit(id, value.of(within), value.kind)),
        }
    }

    /// An array's items, in one block.
    fn items(
        &mut self,
        array: &[u8],
        out: &mut Vec<u8>,
        mut item: impl FnMut(&mut Self, Value, &mut Vec<u8>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let mut count = 0;
        let counted = Packed::split_array(array, |_| count += 1);
        counted.map_err(|_| Wrong::new("must be an array"))?;
        if count > 0 {
            push_long(count, out);
        }
        let (mut place, mut packed) = (0, Ok(()));
        let split = Packed::split_array(array, |value| {
            if packed.is_ok() {
                packed = item(self, value, out).map_err(|wrong| wrong.at_item(place));
            }
            place += 1;
        });
        split.map_err(|_| Wrong::new("must be an array"))?;
        packed?;
        push_long(0, out);
        Ok(())
    }

    /// An entry of a map that is a list of keys and values.
    fn entry(&mut self, of: NodeId, object: &[u8], out: &mut Vec<u8>) -> Result<(), Wrong> {
        let (mut key, mut found) = (None, None);
        let split = Packed::split_object(object, |name, value| match name.of(object) {
            b"key" => key = Some(value),
            b"value" => found = Some(value),
            _ => {}
        });
        let key = key.filter(|key| matches!(key.kind, value::Kind::String { .. }));
        let (Ok(()), Some(key)) = (split, key) else {
            return Err(Wrong::new("must be a struct of a text key and a value"));
        };
        push_bytes(key.of(object), out);
        match found {
            Some(value) => self.value(of, object, value, out),
            None => self.absent(of, None, out),
        }
        .map_err(|wrong| wrong.at("value"))
    }

    /// The entries of a map that is one in MessagePack too.
    fn entries(&mut self, of: NodeId, object: &[u8], out: &mut Vec<u8>) -> Result<(), Wrong> {
        let mut entries = Vec::new();
        let split = Packed::split_object(object, |key, value| entries.push((key, value)));
        split.map_err(|_| Wrong::new("must be a map"))?;
        if !entries.is_empty() {
            push_long(entries.len() as i64, out);
        }
        for (key, value) in entries {
            push_bytes(key.of(object), out);
            let name = || String::from_utf8_lossy(key.of(object)).into_owned();
            self.value(of, object, value, out).map_err(|wrong| wrong.at(&name()))?;
        }
        push_long(0, out);
        Ok(())
    }
}

/// Whether a value is what MessagePack has for a type.
fn is_natural(schema: &Parsed, id: NodeId, content: &[u8], kind: value::Kind) -> bool {
    const SINGLE: u8 = 0xca;
    let node = schema.node(id);
    let is_float = content.first().is_some_and(|first| matches!(first, 0xca | 0xcb));
    let is_single = content.first() == Some(&SINGLE);
    match kind {
        value::Kind::Null => matches!(node.kind, Kind::Null),
        value::Kind::Boolean => matches!(node.kind, Kind::Boolean),
        value::Kind::Number if is_float && is_single => matches!(node.kind, Kind::Float),
        value::Kind::Number if is_float => matches!(node.kind, Kind::Double),
        value::Kind::Number => {
            matches!(node.kind, Kind::Int | Kind::Long) && node.logical.is_none()
        }
        value::Kind::Time => node.logical.is_some_and(|logical| logical.is_instant()),
        value::Kind::String { .. } => matches!(node.kind, Kind::String),
        value::Kind::Bytes => matches!(node.kind, Kind::Bytes | Kind::Fixed(..)),
        value::Kind::Array => matches!(node.kind, Kind::Array(_)),
        value::Kind::Object => matches!(node.kind, Kind::Record(_)),
    }
}

/// A value, as errors show it.
struct Shown<'v>(&'v [u8], value::Kind);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.1 {
            value::Kind::String { .. } => f.write_str(&crate::error::shorten(self.0)),
            value::Kind::Bytes => write!(f, "{} bytes", self.0.len()),
            value::Kind::Array => f.write_str("a list"),
            value::Kind::Object => f.write_str("a struct"),
            value::Kind::Null | value::Kind::Boolean | value::Kind::Number | value::Kind::Time => {
                let mut text = Vec::new();
                Packed::push_other(self.0, &mut text);
                f.write_str(&String::from_utf8_lossy(&text))
            }
        }
    }
}
