//! A message's descriptor, made ready to read and to write its messages.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field as Column, Fields, TimeUnit};
use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, Kind as Described, MessageDescriptor,
};

use crate::dtype::ENUM_METADATA;
use crate::error::{Error, Result};
use crate::payload_schema::packer::{PackedName, packed_text};

/// All messages that a message may have in it; it is the first.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) messages: Vec<Message>,
    pub(super) columns: Fields,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: String,
    /// By their numbers, as they are written.
    pub(super) fields: Vec<Field>,
    /// The places of those that are never null.
    pub(super) always: Vec<usize>,
    by_name: HashMap<String, usize>,
    pub(super) has_oneofs: bool,
    /// Each field has one value at most, and none is a message of the plan.
    pub(super) is_flat: bool,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) packed_name: PackedName,
    pub(super) number: u32,
    pub(super) shape: Shape,
    pub(super) kind: Kind,
    /// Of those with the same number one at most has a value.
    pub(super) oneof: Option<u32>,
    /// Where it is repeated, whether its numbers are written as one.
    pub(super) is_packed: bool,
    /// Of proto2, which has no message without it.
    pub(super) is_required: bool,
}

impl Field {
    fn is_leaf(&self) -> bool {
        matches!(self.shape, Shape::Plain | Shape::Optional)
            && !matches!(self.kind, Kind::Message(_) | Kind::Group(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// It always has a value: that of its kind where it is not written.
    Plain,
    /// It is null where it is not written.
    Optional,
    Repeated,
    /// Its kind is that of the values; the keys have this one.
    Map(Key),
}

/// What keys of maps may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Text,
    Number(Number),
}

/// A kind that is a number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Boolean,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Single,
    Float,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Number(Number),
    Text,
    Bytes,
    Enum(Arc<Names>),
    /// The place of a message among those of the plan.
    Message(usize),
    /// The same between two tags.
    Group(usize),
    Timestamp,
    Duration,
    /// What a wrapper has in it.
    Wrapper(Box<Kind>),
    /// What says itself what it is: `Struct`, `ListValue` and `Value`.
    Struct,
    List,
    Value,
}

/// An enum's names and numbers.
#[derive(Debug)]
pub(super) struct Names {
    /// The first name of each number, packed.
    by_number: HashMap<i32, Box<[u8]>>,
    by_name: HashMap<String, i32>,
    in_order: Vec<String>,
    pub(super) first: i32,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Group,
    Fixed32,
}

impl Number {
    pub(super) fn wire(self) -> Wire {
        match self {
            Number::Fixed32 | Number::Sfixed32 | Number::Single => Wire::Fixed32,
            Number::Fixed64 | Number::Sfixed64 | Number::Float => Wire::Fixed64,
            _ => Wire::Varint,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Number::Boolean => DataType::Boolean,
            Number::Int32 | Number::Sint32 | Number::Sfixed32 => DataType::Int32,
            Number::Int64 | Number::Sint64 | Number::Sfixed64 => DataType::Int64,
            Number::Uint32 | Number::Fixed32 => DataType::UInt32,
            Number::Uint64 | Number::Fixed64 => DataType::UInt64,
            Number::Single => DataType::Float32,
            Number::Float => DataType::Float64,
        }
    }
}

impl Kind {
    #[inline]
    pub(super) fn wire(&self) -> Wire {
        match self {
            Kind::Number(number) => number.wire(),
            Kind::Enum(_) => Wire::Varint,
            Kind::Group(_) => Wire::Group,
            _ => Wire::Bytes,
        }
    }
}

impl Names {
    fn new(described: &EnumDescriptor) -> Self {
        let mut names = Names {
            by_number: HashMap::new(),
            by_name: HashMap::new(),
            in_order: Vec::new(),
            first: described.default_value().number(),
        };
        // In the order of their declaration: `values` has those of a number the other way round.
        for value in &described.enum_descriptor_proto().value {
            names.by_name.insert(value.name().to_owned(), value.number());
            // Of several names of a number the first one is read.
            names.by_number.entry(value.number()).or_insert_with(|| {
                names.in_order.push(value.name().to_owned());
                packed_text(value.name())
            });
        }
        names
    }

    #[inline]
    pub(super) fn packed(&self, number: i32) -> Option<&[u8]> {
        self.by_number.get(&number).map(AsRef::as_ref)
    }

    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.by_name.get(name).copied()
    }
}

impl Message {
    /// The place of a field among the fields. `hint` is where it is likely to be.
    #[inline]
    pub(super) fn find(&self, number: u32, hint: usize) -> Option<usize> {
        if self.fields.get(hint).is_some_and(|field| field.number == number) {
            return Some(hint);
        }
        self.fields.binary_search_by_key(&number, |field| field.number).ok()
    }

    pub(super) fn find_name(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

impl Plan {
    pub(super) fn new(described: &MessageDescriptor) -> Result<Self> {
        let mut planner = Planner::default();
        planner.place_of(described);
        let mut messages = Vec::new();
        // What is found in one is planned after it.
        while let Some(described) = planner.found.get(messages.len()).cloned() {
            messages.push(planner.message(&described)?);
        }
        let columns = Columns { around: Vec::new(), left: MOST_COLUMNS }.of(described);
        Ok(Plan { messages, columns })
    }

    pub(super) fn message(&self, place: usize) -> Option<&Message> {
        self.messages.get(place)
    }
}

#[derive(Default)]
struct Planner {
    found: Vec<MessageDescriptor>,
    places: HashMap<String, usize>,
    enums: HashMap<String, Arc<Names>>,
}

impl Planner {
    fn place_of(&mut self, described: &MessageDescriptor) -> usize {
        let found = &mut self.found;
        *self.places.entry(described.full_name().to_owned()).or_insert_with(|| {
            found.push(described.clone());
            found.len() - 1
        })
    }

    fn message(&mut self, described: &MessageDescriptor) -> Result<Message> {
        let oneofs: HashMap<String, u32> =
            described.oneofs().zip(0..).map(|(one, at)| (one.full_name().to_owned(), at)).collect();
        let mut fields = Vec::new();
        for field in described.fields() {
            let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            let (shape, kind) = match field.kind() {
                Described::Message(entry) if field.is_map() => {
                    let key = key(&entry.map_entry_key_field())?;
                    (Shape::Map(key), self.kind(&entry.map_entry_value_field()))
                }
                _ if field.cardinality() == Cardinality::Repeated => {
                    (Shape::Repeated, self.kind(&field))
                }
                _ if field.supports_presence() => (Shape::Optional, self.kind(&field)),
                _ => (Shape::Plain, self.kind(&field)),
            };
            fields.push(Field {
                name: field.name().to_owned(),
                packed_name: PackedName::new(field.name()),
                number: field.number(),
                shape,
                kind,
                oneof: oneof.and_then(|oneof| oneofs.get(oneof.full_name()).copied()),
                is_packed: field.is_packed(),
                is_required: field.cardinality() == Cardinality::Required,
            });
        }
        fields.sort_by_key(|field| field.number);
        let has_oneofs = fields.iter().any(|field| field.oneof.is_some());
        let by_name =
            fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)).collect();
        let always = fields.iter().enumerate().filter(|(_, field)| field.shape != Shape::Optional);
        let always = always.map(|(at, _)| at).collect();
        let is_flat = !has_oneofs && fields.iter().all(Field::is_leaf);
        let name = described.full_name().to_owned();
        Ok(Message { name, fields, always, by_name, has_oneofs, is_flat })
    }

    fn kind(&mut self, field: &FieldDescriptor) -> Kind {
        match field.kind() {
            Described::String => Kind::Text,
            Described::Bytes => Kind::Bytes,
            Described::Enum(described) => {
                let names = self.enums.entry(described.full_name().to_owned());
                Kind::Enum(Arc::clone(names.or_insert_with(|| Arc::new(Names::new(&described)))))
            }
            Described::Message(described) => match well_known(&described) {
                Some(kind) => kind,
                None if field.is_group() => Kind::Group(self.place_of(&described)),
                None => Kind::Message(self.place_of(&described)),
            },
            other => number(&other).map_or(Kind::Bytes, Kind::Number),
        }
    }
}

fn number(described: &Described) -> Option<Number> {
    Some(match described {
        Described::Bool => Number::Boolean,
        Described::Int32 => Number::Int32,
        Described::Int64 => Number::Int64,
        Described::Uint32 => Number::Uint32,
        Described::Uint64 => Number::Uint64,
        Described::Sint32 => Number::Sint32,
        Described::Sint64 => Number::Sint64,
        Described::Fixed32 => Number::Fixed32,
        Described::Fixed64 => Number::Fixed64,
        Described::Sfixed32 => Number::Sfixed32,
        Described::Sfixed64 => Number::Sfixed64,
        Described::Float => Number::Single,
        Described::Double => Number::Float,
        Described::String | Described::Bytes | Described::Message(_) | Described::Enum(_) => {
            return None;
        }
    })
}

fn key(field: &FieldDescriptor) -> Result<Key> {
    match field.kind() {
        Described::String => Ok(Key::Text),
        other => number(&other).map(Key::Number).ok_or_else(|| {
            Error::invalid(format!(
                "the keys of the map {} are neither text nor numbers",
                field.full_name()
            ))
        }),
    }
}

/// Google's messages that mean a value.
fn well_known(described: &MessageDescriptor) -> Option<Kind> {
    Some(match described.full_name().strip_prefix("google.protobuf.")? {
        "Timestamp" => Kind::Timestamp,
        "Duration" => Kind::Duration,
        "Struct" => Kind::Struct,
        "ListValue" => Kind::List,
        "Value" => Kind::Value,
        "DoubleValue" => wrapper(Number::Float),
        "FloatValue" => wrapper(Number::Single),
        "Int64Value" => wrapper(Number::Int64),
        "UInt64Value" => wrapper(Number::Uint64),
        "Int32Value" => wrapper(Number::Int32),
        "UInt32Value" => wrapper(Number::Uint32),
        "BoolValue" => wrapper(Number::Boolean),
        "StringValue" => Kind::Wrapper(Box::new(Kind::Text)),
        "BytesValue" => Kind::Wrapper(Box::new(Kind::Bytes)),
        _ => return None,
    })
}

fn wrapper(number: Number) -> Kind {
    Kind::Wrapper(Box::new(Kind::Number(number)))
}

/// The most columns and parts of columns that a message comes to; what is beyond is text.
const MOST_COLUMNS: usize = 10_000;

/// In how many messages one that is a Struct may be: each may be in a list, and no payload is read that
/// is nested more than twice as deep.
const DEEPEST_MESSAGE: usize = 64;

/// Makes the columns of messages.
struct Columns {
    /// The messages that the current one is in.
    around: Vec<String>,
    left: usize,
}

impl Columns {
    /// Those of a message's fields, in the order in which it declares them.
    fn of(&mut self, described: &MessageDescriptor) -> Fields {
        self.around.push(described.full_name().to_owned());
        let columns = described.fields().map(|field| self.of_field(&field)).collect();
        self.around.pop();
        columns
    }

    fn of_field(&mut self, field: &FieldDescriptor) -> Column {
        match field.kind() {
            Described::Message(entry) if field.is_map() => {
                let parts = [entry.map_entry_key_field(), entry.map_entry_value_field()];
                let parts = parts.map(|part| self.of_value(part.name(), &part));
                let entry = DataType::Struct(parts.to_vec().into());
                list(field.name(), Column::new("item", entry, true))
            }
            _ if field.is_list() => list(field.name(), self.of_value("item", field)),
            _ => self.of_value(field.name(), field),
        }
    }

    /// That of one value of a field.
    fn of_value(&mut self, name: &str, field: &FieldDescriptor) -> Column {
        self.left = self.left.saturating_sub(1);
        let data_type = match field.kind() {
            Described::String => DataType::Utf8View,
            Described::Bytes => DataType::BinaryView,
            Described::Enum(described) => return enum_column(name, &described),
            Described::Message(described) => match well_known(&described) {
                Some(kind) => well_known_type(&kind),
                None if self.is_text(&described) => DataType::Utf8View,
                None => DataType::Struct(self.of(&described)),
            },
            other => number(&other).map_or(DataType::BinaryView, Number::data_type),
        };
        Column::new(name, data_type, true)
    }

    /// What contains itself has no end, and a struct has fields.
    fn is_text(&self, described: &MessageDescriptor) -> bool {
        let is_inside_itself = self.around.iter().any(|outer| outer == described.full_name());
        let is_beyond = self.left == 0 || self.around.len() >= DEEPEST_MESSAGE;
        is_inside_itself || is_beyond || described.fields().len() == 0
    }
}

fn list(name: &str, item: Column) -> Column {
    Column::new(name, DataType::LargeList(Arc::new(item)), true)
}

fn well_known_type(kind: &Kind) -> DataType {
    match kind {
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Duration => DataType::Duration(TimeUnit::Microsecond),
        Kind::Wrapper(inner) => well_known_type(inner),
        Kind::Number(number) => number.data_type(),
        Kind::Bytes => DataType::BinaryView,
        // JSON, where it says itself what it is.
        _ => DataType::Utf8View,
    }
}

fn enum_column(name: &str, described: &EnumDescriptor) -> Column {
    let names = Names::new(described).in_order;
    let members: String = names.iter().map(|name| format!("{};{name}", name.len())).collect();
    let values = Box::new(DataType::Utf8View);
    let metadata = HashMap::from([(ENUM_METADATA[0].to_owned(), members)]);
    Column::new(name, DataType::Dictionary(Box::new(DataType::UInt32), values), true)
        .with_metadata(metadata)
}
