//! Text that does not fit its dtype, under all three policies.

use arrow_array::Array;
use arrow_schema::{DataType, Field, TimeUnit};
use redfloe::{ErrorKind, OnError, StreamSchema};

use crate::common::{column_texts, decode_every_way, entry, names};
use crate::dtypes::{categorical, field, int128, polars_enum, samples};

/// A dtype, its name in messages, a text that fits, texts that do not, and why.
type Case = (Field, &'static str, &'static str, &'static [&'static str], &'static str);

fn cases() -> Vec<Case> {
    let timestamp = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
    vec![
        (
            polars_enum("3;low4;high"),
            "Enum",
            "low",
            &["Low", "medium"],
            "is not a member of the Enum",
        ),
        (
            field(DataType::Int64),
            "Int64",
            "1",
            &["x", "1.0", " 1", "1 ", "1_000", "0x10", "1e3", "١", "nan", "-", "+"],
            "is not an integer",
        ),
        (field(DataType::Int64), "Int64", "1", &["9223372036854775808"], "is out of range"),
        (field(DataType::Int8), "Int8", "1", &["128", "-129"], "is out of range"),
        (field(DataType::Int16), "Int16", "1", &["32768"], "is out of range"),
        (field(DataType::Int32), "Int32", "1", &["2147483648"], "is out of range"),
        (field(DataType::UInt8), "UInt8", "1", &["256", "-1"], "is out of range"),
        (field(DataType::UInt16), "UInt16", "1", &["65536"], "is out of range"),
        (field(DataType::UInt32), "UInt32", "1", &["4294967296"], "is out of range"),
        (field(DataType::UInt64), "UInt64", "1", &["18446744073709551616"], "is out of range"),
        (int128(), "Int128", "1", &["170141183460469231731687303715884105728"], "is out of range"),
        (int128(), "Int128", "1", &["1.5"], "is not an integer"),
        (field(DataType::Float32), "Float32", "1.5", &["x"], "is not a number"),
        (field(DataType::Float32), "Float32", "-inf", &["1e39", "-1e39"], "is out of range"),
        (field(DataType::Float64), "Float64", "inf", &["1e400", "-1e400"], "is out of range"),
        (
            field(DataType::Float64),
            "Float64",
            "1.5",
            &["1,5", "1.5x", " 1", "1e", "--1", "0x1p3"],
            "is not a number",
        ),
        (
            field(DataType::Decimal128(5, 2)),
            "Decimal(5, 2)",
            "1",
            &["x", "1.2.3"],
            "is not a decimal",
        ),
        (
            field(DataType::Decimal128(5, 2)),
            "Decimal(5, 2)",
            "1",
            &["1000"],
            "has more digits than the decimal's precision",
        ),
        (
            field(DataType::Decimal128(5, 2)),
            "Decimal(5, 2)",
            "1",
            &["1.005"],
            "has more decimal places than the decimal's scale",
        ),
        (
            field(DataType::Boolean),
            "Boolean",
            "yes",
            &["2", "y", "on", "truth", "-1"],
            "is none of true/false",
        ),
        (
            field(DataType::Date32),
            "Date",
            "2024-01-31",
            &["2024-02-30", "31.01.2024", "2024-01-31T00:00:00", "5", "today", "2024-1-31"],
            "is not an ISO 8601 date",
        ),
        (
            field(DataType::Time64(TimeUnit::Nanosecond)),
            "Time",
            "12:30:00",
            &["24:00:00", "12", "noon", "12:60", "9:30", "10:00 PM"],
            "is not an ISO 8601 time",
        ),
        (
            field(timestamp(TimeUnit::Millisecond, Some("UTC"))),
            "Datetime(ms, UTC)",
            "2024-01-31T12:30:00Z",
            &["yesterday", "12:30", "1.5", "2024-01-31T25:00:00", "2024-01-31T00:00:00é"],
            "is neither an ISO 8601 datetime nor an integer",
        ),
        (
            field(timestamp(TimeUnit::Second, Some("Europe/Berlin"))),
            "Datetime(s, Europe/Berlin)",
            "2024-10-27T02:30:00+01:00",
            &["2024-03-31T02:30:00", "2024-03-31T02:30"],
            "does not exist in Europe/Berlin, whose clocks skip that time; a text with an offset",
        ),
        (
            field(timestamp(TimeUnit::Second, Some("Europe/Berlin"))),
            "Datetime(s, Europe/Berlin)",
            "2024-10-27T02:30+02:00",
            &["2024-10-27T02:30:00", "2024-10-27 02:30"],
            "is ambiguous in Europe/Berlin, whose clocks show that time twice; a text with an offset",
        ),
        (
            field(timestamp(TimeUnit::Nanosecond, None)),
            "Datetime(ns)",
            "1970-01-01T00:00:00",
            &["3000-01-01T00:00:00"],
            "is out of the datetime's range",
        ),
        (
            field(DataType::Duration(TimeUnit::Microsecond)),
            "Duration(us)",
            "PT1S",
            &["1h", "1.5", "P1Y", "P", "00:01"],
            "is neither an integer in the unit nor an ISO 8601 duration",
        ),
        (
            field(DataType::Duration(TimeUnit::Nanosecond)),
            "Duration(ns)",
            "1",
            &["P200000D"],
            "is out of the duration's range",
        ),
        (
            field(DataType::Duration(TimeUnit::Second)),
            "Duration(s)",
            "1",
            &["9223372036854775808"],
            "is out of range",
        ),
        (
            field(timestamp(TimeUnit::Second, None)),
            "Datetime(s)",
            "2024-01-31T12:30",
            &["-9223372036854775809"],
            "is out of range",
        ),
    ]
}

#[test]
fn raise_says_where_and_why() {
    for (field, dtype, good, bad, reason) in cases() {
        for bad in bad {
            let schema = StreamSchema::closed([field.clone()]);
            let entries =
                [entry(4, [("v", good)]), entry(5, [("v", bad)]), entry(6, [("v", good)])];
            let error = decode_every_way(&schema, &entries).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode);
            assert!(error.message().starts_with(&format!("\"{bad}\" {reason}")), "{error}");
            let context = [("entry ID", "5-0"), ("field", "v"), ("dtype", dtype)]
                .map(|(name, value)| (name, value.to_owned()));
            assert_eq!(error.context(), context);
        }
    }
}

#[test]
fn null_takes_the_place_of_what_does_not_fit() {
    for (field, dtype, good, bad, _) in cases() {
        for bad in bad {
            let schema = StreamSchema::closed([field.clone()]).with_on_error(OnError::Null);
            let entries =
                [entry(4, [("v", good)]), entry(5, [("v", bad)]), entry(6, [("v", good)])];
            let batch = decode_every_way(&schema, &entries).unwrap();
            let column = batch.records().column_by_name("v").unwrap();
            let null: Vec<bool> = (0..3).map(|row| column.is_null(row)).collect();
            assert_eq!(null, [false, true, false], "{dtype}: {bad}");
        }
    }
}

#[test]
fn rescue_keeps_what_does_not_fit() {
    for (field, dtype, good, bad, _) in cases() {
        for bad in bad {
            let schema = StreamSchema::closed([field.clone()]).with_rescue_column(Some("_rescued"));
            let entries =
                [entry(4, [("v", good)]), entry(5, [("v", bad)]), entry(6, [("v", good)])];
            let batch = decode_every_way(&schema, &entries).unwrap();
            assert_eq!(names(&batch), ["_id", "_ts", "v", "_rescued"]);
            let column = batch.records().column_by_name("v").unwrap();
            let null: Vec<bool> = (0..3).map(|row| column.is_null(row)).collect();
            assert_eq!(null, [false, true, false], "{dtype}: {bad}");
            let rescued = column_texts(&batch, "_rescued");
            assert_eq!(rescued, [None, Some(format!("{{\"v\":\"{bad}\"}}")), None]);
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_fit_binary_only() {
    for (field, good) in samples() {
        let data_type = field.data_type().clone();
        let entries = [
            entry(4, [("v", good.as_bytes())]),
            entry(5, [("v", &b"\xff1"[..])]),
            entry(6, [("v", good.as_bytes())]),
        ];
        let raise = StreamSchema::closed([field]);
        if data_type == DataType::BinaryView {
            let batch = decode_every_way(&raise, &entries).unwrap();
            assert_eq!(column_texts(&batch, "v")[1].as_deref(), Some("ff31"));
            continue;
        }
        let error = decode_every_way(&raise, &entries).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{data_type}");
        assert!(error.message().starts_with("\"\\xff1\" "), "{error}");

        let batch =
            decode_every_way(&raise.clone().with_on_error(OnError::Null), &entries).unwrap();
        let values = column_texts(&batch, "v");
        assert_eq!(values[1], None, "{data_type}");
        assert!(values[0].is_some() && values[0] == values[2], "{data_type}");

        let rescue = raise.with_rescue_column(Some("rest"));
        let batch = decode_every_way(&rescue, &entries).unwrap();
        let rescued = r#"{"v":{"$base64":"/zE="}}"#.to_owned();
        assert_eq!(column_texts(&batch, "rest"), [None, Some(rescued), None], "{data_type}");
    }
}

/// The buffer as a whole is valid, and so the quick check of it says nothing about either value.
#[test]
fn a_character_split_between_neighbours_is_refused() {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let schema = StreamSchema::closed([text("a"), text("b"), text("c")]);
    for (first, second) in
        [(&b"\xc3"[..], &b"\xa9"[..]), (b"x\xf0\x9f", b"\xa6\x80x"), (b"\xf0", b"\x9f\xa6\x80")]
    {
        let entries =
            [entry(1, [("a", &b"a long and valid value"[..]), ("b", first), ("c", second)])];
        let error = decode_every_way(&schema, &entries).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.to_string().contains("UTF-8"), "{error}");

        let lenient = schema.clone().with_on_error(OnError::Null);
        let batch = decode_every_way(&lenient, &entries).unwrap();
        assert_eq!(column_texts(&batch, "a"), [Some("a long and valid value".to_owned())]);
        assert_eq!(column_texts(&batch, "b"), [None]);
        assert_eq!(column_texts(&batch, "c"), [None]);
    }
    // Across entries: the last value of one, the first of the next.
    let entries = [entry(1, [("a", b"\xc3")]), entry(2, [("a", b"\xa9")])];
    assert_eq!(decode_every_way(&schema, &entries).unwrap_err().kind(), ErrorKind::Decode);
}

#[test]
fn a_message_shortens_a_long_value() {
    let entries = [entry(5, [("v", "x".repeat(100_000))])];
    let schema = StreamSchema::closed([field(DataType::Int64)]);
    let reply = crate::common::Protocol::Resp2.entries(&entries);
    let error =
        crate::common::decode_whole(&schema, redfloe::ReplyShape::Entries, &reply).unwrap_err();
    assert!(error.to_string().len() < 400, "{error}");
    assert!(error.to_string().contains("(100000 bytes)"), "{error}");
}

#[test]
fn rescue_keeps_fields_that_the_schema_does_not_know() {
    let schema = StreamSchema::closed([field(DataType::Int64)]).with_rescue_column(Some("rest"));
    let entries = [
        entry(1, [("v", "1"), ("b", "x"), ("a", "\"quoted\"\n"), ("", "empty name")]),
        entry(2, [("v", "2")]),
        entry(3, [("b", "first"), ("v", "no"), ("b", "last")]),
        entry(4, [(&b"\xff"[..], &b"\x00\xff"[..]), (b"\xfe", b"ok"), (b"v", b"4")]),
        // With a schema, a metadata column's name is a field like any other that is not asked for.
        entry(5, [("_id", "payload"), ("_ts", "payload"), ("rest", "payload")]),
    ];
    let batch = decode_every_way(&schema, &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "v", "rest"]);
    assert_eq!(
        column_texts(&batch, "rest"),
        [
            Some(r#"{"":"empty name","a":"\"quoted\"\n","b":"x"}"#.to_owned()),
            None,
            Some(r#"{"b":["first","last"],"v":"no"}"#.to_owned()),
            Some(r#"{"\\xfe":"ok","\\xff":{"$base64":"AP8="}}"#.to_owned()),
            Some(r#"{"_id":"payload","_ts":"payload","rest":"payload"}"#.to_owned()),
        ]
    );
    let ids = column_texts(&batch, "_id");
    assert_eq!(ids.last().unwrap().as_deref(), Some("5-0"));
}

#[test]
fn only_the_last_of_a_repeated_field_must_fit() {
    let schema = StreamSchema::closed([field(DataType::Int64)]);
    let batch = decode_every_way(&schema, &[entry(1, [("v", "no"), ("v", "1")])]).unwrap();
    assert_eq!(column_texts(&batch, "v"), [Some("1".to_owned())]);
    assert!(decode_every_way(&schema, &[entry(1, [("v", "1"), ("v", "no")])]).is_err());
}

#[test]
fn a_category_too_many_is_a_misfit() {
    let entries: Vec<_> = (0..256).map(|n| entry(n + 1, [("v", n.to_string())])).collect();
    let read = |key: DataType, policy: OnError| {
        let schema = StreamSchema::closed([categorical(key)]).with_on_error(policy);
        let reply = crate::common::Protocol::Resp2.entries(&entries);
        crate::common::decode_whole(&schema, redfloe::ReplyShape::Entries, &reply)
    };
    assert!(read(DataType::UInt16, OnError::Raise).is_ok());
    // Polars keeps the key 255 for itself.
    let error = read(DataType::UInt8, OnError::Raise).unwrap_err();
    assert!(error.to_string().starts_with("\"255\" is one category more"), "{error}");
    let values = column_texts(&read(DataType::UInt8, OnError::Null).unwrap(), "v");
    assert_eq!(values.iter().filter(|value| value.is_none()).count(), 1);
    assert_eq!(values[254].as_deref(), Some("254"));
}
