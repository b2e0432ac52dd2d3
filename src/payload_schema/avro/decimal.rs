//! Decimals: two's complement of any length, and its text.

use super::logical::Digits;
use crate::write::push_digits;

/// Appends the text of a decimal's bytes, exactly.
pub(super) fn push_decimal_bytes(bytes: &[u8], digits: Digits, out: &mut Vec<u8>) -> Option<()> {
    let bytes = shortest(bytes);
    if bytes.len() > digits.bytes().max(1) {
        return None;
    }
    let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let text = match bytes.len() <= 16 {
        true => {
            let start = if is_negative { -1 } else { 0 };
            let value =
                bytes.iter().fold(start, |value: i128, byte| (value << 8) | i128::from(*byte));
            value.unsigned_abs().to_string().into_bytes()
        }
        false => long_digits(bytes, is_negative),
    };
    push_digits(is_negative, &text, digits.scale, out);
    Some(())
}

/// The bytes without those at the front that only repeat the sign.
fn shortest(mut bytes: &[u8]) -> &[u8] {
    while let [first @ (0 | 0xff), rest @ ..] = bytes
        && rest.first().is_some_and(|second| (first ^ second) & 0x80 == 0)
    {
        bytes = rest;
    }
    bytes
}

/// The decimal digits of a number's magnitude.
fn long_digits(bytes: &[u8], is_negative: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if is_negative {
        negate(&mut bytes);
    }
    let mut digits = Vec::new();
    while bytes.iter().any(|byte| *byte != 0) {
        let mut rest = 0u32;
        for byte in &mut bytes {
            let value = (rest << 8) | u32::from(*byte);
            *byte = (value / 10) as u8;
            rest = value % 10;
        }
        digits.push(b'0' + rest as u8);
    }
    digits.reverse();
    digits
}

fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        let (negated, more) = (!*byte).overflowing_add(carry.into());
        (*byte, carry) = (negated, more);
    }
}

/// The bytes of a decimal's text, of that many digits at most; `None` where they do not fit, or it is
/// no decimal.
pub(super) fn decimal_bytes(text: &[u8], digits: Digits) -> Option<Vec<u8>> {
    let (is_negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (text.get(..at)?, lexical_core::parse::<i32>(text.get(at + 1..)?).ok()?),
        None => (text, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let (whole, places) = (mantissa.get(..point)?, mantissa.get(point + 1..).unwrap_or_default());
    let mut number: Vec<u8> = [whole, places].concat();
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let scale = i64::try_from(digits.scale).ok()?;
    let missing = scale + i64::from(exponent) - places.len() as i64;
    let is_zero = number.iter().all(|digit| *digit == b'0');
    match usize::try_from(missing) {
        _ if is_zero => number.clear(),
        Ok(missing) if missing <= digits.precision => number.resize(number.len() + missing, b'0'),
        Ok(_) => return None,
        Err(_) => {
            let kept = number.len().checked_sub(usize::try_from(-missing).ok()?)?;
            if number.get(kept..)?.iter().any(|digit| *digit != b'0') {
                return None;
            }
            number.truncate(kept);
        }
    }
    let leading = number.iter().take_while(|digit| **digit == b'0').count();
    let number = number.get(leading..)?;
    if number.len() > digits.precision {
        return None;
    }
    // One byte more, for the sign.
    let mut bytes = vec![0u8; digits.bytes() + 1];
    for digit in number {
        let mut carry = u32::from(digit - b'0');
        for byte in bytes.iter_mut().rev() {
            let value = u32::from(*byte) * 10 + carry;
            (*byte, carry) = (value as u8, value >> 8);
        }
    }
    if is_negative {
        negate(&mut bytes);
    }
    Some(shortest(&bytes).to_vec())
}

/// The same number in a given number of bytes, if it fits.
pub(super) fn extended(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let sign = number.first().map_or(0, |first| if first & 0x80 != 0 { 0xff } else { 0 });
    let missing = size.checked_sub(number.len())?;
    let mut bytes = vec![sign; missing];
    bytes.extend_from_slice(number);
    Some(bytes)
}
