//! Replies that are cut into batches by a row limit.

use arrow_array::Array;
use redfloe::{Decoder, ReplyShape, Result, StreamSchema};

use crate::common::{Protocol, column_texts, entry, feed};

/// The rows of each batch, and all IDs, of two replies of seven entries.
fn batches(
    shape: ReplyShape,
    protocol: Protocol,
    limit: usize,
    piece: usize,
) -> Result<(Vec<usize>, Vec<u64>)> {
    let entries: Vec<_> = (1..=7).map(|ms| entry(ms, [("a", "some text"), ("b", "1")])).collect();
    let reply = match shape {
        ReplyShape::Entries => protocol.entries(&entries),
        ReplyShape::Streams => protocol.streams(&[("s", &entries)]),
        ReplyShape::Claimed => protocol.claimed("7-0", &entries, Some(&["3-1"])),
        other => panic!("no reply of the shape {other:?}"),
    };
    let mut decoder = Decoder::new(StreamSchema::default(), shape)?.with_row_limit(limit);
    let (mut rows, mut ids) = (Vec::new(), Vec::new());
    let mut flush = |decoder: &mut Decoder| -> Result<()> {
        let batch = decoder.flush()?;
        assert_eq!(batch.records().num_rows(), batch.len());
        rows.push(batch.len());
        ids.extend(batch.ids().iter().map(|id| id.ms));
        Ok(())
    };
    for _ in 0..2 {
        let mut rest = reply.as_slice();
        while !decoder.reply_complete() {
            let offered = &rest[..piece.min(rest.len())];
            let taken = decoder.decode(offered)?;
            rest = &rest[taken..];
            if decoder.is_full() {
                assert!(decoder.rows() == limit);
                flush(&mut decoder)?;
            } else {
                assert_eq!(taken, offered.len());
            }
        }
        assert!(rest.is_empty());
        assert!(decoder.take_reply().is_some());
    }
    flush(&mut decoder)?;
    Ok((rows, ids))
}

#[test]
fn a_full_decoder_takes_no_more_until_it_is_flushed() -> Result<()> {
    for shape in [ReplyShape::Entries, ReplyShape::Streams, ReplyShape::Claimed] {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            for limit in 1..=15 {
                for piece in [1, 3, 5, 64, 10_000] {
                    let (rows, ids) = batches(shape, protocol, limit, piece)?;
                    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7]);
                    let (last, full) = rows.split_last().unwrap();
                    assert!(full.iter().all(|rows| *rows == limit), "{limit}: {rows:?}");
                    assert!(*last < limit, "{limit}: {rows:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_column_that_comes_and_goes_has_a_bitmap_of_nulls_only_where_it_has_nulls() -> Result<()> {
    let mut decoder = Decoder::new(StreamSchema::default(), ReplyShape::Entries)?;
    let both = [("a", "1"), ("b", "2")];
    // Which of the two rows of each batch have "b".
    for with in [[true, true], [true, true], [true, false], [false, false], [false, true]] {
        let entries: Vec<_> = (1..)
            .zip(with)
            .map(|(ms, with)| entry(ms, both.into_iter().take(1 + usize::from(with))))
            .collect();
        feed(&mut decoder, &Protocol::Resp2.entries(&entries))?;
        let batch = decoder.flush()?;
        assert_eq!(column_texts(&batch, "a"), vec![Some("1".to_owned()); 2]);
        assert_eq!(column_texts(&batch, "b"), with.map(|with| with.then(|| "2".to_owned())));
        let has_bitmap =
            |name: &str| batch.records().column_by_name(name).and_then(|b| b.nulls()).is_some();
        assert!(!has_bitmap("a"));
        assert_eq!(has_bitmap("b"), with.contains(&false));
    }
    Ok(())
}
