//! The decoder alone: bytes in, batch out, no server. `cargo bench --bench decode`.
//!
//! A page is the reply of an XRANGE with 10,000 entries, fed in pieces of a socket's buffer.

use std::hint::black_box;
use std::sync::Arc;

use arrow_schema::{DataType, Field};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use redfloe::{Batch, Decoder, Payload, ReplyShape, StreamSchema};

const ENTRIES: u64 = 10_000;
const SMALL_BATCHES: u64 = 1_000;
const BUFFER: usize = 64 * 1024;

/// The reply of a page.
fn page(fields: impl Fn(u64) -> Vec<(&'static str, String)>) -> Vec<u8> {
    reply(ENTRIES, fields)
}

/// The reply with that many entries, each with the fields that `fields` writes.
fn reply(entries: u64, fields: impl Fn(u64) -> Vec<(&'static str, String)>) -> Vec<u8> {
    let mut reply = format!("*{entries}\r\n");
    let bulk = |reply: &mut String, text: &str| {
        reply.push_str(&format!("${}\r\n{text}\r\n", text.len()));
    };
    for entry in 0..entries {
        let fields = fields(entry);
        reply.push_str("*2\r\n");
        bulk(&mut reply, &format!("{}-{}", 1_704_067_200_000 + entry / 3, entry % 3));
        reply.push_str(&format!("*{}\r\n", fields.len() * 2));
        for (name, value) in fields {
            bulk(&mut reply, name);
            bulk(&mut reply, &value);
        }
    }
    reply.into_bytes()
}

/// A string, a string of few values, an integer, a float and a boolean.
fn five_fields(entry: u64) -> Vec<(&'static str, String)> {
    let noise = entry.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    vec![
        ("name", format!("user-{noise:016x}")),
        ("kind", ["view", "click", "purchase", "refund"][(noise >> 62) as usize].to_owned()),
        ("count", (noise >> 40).to_string()),
        ("price", format!("{}.{:02}", noise >> 52, entry % 100)),
        ("active", (noise & 1 == 0).to_string()),
    ]
}

/// The same five, but every other entry is of another kind with other fields.
fn two_layouts(entry: u64) -> Vec<(&'static str, String)> {
    let mut fields = five_fields(entry);
    if entry % 2 == 1 {
        fields.reverse();
        fields.truncate(3);
    }
    fields
}

fn nested_fields(entry: u64) -> Vec<(&'static str, String)> {
    let (a, b) = (entry % 7, entry % 1000);
    vec![
        ("tags", format!(r#"["tag-{a}", "tag-{b}"]"#)),
        ("point", format!(r#"{{"x": {a}.5, "y": -{b}.25, "label": "label {b}"}}"#)),
    ]
}

/// The same five as one document, with the spaces that Python's `json.dumps` writes.
fn one_document(entry: u64) -> Vec<(&'static str, String)> {
    let members: Vec<String> = five_fields(entry)
        .iter()
        .map(|(name, value)| match *name {
            "name" | "kind" => format!(r#""{name}": "{value}""#),
            _ => format!(r#""{name}": {value}"#),
        })
        .collect();
    vec![("data", format!("{{{}}}", members.join(", ")))]
}

fn typed(names: &[&str]) -> StreamSchema {
    let fields = [
        ("name", DataType::Utf8View),
        ("kind", DataType::Utf8View),
        ("count", DataType::Int64),
        ("price", DataType::Float64),
        ("active", DataType::Boolean),
    ];
    StreamSchema::closed(
        fields
            .into_iter()
            .filter(|(name, _)| names.contains(name))
            .map(|(name, data_type)| Field::new(name, data_type, true)),
    )
}

fn categories() -> StreamSchema {
    let category = DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8View));
    StreamSchema::closed([Field::new("kind", category, true)])
}

fn nested() -> StreamSchema {
    let text = |name| Field::new(name, DataType::Utf8View, true);
    let number = |name| Field::new(name, DataType::Float64, true);
    StreamSchema::closed([
        Field::new("tags", DataType::List(Arc::new(text("item"))), true),
        Field::new(
            "point",
            DataType::Struct(vec![number("x"), number("y"), text("label")].into()),
            true,
        ),
    ])
}

/// One page through a decoder that is reused, as a read reuses it.
fn decode(decoder: &mut Decoder, page: &[u8]) -> Batch {
    for piece in page.chunks(BUFFER) {
        let taken = decoder.decode(piece).expect("the page is valid");
        assert_eq!(taken, piece.len());
    }
    assert!(decoder.take_reply().is_some());
    decoder.flush().expect("the values fit")
}

fn benches(criterion: &mut Criterion) {
    let five = page(five_fields);
    let payload = page(one_document);
    let data = || Some(Payload::new("data"));
    let all = ["name", "kind", "count", "price", "active"];
    let cases = [
        ("typed", &five, typed(&all)),
        ("one of five", &five, typed(&["count"])),
        ("strings", &five, StreamSchema::default()),
        ("categories", &five, categories()),
        ("two layouts", &page(two_layouts), typed(&all)),
        ("nested", &page(nested_fields), nested()),
        ("payload", &payload, typed(&all).with_payload(data())),
        ("one of five keys", &payload, typed(&["count"]).with_payload(data())),
        ("payload strings", &payload, StreamSchema::default().with_payload(data())),
    ];
    let mut group = criterion.benchmark_group("decode");
    for (name, page, schema) in cases {
        let mut decoder = Decoder::new(schema, ReplyShape::Entries).expect("the schema is valid");
        group.throughput(Throughput::Bytes(page.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode(&mut decoder, black_box(page)));
        });
    }
    // As a reader that waits for entries gives them.
    let few = reply(3, five_fields);
    for (name, schema) in [("few typed", typed(&all)), ("few strings", StreamSchema::default())] {
        let mut decoder = Decoder::new(schema, ReplyShape::Entries).expect("the schema is valid");
        group.throughput(Throughput::Elements(SMALL_BATCHES));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..SMALL_BATCHES {
                    black_box(decode(&mut decoder, black_box(&few)));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(decoding, benches);
criterion_main!(decoding);
