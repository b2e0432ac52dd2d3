//! Fields without a schema: which columns there are, and how they are called.

use arrow_schema::{DataType, Field};
use redfloe::{ErrorKind, OnError, ReplyShape, StreamSchema};

use crate::common::{
    NO_FIELDS, Protocol, cells, column_texts, decode_every_way, decode_whole, entry, names,
};

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[test]
fn columns_come_in_order_of_first_appearance() {
    let entries = [
        entry(1, [("b", "1"), ("a", "2")]),
        entry(2, NO_FIELDS),
        entry(3, [("c", "3"), ("a", "4")]),
    ];
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "b", "a", "c"]);
    assert_eq!(column_texts(&batch, "b"), [Some("1".to_owned()), None, None]);
    assert_eq!(column_texts(&batch, "a"), [Some("2".to_owned()), None, Some("4".to_owned())]);
    assert_eq!(column_texts(&batch, "c"), [None, None, Some("3".to_owned())]);
}

#[test]
fn given_fields_come_first_and_keep_their_dtypes() {
    let schema = StreamSchema::open([Field::new("n", DataType::Int64, true)]);
    let batch = decode_every_way(&schema, &[entry(1, [("x", "text"), ("n", "1")])]).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "n", "x"]);
    assert_eq!(batch.records().schema().field(2).data_type(), &DataType::Int64);
    assert_eq!(batch.records().schema().field(3).data_type(), &DataType::Utf8View);
}

#[test]
fn a_schema_selects_and_orders() {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let schema = StreamSchema::closed([text("c"), text("never"), text("a")]);
    let entries = [entry(1, [("a", "1"), ("b", "2"), ("c", "3")]), entry(2, [("b", "4")])];
    let batch = decode_every_way(&schema, &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "c", "never", "a"]);
    assert_eq!(column_texts(&batch, "never"), [None, None]);
    assert_eq!(column_texts(&batch, "a"), [Some("1".to_owned()), None]);
}

#[test]
fn entries_need_no_field_in_common() {
    let entries: Vec<_> =
        (0..30).map(|n| entry(n + 1, [(format!("f{n}"), n.to_string())])).collect();
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(batch.records().num_columns(), 32);
    for (n, row) in cells(batch.records()).iter().enumerate() {
        assert_eq!(row.len(), 3);
        assert_eq!(row.get(&format!("f{n}")), Some(&n.to_string()));
    }
}

#[test]
fn the_same_fields_in_another_order_are_the_same_columns() {
    let entries = [
        entry(1, [("a", "1"), ("b", "2"), ("c", "3")]),
        entry(2, [("c", "3"), ("a", "1"), ("b", "2")]),
        entry(3, [("b", "2"), ("a", "1")]),
        entry(4, [("a", "1"), ("b", "2"), ("c", "3")]),
    ];
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "a", "b", "c"]);
    assert_eq!(column_texts(&batch, "a"), some(&["1", "1", "1", "1"]));
    assert_eq!(column_texts(&batch, "b"), some(&["2", "2", "2", "2"]));
}

#[test]
fn a_field_may_first_occur_after_100_000_entries() {
    let mut entries: Vec<_> = (1..=100_000).map(|ms| entry(ms, [("a", "1")])).collect();
    entries.push(entry(100_001, [("late", "here"), ("a", "2")]));
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let reply = protocol.entries(&entries);
        let batch = decode_whole(&StreamSchema::default(), ReplyShape::Entries, &reply).unwrap();
        assert_eq!(names(&batch), ["_id", "_ts", "a", "late"]);
        let late = batch.records().column_by_name("late").unwrap();
        assert_eq!((late.len(), late.null_count()), (100_001, 100_000));
        assert_eq!(column_texts(&batch, "late").last(), Some(&Some("here".to_owned())));
    }
}

#[test]
fn an_entry_may_have_10_000_fields() {
    let wide = |ms, offset: usize| {
        entry(
            ms,
            (0..10_000)
                .map(|n| (format!("field {}", n + offset), format!("a rather long value {n}"))),
        )
    };
    // The second shares half of its fields with the first, at other positions.
    let entries = [wide(1, 0), wide(2, 5_000)];
    let reply = Protocol::Resp2.entries(&entries);
    let batch = decode_whole(&StreamSchema::default(), ReplyShape::Entries, &reply).unwrap();
    assert_eq!(batch.records().num_columns(), 15_002);
    let rows = cells(batch.records());
    assert!(rows.iter().all(|row| row.len() == 10_002));
    assert_eq!(rows[1].get("field 5000").map(String::as_str), Some("a rather long value 0"));
}

#[test]
fn of_a_repeated_field_the_last_wins() {
    let entries = [
        entry(1, [("a", "first"), ("b", "x"), ("a", "last")]),
        entry(2, [("a", "only")]),
        entry(3, [("a", "a long first value"), ("a", "")]),
    ];
    for schema in
        [StreamSchema::default(), StreamSchema::closed([Field::new("a", DataType::Utf8View, true)])]
    {
        let batch = decode_every_way(&schema, &entries).unwrap();
        assert_eq!(column_texts(&batch, "a"), some(&["last", "only", ""]));
    }
}

#[test]
fn a_field_name_may_be_empty_or_anything_that_is_text() {
    let long = "n".repeat(5000);
    let entries = [entry(1, [("", "1"), (" \r\n\0", "2"), ("größe 🦀", "3"), (&long, "4")])];
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "", " \r\n\0", "größe 🦀", &long]);
    assert_eq!(column_texts(&batch, ""), some(&["1"]));
}

#[test]
fn a_field_name_that_is_not_text_cannot_be_a_column() {
    let entries = [
        entry(1, [("a", "1")]),
        entry(2, [(&b"\xff"[..], &b"odd"[..]), (b"a", b"2")]),
        entry(3, [("a", "3")]),
    ];
    let error = decode_every_way(&StreamSchema::default(), &entries).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.message().contains("\"\\xff\" is not UTF-8"), "{error}");
    assert_eq!(error.context(), [("entry ID", "2-0".to_owned())]);

    let schema = StreamSchema::default().with_on_error(OnError::Null);
    let batch = decode_every_way(&schema, &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "a"]);
    assert_eq!(column_texts(&batch, "a"), some(&["1", "2", "3"]));

    let schema = StreamSchema::default().with_rescue_column(Some("rest"));
    let batch = decode_every_way(&schema, &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "a", "rest"]);
    let rescued = r#"{"\\xff":"odd"}"#.to_owned();
    assert_eq!(column_texts(&batch, "rest"), [None, Some(rescued), None]);

    // A schema that does not ask for it leaves it alone.
    let schema = StreamSchema::closed([Field::new("a", DataType::Utf8View, true)]);
    assert_eq!(decode_every_way(&schema, &entries).unwrap().len(), 3);
}

#[test]
fn a_payload_never_overwrites_an_id() {
    for (name, parameter) in [
        ("_id", "id_column"),
        ("_ts", "timestamp_column"),
        ("_seq", "sequence_column"),
        ("_rescued", "rescue_column"),
    ] {
        let schema = StreamSchema::default()
            .with_sequence_column(Some("_seq"))
            .with_rescue_column(Some("_rescued"));
        let entries = [entry(1, [("a", "1")]), entry(2, [(name, "forged")])];
        let error = decode_every_way(&schema, &entries).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.message().contains(parameter), "{error}");
        assert!(error.to_string().contains("entry ID: 2-0"), "{error}");
    }
    let renamed = StreamSchema::default().with_id_column(Some("entry"));
    let batch = decode_every_way(&renamed, &[entry(2, [("_id", "payload")])]).unwrap();
    assert_eq!(names(&batch), ["entry", "_ts", "_id"]);
}
