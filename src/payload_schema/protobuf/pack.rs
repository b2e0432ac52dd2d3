//! MessagePack to messages.

use std::sync::Arc;

use super::plan::{Field, Key, Kind, Message, Number, Plan, Shape, Wire};
use crate::decode::json::Json;
use crate::decode::packed::{Packed, Scalar};
use crate::decode::value::{Kind as Written, Notation, Value};
use crate::error::shorten;
use crate::payload_schema::Pack;

#[derive(Debug)]
pub(super) struct Packing {
    plan: Arc<Plan>,
}

impl Packing {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Packing { plan }
    }
}

impl Pack for Packing {
    fn pack(&mut self, document: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let root = self.plan.message(0).ok_or("there is no descriptor")?;
        message(&self.plan, root, document, out).map_err(|unfit| unfit.text(&root.name))
    }
}

/// What has no place in a message.
struct Unfit {
    /// The names and indices around it, the innermost first.
    around: Vec<String>,
    reason: String,
}

impl Unfit {
    fn inside(mut self, name: &str) -> Self {
        self.around.push(name.to_owned());
        self
    }

    fn text(self, message: &str) -> String {
        let mut place = String::new();
        for part in self.around.iter().rev() {
            if !place.is_empty() && !part.starts_with('[') {
                place.push('.');
            }
            place.push_str(part);
        }
        match place.is_empty() {
            true => format!("the payload {}", self.reason),
            false => format!("the value of {place} in {message} {}", self.reason),
        }
    }
}

impl<T: Into<String>> From<T> for Unfit {
    fn from(reason: T) -> Self {
        Unfit { around: Vec::new(), reason: reason.into() }
    }
}

type Fits = Result<(), Unfit>;

/// A value, and the document that it is in.
#[derive(Clone, Copy)]
struct Given<'d> {
    value: Value,
    document: &'d [u8],
}

impl<'d> Given<'d> {
    fn raw(self) -> &'d [u8] {
        self.value.of(self.document)
    }

    fn is_null(self) -> bool {
        self.value.kind == Written::Null
    }

    /// The value as an error shows it.
    fn shown(self) -> String {
        let mut text = Vec::new();
        Packed::push_text(self.value, self.document, &mut text);
        shorten(&text).to_string()
    }

    fn elements(self) -> Option<Vec<Given<'d>>> {
        let mut elements = Vec::new();
        let document = self.raw();
        let is_array = self.value.kind == Written::Array;
        let split = Packed::split_array(document, |value| elements.push(Given { value, document }));
        (is_array && split.is_ok()).then_some(elements)
    }

    fn members(self) -> Option<Vec<(Given<'d>, Given<'d>)>> {
        let mut members = Vec::new();
        let document = self.raw();
        let is_object = self.value.kind == Written::Object;
        let split = Packed::split_object(document, |key, value| {
            members.push((Given { value: key, document }, Given { value, document }));
        });
        (is_object && split.is_ok()).then_some(members)
    }
}

/// Writes the fields of a message, by their numbers.
fn message(plan: &Plan, of: &Message, document: &[u8], out: &mut Vec<u8>) -> Fits {
    let mut members = Vec::new();
    let mut unknown = None;
    let split = Packed::split_object(document, |key, value| {
        let name = key.of(document);
        match std::str::from_utf8(name).ok().and_then(|name| of.find_name(name)) {
            Some(at) => members.push((at, Given { value, document })),
            None => unknown = unknown.or(Some(name)),
        }
    });
    if split.is_err() {
        return Err(format!("is no struct, which {} is", of.name).into());
    }
    if let Some(name) = unknown {
        return Err(format!("has {}, which is no field of {}", shorten(name), of.name).into());
    }
    members.sort_by_key(|(at, _)| *at);
    for (at, field) in of.fields.iter().enumerate().filter(|(_, field)| field.is_required) {
        if !members.iter().any(|(given, value)| *given == at && !value.is_null()) {
            return Err(Unfit::from("is missing or null, and is required").inside(&field.name));
        }
    }
    for (at, given) in members {
        let Some(field) = of.fields.get(at).filter(|_| !given.is_null()) else { continue };
        write_field(plan, field, given, out).map_err(|unfit| unfit.inside(&field.name))?;
    }
    Ok(())
}

fn write_field(plan: &Plan, field: &Field, given: Given<'_>, out: &mut Vec<u8>) -> Fits {
    match field.shape {
        Shape::Plain => value(plan, field.number, &field.kind, given, Zero::Left, out),
        Shape::Optional => value(plan, field.number, &field.kind, given, Zero::Written, out),
        Shape::Repeated => repeated(plan, field, given, out),
        Shape::Map(key) => map(plan, field, key, given, out),
    }
}

/// Whether a value is written that stands for one that is not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Written,
    Left,
}

/// Writes one value behind its tag.
fn value(
    plan: &Plan,
    number: u32,
    kind: &Kind,
    given: Given<'_>,
    zero: Zero,
    out: &mut Vec<u8>,
) -> Fits {
    let is_left = |is_zero: bool| is_zero && zero == Zero::Left;
    match kind {
        Kind::Number(_) | Kind::Enum(_) => {
            let (raw, is_zero) = number_of(kind, given)?;
            if !is_left(is_zero) {
                push_tag(number, kind.wire(), out);
                push_raw(kind.wire(), raw, out);
            }
        }
        Kind::Text | Kind::Bytes => {
            let content = content(kind, given)?;
            if !is_left(content.is_empty()) {
                push_tag(number, Wire::Bytes, out);
                push_bytes(content, out);
            }
        }
        Kind::Group(place) => {
            push_tag(number, Wire::Group, out);
            inner(plan, *place, given, out)?;
            push_varint(u64::from(number) << 3 | 4, out);
        }
        Kind::Message(place) => {
            delimited(number, out, |out| inner(plan, *place, given, out))?;
        }
        Kind::Timestamp => delimited(number, out, |out| timestamp(given, out))?,
        Kind::Duration => delimited(number, out, |out| duration(given, out))?,
        Kind::Wrapper(kind) => {
            delimited(number, out, |out| value(plan, 1, kind, given, Zero::Left, out))?;
        }
        Kind::Struct | Kind::List | Kind::Value => {
            delimited(number, out, |out| says_itself(kind, given, out))?;
        }
    }
    Ok(())
}

fn inner(plan: &Plan, place: usize, given: Given<'_>, out: &mut Vec<u8>) -> Fits {
    let of = plan.message(place).ok_or("has no descriptor")?;
    message(plan, of, given.raw(), out)
}

/// Writes what has a length before it.
fn delimited(number: u32, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>) -> Fits) -> Fits {
    push_tag(number, Wire::Bytes, out);
    let start = out.len();
    content(out)?;
    let mut len = Vec::with_capacity(10);
    push_varint((out.len() - start) as u64, &mut len);
    out.splice(start..start, len);
    Ok(())
}

fn repeated(plan: &Plan, field: &Field, given: Given<'_>, out: &mut Vec<u8>) -> Fits {
    let elements = given.elements().ok_or_else(|| format!("is no list: {}", given.shown()))?;
    let at = |index: usize| move |unfit: Unfit| unfit.inside(&format!("[{index}]"));
    if let Some(index) = elements.iter().position(|element| element.is_null()) {
        return Err(at(index)("is null, which no element may be".into()));
    }
    if !field.is_packed || elements.is_empty() {
        for (index, element) in elements.into_iter().enumerate() {
            let written = value(plan, field.number, &field.kind, element, Zero::Written, out);
            written.map_err(at(index))?;
        }
        return Ok(());
    }
    delimited(field.number, out, |out| {
        for (index, element) in elements.into_iter().enumerate() {
            let (raw, _) = number_of(&field.kind, element).map_err(at(index))?;
            push_raw(field.kind.wire(), raw, out);
        }
        Ok(())
    })
}

/// A list of structs of `key` and `value`, or a struct whose names are the keys.
fn map(plan: &Plan, field: &Field, key: Key, given: Given<'_>, out: &mut Vec<u8>) -> Fits {
    let entries = match (given.members(), given.elements()) {
        (Some(members), _) => members.into_iter().map(|(key, value)| (key, Some(value))).collect(),
        (None, Some(elements)) => {
            let entries: Option<Vec<_>> = elements.into_iter().map(entry).collect();
            entries.ok_or("has an element that is no struct of key and value")?
        }
        (None, None) => return Err("is no list of structs of key and value".into()),
    };
    let key_kind = match key {
        Key::Text => Kind::Text,
        Key::Number(number) => Kind::Number(number),
    };
    for (name, inside) in entries {
        delimited(field.number, out, |out| {
            value(plan, 1, &key_kind, name, Zero::Written, out)
                .map_err(|unfit| unfit.inside("key"))?;
            match inside.filter(|value| !value.is_null()) {
                Some(inside) => value(plan, 2, &field.kind, inside, Zero::Written, out)
                    .map_err(|unfit| unfit.inside("value")),
                None => Ok(()),
            }
        })?;
    }
    Ok(())
}

fn entry(element: Given<'_>) -> Option<(Given<'_>, Option<Given<'_>>)> {
    let members = element.members()?;
    let find =
        |name: &[u8]| members.iter().find(|(key, _)| key.raw() == name).map(|(_, value)| *value);
    Some((find(b"key")?, find(b"value")))
}

/// What a number or an enum's name is on the wire, and whether it stands for one that is not written.
fn number_of(kind: &Kind, given: Given<'_>) -> Result<(u64, bool), Unfit> {
    let unfit = || Unfit::from(format!("is {}, which is no {}", given.shown(), name_of(kind)));
    let raw = match kind {
        Kind::Enum(names) => {
            let number = match given.value.kind {
                Written::String { .. } => {
                    std::str::from_utf8(given.raw()).ok().and_then(|name| names.number(name))
                }
                _ => match Scalar::of(given.raw()) {
                    Some(Scalar::Integer(number)) => i32::try_from(number).ok(),
                    _ => None,
                },
            };
            let number = number.ok_or_else(unfit)?;
            return Ok((i64::from(number) as u64, number == names.first));
        }
        Kind::Number(number) => {
            let is_scalar = matches!(given.value.kind, Written::Number | Written::Boolean);
            let scalar = Scalar::of(given.raw()).filter(|_| is_scalar).ok_or_else(unfit)?;
            raw_of(*number, scalar).ok_or_else(unfit)?
        }
        _ => return Err(unfit()),
    };
    Ok((raw, raw == 0))
}

fn raw_of(kind: Number, scalar: Scalar) -> Option<u64> {
    let signed = match scalar {
        Scalar::Integer(number) => Some(number),
        _ => None,
    };
    let unsigned = match scalar {
        Scalar::Integer(number) => u64::try_from(number).ok(),
        Scalar::Large(number) => Some(number),
        _ => None,
    };
    let small = || signed.and_then(|number| i32::try_from(number).ok());
    match kind {
        Number::Boolean => match scalar {
            Scalar::Boolean(value) => Some(value.into()),
            _ => None,
        },
        Number::Int32 => small().map(|number| i64::from(number) as u64),
        Number::Sfixed32 => small().map(|number| u64::from(number as u32)),
        Number::Sint32 => small().map(|number| u64::from(((number << 1) ^ (number >> 31)) as u32)),
        Number::Int64 | Number::Sfixed64 => signed.map(|number| number as u64),
        Number::Sint64 => signed.map(|number| ((number << 1) ^ (number >> 63)) as u64),
        Number::Uint32 | Number::Fixed32 => {
            unsigned.and_then(|number| u32::try_from(number).ok()).map(u64::from)
        }
        Number::Uint64 | Number::Fixed64 => unsigned,
        Number::Single => scalar.as_single().map(|number| number.to_bits().into()),
        Number::Float => scalar.as_double().map(f64::to_bits),
    }
}

fn name_of(kind: &Kind) -> String {
    match kind {
        Kind::Enum(_) => "name of the enum".to_owned(),
        Kind::Number(Number::Boolean) => "boolean".to_owned(),
        Kind::Number(Number::Single) => "float".to_owned(),
        Kind::Number(Number::Float) => "double".to_owned(),
        Kind::Number(number) => format!("{number:?}").to_lowercase(),
        _ => "value of that kind".to_owned(),
    }
}

/// The bytes of text or bytes.
fn content<'d>(kind: &Kind, given: Given<'d>) -> Result<&'d [u8], Unfit> {
    let content = given.raw();
    match (given.value.kind, kind) {
        (Written::String { .. } | Written::Bytes, Kind::Bytes) => Ok(content),
        (Written::String { .. } | Written::Bytes, _) if std::str::from_utf8(content).is_ok() => {
            Ok(content)
        }
        _ => Err(format!(
            "is {}, which is no {}",
            given.shown(),
            match kind {
                Kind::Bytes => "bytes",
                _ => "text",
            }
        )
        .into()),
    }
}

fn timestamp(given: Given<'_>, out: &mut Vec<u8>) -> Fits {
    let instant = Scalar::of(given.raw()).filter(|_| given.value.kind == Written::Time);
    let Some(Scalar::Instant(seconds, nanos)) = instant else {
        return Err(format!(
            "is {}, which is no instant: a Datetime with a time zone is one",
            given.shown()
        )
        .into());
    };
    seconds_and_nanos(seconds, nanos as i32, out);
    Ok(())
}

fn duration(given: Given<'_>, out: &mut Vec<u8>) -> Fits {
    let nanos = match Scalar::of(given.raw()).filter(|_| given.value.kind == Written::Number) {
        Some(Scalar::Integer(nanos)) => nanos,
        _ => return Err(format!("is {}, which is no Duration", given.shown()).into()),
    };
    seconds_and_nanos(nanos / 1_000_000_000, (nanos % 1_000_000_000) as i32, out);
    Ok(())
}

fn seconds_and_nanos(seconds: i64, nanos: i32, out: &mut Vec<u8>) {
    if seconds != 0 {
        push_tag(1, Wire::Varint, out);
        push_varint(seconds as u64, out);
    }
    if nanos != 0 {
        push_tag(2, Wire::Varint, out);
        push_varint(i64::from(nanos) as u64, out);
    }
}

/// Writes a `Struct`, `ListValue` or `Value`, which may be given as the JSON that they are read as.
fn says_itself(kind: &Kind, given: Given<'_>, out: &mut Vec<u8>) -> Fits {
    match (kind, given.value.kind) {
        (Kind::Value, _) => dynamic::<Packed>(given.value, given.document, out),
        (Kind::Struct, Written::Object) => object::<Packed>(given.raw(), out),
        (Kind::List, Written::Array) => array::<Packed>(given.raw(), out),
        (Kind::Struct, Written::String { .. }) => object::<Json>(given.raw(), out),
        (Kind::List, Written::String { .. }) => array::<Json>(given.raw(), out),
        (Kind::Struct, _) => Err(format!("is {}, which is no struct", given.shown()).into()),
        _ => Err(format!("is {}, which is no list", given.shown()).into()),
    }
}

fn object<N: Notation>(document: &[u8], out: &mut Vec<u8>) -> Fits {
    let mut members = Vec::new();
    N::split_object(document, |key, value| members.push((key, value))).map_err(|_| N::NO_OBJECT)?;
    for (key, value) in members {
        let mut name = Vec::new();
        N::push_text(key, document, &mut name);
        delimited(1, out, |out| {
            push_tag(1, Wire::Bytes, out);
            push_bytes(&name, out);
            delimited(2, out, |out| dynamic::<N>(value, document, out))
        })?;
    }
    Ok(())
}

fn array<N: Notation>(document: &[u8], out: &mut Vec<u8>) -> Fits {
    let mut elements = Vec::new();
    N::split_array(document, |value| elements.push(value)).map_err(|_| N::NO_ARRAY)?;
    elements
        .into_iter()
        .try_for_each(|value| delimited(1, out, |out| dynamic::<N>(value, document, out)))
}

/// Writes the one field that a `Value` has.
fn dynamic<N: Notation>(value: Value, document: &[u8], out: &mut Vec<u8>) -> Fits {
    let mut text = Vec::new();
    match value.kind {
        Written::Array => return delimited(6, out, |out| array::<N>(value.of(document), out)),
        Written::Object => return delimited(5, out, |out| object::<N>(value.of(document), out)),
        _ => N::push_text(value, document, &mut text),
    }
    match value.kind {
        Written::Null => {
            push_tag(1, Wire::Varint, out);
            push_varint(0, out);
        }
        Written::Number => {
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<f64>().ok());
            push_tag(2, Wire::Fixed64, out);
            push_raw(Wire::Fixed64, number.ok_or("is no number")?.to_bits(), out);
        }
        Written::Boolean => {
            push_tag(4, Wire::Varint, out);
            push_varint(u64::from(text == b"true"), out);
        }
        _ if std::str::from_utf8(&text).is_err() => {
            return Err("has bytes, which a Value has no kind for".into());
        }
        _ => {
            push_tag(3, Wire::Bytes, out);
            push_bytes(&text, out);
        }
    }
    Ok(())
}

fn push_tag(number: u32, wire: Wire, out: &mut Vec<u8>) {
    let wire = match wire {
        Wire::Varint => 0,
        Wire::Fixed64 => 1,
        Wire::Bytes => 2,
        Wire::Group => 3,
        Wire::Fixed32 => 5,
    };
    push_varint(u64::from(number) << 3 | wire, out);
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn push_raw(wire: Wire, raw: u64, out: &mut Vec<u8>) {
    match wire {
        Wire::Fixed32 => out.extend_from_slice(&(raw as u32).to_le_bytes()),
        Wire::Fixed64 => out.extend_from_slice(&raw.to_le_bytes()),
        _ => push_varint(raw, out),
    }
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
