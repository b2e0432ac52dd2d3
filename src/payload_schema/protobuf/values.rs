//! Values that have no fields, to MessagePack: numbers, text, names of enums, and Google's messages
//! that mean a value.

use super::plan::{Kind, Names, Number, Wire};
use super::well_known::{push_duration, push_list, push_struct, push_timestamp, push_value};
use super::wire::{Cursor, Malformed, Place, Raw};
use crate::decode::Misfit;
use crate::payload_schema::Packer;

/// Why a payload cannot be read.
pub(super) enum Fault {
    Malformed,
    Misfit(Misfit),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Fault::Malformed
    }
}

impl From<Misfit> for Fault {
    fn from(misfit: Misfit) -> Self {
        Fault::Misfit(misfit)
    }
}

/// Whether repeated values of a kind may be written as one.
pub(super) fn is_packable(kind: &Kind) -> bool {
    matches!(kind, Kind::Number(_) | Kind::Enum(_))
}

pub(super) fn is_packed(kind: &Kind, raw: Raw) -> bool {
    raw.wire == Wire::Bytes && is_packable(kind)
}

/// How many numbers are in it.
pub(super) fn count(kind: &Kind, packed: &[u8]) -> Result<usize, Malformed> {
    let of_size = |size: usize| match packed.len() % size {
        0 => Ok(packed.len() / size),
        _ => Err(Malformed),
    };
    match kind.wire() {
        Wire::Fixed32 => of_size(4),
        Wire::Fixed64 => of_size(8),
        _ => Ok(packed.iter().filter(|byte| **byte < 0x80).count()),
    }
}

/// Writes numbers that are written as one.
pub(super) fn push_packed(
    kind: &Kind,
    payload: &[u8],
    place: Place,
    out: &mut Packer,
) -> Result<(), Fault> {
    let mut cursor = Cursor::new(payload, place);
    while !cursor.is_at_end() {
        let number = match kind.wire() {
            Wire::Fixed32 => cursor.fixed32()?,
            Wire::Fixed64 => cursor.fixed64()?,
            _ => cursor.varint()?,
        };
        match kind {
            Kind::Number(kind) => push_number(*kind, number, out),
            Kind::Enum(names) => push_name(names, number, out),
            _ => return Err(Fault::Malformed),
        }
    }
    Ok(())
}

/// Writes an enum's name; a number that has none as it is.
pub(super) fn push_name(names: &Names, number: u64, out: &mut Packer) {
    let number = number as i32;
    match names.packed(number) {
        Some(name) => out.packed(name),
        None => out.signed(number.into()),
    }
}

#[inline]
pub(super) fn push_number(kind: Number, number: u64, out: &mut Packer) {
    match kind {
        Number::Boolean => out.boolean(number != 0),
        Number::Int32 | Number::Sfixed32 => out.signed((number as i32).into()),
        Number::Int64 | Number::Sfixed64 => out.signed(number as i64),
        Number::Uint32 | Number::Fixed32 => out.unsigned((number as u32).into()),
        Number::Uint64 | Number::Fixed64 => out.unsigned(number),
        Number::Sint32 => out.signed(zigzag(u64::from(number as u32))),
        Number::Sint64 => out.signed(zigzag(number)),
        Number::Single => out.single(f32::from_bits(number as u32)),
        Number::Float => out.float(f64::from_bits(number)),
    }
}

fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Writes what has nothing of the plan in it.
pub(super) fn leaf(
    kind: &Kind,
    payload: &[u8],
    place: Place,
    out: &mut Packer,
) -> Result<(), Fault> {
    match kind {
        Kind::Timestamp => push_timestamp(payload, place, out),
        Kind::Duration => push_duration(payload, place, out),
        Kind::Struct => push_struct(payload, place, out),
        Kind::List => push_list(payload, place, out),
        Kind::Value => push_value(payload, place, out),
        Kind::Wrapper(inner) => push_wrapped(inner, payload, place, out),
        _ => Err(Fault::Malformed),
    }
}

fn push_wrapped(kind: &Kind, payload: &[u8], place: Place, out: &mut Packer) -> Result<(), Fault> {
    let mut cursor = Cursor::new(payload, place);
    let mut value = None;
    while !cursor.is_at_end() {
        match cursor.field()? {
            (1, raw) if raw.wire == kind.wire() => value = Some(raw),
            _ => {}
        }
    }
    match (kind, value) {
        (_, None) => push_default(kind, out)?,
        (Kind::Number(number), Some(raw)) => push_number(*number, raw.number(), out),
        (Kind::Text, Some(raw)) => out.text(raw.place().of(payload)),
        (_, Some(raw)) => out.bytes_value(raw.place().of(payload)),
    }
    Ok(())
}

/// Writes what stands for a value that is not written.
pub(super) fn push_default(kind: &Kind, out: &mut Packer) -> Result<(), Fault> {
    match kind {
        Kind::Number(number) => push_number(*number, 0, out),
        Kind::Text => out.text(b""),
        Kind::Bytes => out.bytes_value(b""),
        Kind::Enum(names) => push_name(names, names.first as u64, out),
        _ => return leaf(kind, b"", Place { start: 0, end: 0 }, out),
    }
    Ok(())
}
