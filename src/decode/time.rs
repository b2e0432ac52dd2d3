//! Dates, times, datetimes and durations from ISO 8601, or from integers where the dtype is an
//! epoch or a span in a known unit.

use std::marker::PhantomData;

use arrow_array::ArrowPrimitiveType;
use arrow_array::temporal_conversions::NANOSECONDS_IN_DAY;
use arrow_array::timezone::Tz;
use arrow_array::types::{ArrowTimestampType, Date32Type, Time64NanosecondType};
use arrow_cast::parse::{Parser, string_to_datetime, string_to_time_nanoseconds};
use arrow_schema::TimeUnit;
use chrono::Utc;
use jiff::{Span, SpanRelativeTo};

use super::column::Misfit;
use super::primitive::Parse;

/// `2024-01-31`.
pub(crate) struct Date;

/// `12:30`, `12:30:15`, `12:30:15.123456789`.
pub(crate) struct Time;

/// `2024-01-31T12:30:15.123`, with or without offset; or an integer, the epoch in the unit.
pub(crate) struct Timestamp<T> {
    zone: Option<Tz>,
    unit: PhantomData<T>,
}

/// An integer in the unit, or `P1DT2H3.5S`. A day is 24 hours.
pub(crate) struct Duration<T> {
    unit: TimeUnit,
    data_type: PhantomData<T>,
}

fn utf8(text: &[u8]) -> Result<&str, Misfit> {
    std::str::from_utf8(text).map_err(|_| "is not UTF-8".into())
}

impl Parse for Date {
    type Type = Date32Type;

    fn parse(&self, text: &[u8]) -> Result<i32, Misfit> {
        // The library takes a datetime too and drops its time, which would be a silent loss.
        let has_time = text.iter().any(|byte| matches!(byte, b'T' | b't' | b' ' | b':'));
        match has_time {
            true => None,
            false => Date32Type::parse(utf8(text)?),
        }
        .ok_or_else(|| "is not an ISO 8601 date".into())
    }
}

impl Parse for Time {
    type Type = Time64NanosecondType;

    fn parse(&self, text: &[u8]) -> Result<i64, Misfit> {
        string_to_time_nanoseconds(utf8(text)?)
            .ok()
            .filter(|nanos| (0..NANOSECONDS_IN_DAY).contains(nanos))
            .ok_or_else(|| "is not an ISO 8601 time".into())
    }
}

impl<T> Timestamp<T> {
    /// Text without an offset is read as wall-clock time in `zone`; without a zone, as it stands.
    pub(crate) fn new(zone: Option<Tz>) -> Self {
        Timestamp { zone, unit: PhantomData }
    }
}

impl<T: ArrowTimestampType + Send> Parse for Timestamp<T> {
    type Type = T;

    #[inline]
    fn parse(&self, text: &[u8]) -> Result<i64, Misfit> {
        if let Ok(epoch) = lexical_core::parse(text) {
            return Ok(epoch);
        }
        let text = utf8(text)?;
        let instant = match &self.zone {
            None => string_to_datetime(&Utc, text),
            Some(zone) => string_to_datetime(zone, text).map(|local| local.with_timezone(&Utc)),
        };
        let instant = instant.map_err(|_| {
            Misfit::from("is neither an ISO 8601 datetime nor an integer (an epoch in the unit)")
        })?;
        T::from_datetime(instant).ok_or_else(|| "is out of the datetime's range".into())
    }
}

impl<T> Duration<T> {
    pub(crate) fn new(unit: TimeUnit) -> Self {
        Duration { unit, data_type: PhantomData }
    }
}

impl<T: ArrowPrimitiveType<Native = i64> + Send> Parse for Duration<T> {
    type Type = T;

    fn parse(&self, text: &[u8]) -> Result<i64, Misfit> {
        if let Ok(count) = lexical_core::parse(text) {
            return Ok(count);
        }
        // jiff also knows a friendlier format; only ISO 8601 begins with a P.
        let nanos = Some(utf8(text)?)
            .filter(|text| text.trim_start_matches(['+', '-']).starts_with(['P', 'p']))
            .and_then(|text| text.parse::<Span>().ok())
            .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok())
            .map(|duration| duration.as_nanos())
            .ok_or_else(|| {
                Misfit::from("is neither an integer in the unit nor an ISO 8601 duration")
            })?;
        let count = nanos / nanoseconds(self.unit);
        i64::try_from(count).map_err(|_| "is out of the duration's range".into())
    }
}

fn nanoseconds(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{
        DurationMillisecondType, TimestampMillisecondType, TimestampNanosecondType,
    };

    use super::*;

    #[test]
    fn dates_have_no_time() {
        assert_eq!(Date.parse(b"1970-01-02"), Ok(1));
        assert_eq!(Date.parse(b"1969-12-31"), Ok(-1));
        for text in
            [&b"2024-02-30"[..], b"2024-01-01T00:00:00", b"2024-01-01 00:00", b"12", b"", b"\xff"]
        {
            assert!(Date.parse(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn times_are_within_a_day() {
        assert_eq!(Time.parse(b"00:00:01.5"), Ok(1_500_000_000));
        assert_eq!(Time.parse(b"23:59"), Ok(86_340_000_000_000));
        for text in [&b"24:00:00"[..], b"12", b"noon", b""] {
            assert!(Time.parse(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn datetimes_take_offsets_zones_and_epochs() -> Result<(), Box<dyn std::error::Error>> {
        let naive = Timestamp::<TimestampMillisecondType>::new(None);
        assert_eq!(naive.parse(b"1970-01-01T00:00:01"), Ok(1000));
        assert_eq!(naive.parse(b"1970-01-01 00:00:01.5"), Ok(1500));
        assert_eq!(naive.parse(b"1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(naive.parse(b"1970-01-02"), Ok(86_400_000));
        assert_eq!(naive.parse(b"-5"), Ok(-5));
        assert!(naive.parse(b"yesterday").is_err());
        let berlin = Timestamp::<TimestampMillisecondType>::new(Some("Europe/Berlin".parse()?));
        assert_eq!(berlin.parse(b"1970-01-01T01:00:00"), Ok(0));
        assert_eq!(berlin.parse(b"1970-01-01T00:00:00Z"), Ok(0));
        let nanos = Timestamp::<TimestampNanosecondType>::new(None);
        assert_eq!(
            nanos.parse(b"3000-01-01T00:00:00"),
            Err("is out of the datetime's range".into())
        );
        Ok(())
    }

    #[test]
    fn durations_are_integers_or_iso_8601() {
        let millis = Duration::<DurationMillisecondType>::new(TimeUnit::Millisecond);
        assert_eq!(millis.parse(b"1500"), Ok(1500));
        assert_eq!(millis.parse(b"PT1.5S"), Ok(1500));
        assert_eq!(millis.parse(b"-PT1S"), Ok(-1000));
        assert_eq!(millis.parse(b"P1DT1H"), Ok(90_000_000));
        for text in [&b"P1Y"[..], b"1h", b"", b"P", b"1.5"] {
            assert!(millis.parse(text).is_err(), "{}", text.escape_ascii());
        }
        let nanos = Duration::<DurationMillisecondType>::new(TimeUnit::Nanosecond);
        assert!(nanos.parse(b"P200000D").is_err());
    }
}
