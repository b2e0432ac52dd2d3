//! Values as MessagePack.
//!
//! A write into memory does not fail, so nothing is made of its result.

use arrow_array::temporal_conversions::NANOSECONDS_IN_DAY;
use arrow_schema::TimeUnit;
use num_traits::ToPrimitive;
use rmp::encode;

pub(crate) fn pack_null(out: &mut Vec<u8>) {
    let _ = encode::write_nil(out);
}

pub(crate) fn pack_boolean(value: bool, out: &mut Vec<u8>) {
    let _ = encode::write_bool(out, value);
}

/// An integer in as few bytes as it takes; whether it is one of 64 bits.
pub(crate) fn pack_integer(value: &impl ToPrimitive, out: &mut Vec<u8>) -> bool {
    match (value.to_i64(), value.to_u64()) {
        (Some(value), _) => encode::write_sint(out, value).is_ok(),
        (None, Some(value)) => encode::write_uint(out, value).is_ok(),
        (None, None) => false,
    }
}

pub(crate) fn pack_single(value: f32, out: &mut Vec<u8>) {
    let _ = encode::write_f32(out, value);
}

pub(crate) fn pack_float(value: f64, out: &mut Vec<u8>) {
    let _ = encode::write_f64(out, value);
}

/// Text. What the format has no length for, no server takes either: it is cut to an empty one.
pub(crate) fn pack_text(text: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(text.len()).unwrap_or(0);
    let _ = encode::write_str_len(out, len);
    out.extend_from_slice(text.get(..len as usize).unwrap_or_default());
}

pub(crate) fn pack_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).unwrap_or(0);
    let _ = encode::write_bin_len(out, len);
    out.extend_from_slice(bytes.get(..len as usize).unwrap_or_default());
}

/// The beginning of an array of that many values.
pub(crate) fn pack_array(len: usize, out: &mut Vec<u8>) {
    let _ = encode::write_array_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

/// The beginning of a map of that many names and values.
pub(crate) fn pack_map(len: usize, out: &mut Vec<u8>) {
    let _ = encode::write_map_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

/// A timestamp: a number of units since 1970.
pub(crate) fn pack_instant(epoch: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => NANOSECONDS_IN_DAY / 86_400,
    };
    let seconds = epoch.div_euclid(per_second);
    let nanos = (epoch.rem_euclid(per_second) * (1_000_000_000 / per_second)) as u32;
    pack_timestamp(seconds, nanos, out);
}

/// A timestamp of seconds since 1970 and nanoseconds, in as few bytes as it takes.
pub(crate) fn pack_timestamp(seconds: i64, nanos: u32, out: &mut Vec<u8>) {
    const TYPE: i8 = -1;
    match (u64::try_from(seconds), u32::try_from(seconds)) {
        (_, Ok(seconds)) if nanos == 0 => {
            let _ = encode::write_ext_meta(out, 4, TYPE);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        (Ok(seconds), _) if seconds < 1 << 34 => {
            let _ = encode::write_ext_meta(out, 8, TYPE);
            out.extend_from_slice(&((u64::from(nanos) << 34) | seconds).to_be_bytes());
        }
        _ => {
            let _ = encode::write_ext_meta(out, 12, TYPE);
            out.extend_from_slice(&nanos.to_be_bytes());
            out.extend_from_slice(&seconds.to_be_bytes());
        }
    }
}
