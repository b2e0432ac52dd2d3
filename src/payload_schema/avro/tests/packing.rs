//! Payloads that are written.

use super::*;
use crate::msgpack;

/// A map of one member, which `value` packs.
fn one(value: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    msgpack::pack_map(1, &mut out);
    msgpack::pack_text(b"x", &mut out);
    value(&mut out);
    out
}

fn text(of: &str) -> Vec<u8> {
    one(|out| msgpack::pack_text(of.as_bytes(), out))
}

fn number(of: i64) -> Vec<u8> {
    one(|out| assert!(msgpack::pack_integer(&of, out)))
}

fn packed(schema: &PayloadSchema, document: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    schema.packer().pack(document, &mut out).map(|()| out)
}

#[test]
fn what_fastavro_wrote_is_written_again() {
    let payload = hex(EVERY_BY_FASTAVRO);
    let schema = bare(EVERY);
    let mut packer = Packer::new(100_000);
    schema.unpacker(Wanted::All).unpack(&payload, &mut packer).unwrap();
    assert_eq!(packed(&schema, packer.bytes()).unwrap(), payload);
    let mut packer = Packer::new(100_000);
    bare(NODE).unpacker(Wanted::All).unpack(&hex("02020400"), &mut packer).unwrap();
    assert_eq!(packed(&bare(NODE), packer.bytes()).unwrap(), hex("02020400"));
}

#[test]
fn headers_are_written() {
    let document = [b"\x82\xa5value\x01\xa4next\xc0".as_slice()].concat();
    let framed = |framing| AvroOptions::new().with_schema(NODE).with_framing(framing);
    let written = |options| packed(&PayloadSchema::avro(options).unwrap(), &document);
    let single = written(framed(AvroFraming::SingleObject)).unwrap();
    assert_eq!(single, hex("c301 ab4713ce16026bbf 0200"));
    let confluent = written(framed(AvroFraming::Confluent).with_schema_id(258)).unwrap();
    assert_eq!(confluent, hex("00 00000102 0200"));
    let by_id = AvroOptions::new().with_schemas([(7, NODE.to_owned())]).with_schema_id(7);
    let by_id = written(by_id.with_framing(AvroFraming::Confluent)).unwrap();
    assert_eq!(by_id, hex("00 00000007 0200"));
    let why = written(framed(AvroFraming::Confluent)).unwrap_err();
    assert_eq!(why, "Confluent's header needs the schema_id to write");
    let why = written(framed(AvroFraming::Container)).unwrap_err();
    assert!(why.starts_with("Avro containers are only read"), "{why}");
}

#[test]
fn a_null_is_the_unions_or_the_default_or_refused() {
    let schema = r#"{"type": "record", "name": "One", "fields": [
        {"name": "x", "type": "int"},
        {"name": "maybe", "type": ["int", "null"]},
        {"name": "text", "type": "string", "default": "a"},
        {"name": "nothing", "type": "null"}]}"#;
    assert_eq!(packed(&bare(schema), &number(1)).unwrap(), hex("02 02 0261"));
    let why = packed(&bare(schema), &one(msgpack::pack_null)).unwrap_err();
    assert_eq!(why, "$.x is null and must be int by the Avro schema One");
    let why = packed(&bare(schema), b"\x80").unwrap_err();
    assert_eq!(why, "$.x is null and must be int by the Avro schema One");
}

#[test]
fn what_does_not_fit_is_named_by_its_path() {
    let decimal = r#"{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}"#;
    let small =
        r#"{"type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 4}"#;
    let millis = r#"{"type": "long", "logicalType": "timestamp-millis"}"#;
    let mood = r#"{"type": "enum", "name": "Mood", "symbols": ["SAD", "HAPPY"]}"#;
    let uuid = r#"{"type": "string", "logicalType": "uuid"}"#;
    let list = r#"{"type": "array", "items": {"type": "map", "values": "int"}}"#;
    let nested = one(|out| {
        msgpack::pack_array(2, out);
        msgpack::pack_array(0, out);
        msgpack::pack_map(1, out);
        msgpack::pack_text(b"a key", out);
        msgpack::pack_text(b"b", out);
    });
    let micros = one(|out| msgpack::pack_timestamp(1, 1_000, out));
    for (of, document, why) in [
        (r#""int""#, number(1 << 31), "$.x is 2147483648, and must be int"),
        (r#""int""#, text("a"), "$.x is \"a\", and must be int"),
        (r#""long""#, one(|out| msgpack::pack_float(1.5, out)), "$.x is 1.5, and must be long"),
        (r#""double""#, number((1 << 53) + 1), "$.x is 9007199254740993, and must be double"),
        (r#""float""#, number((1 << 24) + 1), "$.x is 16777217, and must be float"),
        (r#""float""#, one(|out| msgpack::pack_float(1e300, out)), "and must be float"),
        (r#""float""#, one(|out| msgpack::pack_float(-1e300, out)), "and must be float"),
        (r#""double""#, text("1.5"), "$.x is \"1.5\", and must be double"),
        (r#""string""#, number(1), "$.x is 1, and must be string"),
        (r#""boolean""#, number(1), "$.x is 1, and must be boolean"),
        (r#"["null", "int"]"#, text("a"), "$.x is \"a\", and must be int"),
        (r#"["int", "boolean"]"#, text("a"), "$.x is \"a\", and must be union of int, boolean"),
        (uuid, text("nope"), "$.x is \"nope\", and must be uuid"),
        (mood, text("ANGRY"), "$.x is \"ANGRY\", and must be one of SAD, HAPPY"),
        (r#"{"type": "fixed", "name": "F", "size": 3}"#, text("ab"), "and must be 3 bytes"),
        (decimal, text("1.234"), "and must be decimal of no more digits and decimal places"),
        (decimal, text("100"), "and must be decimal of no more digits"),
        (decimal, text("1e9999999"), "and must be decimal of no more digits"),
        (decimal, text(""), "and must be decimal"),
        (small, text("12345"), "and must be decimal of no more digits"),
        (millis, micros, "and must be timestamp, which is coarser"),
        (millis, text("yesterday"), "$.x is \"yesterday\", and must be timestamp by"),
        (list, nested, "$.x[1][\"a key\"] is \"b\", and must be int by the Avro schema One"),
        (list, text("[]"), "$.x is \"[]\", and must be array"),
    ] {
        let refused = packed(&bare(&with_field(of)), &document).unwrap_err();
        assert!(refused.contains(why), "{of}: {refused}");
    }
    let two = [&b"\x82\xa1x\x01\xa1y\x02"[..]].concat();
    let why = packed(&bare(&with_field(r#""int""#)), &two).unwrap_err();
    assert_eq!(why, "$.y is no field by the Avro schema One");
}

#[test]
fn numbers_are_floats_where_nothing_is_lost() {
    for (of, document, expected) in [
        ("float", number(1 << 24), f64::from(1 << 24)),
        ("float", one(|out| msgpack::pack_float(0.1, out)), f64::from(0.1_f32)),
        ("float", one(|out| msgpack::pack_float(f64::INFINITY, out)), f64::INFINITY),
        ("double", number(-(1 << 53)), -9_007_199_254_740_992.0),
        ("double", number(i64::MIN), i64::MIN as f64),
        ("double", one(|out| msgpack::pack_float(1e300, out)), 1e300),
    ] {
        let bytes = match of {
            "float" => (expected as f32).to_le_bytes().to_vec(),
            _ => expected.to_le_bytes().to_vec(),
        };
        let written = packed(&bare(&with_field(&format!("{of:?}"))), &document);
        assert_eq!(written.unwrap(), bytes, "{of} {expected}");
    }
}

#[test]
fn texts_are_what_logical_types_mean() {
    let logical = |of: &str, name: &str| format!(r#"{{"type": "{of}", "logicalType": "{name}"}}"#);
    let fixed = r#"{"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}"#;
    let decimal = r#"{"type": "bytes", "logicalType": "decimal", "precision": 62, "scale": 2}"#;
    let wide =
        r#"{"type": "fixed", "name": "D", "size": 4, "logicalType": "decimal", "precision": 9}"#;
    for (of, document, expected) in [
        (logical("int", "date"), text("1969-12-31"), "01"),
        (logical("int", "time-millis"), text("00:00:00.001"), "02"),
        (logical("long", "timestamp-millis"), text("1970-01-01T00:00:01Z"), "d00f"),
        (logical("long", "timestamp-millis"), text("1970-01-01 00:00:01"), "d00f"),
        (logical("long", "timestamp-micros"), number(1), "02"),
        (logical("long", "local-timestamp-micros"), text("1970-01-01T00:00:00.000001"), "02"),
        // Beyond what nanoseconds reach.
        (logical("long", "timestamp-millis"), text("3000-01-01"), "8080e7a4fbe30e"),
        (
            fixed.to_owned(),
            text("12345678-1234-5678-1234-567812345678"),
            "12345678123456781234567812345678",
        ),
        (decimal.to_owned(), text("-1"), "029c"),
        (decimal.to_owned(), text("1e2"), "042710"),
        (decimal.to_owned(), text("0.00"), "0200"),
        (decimal.to_owned(), number(-2), "04ff38"),
        (
            decimal.to_owned(),
            text("16069380442589902755419620923411626025222029937827928353013.76"),
            "3401 00000000000000000000000000000000000000000000000000",
        ),
        (wide.to_owned(), text("-2.0"), "fffffffe"),
        (wide.to_owned(), text("300"), "0000012c"),
    ] {
        let schema = bare(&with_field(&of));
        let datum = packed(&schema, &document).unwrap();
        assert_eq!(datum, hex(expected), "{of}");
        assert!(unpacked(&schema, &datum).is_ok());
    }
}

#[test]
fn unions_take_the_branch_of_the_values_kind() {
    let union = r#"["null", "float", "double", "long", "bytes", "string", {"type": "array", "items": "long"}]"#;
    let schema = bare(&with_field(union));
    for (document, expected) in [
        (one(msgpack::pack_null), "00"),
        (one(|out| msgpack::pack_single(1.5, out)), "02 0000c03f"),
        (one(|out| msgpack::pack_float(1.5, out)), "04 000000000000f83f"),
        (number(1), "06 02"),
        (one(|out| msgpack::pack_bytes(b"a", out)), "08 0261"),
        (text("a"), "0a 0261"),
        (one(|out| msgpack::pack_array(0, out)), "0c 00"),
    ] {
        assert_eq!(packed(&schema, &document).unwrap(), hex(expected));
    }
}
