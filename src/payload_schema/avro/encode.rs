//! Logical types from the texts, numbers and instants that columns have for them.

use arrow_array::types::TimestampNanosecondType;
use arrow_array::types::{TimestampMicrosecondType, TimestampMillisecondType};
use arrow_schema::TimeUnit;

use super::decimal::{decimal_bytes, extended};
use super::logical::{Logical, nanoseconds, parse_uuid};
use super::schema::Kind;
use super::wire::{push_bytes, push_long};
use crate::decode::packed::Scalar;
use crate::decode::value;
use crate::decode::{Date, Parse, Time, Timestamp};

impl Logical {
    pub(super) fn is_instant(self) -> bool {
        matches!(self, Logical::Timestamp(_))
    }

    /// Appends what a value is as this type; an error may say more than that it does not fit.
    pub(super) fn encode(
        self,
        kind: &Kind,
        content: &[u8],
        is: value::Kind,
        out: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let scalar = match is {
            value::Kind::String { .. } | value::Kind::Bytes => None,
            _ => Scalar::of(content),
        };
        let text = matches!(is, value::Kind::String { .. }).then_some(content);
        match self {
            Logical::Decimal(digits) => {
                let integer = match scalar {
                    Some(Scalar::Integer(value)) => Some(value.to_string()),
                    Some(Scalar::Large(value)) => Some(value.to_string()),
                    _ => None,
                };
                let text = text.or(integer.as_ref().map(|text| text.as_bytes())).ok_or("")?;
                let bytes = decimal_bytes(text, digits);
                let bytes = bytes.ok_or(" of no more digits and decimal places")?;
                match kind {
                    Kind::Fixed(_, size) => {
                        out.extend_from_slice(&extended(&bytes, *size).ok_or(" that fits")?);
                    }
                    _ => push_bytes(&bytes, out),
                }
            }
            Logical::Uuid => match (kind, text) {
                (Kind::Fixed(..), Some(text)) => {
                    out.extend_from_slice(&parse_uuid(text).ok_or("")?);
                }
                (Kind::Fixed(..), None) if is == value::Kind::Bytes && content.len() == 16 => {
                    out.extend_from_slice(content);
                }
                (_, Some(text)) if parse_uuid(text).is_some() => push_bytes(text, out),
                _ => return Err(""),
            },
            _ => push_long(self.count(kind, scalar, text)?, out),
        }
        Ok(())
    }

    /// The number of days, or of units.
    fn count(
        self,
        kind: &Kind,
        scalar: Option<Scalar>,
        text: Option<&[u8]>,
    ) -> Result<i64, &'static str> {
        let count = match (self, scalar, text) {
            (_, Some(Scalar::Integer(count)), _) => count,
            (Logical::Date, _, Some(text)) => Date.parse(text).map_err(|_| "")?.into(),
            (Logical::Time(unit), _, Some(text)) => {
                whole(Time.parse(text).map_err(|_| "")?.into(), unit)?
            }
            (Logical::Timestamp(unit), Some(Scalar::Instant(seconds, nanos)), _) => {
                whole(i128::from(seconds) * 1_000_000_000 + i128::from(nanos), unit)?
            }
            (Logical::Timestamp(unit) | Logical::LocalTimestamp(unit), _, Some(text)) => {
                // What is finer than the unit would be cut off.
                let zone = match self {
                    Logical::Timestamp(_) => Some("UTC".parse().map_err(|_| "")?),
                    _ => None,
                };
                match Timestamp::<TimestampNanosecondType>::new(zone).parse(text) {
                    Ok(nanos) => whole(nanos.into(), unit)?,
                    // Nanoseconds reach less far.
                    Err(_) => match unit {
                        TimeUnit::Millisecond => {
                            Timestamp::<TimestampMillisecondType>::new(zone).parse(text)
                        }
                        _ => Timestamp::<TimestampMicrosecondType>::new(zone).parse(text),
                    }
                    .map_err(|_| "")?,
                }
            }
            _ => return Err(""),
        };
        match kind {
            Kind::Int if i32::try_from(count).is_err() => Err(" in range"),
            _ => Ok(count),
        }
    }
}

/// Nanoseconds in a unit, if nothing is left over.
fn whole(nanos: i128, unit: TimeUnit) -> Result<i64, &'static str> {
    let per_unit = i128::from(nanoseconds(unit));
    match nanos % per_unit {
        0 => i64::try_from(nanos / per_unit).map_err(|_| " in range"),
        _ => Err(", which is coarser"),
    }
}
