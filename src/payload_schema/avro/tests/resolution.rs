//! What is written by one schema and read by another.

use arrow_schema::DataType;

use super::*;

fn read_as(writer: &str, reader: &str) -> PayloadSchema {
    let options = AvroOptions::new().with_schema(writer).with_reader_schema(reader);
    PayloadSchema::avro(options).unwrap()
}

#[test]
fn a_reader_has_other_names_and_defaults_for_what_the_writer_lacks() {
    let writer = r#"{"type": "record", "name": "old.Order", "fields": [
        {"name": "gone", "type": {"type": "array", "items": "string"}},
        {"name": "amount", "type": "int"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "ODD"]}}
    ]}"#;
    let reader = r#"{"type": "record", "name": "Sale", "aliases": ["old.Order"], "fields": [
        {"name": "price", "aliases": ["amount"], "type": ["null", "double"]},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "OTHER"],
            "default": "OTHER"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": ["a", "b"]},
        {"name": "note", "type": ["null", "string"], "default": null},
        {"name": "raw", "type": "bytes", "default": "\u00ff"},
        {"name": "at", "type": {"type": "record", "name": "At", "fields": [
            {"name": "x", "type": "float", "default": 1.5}, {"name": "n", "type": "long"}
        ]}, "default": {"n": 7}}
    ]}"#;
    let schema = read_as(writer, reader);
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["price", "state", "tags", "note", "raw", "at"]);
    assert_eq!(schema.fields()[0].data_type(), &DataType::Float64);
    let datum = hex("02 02 61 00 54 02");
    let defaults = r#""tags":["a","b"],"note":null,"raw":"/w==","at":{"x":1.5,"n":7}"#;
    let expected = format!(r#"{{"price":42.0,"state":"OTHER",{defaults}}}"#);
    assert_eq!(unpacked(&schema, &datum), Ok(expected));
    let wanted = Wanted::Only(["state".to_owned(), "note".to_owned()].into());
    assert_eq!(unpacked_of(&schema, wanted, &datum).unwrap(), r#"{"state":"OTHER","note":null}"#);
}

#[test]
fn numbers_become_wider_and_bytes_text() {
    for (from, to, datum, expected) in [
        (r#""int""#, r#""long""#, "0d", "-7"),
        (r#""int""#, r#""float""#, "0d", "-7.0"),
        (r#""long""#, r#""double""#, "0d", "-7.0"),
        (r#""float""#, r#""double""#, "0000c03f", "1.5"),
        (r#""bytes""#, r#""string""#, "0261", r#""a""#),
        (r#""string""#, r#""bytes""#, "0261", r#""YQ==""#),
        (r#""int""#, r#"["null", "long", "int"]"#, "0d", "-7"),
        (r#"["null", "int"]"#, r#""long""#, "020d", "-7"),
        (r#"["int", "string"]"#, r#"["string", "double"]"#, "000d", "-7.0"),
        // Each says itself in which unit it is.
        (
            r#"{"type": "long", "logicalType": "timestamp-millis"}"#,
            r#"{"type": "long", "logicalType": "timestamp-micros"}"#,
            "02",
            r#""1970-01-01T00:00:00.001Z""#,
        ),
        (r#""int""#, r#"{"type": "int", "logicalType": "date"}"#, "02", r#""1970-01-02""#),
        (r#"{"type": "int", "logicalType": "date"}"#, r#""long""#, "02", "1"),
    ] {
        let schema = read_as(&with_field(from), &with_field(to));
        let expected = format!(r#"{{"x":{expected}}}"#);
        assert_eq!(unpacked(&schema, &hex(datum)), Ok(expected), "{from} as {to}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_or_a_misfit_where_it_comes() {
    let options = |from: &str, to: &str| {
        AvroOptions::new().with_schema(with_field(from)).with_reader_schema(with_field(to))
    };
    for (from, to, why) in [
        (r#""long""#, r#""int""#, "has the Avro type long where the reader's schema has int"),
        (
            r#""string""#,
            r#"["null", "int"]"#,
            "the Avro type string where the reader's schema has union",
        ),
        (
            r#"{"type": "fixed", "name": "F", "size": 2}"#,
            r#"{"type": "fixed", "name": "F", "size": 3}"#,
            "has the Avro type fixed F",
        ),
    ] {
        let text = refused(options(from, to));
        assert!(text.contains(why), "{text}");
    }
    let reader = r#"{"type": "record", "name": "One", "fields": [
        {"name": "x", "type": "int"}, {"name": "y", "type": "int"}]}"#;
    let text =
        refused(AvroOptions::new().with_schema(with_field(r#""int""#)).with_reader_schema(reader));
    assert!(text.contains("lacks the field y of the reader's One, which has no default"), "{text}");

    let schema = PayloadSchema::avro(options(r#"["null", "int", "string"]"#, r#"["null", "int"]"#));
    let schema = schema.unwrap();
    assert_eq!(unpacked(&schema, &hex("0202")).unwrap(), r#"{"x":1}"#);
    let misfit = unpacked(&schema, &hex("040261")).unwrap_err();
    assert_eq!(misfit, "has the Avro type string where the reader's schema has union of null, int");
}

#[test]
fn a_record_within_itself_is_read_whole() {
    let schema = bare(NODE);
    // By fastavro: {"value": 1, "next": {"value": 2, "next": None}}
    let payload = hex("02020400");
    let inner = r#""next":{"value":2,"next":null}"#;
    assert_eq!(unpacked(&schema, &payload).unwrap(), format!(r#"{{"value":1,{inner}}}"#));
    let wanted = Wanted::Only(["next".to_owned()].into());
    assert_eq!(unpacked_of(&schema, wanted, &payload).unwrap(), format!("{{{inner}}}"));
}

#[test]
fn defaults_that_contain_themselves_end() {
    let reader = r#"{"type": "record", "name": "One", "fields": [
        {"name": "x", "type": "int"},
        {"name": "y", "default": {}, "type": {"type": "record", "name": "Y", "fields": [
            {"name": "a", "type": "Y", "default": {}}, {"name": "b", "type": "Y", "default": {}}]}}
    ]}"#;
    let text =
        refused(AvroOptions::new().with_schema(with_field(r#""int""#)).with_reader_schema(reader));
    assert!(text.contains("has a default that is too large"), "{text}");
}
