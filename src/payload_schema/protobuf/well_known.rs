//! Google's messages that mean a value: instants, durations, and what says itself what it is.

use super::plan::Wire;
use super::values::Fault;
use super::wire::{Cursor, Place};
use crate::payload_schema::Packer;

const NANOS: u64 = 1_000_000_000;

/// The seconds and nanoseconds of a `Timestamp` or `Duration`.
fn seconds(payload: &[u8], place: Place) -> Result<(i64, i32), Fault> {
    let mut cursor = Cursor::new(payload, place);
    let (mut seconds, mut nanos) = (0, 0);
    while !cursor.is_at_end() {
        match cursor.field()? {
            (1, raw) if raw.wire == Wire::Varint => seconds = raw.number() as i64,
            (2, raw) if raw.wire == Wire::Varint => nanos = raw.number() as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

/// An instant. Nanoseconds that are none are shown, and fit no datetime.
pub(super) fn push_timestamp(payload: &[u8], place: Place, out: &mut Packer) -> Result<(), Fault> {
    let (seconds, nanos) = seconds(payload, place)?;
    match u32::try_from(nanos) {
        Ok(nanos) if u64::from(nanos) < NANOS => out.instant(seconds, nanos),
        _ => out.text(format!("seconds: {seconds}, nanos: {nanos}").as_bytes()),
    }
    Ok(())
}

/// A duration as ISO 8601 has it, which has no unit.
pub(super) fn push_duration(payload: &[u8], place: Place, out: &mut Packer) -> Result<(), Fault> {
    let (seconds, nanos) = seconds(payload, place)?;
    let is_one_sign = seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0);
    let text = match is_one_sign && u64::from(nanos.unsigned_abs()) < NANOS {
        true => {
            let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
            let (whole, part) = (seconds.unsigned_abs(), nanos.unsigned_abs());
            match part {
                0 => format!("{sign}PT{whole}S"),
                _ => format!("{sign}PT{whole}.{part:09}S"),
            }
        }
        false => format!("seconds: {seconds}, nanos: {nanos}"),
    };
    out.text(text.as_bytes());
    Ok(())
}

/// The members of a `Struct`: a name and the value of each.
pub(super) fn push_struct(payload: &[u8], place: Place, out: &mut Packer) -> Result<(), Fault> {
    let entries = repeated(payload, place)?;
    out.map(entries.len(), |out| {
        for entry in entries {
            let mut cursor = Cursor::new(payload, entry);
            let (mut name, mut value) = (None, None);
            while !cursor.is_at_end() {
                match cursor.field()? {
                    (1, raw) if raw.wire == Wire::Bytes => name = Some(raw.place()),
                    (2, raw) if raw.wire == Wire::Bytes => value = Some(raw.place()),
                    _ => {}
                }
            }
            out.text(name.map(|name| name.of(payload)).unwrap_or_default());
            match value {
                Some(value) => push_value(payload, value, out)?,
                None => out.null(),
            }
        }
        Ok(())
    })
}

/// The elements of a `ListValue`.
pub(super) fn push_list(payload: &[u8], place: Place, out: &mut Packer) -> Result<(), Fault> {
    let elements = repeated(payload, place)?;
    out.array(elements.len(), |out| {
        elements.into_iter().try_for_each(|element| push_value(payload, element, out))
    })
}

/// The messages that are all that a message has: its field 1, repeated.
fn repeated(payload: &[u8], place: Place) -> Result<Vec<Place>, Fault> {
    let mut cursor = Cursor::new(payload, place);
    let mut found = Vec::new();
    while !cursor.is_at_end() {
        match cursor.field()? {
            (1, raw) if raw.wire == Wire::Bytes => found.push(raw.place()),
            _ => {}
        }
    }
    Ok(found)
}

/// A `Value`, which is one of several kinds: the last one that is written.
pub(super) fn push_value(payload: &[u8], place: Place, out: &mut Packer) -> Result<(), Fault> {
    let mut cursor = Cursor::new(payload, place);
    let mut last = None;
    while !cursor.is_at_end() {
        let (number, raw) = cursor.field()?;
        let wire = match number {
            1 | 4 => Wire::Varint,
            2 => Wire::Fixed64,
            3 | 5 | 6 => Wire::Bytes,
            _ => continue,
        };
        if raw.wire == wire {
            last = Some((number, raw));
        }
    }
    match last {
        Some((2, raw)) => out.float(f64::from_bits(raw.number())),
        Some((3, raw)) => out.text(raw.place().of(payload)),
        Some((4, raw)) => out.boolean(raw.number() != 0),
        Some((5, raw)) => return push_struct(payload, raw.place(), out),
        Some((6, raw)) => return push_list(payload, raw.place(), out),
        _ => out.null(),
    }
    Ok(())
}
