//! Compressed payloads of any bytes: they never panic, and become no more than they may.
//!
//! The input begins with a byte that chooses the compression; the rest is the payload.
//! `make_seeds.py` writes inputs to begin with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redfloe::{Decoder, OnError, Payload, PayloadCompression, ReplyShape, StreamSchema};

fuzz_target!(|data: &[u8]| {
    let [choice, payload @ ..] = data else { return };
    let compression = match choice & 1 {
        0 => PayloadCompression::Zstd,
        _ => PayloadCompression::Gzip,
    };
    let payload_of = Payload::new("data").with_compression(Some(compression));
    let payload_of = payload_of.with_max_bytes(1 << 16);
    let schema = StreamSchema::default().with_payload(Some(payload_of));
    let schema = schema.with_on_error(OnError::Null);
    let mut decoder = Decoder::new(schema, ReplyShape::Entries).expect("the schema is valid");
    let head = format!("*1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$4\r\ndata\r\n${}\r\n", payload.len());
    for part in [head.as_bytes(), payload, b"\r\n"] {
        decoder.decode(part).expect("it is an entry");
    }
    let batch = decoder.flush().expect("misfits are null");
    assert_eq!(batch.len(), 1);
});
