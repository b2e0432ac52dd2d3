use proptest::prelude::*;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions,
};

use super::*;
use crate::decode::packed::Packed;
use crate::decode::value::Notation;
use crate::payload_schema::Packer;

fn field(name: &str, number: i32, label: Label, kind: Type, of: &str) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(label.into()),
        r#type: Some(kind.into()),
        type_name: (!of.is_empty()).then(|| of.to_owned()),
        ..Default::default()
    }
}

fn message(name: &str, fields: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.to_owned()), field: fields, ..Default::default() }
}

/// A message that has something of each kind, and itself.
fn schema() -> PayloadSchema {
    schema_of("t.All")
}

fn schema_of(name: &str) -> PayloadSchema {
    let one = Label::Optional;
    let many = Label::Repeated;
    let google = FileDescriptorProto {
        name: Some("google.proto".to_owned()),
        package: Some("google.protobuf".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![
            message(
                "Timestamp",
                vec![
                    field("seconds", 1, one, Type::Int64, ""),
                    field("nanos", 2, one, Type::Int32, ""),
                ],
            ),
            message("StringValue", vec![field("value", 1, one, Type::String, "")]),
            message("Struct", vec![field("any", 1, many, Type::Bytes, "")]),
        ],
        ..Default::default()
    };
    let mut entry = message(
        "ByNameEntry",
        vec![
            field("key", 1, one, Type::String, ""),
            field("value", 2, one, Type::Message, ".t.All"),
        ],
    );
    entry.options = Some(MessageOptions { map_entry: Some(true), ..Default::default() });
    let mut all = message(
        "All",
        vec![
            field("id", 1, one, Type::Int64, ""),
            field("text", 2, one, Type::String, ""),
            field("floats", 3, many, Type::Double, ""),
            field("numbers", 4, many, Type::Sint32, ""),
            field("state", 5, one, Type::Enum, ".t.State"),
            field("self", 6, one, Type::Message, ".t.All"),
            field("selves", 7, many, Type::Message, ".t.All"),
            field("by_name", 8, many, Type::Message, ".t.All.ByNameEntry"),
            field("at", 9, one, Type::Message, ".google.protobuf.Timestamp"),
            field("nick", 10, one, Type::Message, ".google.protobuf.StringValue"),
            field("extra", 11, one, Type::Message, ".google.protobuf.Struct"),
            field("raw", 12, one, Type::Bytes, ""),
            field("states", 13, many, Type::Enum, ".t.State"),
        ],
    );
    all.nested_type = vec![entry];
    let flat = message(
        "Flat",
        vec![
            field("id", 1, one, Type::Int64, ""),
            field("text", 2, one, Type::String, ""),
            field("state", 5, one, Type::Enum, ".t.State"),
            field("at", 9, one, Type::Message, ".google.protobuf.Timestamp"),
            field("raw", 12, one, Type::Bytes, ""),
        ],
    );
    let value = |name: &str, number| EnumValueDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        ..Default::default()
    };
    let state = EnumDescriptorProto {
        name: Some("State".to_owned()),
        value: vec![value("NONE", 0), value("A_LONG_NAME_OF_A_STATE", 1)],
        ..Default::default()
    };
    let own = FileDescriptorProto {
        name: Some("t.proto".to_owned()),
        package: Some("t".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec!["google.proto".to_owned()],
        message_type: vec![all, flat],
        enum_type: vec![state],
        ..Default::default()
    };
    let set = FileDescriptorSet { file: vec![google, own] };
    PayloadSchema::protobuf(&set.encode_to_vec(), name).unwrap()
}

const MOST: usize = 10_000;

/// The JSON of a payload, or why there is none.
fn unpacked(schema: &PayloadSchema, payload: &[u8]) -> Result<String, String> {
    let mut packer = Packer::new(MOST);
    let unpacked = schema.unpacker(Wanted::All).unpack(payload, &mut packer);
    unpacked.map_err(|why| why.to_string())?;
    packer.check_members();
    let mut text = Vec::new();
    Packed::push_other(packer.bytes(), &mut text);
    Packed::split_object(packer.bytes(), |_, _| {}).unwrap();
    Ok(String::from_utf8(text).unwrap())
}

/// A field with a length.
fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128);
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

#[test]
fn what_is_not_written_has_a_value() {
    assert_eq!(
        unpacked(&schema(), b"").unwrap(),
        r#"{"id":0,"text":"","floats":[],"numbers":[],"state":"NONE","selves":[],"by_name":[],"raw":"","states":[]}"#
    );
}

#[test]
fn fields_come_in_any_order_and_in_pieces() {
    let schema = schema();
    let parts = [
        delimited(4, &[1, 2]),
        delimited(6, &[0x08, 1]),
        vec![0x08, 7],
        vec![0x20, 5],
        delimited(6, &[0x12, 1, b'x']),
        delimited(8, &[&[0x0a, 1, b'k'][..], &delimited(2, &[0x08, 3])].concat()),
        delimited(8, &[0x0a, 1, b'k']),
        delimited(13, &[1, 9]),
        // A field that nobody knows, and one that is of another kind.
        vec![0xa0, 0x06, 1],
        vec![0x15, 0, 0, 0, 0],
    ];
    let text = unpacked(&schema, &parts.concat()).unwrap();
    for part in [
        r#""id":7"#,
        r#""numbers":[-1,1,-3]"#,
        r#""self":{"id":1,"text":"x""#,
        r#""by_name":[{"key":"k","value":{"id":0"#,
        r#""states":["A_LONG_NAME_OF_A_STATE",9]"#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_is_malformed_is_no_message() {
    for payload in [
        &[0x08][..],
        &[0x08, 0x80],
        &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        &[0x12, 5, b'x'],
        &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x1a, 7, 0, 0, 0, 0, 0, 0, 0],
        &[0x22, 1, 0x80],
        &[0x00, 0],
        &[0x0e],
        &[0x0b],
        &[0x0b, 0x14],
        &[0x0c],
        &[0x32, 2, 0x08, 0x80],
    ] {
        assert_eq!(
            unpacked(&schema(), payload).unwrap_err(),
            "is not a message t.All",
            "{payload:?}"
        );
    }
}

#[test]
fn only_what_is_wanted_is_unpacked() {
    let mut packer = Packer::new(MOST);
    let wanted = Wanted::Only(["text".to_owned()].into());
    let payload = [&[0x08, 7][..], &delimited(2, b"x"), &delimited(7, &[0x08, 0x80])].concat();
    schema().unpacker(wanted).unpack(&payload, &mut packer).unwrap();
    assert_eq!(packer.bytes(), b"\xdf\0\0\0\x01\xa4text\xa1x");
}

#[test]
fn fields_of_a_flat_message_may_come_in_any_order() {
    let schema = schema_of("t.Flat");
    let text = |content: &[u8]| delimited(2, content);
    let (seven, one) = ([0x08, 7], [0x28, 1]);
    let expected = |id: u8, text: &str, state: &str| {
        Ok(format!(r#"{{"id":{id},"text":"{text}","state":"{state}","raw":""}}"#))
    };
    for (payload, id, name, state) in [
        (vec![], 0, "", "NONE"),
        ([&seven[..], &text(b"x"), &one].concat(), 7, "x", "A_LONG_NAME_OF_A_STATE"),
        ([&one[..], &text(b"x"), &seven].concat(), 7, "x", "A_LONG_NAME_OF_A_STATE"),
        ([&text(b"x")[..], &text(b"y")].concat(), 0, "y", "NONE"),
        ([&[0x08, 1], &seven[..], &text(b"y")].concat(), 7, "y", "NONE"),
        // A field that nobody knows, and one that is written as another kind.
        ([&seven[..], &[0x20, 9], &delimited(5, b"z"), &text(b"y")].concat(), 7, "y", "NONE"),
    ] {
        assert_eq!(unpacked(&schema, &payload), expected(id, name, state), "{payload:?}");
    }
    // A message in two pieces is one.
    let at = [delimited(9, &[0x08, 2]), delimited(9, &[0x10, 5])].concat();
    let read = unpacked(&schema, &at).unwrap();
    assert!(read.contains(r#""at":"1970-01-01T00:00:02.000000005Z""#), "{read}");
    let broken = [&one[..], &seven, &[0x12, 9]].concat();
    assert_eq!(unpacked(&schema, &broken).unwrap_err(), "is not a message t.Flat");
}

#[test]
fn what_grows_is_bounded() {
    let schema = schema();
    assert!(unpacked(&schema, &[0x3a, 0].repeat(1_000)).unwrap_err().contains("payload_max_bytes"));
    let names = [&[0x6a, 100][..], &[1; 100]].concat();
    assert!(unpacked(&schema, &names.repeat(10)).unwrap_err().contains("payload_max_bytes"));
    let mut deep = Vec::new();
    for _ in 0..60 {
        deep = delimited(6, &deep);
    }
    assert!(unpacked(&schema, &deep).is_ok());
    let mut deep = vec![0x08, 1];
    for _ in 0..200 {
        let mut len = Vec::new();
        len.push(0x32);
        let mut left = deep.len();
        while left >= 128 {
            len.push(left as u8 | 128);
            left >>= 7;
        }
        len.push(left as u8);
        deep = [len, deep].concat();
    }
    assert!(unpacked(&schema, &deep).unwrap_err().contains("128 levels"));
}

/// Parts of messages, of which some are none.
fn parts() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..8),
        any::<u8>().prop_map(|byte| vec![0x08, byte & 0x7f]),
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(|text| delimited(2, &text)),
        proptest::collection::vec(0u8..4, 0..8).prop_map(|names| delimited(13, &names)),
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(|other| delimited(11, &other)),
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(|other| delimited(9, &other)),
    ];
    leaf.prop_recursive(6, 24, 4, |inner| {
        (proptest::sample::select(vec![6u8, 7, 8]), proptest::collection::vec(inner, 0..4))
            .prop_map(|(number, parts)| {
                let mut content = parts.concat();
                content.truncate(127);
                delimited(number, &content)
            })
    })
}

proptest! {
    #[test]
    fn whatever_comes_is_a_message_or_refused(parts in proptest::collection::vec(parts(), 0..6)) {
        let schema = schema();
        let payload = parts.concat();
        let mut packer = Packer::new(MOST);
        if schema.unpacker(Wanted::All).unpack(&payload, &mut packer).is_ok() {
            let is_map = Packed::split_object(packer.bytes(), |_, _| {}).is_ok();
            prop_assert!(is_map);
            // What was read may be written, and is the same when it is read again.
            let mut again = Vec::new();
            if schema.packer().pack(packer.bytes(), &mut again).is_ok() {
                let mut second = Packer::new(usize::MAX);
                schema.unpacker(Wanted::All).unpack(&again, &mut second).unwrap();
                prop_assert_eq!(packer.bytes(), second.bytes());
            }
        }
        // Between two looks no more is written than one value that came.
        prop_assert!(packer.bytes().len() <= MOST + 2 * payload.len() + 1_000);
    }
}
