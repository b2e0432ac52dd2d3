use proptest::prelude::*;
use rmp::encode;

use super::*;

/// The texts of a map's keys and values.
fn members(document: &[u8]) -> Option<Vec<(String, String)>> {
    let mut members = Vec::new();
    let text = |value: Value| {
        let mut out = Vec::new();
        Packed::push_text(value, document, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    let split = Packed::split_object(document, |key, value| {
        members.push((text(key), text(value)));
    });
    split.is_ok().then_some(members)
}

/// A map of one member.
fn map_of(value: &[u8]) -> Vec<u8> {
    [b"\x81\xa1k", value].concat()
}

#[test]
fn values_have_the_texts_that_json_would_have() {
    for (value, expected) in [
        (&b"\xc0"[..], "null"),
        (b"\xc3", "true"),
        (b"\x7f", "127"),
        (b"\xe0", "-32"),
        (b"\xcd\x01\x00", "256"),
        (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808"),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
        (b"\xcb\x40\x14\x00\x00\x00\x00\x00\x00", "5.0"),
        (b"\xca\x3f\x00\x00\x00", "0.5"),
        (b"\xcb\xff\xf0\x00\x00\x00\x00\x00\x00", "-Infinity"),
        (b"\xa2\xc3\xb6", "ö"),
        (b"\xd9\x02no", "no"),
        (b"\xc4\x02ab", "ab"),
        (b"\xd6\xff\x65\x92\x00\x80", "2024-01-01T00:00:00Z"),
        (
            b"\xc7\x0c\xff\x00\x00\x03\xe8\xff\xff\xff\xff\xff\xff\xff\xff",
            "1969-12-31T23:59:59.000001Z",
        ),
        (b"\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", "@9223372036854775807"),
        // An application's extension, and a timestamp with too many nanoseconds, are bytes.
        (b"\xd5\x07ab", "ab"),
        (b"\xc7\x0c\xffaaaabbbbcccc", "aaaabbbbcccc"),
        (b"\x93\x01\xc0\x81\xa1a\xa1\"", r#"[1,null,{"a":"\""}]"#),
        (b"\x92\xc4\x01\xff\xd6\xff\x00\x00\x00\x00", r#"["/w==","1970-01-01T00:00:00Z"]"#),
        (b"\x82\x01\x02\xc4\x01a\xca\x7f\xc0\x00\x00", r#"{"1":2,"YQ==":NaN}"#),
    ] {
        let members = members(&map_of(value)).unwrap();
        assert_eq!(members, [("k".to_owned(), expected.to_owned())], "{value:?}");
    }
}

#[test]
fn keys_are_text_or_numbers() {
    let document = b"\x83\x01\x02\xc4\x01b\xc2\xa1c\x90";
    let texts = members(document).unwrap();
    let expected = [("1", "2"), ("b", "false"), ("c", "[]")];
    assert_eq!(texts, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    for key in [&b"\xc0"[..], b"\xc3", b"\x90", b"\x80", b"\xd6\xff\x00\x00\x00\x00"] {
        assert_eq!(members(&[b"\x81", key, b"\x01"].concat()), None, "{key:?}");
    }
}

#[test]
fn what_is_cut_or_goes_on_is_malformed() {
    let mut whole = Vec::new();
    let _ = encode::write_map_len(&mut whole, 2);
    let _ = encode::write_str(&mut whole, "list");
    let _ = encode::write_array_len(&mut whole, 2);
    let _ = encode::write_bin(&mut whole, b"bytes");
    let _ = encode::write_map_len(&mut whole, 0);
    let _ = encode::write_str(&mut whole, "n");
    let _ = encode::write_f64(&mut whole, 1.5);
    assert!(members(&whole).is_some());
    for end in 0..whole.len() {
        assert_eq!(members(&whole[..end]), None, "{end}");
    }
    assert_eq!(members(&[&whole[..], b"\xc0"].concat()), None);
    assert_eq!(members(b"\x81\xa1k\xc1"), None);
    assert_eq!(members(b"\x91\x01"), None);
}

#[test]
fn lengths_that_are_not_there_are_not_believed() {
    for value in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\xff",
        b"\xdc\xff\xff\x01\x01",
        b"\x92\x01",
    ] {
        assert_eq!(members(&map_of(value)), None, "{value:?}");
    }
    assert_eq!(members(b"\xdf\xff\xff\xff\xff"), None);
}

#[test]
fn values_are_nested_128_levels_deep_at_most() {
    let nested = |depth: usize| map_of(&[&b"\x91".repeat(depth)[..], b"\xc0"].concat());
    let texts = members(&nested(128)).unwrap();
    assert_eq!(texts[0].1, "[".repeat(128) + "null" + &"]".repeat(128));
    assert_eq!(members(&nested(129)), None);
    assert_eq!(members(&nested(100_000)), None);
    let maps = map_of(&[&b"\x81\xa0".repeat(100_000)[..], b"\xc0"].concat());
    assert_eq!(members(&maps), None);
}

proptest! {
    #[test]
    fn any_bytes_are_split_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for first in [b"\x81\xa1k".as_slice(), b"\x8f", b""] {
            let document = [first, &bytes].concat();
            let _ = members(&document);
            let _ = Packed::split_array(&document, |value| {
                assert!(value.start() + value.len() <= document.len());
            });
        }
    }

    /// Whole documents, of which a byte is changed.
    #[test]
    fn a_changed_byte_harms_nothing(
        place in 0..64usize,
        byte: u8,
        number: i64,
        text in ".{0,40}",
    ) {
        let mut document = Vec::new();
        let _ = encode::write_map_len(&mut document, 3);
        let _ = encode::write_str(&mut document, "a");
        let _ = encode::write_sint(&mut document, number);
        let _ = encode::write_str(&mut document, "b");
        let _ = encode::write_array_len(&mut document, 1);
        let _ = encode::write_str(&mut document, &text);
        let _ = encode::write_str(&mut document, "c");
        let _ = encode::write_map_len(&mut document, 0);
        let found = members(&document).unwrap();
        prop_assert_eq!(&found[0].1, &number.to_string());
        prop_assert_eq!(serde_json::from_str(&found[1].1).ok(), Some(vec![text]));
        if let Some(old) = document.get_mut(place) {
            *old = byte;
        }
        let _ = members(&document);
    }
}
