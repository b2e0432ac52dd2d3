//! Payloads: a field whose value is a document, and whose keys become columns.
//!
//! A document is read once it is whole, where it lies in the tape's buffer, and the slots of its
//! values point into it. Its members are found first, and only then does the tape hear of them, as
//! if they were fields; so a document that breaks off leaves nothing behind. A member that no column
//! wants is passed over.

use super::{Slot, Stray, Tape, Target};
use crate::compression::{Inflater, NotInflated, PayloadCompression};
use crate::decode::column::{NullRules, Origin, packed_text};
use crate::decode::json::{Json, unescape_within};
use crate::decode::layout::Layout;
use crate::decode::misfit::Misfit;
use crate::decode::packed::Packed;
use crate::decode::value::{Kind, Notation, Value};
use crate::error::Result;
use crate::payload::{Payload, PayloadFormat};
use crate::payload_schema::{NotUnpacked, Packer, Unpack, Wanted};
use crate::schema::StreamSchema;

/// A payload that is no document: its text, and why.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) slot: Slot,
    pub(crate) misfit: Misfit,
}

/// A value of a document, and its key; without one it has the name that its place has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) key: Option<Value>,
    pub(crate) value: Value,
}

/// What is needed to read documents.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// Which payloads are null as a whole.
    nulls: NullRules,
    members: Vec<Member>,
    /// The names of places in arrays.
    positions: Vec<String>,
    inflater: Option<Inflater>,
    /// What a payload was before it was compressed.
    inflated: Vec<u8>,
    /// What reads payloads that have a schema.
    unpacking: Option<(Box<dyn Unpack>, Packer)>,
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
        let takes_empty = schema.payload.as_ref().is_some_and(|one| one.format.takes_empty());
        let nulls = NullRules { empty: !takes_empty, values: values.unwrap_or_default() };
        let positions = schema.payload.as_ref().map(|payload| payload.positions.clone());
        let positions = positions.unwrap_or_default();
        let inflater = schema.payload.as_ref().and_then(Payload::inflater);
        let unpacking = schema.payload.as_ref().and_then(|payload| match &payload.format {
            PayloadFormat::Schema(by) => {
                Some((by.unpacker(wanted(payload, schema)), Packer::new(payload.max_bytes)))
            }
            PayloadFormat::Json | PayloadFormat::MessagePack => None,
        });
        Documents { nulls, positions, inflater, unpacking, ..Documents::default() }
    }

    /// Another batch begins.
    pub(super) fn bound(&mut self) {
        self.layout.bound();
        self.members.shrink_to(Self::KEPT / size_of::<Member>());
        self.name.shrink_to(Self::KEPT);
        self.inflated = Vec::new();
        if let Some((_, packer)) = &mut self.unpacking {
            packer.shrink_to(Self::KEPT);
        }
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
    /// Whether slots may hold values of a payload.
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
        let Some(payload) = &self.schema.payload else {
            return fields.collect();
        };
        let push_string = match payload.format {
            PayloadFormat::Json => Json::push_string,
            PayloadFormat::MessagePack | PayloadFormat::Schema(_) => Packed::push_string,
        };
        let keys = self.documents.layout.names(self.documents.members.len()).map(|key| {
            let mut name = payload.prefix.as_bytes().to_vec();
            push_string(key, &mut name);
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
        let payload = match self.inflate(payload)? {
            Some(payload) => payload,
            None => return Ok(()),
        };
        match self.schema.payload.as_ref().map(|payload| &payload.format) {
            None | Some(PayloadFormat::Json) => self.read_document::<Json>(payload),
            Some(PayloadFormat::MessagePack) => self.read_document::<Packed>(payload),
            Some(PayloadFormat::Schema(_)) => match self.unpack(payload)? {
                Some(payload) => self.read_members::<Packed>(payload, !self.has_path()),
                None => Ok(()),
            },
        }
    }

    fn has_path(&self) -> bool {
        self.schema.payload.as_ref().is_some_and(|payload| !payload.path.is_empty())
    }

    /// Puts in a payload's place what its schema makes of it. One that does not follow the schema is
    /// kept as it is, and does not fit.
    fn unpack(&mut self, payload: Slot) -> Result<Option<Slot>> {
        let Documents { unpacking: Some((unpacker, packer)), nulls, members, .. } =
            &mut self.documents
        else {
            return Ok(Some(payload));
        };
        members.clear();
        let bytes = payload.of(&self.bytes);
        if nulls.is_null(bytes) {
            return Ok(Some(payload));
        }
        packer.clear();
        match unpacker.unpack(bytes, packer) {
            Ok(()) => {
                members.extend(packer.members());
                let packed = packer.bytes();
                self.bytes.truncate(payload.start());
                self.bytes.extend_from_slice(packed);
                // What it was has been counted as it came.
                let grown = packed.len().saturating_sub(payload.len as usize);
                self.add_inflated(grown);
                self.slot(payload.start()).map(Some)
            }
            Err(NotUnpacked::Misfit(misfit)) => {
                self.documents.came = true;
                self.documents.unreadable.push(Unreadable { slot: payload, misfit });
                Ok(None)
            }
            Err(NotUnpacked::Failed(error)) => Err(self.at_entry(error)),
        }
    }

    /// Puts in a compressed payload's place what it was before. One that cannot be decompressed is
    /// kept as it is, and does not fit.
    #[inline]
    fn inflate(&mut self, payload: Slot) -> Result<Option<Slot>> {
        if self.documents.inflater.is_none() || payload.len == 0 {
            return Ok(Some(payload));
        }
        let Documents { inflater: Some(inflater), inflated, .. } = &mut self.documents else {
            return Ok(Some(payload));
        };
        match inflater.inflate(payload.of(&self.bytes), inflated) {
            Ok(()) => {
                self.bytes.truncate(payload.start());
                self.bytes.extend_from_slice(inflated);
                self.add_inflated(self.documents.inflated.len());
                self.slot(payload.start()).map(Some)
            }
            Err(error) => {
                let misfit = inflater.misfit(error);
                self.documents.came = true;
                self.documents.unreadable.push(Unreadable { slot: payload, misfit });
                Ok(None)
            }
        }
    }

    fn read_document<N: Notation>(&mut self, payload: Slot) -> Result<()> {
        self.read_members::<N>(payload, false)
    }

    /// Reads the members of a document, which may be known since it was unpacked.
    #[inline]
    fn read_members<N: Notation>(&mut self, payload: Slot, are_known: bool) -> Result<()> {
        let mut members = std::mem::take(&mut self.documents.members);
        // Its texts are looked at while the tape changes.
        let mut bytes = std::mem::take(&mut self.bytes);
        self.documents.came = true;
        let split = match are_known {
            true => Ok(0),
            false => {
                members.clear();
                self.split::<N>(payload.of(&bytes), &mut members)
            }
        };
        let read = match split {
            Ok(at) => self.keys::<N>(payload.start() + at, &members, &mut bytes),
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
    fn split<N: Notation>(&self, text: &[u8], members: &mut Vec<Member>) -> Result<usize, Misfit> {
        match &self.schema.payload {
            Some(payload) if !self.documents.nulls.is_null(text) => {
                split_payload::<N>(payload, text, members)
            }
            _ => Ok(0),
        }
    }

    /// The members of an object that begins at `start`, as if they were fields. Where an entry
    /// repeats the payload, its documents are read as one.
    fn keys<N: Notation>(
        &mut self,
        start: usize,
        members: &[Member],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        for (place, member) in members.iter().enumerate() {
            let Member { key, value } = *member;
            let object = bytes.get(start..).unwrap_or_default();
            let name = match key {
                Some(key) => key.of(object),
                None => self.documents.positions.get(place).map_or(&[][..], |name| name.as_bytes()),
            };
            let known = match is_name(key) {
                true => self.documents.layout.get(place, name),
                false => None,
            };
            let target = match known {
                Some(target) => target,
                None => self.look_up_key::<N>(place, key, object)?,
            };
            match target {
                Target::Column(column) => {
                    // As a missing field; unless it takes the place of another value.
                    if value.kind == Kind::Null && !self.is_in_entry(column) {
                        continue;
                    }
                    let slot = self.text::<N>(value, start, bytes)?;
                    self.put(column, slot)?;
                }
                Target::Stray if value.kind != Kind::Null => {
                    self.name_key::<N>(place, key, object);
                    let name = self.slot_of(bytes.len(), self.documents.name.len())?;
                    bytes.extend_from_slice(&self.documents.name);
                    let mut slot = self.text::<N>(value, start, bytes)?;
                    if slot.origin() == Origin::Packed {
                        let mut text = packed_text(slot.without_origin().of(bytes));
                        slot = self.slot_of(bytes.len(), text.len())?;
                        bytes.append(&mut text);
                    }
                    self.strays.push(Stray { name, value: slot });
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
    fn text<N: Notation>(&self, value: Value, start: usize, bytes: &mut Vec<u8>) -> Result<Slot> {
        let slot = match value.is_escaped() {
            false => self.slot_of(start + value.start(), value.len())?,
            true => {
                let offset = bytes.len();
                let raw = start + value.start();
                unescape_within(bytes, raw..raw + value.len());
                self.slot_of(offset, bytes.len() - offset)?
            }
        };
        Ok(slot.with_origin(N::origin(value.kind)))
    }

    /// Finds or makes the target of a key that is not where it was in the latest document.
    #[cold]
    fn look_up_key<N: Notation>(
        &mut self,
        place: usize,
        key: Option<Value>,
        object: &[u8],
    ) -> Result<Target> {
        self.name_key::<N>(place, key, object);
        let name = std::mem::take(&mut self.documents.name);
        let target = match self.schema.is_beside(&name) || self.is_beyond(place, key) {
            true if self.schema.rescue_column.is_some() => Ok(Target::Stray),
            true => Ok(Target::Nowhere),
            false => self.target_of(&name),
        };
        self.documents.name = name;
        let target = target?;
        let Documents { layout, positions, .. } = &mut self.documents;
        match (key, positions.get(place)) {
            (Some(key), _) if is_name(Some(key)) => {
                layout.remember(place, key.of(object), target);
            }
            (None, Some(name)) => layout.remember(place, name.as_bytes(), target),
            _ => {}
        }
        Ok(target)
    }

    /// Whether a value's place in an array has no name.
    fn is_beyond(&self, place: usize, key: Option<Value>) -> bool {
        key.is_none() && place >= self.documents.positions.len()
    }

    /// Writes down what the key's column is called.
    fn name_key<N: Notation>(&mut self, place: usize, key: Option<Value>, object: &[u8]) {
        let Documents { name, positions, .. } = &mut self.documents;
        name.clear();
        if let Some(payload) = &self.schema.payload {
            name.extend_from_slice(payload.prefix.as_bytes());
        }
        match (key, positions.get(place)) {
            (Some(key), _) => N::push_text(key, object, name),
            (None, Some(position)) => name.extend_from_slice(position.as_bytes()),
            (None, None) => name.extend_from_slice(format!("[{place}]").as_bytes()),
        }
    }
}

/// The members of documents that somebody may ask for.
fn wanted(payload: &Payload, schema: &StreamSchema) -> Wanted {
    if let Some(first) = payload.path.first() {
        return Wanted::Only([first.clone()].into());
    }
    if schema.open || schema.rescue_column.is_some() {
        return Wanted::All;
    }
    let names = schema.fields.iter().filter_map(|field| field.name().strip_prefix(&payload.prefix));
    Wanted::Only(names.map(str::to_owned).collect())
}

/// Whether what is written there for a key is a name; it may be a number, whose bytes could be those
/// of a name too.
#[inline(always)]
fn is_name(key: Option<Value>) -> bool {
    key.is_none_or(|key| matches!(key.kind, Kind::String { .. } | Kind::Bytes))
}

/// Finds the members of the object that a payload's path leads to, and says where in its text that
/// begins; there are none where it is missing or null.
pub(crate) fn split_payload<N: Notation>(
    payload: &Payload,
    text: &[u8],
    members: &mut Vec<Member>,
) -> Result<usize, Misfit> {
    let mut place = 0..text.len();
    for (depth, wanted) in payload.path.iter().enumerate() {
        let object = text.get(place.clone()).unwrap_or_default();
        let mut found = None;
        let mut name = Vec::new();
        let split = N::split_object(object, |key, value| {
            name.clear();
            N::push_text(key, object, &mut name);
            if name == wanted.as_bytes() {
                found = Some(value);
            }
        });
        split.map_err(|_| Misfit::from(N::NO_OBJECT))?;
        let is_last = depth + 1 == payload.path.len();
        match found {
            None | Some(Value { kind: Kind::Null, .. }) => return Ok(0),
            Some(value)
                if value.kind == Kind::Object
                    || is_last && value.kind == Kind::Array && !payload.positions.is_empty() =>
            {
                let start = place.start + value.start();
                place = start..start + value.len();
            }
            Some(_) => {
                let path = payload.path_to(depth);
                return Err(format!("has something other than an object at {path}").into());
            }
        }
    }
    let object = text.get(place.clone()).unwrap_or_default();
    if payload.path.is_empty() && N::is_null(object) {
        return Ok(0);
    }
    let split = match !payload.positions.is_empty() && N::is_array(object) {
        true => N::split_array(object, |value| members.push(Member { key: None, value })),
        false => N::split_object(object, |key, value| {
            members.push(Member { key: Some(key), value });
        }),
    };
    split.map_err(|_| Misfit::from(N::NO_OBJECT))?;
    Ok(place.start)
}

impl Inflater {
    #[cold]
    fn misfit(&self, error: NotInflated) -> Misfit {
        match (error, self.compression()) {
            (NotInflated::Malformed, PayloadCompression::Zstd) => "is not zstd".into(),
            (NotInflated::Malformed, PayloadCompression::Gzip) => "is not gzip".into(),
            (NotInflated::TooLarge, _) => {
                let most = self.most();
                format!("is more than payload_max_bytes={most} once it is decompressed").into()
            }
        }
    }
}
