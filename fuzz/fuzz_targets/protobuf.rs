//! Protobuf payloads of any bytes: they never panic, and become no more than they may.
//!
//! The input begins with a byte that chooses which columns are read; the rest is the payload.
//! `make_seeds.py` writes inputs to begin with, and `orders.binpb`, the descriptor.

#![no_main]

use arrow_schema::{DataType, Field};
use libfuzzer_sys::fuzz_target;
use redfloe::{
    Decoder, OnError, Payload, PayloadFormat, PayloadSchema, ReplyShape, StreamSchema,
};

fuzz_target!(|data: &[u8]| {
    let [choice, payload @ ..] = data else { return };
    let orders = PayloadSchema::protobuf(include_bytes!("../orders.binpb"), "shop.Order");
    let format = PayloadFormat::Schema(orders.expect("it is valid"));
    let payload_of = Payload::new("data").with_format(format).with_max_bytes(1 << 20);
    let schema = match choice & 1 {
        0 => StreamSchema::default(),
        _ => StreamSchema::closed([Field::new("id", DataType::Int64, true)]),
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
