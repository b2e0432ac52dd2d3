//! Replies that name their streams: which stream each row is of, however the bytes come.

use arrow_schema::{DataType, Field};
use redfloe::{Batch, Decoder, ReplyShape, StreamSchema};

use crate::common::{Pause, Protocol, column_texts, decode, entry, feed};

const LONG: &str = "a name of more than twelve bytes";

fn schema() -> StreamSchema {
    let streams = ["a", LONG, "b"].map(|name| name.as_bytes().to_vec());
    StreamSchema::closed([Field::new("n", DataType::Int64, true)])
        .with_stream_column(Some("_stream"))
        .with_streams(streams)
}

/// IDs and streams of all rows.
fn rows(batches: &[Batch]) -> Vec<(String, String)> {
    let of = |batch: &Batch| {
        let streams = column_texts(batch, "_stream").into_iter().flatten();
        batch.ids().iter().map(ToString::to_string).zip(streams).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

#[test]
fn each_row_is_of_the_stream_that_its_reply_names() {
    let (one, two) = ([entry(1, [("n", "1")]), entry(3, [("n", "3")])], [entry(2, [("n", "2")])]);
    let expected =
        [("1-0", LONG), ("3-0", LONG), ("2-0", "a"), ("2-0", "b"), ("1-0", LONG), ("3-0", LONG)]
            .map(|(id, stream)| (id.to_owned(), stream.to_owned()));
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let reply = [
            protocol.streams(&[(LONG, &one), ("b", &[]), ("a", &two)]),
            protocol.streams(&[("b", &two), (LONG, &one)]),
        ]
        .concat();
        for size in [1, 3, 5, usize::MAX] {
            for pause in [Pause::Never, Pause::Build(1), Pause::Build(7), Pause::Flush(3)] {
                let batches = decode(&schema(), ReplyShape::Streams, &reply, size, pause).unwrap();
                assert_eq!(rows(&batches), expected, "{protocol:?}, {size}, {pause:?}");
            }
        }
        // Cut in two at every byte.
        for cut in 0..reply.len() {
            let mut decoder = Decoder::new(schema(), ReplyShape::Streams).unwrap();
            feed(&mut decoder, &reply[..cut]).unwrap();
            let early = decoder.flush().unwrap();
            feed(&mut decoder, &reply[cut..]).unwrap();
            let late = decoder.flush().unwrap();
            assert_eq!(rows(&[early, late]), expected, "{protocol:?}, cut at {cut}");
        }
    }
}

#[test]
fn an_abandoned_reply_leaves_its_whole_entries_with_their_streams() {
    let (one, two) = ([entry(1, [("n", "1")])], [entry(2, [("n", "2")]), entry(4, [("n", "4")])]);
    let reply = Protocol::Resp2.streams(&[("b", &one), (LONG, &two)]);
    for cut in 0..reply.len() {
        let mut decoder = Decoder::new(schema(), ReplyShape::Streams).unwrap();
        feed(&mut decoder, &reply[..cut]).unwrap();
        let whole = decoder.rows();
        decoder.abandon_reply();
        feed(&mut decoder, &Protocol::Resp3.streams(&[("a", &two)])).unwrap();
        let all = [("1-0", "b"), ("2-0", LONG), ("4-0", LONG)];
        let expected = all.iter().take(whole).chain(&[("2-0", "a"), ("4-0", "a")]);
        let expected: Vec<_> =
            expected.map(|(id, stream)| ((*id).to_owned(), (*stream).to_owned())).collect();
        assert_eq!(rows(&[decoder.flush().unwrap()]), expected, "cut at {cut}");
    }
}

#[test]
fn an_error_names_the_stream_of_its_row() {
    let (one, two) = ([entry(1, [("n", "1")])], [entry(2, [("n", "2")]), entry(4, [("n", "x")])]);
    let reply = Protocol::Resp2.streams(&[("b", &one), ("a", &one), (LONG, &two), ("b", &two)]);
    for pause in [Pause::Never, Pause::Build(1)] {
        let outcome = decode(&schema(), ReplyShape::Streams, &reply, 5, pause);
        let error = outcome.unwrap_err();
        assert!(error.context().contains(&("stream", LONG.to_owned())), "{error}");
        assert!(error.context().contains(&("entry ID", "4-0".to_owned())), "{error}");
    }
}

#[test]
fn a_stream_that_nobody_asked_for_is_refused() {
    let beyond = format!("{LONG}, and more of it");
    for name in ["other", "", &beyond] {
        for size in [3, usize::MAX] {
            let reply = Protocol::Resp2.streams(&[(name, &[entry(1, [("n", "1")])])]);
            let outcome = decode(&schema(), ReplyShape::Streams, &reply, size, Pause::Never);
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("came unasked"), "{error}");
        }
    }
}

#[test]
fn entries_of_a_reply_without_a_name_are_of_the_first_stream() {
    let reply = Protocol::Resp2.entries(&[entry(1, [("n", "1")])]);
    let batches = decode(&schema(), ReplyShape::Entries, &reply, 3, Pause::Never).unwrap();
    assert_eq!(rows(&batches), [("1-0".to_owned(), "a".to_owned())]);
}
