//! MessagePack, taken apart: a map's members, an array's elements. Each is checked to its end, and
//! nothing is built of it. No length is believed before its bytes are there.

use rmp::Marker;

use super::column::Origin;
use super::json::DEEPEST;
use super::value::{Kind, Malformed, Notation, Value};
use crate::write::{push_json_string, push_number, push_seconds};

/// MessagePack documents.
pub(crate) enum Packed {}

impl Notation for Packed {
    const NO_OBJECT: &'static str = "is not a MessagePack map";
    const NO_ARRAY: &'static str = "is not a MessagePack array";

    #[inline]
    fn split_object(
        document: &[u8],
        mut member: impl FnMut(Value, Value),
    ) -> Result<(), Malformed> {
        let mut cursor = Cursor { bytes: document, at: 0 };
        let Head { kind: Kind::Object, size } = cursor.head()? else {
            return Err(Malformed);
        };
        for _ in 0..size / 2 {
            let key = cursor.value()?;
            // A name is text, or the number that some write in its place.
            if !matches!(key.kind, Kind::String { .. } | Kind::Bytes | Kind::Number) {
                return Err(Malformed);
            }
            member(key, cursor.value()?);
        }
        cursor.end()
    }

    #[inline]
    fn split_array(document: &[u8], mut element: impl FnMut(Value)) -> Result<(), Malformed> {
        let mut cursor = Cursor { bytes: document, at: 0 };
        let Head { kind: Kind::Array, size } = cursor.head()? else {
            return Err(Malformed);
        };
        for _ in 0..size {
            element(cursor.value()?);
        }
        cursor.end()
    }

    #[inline]
    fn is_null(document: &[u8]) -> bool {
        document == [Marker::Null.to_u8()]
    }

    #[inline]
    fn is_array(document: &[u8]) -> bool {
        let first = document.first().map(|byte| Marker::from_u8(*byte));
        matches!(first, Some(Marker::FixArray(_) | Marker::Array16 | Marker::Array32))
    }

    #[inline]
    fn push_string(content: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(content);
    }

    fn push_other(value: &[u8], out: &mut Vec<u8>) {
        match Scalar::of(value) {
            Some(scalar) => scalar.push_text(out),
            // It has been checked, and so has the depth.
            None => drop(Cursor { bytes: value, at: 0 }.push_json(0, out)),
        }
    }

    #[inline(always)]
    fn origin(kind: Kind) -> Origin {
        match kind {
            Kind::Null => Origin::Null,
            Kind::String { .. } | Kind::Bytes => Origin::Bytes,
            Kind::Boolean | Kind::Number | Kind::Time | Kind::Array | Kind::Object => {
                Origin::Packed
            }
        }
    }
}

impl Packed {
    /// The value that fills a place of what this crate has written.
    #[inline]
    pub(crate) fn value_within(document: &[u8], start: usize, end: usize) -> Value {
        let mut cursor = Cursor { bytes: document.get(..end).unwrap_or_default(), at: start };
        match cursor.head() {
            Ok(Head { kind: kind @ (Kind::String { .. } | Kind::Bytes), .. }) => {
                Value::new(kind, cursor.at, end)
            }
            Ok(Head { kind, .. }) => Value::new(kind, start, end),
            Err(Malformed) => Value::new(Kind::Null, start, end),
        }
    }
}

/// What is neither text nor bytes, and has nothing inside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar {
    Boolean(bool),
    Integer(i64),
    /// Beyond those.
    Large(u64),
    Float(f64),
    /// Seconds since 1970, and nanoseconds.
    Instant(i64, u32),
}

impl Scalar {
    /// The number as a double. An integer that a double would round is none.
    pub(crate) fn as_double(self) -> Option<f64> {
        match self {
            Scalar::Float(number) => Some(number),
            _ => {
                self.integer().filter(|number| *number as f64 as i128 == *number).map(|n| n as f64)
            }
        }
    }

    /// The number as a float. Doubles are rounded, but not to infinity; an integer that a float would
    /// round is none.
    pub(crate) fn as_single(self) -> Option<f32> {
        match self {
            Scalar::Float(number) => {
                Some(number as f32).filter(|single| single.is_finite() || !number.is_finite())
            }
            _ => {
                self.integer().filter(|number| *number as f32 as i128 == *number).map(|n| n as f32)
            }
        }
    }

    fn integer(self) -> Option<i128> {
        match self {
            Scalar::Integer(number) => Some(number.into()),
            Scalar::Large(number) => Some(number.into()),
            _ => None,
        }
    }

    /// The scalar that a value is.
    #[inline]
    pub(crate) fn of(value: &[u8]) -> Option<Scalar> {
        let (first, rest) = value.split_first()?;
        Some(match Marker::from_u8(*first) {
            Marker::True => Scalar::Boolean(true),
            Marker::False => Scalar::Boolean(false),
            Marker::FixPos(number) => Scalar::Integer(number.into()),
            Marker::FixNeg(number) => Scalar::Integer(number.into()),
            Marker::U8 => Scalar::Integer(u8::from_be_bytes(whole(rest)?).into()),
            Marker::U16 => Scalar::Integer(u16::from_be_bytes(whole(rest)?).into()),
            Marker::U32 => Scalar::Integer(u32::from_be_bytes(whole(rest)?).into()),
            Marker::U64 => {
                let number = u64::from_be_bytes(whole(rest)?);
                i64::try_from(number).map_or(Scalar::Large(number), Scalar::Integer)
            }
            Marker::I8 => Scalar::Integer(i8::from_be_bytes(whole(rest)?).into()),
            Marker::I16 => Scalar::Integer(i16::from_be_bytes(whole(rest)?).into()),
            Marker::I32 => Scalar::Integer(i32::from_be_bytes(whole(rest)?).into()),
            Marker::I64 => Scalar::Integer(i64::from_be_bytes(whole(rest)?)),
            Marker::F32 => Scalar::Float(f32::from_be_bytes(whole(rest)?).into()),
            Marker::F64 => Scalar::Float(f64::from_be_bytes(whole(rest)?)),
            Marker::FixExt4 | Marker::FixExt8 => instant(rest.get(1..)?)?,
            Marker::Ext8 => instant(rest.get(2..)?)?,
            _ => return None,
        })
    }

    #[cold]
    fn push_text(self, out: &mut Vec<u8>) {
        match self {
            Scalar::Boolean(true) => out.extend_from_slice(b"true"),
            Scalar::Boolean(false) => out.extend_from_slice(b"false"),
            Scalar::Integer(number) => push_number(number, out),
            Scalar::Large(number) => push_number(number, out),
            Scalar::Float(number) if number.is_finite() => push_number(number, out),
            // As JSON's writers call them.
            Scalar::Float(number) if number.is_nan() => out.extend_from_slice(b"NaN"),
            Scalar::Float(number) if number > 0.0 => out.extend_from_slice(b"Infinity"),
            Scalar::Float(_) => out.extend_from_slice(b"-Infinity"),
            Scalar::Instant(seconds, nanos) => push_seconds(seconds, nanos, out),
        }
    }
}

fn whole<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// The standard's timestamps: of 32, 64 and 96 bits.
fn instant(data: &[u8]) -> Option<Scalar> {
    let (seconds, nanos) = match data.len() {
        4 => (u32::from_be_bytes(whole(data)?).into(), 0),
        8 => {
            let both = u64::from_be_bytes(whole(data)?);
            ((both & ((1 << 34) - 1)) as i64, (both >> 34) as u32)
        }
        12 => {
            let (nanos, seconds) = data.split_at_checked(4)?;
            (i64::from_be_bytes(whole(seconds)?), u32::from_be_bytes(whole(nanos)?))
        }
        _ => return None,
    };
    (nanos < 1_000_000_000).then_some(Scalar::Instant(seconds, nanos))
}

/// The type of extension that a timestamp has.
const TIMESTAMP: u8 = -1i8 as u8;

/// The beginning of a value: its kind, and the size of what follows, in bytes, or in values where
/// these are inside it.
struct Head {
    kind: Kind,
    size: usize,
}

struct Cursor<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl Cursor<'_> {
    /// Nothing comes after the value.
    #[inline]
    fn end(self) -> Result<(), Malformed> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(Malformed) }
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk().ok_or(Malformed)?;
        self.at += N;
        Ok(*taken)
    }

    /// A size of one, two or four bytes.
    #[inline]
    fn size<const N: usize>(&mut self) -> Result<usize, Malformed> {
        let bytes: [u8; N] = self.take()?;
        Ok(bytes.into_iter().fold(0, |size, byte| (size << 8) | usize::from(byte)))
    }

    #[inline]
    fn head(&mut self) -> Result<Head, Malformed> {
        const TEXT: Kind = Kind::String { escaped: false };
        let [marker] = self.take()?;
        let (kind, size) = match Marker::from_u8(marker) {
            Marker::FixPos(_) | Marker::FixNeg(_) => (Kind::Number, 0),
            Marker::FixStr(size) => (TEXT, size.into()),
            Marker::FixMap(size) => (Kind::Object, 2 * usize::from(size)),
            Marker::FixArray(size) => (Kind::Array, size.into()),
            Marker::Null => (Kind::Null, 0),
            Marker::False | Marker::True => (Kind::Boolean, 0),
            Marker::U8 | Marker::I8 => (Kind::Number, 1),
            Marker::U16 | Marker::I16 => (Kind::Number, 2),
            Marker::U32 | Marker::I32 | Marker::F32 => (Kind::Number, 4),
            Marker::U64 | Marker::I64 | Marker::F64 => (Kind::Number, 8),
            Marker::Str8 => (TEXT, self.size::<1>()?),
            Marker::Str16 => (TEXT, self.size::<2>()?),
            Marker::Str32 => (TEXT, self.size::<4>()?),
            Marker::Bin8 => (Kind::Bytes, self.size::<1>()?),
            Marker::Bin16 => (Kind::Bytes, self.size::<2>()?),
            Marker::Bin32 => (Kind::Bytes, self.size::<4>()?),
            Marker::Array16 => (Kind::Array, self.size::<2>()?),
            Marker::Array32 => (Kind::Array, self.size::<4>()?),
            Marker::Map16 => (Kind::Object, 2 * self.size::<2>()?),
            Marker::Map32 => (Kind::Object, self.size::<4>()?.saturating_mul(2)),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => {
                let size = self.size::<1>()?;
                self.extension(size)?
            }
            Marker::Ext16 => {
                let size = self.size::<2>()?;
                self.extension(size)?
            }
            Marker::Ext32 => {
                let size = self.size::<4>()?;
                self.extension(size)?
            }
            Marker::Reserved => return Err(Malformed),
        };
        // Each value inside takes a byte at least.
        match size <= self.bytes.len() - self.at {
            true => Ok(Head { kind, size }),
            false => Err(Malformed),
        }
    }

    /// A timestamp; of other types it is only known that they are bytes.
    #[cold]
    fn extension(&mut self, size: usize) -> Result<(Kind, usize), Malformed> {
        let [kind] = self.take()?;
        let data = self.bytes.get(self.at..self.at.saturating_add(size)).ok_or(Malformed)?;
        let is_time = kind == TIMESTAMP && instant(data).is_some();
        Ok((if is_time { Kind::Time } else { Kind::Bytes }, size))
    }

    /// A value with all that is in it. Without recursion, so that no document exhausts the stack.
    #[inline]
    fn value(&mut self) -> Result<Value, Malformed> {
        let start = self.at;
        let Head { kind, size } = self.head()?;
        let start = match kind {
            Kind::String { .. } | Kind::Bytes => self.at,
            _ => start,
        };
        match kind {
            Kind::Array | Kind::Object => self.skip(size)?,
            _ => self.at += size,
        }
        Ok(Value::new(kind, start, self.at))
    }

    /// Passes over the values in an array or map.
    fn skip(&mut self, size: usize) -> Result<(), Malformed> {
        // How many are left in each of those that are open around the current one.
        let mut around: Vec<usize> = Vec::new();
        let mut left = size;
        loop {
            while left == 0 {
                match around.pop() {
                    Some(outer) => left = outer,
                    None => return Ok(()),
                }
            }
            left -= 1;
            let Head { kind, size } = self.head()?;
            match kind {
                Kind::Array | Kind::Object => {
                    // With the outermost one and this one.
                    if around.len() + 2 > DEEPEST as usize {
                        return Err(Malformed);
                    }
                    around.push(left);
                    left = size;
                }
                _ => self.at += size,
            }
        }
    }

    /// Appends the JSON of a value that has been checked.
    fn push_json(&mut self, depth: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let start = self.at;
        let Head { kind, size } = self.head()?;
        if let Kind::Array | Kind::Object = kind {
            if depth > DEEPEST {
                return Err(Malformed);
            }
            let is_map = kind == Kind::Object;
            out.push(if is_map { b'{' } else { b'[' });
            for index in 0..size {
                match (index, is_map) {
                    (0, _) => {}
                    (odd, true) if odd % 2 == 1 => out.push(b':'),
                    _ => out.push(b','),
                }
                match is_map && index % 2 == 0 {
                    true => self.push_json_name(depth, out)?,
                    false => self.push_json(depth + 1, out)?,
                }
            }
            out.push(if is_map { b'}' } else { b']' });
            return Ok(());
        }
        let content = self.at..self.at + size;
        self.at = content.end;
        match kind {
            Kind::Null => out.extend_from_slice(b"null"),
            Kind::String { .. } | Kind::Bytes => {
                push_content(self.bytes.get(content).unwrap_or_default(), kind, out);
            }
            _ => {
                let scalar =
                    self.bytes.get(start..self.at).and_then(Scalar::of).ok_or(Malformed)?;
                let is_text = kind == Kind::Time;
                out.extend(is_text.then_some(b'"'));
                scalar.push_text(out);
                out.extend(is_text.then_some(b'"'));
            }
        }
        Ok(())
    }

    /// The name of a member, which is text in JSON, whatever it is here.
    fn push_json_name(&mut self, depth: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut name = Vec::new();
        self.push_json(depth + 1, &mut name)?;
        match name.first() {
            Some(b'"') => out.append(&mut name),
            _ => push_json_string(&String::from_utf8_lossy(&name), out),
        }
        Ok(())
    }
}

/// Text as a JSON string; what is no text as base64, as JSON payloads have bytes.
fn push_content(content: &[u8], kind: Kind, out: &mut Vec<u8>) {
    use base64::Engine;
    match std::str::from_utf8(content) {
        Ok(text) if kind != Kind::Bytes => push_json_string(text, out),
        _ => push_json_string(&base64::prelude::BASE64_STANDARD.encode(content), out),
    }
}

#[cfg(test)]
mod tests;
