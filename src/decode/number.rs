//! Numbers from their text.

use std::borrow::Cow;
use std::marker::PhantomData;

use arrow_array::ArrowPrimitiveType;
use arrow_array::types::Decimal128Type;
use lexical_core::FromLexical;
use num_traits::AsPrimitive;

use super::misfit::{Misfit, TOO_MANY_DECIMALS};
use super::packed::Scalar;
use super::primitive::Parse;

/// An integer in decimal, with or without a sign, in range.
pub(crate) struct Integer<T>(PhantomData<T>);

/// A float: decimal or scientific, in range; inf, nan.
pub(crate) struct Float<T>(PhantomData<T>);

/// A 128-bit integer, which Arrow has no type for: the bits of a `Decimal128` of scale 0.
pub(crate) struct Int128;

/// A decimal that fits precision and scale without loss.
pub(crate) struct Decimal {
    precision: u8,
    scale: i8,
}

impl<T> Integer<T> {
    pub(crate) fn new() -> Self {
        Integer(PhantomData)
    }
}

impl<T> Float<T> {
    pub(crate) fn new() -> Self {
        Float(PhantomData)
    }
}

#[inline]
fn integer<N: FromLexical>(text: &[u8]) -> Result<N, Misfit> {
    lexical_core::parse(text).map_err(|error| match error {
        lexical_core::Error::Overflow(_) | lexical_core::Error::Underflow(_) => {
            "is out of range".into()
        }
        // An unsigned type does not know the sign.
        _ if text.first() == Some(&b'-') && lexical_core::parse::<i128>(text).is_ok() => {
            "is out of range".into()
        }
        _ => "is not an integer".into(),
    })
}

impl<T: ArrowPrimitiveType + Send> Parse for Integer<T>
where
    T::Native: FromLexical + TryFrom<i64>,
{
    type Type = T;

    #[inline]
    fn parse(&self, text: &[u8]) -> Result<T::Native, Misfit> {
        integer(text)
    }

    #[inline]
    fn convert(&self, scalar: Scalar) -> Option<T::Native> {
        match scalar {
            Scalar::Integer(number) => number.try_into().ok(),
            _ => None,
        }
    }
}

impl<T: ArrowPrimitiveType + Send> Parse for Float<T>
where
    T::Native: FromLexical + Into<f64> + Copy + 'static,
    f64: AsPrimitive<T::Native>,
    i64: AsPrimitive<T::Native>,
{
    type Type = T;

    #[inline]
    fn parse(&self, text: &[u8]) -> Result<T::Native, Misfit> {
        let number: T::Native =
            lexical_core::parse(text).map_err(|_| Misfit::from("is not a number"))?;
        match number.into().is_infinite() && text.iter().any(u8::is_ascii_digit) {
            true => Err("is out of range".into()),
            false => Ok(number),
        }
    }

    #[inline]
    fn convert(&self, scalar: Scalar) -> Option<T::Native> {
        match scalar {
            Scalar::Integer(number) => Some(number.as_()),
            Scalar::Float(wide) => {
                let number: T::Native = wide.as_();
                // A finite one may be too large for the dtype.
                (number.into().is_infinite() == wide.is_infinite()).then_some(number)
            }
            _ => None,
        }
    }
}

impl Parse for Int128 {
    type Type = Decimal128Type;

    #[inline]
    fn parse(&self, text: &[u8]) -> Result<i128, Misfit> {
        integer(text)
    }

    #[inline]
    fn convert(&self, scalar: Scalar) -> Option<i128> {
        match scalar {
            Scalar::Integer(number) => Some(number.into()),
            _ => None,
        }
    }
}

impl Decimal {
    pub(crate) fn new(precision: u8, scale: i8) -> Self {
        Decimal { precision, scale }
    }
}

impl Parse for Decimal {
    type Type = Decimal128Type;

    /// `[+-]digits[.digits][e[+-]digits]`. arrow-cast's parser rounds; ours refuses what would
    /// lose a digit.
    fn parse(&self, text: &[u8]) -> Result<i128, Misfit> {
        const NOT_DECIMAL: &str = "is not a decimal";
        let too_large = || Misfit::from("has more digits than the decimal's precision");
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let (mantissa, exponent) = match unsigned.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => {
                let (mantissa, exponent) = unsigned.split_at(at);
                let exponent: i32 = lexical_core::parse(exponent.get(1..).unwrap_or_default())
                    .map_err(|_| Misfit::from(NOT_DECIMAL))?;
                (mantissa, exponent)
            }
            None => (unsigned, 0),
        };
        let mut unscaled: i128 = 0;
        let mut digits = 0;
        let mut fraction: Option<i32> = None;
        // Zeros that no other digit has followed yet: they count only when one does.
        let mut zeros = 0u32;
        for &byte in mantissa {
            match byte {
                b'0'..=b'9' => {
                    digits += 1;
                    fraction = fraction.map(|length| length.saturating_add(1));
                    if byte == b'0' {
                        zeros = zeros.saturating_add(1);
                        continue;
                    }
                    unscaled = shift(unscaled, zeros.saturating_add(1))
                        .and_then(|number| number.checked_add(i128::from(byte - b'0')))
                        .ok_or_else(too_large)?;
                    zeros = 0;
                }
                b'.' if fraction.is_none() => fraction = Some(0),
                _ => return Err(NOT_DECIMAL.into()),
            }
        }
        if digits == 0 {
            return Err(NOT_DECIMAL.into());
        }
        // value = unscaled * 10^zeros * 10^(exponent - fraction) = result * 10^-scale
        let power = i64::from(zeros) + i64::from(exponent) - i64::from(fraction.unwrap_or(0))
            + i64::from(self.scale);
        let scaled = match (unscaled, u32::try_from(power)) {
            (0, _) => 0,
            (_, Ok(power)) => shift(unscaled, power).ok_or_else(too_large)?,
            (_, Err(_)) => return Err(TOO_MANY_DECIMALS),
        };
        match scaled >= 10i128.saturating_pow(u32::from(self.precision)) {
            true => Err(too_large()),
            false if negative => Ok(-scaled),
            false => Ok(scaled),
        }
    }
}

/// The digits alone of a number that JSON writes with decimal places or an exponent, where it is an
/// integer of no more digits than any dtype holds.
#[cold]
pub(crate) fn integer_text(number: &[u8]) -> Option<Cow<'_, [u8]>> {
    const LONGEST: usize = 40;
    let (mantissa, exponent) = match number.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (number.get(..at)?, lexical_core::parse::<i32>(number.get(at + 1..)?).ok()?),
        None => (number, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let (whole, places) = mantissa.split_at(point);
    let places = places.get(1..).unwrap_or_default();
    if !whole.iter().chain(places).all(|byte| byte.is_ascii_digit() || *byte == b'-') {
        return None;
    }
    if exponent == 0 {
        return places.iter().all(|byte| *byte == b'0').then_some(Cow::Borrowed(whole));
    }
    let mut digits = [whole, places].concat();
    let shift = i64::from(exponent) - i64::try_from(places.len()).ok()?;
    match usize::try_from(shift) {
        Ok(zeros) if zeros <= LONGEST => digits.resize(digits.len() + zeros, b'0'),
        Ok(_) => return None,
        Err(_) => {
            let cut = usize::try_from(shift.unsigned_abs()).ok()?.min(digits.len());
            let removed = digits.split_off(digits.len() - cut);
            if removed.iter().any(|digit| *digit != b'0') {
                return None;
            }
        }
    }
    Some(Cow::Owned(digits))
}

/// `number * 10^power`, where it fits.
fn shift(number: i128, power: u32) -> Option<i128> {
    match number {
        0 => Some(0),
        _ => number.checked_mul(10i128.checked_pow(power)?),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{Float32Type, Float64Type, Int8Type, UInt64Type};

    use super::*;

    #[test]
    fn numbers_of_json_that_are_integers_are_seen_as_such() {
        for (number, expected) in [
            ("1.0", Some("1")),
            ("-12.000", Some("-12")),
            ("1e3", Some("1000")),
            ("1.5e1", Some("15")),
            ("-1.25E+2", Some("-125")),
            ("1200e-2", Some("12")),
            ("0.0", Some("0")),
            ("1.5", None),
            ("1e-1", None),
            ("15e-1", None),
            ("1e99", None),
            ("1e99999999999", None),
            ("[1.0]", None),
            ("NaN", None),
            ("true", None),
        ] {
            let text = integer_text(number.as_bytes()).map(|text| text.into_owned());
            assert_eq!(text, expected.map(|text| text.as_bytes().to_vec()), "{number}");
        }
    }

    fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
        Decimal::new(precision, scale).parse(text.as_bytes()).ok()
    }

    #[test]
    fn decimals_fit_or_are_refused() {
        for (text, expected) in [
            ("1", Some(100)),
            ("1.5", Some(150)),
            ("-1.25", Some(-125)),
            ("+0.01", Some(1)),
            (".5", Some(50)),
            ("5.", Some(500)),
            ("1.2500", Some(125)),
            ("1.255", None),
            ("1e1", Some(1000)),
            ("125e-2", Some(125)),
            ("1.5E+1", Some(1500)),
            ("125e-3", None),
            ("0e99999", Some(0)),
            ("0.000", Some(0)),
            ("999.99", Some(99999)),
            ("1000", None),
            ("1e9999999999", None),
            ("00000000000000000000000000000000000000000000001", Some(100)),
            ("", None),
            (".", None),
            ("-", None),
            ("1.2.3", None),
            ("1e", None),
            ("nan", None),
            ("0x1", None),
        ] {
            assert_eq!(decimal(text, 5, 2), expected, "{text}");
        }
        let nines = "9".repeat(38);
        assert_eq!(decimal(&nines, 38, 0), nines.parse().ok());
        assert_eq!(decimal(&format!("{nines}9"), 38, 0), None);
    }

    #[test]
    fn integers_are_decimal_and_in_range() {
        let int8 = |text: &[u8]| Integer::<Int8Type>::new().parse(text);
        assert_eq!(int8(b"-128"), Ok(-128));
        assert_eq!(int8(b"+7"), Ok(7));
        assert_eq!(int8(b"128"), Err("is out of range".into()));
        assert_eq!(int8(b"-129"), Err("is out of range".into()));
        for text in [&b""[..], b" 1", b"1 ", b"1.0", b"1_000", b"0x1", b"\xff", b"-"] {
            assert_eq!(int8(text), Err("is not an integer".into()), "{}", text.escape_ascii());
        }
        assert_eq!(Integer::<UInt64Type>::new().parse(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(Integer::<UInt64Type>::new().parse(b"-1"), Err("is out of range".into()));
        assert_eq!(Integer::<UInt64Type>::new().parse(b"-x"), Err("is not an integer".into()));
        let min = i128::MIN.to_string();
        assert_eq!(Int128.parse(min.as_bytes()), Ok(i128::MIN));
    }

    #[test]
    fn floats_include_the_special_values() {
        let float = |text: &[u8]| Float::<Float64Type>::new().parse(text);
        assert_eq!(float(b"-1.5e3"), Ok(-1500.0));
        for text in [&b"inf"[..], b"Inf", b"INF", b"infinity", b"+inf"] {
            assert_eq!(float(text), Ok(f64::INFINITY), "{}", text.escape_ascii());
        }
        assert_eq!(float(b"-inf"), Ok(f64::NEG_INFINITY));
        for text in [&b"nan"[..], b"NaN", b"NAN"] {
            assert!(float(text).is_ok_and(f64::is_nan));
        }
        assert!(float(b"1,5").is_err());
        assert!(float(b"").is_err());
        // Only who writes infinity means it.
        for text in [&b"1e400"[..], b"-1e400", b"1.8e308", &[b'9'; 400]] {
            assert_eq!(float(text), Err("is out of range".into()), "{}", text.escape_ascii());
        }
        assert_eq!(float(b"1e-400"), Ok(0.0));
        let single = |text: &[u8]| Float::<Float32Type>::new().parse(text);
        assert_eq!(single(b"1e39"), Err("is out of range".into()));
        assert_eq!((single(b"3e38"), single(b"-inf")), (Ok(3e38), Ok(f32::NEG_INFINITY)));
    }
}
