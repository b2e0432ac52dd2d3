//! The grammar: every form a reply has, and what is none.

use arrow_schema::{DataType, Field};
use redfloe::{Decoder, EntryId, ErrorKind, OnError, Reply, ReplyShape, StreamSchema};

use crate::common::{
    Pause, Protocol, assert_same, cells, column_texts, decode, decode_whole, entry, feed,
};

const SIZES: [usize; 4] = [1, 3, 5, usize::MAX];

fn decoder(shape: ReplyShape) -> Decoder {
    Decoder::new(StreamSchema::default(), shape).unwrap()
}

/// The ends of the replies in `bytes`, and the IDs of their entries.
fn ends(
    shape: ReplyShape,
    bytes: &[u8],
    size: usize,
) -> redfloe::Result<(Vec<Reply>, Vec<EntryId>)> {
    let mut decoder = decoder(shape);
    let mut ends = Vec::new();
    for piece in bytes.chunks(size) {
        ends.extend(feed(&mut decoder, piece)?);
    }
    Ok((ends, decoder.flush()?.ids().to_vec()))
}

#[test]
fn a_nil_reply_is_a_block_that_timed_out() {
    for reply in ["*-1\r\n", "$-1\r\n", "_\r\n"] {
        for size in SIZES {
            let (ends, ids) = ends(ReplyShape::Streams, reply.as_bytes(), size).unwrap();
            assert!(matches!(ends.as_slice(), [Reply::Nil]), "{reply:?}");
            assert!(ids.is_empty());
        }
    }
}

#[test]
fn a_reply_may_hold_no_entry() {
    for (shape, reply) in [
        (ReplyShape::Entries, "*0\r\n"),
        (ReplyShape::Streams, "*0\r\n"),
        (ReplyShape::Streams, "%0\r\n"),
        (ReplyShape::Streams, "*1\r\n*2\r\n$1\r\ns\r\n*0\r\n"),
        (ReplyShape::Streams, "%1\r\n$1\r\ns\r\n*0\r\n"),
        (ReplyShape::Streams, "%2\r\n$0\r\n\r\n*0\r\n$1\r\ns\r\n*0\r\n"),
    ] {
        for size in SIZES {
            let (ends, ids) = ends(shape, reply.as_bytes(), size).unwrap();
            assert!(matches!(ends.as_slice(), [Reply::Entries]), "{reply:?}");
            assert!(ids.is_empty());
        }
    }
}

#[test]
fn the_servers_error_is_a_value_and_the_next_reply_follows() {
    let error = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    let entries = Protocol::Resp2.entries(&[entry(1, [("a", "1")])]);
    for size in SIZES {
        let bytes = [&entries[..], error, &entries, b"-LOADING Redis is loading\r\n"].concat();
        let (ends, ids) = ends(ReplyShape::Entries, &bytes, size).unwrap();
        assert_eq!(ids.len(), 2);
        let [Reply::Entries, Reply::Error(wrong), Reply::Entries, Reply::Error(loading)] =
            ends.as_slice()
        else {
            panic!("{ends:?}");
        };
        assert_eq!((wrong.kind(), wrong.code()), (ErrorKind::WrongType, Some("WRONGTYPE")));
        assert!(wrong.message().contains("wrong kind of value"));
        assert!(loading.retryable());
    }
}

#[test]
fn streams_come_as_arrays_or_as_a_map() {
    let (one, two) = ([entry(1, [("a", "1")]), entry(2, [("a", "2")])], [entry(1, [("b", "3")])]);
    let expected = Ok(decode_whole(
        &StreamSchema::default(),
        ReplyShape::Entries,
        &Protocol::Resp2.entries(&[&one[..], &two].concat()),
    )
    .unwrap());
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let reply = protocol.streams(&[("s", &one), ("t", &two), ("u", &[])]);
        for size in SIZES {
            let outcome =
                decode(&StreamSchema::default(), ReplyShape::Streams, &reply, size, Pause::Never);
            assert_same(&expected, &outcome, &format!("{protocol:?}, pieces of {size}"));
        }
    }
}

#[test]
fn push_frames_and_attributes_may_come_before_a_reply() {
    let aside = b">3\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n%1\r\n+a\r\n_\r\n>0\r\n\
                  |1\r\n+ttl\r\n*2\r\n:3600\r\n>1\r\n#t\r\n,1.5\r\n|0\r\n";
    let entries = Protocol::Resp3.entries(&[entry(1, [("a", "1")])]);
    for size in SIZES {
        let bytes = [&aside[..], &entries, aside, b"_\r\n", aside, b"-ERR no\r\n"].concat();
        let (ends, ids) = ends(ReplyShape::Entries, &bytes, size).unwrap();
        assert!(
            matches!(ends.as_slice(), [Reply::Entries, Reply::Nil, Reply::Error(_)]),
            "{ends:?}"
        );
        assert_eq!(ids, [EntryId::new(1, 0)]);
    }
}

#[test]
fn deleted_pending_entries_have_no_row() {
    let reply = b"*1\r\n*2\r\n$1\r\ns\r\n*5\r\n\
        *2\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n\
        *2\r\n$3\r\n2-0\r\n*-1\r\n\
        *2\r\n$3\r\n3-0\r\n_\r\n\
        *-1\r\n\
        *2\r\n$3\r\n5-0\r\n*2\r\n$1\r\na\r\n$1\r\n5\r\n";
    let batch = decode_whole(&StreamSchema::default(), ReplyShape::Streams, reply).unwrap();
    assert_eq!(batch.ids(), [EntryId::new(1, 0), EntryId::new(5, 0)]);
    assert_eq!(batch.deleted(), [EntryId::new(2, 0), EntryId::new(3, 0)]);
    assert_eq!(batch.len(), batch.records().num_rows());
    let expected = Ok(batch);
    for size in SIZES {
        for pause in [Pause::Never, Pause::Build(1), Pause::Flush(1)] {
            let outcome = decode(&StreamSchema::default(), ReplyShape::Streams, reply, size, pause);
            assert_same(&expected, &outcome, &format!("pieces of {size}, {pause:?}"));
        }
    }
}

#[test]
fn an_entry_may_have_no_field() {
    let reply = b"*3\r\n*2\r\n$3\r\n1-0\r\n*0\r\n*2\r\n$3\r\n2-0\r\n%0\r\n\
        *2\r\n$3\r\n3-0\r\n*2\r\n$0\r\n\r\n$0\r\n\r\n";
    for size in SIZES {
        let batches =
            decode(&StreamSchema::default(), ReplyShape::Entries, reply, size, Pause::Never);
        let batches = batches.unwrap();
        assert_eq!(batches[0].len(), 3);
        assert_eq!(column_texts(&batches[0], ""), [None, None, Some(String::new())]);
    }
}

#[test]
fn a_value_that_the_server_types_is_its_text() {
    let reply = b"*1\r\n*2\r\n$3\r\n1-0\r\n%3\r\n\
        $1\r\na\r\n:-42\r\n$1\r\nb\r\n,1.5\r\n$1\r\nc\r\n#t\r\n";
    let schema = StreamSchema::open([
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Float64, true),
        Field::new("c", DataType::Boolean, true),
    ]);
    for size in SIZES {
        let batches = decode(&schema, ReplyShape::Entries, reply, size, Pause::Never).unwrap();
        let row = &cells(batches[0].records())[0];
        let values: Vec<_> = ["a", "b", "c"].iter().map(|name| row[*name].as_str()).collect();
        assert_eq!(values, ["-42", "1.5", "true"]);
    }
}

#[test]
fn bytes_behind_a_reply_are_left() {
    let reply = Protocol::Resp2.entries(&[entry(1, [("a", "1")])]);
    let mut decoder = decoder(ReplyShape::Entries);
    let bytes = [&reply[..], b"-ERR second\r\n+third"].concat();
    assert_eq!(decoder.decode(&bytes).unwrap(), reply.len());
    assert!(decoder.reply_complete());
    // A complete reply takes no more until it is taken.
    assert_eq!(decoder.decode(&bytes[reply.len()..]).unwrap(), 0);
    assert!(matches!(decoder.take_reply(), Some(Reply::Entries)));
    assert!(!decoder.reply_complete());
    assert_eq!(decoder.decode(&bytes[reply.len()..]).unwrap(), "-ERR second\r\n".len());
    assert!(matches!(decoder.take_reply(), Some(Reply::Error(_))));
}

/// Found by fuzzing: the quick path took it for one more entry.
#[test]
fn what_looks_like_an_entry_behind_a_reply_is_left() {
    let reply = Protocol::Resp2.entries(&[entry(1, [("a", "1")])]);
    let behind = &Protocol::Resp2.entries(&[entry(2, [("a", "2")])])["*1\r\n".len()..];
    let mut decoder = decoder(ReplyShape::Entries);
    assert_eq!(decoder.decode(&[&reply, behind].concat()).unwrap(), reply.len());
    assert_eq!(decoder.rows(), 1);
    assert!(matches!(decoder.take_reply(), Some(Reply::Entries)));
    assert_eq!(decoder.decode(behind).unwrap_err().kind(), ErrorKind::Response);
}

#[test]
fn an_incomplete_reply_cannot_be_taken() {
    let reply = Protocol::Resp2.entries(&[entry(1, [("a", "1")]), entry(2, [("a", "2")])]);
    let mut decoder = decoder(ReplyShape::Entries);
    for (at, byte) in reply.iter().enumerate() {
        assert!(decoder.take_reply().is_none(), "after {at} bytes");
        assert_eq!(decoder.decode(&[*byte]).unwrap(), 1);
    }
    assert!(matches!(decoder.take_reply(), Some(Reply::Entries)));
    assert!(decoder.take_reply().is_none());
    assert_eq!(decoder.rows(), 2);
    assert_eq!(decoder.last_id(), Some(EntryId::new(2, 0)));
    // The last ID outlives a flush, for the next page begins there.
    decoder.flush().unwrap();
    assert_eq!((decoder.rows(), decoder.last_id()), (0, Some(EntryId::new(2, 0))));
}

#[test]
fn a_reply_of_another_shape_is_refused() {
    let entries = |body: &str| format!("*1\r\n*2\r\n$3\r\n1-0\r\n{body}");
    for (shape, reply) in [
        (ReplyShape::Entries, "+OK\r\n".to_owned()),
        (ReplyShape::Entries, ":1\r\n".to_owned()),
        (ReplyShape::Entries, "$2\r\nhi\r\n".to_owned()),
        (ReplyShape::Entries, "%0\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n+x\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*3\r\n$3\r\n1-0\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*0\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*2\r\n$1\r\nx\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*2\r\n$0\r\n\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*2\r\n*0\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*2\r\n_\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*2\r\n+1-0\r\n".to_owned()),
        (ReplyShape::Entries, format!("*1\r\n*2\r\n$100\r\n{}\r\n", "1".repeat(100))),
        // More than 64 bits.
        (ReplyShape::Entries, "*1\r\n*2\r\n$22\r\n18446744073709551616-0\r\n".to_owned()),
        (ReplyShape::Entries, "*1\r\n*2\r\n$22\r\n0-18446744073709551616\r\n".to_owned()),
        (ReplyShape::Entries, entries("$1\r\nx\r\n")),
        // Fields come in pairs.
        (ReplyShape::Entries, entries("*1\r\n$1\r\na\r\n")),
        (ReplyShape::Entries, entries("*3\r\n$1\r\na\r\n")),
        (ReplyShape::Entries, entries("*2\r\n_\r\n$1\r\n1\r\n")),
        (ReplyShape::Entries, entries("*2\r\n:1\r\n$1\r\n1\r\n")),
        (ReplyShape::Entries, entries("*2\r\n$1\r\na\r\n*0\r\n")),
        (ReplyShape::Entries, entries("*2\r\n$1\r\na\r\n_\r\n")),
        (ReplyShape::Entries, entries("*2\r\n$1\r\na\r\n-ERR in the middle\r\n")),
        (ReplyShape::Streams, "*1\r\n$1\r\ns\r\n".to_owned()),
        (ReplyShape::Streams, "*1\r\n*3\r\n$1\r\ns\r\n".to_owned()),
        (ReplyShape::Streams, "*1\r\n*2\r\n*0\r\n*0\r\n".to_owned()),
        (ReplyShape::Streams, "%1\r\n$1\r\ns\r\n%0\r\n".to_owned()),
        (ReplyShape::Streams, "%1\r\n$1\r\ns\r\n$1\r\nx\r\n".to_owned()),
    ] {
        for size in SIZES {
            let error = ends(shape, reply.as_bytes(), size).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Response, "{reply:?}");
            assert!(error.message().contains("not valid RESP"), "{error}");
            assert!(error.to_string().len() < 300, "{error}");
        }
    }
}

#[test]
fn garbage_is_refused() {
    let long = [b'x'; 100_000];
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\r\n",
        b"\0\0\0\0\r\n",
        b"\r\n",
        b"*1\n",
        b"*-2\r\n",
        b"*1x\r\n",
        b"*99999999999999999999\r\n",
        b"*1\r\n*2\r\n$-3\r\n",
        b"*1\r\n*2\r\n$3\r\n1-0xx",
        b"|18446744073709551615\r\n",
        b">18446744073709551615\r\n*9\r\n",
        &long,
    ] {
        for size in SIZES {
            for shape in [ReplyShape::Entries, ReplyShape::Streams] {
                let error = ends(shape, garbage, size).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Response);
            }
        }
    }
}

#[test]
fn claimed_entries_come_with_those_that_were_deleted() {
    let entries = [entry(1, [("a", "1")]), entry(4, [("a", "4")])];
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let reply = protocol.claimed("9-0", &entries, Some(&["2-0", "3-0"]));
        let schema = StreamSchema::closed([Field::new("a", DataType::Int64, true)]);
        for size in 1..reply.len() {
            let mut decoder = Decoder::new(schema.clone(), ReplyShape::Claimed).unwrap();
            for piece in reply.chunks(size) {
                assert_eq!(decoder.decode(piece).unwrap(), piece.len());
            }
            assert!(decoder.reply_complete());
            let batch = decoder.flush().unwrap();
            assert_eq!(batch.ids(), [EntryId::new(1, 0), EntryId::new(4, 0)]);
            assert_eq!(batch.deleted(), [EntryId::new(2, 0), EntryId::new(3, 0)]);
        }
    }
}

#[test]
fn what_does_not_fit_is_left_out_where_that_is_asked_for() {
    let entries = [
        entry(1, [("a", "1"), ("b", "1")]),
        entry(2, [("a", "x"), ("b", "y")]),
        entry(3, [("a", "3"), ("b", "z")]),
        entry(4, [("a", "4"), ("b", "4")]),
    ];
    let fields = ["a", "b"].map(|name| Field::new(name, DataType::Int64, true));
    let schema = StreamSchema::closed(fields).with_on_error(OnError::Reject);
    let mut decoder = Decoder::new(schema, ReplyShape::Entries).unwrap();
    for half in [&entries[..2], &entries[2..]] {
        decoder.decode(&Protocol::Resp2.entries(half)).unwrap();
        decoder.take_reply();
        decoder.build();
    }
    let batch = decoder.flush().unwrap();
    assert_eq!(batch.ids(), [EntryId::new(1, 0), EntryId::new(4, 0)]);
    assert_eq!(batch.records().num_rows(), 2);
    let rejected: Vec<_> =
        batch.rejected().iter().map(|one| (one.id.ms, one.error.to_string())).collect();
    assert_eq!(rejected.len(), 2);
    assert!(rejected[0].0 == 2 && rejected[0].1.contains("field: a"), "{rejected:?}");
    assert!(rejected[1].0 == 3 && rejected[1].1.contains("field: b"), "{rejected:?}");
    // And the next batch knows nothing of them.
    decoder.decode(&Protocol::Resp2.entries(&entries[3..])).unwrap();
    let batch = decoder.flush().unwrap();
    assert!(batch.rejected().is_empty() && batch.len() == 1);
}
