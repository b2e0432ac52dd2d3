//! Misfits inside values: only they are null, and each is rescued under its path.

use std::collections::BTreeMap;

use arrow_schema::{DataType, Field};
use proptest::collection::vec;
use proptest::prelude::*;
use redfloe::{Batch, Error, ErrorKind, OnError, Payload, ReplyShape, StreamSchema};
use serde_json::{Map, Value};

use crate::common::{Entry, Protocol, column_texts, entry};
use crate::decode;

/// A dtype that holds others.
fn nested() -> impl Strategy<Value = DataType> {
    let leaf = prop_oneof![Just(DataType::Int8), Just(DataType::Utf8View)];
    let dtype = leaf.prop_recursive(3, 16, 3, |inner| {
        let item = |inner: DataType| Field::new("item", inner, true).into();
        prop_oneof![
            inner.clone().prop_map(move |inner| DataType::List(item(inner))),
            inner.clone().prop_map(move |inner| DataType::FixedSizeList(item(inner), 2)),
            vec(inner, 1..4).prop_map(|fields| {
                let names = ["a", "b", "c.d"];
                let fields = names.iter().zip(fields);
                let fields = fields.map(|(name, inner)| Field::new(*name, inner, true));
                DataType::Struct(fields.collect::<Vec<_>>().into())
            }),
        ]
    });
    dtype
        .prop_filter("holds nothing", |dtype| !matches!(dtype, DataType::Int8 | DataType::Utf8View))
}

/// A value that nearly fits the dtype.
fn near(dtype: &DataType) -> BoxedStrategy<Value> {
    let other = prop_oneof![
        prop::sample::select(vec!["", "x", "5", "n/a", "\u{fc}\"\\"]).prop_map(Value::from),
        prop::sample::select(vec![0, -128, 128]).prop_map(Value::from),
        Just(Value::from(1.5)),
        Just(Value::Null),
        Just(Value::from(true)),
        Just(serde_json::json!([1])),
        Just(serde_json::json!({"a": 1})),
    ];
    let fits = match dtype {
        DataType::Int8 => any::<i8>().prop_map(Value::from).boxed(),
        DataType::List(item) => vec(near(item.data_type()), 0..4).prop_map(Value::from).boxed(),
        DataType::FixedSizeList(item, _) => {
            vec(near(item.data_type()), 1..4).prop_map(Value::from).boxed()
        }
        DataType::Struct(fields) => {
            let members = fields.iter().map(|field| {
                let value = prop::option::weighted(0.9, near(field.data_type()));
                value.prop_map({
                    let name = field.name().clone();
                    move |value| value.map(|value| (name.clone(), value))
                })
            });
            let members: Vec<_> = members.collect();
            let object = members.prop_map(|members| members.into_iter().flatten().collect());
            object.prop_map(Value::Object).boxed()
        }
        _ => "[a-z]{0,15}".prop_map(Value::from).boxed(),
    };
    prop_oneof![8 => fits, 1 => other].boxed()
}

/// The value with null for each that does not fit, which `misfits` has by its path.
fn mended(
    dtype: &DataType,
    value: &Value,
    path: String,
    misfits: &mut BTreeMap<String, String>,
) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (dtype, value) {
        (_, Value::Null) | (DataType::Utf8View, _) => return value.clone(),
        (_, Value::String(text)) if text.is_empty() => return Value::Null,
        (DataType::Int8, _) if text.parse::<i8>().is_ok() => return value.clone(),
        (DataType::List(item), Value::Array(values)) => {
            let mut mend = |(index, value)| {
                mended(item.data_type(), value, format!("{path}[{index}]"), misfits)
            };
            return values.iter().enumerate().map(&mut mend).collect();
        }
        (DataType::FixedSizeList(item, size), Value::Array(values))
            if values.len() == *size as usize =>
        {
            let mut mend = |(index, value)| {
                mended(item.data_type(), value, format!("{path}[{index}]"), misfits)
            };
            return values.iter().enumerate().map(&mut mend).collect();
        }
        (DataType::Struct(fields), Value::Object(members)) => {
            let mut object = Map::new();
            for field in fields.iter() {
                let step = match field.name().contains('.') {
                    true => format!("[{:?}]", field.name()),
                    false => format!(".{}", field.name()),
                };
                let value = members.get(field.name()).unwrap_or(&Value::Null);
                let value = mended(field.data_type(), value, format!("{path}{step}"), misfits);
                object.insert(field.name().clone(), value);
            }
            return Value::Object(object);
        }
        _ => {}
    }
    // A path is a name, and in names a backslash is doubled.
    misfits.insert(path.replace('\\', r"\\"), text);
    Value::Null
}

/// Entries with each value in the field `v`, or in a document under the key `v`.
fn entries(values: &[Value], in_document: bool) -> Vec<Entry> {
    let entry = |(value, ms): (&Value, u64)| match in_document {
        true => entry(ms, [("data", serde_json::json!({ "v": value }).to_string())]),
        false => entry(ms, [("v", value.to_string())]),
    };
    values.iter().zip(1..).map(entry).collect()
}

proptest! {
    #[test]
    fn a_misfit_inside_a_value_is_null_alone(
        (dtype, values) in nested().prop_flat_map(|dtype| {
            let near = near(&dtype).prop_filter("a field's text has no quotes", |value| !value.is_string());
            (Just(dtype), vec(near, 1..6))
        }),
        in_document: bool,
        sizes in vec(1..100usize, 0..5),
        build: bool,
    ) {
        let mut misfits = vec![BTreeMap::new(); values.len()];
        let mended: Vec<_> = values
            .iter()
            .zip(&mut misfits)
            .map(|(value, misfits)| mended(&dtype, value, "v".to_owned(), misfits))
            .collect();
        let schema = StreamSchema::closed([Field::new("v", dtype, true)])
            .with_payload(in_document.then(|| Payload::new("data")));
        let read = |values: &[Value], schema: &StreamSchema| -> Result<Batch, Error> {
            let reply = Protocol::Resp2.entries(&entries(values, in_document));
            decode(schema, ReplyShape::Entries, &reply, &sizes, build).end
        };
        let column = |batch: &Batch| batch.records().column_by_name("v").unwrap().clone();
        let expected = read(&mended, &schema)?;

        let null = schema.clone().with_on_error(OnError::Null);
        prop_assert_eq!(&column(&read(&values, &null)?), &column(&expected));

        let rescued = read(&values, &schema.clone().with_rescue_column(Some("rescued")))?;
        prop_assert_eq!(&column(&rescued), &column(&expected));
        let texts = column_texts(&rescued, "rescued").into_iter();
        let texts: Vec<_> = texts.map(|json| json.map_or(BTreeMap::new(), |json| {
            serde_json::from_str(&json).unwrap()
        })).collect();
        prop_assert_eq!(&texts, &misfits);

        let reject = schema.clone().with_on_error(OnError::Reject);
        let kept = read(&values, &reject)?;
        let fits: Vec<_> = (0..values.len()).filter(|row| misfits[*row].is_empty()).collect();
        let fitting: Vec<_> = fits.iter().map(|row| mended[*row].clone()).collect();
        prop_assert_eq!(&column(&kept), &column(&read(&fitting, &schema)?));
        prop_assert_eq!(kept.rejected().len(), values.len() - fits.len());

        let raised = read(&values, &schema).map_err(|error| error.kind());
        match fits.len() == values.len() {
            true => prop_assert!(raised.is_ok()),
            false => prop_assert_eq!(raised.unwrap_err(), ErrorKind::Decode),
        }
    }
}
