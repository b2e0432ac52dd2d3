use proptest::prelude::*;

use super::*;

fn members(text: &str) -> Option<Vec<(String, String)>> {
    let mut members = Vec::new();
    let text = text.as_bytes();
    let shown = |value: Value| {
        let mut out = Vec::new();
        match value.is_escaped() {
            true => unescape(value.of(text), &mut out),
            false => out.extend_from_slice(value.of(text)),
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    split_object(text, |key, value| members.push((shown(key), shown(value)))).ok()?;
    Some(members)
}

#[test]
fn objects_are_split_into_members() {
    for (text, expected) in [
        ("{}", &[][..]),
        (" {\t} \n", &[]),
        (r#"{"a":1}"#, &[("a", "1")]),
        (r#" { "a" : -1.5e+3 , "b":"x" }"#, &[("a", "-1.5e+3"), ("b", "x")]),
        (r#"{"a":[1,{"b":"]}"}],"c":{}}"#, &[("a", r#"[1,{"b":"]}"}]"#), ("c", "{}")]),
        (r#"{"a":null,"a":true}"#, &[("a", "null"), ("a", "true")]),
        (r#"{"\u0061\n":"\ud83e\udd80\/"}"#, &[("a\n", "🦀/")]),
        (
            r#"{"a":NaN,"b":-Infinity,"c":Infinity}"#,
            &[("a", "NaN"), ("b", "-Infinity"), ("c", "Infinity")],
        ),
    ] {
        let expected = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        assert_eq!(members(text), Some(expected.collect()), "{text}");
    }
}

#[test]
fn whatever_is_not_an_object_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "1",
        "null",
        "{} {}",
        "{},",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{"a":1 "b":2}"#,
        r#"{a:1}"#,
        r#"{'a':1}"#,
        r#"{"a":tru}"#,
        r#"{"a":truex}"#,
        r#"{"a":01}"#,
        r#"{"a":+1}"#,
        r#"{"a":.5}"#,
        r#"{"a":1.}"#,
        r#"{"a":1e}"#,
        r#"{"a":"x}"#,
        "{\"a\":\"\n\"}",
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12g4"}"#,
        r#"{"a":[1}}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":{"b"}}"#,
        r#"{"a":[}"#,
        r#"{"a":--1}"#,
        r#"{"a":"\"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":{"b":1,}}"#,
    ] {
        assert_eq!(members(text), None, "{text}");
    }
}

#[test]
fn nesting_has_a_limit_and_no_stack() {
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(members(&nested(DEEPEST as usize)).is_some());
    assert!(members(&nested(DEEPEST as usize + 1)).is_none());
    assert!(members(&nested(1_000_000)).is_none());
}

#[test]
fn half_a_surrogate_pair_is_no_text() {
    for text in [r"\ud83e", r"\udd80", r"\ud83e\ud83e", r"\ud83ex"] {
        let mut out = Vec::new();
        unescape(text.as_bytes(), &mut out);
        assert!(std::str::from_utf8(&out).is_err(), "{text}");
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let scalar = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    scalar.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::hash_map(any::<String>(), inner, 0..5)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_is_split_as_serde_splits_it(value in json(), damage: Option<(prop::sample::Index, char)>) {
        let mut text = serde_json::to_string(&serde_json::json!({ "key": value })).unwrap_or_default();
        if let Some((at, other)) = damage {
            let at = at.index(text.len());
            let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.replace_range(at..text.ceil_char_boundary(at + 1), &other.to_string());
        }
        type Raw = std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>;
        let expected = serde_json::from_str::<Raw>(&text).ok().map(|members| {
            let shown = |raw: &serde_json::value::RawValue| {
                serde_json::from_str::<String>(raw.get()).unwrap_or(raw.get().to_owned())
            };
            members.iter().map(|(key, raw)| (key.clone(), shown(raw))).collect::<Vec<_>>()
        });
        let mut split = members(&text);
        // Of which a map has one.
        if let Some(members) = &mut split {
            members.sort_by(|one, other| one.0.cmp(&other.0));
            members.reverse();
            members.dedup_by(|one, other| one.0 == other.0);
            members.reverse();
        }
        // serde refuses half a surrogate pair, and knows no NaN.
        if expected.is_some() {
            prop_assert_eq!(split, expected);
        } else if !text.contains("\\u") && !text.contains("NaN") && !text.contains("Infinity") {
            prop_assert_eq!(split, None);
        }
    }
}
