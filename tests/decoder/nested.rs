//! Lists, arrays and structs from JSON.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use redfloe::{Batch, ErrorKind, NullValues, OnError, ReplyShape, StreamSchema};

use crate::common::{Protocol, column_texts, decode_every_way, decode_whole, entry};
use crate::dtypes::{categorical, field, polars_enum, samples};

fn item(data_type: DataType) -> FieldRef {
    Arc::new(Field::new("item", data_type, true))
}

fn list(data_type: DataType) -> DataType {
    DataType::List(item(data_type))
}

fn array(data_type: DataType, size: i32) -> DataType {
    DataType::FixedSizeList(item(data_type), size)
}

fn structure<const N: usize>(fields: [(&str, DataType); N]) -> DataType {
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    DataType::Struct(fields.to_vec().into())
}

/// JSON texts, and what their values look like.
fn fits(data_type: DataType, cases: &[(&str, &str)]) {
    let entries: Vec<_> =
        cases.iter().zip(1..).map(|((json, _), ms)| entry(ms, [("v", json)])).collect();
    let batch = decode_every_way(&StreamSchema::closed([field(data_type.clone())]), &entries)
        .unwrap_or_else(|error| panic!("{data_type}: {error}"));
    assert_eq!(batch.records().column_by_name("v").unwrap().data_type(), &data_type);
    let expected: Vec<_> = cases.iter().map(|(_, value)| Some((*value).to_owned())).collect();
    assert_eq!(column_texts(&batch, "v"), expected, "{data_type}");
}

#[test]
fn lists_hold_elements_and_nulls() {
    for data_type in [list(DataType::Int64), DataType::LargeList(item(DataType::Int64))] {
        fits(
            data_type,
            &[
                ("[1,2,3]", "[1, 2, 3]"),
                ("[]", "[]"),
                (" [ 1 ,\n null , -2 ] ", "[1, null, -2]"),
                ("[null]", "[null]"),
            ],
        );
    }
    fits(
        list(DataType::Utf8View),
        &[
            (r#"["a", "", "null", null]"#, "[a, , null, null]"),
            (
                r#"["gr\u00f6\u00dfer", "\ud83e\udd80", "tab\tquote\""]"#,
                "[größer, 🦀, tab\tquote\"]",
            ),
            // What is not a string is kept as its JSON.
            (r#"[1.50, true, {"a": [1]}]"#, r#"[1.50, true, {"a": [1]}]"#),
        ],
    );
}

#[test]
fn arrays_have_one_length() {
    fits(array(DataType::Int32, 2), &[("[1,2]", "[1, 2]"), ("[null,4]", "[null, 4]")]);
    fits(array(DataType::Int32, 0), &[("[]", "[]")]);
    fits(
        array(array(DataType::Int8, 2), 2),
        &[("[[1,2],[3,4]]", "[[1, 2], [3, 4]]"), ("[null,[3,null]]", "[null, [3, null]]")],
    );
}

#[test]
fn structs_take_their_own_keys() {
    fits(
        structure([("a", DataType::Int64), ("b", DataType::Utf8View)]),
        &[
            (r#"{"a":1,"b":"x"}"#, "{a: 1, b: x}"),
            (r#"{"b":"x"}"#, "{a: null, b: x}"),
            ("{}", "{a: null, b: null}"),
            (r#"{"c":[1,{}],"a":null}"#, "{a: null, b: null}"),
            // The last of a repeated key wins, as in every JSON library's dict.
            (r#"{"a":"no number","a":2}"#, "{a: 2, b: null}"),
            (r#"{"\u0061":3}"#, "{a: 3, b: null}"),
        ],
    );
    fits(structure([]), &[("{}", "{}"), (r#"{"a":1}"#, "{}")]);
}

#[test]
fn elements_follow_the_rules_of_their_own_dtype() {
    fits(list(DataType::Date32), &[(r#"["2024-01-31",null]"#, "[2024-01-31, null]")]);
    fits(list(DataType::Decimal128(5, 2)), &[(r#"[1.50,"2.25",1e1]"#, "[1.50, 2.25, 10.00]")]);
    fits(list(DataType::Boolean), &[(r#"[true,false,"yes",0]"#, "[true, false, true, false]")]);
    fits(list(DataType::Float64), &[(r#"[1,2.5e0,"inf"]"#, "[1.0, 2.5, inf]")]);
    // As Python's json.dumps writes them.
    fits(list(DataType::Float64), &[("[NaN,-Infinity,Infinity]", "[NaN, -inf, inf]")]);
    // JSON has one type of numbers.
    fits(list(DataType::Int8), &[("[1.0,-12e1,1]", "[1, -120, 1]")]);
    fits(list(DataType::BinaryView), &[(r#"["/wA=",""]"#, "[ff00, ]")]);
    fits(list(DataType::UInt64), &[("[18446744073709551615]", "[18446744073709551615]")]);
    fits(
        list(DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        &[(
            r#"["1970-01-01T01:00:00+01:00",1500]"#,
            "[1970-01-01T00:00:00Z, 1970-01-01T00:00:01.500Z]",
        )],
    );
    fits(
        structure([
            ("time", DataType::Time64(TimeUnit::Nanosecond)),
            ("span", DataType::Duration(TimeUnit::Second)),
            ("kind", categorical(DataType::UInt32).data_type().clone()),
        ]),
        &[(
            r#"{"time":"12:30:00","span":"PT90S","kind":"x"}"#,
            "{time: 12:30:00, span: PT90S, kind: x}",
        )],
    );
}

#[test]
fn nesting_has_no_limit_of_depth() {
    fits(
        list(structure([
            ("tags", list(DataType::Utf8View)),
            ("at", array(DataType::Float64, 2)),
            ("raw", structure([("bytes", DataType::BinaryView)])),
        ])),
        &[
            (
                r#"[{"tags":["a","b"],"at":[1.5,null],"raw":{"bytes":"/w=="}},null,{}]"#,
                "[{tags: [a, b], at: [1.5, null], raw: {bytes: ff}}, null, \
                 {tags: null, at: null, raw: null}]",
            ),
            ("[]", "[]"),
        ],
    );
    fits(list(list(list(DataType::Int8))), &[("[[[1],[]],null,[]]", "[[[1], []], null, []]")]);
}

#[test]
fn a_json_null_is_null() {
    for data_type in
        [list(DataType::Int8), array(DataType::Int8, 2), structure([("a", DataType::Int8)])]
    {
        let schema = StreamSchema::closed([field(data_type)]);
        let batch = decode_every_way(&schema, &[entry(1, [("v", "null")])]).unwrap();
        assert_eq!(column_texts(&batch, "v"), [None]);
    }
}

#[test]
fn what_does_not_fit_is_located() {
    let point = || structure([("x", DataType::Int8), ("tags", list(DataType::Date32))]);
    let deep = "[".repeat(100_000);
    for (data_type, json, expected) in [
        (list(DataType::Int8), "1", "is not a JSON array"),
        (list(DataType::Int8), "{}", "is not a JSON array"),
        (list(DataType::Int8), "[1", "is not a JSON array"),
        (list(DataType::Int8), "[1,]", "is not a JSON array"),
        (list(DataType::Int8), "[1] [2]", "is not a JSON array"),
        (list(DataType::Int8), "[nan]", "is not a JSON array"),
        (list(DataType::Int8), "[NaN]", "\"NaN\" at v[0] is not an integer"),
        (list(DataType::Int8), &deep, "is not a JSON array"),
        (list(DataType::Int8), "[1,128]", "\"128\" at v[1] is out of range"),
        (list(DataType::BinaryView), r#"["?"]"#, "\"?\" at v[0] is not base64"),
        (list(DataType::Utf8View), r#"["\ud800"]"#, "\"\\xed\\xa0\\x80\" at v[0] is not UTF-8"),
        (array(DataType::Int8, 2), "[1]", "has 1 element, not 2"),
        (point(), "[]", "is not a JSON object"),
        (point(), r#"{"x":1"#, "is not a JSON object"),
        (point(), r#"{"x":1.5}"#, "\"1.5\" at v.x is not an integer"),
        (point(), r#"{"x":"no","tags":["no"]}"#, "\"no\" at v.x is not an integer"),
        (point(), r#"{"tags":{}}"#, "\"{}\" at v.tags is not a JSON array"),
        (structure([("a.b", DataType::Int8)]), r#"{"a.b":"x"}"#, "\"x\" at v[\"a.b\"] is not an"),
        (
            list(point()),
            r#"[{},{"x":1,"tags":["2024-01-31","no"]}]"#,
            "\"no\" at v[1].tags[1] is not an ISO 8601 date",
        ),
    ] {
        let schema = StreamSchema::closed([field(data_type)]);
        let reply = Protocol::Resp2.entries(&[entry(1, [("v", json)])]);
        let error = decode_whole(&schema, ReplyShape::Entries, &reply).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.message().contains(expected), "{error}");
    }
}

/// Each would take many times its own memory.
#[test]
fn beyond_a_thousand_misfits_the_whole_text_is_rescued() {
    let schema = StreamSchema::closed([field(list(list(DataType::Boolean)))]);
    let of = |misfits: usize| format!("[[{}true]]", "2,".repeat(misfits));
    let texts = [of(1_000), of(1_001), of(0), of(1)];
    let entries: Vec<_> =
        texts.iter().zip(1..).map(|(text, ms)| entry(ms, [("v", text)])).collect();
    let batch =
        decode_every_way(&schema.clone().with_rescue_column(Some("rest")), &entries).unwrap();
    let rescued: Vec<Option<serde_json::Value>> = column_texts(&batch, "rest")
        .iter()
        .map(|text| text.as_ref().map(|text| serde_json::from_str(text).unwrap()))
        .collect();
    let [Some(thousand), whole, None, one] = rescued.as_slice() else {
        panic!("{rescued:?}");
    };
    assert_eq!(thousand.as_object().unwrap().len(), 1_000);
    assert_eq!(thousand["v[0][999]"], "2");
    assert_eq!(*whole, Some(serde_json::json!({"v": texts[1]})));
    assert_eq!(*one, Some(serde_json::json!({"v[0][0]": "2"})));
    // The values are those without a rescue column: only what does not fit is null.
    let nulled = decode_every_way(&schema.with_on_error(OnError::Null), &entries).unwrap();
    let value = |batch: &Batch| Arc::clone(batch.records().column_by_name("v").unwrap());
    assert_eq!(&value(&batch), &value(&nulled));
    assert!(column_texts(&batch, "v")[1].as_ref().unwrap().ends_with("true]]"));

    // What was found in an array that is refused itself does not count.
    let schema = StreamSchema::closed([field(list(array(DataType::Boolean, 1)))]);
    let text = format!("{},[3]]", of(2_000).strip_suffix(']').unwrap());
    let batch = decode_every_way(
        &schema.with_rescue_column(Some("rest")),
        &[entry(1, [("v", text.as_str())])],
    );
    let rescued = column_texts(&batch.unwrap(), "rest")[0].clone().unwrap();
    assert!(rescued.contains(r#""v[1][0]":"3""#), "{rescued}");
}

/// A value that is refused in its end, after all others were appended, between two that fit; and one
/// in which another does not fit.
#[test]
fn a_refused_value_leaves_no_trace() {
    for (field, sample) in samples() {
        let child: FieldRef = Arc::new(field.with_name("item"));
        let quoted = match child.data_type() {
            DataType::BinaryView => "\"YnkxMg==\"".to_owned(),
            _ if sample.starts_with(['[', '{']) => sample.to_owned(),
            _ => format!("{sample:?}"),
        };
        let wrapped = Field::new("a", child.data_type().clone(), true)
            .with_metadata(child.metadata().clone());
        let fails = Field::new("b", DataType::Int8, true);
        // A struct whose first field fits and whose second does not, within a list.
        let outer = DataType::List(item(DataType::Struct(vec![wrapped, fails].into())));
        let good = format!(r#"[{{"a":{quoted},"b":1}},{{"a":null}}]"#);
        let bad = format!(r#"[{{"a":{quoted},"b":"no"}},{{"a":{quoted},"b":2}}"#);
        let spoilt = format!(r#"[{{"a":{quoted},"b":"no"}},{{"a":null}}]"#);
        let nulled = spoilt.replace("\"no\"", "null");
        let read = |texts: &[&str]| -> ArrayRef {
            let entries: Vec<_> = texts.iter().map(|text| entry(1, [("v", text)])).collect();
            let schema = StreamSchema::closed([crate::dtypes::field(outer.clone())])
                .with_on_error(OnError::Null);
            let batch = decode_every_way(&schema, &entries).unwrap();
            Arc::clone(batch.records().column_by_name("v").unwrap())
        };
        let mixed = read(&[&good, &bad, &spoilt, &bad]);
        let clean = read(&[&good, "", &nulled, ""]);
        assert_eq!(&mixed, &clean, "{outer}");
        assert_eq!(mixed.null_count(), 2);
        assert_eq!(mixed.as_list::<i32>().values().len(), 4, "{outer}");
    }
}

#[test]
fn an_enum_inside_json_knows_its_members() {
    let member = polars_enum("3;low4;high").with_name("item");
    let schema = StreamSchema::closed([field(DataType::List(Arc::new(member)))]);
    let batch = decode_every_way(&schema, &[entry(1, [("v", r#"["high",null,"low"]"#)])]).unwrap();
    assert_eq!(column_texts(&batch, "v"), [Some("[high, null, low]".to_owned())]);
    let error = decode_every_way(&schema, &[entry(1, [("v", r#"["mid"]"#)])]).unwrap_err();
    assert!(error.to_string().contains("at v[0] is not a member"), "{error}");
}

#[test]
fn what_is_null_outside_is_null_inside() {
    let text = |data_type| structure([("x", data_type)]);
    let by_field = [("v".to_owned(), vec!["NA".to_owned(), "-1".to_owned()])].into();
    let null_values = NullValues { all: vec!["?".to_owned()], by_field };
    for (data_type, json, expected) in [
        (text(DataType::Int64), r#"{"x":""}"#, "{x: null}"),
        (text(DataType::Int64), r#"{"x":"NA"}"#, "{x: null}"),
        (text(DataType::Int64), r#"{"x":-1}"#, "{x: null}"),
        (text(DataType::Utf8View), r#"{"x":"\u003f"}"#, "{x: null}"),
        (text(DataType::Utf8View), r#"{"x":""}"#, "{x: }"),
        (text(list(DataType::Int64)), r#"{"x":["", "?", 1]}"#, "{x: [null, null, 1]}"),
        (text(list(DataType::Int64)), r#"{"x":""}"#, "{x: null}"),
        (list(DataType::Date32), r#"["", "NA"]"#, "[null, null]"),
        (list(DataType::BinaryView), r#"["", "NA"]"#, "[, null]"),
        (list(structure([("x", DataType::Boolean)])), r#"["", {"x": ""}]"#, "[null, {x: null}]"),
        (array(DataType::Float64, 2), r#"["", "?"]"#, "[null, null]"),
    ] {
        let schema = StreamSchema::closed([field(data_type)]).with_null_values(null_values.clone());
        let batch = decode_every_way(&schema, &[entry(1, [("v", json)])]).unwrap();
        assert_eq!(column_texts(&batch, "v"), [Some(expected.to_owned())], "{json}");
    }
    for dictionary in [categorical(DataType::UInt32), polars_enum("1;a")] {
        let item = std::sync::Arc::new(dictionary.with_name("item"));
        let schema = StreamSchema::closed([field(DataType::List(item))]);
        let batch = decode_every_way(&schema, &[entry(1, [("v", r#"["", "a"]"#)])]).unwrap();
        assert_eq!(column_texts(&batch, "v"), [Some("[null, a]".to_owned())]);
    }
}
