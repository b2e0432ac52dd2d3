//! Payloads: a field whose value is a JSON document, and whose keys become columns.
//!
//! A document is read once it is whole, where it lies in the tape's buffer, and the slots of its
//! values point into it. Its members are found first, and only then does the tape hear of them, as
//! if they were fields; so a document that breaks off leaves nothing behind. A member that no column
//! wants is passed over.

use std::ops::Range;

use super::{Slot, Stray, Tape, Target};
use crate::decode::column::{NullRules, Origin};
use crate::decode::json::{self, Kind, Value};
use crate::decode::layout::Layout;
use crate::decode::misfit::Misfit;
use crate::error::Result;
use crate::payload::Payload;
use crate::schema::StreamSchema;

/// A payload that is no document: its text, and why.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) slot: Slot,
    pub(crate) misfit: Misfit,
}

/// What is needed to read documents.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// Which payloads are null as a whole.
    nulls: NullRules,
    members: Vec<(Value, Value)>,
    /// By the keys as they are written.
    layout: Layout,
    /// A key's column.
    name: Vec<u8>,
    unreadable: Vec<Unreadable>,
    /// An entry had one.
    came: bool,
}

impl Documents {
    /// What is kept of a buffer between two documents.
    const KEPT: usize = 64 * 1024;

    pub(super) fn new(schema: &StreamSchema) -> Self {
        let values = schema.payload.as_ref().map(|payload| schema.null_values.of(&payload.field));
        let nulls = NullRules { empty: true, values: values.unwrap_or_default() };
        Documents { nulls, ..Documents::default() }
    }

    /// Another batch begins.
    pub(super) fn bound(&mut self) {
        self.layout.bound();
        self.members.shrink_to(Self::KEPT / size_of::<(Value, Value)>());
        self.name.shrink_to(Self::KEPT);
    }

    /// The whole entries leave the tape.
    pub(super) fn clear(&mut self, rows: usize, start: usize) {
        self.unreadable.drain(..self.whole(rows));
        for unreadable in &mut self.unreadable {
            unreadable.slot = unreadable.slot.moved(rows, start).unwrap_or(unreadable.slot);
        }
    }

    /// The open entry is forgotten.
    pub(super) fn drop_open(&mut self, rows: usize) {
        self.unreadable.truncate(self.whole(rows));
        self.layout.clear();
    }

    /// How many belong to whole entries.
    fn whole(&self, rows: usize) -> usize {
        self.unreadable.partition_point(|unreadable| (unreadable.slot.row as usize) < rows)
    }
}

impl Tape {
    /// Whether slots may hold texts of JSON.
    #[inline]
    pub(crate) fn has_payload(&self) -> bool {
        self.schema.payload.is_some()
    }

    /// The payloads that are no documents, in order.
    pub(crate) fn unreadable(&self) -> &[Unreadable] {
        let documents = &self.documents;
        documents.unreadable.get(..documents.whole(self.ids.len())).unwrap_or_default()
    }

    /// Whether an entry has had the payload.
    pub(crate) fn has_had_payload(&self) -> bool {
        self.documents.came
    }

    /// The names of the latest entry: its fields', and what its payload's keys would be called as
    /// columns.
    pub(crate) fn latest_names(&self) -> Vec<String> {
        let fields = self.layout.names(self.latest);
        let fields = fields.map(|name| String::from_utf8_lossy(name).into_owned());
        let prefix = self.schema.payload.as_ref().map_or("", |payload| &payload.prefix);
        let keys = self.documents.layout.names(self.documents.members.len()).map(|key| {
            let mut name = prefix.as_bytes().to_vec();
            json::unescape(key, &mut name);
            String::from_utf8_lossy(&name).into_owned()
        });
        fields.chain(keys).collect()
    }

    /// What becomes of the payload: where nobody asks for a field or key, it is not read.
    pub(super) fn payload_target(&self) -> Target {
        let asked = self.schema.open
            || self.schema.rescue_column.is_some()
            || !self.schema.fields.is_empty();
        if asked { Target::Payload } else { Target::Nowhere }
    }

    /// A whole payload, at the end of the buffer.
    pub(super) fn document(&mut self, payload: Slot) -> Result<()> {
        let mut members = std::mem::take(&mut self.documents.members);
        // Its texts are looked at while the tape changes.
        let mut bytes = std::mem::take(&mut self.bytes);
        members.clear();
        self.documents.came = true;
        let read = match self.split(payload.of(&bytes), &mut members) {
            Ok(at) => self.keys(payload.start() + at, &members, &mut bytes),
            Err(misfit) => {
                self.documents.unreadable.push(Unreadable { slot: payload, misfit });
                Ok(())
            }
        };
        self.bytes = bytes;
        self.documents.members = members;
        read
    }

    /// Finds the members of the object that is meant; says where it begins.
    #[inline]
    fn split(&self, text: &[u8], members: &mut Vec<(Value, Value)>) -> Result<usize, Misfit> {
        let Some(payload) = &self.schema.payload else {
            return Ok(0);
        };
        if self.documents.nulls.is_null(text) {
            return Ok(0);
        }
        let Some(place) = payload_object(payload, text)? else {
            return Ok(0);
        };
        let object = text.get(place.clone()).unwrap_or_default();
        let split = json::split_object(object, |key, value| members.push((key, value)));
        split.map_err(|_| Misfit::from("is not a JSON object"))?;
        Ok(place.start)
    }

    /// The members of an object that begins at `start`, as if they were fields. Where an entry
    /// repeats the payload, its documents are read as one.
    fn keys(
        &mut self,
        start: usize,
        members: &[(Value, Value)],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        for (place, (key, value)) in members.iter().enumerate() {
            let object = bytes.get(start..).unwrap_or_default();
            let target = match self.documents.layout.get(place, key.of(object)) {
                Some(target) => target,
                None => self.look_up_key(place, *key, object)?,
            };
            match target {
                Target::Column(column) => {
                    // As a missing field; unless it takes the place of another value.
                    if value.kind == Kind::Null && !self.is_in_entry(column) {
                        continue;
                    }
                    let slot = self.text(*value, start, bytes)?;
                    self.put(column, slot)?;
                }
                Target::Stray if value.kind != Kind::Null => {
                    self.name_key(*key, object);
                    let name = self.slot_of(bytes.len(), self.documents.name.len())?;
                    bytes.extend_from_slice(&self.documents.name);
                    let value = self.text(*value, start, bytes)?;
                    self.strays.push(Stray { name, value });
                }
                Target::Stray | Target::Nowhere | Target::Payload => {}
            }
        }
        Ok(())
    }

    /// Whether the open entry has a value of the column.
    fn is_in_entry(&self, column: usize) -> bool {
        let last = self.columns.get(column).and_then(|slots| slots.last());
        last.is_some_and(|slot| self.is_open(slot))
    }

    /// The slot of a value, whose text is written anew only where it has escapes.
    #[inline]
    fn text(&self, value: Value, start: usize, bytes: &mut Vec<u8>) -> Result<Slot> {
        let slot = match value.is_escaped() {
            false => self.slot_of(start + value.start(), value.len())?,
            true => {
                let offset = bytes.len();
                let raw = start + value.start();
                json::unescape_within(bytes, raw..raw + value.len());
                self.slot_of(offset, bytes.len() - offset)?
            }
        };
        Ok(slot.with_origin(Origin::of(value.kind)))
    }

    /// Finds or makes the target of a key that is not where it was in the latest document.
    #[cold]
    fn look_up_key(&mut self, place: usize, key: Value, object: &[u8]) -> Result<Target> {
        self.name_key(key, object);
        let name = std::mem::take(&mut self.documents.name);
        let target = match self.schema.is_beside(&name) {
            true if self.schema.rescue_column.is_some() => Ok(Target::Stray),
            true => Ok(Target::Nowhere),
            false => self.target_of(&name),
        };
        self.documents.name = name;
        let target = target?;
        self.documents.layout.remember(place, key.of(object), target);
        Ok(target)
    }

    /// Writes down what the key's column is called.
    fn name_key(&mut self, key: Value, object: &[u8]) {
        let name = &mut self.documents.name;
        name.clear();
        if let Some(payload) = &self.schema.payload {
            name.extend_from_slice(payload.prefix.as_bytes());
        }
        json::unescape(key.of(object), name);
    }
}

/// Where in a payload's text the object is that its path leads to; `None` where it is missing or
/// null.
pub(crate) fn payload_object(
    payload: &Payload,
    text: &[u8],
) -> Result<Option<Range<usize>>, Misfit> {
    let mut place = 0..text.len();
    for (depth, wanted) in payload.path.iter().enumerate() {
        let object = text.get(place.clone()).unwrap_or_default();
        let mut found = None;
        let mut name = Vec::new();
        let split = json::split_object(object, |key, value| {
            name.clear();
            json::unescape(key.of(object), &mut name);
            if name == wanted.as_bytes() {
                found = Some(value);
            }
        });
        split.map_err(|_| Misfit::from("is not a JSON object"))?;
        match found {
            None | Some(Value { kind: Kind::Null, .. }) => return Ok(None),
            Some(value) if value.kind == Kind::Object => {
                let start = place.start + value.start();
                place = start..start + value.len();
            }
            Some(_) => {
                let path = payload.path_to(depth);
                return Err(format!("has something other than an object at {path}").into());
            }
        }
    }
    let is_null = payload.path.is_empty() && json::is_null(text);
    Ok((!is_null).then_some(place))
}
