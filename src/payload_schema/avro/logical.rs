//! Logical types: what values of a type mean, and the texts that they are unpacked to.

use arrow_schema::TimeUnit;
use serde_json::{Map, Value};

use super::decimal::push_decimal_bytes;
use super::schema::Kind;
use super::wire::Malformed;
use crate::decode::Misfit;
use crate::payload_schema::Packer;
use crate::write::{push_date, push_time, push_timestamp};

/// What values mean. Logical types that are not known, or do not fit their type, are passed over, as
/// the specification has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logical {
    Decimal(Digits),
    Date,
    /// Within a day.
    Time(TimeUnit),
    Timestamp(TimeUnit),
    LocalTimestamp(TimeUnit),
    Uuid,
}

/// How many digits decimals have, and how many of them are decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digits {
    pub(super) precision: usize,
    pub(super) scale: usize,
}

impl Digits {
    /// More digits than anybody means.
    const MOST: usize = 1_000;

    fn of(object: &Map<String, Value>, size: Option<usize>) -> Option<Digits> {
        let number = |name| object.get(name).map(|number| Some(number.as_u64()? as usize));
        let precision = number("precision")??;
        let scale = number("scale").unwrap_or(Some(0))?;
        let fits = size.is_none_or(|size| Digits { precision, scale }.bytes() <= size);
        let is_valid = (1..=Self::MOST).contains(&precision) && scale <= precision && fits;
        is_valid.then_some(Digits { precision, scale })
    }

    /// How many bytes a number of that many digits takes at most.
    pub(super) fn bytes(self) -> usize {
        // A digit has log2(10) bits, and there is one for the sign.
        (self.precision.min(Self::MOST) * 3_322 / 1_000 + 1).div_ceil(8)
    }
}

impl Logical {
    pub(super) fn of(kind: &Kind, object: &Map<String, Value>) -> Option<Logical> {
        let name = object.get("logicalType")?.as_str()?;
        Some(match (kind, name) {
            (Kind::Bytes, "decimal") => Logical::Decimal(Digits::of(object, None)?),
            (Kind::Fixed(_, size), "decimal") => Logical::Decimal(Digits::of(object, Some(*size))?),
            (Kind::Int, "date") => Logical::Date,
            (Kind::Int, "time-millis") => Logical::Time(TimeUnit::Millisecond),
            (Kind::Long, "time-micros") => Logical::Time(TimeUnit::Microsecond),
            (Kind::Long, "timestamp-millis") => Logical::Timestamp(TimeUnit::Millisecond),
            (Kind::Long, "timestamp-micros") => Logical::Timestamp(TimeUnit::Microsecond),
            (Kind::Long, "timestamp-nanos") => Logical::Timestamp(TimeUnit::Nanosecond),
            (Kind::Long, "local-timestamp-millis") => {
                Logical::LocalTimestamp(TimeUnit::Millisecond)
            }
            (Kind::Long, "local-timestamp-micros") => {
                Logical::LocalTimestamp(TimeUnit::Microsecond)
            }
            (Kind::Long, "local-timestamp-nanos") => Logical::LocalTimestamp(TimeUnit::Nanosecond),
            (Kind::String | Kind::Fixed(_, 16), "uuid") => Logical::Uuid,
            _ => return None,
        })
    }

    /// What errors call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Logical::Decimal(_) => "decimal",
            Logical::Date => "date",
            Logical::Time(_) => "time",
            Logical::Timestamp(_) => "timestamp",
            Logical::LocalTimestamp(_) => "local timestamp",
            Logical::Uuid => "uuid",
        }
    }

    /// What a value means that is written as one logical type and read as another: each says itself
    /// what it means, in its own unit, so where they are of a kind, the writer's.
    pub(super) fn resolved(writer: Option<Logical>, reader: Option<Logical>) -> Option<Logical> {
        let reader = reader?;
        match writer {
            Some(writer) if writer.name() == reader.name() => Some(writer),
            _ => Some(reader),
        }
    }

    /// Packs what an int or long means. One that means nothing is packed as it is, and does not fit
    /// its column.
    pub(super) fn pack_integer(self, value: i64, scratch: &mut Vec<u8>, out: &mut Packer) {
        scratch.clear();
        let is_text = match self {
            Logical::Date => i32::try_from(value).is_ok_and(|days| {
                push_date(days, scratch);
                true
            }),
            Logical::Time(unit) => {
                let nanos = value.checked_mul(nanoseconds(unit));
                nanos.filter(|nanos| (0..nanoseconds_in_day()).contains(nanos)).is_some_and(
                    |nanos| {
                        push_time(nanos, scratch);
                        true
                    },
                )
            }
            Logical::Timestamp(unit) => {
                let (nanos, per_second) = (nanoseconds(unit), 1_000_000_000 / nanoseconds(unit));
                let within = value.rem_euclid(per_second) * nanos;
                return out.instant(value.div_euclid(per_second), within as u32);
            }
            Logical::LocalTimestamp(unit) => push_timestamp(value, unit, false, scratch),
            Logical::Decimal(_) | Logical::Uuid => false,
        };
        match is_text {
            true => out.text(scratch),
            false => out.signed(value),
        }
    }

    /// Packs what bytes mean.
    pub(super) fn pack_bytes(
        self,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut Packer,
    ) -> Result<(), Misfit> {
        scratch.clear();
        match self {
            Logical::Decimal(digits) => {
                // What has more digits becomes a text that is no decimal, since the bytes themselves
                // may look like one. Its column refuses it.
                if push_decimal_bytes(bytes, digits, scratch).is_none() {
                    scratch.extend_from_slice(b"0x");
                    push_hex(bytes, scratch);
                }
                out.text(scratch);
            }
            Logical::Uuid => {
                let bytes: [u8; 16] = bytes.try_into().map_err(|_| Malformed)?;
                out.text(uuid_text(u128::from_be_bytes(bytes)).as_bytes());
            }
            _ => out.bytes_value(bytes),
        }
        Ok(())
    }
}

/// How many of them a unit has.
pub(super) fn nanoseconds(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    out.extend(digits.filter_map(|digit| DIGITS.get(usize::from(digit))));
}

fn nanoseconds_in_day() -> i64 {
    86_400 * nanoseconds(TimeUnit::Second)
}

fn uuid_text(uuid: u128) -> String {
    let [a, b, c, d, e] = [uuid >> 96, uuid >> 80, uuid >> 64, uuid >> 48, uuid];
    let (b, c, d, e) = (b & 0xffff, c & 0xffff, d & 0xffff, e & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
}

/// The bytes of a UUID's text.
pub(super) fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let dashes = [8, 13, 18, 23];
    let digits: Vec<u8> = match text.len() {
        36 if dashes.iter().all(|place| text.get(*place) == Some(&b'-')) => {
            text.iter().copied().filter(|byte| *byte != b'-').collect()
        }
        32 => text.to_vec(),
        _ => return None,
    };
    let is_hex = digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(&digits).ok().filter(|_| is_hex)?;
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}
