//! A JSON document in one field, whose keys are columns.

use std::sync::Arc;

use arrow_array::Array;
use arrow_schema::{DataType, Field};
use redfloe::{Batch, ErrorKind, NullValues, OnError, Payload, ReplyShape, StreamSchema};

use crate::common::{Protocol, cells, column_texts, decode_every_way, decode_whole, entry, names};
use crate::dtypes::samples;

fn payload() -> Option<Payload> {
    Some(Payload::new("data"))
}

fn open() -> StreamSchema {
    StreamSchema::default().with_timestamp_column(None).with_payload(payload())
}

fn closed<const N: usize>(fields: [(&str, DataType); N]) -> StreamSchema {
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    StreamSchema::closed(fields)
        .with_id_column(None)
        .with_timestamp_column(None)
        .with_payload(payload())
}

/// One entry for each document.
fn read(schema: &StreamSchema, documents: &[&str]) -> redfloe::Result<Batch> {
    let entries = documents.iter().zip(1..).map(|(text, ms)| entry(ms, [("data", text)]));
    decode_every_way(schema, &entries.collect::<Vec<_>>())
}

fn column(batch: &Batch, name: &str) -> Vec<Option<String>> {
    column_texts(batch, name)
}

fn some<const N: usize>(texts: [&str; N]) -> Vec<Option<String>> {
    texts.map(|text| (text != "<null>").then(|| text.to_owned())).to_vec()
}

#[test]
fn keys_stand_where_fields_of_their_names_would() {
    let entries = [
        entry(1, [("kind", "order"), ("data", r#"{"sku":"a-1","total":19.5}"#), ("by", "web")]),
        entry(2, [("data", r#" { "total" : 3 , "note" : null, "tags" : [ 1 , "x" ] } "#)]),
        entry(3, [("data", r#"{"sku":"gr\u00f6\u00dfer \"\ud83e\udd80\"","ok":true}"#)]),
        // A document that says nothing, and none at all.
        entry(4, [("data", "{}")]),
        entry(5, [("data", "null")]),
        entry(6, [("data", "")]),
        entry(7, [("kind", "refund")]),
    ];
    let batch = decode_every_way(&open(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "kind", "sku", "total", "by", "note", "tags", "ok"]);
    let null = "<null>";
    for (name, expected) in [
        ("kind", ["order", null, null, null, null, null, "refund"]),
        ("sku", ["a-1", null, "größer \"🦀\"", null, null, null, null]),
        ("total", ["19.5", "3", null, null, null, null, null]),
        ("by", ["web", null, null, null, null, null, null]),
        ("note", [null; 7]),
        ("tags", [null, r#"[ 1 , "x" ]"#, null, null, null, null, null]),
        ("ok", [null, null, "true", null, null, null, null]),
    ] {
        assert_eq!(column(&batch, name), some(expected), "{name}");
    }
}

#[test]
fn keys_have_the_dtypes_that_fields_have() {
    for (field, sample) in samples() {
        let json = match field.data_type() {
            DataType::BinaryView => r#""Ynl0ZXM=""#.to_owned(),
            _ if sample.starts_with(['[', '{']) => sample.to_owned(),
            _ => format!("{sample:?}"),
        };
        let document = format!(r#"{{"x":[],"v":{json},"y":"n/a"}}"#);
        let named = NullValues { all: vec!["n/a".to_owned()], ..NullValues::default() };
        let schema = StreamSchema::closed([field.clone()]).with_null_values(named);
        let flat = [entry(1, [("v", sample)]), entry(2, [("v", "n/a")])];
        let flat = decode_every_way(&schema, &flat).unwrap();
        let documents = [document.as_str(), r#"{"v":"n/a"}"#];
        let read = read(&schema.with_payload(payload()), &documents).unwrap();
        assert_eq!(read.records(), flat.records(), "{field}");
        assert_eq!(read.records().column_by_name("v").unwrap().null_count(), 1);
    }
}

#[test]
fn json_has_one_type_of_numbers() {
    let fields = [
        ("i", DataType::Int64),
        ("u", DataType::UInt8),
        ("f", DataType::Float64),
        ("d", DataType::Duration(arrow_schema::TimeUnit::Second)),
    ];
    let batch = read(
        &closed(fields),
        &[
            r#"{"i":1.0,"u":2.50e2,"f":1,"d":90.0}"#,
            r#"{"i":-1e3,"u":0.0,"f":NaN,"d":6e1}"#,
            r#"{"i":"7","u":1,"f":-Infinity}"#,
        ],
    )
    .unwrap();
    assert_eq!(column(&batch, "i"), some(["1", "-1000", "7"]));
    assert_eq!(column(&batch, "u"), some(["250", "0", "1"]));
    assert_eq!(column(&batch, "f"), some(["1.0", "NaN", "-inf"]));
    assert_eq!(column(&batch, "d"), some(["PT90S", "PT60S", "<null>"]));
    for text in [r#"{"i":1.5}"#, r#"{"i":"1.0"}"#, r#"{"u":256.0}"#, r#"{"i":true}"#] {
        let error = read(&closed([("i", DataType::Int64), ("u", DataType::UInt8)]), &[text]);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Decode, "{text}");
    }
}

#[test]
fn a_value_that_does_not_fit_spoils_itself_alone() {
    let fields = || {
        closed([
            ("n", DataType::Int64),
            ("s", DataType::Utf8View),
            ("list", DataType::List(Arc::new(Field::new("item", DataType::Int8, true)))),
        ])
    };
    let documents =
        [r#"{"n":"no","s":"a","list":[1]}"#, r#"{"n":2,"s":"b","list":[1,999],"other":{"a":1}}"#];
    let error = read(&fields(), &documents).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    for part in ["\"no\" is not an integer", "entry ID: 1-0", "field: n", "dtype: Int64"] {
        assert!(error.to_string().contains(part), "{error}");
    }

    let batch = read(&fields().with_on_error(OnError::Null), &documents).unwrap();
    assert_eq!(column(&batch, "n"), some(["<null>", "2"]));
    assert_eq!(column(&batch, "s"), some(["a", "b"]));
    assert_eq!(column(&batch, "list"), some(["[1]", "[1, null]"]));

    let batch = read(&fields().with_rescue_column(Some("rest")), &documents).unwrap();
    assert_eq!(column(&batch, "n"), some(["<null>", "2"]));
    let rest = some([r#"{"n":"no"}"#, r#"{"list[1]":"999","other":"{\"a\":1}"}"#]);
    assert_eq!(column(&batch, "rest"), rest);
}

#[test]
fn entries_that_do_not_fit_are_rejected_where_that_is_asked_for() {
    let schema = closed([("n", DataType::Int64)]).with_on_error(OnError::Reject);
    let entries = [
        entry(1, [("data", r#"{"n":1}"#)]),
        entry(2, [("data", r#"{"n":"no"}"#)]),
        entry(3, [("data", "no")]),
        entry(4, [("data", r#"{"n":4}"#)]),
    ];
    let reply = Protocol::Resp2.entries(&entries);
    let batch = decode_whole(&schema, ReplyShape::Entries, &reply).unwrap();
    assert_eq!(column(&batch, "n"), some(["1", "4"]));
    let rejected: Vec<_> = batch.rejected().iter().map(|entry| entry.id.to_string()).collect();
    assert_eq!(rejected, ["2-0", "3-0"]);
}

#[test]
fn a_payload_that_is_no_object_does_not_fit() {
    let fields = || closed([("n", DataType::Int64), ("m", DataType::Int64)]);
    for text in [
        "n=1",
        "[1]",
        "1",
        r#""{}""#,
        "{",
        r#"{"n":1"#,
        r#"{"n":1,"#,
        r#"{"n":1}}"#,
        r#"{"n":1,}"#,
        r#"{'n':1}"#,
        r#"{n:1}"#,
        r#"{"n":1,"m":}"#,
        r#"{"n":1,"x":[}}"#,
        r#"{"n":1,"x":tru}"#,
    ] {
        let documents = [r#"{"m":1}"#, text, r#"{"m":2}"#];
        let error = read(&fields(), &documents).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{text}");
        for part in ["is not a JSON object", "entry ID: 2-0", "field: data"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let batch = read(&fields().with_on_error(OnError::Null), &documents).unwrap();
        assert_eq!(column(&batch, "n"), some(["<null>"; 3]), "{text}");
        assert_eq!(column(&batch, "m"), some(["1", "<null>", "2"]));
        let schema = open().with_rescue_column(Some("rest"));
        let batch = read(&schema, &documents).unwrap();
        // Nor is a column made of what it seemed to hold.
        assert_eq!(names(&batch), ["_id", "m", "rest"], "{text}");
        let rest = serde_json::json!({ "data": text }).to_string();
        assert_eq!(column(&batch, "rest"), some(["<null>", &rest, "<null>"]));
    }
}

#[test]
fn what_nobody_asks_for_is_not_read() {
    let bad = entry(1, [("data", &b"{\"n\":1,\"other\":\"\xff\",\"far\":[[{}]]}"[..])]);
    let batch =
        decode_every_way(&closed([("n", DataType::Int64)]), std::slice::from_ref(&bad)).unwrap();
    assert_eq!(column(&batch, "n"), some(["1"]));
    let error = decode_every_way(&closed([("other", DataType::Utf8View)]), &[bad]).unwrap_err();
    assert!(error.to_string().contains("is not UTF-8"), "{error}");
    // Where no field is asked for, no document is looked at.
    assert_eq!(read(&closed([]), &["no JSON", "{}"]).unwrap().len(), 2);
}

#[test]
fn the_last_of_a_repeated_key_wins() {
    let schema = closed([("n", DataType::Int64)]).with_rescue_column(Some("rest"));
    let documents = [
        r#"{"n":1,"n":2}"#,
        r#"{"n":"x","n":null}"#,
        r#"{"n":null,"n":3}"#,
        r#"{"\u006e":1,"n":"x"}"#,
        r#"{"m":1,"m":2}"#,
    ];
    let batch = read(&schema, &documents).unwrap();
    assert_eq!(column(&batch, "n"), some(["2", "<null>", "3", "<null>", "<null>"]));
    let rest = [
        r#"{"n":["1","2"]}"#,
        r#"{"n":["x",null]}"#,
        "<null>",
        r#"{"n":["1","x"]}"#,
        r#"{"m":["1","2"]}"#,
    ];
    assert_eq!(column(&batch, "rest"), some(rest));
    // An entry may repeat the payload itself: its documents are read as one.
    let twice =
        [entry(1, [("data", r#"{"n":1}"#), ("data", r#"{"m":5}"#), ("data", r#"{"n":2}"#)])];
    let batch =
        decode_whole(&schema, ReplyShape::Entries, &Protocol::Resp2.entries(&twice)).unwrap();
    assert_eq!(column(&batch, "n"), some(["2"]));
    assert_eq!(column(&batch, "rest"), some([r#"{"m":"5","n":["1","2"]}"#]));
}

#[test]
fn a_path_leads_to_the_object_whose_keys_are_meant() {
    let change = Payload::new("data").with_path("$.payload[\"after\"]").unwrap();
    let schema = closed([("id", DataType::Int64)]).with_payload(Some(change));
    let documents = [
        r#"{"id":9,"payload":{"id":9,"after":{"id":1}}}"#,
        // A deletion, and what has no such key.
        r#"{"payload":{"before":{"id":2},"after":null}}"#,
        r#"{"payload":null}"#,
        r#"{"schema":{}}"#,
        r#"{"payload":{"after":{"id":8}},"\u0070ayload":{"after":{"id":5}}}"#,
        r#"{"payload":{"after":{}}}"#,
    ];
    let batch = read(&schema, &documents).unwrap();
    assert_eq!(column(&batch, "id"), some(["1", "<null>", "<null>", "<null>", "5", "<null>"]));
    for (text, expected) in [
        ("{\"payload\":[]}", "has something other than an object at $.payload"),
        ("{\"payload\":{\"after\":\"{}\"}}", "object at $.payload.after"),
        ("[]", "is not a JSON object"),
        (r#"{"payload":{"after":{"id":1}}"#, "is not a JSON object"),
    ] {
        let error = read(&schema, &[text]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_prefix_tells_keys_from_fields() {
    let entries = [entry(1, [("id", "7"), ("data", r#"{"id":8,"data":9,"_id":10}"#)])];
    let prefixed = Payload::new("data").with_prefix("p.");
    let batch = decode_every_way(&open().with_payload(Some(prefixed.clone())), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "id", "p.id", "p.data", "p._id"]);
    assert_eq!(column(&batch, "p._id"), some(["10"]));
    let schema = closed([("p.id", DataType::Int64), ("id", DataType::Int8)]);
    let schema = schema.with_payload(Some(prefixed)).with_rescue_column(Some("rest"));
    let batch = decode_every_way(&schema, &entries).unwrap();
    assert_eq!((column(&batch, "id"), column(&batch, "p.id")), (some(["7"]), some(["8"])));
    assert_eq!(column(&batch, "rest"), some([r#"{"p._id":"10","p.data":"9"}"#]));
}

#[test]
fn a_field_and_a_key_of_one_name_clash_only_within_an_entry() {
    let flat_or_not = [entry(1, [("id", "7")]), entry(2, [("data", r#"{"id":8}"#)])];
    let batch = decode_every_way(&closed([("id", DataType::Int64)]), &flat_or_not).unwrap();
    assert_eq!(column(&batch, "id"), some(["7", "8"]));

    for fields in [[("id", "7"), ("data", r#"{"id":8}"#)], [("data", r#"{"id":8}"#), ("id", "7")]] {
        let both = [entry(1, [("id", "6")]), entry(2, fields)];
        for schema in [open(), closed([("id", DataType::Int64)]).with_rescue_column(Some("rest"))] {
            let error = decode_every_way(&schema, &both).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema);
            for part in ["payload_prefix", "\"id\"", "entry ID: 2-0"] {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        let schema = open().with_on_error(OnError::Reject);
        let reply = Protocol::Resp2.entries(&both);
        let batch = decode_whole(&schema, ReplyShape::Entries, &reply).unwrap();
        assert_eq!((batch.len(), batch.rejected().len()), (1, 1));
    }
    let error = read(&open(), &[r#"{"_id":"1-0"}"#]).unwrap_err();
    for part in ["id_column", "payload_prefix"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn keys_count_as_columns() {
    let schema = open().with_max_columns(2);
    let documents = [r#"{"a":1,"b":2}"#, r#"{"b":3,"c":4}"#];
    let error = read(&schema, &documents).unwrap_err();
    assert!(error.to_string().contains("max_columns=2"), "{error}");
    let batch = read(&schema.with_rescue_column(Some("rest")), &documents).unwrap();
    assert_eq!(names(&batch), ["_id", "a", "b", "rest"]);
    assert_eq!(column(&batch, "rest"), some(["<null>", r#"{"c":"4"}"#]));
}

#[test]
fn texts_that_mean_null_mean_it_of_keys_and_of_the_payload() {
    let nulls = NullValues {
        all: vec!["n/a".to_owned()],
        by_field: [
            ("n".to_owned(), vec!["0".to_owned()]),
            ("data".to_owned(), vec!["-".to_owned()]),
        ]
        .into(),
    };
    let schema = open().with_null_values(nulls);
    let batch = read(&schema, &[r#"{"n":0,"m":0}"#, r#"{"n":"n/a","m":1}"#, "n/a", "-"]).unwrap();
    assert_eq!(column(&batch, "n"), some(["<null>"; 4]));
    assert_eq!(column(&batch, "m"), some(["0", "1", "<null>", "<null>"]));
}

#[test]
fn text_that_is_half_a_surrogate_pair_or_not_utf8_does_not_fit() {
    let bad: [&[u8]; 2] = [b"{\"s\":\"\\ud83e\",\"t\":\"ok\"}", b"{\"s\":\"\xff\",\"t\":\"ok\"}"];
    for document in bad {
        let entries = [entry(1, [("data", document)])];
        let error = decode_every_way(&open(), &entries).unwrap_err();
        assert!(error.to_string().contains("is not UTF-8, as JSON must be"), "{error}");
        let batch = decode_every_way(&open().with_on_error(OnError::Null), &entries).unwrap();
        assert_eq!(column(&batch, "s"), some(["<null>"]));
        assert_eq!(column(&batch, "t"), some(["ok"]));
    }
}

#[test]
fn documents_of_changing_keys_are_told_apart() {
    let texts: Vec<String> = (0..50)
        .map(|n| match n % 3 {
            0 => format!(r#"{{"a":{n},"b":"{n}"}}"#),
            1 => format!(r#"{{"b":{n},"a":{n},"c":{{"n":{n}}}}}"#),
            _ => format!(r#"{{"\u0061":"{n}","c":[{n}]}}"#),
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let read = read(&open(), &texts).unwrap();
    let numbers = (0..50).map(|n| Some(n.to_string())).collect::<Vec<_>>();
    assert_eq!(column(&read, "a"), numbers);
    let rows = cells(read.records());
    assert_eq!(rows[1]["c"], r#"{"n":1}"#);
    assert_eq!(rows[2]["c"], "[2]");
    assert!(!rows[3].contains_key("c"));
}
