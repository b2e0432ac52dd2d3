//! Avro payloads of any bytes: they never panic, and become no more than they may.
//!
//! The input begins with a byte that chooses the schema, the framing and which columns are read; the
//! rest is the payload. `make_seeds.py` writes inputs to begin with.

#![no_main]

use arrow_schema::{DataType, Field};
use libfuzzer_sys::fuzz_target;
use redfloe::{
    AvroFraming, AvroOptions, Decoder, OnError, Payload, PayloadFormat, PayloadSchema, ReplyShape,
    StreamSchema,
};

const SCHEMAS: [&str; 2] = [
    r#"{"type": "record", "name": "Node", "fields": [
        {"name": "value", "type": "int"}, {"name": "next", "type": ["null", "Node"]},
        {"name": "empty", "type": {"type": "array", "items": "null"}}]}"#,
    r#"{"type": "record", "name": "Every", "fields": [
        {"name": "flag", "type": "boolean"}, {"name": "l", "type": ["null", "long"]},
        {"name": "f", "type": "float"}, {"name": "d", "type": "double"},
        {"name": "b", "type": "bytes"}, {"name": "s", "type": "string"},
        {"name": "list", "type": {"type": "array", "items": {"type": "map", "values": "int"}}},
        {"name": "mood", "type": {"type": "enum", "name": "Mood", "symbols": ["SAD", "HAPPY"]}},
        {"name": "four", "type": {"type": "fixed", "name": "Four", "size": 4}},
        {"name": "dec", "type":
            {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 2}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "time", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-nanos"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}}]}"#,
];

fuzz_target!(|data: &[u8]| {
    let [choice, payload @ ..] = data else { return };
    let framing = match (choice >> 1) % 4 {
        0 => AvroFraming::None,
        1 => AvroFraming::SingleObject,
        2 => AvroFraming::Confluent,
        _ => AvroFraming::Container,
    };
    let options = AvroOptions::new().with_framing(framing);
    let options = options.with_schema(SCHEMAS[usize::from(choice & 1)]);
    let format = PayloadFormat::Schema(PayloadSchema::avro(options).expect("they are valid"));
    let payload_of = Payload::new("data").with_format(format).with_max_bytes(1 << 20);
    let schema = match choice & 8 {
        0 => StreamSchema::default(),
        _ => StreamSchema::closed([Field::new("s", DataType::Utf8View, true)]),
    };
    let schema = schema.with_payload(Some(payload_of)).with_on_error(OnError::Null);
    let mut decoder = Decoder::new(schema, ReplyShape::Entries).expect("the schema is valid");
    let head = format!("*1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$4\r\ndata\r\n${}\r\n", payload.len());
    for part in [head.as_bytes(), payload, b"\r\n"] {
        decoder.decode(part).expect("it is an entry");
    }
    let batch = decoder.flush().expect("misfits are null");
    assert_eq!(batch.len(), 1);
});
