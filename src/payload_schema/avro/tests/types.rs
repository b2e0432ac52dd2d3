//! Each type: what it is unpacked to, and which column holds it.

use arrow_schema::{DataType, Field, TimeUnit};

use super::*;
use crate::dtype::ENUM_METADATA;

#[test]
fn each_type_is_unpacked_as_fastavro_writes_it() {
    let expected = r#"{"flag":true,"i":-7,"l":1099511627776,"f":1.5,"d":-0.25,"b":"AP8=","s":"größe",
        "maybe":5,"either":"x","list":[1,-2,300],"map":[{"key":"a","value":1},{"key":"b","value":2}],
        "mood":"HAPPY","four":"YWJjZA==","point":{"x":0.5},"dec":"-123.45","fdec":"1234567.891",
        "day":"2024-02-29","tms":"12:30:15.123","tus":"01:02:03.456789",
        "ms":"2024-02-29T12:00:00.005Z","us":"1969-12-31T23:59:59.999999Z",
        "lms":"2024-02-29T12:00:00","lus":"2024-02-29T12:00:00.000001",
        "id":"12345678-1234-5678-1234-567812345678"}"#;
    let expected: String = expected.lines().map(str::trim).collect();
    let payload = hex(EVERY_BY_FASTAVRO);
    assert_eq!(unpacked(&bare(EVERY), &payload), Ok(expected));
    // Those that nobody wants are passed over.
    let wanted = Wanted::Only(["day".to_owned(), "list".to_owned()].into());
    let some = unpacked_of(&bare(EVERY), wanted, &payload).unwrap();
    assert_eq!(some, r#"{"list":[1,-2,300],"day":"2024-02-29"}"#);
    // What breaks off, or goes on, does not follow the schema.
    for wanted in [Wanted::All, Wanted::Only([].into())] {
        let more = [&payload[..], b"\0"].concat();
        for cut in (0..payload.len()).map(|end| &payload[..end]).chain([&more[..]]) {
            let misfit = unpacked_of(&bare(EVERY), wanted.clone(), cut).unwrap_err();
            assert_eq!(misfit, "does not follow the Avro schema shop.Every");
        }
    }
}

#[test]
fn each_type_has_its_column() {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let list = |item: DataType| DataType::LargeList(Arc::new(field("item", item)));
    let entry = vec![field("key", DataType::Utf8View), field("value", DataType::Int64)];
    let category = DataType::Dictionary(DataType::UInt8.into(), DataType::Utf8View.into());
    let members = [(ENUM_METADATA[0].to_owned(), "3;SAD5;HAPPY".to_owned())];
    let utc = || Some("UTC".into());
    let expected = vec![
        field("flag", DataType::Boolean),
        field("i", DataType::Int32),
        field("l", DataType::Int64),
        field("f", DataType::Float32),
        field("d", DataType::Float64),
        field("b", DataType::BinaryView),
        field("s", DataType::Utf8View),
        field("maybe", DataType::Int64),
        field("either", DataType::Utf8View),
        field("list", list(DataType::Int32)),
        field("map", list(DataType::Struct(entry.into()))),
        field("mood", category).with_metadata(members.into()),
        field("four", DataType::BinaryView),
        field("point", DataType::Struct(vec![field("x", DataType::Float64)].into())),
        field("dec", DataType::Decimal128(9, 2)),
        field("fdec", DataType::Decimal128(18, 3)),
        field("day", DataType::Date32),
        field("tms", DataType::Time64(TimeUnit::Nanosecond)),
        field("tus", DataType::Time64(TimeUnit::Nanosecond)),
        field("ms", DataType::Timestamp(TimeUnit::Millisecond, utc())),
        field("us", DataType::Timestamp(TimeUnit::Microsecond, utc())),
        field("lms", DataType::Timestamp(TimeUnit::Millisecond, None)),
        field("lus", DataType::Timestamp(TimeUnit::Microsecond, None)),
        field("id", DataType::Utf8View),
    ];
    assert_eq!(bare(EVERY).fields(), expected.into());
    // What contains itself is text, and so is what may be of several types.
    let node = bare(NODE).fields();
    assert_eq!((node[0].data_type(), node[1].data_type()), (&DataType::Int32, &DataType::Utf8View));
    let one = |of: &str| bare(&with_field(of)).fields()[0].data_type().clone();
    assert_eq!(one(r#"["null", "string", "bytes"]"#), DataType::Utf8View);
    let both = r#"["null", "bytes", {"type": "fixed", "name": "F", "size": 1}]"#;
    assert_eq!(one(both), DataType::BinaryView);
}

#[test]
fn logical_types_mean_what_the_specification_says() {
    let one = |of: &str, datum: &str| {
        let schema = bare(&with_field(of));
        let text = unpacked(&schema, &hex(datum)).unwrap();
        (text, schema.fields()[0].data_type().clone())
    };
    let (nanos, text) = (TimeUnit::Nanosecond, DataType::Utf8View);
    for (of, datum, expected, data_type) in [
        (
            r#"{"type": "long", "logicalType": "timestamp-nanos"}"#,
            "01",
            r#"{"x":"1969-12-31T23:59:59.999999999Z"}"#,
            DataType::Timestamp(nanos, Some("UTC".into())),
        ),
        (
            r#"{"type": "long", "logicalType": "local-timestamp-nanos"}"#,
            "02",
            r#"{"x":"1970-01-01T00:00:00.000000001"}"#,
            DataType::Timestamp(nanos, None),
        ),
        (
            r#"{"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}"#,
            "12345678123456781234567812345678",
            r#"{"x":"12345678-1234-5678-1234-567812345678"}"#,
            text.clone(),
        ),
        (
            r#"{"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}"#,
            "010000000200000003000000",
            r#"{"x":"AQAAAAIAAAADAAAA"}"#,
            DataType::BinaryView,
        ),
        // 2^200, which no Decimal of Polars holds.
        (
            r#"{"type": "bytes", "logicalType": "decimal", "precision": 61, "scale": 1}"#,
            "3401 00000000000000000000000000000000000000000000000000",
            "{\"x\":\"160693804425899027554196209234116260252220299378279283530137.6\"}",
            text.clone(),
        ),
        // A time that no day has, and a scale that no number has, are passed over.
        (
            r#"{"type": "int", "logicalType": "time-millis"}"#,
            "01",
            r#"{"x":-1}"#,
            DataType::Time64(nanos),
        ),
        (
            r#"{"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}"#,
            "0201",
            r#"{"x":"AQ=="}"#,
            DataType::BinaryView,
        ),
        (
            r#"{"type": "bytes", "logicalType": "decimal", "precision": 3}"#,
            "00",
            r#"{"x":"0"}"#,
            DataType::Decimal128(3, 0),
        ),
    ] {
        assert_eq!(one(of, datum), (expected.to_owned(), data_type), "{of}");
    }
    let decimal = r#"{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}"#;
    // More digits than it may have: no decimal, even where the bytes are the text of one, "12.5".
    for (datum, expected) in [("0801000000", "0x01000000"), ("0831322e35", "0x31322e35")] {
        let read = unpacked(&bare(&with_field(decimal)), &hex(datum));
        assert_eq!(read, Ok(format!(r#"{{"x":"{expected}"}}"#)));
    }
}

#[test]
fn what_is_no_schema_is_refused_with_the_reason() {
    for (schema, why) in [
        ("{", "the Avro schema is not JSON"),
        (r#""long""#, "the Avro schema is that of long; it must be a record"),
        (r#"{"type": "record", "fields": []}"#, "has a named type without a name"),
        (r#"{"type": "record", "name": "A"}"#, "has a record without its fields"),
        (&with_field(r#""Other""#), "has the unknown type \"Other\""),
        (&with_field(r#"["null", ["int"]]"#), "has a union within a union"),
        (&with_field(r#"["int", "int"]"#), "has a union with int twice"),
        (&with_field(r#"{"type": "fixed", "name": "F", "size": -1}"#), "size is no number"),
        (&with_field(r#"{"type": "enum", "name": "E", "symbols": ["A", "A"]}"#), "with A twice"),
        (&with_field(r#"{"type": "fixed", "name": "One", "size": 1}"#), "defines One twice"),
        (&with_field("7"), "has 7 in a type's place"),
        (&format!("{}{}", "[".repeat(200), "]".repeat(200)), "recursion limit"),
    ] {
        let text = refused(AvroOptions::new().with_schema(schema));
        assert!(text.contains(why), "{schema}: {text}");
    }
}

#[test]
fn named_types_are_known_by_their_namespaces() {
    let schema = r#"{"type": "record", "name": "Outer", "namespace": "a.b", "fields": [
        {"name": "x", "type": {"type": "fixed", "name": "F", "size": 1}},
        {"name": "y", "type": {"type": "record", "name": "c.Inner", "fields": [
            {"name": "p", "type": "a.b.F"}, {"name": "q", "type": {"type": "array", "items": "Inner"}}
        ]}},
        {"name": "z", "type": "F"}
    ]}"#;
    let text = unpacked(&bare(schema), &hex("61 62 02 63 00 00 64")).unwrap();
    assert_eq!(text, r#"{"x":"YQ==","y":{"p":"Yg==","q":[{"p":"Yw==","q":[]}]},"z":"ZA=="}"#);
}
