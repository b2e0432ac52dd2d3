//! A MessagePack payload: what holds for JSON holds for it.

use std::sync::Arc;

use arrow_array::Array;
use arrow_schema::{DataType, Field, TimeUnit};
use redfloe::{Batch, ErrorKind, NullValues, OnError, Payload, PayloadFormat, StreamSchema};

use crate::common::{column_texts, decode_every_way, entry, names};
use crate::dtypes::samples;

fn payload() -> Payload {
    Payload::new("data").with_format(PayloadFormat::MessagePack)
}

fn open() -> StreamSchema {
    StreamSchema::default().with_timestamp_column(None).with_payload(Some(payload()))
}

fn closed<const N: usize>(fields: [(&str, DataType); N]) -> StreamSchema {
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    StreamSchema::closed(fields)
        .with_id_column(None)
        .with_timestamp_column(None)
        .with_payload(Some(payload()))
}

fn read(schema: &StreamSchema, documents: &[&[u8]]) -> redfloe::Result<Batch> {
    let entries = documents.iter().zip(1..).map(|(bytes, ms)| entry(ms, [("data", bytes)]));
    decode_every_way(schema, &entries.collect::<Vec<_>>())
}

fn some<const N: usize>(texts: [&str; N]) -> Vec<Option<String>> {
    texts.map(|text| (text != "<null>").then(|| text.to_owned())).to_vec()
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

/// The text as a string of the format.
fn text(text: &str) -> Vec<u8> {
    [&[0xda, (text.len() >> 8) as u8, text.len() as u8], text.as_bytes()].concat()
}

#[test]
fn strings_have_the_dtypes_that_fields_have() {
    for (field, sample) in samples() {
        let document = [&b"\x83\xa1x\x90\xa1v"[..], &text(sample), b"\xa1y\xa3n/a"].concat();
        let named = NullValues { all: vec!["n/a".to_owned()], ..NullValues::default() };
        let schema = StreamSchema::closed([field.clone()]).with_null_values(named);
        let flat = [entry(1, [("v", sample)]), entry(2, [("v", "n/a")])];
        let flat = decode_every_way(&schema, &flat).unwrap();
        let documents = [&document[..], b"\x81\xa1v\xa3n/a"];
        let read = read(&schema.with_payload(Some(payload())), &documents).unwrap();
        assert_eq!(read.records(), flat.records(), "{field}");
    }
}

#[test]
fn numbers_bytes_and_instants_are_what_they_are() {
    let schema = closed([
        ("i", DataType::Int8),
        ("u", DataType::UInt64),
        ("f", DataType::Float32),
        ("d", DataType::Decimal128(9, 2)),
        ("at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        ("raw", DataType::BinaryView),
        ("flag", DataType::Boolean),
        ("s", DataType::Utf8View),
    ]);
    let document = b"\x88\xa1i\xcb\x40\x14\x00\x00\x00\x00\x00\x00\xa1u\xcf\xff\xff\xff\xff\xff\xff\xff\xff\
        \xa1f\x07\xa1d\xcb\x40\x14\x00\x00\x00\x00\x00\x00\xa2at\xd6\xff\x65\x92\x00\x80\xa3raw\xc4\x02\x00\xff\
        \xa4flag\x01\xa1s\x93\x01\xc3\xa1x";
    // A string's bytes are bytes too, and what is written there for a datetime is its epoch.
    let other = b"\x85\xa3raw\xa4abcd\xa2at\x0a\xa4flag\xc2\xa1s\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\xa1f\xca\x3f\x00\x00\x00";
    let batch = read(&schema, &[document, other]).unwrap();
    for (name, expected) in [
        ("i", ["5", "<null>"]),
        ("u", ["18446744073709551615", "<null>"]),
        ("f", ["7.0", "0.5"]),
        ("d", ["5.00", "<null>"]),
        ("at", ["2024-01-01T00:00:00Z", "1970-01-01T00:00:00.010Z"]),
        ("raw", ["00ff", "61626364"]),
        ("flag", ["true", "false"]),
        ("s", [r#"[1,true,"x"]"#, "1.5"]),
    ] {
        assert_eq!(column_texts(&batch, name), some(expected), "{name}");
    }
}

#[test]
fn a_value_that_does_not_fit_spoils_itself_alone() {
    let item = DataType::Struct(vec![Field::new("p", DataType::Int8, true)].into());
    let fields = || {
        closed([("n", DataType::Int64), ("raw", DataType::BinaryView), ("l", list(item.clone()))])
    };
    // {"n": [1], "raw": 5, "l": [{"p": 300}, {"p": 1}, 7], "z": {"a": b"\xff"}}
    let document = b"\x84\xa1n\x91\x01\xa3raw\x05\xa1l\x93\x81\xa1p\xcd\x01\x2c\x81\xa1p\x01\x07\xa1z\x81\xa1a\xc4\x01\xff";
    let error = read(&fields(), &[document]).unwrap_err();
    for part in ["\"[1]\" is not an integer", "entry ID: 1-0", "field: n"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let batch = read(&fields().with_rescue_column(Some("rest")), &[document]).unwrap();
    assert_eq!(column_texts(&batch, "l"), some(["[{p: null}, {p: 1}, null]"]));
    let rest = r#"{"l[0].p":"300","l[2]":"7","n":"[1]","raw":"5","z":"{\"a\":\"/w==\"}"}"#;
    assert_eq!(column_texts(&batch, "rest"), some([rest]));
    let batch = read(&fields().with_on_error(OnError::Null), &[document]).unwrap();
    assert_eq!(column_texts(&batch, "n"), some(["<null>"]));
    // Of a repeated key the last counts.
    let twice = b"\x82\xa1n\x91\x01\xa1n\x02";
    let batch = read(&fields().with_rescue_column(Some("rest")), &[twice]).unwrap();
    assert_eq!(column_texts(&batch, "n"), some(["2"]));
    assert_eq!(column_texts(&batch, "rest"), some([r#"{"n":["[1]","2"]}"#]));
}

#[test]
fn a_payload_that_is_no_map_does_not_fit() {
    for bytes in
        [&b"{}"[..], b"\x91\x01", b"\x81\xa1n", b"\x81\xa1n\x01\x01", b"\xc1", b"\x81\xc0\x01"]
    {
        let documents = [&b"\x81\xa1n\x01"[..], bytes, b"\xc0", b""];
        let error = read(&closed([("n", DataType::Int64)]), &documents).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{bytes:?}");
        for part in ["is not a MessagePack map", "entry ID: 2-0", "field: data"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let batch = read(&open().with_rescue_column(Some("rest")), &documents).unwrap();
        assert_eq!(names(&batch), ["_id", "n", "rest"], "{bytes:?}");
        assert_eq!(batch.records().column_by_name("rest").unwrap().null_count(), 3);
    }
}

#[test]
fn arrays_have_names_by_position() {
    let positions = || payload().with_positions(["a", "b"].map(str::to_owned).to_vec());
    let documents: [&[u8]; 5] =
        [b"\x92\x01\xa1x", b"\x91\x02", b"\x93\x03\xc0\x09", b"\x81\xa1b\xa1m", b"\x90"];
    for schema in [open(), closed([("a", DataType::Utf8View), ("b", DataType::Utf8View)])] {
        let schema = schema.with_payload(Some(positions())).with_rescue_column(Some("rest"));
        let batch = read(&schema, &documents).unwrap();
        assert_eq!(column_texts(&batch, "a"), some(["1", "2", "3", "<null>", "<null>"]));
        assert_eq!(column_texts(&batch, "b"), some(["x", "<null>", "<null>", "m", "<null>"]));
        let rest = some(["<null>", "<null>", r#"{"[2]":"9"}"#, "<null>", "<null>"]);
        assert_eq!(column_texts(&batch, "rest"), rest);
    }
    // Nobody has named it, so it is nobody's column.
    let batch = read(&open().with_payload(Some(positions())), &documents).unwrap();
    assert_eq!(names(&batch), ["_id", "a", "b"]);
    let within = positions().with_path("$.p.q").unwrap();
    let schema = closed([("a", DataType::Int64)]).with_payload(Some(within));
    let batch = read(&schema, &[b"\x81\xa1p\x81\xa1q\x91\x05"]).unwrap();
    assert_eq!(column_texts(&batch, "a"), some(["5"]));
    let error = read(&schema, &[b"\x81\xa1p\x91\x05"]).unwrap_err();
    assert!(error.to_string().contains("something other than an object at $.p"), "{error}");
}

#[test]
fn a_number_for_a_key_is_not_the_name_of_the_same_byte() {
    let documents: [&[u8]; 4] =
        [b"\x81\xa1\x01\xa1s", b"\x81\x01\xa1n", b"\x81\xa11\xa1d", b"\x81\xa1\x01\xa1s"];
    let batch = read(&open(), &documents).unwrap();
    assert_eq!(names(&batch), ["_id", "\u{1}", "1"]);
    assert_eq!(column_texts(&batch, "\u{1}"), some(["s", "<null>", "<null>", "s"]));
    assert_eq!(column_texts(&batch, "1"), some(["<null>", "n", "d", "<null>"]));
}
