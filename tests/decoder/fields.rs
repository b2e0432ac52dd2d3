//! Fields without a schema: which columns there are, and how they are called.

use arrow_schema::{DataType, Field};
use redfloe::{Batch, Decoder, EntryId, ErrorKind, OnError, ReplyShape, StreamSchema};

use crate::common::{
    Entry, NO_FIELDS, Protocol, cells, column_texts, decode_every_way, decode_whole, entry, names,
};

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[test]
fn columns_come_in_order_of_first_appearance() {
    let entries = [
        entry(1, [("b", "1"), ("a", "2")]),
        entry(2, NO_FIELDS),
        entry(3, [("c", "3"), ("a", "4")]),
    ];
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "b", "a", "c"]);
    assert_eq!(column_texts(&batch, "b"), [Some("1".to_owned()), None, None]);
    assert_eq!(column_texts(&batch, "a"), [Some("2".to_owned()), None, Some("4".to_owned())]);
    assert_eq!(column_texts(&batch, "c"), [None, None, Some("3".to_owned())]);
}

#[test]
fn given_fields_come_first_and_keep_their_dtypes() {
    let schema = StreamSchema::open([Field::new("n", DataType::Int64, true)]);
    let batch = decode_every_way(&schema, &[entry(1, [("x", "text"), ("n", "1")])]).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "n", "x"]);
    assert_eq!(batch.records().schema().field(2).data_type(), &DataType::Int64);
    assert_eq!(batch.records().schema().field(3).data_type(), &DataType::Utf8View);
}

#[test]
fn a_schema_selects_and_orders() {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let schema = StreamSchema::closed([text("c"), text("never"), text("a")]);
    let entries = [entry(1, [("a", "1"), ("b", "2"), ("c", "3")]), entry(2, [("b", "4")])];
    let batch = decode_every_way(&schema, &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "c", "never", "a"]);
    assert_eq!(column_texts(&batch, "never"), [None, None]);
    assert_eq!(column_texts(&batch, "a"), [Some("1".to_owned()), None]);
}

#[test]
fn entries_need_no_field_in_common() {
    let entries: Vec<_> =
        (0..30).map(|n| entry(n + 1, [(format!("f{n}"), n.to_string())])).collect();
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(batch.records().num_columns(), 32);
    for (n, row) in cells(batch.records()).iter().enumerate() {
        assert_eq!(row.len(), 3);
        assert_eq!(row.get(&format!("f{n}")), Some(&n.to_string()));
    }
}

#[test]
fn the_same_fields_in_another_order_are_the_same_columns() {
    let entries = [
        entry(1, [("a", "1"), ("b", "2"), ("c", "3")]),
        entry(2, [("c", "3"), ("a", "1"), ("b", "2")]),
        entry(3, [("b", "2"), ("a", "1")]),
        entry(4, [("a", "1"), ("b", "2"), ("c", "3")]),
    ];
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "a", "b", "c"]);
    assert_eq!(column_texts(&batch, "a"), some(&["1", "1", "1", "1"]));
    assert_eq!(column_texts(&batch, "b"), some(&["2", "2", "2", "2"]));
}

#[test]
fn a_field_may_first_occur_after_100_000_entries() {
    let mut entries: Vec<_> = (1..=100_000).map(|ms| entry(ms, [("a", "1")])).collect();
    entries.push(entry(100_001, [("late", "here"), ("a", "2")]));
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let reply = protocol.entries(&entries);
        let batch = decode_whole(&StreamSchema::default(), ReplyShape::Entries, &reply).unwrap();
        assert_eq!(names(&batch), ["_id", "_ts", "a", "late"]);
        let late = batch.records().column_by_name("late").unwrap();
        assert_eq!((late.len(), late.null_count()), (100_001, 100_000));
        assert_eq!(column_texts(&batch, "late").last(), Some(&Some("here".to_owned())));
    }
}

#[test]
fn an_entry_may_have_10_000_fields() {
    let wide = |ms, offset: usize| {
        entry(
            ms,
            (0..10_000)
                .map(|n| (format!("field {}", n + offset), format!("a rather long value {n}"))),
        )
    };
    // The second shares half of its fields with the first, at other positions.
    let entries = [wide(1, 0), wide(2, 5_000)];
    let reply = Protocol::Resp2.entries(&entries);
    let schema = StreamSchema::default().with_max_columns(15_000);
    let batch = decode_whole(&schema, ReplyShape::Entries, &reply).unwrap();
    assert_eq!(batch.records().num_columns(), 15_002);
    let rows = cells(batch.records());
    assert!(rows.iter().all(|row| row.len() == 10_002));
    assert_eq!(rows[1].get("field 5000").map(String::as_str), Some("a rather long value 0"));
}

#[test]
fn of_a_repeated_field_the_last_wins() {
    let entries = [
        entry(1, [("a", "first"), ("b", "x"), ("a", "last")]),
        entry(2, [("a", "only")]),
        entry(3, [("a", "a long first value"), ("a", "")]),
    ];
    for schema in
        [StreamSchema::default(), StreamSchema::closed([Field::new("a", DataType::Utf8View, true)])]
    {
        let batch = decode_every_way(&schema, &entries).unwrap();
        assert_eq!(column_texts(&batch, "a"), some(&["last", "only", ""]));
    }
}

#[test]
fn a_field_name_may_be_empty_or_anything_that_is_text() {
    let long = "n".repeat(5000);
    let entries = [entry(1, [("", "1"), (" \r\n\x01", "2"), ("größe 🦀", "3"), (&long, "4")])];
    let batch = decode_every_way(&StreamSchema::default(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "", " \r\n\x01", "größe 🦀", &long]);
    assert_eq!(column_texts(&batch, ""), some(&["1"]));
}

/// Names that no column can have: what the errors say, and what a rescue column calls them.
const UNNAMEABLE: [(&[u8], ErrorKind, &str, &str); 3] = [
    (b"\xff", ErrorKind::Decode, "\"\\xff\" is not UTF-8", r"\\xff"),
    (b"gr\xf6\\e", ErrorKind::Decode, "is not UTF-8", r"gr\\xf6\\\\e"),
    (b"a\0b", ErrorKind::Schema, "\"a\\0b\" has a NUL", r"a\u0000b"),
];

#[test]
fn a_field_name_that_no_column_can_have_is_a_misfit() {
    for (name, kind, reason, rescued) in UNNAMEABLE {
        let entries = [
            entry(1, [("a", "1")]),
            entry(2, [(name, &b"odd"[..]), (b"b", b"new"), (b"a", b"2")]),
            entry(3, [("a", "3")]),
        ];
        let error = decode_every_way(&StreamSchema::default(), &entries).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains(reason), "{error}");
        assert_eq!(error.context(), [("entry ID", "2-0".to_owned())]);

        let schema = StreamSchema::default().with_on_error(OnError::Null);
        let batch = decode_every_way(&schema, &entries).unwrap();
        assert_eq!(names(&batch), ["_id", "_ts", "a", "b"]);
        assert_eq!(column_texts(&batch, "a"), some(&["1", "2", "3"]));

        let schema = StreamSchema::default().with_rescue_column(Some("rest"));
        let batch = decode_every_way(&schema, &entries).unwrap();
        assert_eq!(names(&batch), ["_id", "_ts", "a", "b", "rest"]);
        let rescued = format!(r#"{{"{rescued}":"odd"}}"#);
        assert_eq!(column_texts(&batch, "rest"), [None, Some(rescued), None]);

        // A schema that does not ask for it leaves it alone.
        let schema = StreamSchema::closed([Field::new("a", DataType::Utf8View, true)]);
        assert_eq!(decode_every_way(&schema, &entries).unwrap().len(), 3);
    }
}

#[test]
fn two_names_stay_two_in_the_rescue_column() {
    let fields = [(&b"\xff"[..], "byte"), (br"\xff", "text"), (br"\\xff", "text of that")];
    let entries = [entry(1, fields)];
    let schema = StreamSchema::closed(Vec::<Field>::new()).with_rescue_column(Some("rest"));
    let batch = decode_every_way(&schema, &entries).unwrap();
    let expected = r#"{"\\\\\\\\xff":"text of that","\\\\xff":"text","\\xff":"byte"}"#.to_owned();
    assert_eq!(column_texts(&batch, "rest"), [Some(expected)]);
}

#[test]
fn a_payload_never_overwrites_an_id() {
    for (name, parameter) in [
        ("_id", "id_column"),
        ("_ts", "timestamp_column"),
        ("_seq", "sequence_column"),
        ("_rescued", "rescue_column"),
    ] {
        for on_error in [OnError::Raise, OnError::Null] {
            let schema = StreamSchema::default()
                .with_sequence_column(Some("_seq"))
                .with_rescue_column(Some("_rescued"))
                .with_on_error(on_error);
            let entries = [entry(1, [("a", "1")]), entry(2, [(name, "forged")])];
            let error = decode_every_way(&schema, &entries).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema);
            assert!(error.to_string().contains(parameter), "{error}");
            assert!(error.to_string().contains("entry ID: 2-0"), "{error}");
        }
    }
    let renamed = StreamSchema::default().with_id_column(Some("entry"));
    let batch = decode_every_way(&renamed, &[entry(2, [("_id", "payload")])]).unwrap();
    assert_eq!(names(&batch), ["entry", "_ts", "_id"]);
}

/// The batches, and the error that ends them, of a decoder that gives the rows before it.
fn decode_up_to_error(
    decoder: &mut Decoder,
    reply: &[u8],
    size: usize,
    build: bool,
) -> (Vec<Batch>, Option<redfloe::Error>) {
    let mut batches = Vec::new();
    for mut piece in reply.chunks(size) {
        while !piece.is_empty() && decoder.take_reply().is_none() {
            let taken = decoder.decode(piece).unwrap();
            piece = &piece[taken..];
            if build {
                decoder.build();
            }
            if decoder.is_full() {
                match decoder.flush_up_to_error() {
                    Ok(batch) => batches.push(batch),
                    Err(error) => return (batches, Some(error)),
                }
            }
        }
    }
    for _ in 0..2 {
        match decoder.flush_up_to_error() {
            Ok(batch) => batches.push(batch),
            Err(error) => return (batches, Some(error)),
        }
    }
    (batches, None)
}

#[test]
fn what_cannot_be_read_alone_is_rejected() {
    let bad: Vec<Entry> = [&b"_id"[..], b"_ts", b"a\0b", b"\xff"]
        .into_iter()
        .zip(10..)
        .map(|(name, ms)| entry(ms, [(&b"a"[..], &b"1"[..]), (b"new", b"2"), (name, b"3")]))
        .collect();
    let good = |ms| entry(ms, [("a", "good"), ("b", "good")]);
    let entries = [&[good(1), good(2)], bad.as_slice(), &[good(20)]].concat();
    let schema = StreamSchema::default().with_on_error(OnError::Reject);
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let reply = protocol.entries(&entries);
        for (size, build) in [(1, false), (7, true), (usize::MAX, false)] {
            let mut decoder = Decoder::new(schema.clone(), ReplyShape::Entries).unwrap();
            for piece in reply.chunks(size.min(reply.len())) {
                decoder.decode(piece).unwrap();
                if build {
                    decoder.build();
                }
            }
            // They count until then: a reply is as long as its entries are many.
            assert_eq!((decoder.rows(), decoder.last_id()), (7, Some(EntryId::new(20, 0))));
            let batch = decoder.flush().unwrap();
            assert_eq!(batch.ids(), [1, 2, 20].map(|ms| EntryId::new(ms, 0)));
            assert_eq!(names(&batch), ["_id", "_ts", "a", "b"]);
            assert_eq!(column_texts(&batch, "a"), some(&["good"; 3]));
            assert_eq!(batch.rejected().len(), 4);
            for (rejected, reason) in
                batch.rejected().iter().zip(["id_column", "timestamp_column", "NUL", "UTF-8"])
            {
                let text = rejected.error.to_string();
                assert!(text.contains(reason), "{text}");
                assert!(text.contains(&format!("entry ID: {}", rejected.id)), "{text}");
            }
        }
    }
}

#[test]
fn the_rows_before_what_cannot_be_read_come_first() {
    let number = || StreamSchema::open([Field::new("n", DataType::Int64, true)]);
    let good = |ms| entry(ms, [("n", "1"), ("a", "x")]);
    for (bad, kind) in [
        (entry(4, [("n", "one"), ("a", "x")]), ErrorKind::Decode),
        (entry(4, [("n", "1"), ("_id", "x")]), ErrorKind::Schema),
        (entry(4, [("n", "1"), ("a\0b", "x")]), ErrorKind::Schema),
        (entry(4, [(&b"n"[..], &b"1"[..]), (b"\xff", b"x")]), ErrorKind::Decode),
        (entry(4, [("n", "1"), ("one more", "x")]), ErrorKind::Schema),
    ] {
        // What comes after it, and is as bad, is not what the error is about.
        let entries =
            [good(1), good(2), good(3), bad, good(5), entry(6, [("n", "x"), ("_id", "x")])];
        let reply = Protocol::Resp2.entries(&entries);
        for size in [1, 20, reply.len()] {
            for build in [false, true] {
                for rows in [1, 2, 3, 100] {
                    let mut decoder =
                        Decoder::new(number().with_max_columns(2), ReplyShape::Entries)
                            .unwrap()
                            .with_row_limit(rows);
                    let (batches, error) = decode_up_to_error(&mut decoder, &reply, size, build);
                    let error = error.expect("one entry cannot be read");
                    assert_eq!(error.kind(), kind, "{error}");
                    assert!(error.to_string().contains("entry ID: 4-0"), "{error}");
                    let ids: Vec<u64> =
                        batches.iter().flat_map(|batch| batch.ids()).map(|id| id.ms).collect();
                    assert_eq!(ids, [1, 2, 3], "{size} {build} {rows}");
                    assert_eq!(decoder.last_id(), Some(EntryId::new(3, 0)));
                    for batch in &batches {
                        assert_eq!(
                            column_texts(batch, "n"),
                            vec![Some("1".to_owned()); batch.len()]
                        );
                    }
                    assert!(decoder.flush().is_err());
                }
            }
        }
    }
}

#[test]
fn an_open_schema_has_a_bound_of_columns() {
    let entries: Vec<Entry> =
        (0..8).map(|n| entry(n + 1, [(format!("f{n}"), n.to_string())])).collect();
    let schema = StreamSchema::default().with_max_columns(8);
    assert_eq!(decode_every_way(&schema, &entries).unwrap().records().num_columns(), 10);

    for on_error in [OnError::Raise, OnError::Null, OnError::Reject] {
        let schema = StreamSchema::default().with_max_columns(7).with_on_error(on_error);
        let result = decode_every_way(&schema, &entries);
        let error = if on_error == OnError::Reject {
            let batch = result.unwrap();
            assert_eq!((batch.len(), batch.rejected().len()), (7, 1));
            batch.rejected()[0].error.clone()
        } else {
            result.unwrap_err().into()
        };
        assert_eq!(error.kind(), ErrorKind::Schema);
        for word in ["\"f7\"", "max_columns=7", "schema", "rescue_column", "entry ID: 8-0"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    let schema = StreamSchema::default().with_max_columns(7).with_rescue_column(Some("rest"));
    let batch = decode_every_way(&schema, &entries).unwrap();
    assert_eq!(batch.records().num_columns(), 10);
    assert_eq!(column_texts(&batch, "rest")[7], Some(r#"{"f7":"7"}"#.to_owned()));

    // The schema's own fields may be more, and long names count as several.
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let own = StreamSchema::open([text("f0"), text("f1")]).with_max_columns(1);
    assert!(decode_every_way(&own, &entries[..2]).is_ok());
    assert!(decode_every_way(&own, &entries[..3]).is_err());
    for (length, fits) in [(100, true), (300, true), (301, false)] {
        let long = [entry(1, [("x".repeat(length), "1")])];
        let schema = StreamSchema::default().with_max_columns(3);
        assert_eq!(decode_every_way(&schema, &long).is_ok(), fits);
    }
}

#[test]
fn cells_bound_a_batch_of_an_open_schema() {
    let entries: Vec<Entry> =
        (0..100).map(|n| entry(n + 1, [(format!("f{n}"), n.to_string())])).collect();
    let reply = Protocol::Resp2.entries(&entries);
    for size in [1, 100, reply.len()] {
        let decoder = Decoder::new(StreamSchema::default(), ReplyShape::Entries).unwrap();
        let (batches, error) =
            decode_up_to_error(&mut decoder.with_cell_bytes(16 * 120), &reply, size, false);
        assert!(error.is_none());
        let mut width = 0;
        // Those that were full.
        for batch in &batches[..batches.len() - 2] {
            let columns = batch.records().num_columns() - 2;
            // A batch has every field so far, and one row less would not have reached the bound.
            assert_eq!(columns, width + batch.len());
            let rows = batch.len();
            assert!((columns + 1) * (rows + 1) > 120, "{columns} {rows}");
            assert!(rows == 1 || (columns - 1) * (rows - 1) < 120, "{columns} {rows}");
            width = columns;
        }
        let rows: usize = batches.iter().map(Batch::len).sum();
        assert_eq!((rows, width >= 90), (100, true));
        let cells = batches.iter().flat_map(|batch| cells(batch.records()));
        assert_eq!(cells.map(|row| row.len()).collect::<Vec<_>>(), [3; 100]);
    }
    // With a schema the columns are known, and wide rows are what was asked for.
    let closed = StreamSchema::closed([Field::new("f1", DataType::Utf8View, true)]);
    let mut decoder = Decoder::new(closed, ReplyShape::Entries).unwrap().with_cell_bytes(16);
    decoder.decode(&reply).unwrap();
    assert_eq!(decoder.flush().unwrap().len(), 100);
}

#[test]
fn all_values_of_a_repeated_field_are_rescued() {
    let entries = [
        entry(1, [("a", "1"), ("b", "x"), ("a", "2"), ("b", "y"), ("a", "3")]),
        entry(2, [("a", "4")]),
        entry(3, [("a", "one"), ("a", "two"), ("other", "5"), ("other", "5")]),
        entry(4, [(&b"b"[..], &b"\xff"[..]), (b"b", b"z"), (b"a", b""), (b"a", b"6")]),
    ];
    let rescued = [
        Some(r#"{"a":["1","2","3"],"b":["x","y"]}"#.to_owned()),
        None,
        Some(r#"{"a":["one","two"],"other":["5","5"]}"#.to_owned()),
        Some(r#"{"a":["","6"],"b":[{"$base64":"/w=="},"z"]}"#.to_owned()),
    ];
    let fields =
        [("a", DataType::Int64), ("b", DataType::Utf8View)].map(|(n, t)| Field::new(n, t, true));
    for schema in [StreamSchema::closed(fields.clone()), StreamSchema::open(fields)] {
        let schema = schema.with_rescue_column(Some("rest"));
        let batch = decode_every_way(&schema, &entries).unwrap();
        assert_eq!(column_texts(&batch, "rest"), rescued);
        let a = column_texts(&batch, "a");
        assert_eq!(a, [Some("3".to_owned()), Some("4".to_owned()), None, Some("6".to_owned())]);
        assert_eq!(column_texts(&batch, "b")[0].as_deref(), Some("y"));
    }
}

#[test]
fn schemas_with_names_that_no_column_can_have_are_refused() {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let inside = |name: &str| Field::new_struct("s", vec![text("x"), text(name)], true);
    for (schema, word) in [
        (StreamSchema::closed([text("a\0b")]), "NUL"),
        (StreamSchema::closed([inside("a\0b")]), "NUL"),
        (StreamSchema::closed([inside("x")]), "\"s\" names the field \"x\" twice"),
        (StreamSchema::closed([Field::new_list("l", inside("x"), true)]), "twice"),
        (StreamSchema::default().with_id_column(Some("\0")), "id_column"),
        (StreamSchema::default().with_rescue_column(Some("a\0")), "rescue_column"),
    ] {
        let error = Decoder::new(schema, ReplyShape::Entries).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.message().contains(word), "{error}");
    }
}
