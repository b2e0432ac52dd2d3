//! Dates, times, datetimes and durations from ISO 8601, or from integers where the dtype is an
//! epoch or a span in a known unit.

use std::borrow::Cow;
use std::marker::PhantomData;

use arrow_array::ArrowPrimitiveType;
use arrow_array::temporal_conversions::NANOSECONDS_IN_DAY;
use arrow_array::timezone::Tz;
use arrow_array::types::{ArrowTimestampType, Date32Type, Time64NanosecondType};
use arrow_cast::parse::{Parser, string_to_datetime, string_to_time_nanoseconds};
use arrow_schema::TimeUnit;
use chrono::offset::LocalResult;
use chrono::{TimeZone, Utc};
use jiff::{Span, SpanRelativeTo};

use super::misfit::Misfit;
use super::packed::Scalar;
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

/// An integer in the unit, if the text is one.
#[inline]
fn count(text: &[u8]) -> Option<Result<i64, Misfit>> {
    match lexical_core::parse(text) {
        Ok(count) => Some(Ok(count)),
        Err(lexical_core::Error::Overflow(_) | lexical_core::Error::Underflow(_)) => {
            Some(Err("is out of range".into()))
        }
        Err(_) => None,
    }
}

/// Whether digits and dashes are where a date has them: `2024-01-31`, or `20240131`; years beyond
/// four digits have a sign. The library also takes a day or month of one digit, and a datetime,
/// whose time it drops.
fn is_date_like(text: &[u8]) -> bool {
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let (signed, text) = match text {
        [b'+' | b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match text {
        [year @ .., b'-', m, n, b'-', d, e] => {
            (year.len() == 4 || signed && year.len() > 4)
                && digits(year)
                && digits(&[*m, *n, *d, *e])
        }
        _ => !signed && text.len() == 8 && digits(text),
    }
}

impl Parse for Date {
    type Type = Date32Type;

    fn parse(&self, text: &[u8]) -> Result<i32, Misfit> {
        match is_date_like(text) {
            true => Date32Type::parse(utf8(text)?),
            false => None,
        }
        .ok_or_else(|| "is not an ISO 8601 date".into())
    }
}

impl Parse for Time {
    type Type = Time64NanosecondType;

    fn parse(&self, text: &[u8]) -> Result<i64, Misfit> {
        // The library also takes an hour of one digit, and AM and PM.
        let is_time_like = matches!(text, [h, i, b':', .., last]
            if [h, i, last].into_iter().all(u8::is_ascii_digit));
        Some(utf8(text)?)
            .filter(|_| is_time_like)
            .and_then(|text| string_to_time_nanoseconds(text).ok())
            .filter(|nanos| (0..NANOSECONDS_IN_DAY).contains(nanos))
            .ok_or_else(|| "is not an ISO 8601 time".into())
    }
}

/// The text with its seconds, which ISO 8601 lets be left out: `2024-01-31T12:30`.
fn with_seconds(text: &str) -> Cow<'_, str> {
    const MINUTES: usize = "2024-01-31T12:30".len();
    match (text.as_bytes().get(MINUTES - 3), text.as_bytes().get(MINUTES)) {
        // `12:30:15` or `123015`.
        (_, Some(b':')) | (Some(b'0'..=b'9') | None, _) => Cow::Borrowed(text),
        _ => match text.split_at_checked(MINUTES) {
            Some((minutes, offset)) => Cow::Owned(format!("{minutes}:00{offset}")),
            None => Cow::Borrowed(text),
        },
    }
}

/// Why a text is no datetime in a zone: perhaps only its clocks are to blame.
#[cold]
fn no_instant(zone: Option<&Tz>, text: &str) -> Misfit {
    let local = string_to_datetime(&Utc, text).ok().map(|instant| instant.naive_utc());
    let (what, how) = match zone.zip(local).map(|(zone, local)| zone.from_local_datetime(&local)) {
        Some(LocalResult::Ambiguous(_, _)) => ("is ambiguous", "show that time twice"),
        Some(LocalResult::None) => ("does not exist", "skip that time"),
        Some(LocalResult::Single(_)) | None => {
            return "is neither an ISO 8601 datetime nor an integer (an epoch in the unit)".into();
        }
    };
    let zone = zone.map(ToString::to_string).unwrap_or_default();
    format!(
        "{what} in {zone}, whose clocks {how}; a text with an offset, such as Z, says which it is"
    )
    .into()
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
        if let Some(epoch) = count(text) {
            return epoch;
        }
        let text = with_seconds(utf8(text)?);
        let instant = match &self.zone {
            None => string_to_datetime(&Utc, &text),
            Some(zone) => string_to_datetime(zone, &text).map(|local| local.with_timezone(&Utc)),
        };
        let instant = instant.map_err(|_| no_instant(self.zone.as_ref(), &text))?;
        T::from_datetime(instant).ok_or_else(|| "is out of the datetime's range".into())
    }

    #[inline]
    fn convert(&self, scalar: Scalar) -> Option<i64> {
        match scalar {
            Scalar::Integer(epoch) => Some(epoch),
            Scalar::Instant(seconds, nanos) => {
                let unit = i64::try_from(nanoseconds(T::UNIT)).ok()?;
                let within = i64::from(nanos) / unit;
                seconds.checked_mul(1_000_000_000 / unit)?.checked_add(within)
            }
            _ => None,
        }
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
        if let Some(count) = count(text) {
            return count;
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

    #[inline]
    fn convert(&self, scalar: Scalar) -> Option<i64> {
        match scalar {
            Scalar::Integer(count) => Some(count),
            _ => None,
        }
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
        assert_eq!(Date.parse(b"19700102"), Ok(1));
        assert_eq!(Date.parse(b"+10000-01-01"), Ok(2_932_897));
        assert_eq!(Date.parse(b"-0001-12-31"), Ok(-719_529));
        for text in [
            &b"2024-02-30"[..],
            b"2024-01-01T00:00:00",
            b"2024-01-01 00:00",
            b"2024-1-1",
            b"2024-01-1",
            b"2024-1-01",
            b"+10000-1-1",
            b"10000-01-01",
            b"2024/01/01",
            b"-20240101",
            b"12",
            b"",
            b"\xff",
        ] {
            assert!(Date.parse(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn times_are_within_a_day() {
        assert_eq!(Time.parse(b"00:00:01.5"), Ok(1_500_000_000));
        assert_eq!(Time.parse(b"23:59"), Ok(86_340_000_000_000));
        for text in
            [&b"24:00:00"[..], b"12", b"noon", b"", b"9:30", b"10:00 PM", b"10:00:00.", b"10:0"]
        {
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
        assert_eq!(naive.parse(b"1970-01-01T00:01"), Ok(60_000));
        assert_eq!(naive.parse(b"1970-01-01 01:01+01:00"), Ok(60_000));
        assert_eq!(naive.parse(b"1970-01-01T00:01Z"), Ok(60_000));
        assert_eq!(naive.parse(b"1970-01-01T000100"), Ok(60_000));
        for text in
            [&b"1970-01-01T00"[..], b"1970-01-01T00:0", b"1970-01-01T00:60", b"1970-01-01T00:01x"]
        {
            assert!(naive.parse(text).is_err(), "{}", text.escape_ascii());
        }
        assert_eq!(naive.parse(b"-5"), Ok(-5));
        assert_eq!(naive.parse(b"9223372036854775808"), Err("is out of range".into()));
        assert!(naive.parse(b"yesterday").is_err());
        let berlin = Timestamp::<TimestampMillisecondType>::new(Some("Europe/Berlin".parse()?));
        assert_eq!(berlin.parse(b"1970-01-01T01:00:00"), Ok(0));
        assert_eq!(berlin.parse(b"1970-01-01T00:00:00Z"), Ok(0));
        for (text, what) in [
            (&b"2023-10-29T02:30:00"[..], "is ambiguous in Europe/Berlin, whose clocks show"),
            (b"2023-10-29T02:30", "is ambiguous in Europe/Berlin, whose clocks show"),
            (b"2023-03-26 02:30:00", "does not exist in Europe/Berlin, whose clocks skip"),
            (b"2023-03-26", "is neither"),
        ] {
            match berlin.parse(text) {
                Err(misfit) => assert!(misfit.0.starts_with(what), "{misfit:?}"),
                Ok(_) => assert_eq!(text, b"2023-03-26"),
            }
        }
        assert!(berlin.parse(b"2023-10-29T02:30:00+02:00").is_ok());
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
