//! Entries as the bytes of replies, and those bytes through the decoder in pieces of every kind.

// Each test binary compiles this file for itself and uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;

use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use redfloe::{Batch, Decoder, EntryId, Reply, ReplyShape, Result, StreamSchema};

/// An entry as a server holds it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: EntryId,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

pub const NO_FIELDS: [(&str, &str); 0] = [];

/// The entry `ms-0`.
pub fn entry<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    ms: u64,
    fields: impl IntoIterator<Item = (N, V)>,
) -> Entry {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.as_ref().to_vec(), value.as_ref().to_vec()))
        .collect();
    Entry { id: EntryId::new(ms, 0), fields }
}

/// How a server writes replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Resp2,
    /// With a map wherever one may come: streams and fields.
    Resp3,
}

impl Protocol {
    /// The reply of XRANGE.
    pub fn entries(self, entries: &[Entry]) -> Vec<u8> {
        let mut reply = Vec::new();
        self.write_entries(&mut reply, entries);
        reply
    }

    /// The reply of XREAD.
    pub fn streams(self, streams: &[(&str, &[Entry])]) -> Vec<u8> {
        let mut reply = Vec::new();
        match self {
            Protocol::Resp2 => header(&mut reply, '*', streams.len()),
            Protocol::Resp3 => header(&mut reply, '%', streams.len()),
        }
        for (name, entries) in streams {
            if self == Protocol::Resp2 {
                header(&mut reply, '*', 2);
            }
            bulk(&mut reply, name.as_bytes());
            self.write_entries(&mut reply, entries);
        }
        reply
    }

    /// The reply of XAUTOCLAIM, since 7.0 with the IDs of what was deleted.
    pub fn claimed(self, cursor: &str, entries: &[Entry], deleted: Option<&[&str]>) -> Vec<u8> {
        let mut reply = Vec::new();
        header(&mut reply, '*', if deleted.is_some() { 3 } else { 2 });
        bulk(&mut reply, cursor.as_bytes());
        self.write_entries(&mut reply, entries);
        if let Some(deleted) = deleted {
            header(&mut reply, '*', deleted.len());
            for id in deleted {
                bulk(&mut reply, id.as_bytes());
            }
        }
        reply
    }

    /// The reply of XREADGROUP CLAIM: how long each was idle, how often it had been delivered.
    pub fn delivered(self, stream: &str, entries: &[Entry]) -> Vec<u8> {
        let mut reply = self.streams(&[(stream, &[])]);
        reply.truncate(reply.len() - "*0\r\n".len());
        header(&mut reply, '*', entries.len());
        for entry in entries {
            header(&mut reply, '*', 4);
            let alone = self.entries(std::slice::from_ref(entry));
            reply.extend_from_slice(alone.strip_prefix(b"*1\r\n*2\r\n").unwrap());
            reply.extend_from_slice(b":1234\r\n:2\r\n");
        }
        reply
    }

    fn write_entries(self, reply: &mut Vec<u8>, entries: &[Entry]) {
        header(reply, '*', entries.len());
        for entry in entries {
            header(reply, '*', 2);
            bulk(reply, entry.id.to_string().as_bytes());
            match self {
                Protocol::Resp2 => header(reply, '*', entry.fields.len() * 2),
                Protocol::Resp3 => header(reply, '%', entry.fields.len()),
            }
            for (name, value) in &entry.fields {
                bulk(reply, name);
                bulk(reply, value);
            }
        }
    }
}

fn header(reply: &mut Vec<u8>, kind: char, len: usize) {
    reply.extend_from_slice(format!("{kind}{len}\r\n").as_bytes());
}

fn bulk(reply: &mut Vec<u8>, bytes: &[u8]) {
    header(reply, '$', bytes.len());
    reply.extend_from_slice(bytes);
    reply.extend_from_slice(b"\r\n");
}

/// What is asked of a decoder in the middle of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    Never,
    /// Build the columns after every so many pieces.
    Build(usize),
    /// Take a batch after every so many pieces.
    Flush(usize),
}

/// Every reply in `bytes`, fed in pieces of `size`; the last batch is flushed at the end.
pub fn decode(
    schema: &StreamSchema,
    shape: ReplyShape,
    bytes: &[u8],
    size: usize,
    pause: Pause,
) -> Result<Vec<Batch>> {
    let mut decoder = Decoder::new(schema.clone(), shape)?;
    let mut batches = Vec::new();
    for (index, piece) in bytes.chunks(size).enumerate() {
        feed(&mut decoder, piece)?;
        match pause {
            Pause::Build(every) if index % every == 0 => decoder.build(),
            Pause::Flush(every) if index % every == 0 => batches.push(decoder.flush()?),
            _ => {}
        }
    }
    batches.push(decoder.flush()?);
    Ok(batches)
}

/// Feeds bytes, of whatever number of replies, and gives the ends of those that ended.
pub fn feed(decoder: &mut Decoder, mut bytes: &[u8]) -> Result<Vec<Reply>> {
    let mut ends = Vec::new();
    while !bytes.is_empty() {
        let taken = decoder.decode(bytes)?;
        bytes = &bytes[taken..];
        match decoder.take_reply() {
            Some(end) => ends.push(end),
            None => assert!(bytes.is_empty(), "bytes were left within a reply"),
        }
    }
    Ok(ends)
}

/// One batch of all entries, or the error; the same whichever way the bytes come.
pub fn decode_every_way(schema: &StreamSchema, entries: &[Entry]) -> Result<Batch> {
    let expected = decode_whole(schema, ReplyShape::Entries, &Protocol::Resp2.entries(entries));
    let (early, late) = entries.split_at(entries.len() / 2);
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        for (shape, reply) in [
            (ReplyShape::Entries, protocol.entries(entries)),
            (ReplyShape::Entries, [protocol.entries(early), protocol.entries(late)].concat()),
            (ReplyShape::Streams, protocol.streams(&[("a", early), ("", &[]), ("b", late)])),
        ] {
            for size in [1, 3, 5, usize::MAX] {
                for pause in [Pause::Never, Pause::Build(1), Pause::Build(7), Pause::Flush(3)] {
                    let way = format!("{protocol:?}, {shape:?}, pieces of {size}, {pause:?}");
                    let outcome = decode(schema, shape, &reply, size, pause);
                    assert_same(&expected, &outcome, &way);
                }
            }
        }
    }
    expected
}

/// One batch of everything that a single piece holds.
pub fn decode_whole(schema: &StreamSchema, shape: ReplyShape, bytes: &[u8]) -> Result<Batch> {
    let mut decoder = Decoder::new(schema.clone(), shape)?;
    feed(&mut decoder, bytes)?;
    decoder.flush()
}

/// Asserts that the batches together say what `expected` says.
pub fn assert_same(expected: &Result<Batch>, outcome: &Result<Vec<Batch>>, way: &str) {
    match (expected, outcome) {
        (Ok(expected), Ok(batches)) => {
            if let [batch] = batches.as_slice() {
                assert_eq!(batch.records(), expected.records(), "{way}");
            }
            let last = batches.last().map(|batch| batch.records().schema());
            assert_eq!(last, Some(expected.records().schema()), "{way}");
            let cells: Vec<_> = batches.iter().flat_map(|batch| cells(batch.records())).collect();
            assert_eq!(cells, self::cells(expected.records()), "{way}");
            let ids: Vec<_> = batches.iter().flat_map(|batch| batch.ids()).collect();
            assert_eq!(ids, expected.ids().iter().collect::<Vec<_>>(), "{way}");
            let deleted: Vec<_> = batches.iter().flat_map(|batch| batch.deleted()).collect();
            assert_eq!(deleted, expected.deleted().iter().collect::<Vec<_>>(), "{way}");
        }
        (Err(expected), Err(error)) => {
            assert_eq!(error.kind(), expected.kind(), "{way}");
            assert_eq!(error.to_string(), expected.to_string(), "{way}");
        }
        _ => panic!("{way}: {outcome:?} instead of {expected:?}"),
    }
}

/// The cells of each row that are not null, by column: a column that a batch lacks is all null.
pub fn cells(records: &RecordBatch) -> Vec<BTreeMap<String, String>> {
    let mut rows = vec![BTreeMap::new(); records.num_rows()];
    for (field, column) in records.schema().fields().iter().zip(records.columns()) {
        for (row, text) in rows.iter_mut().zip(texts(column)) {
            if let Some(text) = text {
                row.insert(field.name().clone(), text);
            }
        }
    }
    rows
}

/// The values of a column as text; `None` is null.
pub fn texts(column: &dyn Array) -> Vec<Option<String>> {
    let options = FormatOptions::new().with_null("null");
    let formatter = ArrayFormatter::try_new(column, &options).expect("every dtype has a text");
    let nulls = column.logical_nulls();
    (0..column.len())
        .map(|row| match &nulls {
            Some(nulls) if nulls.is_null(row) => None,
            _ => Some(formatter.value(row).to_string()),
        })
        .collect()
}

/// The texts of the column called `name`.
pub fn column_texts(batch: &Batch, name: &str) -> Vec<Option<String>> {
    let column = batch.records().column_by_name(name);
    texts(column.unwrap_or_else(|| panic!("no column {name:?}")))
}

/// The names of a batch's columns.
pub fn names(batch: &Batch) -> Vec<String> {
    batch.records().schema().fields().iter().map(|field| field.name().clone()).collect()
}
