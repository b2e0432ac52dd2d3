mod framings;
mod hostile;
mod packing;
mod random;
mod resolution;
mod types;

use super::*;
use crate::decode::packed::Packed;
use crate::decode::value::Notation;
use crate::payload_schema::Packer;

/// Each type and logical type; the vector was written by fastavro 1.13.1:
///
/// ```python
/// from datetime import date, datetime, time, timezone as tz; from decimal import Decimal
/// import fastavro, io, json, uuid
///
/// out = io.BytesIO()
/// fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(EVERY)), dict(
///     flag=True, i=-7, l=2**40, f=1.5, d=-0.25, b=b"\x00\xff", s="größe", maybe=5, either="x",
///     list=[1, -2, 300], map={"a": 1, "b": 2}, mood="HAPPY", four=b"abcd", point={"x": 0.5},
///     dec=Decimal("-123.45"), fdec=Decimal("1234567.891"), day=date(2024, 2, 29),
///     tms=time(12, 30, 15, 123000), tus=time(1, 2, 3, 456789),
///     ms=datetime(2024, 2, 29, 12, 0, 0, 5000, tz.utc),
///     us=datetime(1969, 12, 31, 23, 59, 59, 999999, tz.utc),
///     lms=datetime(2024, 2, 29, 12, 0), lus=datetime(2024, 2, 29, 12, 0, 0, 1),
///     id=uuid.UUID("12345678-1234-5678-1234-567812345678")))
/// out.getvalue().hex()
/// ```
const EVERY: &str = r#"{"type": "record", "name": "shop.Every", "fields": [
    {"name": "flag", "type": "boolean"},
    {"name": "i", "type": "int"},
    {"name": "l", "type": "long"},
    {"name": "f", "type": "float"},
    {"name": "d", "type": "double"},
    {"name": "b", "type": "bytes"},
    {"name": "s", "type": "string"},
    {"name": "maybe", "type": ["null", "long"]},
    {"name": "either", "type": ["int", "string"]},
    {"name": "list", "type": {"type": "array", "items": "int"}},
    {"name": "map", "type": {"type": "map", "values": "long"}},
    {"name": "mood", "type": {"type": "enum", "name": "Mood", "symbols": ["SAD", "HAPPY"]}},
    {"name": "four", "type": {"type": "fixed", "name": "Four", "size": 4}},
    {"name": "point", "type": {"type": "record", "name": "Point", "fields": [
        {"name": "x", "type": "double"}]}},
    {"name": "dec", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "fdec", "type": {"type": "fixed", "name": "Eight", "size": 8,
        "logicalType": "decimal", "precision": 18, "scale": 3}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "tms", "type": {"type": "int", "logicalType": "time-millis"}},
    {"name": "tus", "type": {"type": "long", "logicalType": "time-micros"}},
    {"name": "ms", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "us", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "lms", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
    {"name": "lus", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
    {"name": "id", "type": {"type": "string", "logicalType": "uuid"}}
]}"#;

const EVERY_BY_FASTAVRO: &str = "010d8080808080400000c03f000000000000d0bf0400ff0e6772c3b6c39f65020a\
    020278060203d8040004026102026204000261626364000000000000e03f04cfc700000000499602d38cb502a681f72aa\
    ac4fbde1b8ad8e2cbbe630180d8e2cbbe6382c0fffaffa089064831323334353637382d313233342d353637382d31323334\
    2d353637383132333435363738";

/// A record that contains itself.
const NODE: &str = r#"{"type": "record", "name": "Node", "namespace": "tree", "fields": [
    {"name": "value", "type": "int"},
    {"name": "next", "type": ["null", "Node"], "default": null}]}"#;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// A record with one field.
fn with_field(of: &str) -> String {
    format!(r#"{{"type": "record", "name": "One", "fields": [{{"name": "x", "type": {of}}}]}}"#)
}

fn bare(schema: &str) -> PayloadSchema {
    PayloadSchema::avro(AvroOptions::new().with_schema(schema)).unwrap()
}

/// Why options are refused.
fn refused(options: AvroOptions) -> String {
    PayloadSchema::avro(options).unwrap_err().to_string()
}

/// What a payload is, as JSON; or the misfit.
fn unpacked(schema: &PayloadSchema, payload: &[u8]) -> Result<String, String> {
    unpacked_of(schema, Wanted::All, payload)
}

fn unpacked_of(schema: &PayloadSchema, wanted: Wanted, payload: &[u8]) -> Result<String, String> {
    let mut packer = Packer::new(100_000);
    schema.unpacker(wanted).unpack(payload, &mut packer).map_err(|why| why.to_string())?;
    packer.check_members();
    Ok(json(packer.bytes()))
}

fn json(packed: &[u8]) -> String {
    // It is MessagePack to its end.
    Packed::split_object(packed, |_, _| ()).unwrap();
    let mut text = Vec::new();
    Packed::push_other(packed, &mut text);
    String::from_utf8(text).unwrap()
}

type Result<T, E> = std::result::Result<T, E>;
