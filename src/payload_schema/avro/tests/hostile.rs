//! What payloads claim is not believed.

use super::*;

const MALFORMED: &str = "does not follow the Avro schema One";

#[test]
fn no_count_or_length_is_believed() {
    // 2^60 and -2^60, and what is longest of all.
    let (many, minus) = ("808080808080808020", "ffffffffffffffff1f");
    let longest = "feffffffffffffffff01";
    let item = |of: &str| with_field(&format!(r#"{{"type": "array", "items": {of}}}"#));
    let empty = r#"{"type": "record", "name": "E", "fields": []}"#;
    let nested = r#"{"type": "record", "name": "N", "fields": [
        {"name": "a", "type": "null"}, {"name": "b", "type": {"type": "fixed", "name": "F", "size": 0}}]}"#;
    for of in [r#""int""#, r#""null""#, r#""string""#, empty, nested] {
        for count in [many, minus, longest] {
            for wanted in [Wanted::All, Wanted::Only([].into())] {
                let schema = bare(&item(of));
                for datum in [count.to_owned(), format!("{count}00"), format!("{count}0000")] {
                    let misfit = unpacked_of(&schema, wanted.clone(), &hex(&datum)).unwrap_err();
                    let is_empty = misfit == "has too many empty items";
                    assert!(is_empty || misfit == MALFORMED, "{of} {misfit}");
                }
            }
        }
    }
    for of in [r#""string""#, r#""bytes""#, r#"{"type": "map", "values": "null"}"#] {
        for datum in [many, longest, "01", "ff", "ffffffffffffffffffff01", "ffffffffffffffffff02"] {
            for wanted in [Wanted::All, Wanted::Only([].into())] {
                let misfit = unpacked_of(&bare(&with_field(of)), wanted, &hex(datum)).unwrap_err();
                assert_eq!(misfit, MALFORMED, "{of} {datum}");
            }
        }
    }
    // The least long there is has ten bytes; as a count, it has no opposite.
    let least = "ffffffffffffffffff01";
    assert!(unpacked(&bare(&item(r#""int""#)), &hex(&format!("{least}00"))).is_err());
    let number = unpacked(&bare(&with_field(r#""long""#)), &hex(least)).unwrap();
    assert_eq!(number, r#"{"x":-9223372036854775808}"#);
    // An int has 32 bits, a boolean one, and a union and an enum as many values as they have.
    for (of, datum) in [
        (r#""int""#, "8080808010"),
        (r#""boolean""#, "02"),
        (r#"["null", "int"]"#, "04"),
        (r#"["null", "int"]"#, "01"),
        (r#"{"type": "enum", "name": "E", "symbols": ["A"]}"#, "02"),
    ] {
        assert_eq!(unpacked(&bare(&with_field(of)), &hex(datum)).unwrap_err(), MALFORMED, "{of}");
    }
}

#[test]
fn empty_items_are_bounded_for_all_arrays_together() {
    let nulls = with_field(r#"{"type": "array", "items": {"type": "array", "items": "null"}}"#);
    let schema = bare(&nulls);
    // Blocks of 32,768 nulls each.
    let of =
        |arrays: usize| [hex("02"), hex("8080 04 00").repeat(1), hex("00")].concat().repeat(arrays);
    assert!(unpacked(&schema, &of(1)).is_ok());
    let lists =
        |count: u8| [vec![2 * count], hex("808004 00").repeat(count.into()), vec![0]].concat();
    assert!(unpacked(&schema, &lists(2)).is_ok());
    assert_eq!(unpacked(&schema, &lists(3)).unwrap_err(), "has too many empty items");
    // And what there is of them counts.
    let mut packer = Packer::new(10_000);
    let misfit = schema.unpacker(Wanted::All).unpack(&lists(2), &mut packer).unwrap_err();
    assert!(misfit.to_string().starts_with("is more than payload_max_bytes=10000"), "{misfit:?}");
    assert!(packer.bytes().len() < 20_000);
}

#[test]
fn blocks_may_say_how_many_bytes_they_have() {
    let schema = bare(&with_field(r#"{"type": "array", "items": "int"}"#));
    // Two of one byte, one of two bytes.
    let datum = hex("03 04 02 04 01 04 d804 00");
    assert_eq!(unpacked(&schema, &datum).unwrap(), r#"{"x":[1,2,300]}"#);
    assert_eq!(unpacked_of(&schema, Wanted::Only([].into()), &datum).unwrap(), "{}");
}

#[test]
fn depth_is_bounded() {
    for (depth, wanted, is_read) in [
        (127, Wanted::All, true),
        (128, Wanted::All, false),
        (1_000_000, Wanted::All, false),
        (1_000_000, Wanted::Only([].into()), false),
    ] {
        let payload = [hex("0202").repeat(depth), hex("0200")].concat();
        let read = unpacked_of(&bare(NODE), wanted, &payload);
        assert_eq!(read.is_ok(), is_read, "{depth}");
        if let Err(misfit) = read {
            assert_eq!(misfit, "is nested more than 128 levels deep");
        }
    }
    // A record that cannot end, and many within many that take no bytes.
    let endless = with_field(
        r#"{"type": "record", "name": "A", "fields": [
        {"name": "a", "type": "A"}, {"name": "b", "type": "A"}]}"#,
    );
    assert_eq!(unpacked(&bare(&endless), b"").unwrap_err(), "is nested more than 128 levels deep");
    let mut doubling = r#"{"type": "record", "name": "R0", "fields": []}"#.to_owned();
    for level in 1..40 {
        let inner = level - 1;
        doubling = format!(
            r#"{{"type": "record", "name": "R{level}", "fields": [
            {{"name": "a", "type": {doubling}}}, {{"name": "b", "type": "R{inner}"}}]}}"#
        );
    }
    let schema = bare(&with_field(&doubling));
    let misfit = unpacked(&schema, b"").unwrap_err();
    assert!(misfit.starts_with("is more than payload_max_bytes=100000"), "{misfit}");
    assert_eq!(unpacked_of(&schema, Wanted::Only([].into()), b"").unwrap(), "{}");
}

#[test]
fn a_containers_record_becomes_no_larger_than_it_may() {
    use std::io::Write;
    let mut deflated = Vec::new();
    let level = flate2::Compression::best();
    let mut encoder = flate2::write::DeflateEncoder::new(&mut deflated, level);
    encoder.write_all(&vec![0; 5_000_000]).unwrap();
    encoder.finish().unwrap();
    let long = |value: usize| {
        let mut out = Vec::new();
        super::super::wire::push_long(value as i64, &mut out);
        out
    };
    let schema = with_field(r#""int""#);
    let head = [&b"Obj\x01\x04\x14avro.codec\x0edeflate\x16avro.schema"[..], &long(schema.len())];
    let sync = [7; 16];
    let block = [&long(1)[..], &long(deflated.len()), &deflated, &sync].concat();
    let file = [&head.concat()[..], schema.as_bytes(), b"\0", &sync, &block].concat();
    let options = AvroOptions::new().with_framing(AvroFraming::Container);
    let misfit = unpacked(&PayloadSchema::avro(options).unwrap(), &file).unwrap_err();
    assert_eq!(misfit, "is more than payload_max_bytes=100000 once it is decompressed");
}
