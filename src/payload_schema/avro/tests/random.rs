//! Random payloads, and random values there and back.

use proptest::prelude::*;

use super::*;
use crate::msgpack;

/// Bytes that are near enough to a datum to come far into it.
fn near() -> impl Strategy<Value = Vec<u8>> {
    let small = prop_oneof![3 => 0u8..8, 1 => any::<u8>()];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(small, 0..300),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(place, byte)| {
            let mut payload = hex(EVERY_BY_FASTAVRO);
            let place = place.index(payload.len());
            payload[place] = byte;
            payload
        }),
    ]
}

const VALUES: &str = r#"{"type": "record", "name": "Values", "fields": [
    {"name": "i", "type": "int"},
    {"name": "l", "type": ["null", "long"]},
    {"name": "d", "type": "double"},
    {"name": "s", "type": "string"},
    {"name": "b", "type": "bytes"},
    {"name": "dec", "type": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 5}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
    {"name": "list", "type": {"type": "array", "items": ["null", "long"]}},
    {"name": "map", "type": {"type": "map", "values": "string"}}
]}"#;

proptest! {
    #[test]
    fn no_payload_panics_or_exceeds_its_bound(payload in near(), framing in 0..5u8) {
        const MOST: usize = 2_000;
        let options = match framing {
            0 => AvroOptions::new().with_schema(EVERY),
            1 => AvroOptions::new().with_schema(NODE),
            2 => AvroOptions::new().with_schema(EVERY).with_framing(AvroFraming::Confluent),
            3 => AvroOptions::new().with_schema(EVERY).with_framing(AvroFraming::SingleObject),
            _ => AvroOptions::new().with_framing(AvroFraming::Container),
        };
        let payload = if framing == 4 { [b"Obj\x01", &payload[..]].concat() } else { payload };
        let schema = PayloadSchema::avro(options).unwrap();
        for wanted in [Wanted::All, Wanted::Only(["s".to_owned(), "next".to_owned()].into())] {
            let mut packer = Packer::new(MOST);
            if schema.unpacker(wanted).unpack(&payload, &mut packer).is_ok() {
                json(packer.bytes());
            }
            prop_assert!(packer.bytes().len() <= MOST + payload.len() + 1_000);
        }
    }

    #[test]
    fn no_document_panics(document in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = bare(EVERY).packer().pack(&document, &mut Vec::new());
    }

    #[test]
    fn values_come_back(
        (i, l, d) in (any::<i32>(), any::<Option<i64>>(), any::<f64>()),
        (s, b) in (".{0,20}", prop::collection::vec(any::<u8>(), 0..20)),
        dec in -(10i128.pow(38) - 1)..10i128.pow(38),
        (day, local) in (-3_000_000i32..3_000_000, -62_000_000_000_000i64..250_000_000_000_000),
        at: i64,
        list in prop::collection::vec(any::<Option<i64>>(), 0..5),
        map in prop::collection::vec(("[a-c]{0,3}", ".{0,5}"), 0..4),
    ) {
        let mut out = Vec::new();
        msgpack::pack_map(11, &mut out);
        let name = |name: &str, out: &mut Vec<u8>| msgpack::pack_text(name.as_bytes(), out);
        let maybe = |value: &Option<i64>, out: &mut Vec<u8>| match value {
            Some(value) => assert!(msgpack::pack_integer(value, out)),
            None => msgpack::pack_null(out),
        };
        name("i", &mut out);
        msgpack::pack_integer(&i, &mut out);
        name("l", &mut out);
        maybe(&l, &mut out);
        name("d", &mut out);
        msgpack::pack_float(d, &mut out);
        name("s", &mut out);
        name(&s, &mut out);
        name("b", &mut out);
        msgpack::pack_bytes(&b, &mut out);
        name("dec", &mut out);
        let mut text = Vec::new();
        crate::write::push_digits(dec < 0, dec.unsigned_abs().to_string().as_bytes(), 5, &mut text);
        msgpack::pack_text(&text, &mut out);
        name("day", &mut out);
        text.clear();
        crate::write::push_date(day, &mut text);
        msgpack::pack_text(&text, &mut out);
        name("at", &mut out);
        msgpack::pack_instant(at, arrow_schema::TimeUnit::Microsecond, &mut out);
        name("local", &mut out);
        text.clear();
        crate::write::push_timestamp(local, arrow_schema::TimeUnit::Millisecond, false, &mut text);
        msgpack::pack_text(&text, &mut out);
        name("list", &mut out);
        msgpack::pack_array(list.len(), &mut out);
        list.iter().for_each(|value| maybe(value, &mut out));
        name("map", &mut out);
        msgpack::pack_array(map.len(), &mut out);
        for (key, value) in &map {
            msgpack::pack_map(2, &mut out);
            name("key", &mut out);
            name(key, &mut out);
            name("value", &mut out);
            name(value, &mut out);
        }
        let schema = bare(VALUES);
        let mut payload = Vec::new();
        schema.packer().pack(&out, &mut payload).map_err(TestCaseError::fail)?;
        prop_assert_eq!(unpacked(&schema, &payload).unwrap(), json(&out));
    }
}
