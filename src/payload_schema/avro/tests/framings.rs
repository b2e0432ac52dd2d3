//! How payloads say of which schema they are.

use std::sync::Mutex;

use super::super::canonical::{canonical, fingerprint};
use super::super::schema::Parsed;
use super::*;
use crate::error::{Error, ErrorKind};
use crate::payload_schema::NotUnpacked;

/// Containers that fastavro 1.13.1 wrote, with one record and two, by each codec:
///
/// ```python
/// fastavro.writer(out, fastavro.parse_schema(json.loads(NODE)), [{"value": 1, "next": None}],
///                 codec="deflate", sync_marker=bytes(range(16)))
/// ```
const PLAIN: &str = "4f626a0104146176726f2e636f646563086e756c6c166176726f2e736368656d61ae027b22747970\
    65223a20227265636f7264222c20226e616d65223a2022747265652e4e6f6465222c20226669656c6473223a205b7b226e61\
    6d65223a202276616c7565222c202274797065223a2022696e74227d2c207b2264656661756c74223a206e756c6c2c20226e\
    616d65223a20226e657874222c202274797065223a205b226e756c6c222c2022747265652e4e6f6465225d7d5d7d00000102\
    030405060708090a0b0c0d0e0f02040200000102030405060708090a0b0c0d0e0f";
const DEFLATED: &str = "4f626a0104146176726f2e636f6465630e6465666c617465166176726f2e736368656d61ae027b22\
    74797065223a20227265636f7264222c20226e616d65223a2022747265652e4e6f6465222c20226669656c6473223a205b7b\
    226e616d65223a202276616c7565222c202274797065223a2022696e74227d2c207b2264656661756c74223a206e756c6c2c\
    20226e616d65223a20226e657874222c202274797065223a205b226e756c6c222c2022747265652e4e6f6465225d7d5d7d00\
    000102030405060708090a0b0c0d0e0f020e63620000000600000102030405060708090a0b0c0d0e0f";
const TWO: &str = "4f626a0104146176726f2e636f646563086e756c6c166176726f2e736368656d61ae027b2274797065\
    223a20227265636f7264222c20226e616d65223a2022747265652e4e6f6465222c20226669656c6473223a205b7b226e616d\
    65223a202276616c7565222c202274797065223a2022696e74227d2c207b2264656661756c74223a206e756c6c2c20226e61\
    6d65223a20226e657874222c202274797065223a205b226e756c6c222c2022747265652e4e6f6465225d7d5d7d0000010203\
    0405060708090a0b0c0d0e0f040802000200000102030405060708090a0b0c0d0e0f";

fn framed(framing: AvroFraming) -> AvroOptions {
    AvroOptions::new().with_framing(framing)
}

#[test]
fn fingerprints_are_those_of_the_specification() {
    let print = |schema: &str| fingerprint(&Parsed::parse(schema).unwrap());
    // From the specification's own tests, and by fastavro.
    assert_eq!(print(r#""int""#), 0x7275_d51a_3f39_5c8f);
    assert_eq!(print(r#"{"type": "float"}"#), 0x4d7c_02cb_3ea8_d790);
    assert_eq!(print(r#""null""#), 0x63dd_24e7_cc25_8f8a);
    assert_eq!(print(r#""string""#), 0x8f01_4872_6345_03c7);
    assert_eq!(print(EVERY), 0x33fc_e7a9_eb78_8f1b);
    assert_eq!(print(NODE), 0xbf6b_0216_ce13_47ab);
    let expected = concat!(
        r#"{"name":"tree.Node","type":"record","fields":[{"name":"value","type":"int"},"#,
        r#"{"name":"next","type":["null","tree.Node"]}]}"#
    );
    assert_eq!(canonical(&Parsed::parse(NODE).unwrap()), expected);
}

#[test]
fn a_single_object_names_its_schema_by_its_fingerprint() {
    let single = || framed(AvroFraming::SingleObject);
    let one = PayloadSchema::avro(single().with_schema(NODE)).unwrap();
    let payload = hex("c301 ab4713ce16026bbf 0200");
    assert_eq!(unpacked(&one, &payload).unwrap(), r#"{"value":1,"next":null}"#);
    let several = [(7, NODE.to_owned()), (9, with_field(r#""string""#))];
    let several = PayloadSchema::avro(single().with_schemas(several)).unwrap();
    assert_eq!(unpacked(&several, &payload).unwrap(), r#"{"value":1,"next":null}"#);
    let names: Vec<_> = several.fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["value", "next", "x"]);
    let other = hex("c301 0000000000000001 0200");
    let misfit = unpacked(&one, &other).unwrap_err();
    assert_eq!(misfit, "has the Avro fingerprint 0100000000000000, which none of the schemas has");
    for payload in [&b""[..], b"\xc3", b"\xc3\x01\0", b"{}", &hex("c302 ab4713ce16026bbf 0200")] {
        assert_eq!(unpacked(&one, payload).unwrap_err(), "has no Avro single-object header");
    }
}

#[test]
fn confluents_header_is_looked_up_or_checked_or_passed_over() {
    let confluent = || framed(AvroFraming::Confluent);
    let payload = hex("00 00000007 0200");
    let one = PayloadSchema::avro(confluent().with_schema(NODE)).unwrap();
    assert!(unpacked(&one, &payload).is_ok());
    for payload in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x07\x02\0", b"{}"] {
        assert_eq!(unpacked(&one, payload).unwrap_err(), "has no Confluent header");
    }
    let checked = PayloadSchema::avro(confluent().with_schema(NODE).with_schema_id(5)).unwrap();
    assert_eq!(unpacked(&checked, &payload).unwrap_err(), "has the schema ID 7, not 5");
    let by_id = confluent().with_schemas([(7, NODE.to_owned()), (8, with_field(r#""int""#))]);
    let by_id = PayloadSchema::avro(by_id).unwrap();
    let mut reading = by_id.unpacker(Wanted::All);
    for (payload, expected) in [
        ("00 00000007 0200", Ok(r#"{"value":1,"next":null}"#)),
        ("00 00000008 04", Ok(r#"{"x":2}"#)),
        ("00 00000009 04", Err("has the schema ID 9, which is not known")),
        ("00 00000007 0400", Ok(r#"{"value":2,"next":null}"#)),
    ] {
        let mut packer = Packer::new(1_000);
        let read = reading.unpack(&hex(payload), &mut packer);
        let read = read.map(|()| json(packer.bytes())).map_err(|why| why.to_string());
        assert_eq!(read, expected.map(str::to_owned).map_err(str::to_owned));
    }
}

#[test]
fn a_lookup_is_asked_once() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let lookup: AvroLookup = {
        let asked = Arc::clone(&asked);
        Arc::new(move |id| {
            asked.lock().unwrap().push(id);
            match id {
                6 => Ok(Some(r#"["null", "long"]"#.to_owned())),
                7 => Ok(Some(NODE.to_owned())),
                8 => Ok(Some("<html>".to_owned())),
                9 => Ok(None),
                _ => Err(Error::invalid("HTTP 503")),
            }
        })
    };
    let options = framed(AvroFraming::Confluent).with_lookup(lookup);
    let schema = PayloadSchema::avro(options.with_reader_schema(NODE)).unwrap();
    for _ in 0..3 {
        assert!(unpacked(&schema, &hex("00 00000007 0200")).is_ok());
        let misfit = unpacked(&schema, &hex("00 00000009 0200")).unwrap_err();
        assert_eq!(misfit, "has the schema ID 9, which is not known");
        let misfit = unpacked(&schema, &hex("00 00000006 0200")).unwrap_err();
        assert!(misfit.starts_with("has the schema ID 6, whose schema is that of"), "{misfit}");
    }
    assert_eq!(*asked.lock().unwrap(), [7, 9, 6]);
    // What could not be told is asked for again.
    for (id, why) in [(8, "the schema is not JSON"), (10, "HTTP 503"), (10, "HTTP 503")] {
        let payload = hex(&format!("00 {id:08x} 0200"));
        let mut packer = Packer::new(1_000);
        let unpacked = schema.unpacker(Wanted::All).unpack(&payload, &mut packer);
        let Err(NotUnpacked::Failed(error)) = unpacked else { panic!("{unpacked:?}") };
        assert_eq!(error.kind(), ErrorKind::Schema);
        let begin = format!("nobody could tell the Avro schema of the ID {id}: {why}");
        assert!(error.to_string().starts_with(&begin), "{error}");
    }
    assert_eq!(*asked.lock().unwrap(), [7, 9, 6, 8, 10, 10]);
}

#[test]
fn a_container_brings_its_schema_with_it() {
    let container = || framed(AvroFraming::Container);
    let schema = PayloadSchema::avro(container()).unwrap();
    assert_eq!(schema.fields().len(), 0);
    for payload in [PLAIN, DEFLATED] {
        let payload = hex(payload);
        assert_eq!(unpacked(&schema, &payload).unwrap(), r#"{"value":1,"next":null}"#);
        for end in 0..payload.len() {
            assert!(unpacked(&schema, &payload[..end]).is_err(), "{end}");
        }
        let more = [&payload[..], b"\0"].concat();
        assert_eq!(unpacked(&schema, &more).unwrap_err(), "is not an Avro container file");
    }
    let misfit = unpacked(&schema, &hex(TWO)).unwrap_err();
    assert_eq!(misfit, "has 2 records in its Avro container, not one");
    // Read by the schema that is given.
    let reader = r#"{"type": "record", "name": "Node", "fields": [
        {"name": "n", "aliases": ["value"], "type": "long"}, {"name": "m", "type": "int", "default": 3}]}"#;
    let schema = PayloadSchema::avro(container().with_schema(reader)).unwrap();
    assert_eq!(schema.fields().len(), 2);
    assert_eq!(unpacked(&schema, &hex(PLAIN)).unwrap(), r#"{"n":1,"m":3}"#);
    let zstd = hex(PLAIN);
    let at = zstd.windows(5).position(|bytes| bytes == b"\x08null").unwrap();
    let zstd = [&zstd[..at], b"\x08zstd", &zstd[at + 5..]].concat();
    let misfit = unpacked(&schema, &zstd).unwrap_err();
    assert!(
        misfit.contains("the codec \"zstd\"; write it with \"null\" or \"deflate\""),
        "{misfit}"
    );
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let lookup: AvroLookup = Arc::new(|_| Ok(None));
    let several = || [(1, NODE.to_owned())];
    for (options, why) in [
        (AvroOptions::new(), "need a schema"),
        (AvroOptions::new().with_schemas(several()), "do not say of which schema they are"),
        (AvroOptions::new().with_schema(NODE).with_schema_id(1), "only Confluent's header"),
        (framed(AvroFraming::Container).with_schemas(several()), "bring their schemas with them"),
        (framed(AvroFraming::SingleObject).with_lookup(lookup), "no schema IDs to look up"),
        (
            framed(AvroFraming::Confluent).with_schema(NODE).with_schemas(several()),
            "either one Avro schema or several",
        ),
        (
            framed(AvroFraming::Confluent).with_schemas([(3, "7".to_owned())]),
            "schema of ID 3, has 7",
        ),
        (
            AvroOptions::new().with_schema(NODE).with_reader_schema("[]"),
            "the Avro reader schema is",
        ),
    ] {
        let text = refused(options);
        assert!(text.contains(why), "{text}");
    }
}
