//! The text of values: what the decoder's parsers read, written.

use std::fmt::Write;

use arrow_array::temporal_conversions::NANOSECONDS_IN_DAY;
use arrow_schema::TimeUnit;
use chrono::{Datelike, NaiveDate};
use lexical_core::ToLexical;

/// More than any number has characters.
const LONGEST: usize = 64;

pub(crate) fn push_number<N: ToLexical>(number: N, out: &mut Vec<u8>) {
    let mut buffer = [0; LONGEST];
    out.extend_from_slice(lexical_core::write(number, &mut buffer));
}

/// `unscaled * 10^-scale`, with all its decimal places.
pub(super) fn push_decimal(unscaled: i128, scale: i8, out: &mut Vec<u8>) {
    let mut buffer = [0; LONGEST];
    let digits = &*lexical_core::write(unscaled.unsigned_abs(), &mut buffer);
    match usize::try_from(scale) {
        Ok(scale) => push_digits(unscaled < 0, digits, scale, out),
        Err(_) => {
            push_digits(unscaled < 0, digits, 0, out);
            out.push(b'e');
            push_number(scale.unsigned_abs(), out);
        }
    }
}

/// A number's digits, with the last of them as decimal places.
pub(crate) fn push_digits(is_negative: bool, digits: &[u8], scale: usize, out: &mut Vec<u8>) {
    if is_negative {
        out.push(b'-');
    }
    let (whole, places) = digits.split_at(digits.len().saturating_sub(scale));
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
    if scale > 0 {
        out.push(b'.');
        out.resize(out.len() + scale - places.len(), b'0');
        out.extend_from_slice(places);
    }
}

/// `2024-01-31`; years that have no four digits bear a sign.
pub(crate) fn push_date(days: i32, out: &mut Vec<u8>) {
    push_days(days.into(), out);
}

/// `12:30:15`, with as many decimal places as it takes: none, three, six or nine.
pub(crate) fn push_time(nanos: i64, out: &mut Vec<u8>) {
    let (seconds, nanos) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    let [hours, minutes, seconds] =
        [seconds / 3600, seconds / 60 % 60, seconds % 60].map(two_digits);
    out.extend_from_slice(&hours);
    out.push(b':');
    out.extend_from_slice(&minutes);
    out.push(b':');
    out.extend_from_slice(&seconds);
    push_places(nanos, out);
}

/// A second's nanoseconds, as three, six or nine decimal places, or none.
fn push_places(nanos: i64, out: &mut Vec<u8>) {
    let places = match nanos {
        0 => return,
        _ if nanos % 1_000_000 == 0 => 3,
        _ if nanos % 1_000 == 0 => 6,
        _ => 9,
    };
    out.push(b'.');
    let mut rest = nanos;
    let start = out.len();
    for power in [100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1] {
        out.push(digit(rest / power));
        rest %= power;
    }
    out.truncate(start + places);
}

/// `2024-01-31T12:30:15.123`, in UTC and with a `Z` where the dtype has a zone. Beyond the years 0
/// to 9999, which ISO 8601 does not reach without an agreement, it is the epoch in the unit.
///
/// Returns whether it is text that JSON must quote.
pub(crate) fn push_timestamp(epoch: i64, unit: TimeUnit, zoned: bool, out: &mut Vec<u8>) -> bool {
    /// 0000-01-01 and 10000-01-01.
    const DAYS: std::ops::Range<i64> = -719_528..2_932_897;
    let per_day = match unit {
        TimeUnit::Second => 86_400,
        TimeUnit::Millisecond => 86_400_000,
        TimeUnit::Microsecond => 86_400_000_000,
        TimeUnit::Nanosecond => NANOSECONDS_IN_DAY,
    };
    let (days, within) = (epoch.div_euclid(per_day), epoch.rem_euclid(per_day));
    if !DAYS.contains(&days) {
        push_number(epoch, out);
        return false;
    }
    push_days(days, out);
    out.push(b'T');
    push_time(within * (NANOSECONDS_IN_DAY / per_day), out);
    if zoned {
        out.push(b'Z');
    }
    true
}

/// The instant of that many seconds since 1970, and nanoseconds, as text of ISO 8601; beyond its years
/// what no datetime is taken for.
pub(crate) fn push_seconds(seconds: i64, nanos: u32, out: &mut Vec<u8>) {
    let start = out.len();
    if !push_timestamp(seconds, TimeUnit::Second, false, out) {
        out.insert(start, b'@');
    }
    push_places(nanos.into(), out);
    if out.get(start) != Some(&b'@') {
        out.push(b'Z');
    }
}

fn push_days(days: i64, out: &mut Vec<u8>) {
    /// The calendar repeats after that many years and days.
    const ERA: (i64, i64) = (400, 146_097);
    /// From 0000-01-01, where an era begins, to 1970-01-01.
    const BEFORE_EPOCH: i64 = 719_528;
    let since_zero = days + BEFORE_EPOCH;
    let (era, day) = (since_zero.div_euclid(ERA.1), since_zero.rem_euclid(ERA.1));
    // chrono counts from 0001-01-01, which is its day 1, 366 days later.
    let Some(date) = i32::try_from(day - 365).ok().and_then(NaiveDate::from_num_days_from_ce_opt)
    else {
        return;
    };
    let year = i64::from(date.year()) + era * ERA.0;
    match u16::try_from(year) {
        Ok(year @ 0..=9999) => {
            out.extend_from_slice(&two_digits(i64::from(year / 100)));
            out.extend_from_slice(&two_digits(i64::from(year % 100)));
        }
        _ => {
            let mut text = String::new();
            // Writing to a String does not fail.
            let _ = write!(text, "{year:+05}");
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.push(b'-');
    out.extend_from_slice(&two_digits(date.month().into()));
    out.push(b'-');
    out.extend_from_slice(&two_digits(date.day().into()));
}

fn two_digits(number: i64) -> [u8; 2] {
    [digit(number / 10 % 10), digit(number % 10)]
}

fn digit(number: i64) -> u8 {
    b'0' + number as u8
}

/// A JSON string.
pub(crate) fn push_json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let low = HEX.get(usize::from(byte & 15)).copied().unwrap_or_default();
                out.extend_from_slice(b"\\u00");
                out.push(b'0' + (byte >> 4));
                out.push(low);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn decimals_show_their_scale() {
        for (unscaled, scale, expected) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (5, 2, "0.05"),
            (-5, 1, "-0.5"),
            (12345, 2, "123.45"),
            (-100, 2, "-1.00"),
            (12, -3, "12e3"),
        ] {
            assert_eq!(text(|out| push_decimal(unscaled, scale, out)), expected);
        }
        let smallest = text(|out| push_decimal(i128::MIN, 0, out));
        assert_eq!(smallest, i128::MIN.to_string());
    }

    #[test]
    fn dates_have_four_digits_or_a_sign() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (19_782, "2024-02-29"),
            (-719_528, "0000-01-01"),
            (-719_529, "-0001-12-31"),
            (2_932_896, "9999-12-31"),
            (2_932_897, "+10000-01-01"),
            (i32::MAX, "+5881580-07-11"),
            (i32::MIN, "-5877641-06-23"),
        ] {
            assert_eq!(text(|out| push_date(days, out)), expected);
        }
    }

    #[test]
    fn times_have_the_places_they_need() {
        for (nanos, expected) in [
            (0, "00:00:00"),
            (45_296_000_000_000, "12:34:56"),
            (45_296_100_000_000, "12:34:56.100"),
            (45_296_000_001_000, "12:34:56.000001"),
            (86_399_999_999_999, "23:59:59.999999999"),
        ] {
            assert_eq!(text(|out| push_time(nanos, out)), expected);
        }
    }

    #[test]
    fn timestamps_are_iso_8601_or_an_epoch() {
        let unit = TimeUnit::Millisecond;
        let stamp = |epoch, zoned| {
            let mut quoted = false;
            let text = text(|out| quoted = push_timestamp(epoch, unit, zoned, out));
            (text, quoted)
        };
        assert_eq!(stamp(1_500, false), ("1970-01-01T00:00:01.500".to_owned(), true));
        assert_eq!(stamp(-1, true), ("1969-12-31T23:59:59.999Z".to_owned(), true));
        assert_eq!(stamp(i64::MAX, true), (i64::MAX.to_string(), false));
    }

    proptest! {
        #[test]
        fn json_strings_parse_back(value in any::<String>()) {
            let json = text(|out| push_json_string(&value, out));
            prop_assert_eq!(serde_json::from_str::<String>(&json).ok(), Some(value));
        }

        #[test]
        fn numbers_parse_back(float: f64, single: f32, wide: i128, largest: u64) {
            let read = text(|out| push_number(float, out)).parse::<f64>().ok();
            prop_assert!(read.is_some_and(|read| read.to_bits() == float.to_bits() || float.is_nan()));
            let read = text(|out| push_number(single, out)).parse::<f32>().ok();
            prop_assert!(read.is_some_and(|read| read.to_bits() == single.to_bits() || single.is_nan()));
            prop_assert_eq!(text(|out| push_number(wide, out)), wide.to_string());
            prop_assert_eq!(text(|out| push_number(largest, out)), largest.to_string());
        }
    }
}
