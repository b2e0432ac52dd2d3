//! The decoder on random entries, random cuts and random garbage.

#[path = "common/mod.rs"]
mod common;
#[path = "decoder_properties/nested.rs"]
mod nested;

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_schema::{DataType, Field, TimeUnit};
use proptest::collection::vec;
use proptest::prelude::*;
use redfloe::{
    Batch, Decoder, EntryId, Error, ErrorKind, OnError, Payload, ReplyShape, StreamSchema,
};

use common::{Entry, Protocol, cells, decode_whole, entry, feed};

/// Names of which some recur, some are odd, and some are in the schemas.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["n", "x", "flag", "list", "kind", "text"]).prop_map(Vec::from),
        2 => "[a-c]{0,2}".prop_map(String::into_bytes),
        1 => "[a\\\\\0]{1,3}".prop_map(String::into_bytes),
        1 => "\\PC{1,20}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..4),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        any::<f64>().prop_map(|x| x.to_string().into_bytes()),
        prop::sample::select(vec!["", "true", "no", "null", "[1,null]", r#"["x"]"#, r#"{"n":1}"#])
            .prop_map(Vec::from),
        "\\PC{0,40}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..40),
        (any::<u8>(), 0..5000usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

/// A document, or what is left of one.
fn document() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        4 => prop::sample::select(vec![r#""n""#, r#""x""#, r#""kind""#, r#""\u006e""#, r#""data""#])
            .prop_map(str::to_owned),
        1 => "\\PC{0,5}".prop_map(|key| serde_json::Value::from(key).to_string()),
    ];
    let members = vec((key, field_and_json()), 0..6).prop_map(|members| {
        let members: Vec<_> =
            members.iter().map(|(key, (_, json))| format!("{key}: {json}")).collect();
        format!("{{{}}}", members.join(", ")).into_bytes()
    });
    let damage = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (members, damage).prop_map(|(mut document, damage)| {
        if let Some((at, byte)) = damage {
            let at = at.index(document.len());
            match byte % 3 {
                0 => document.truncate(at),
                1 => document[at] = byte,
                _ => document.insert(at, byte),
            }
        }
        document
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let fields =
        vec(prop_oneof![8 => (name(), value()), 2 => (Just(b"data".to_vec()), document())], 0..8);
    let entry = (any::<(u64, u64)>(), fields)
        .prop_map(|((ms, seq), fields)| Entry { id: EntryId::new(ms, seq), fields });
    vec(entry, 0..12)
}

/// A value as a field's text, and as JSON writes it.
fn field_and_json() -> impl Strategy<Value = (Option<String>, String)> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    prop_oneof![
        any::<i64>().prop_map(|n| (Some(n.to_string()), n.to_string())),
        // A whole one would be an integer in JSON, and none as a field.
        any::<f64>()
            .prop_filter("is no number of JSON, or whole", |x| x.is_finite() && x.fract() != 0.0)
            .prop_map(|x| {
                let text = serde_json::Value::from(x).to_string();
                (Some(text.clone()), text)
            }),
        any::<bool>().prop_map(|flag| (Some(flag.to_string()), flag.to_string())),
        "\\PC{0,20}".prop_map(move |text| (Some(text.clone()), quoted(&text))),
        any::<String>().prop_map(move |text| (Some(text.clone()), quoted(&text))),
        prop::sample::select(vec!["[1,null]", r#"["x"]"#, r#"{"n":1}"#, "[]", "{}"])
            .prop_map(|json| (Some(json.to_owned()), json.to_owned())),
        Just((None, "null".to_owned())),
    ]
}

/// What becomes of any entries whatever: no policy here raises.
fn lenient_schema() -> impl Strategy<Value = StreamSchema> {
    let dtypes = |n: DataType| {
        let item = |data_type| Field::new("item", data_type, true).into();
        let category =
            DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8View));
        [
            Field::new("n", n, true),
            Field::new("x", DataType::Float64, true),
            Field::new("flag", DataType::Boolean, true),
            Field::new("list", DataType::List(item(DataType::Utf8View)), true),
            Field::new("kind", category, true),
        ]
    };
    let typed = prop_oneof![
        Just(dtypes(DataType::Int64)),
        Just(dtypes(DataType::Duration(TimeUnit::Microsecond))),
        Just(dtypes(DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into())))),
        Just(dtypes(DataType::BinaryView)),
        Just(dtypes(DataType::Struct(vec![Field::new("n", DataType::Int8, true)].into()))),
    ];
    (typed, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(fields, open, rescue, reject, payload)| {
            let schema =
                if open { StreamSchema::open(fields) } else { StreamSchema::closed(fields) };
            // Names that no entry above can bear.
            schema
                .with_id_column(Some("the entry's ID, its text"))
                .with_timestamp_column(Some("the entry's ID, milliseconds"))
                .with_sequence_column(Some("the entry's ID, sequence number"))
                .with_on_error(if reject { OnError::Reject } else { OnError::Null })
                .with_rescue_column(rescue.then_some("what did not fit anywhere else"))
                // Only what may be rejected may clash with a field.
                .with_payload(payload.then(|| {
                    Payload::new("data").with_prefix(if reject { "" } else { "prefix of keys." })
                }))
        },
    )
}

/// What a whole reply comes to, however it went.
#[derive(Debug)]
struct Outcome {
    rows: usize,
    last_id: Option<EntryId>,
    end: Result<Batch, Error>,
}

/// Decodes in pieces of the given sizes, over and over; `build` asks for columns in between.
fn decode(
    schema: &StreamSchema,
    shape: ReplyShape,
    mut bytes: &[u8],
    sizes: &[usize],
    build: bool,
) -> Outcome {
    let mut decoder = Decoder::new(schema.clone(), shape).expect("the schemas here are valid");
    let mut sizes = sizes.iter().cycle();
    let mut decode = || -> Result<(), Error> {
        while !bytes.is_empty() {
            let size = sizes.next().copied().unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(size.clamp(1, bytes.len()));
            bytes = rest;
            feed(&mut decoder, piece)?;
            if build {
                decoder.build();
            }
        }
        Ok(())
    };
    let fed = decode();
    let (rows, last_id) = (decoder.rows(), decoder.last_id());
    Outcome { rows, last_id, end: fed.and_then(|()| decoder.flush()) }
}

fn assert_equal(one: &Outcome, other: &Outcome) -> Result<(), TestCaseError> {
    prop_assert_eq!(one.rows, other.rows);
    match (&one.end, &other.end) {
        (Ok(one), Ok(other)) => {
            prop_assert_eq!(one.records(), other.records());
            prop_assert_eq!(one.ids(), other.ids());
            prop_assert_eq!(one.deleted(), other.deleted());
            let rejected = |batch: &Batch| -> Vec<_> {
                batch.rejected().iter().map(|one| (one.id, one.error.to_string())).collect()
            };
            prop_assert_eq!(rejected(one), rejected(other));
        }
        // Which bytes an error quotes depends on the cut.
        (Err(one), Err(other)) => prop_assert_eq!(one.kind(), other.kind()),
        _ => prop_assert!(false, "{one:?} is not {other:?}"),
    }
    Ok(())
}

proptest! {
    #[test]
    fn cuts_and_protocols_make_no_difference(
        schema in lenient_schema(),
        entries in entries(),
        sizes in vec(1..200usize, 0..10),
        build: bool,
    ) {
        let reply = Protocol::Resp2.entries(&entries);
        let whole = decode(&schema, ReplyShape::Entries, &reply, &[], false);
        prop_assert_eq!(whole.rows, entries.len());
        prop_assert_eq!(whole.last_id, entries.last().map(|entry| entry.id));
        prop_assert!(whole.end.is_ok());
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            for (shape, reply) in [
                (ReplyShape::Entries, protocol.entries(&entries)),
                (ReplyShape::Streams, protocol.streams(&[("s", &entries)])),
                (ReplyShape::Streams, protocol.delivered("s", &entries)),
                (ReplyShape::Claimed, protocol.claimed("0-0", &entries, None)),
                (ReplyShape::Claimed, protocol.claimed("5-1", &entries, Some(&[]))),
            ] {
                let pieces = decode(&schema, shape, &reply, &sizes, build);
                assert_equal(&whole, &pieces)?;
                prop_assert_eq!(whole.last_id, pieces.last_id);
            }
        }
    }

    #[test]
    fn an_open_read_is_a_dict_per_entry(entries in vec(
        vec(("[a-e]", "\\PC{0,30}"), 0..8), 0..20,
    )) {
        let model: Vec<BTreeMap<String, String>> =
            entries.iter().map(|fields| fields.iter().cloned().collect()).collect();
        let schema = StreamSchema::default().with_id_column(None).with_timestamp_column(None);
        let entries: Vec<_> =
            entries.into_iter().zip(1..).map(|(fields, ms)| entry(ms, fields)).collect();
        let reply = Protocol::Resp2.entries(&entries);
        let batch = decode_whole(&schema, ReplyShape::Entries, &reply)?;
        prop_assert_eq!(cells(batch.records()), model);
    }

    #[test]
    fn keys_of_a_payload_read_as_fields_do(
        schema in lenient_schema(),
        rows in vec(
            vec((prop_oneof![
                3 => prop::sample::select(vec!["n", "x", "flag", "list", "kind"]).prop_map(str::to_owned),
                1 => "[a-c]{0,2}",
                1 => "\\PC{1,20}",
            ], field_and_json(), "[ \n\t]{0,2}"), 0..8),
            0..12,
        ),
        sizes in vec(1..100usize, 0..5),
        build: bool,
    ) {
        // Binary is bytes as a field, and base64 in JSON.
        let is_binary = |data_type: &DataType| matches!(data_type, DataType::BinaryView);
        let arrow = schema.arrow().unwrap();
        prop_assume!(!arrow.fields().iter().any(|field| is_binary(field.data_type())));
        let (mut flat, mut documents) = (Vec::new(), Vec::new());
        for (fields, ms) in rows.into_iter().zip(1..) {
            // The last of a repeated name wins in both, but null wins in JSON alone.
            let fields: BTreeMap<_, _> =
                fields.into_iter().map(|(name, value, space)| (name, (value, space))).collect();
            let members: Vec<_> = fields
                .iter()
                .map(|(name, ((_, json), space))| {
                    format!("{}{space}:{json}{space}", serde_json::Value::from(name.as_str()))
                })
                .collect();
            let document = format!("{{{}}}", members.join(","));
            documents.push(entry(ms, [("the document", document)]));
            flat.push(entry(ms, fields.into_iter().filter_map(|(name, ((text, _), _))| Some((name, text?)))));
        }
        let with_payload = schema.clone().with_payload(Some(Payload::new("the document")));
        let schema = schema.with_payload(None);
        let flat = decode(&schema, ReplyShape::Entries, &Protocol::Resp2.entries(&flat), &[], false);
        let reply = Protocol::Resp2.entries(&documents);
        let keys = decode(&with_payload, ReplyShape::Entries, &reply, &sizes, build);
        let (flat, keys) = (flat.end?, keys.end?);
        prop_assert_eq!(flat.ids(), keys.ids());
        let ids = |batch: &Batch| batch.rejected().iter().map(|one| one.id).collect::<Vec<_>>();
        prop_assert_eq!(ids(&flat), ids(&keys));
        // A key that is always null has a column, where a missing field has none; and it may be one of
        // those that are rescued.
        for (field, column) in flat.records().schema().fields().iter().zip(flat.records().columns()) {
            if field.name() != "what did not fit anywhere else" {
                prop_assert_eq!(Some(column), keys.records().column_by_name(field.name()));
            }
        }
    }

    #[test]
    fn numbers_survive_their_text(integers: Vec<i64>, floats: Vec<f64>, flags: Vec<bool>) {
        let integers_back = column(DataType::Int64, &integers)?;
        prop_assert_eq!(integers_back.as_primitive::<Int64Type>().values(), &integers);
        let floats_back = column(DataType::Float64, &floats)?;
        let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(floats_back.as_primitive::<Float64Type>().values()), bits(&floats));
        let flags_back = column(DataType::Boolean, &flags)?;
        prop_assert!(flags_back.as_boolean().values().iter().eq(flags));
    }

    #[test]
    fn wide_integers_survive_their_text(integers: Vec<i128>, unsigned: Vec<u64>) {
        let field = Field::new("v", DataType::Decimal128(38, 0), true).with_metadata(
            [(redfloe::INT128_METADATA.to_owned(), String::new())].into(),
        );
        let back = column_of(field, &integers)?;
        prop_assert_eq!(back.as_primitive::<Decimal128Type>().values(), &integers);
        let back = column(DataType::UInt64, &unsigned)?;
        prop_assert_eq!(back.as_primitive::<UInt64Type>().values(), &unsigned);
    }

    #[test]
    fn datetimes_survive_their_text(
        // The years 1 to 9999.
        micros in vec(-62_135_596_800_000_000..253_402_300_800_000_000i64, 0..20),
    ) {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let epochs = column(utc.clone(), &micros)?;
        prop_assert_eq!(epochs.as_primitive::<TimestampMicrosecondType>().values(), &micros);
        let texts = common::texts(&epochs).into_iter().flatten().collect::<Vec<_>>();
        let parsed = column(utc, &texts)?;
        prop_assert_eq!(parsed.as_primitive::<TimestampMicrosecondType>().values(), &micros);
    }

    #[test]
    fn decimals_survive_their_text(
        unscaled in vec(-(10i128.pow(38) - 1)..10i128.pow(38), 0..20), scale in 0..=38i8,
    ) {
        let data_type = DataType::Decimal128(38, scale);
        let texts: Vec<_> = unscaled
            .iter()
            .map(|number| Decimal128Type::format_decimal(*number, 38, scale))
            .collect();
        let back = column(data_type, &texts)?;
        prop_assert_eq!(back.as_primitive::<Decimal128Type>().values(), &unscaled);
    }

    #[test]
    fn garbage_is_refused_alike_in_any_pieces(
        schema in lenient_schema(),
        bytes in vec(
            prop_oneof![
                3 => prop::sample::select(b"*$%>|_-+:,#(=~0123456789\r\nx".to_vec()),
                1 => any::<u8>(),
            ],
            0..200,
        ),
        sizes in vec(1..20usize, 1..5),
    ) {
        for shape in [ReplyShape::Entries, ReplyShape::Streams, ReplyShape::Claimed] {
            let whole = decode(&schema, shape, &bytes, &[], false);
            assert_equal(&whole, &decode(&schema, shape, &bytes, &sizes, false))?;
        }
    }

    #[test]
    fn damaged_replies_are_read_alike_in_any_pieces(
        schema in lenient_schema(),
        entries in entries(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4),
        sizes in vec(1..100usize, 1..5),
    ) {
        let mut reply = Protocol::Resp3.streams(&[("s", &entries)]);
        for (at, byte, how) in damages {
            let at = at.index(reply.len());
            match how {
                0 => reply[at] = byte,
                1 => drop(reply.remove(at)),
                2 => reply.insert(at, byte),
                // A digit in place of a digit passes for a length more often than any byte does.
                _ => reply[at] = b'0' + byte % 10,
            }
        }
        let whole = decode(&schema, ReplyShape::Streams, &reply, &[], false);
        assert_equal(&whole, &decode(&schema, ReplyShape::Streams, &reply, &sizes, false))?;
    }

    #[test]
    fn any_text_fits_its_dtype_or_is_refused(text in text_like_a_value()) {
        for data_type in [
            DataType::Int64,
            DataType::Float64,
            DataType::Decimal128(38, 10),
            DataType::Boolean,
            DataType::Date32,
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Timestamp(TimeUnit::Second, Some("America/New_York".into())),
            DataType::Duration(TimeUnit::Nanosecond),
            DataType::List(Field::new("item", DataType::Date32, true).into()),
            DataType::Struct(vec![Field::new("n", DataType::BinaryView, true)].into()),
        ] {
            if let Err(error) = column(data_type, std::slice::from_ref(&text)) {
                prop_assert_eq!(error.kind(), ErrorKind::Decode);
            }
        }
    }
}

/// Text that goes some way into the parsers.
fn text_like_a_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-+]?[0-9]{0,40}[.]?[0-9]{0,40}([eE][-+]?[0-9]{0,12})?",
        "[-+]?[0-9]{1,6}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9:.,é]{0,20}([zZ+-é ]?[0-9:A-Za-z/]{0,12}))?",
        "[0-9]{1,2}:[0-9]{1,2}(:[0-9]{1,2}([.][0-9é]{0,12})?)?( [AaPp][Mm])?",
        "[-+]?P[0-9YMWDTHS.,-]{0,20}",
        r#"[\[{][\[\]{}",:0-9nulaé\\]{0,30}[\]}]"#,
        "\\PC{0,30}",
    ]
}

/// The column that the values' texts become.
fn column(data_type: DataType, values: &[impl ToString]) -> Result<arrow_array::ArrayRef, Error> {
    column_of(Field::new("v", data_type, true), values)
}

fn column_of(field: Field, values: &[impl ToString]) -> Result<arrow_array::ArrayRef, Error> {
    let schema = StreamSchema::closed([field]).with_id_column(None).with_timestamp_column(None);
    let entries: Vec<_> = values.iter().map(|v| entry(1, [("v", v.to_string())])).collect();
    let batch = decode_whole(&schema, ReplyShape::Entries, &Protocol::Resp2.entries(&entries))?;
    assert_eq!(batch.len(), values.len());
    Ok(batch.records().column(0).clone())
}
