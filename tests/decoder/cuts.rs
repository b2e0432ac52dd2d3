//! Replies that never end: the connection was lost after any byte.

use arrow_schema::{DataType, Field};
use redfloe::{Decoder, EntryId, OnError, Payload, ReplyShape, StreamSchema};

use crate::common::{Entry, NO_FIELDS, Protocol, decode_whole, entry, feed};

fn entries() -> [Entry; 6] {
    [
        entry(1, [("a", "1"), ("b", "a value of some length")]),
        entry(2, NO_FIELDS),
        // A field of its own, one that is repeated, one whose name is not UTF-8.
        entry(3, [(&b"only here"[..], &b"x"[..]), (b"a", b"2"), (b"a", b"3"), (b"\xff", b"\xff")]),
        entry(4, [("a", "4")]),
        // Documents: one with a key of its own, one that is none.
        entry(5, [("data", r#"{"a":5,"only in it":[1],"a":null}"#), ("c", "")]),
        entry(6, [("data", r#"{"a":6,"broken"#)]),
    ]
}

fn schemas() -> [StreamSchema; 6] {
    let number = Field::new("a", DataType::Int64, true);
    let payload = || Some(Payload::new("data"));
    [
        StreamSchema::default().with_rescue_column(Some("rest")).with_payload(payload()),
        StreamSchema::default().with_on_error(OnError::Null).with_payload(payload()),
        StreamSchema::closed([number.clone()]).with_on_error(OnError::Null).with_payload(payload()),
        StreamSchema::default().with_rescue_column(Some("rest")),
        StreamSchema::closed([number.clone()]),
        StreamSchema::closed([number]).with_rescue_column(Some("rest")),
    ]
}

/// A reply with the end of each of its entries.
fn reply(protocol: Protocol, shape: ReplyShape, entries: &[Entry]) -> (Vec<u8>, Vec<usize>) {
    let reply = match shape {
        ReplyShape::Entries => protocol.entries(entries),
        ReplyShape::Streams => protocol.streams(&[("stream", entries)]),
        ReplyShape::Claimed => protocol.claimed("7-0", entries, None),
        other => panic!("no reply of the shape {other:?}"),
    };
    let sizes: Vec<usize> = entries
        .iter()
        .map(|entry| protocol.entries(std::slice::from_ref(entry)).len() - "*1\r\n".len())
        .collect();
    let mut end = reply.len() - sizes.iter().sum::<usize>();
    let ends = sizes.iter().map(|size| {
        end += size;
        end
    });
    let ends = ends.collect();
    (reply, ends)
}

#[test]
fn a_cut_after_any_byte_keeps_exactly_the_whole_entries() {
    let entries = entries();
    let next = [entry(9, [("b", "of the next reply"), ("a", "9")])];
    for schema in schemas() {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            for shape in [ReplyShape::Entries, ReplyShape::Streams, ReplyShape::Claimed] {
                let (bytes, ends) = reply(protocol, shape, &entries);
                let (next_bytes, _) = reply(protocol, shape, &next);
                for cut in 0..bytes.len() {
                    let whole = ends.iter().filter(|end| **end <= cut).count();
                    let kept = entries.get(..whole).unwrap();
                    let expected = decode_whole(
                        &schema,
                        ReplyShape::Entries,
                        &Protocol::Resp2.entries(&[kept, &next].concat()),
                    )
                    .unwrap();
                    for (size, build) in
                        [(usize::MAX, false), (usize::MAX, true), (1, false), (1, true)]
                    {
                        let mut decoder = Decoder::new(schema.clone(), shape).unwrap();
                        for piece in bytes[..cut].chunks(size) {
                            assert!(feed(&mut decoder, piece).unwrap().is_empty());
                            if build {
                                decoder.build();
                            }
                        }
                        assert_eq!(decoder.rows(), whole, "cut at {cut}");
                        assert_eq!(decoder.last_id(), kept.last().map(|entry| entry.id));
                        decoder.abandon_reply();
                        assert_eq!(decoder.rows(), whole, "cut at {cut}");
                        assert_eq!(feed(&mut decoder, &next_bytes).unwrap().len(), 1);
                        let batch = decoder.flush().unwrap();
                        assert_eq!(batch.ids(), expected.ids(), "cut at {cut}");
                        assert_eq!(batch.records(), expected.records(), "cut at {cut}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_taken_after_any_byte_holds_exactly_the_whole_entries() {
    let entries = entries();
    for schema in schemas() {
        let (bytes, ends) = reply(Protocol::Resp2, ReplyShape::Entries, &entries);
        for cut in 0..=bytes.len() {
            let (early, late) = entries.split_at(ends.iter().filter(|end| **end <= cut).count());
            let mut decoder = Decoder::new(schema.clone(), ReplyShape::Entries).unwrap();
            feed(&mut decoder, &bytes[..cut]).unwrap();
            let first = decoder.flush().unwrap();
            let expected =
                decode_whole(&schema, ReplyShape::Entries, &Protocol::Resp2.entries(early))
                    .unwrap();
            assert_eq!(first.records(), expected.records(), "cut at {cut}");
            feed(&mut decoder, &bytes[cut..]).unwrap();
            let second = decoder.flush().unwrap();
            let ids: Vec<EntryId> = late.iter().map(|entry| entry.id).collect();
            assert_eq!(second.ids(), ids, "cut at {cut}");
        }
    }
}

#[test]
fn a_reply_abandoned_among_push_frames_is_forgotten() {
    let aside = b">2\r\n$6\r\nabcdef\r\n|1\r\n+key\r\n*2\r\n:1\r\n:2\r\n";
    let (next, _) = reply(Protocol::Resp3, ReplyShape::Streams, &entries());
    for cut in 0..aside.len() {
        let schema = StreamSchema::closed(Vec::<Field>::new());
        let mut decoder = Decoder::new(schema, ReplyShape::Streams).unwrap();
        assert!(feed(&mut decoder, &aside[..cut]).unwrap().is_empty());
        decoder.abandon_reply();
        assert_eq!(feed(&mut decoder, &next).unwrap().len(), 1);
        assert_eq!(decoder.rows(), entries().len());
    }
}
