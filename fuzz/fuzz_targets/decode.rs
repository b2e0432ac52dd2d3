//! The decoder on any bytes: it never panics, and where the bytes are cut makes no difference.
//!
//! The input begins with a byte that chooses schema and shape, and a byte that says how many of the
//! next are sizes of pieces; the rest is the reply. `make_seeds.py` writes inputs to begin with.

#![no_main]

use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};
use libfuzzer_sys::fuzz_target;
use redfloe::{
    Batch, Decoder, ENUM_METADATA, INT128_METADATA, OnError, Payload, PayloadFormat, ReplyShape,
    Result, StreamSchema,
};

fuzz_target!(|data: &[u8]| {
    let [choice, sizes, rest @ ..] = data else { return };
    let (sizes, reply) = rest.split_at(usize::from(*sizes % 8).min(rest.len()));
    let shape = if choice & 1 == 0 { ReplyShape::Entries } else { ReplyShape::Streams };
    let schema = schema(choice >> 1);

    let whole = decode(&schema, shape, reply, &[], false);
    same(&whole, &decode(&schema, shape, reply, sizes, false));
    let built = decode(&schema, shape, reply, sizes, true);
    // A column that is built early fails before a later byte is found not to be RESP.
    if whole.1.is_ok() {
        same(&whole, &built);
    }
});

/// The rows, and the batch or why there is none.
type Outcome = (usize, Result<Batch>);

fn decode(
    schema: &StreamSchema,
    shape: ReplyShape,
    reply: &[u8],
    sizes: &[u8],
    build: bool,
) -> Outcome {
    let mut decoder = Decoder::new(schema.clone(), shape).expect("the schemas here are valid");
    let fed = feed(&mut decoder, reply, sizes, build);
    let rows = decoder.rows();
    (rows, fed.and_then(|()| decoder.flush()))
}

fn feed(decoder: &mut Decoder, mut reply: &[u8], sizes: &[u8], build: bool) -> Result<()> {
    let mut sizes = sizes.iter().cycle();
    while !reply.is_empty() {
        let size = sizes.next().map_or(usize::MAX, |size| usize::from(*size).max(1));
        let mut piece = reply.split_off(..size.min(reply.len())).unwrap_or_default();
        while !piece.is_empty() {
            let taken = decoder.decode(piece)?;
            piece = &piece[taken..];
            assert!(decoder.take_reply().is_some() || piece.is_empty(), "bytes were left");
        }
        if build {
            decoder.build();
        }
    }
    Ok(())
}

fn same((rows, one): &Outcome, (other_rows, other): &Outcome) {
    assert_eq!(rows, other_rows);
    match (one, other) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one.records(), other.records());
            assert_eq!((one.ids(), one.deleted()), (other.ids(), other.deleted()));
            let rejected = |batch: &Batch| -> Vec<_> {
                batch.rejected().iter().map(|one| (one.id, one.error.to_string())).collect()
            };
            assert_eq!(rejected(one), rejected(other));
        }
        (Err(one), Err(other)) => assert_eq!(one.kind(), other.kind()),
        _ => panic!("{one:?} is not {other:?}"),
    }
}

fn schema(choice: u8) -> StreamSchema {
    let schema = match choice & 1 {
        // Few names are too many, and reach that bound soon.
        0 => StreamSchema::default().with_max_columns(20),
        _ => StreamSchema::closed(every_dtype()),
    };
    let schema = schema.with_sequence_column((choice & 2 != 0).then_some("_seq"));
    let packed = || Payload::new("data").with_format(PayloadFormat::MessagePack);
    let payload = match (choice >> 4) % 8 {
        0 | 4 => None,
        1 | 5 => Some(Payload::new("data")),
        2 => Some(packed()),
        6 => {
            let names = every_dtype().iter().map(|field| field.name().clone()).collect();
            Some(packed().with_positions(names))
        }
        _ => Some(Payload::new("data").with_path("$.after").expect("a path")),
    };
    let schema = schema.with_payload(payload);
    match (choice >> 2) % 4 {
        0 => schema,
        1 => schema.with_on_error(OnError::Null),
        2 => schema.with_rescue_column(Some("_rescued")),
        _ => schema.with_on_error(OnError::Reject),
    }
}

/// A field of each dtype, by the names that the seeds use.
fn every_dtype() -> Vec<Field> {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let item = |data_type| Arc::new(Field::new("item", data_type, true));
    let category = || DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8View));
    let mark = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let point = vec![field("x", DataType::Float64), field("y", DataType::Date32)].into();
    vec![
        field("text", DataType::Utf8View),
        field("raw", DataType::BinaryView),
        field("kind", category()),
        field("mood", category()).with_metadata(mark(ENUM_METADATA[0], "3;sad5;happy")),
        field("i", DataType::Int64),
        field("u", DataType::UInt8),
        field("wide", DataType::Decimal128(38, 0)).with_metadata(mark(INT128_METADATA, "")),
        field("f", DataType::Float64),
        field("dec", DataType::Decimal128(9, 2)),
        field("flag", DataType::Boolean),
        field("day", DataType::Date32),
        field("time", DataType::Time64(TimeUnit::Nanosecond)),
        field("at", DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into()))),
        field("span", DataType::Duration(TimeUnit::Millisecond)),
        field("list", DataType::List(item(DataType::List(item(DataType::Utf8View))))),
        field("pair", DataType::FixedSizeList(item(DataType::Int32), 2)),
        field("point", DataType::Struct(point)),
    ]
}
