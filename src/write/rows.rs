//! Rows to XADD commands.

use std::collections::{HashMap, VecDeque};

use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, TimeUnit};

use super::encode::Column;
use super::request::{IdSource, NullTexts, Target, Trim, TrimBound, WriteRequest};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, shorten};

/// The commands of some rows, one after the other.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: Vec<Row>,
}

/// A row's command, and what became of it.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// Its number among all rows of the write.
    pub(super) number: usize,
    /// Where its command ends in the chunk's bytes.
    pub(super) end: usize,
    /// The index of its stream's key.
    pub(super) key: usize,
    /// The ID that it bears, or that the server gave it; none while it is not in.
    pub(super) own: Option<EntryId>,
    pub(super) answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    None,
    Id(EntryId),
    /// The stream does not exist and is not to be made.
    Nil,
    Refused,
}

/// The keys of the streams that rows go to, each once.
#[derive(Default)]
pub(super) struct Keys {
    keys: Vec<Vec<u8>>,
    index: HashMap<Vec<u8>, usize>,
}

impl Keys {
    fn add(&mut self, key: &[u8]) -> usize {
        if let Some(index) = self.index.get(key) {
            return *index;
        }
        let index = self.keys.len();
        self.keys.push(key.to_vec());
        self.index.insert(key.to_vec(), index);
        index
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        self.keys.get(index).map_or(&[], Vec::as_slice)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.keys.iter().map(Vec::as_slice)
    }
}

/// One batch's columns, ready to be written.
struct Frame {
    fields: Vec<FieldColumn>,
    ids: RowIds,
    /// The index of each row's key; empty where there is one for all.
    keys: Vec<u32>,
    rows: usize,
    /// The number of its first row among all.
    first: usize,
}

struct FieldColumn {
    /// `$4\r\nname\r\n`
    name: Vec<u8>,
    column: Column,
    /// `$4\r\nnull\r\n`, where a null is to be written.
    null: Option<Vec<u8>>,
}

enum RowIds {
    Server,
    Text(Column),
    Milliseconds(Vec<i64>),
}

/// An ID as a row bears it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowId {
    Whole(EntryId),
    /// The server adds the sequence number.
    Milliseconds(u64),
}

/// One entry that was not a row of a batch: how many words its fields take, and these.
#[derive(Debug)]
pub(super) struct Entry {
    words: usize,
    packed: Vec<u8>,
}

impl Entry {
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) without a field.
    pub(super) fn new<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Entry> {
        let mut entry = Entry { words: 0, packed: Vec::new() };
        for (name, value) in fields {
            push_bulk(name, &mut entry.packed);
            push_bulk(value, &mut entry.packed);
            entry.words += 2;
        }
        match entry.words {
            0 => Err(Error::invalid("no field has a value, and an entry needs one")),
            _ => Ok(entry),
        }
    }

    /// The bytes of its fields.
    pub(super) fn len(&self) -> usize {
        self.packed.len()
    }
}

/// Turns batches into commands, in order.
pub(super) struct Rows {
    frames: Vec<Frame>,
    /// What is written instead, where there are no frames.
    entries: VecDeque<Entry>,
    pub(super) keys: Keys,
    /// What follows `*N\r\n` up to the ID, for each key.
    prefixes: Vec<Vec<u8>>,
    /// The words of a command beside its fields.
    words: usize,
    /// Words before the ID that name the producer, and what all of this write's rows share.
    pub(super) producer: Option<Producer>,
    /// On servers that do not add sequence numbers we do: the next for each key.
    pub(super) sequences: Option<Vec<Option<EntryId>>>,
    total: usize,
    /// Where to go on.
    frame: usize,
    row: usize,
    scratch: Vec<u8>,
    skip_empty: bool,
}

/// How the server tells rows of this write from all others.
pub(super) struct Producer {
    pub(super) name: Vec<u8>,
    pub(super) nonce: u64,
}

impl Rows {
    /// Prepares all rows, and refuses what can be refused before anything is sent.
    ///
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) for columns that are missing or have no text,
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for rows that cannot be entries.
    pub(super) fn new(batches: &[RecordBatch], request: &WriteRequest) -> Result<Rows> {
        let mut keys = Keys::default();
        if let Target::One(key) = &request.stream {
            keys.add(key);
        }
        let mut frames = Vec::with_capacity(batches.len());
        let mut total = 0;
        for batch in batches {
            frames.push(Frame::new(batch, request, &mut keys, total)?);
            total += batch.num_rows();
        }
        let rows = Rows::with(request, keys, frames, VecDeque::new(), total);
        rows.check_empty()?;
        rows.check_ids()?;
        Ok(rows)
    }

    /// Entries for one stream, with IDs from the server.
    pub(super) fn of_entries(entries: VecDeque<Entry>, request: &WriteRequest) -> Rows {
        let mut keys = Keys::default();
        if let Target::One(key) = &request.stream {
            keys.add(key);
        }
        let total = entries.len();
        Rows::with(request, keys, Vec::new(), entries, total)
    }

    fn with(
        request: &WriteRequest,
        keys: Keys,
        frames: Vec<Frame>,
        entries: VecDeque<Entry>,
        total: usize,
    ) -> Rows {
        let options = options(request);
        let mut prefixes = Vec::with_capacity(keys.keys.len());
        for key in keys.iter() {
            let mut prefix = Vec::new();
            push_bulk(b"XADD", &mut prefix);
            push_bulk(key, &mut prefix);
            options.iter().for_each(|option| push_bulk(option, &mut prefix));
            prefixes.push(prefix);
        }
        Rows {
            frames,
            entries,
            keys,
            prefixes,
            words: 3 + options.len(),
            producer: None,
            sequences: None,
            total,
            frame: 0,
            row: 0,
            scratch: Vec::new(),
            skip_empty: request.skip_empty,
        }
    }

    /// The number of rows in all.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// The number of the row that comes next, if one does.
    pub(super) fn next_number(&self) -> Option<usize> {
        let first = match self.frames.get(self.frame) {
            Some(frame) => frame.first,
            None if self.entries.is_empty() => return None,
            None => 0,
        };
        Some(first + self.row).filter(|number| *number < self.total)
    }

    /// Has the server recognise rows that come twice.
    pub(super) fn with_producer(&mut self, producer: Producer) {
        self.words += 3;
        for prefix in &mut self.prefixes {
            push_bulk(b"IDMP", prefix);
            push_bulk(&producer.name, prefix);
        }
        self.producer = Some(producer);
    }

    /// The commands of the next rows, about so many bytes and at most so many rows; or none at the
    /// end.
    pub(super) fn next(&mut self, rows: usize, bytes: usize) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        chunk.bytes.reserve(bytes.min(rows.saturating_mul(256)) + 1024);
        while chunk.rows.len() < rows && chunk.bytes.len() < bytes {
            let Some(frame) = self.frames.get(self.frame) else {
                break;
            };
            if self.row >= frame.rows {
                self.frame += 1;
                self.row = 0;
                continue;
            }
            let row = self.row;
            self.row += 1;
            let words = frame.words(row);
            if words == 0 {
                continue;
            }
            let key = frame.key(row);
            let number = frame.first + row;
            self.open_row(number, key, words, &mut chunk.bytes);
            let Some(frame) = self.frames.get(self.frame) else {
                break;
            };
            let own = match frame.id(row) {
                None => {
                    chunk.bytes.extend_from_slice(b"$1\r\n*\r\n");
                    None
                }
                Some(id) => push_id(id, key, self.sequences.as_mut(), &mut chunk.bytes),
            };
            frame.push_fields(row, &mut self.scratch, &mut chunk.bytes);
            chunk.rows.push(Row { number, end: chunk.bytes.len(), key, own, answer: Answer::None });
        }
        while chunk.rows.len() < rows
            && chunk.bytes.len() < bytes
            && let Some(entry) = self.entries.pop_front()
        {
            let number = self.row;
            self.row += 1;
            self.open_row(number, 0, entry.words, &mut chunk.bytes);
            chunk.bytes.extend_from_slice(b"$1\r\n*\r\n");
            chunk.bytes.extend_from_slice(&entry.packed);
            let (end, answer) = (chunk.bytes.len(), Answer::None);
            chunk.rows.push(Row { number, end, key: 0, own: None, answer });
        }
        (!chunk.rows.is_empty()).then_some(chunk)
    }

    /// A row's command, up to its ID.
    #[inline]
    fn open_row(&mut self, number: usize, key: usize, words: usize, out: &mut Vec<u8>) {
        push_header(b'*', self.words + words, out);
        if let Some(prefix) = self.prefixes.get(key) {
            out.extend_from_slice(prefix);
        }
        if let Some(producer) = &self.producer {
            push_bulk(format!("{:016x}-{number}", producer.nonce).as_bytes(), out);
        }
    }

    /// The first row of each key and its ID, where rows have IDs.
    pub(super) fn first_ids(&self) -> Vec<Option<(usize, RowId)>> {
        let mut first = vec![None; self.prefixes.len()];
        let mut missing = first.len();
        for frame in &self.frames {
            for row in 0..frame.rows {
                if missing == 0 {
                    return first;
                }
                if let Some(slot @ None) = first.get_mut(frame.key(row)) {
                    *slot = frame.id(row).map(|id| (frame.first + row, id));
                    missing -= 1;
                }
            }
        }
        first
    }

    /// Whether rows have IDs of which the server is to add the sequence number.
    pub(super) fn has_partial_ids(&self) -> bool {
        self.frames.iter().any(|frame| match &frame.ids {
            RowIds::Server => false,
            RowIds::Milliseconds(_) => frame.rows > 0,
            RowIds::Text(_) => {
                (0..frame.rows).any(|row| matches!(frame.id(row), Some(RowId::Milliseconds(_))))
            }
        })
    }

    /// The longest text of a field that can be told without writing it: its length, row and name.
    pub(super) fn longest(&self) -> Option<(usize, usize, String)> {
        let mut longest: Option<(usize, usize, String)> = None;
        for frame in &self.frames {
            for field in &frame.fields {
                let found = field.column.longest();
                if let Some((row, len)) = found
                    && longest.as_ref().is_none_or(|(most, _, _)| len > *most)
                {
                    longest = Some((len, frame.first + row, field.plain_name()));
                }
            }
        }
        longest
    }

    fn check_empty(&self) -> Result<()> {
        for frame in &self.frames {
            if frame.is_never_empty() {
                continue;
            }
            if let Some(row) = (0..frame.rows).find(|row| frame.words(*row) == 0)
                && !self.skip_empty
            {
                return Err(at_row(
                    frame.first + row,
                    "no field has a value, and an entry needs one; nothing has been sent; pass \
                     on_empty_row=\"skip\" to leave such rows out",
                ));
            }
        }
        Ok(())
    }

    fn check_ids(&self) -> Result<()> {
        let mut last: Vec<Option<RowId>> = vec![None; self.prefixes.len()];
        for frame in &self.frames {
            if matches!(frame.ids, RowIds::Server) {
                continue;
            }
            for row in 0..frame.rows {
                let number = frame.first + row;
                let id = frame.checked_id(row).map_err(|reason| at_row(number, &reason))?;
                let Some(last) = last.get_mut(frame.key(row)) else {
                    continue;
                };
                if !last.is_none_or(|last| last.may_precede(id)) {
                    let last = last.map_or_else(String::new, |last| last.to_string());
                    return Err(at_row(
                        number,
                        &format!(
                            "the ID {id} does not come after {last}, that of a row before; sort \
                             the rows by it; nothing has been sent"
                        ),
                    ));
                }
                *last = Some(id);
            }
        }
        Ok(())
    }
}

pub(super) fn at_row(row: usize, reason: &str) -> Error {
    Error::invalid(reason.to_owned()).with_context("row", row.to_string())
}

impl RowId {
    /// Whether an entry with the other ID can be added behind one with this.
    pub(super) fn may_precede(self, next: RowId) -> bool {
        match (self, next) {
            (RowId::Whole(id), RowId::Whole(next)) => id < next,
            (RowId::Whole(id), RowId::Milliseconds(ms)) => {
                id.ms < ms || (id.ms == ms && id.seq < u64::MAX)
            }
            // What the server makes of it may be greater, which its reply then says.
            (RowId::Milliseconds(ms), RowId::Whole(next)) => EntryId::new(ms, 0) < next,
            (RowId::Milliseconds(ms), RowId::Milliseconds(next)) => ms <= next,
        }
    }
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowId::Whole(id) => id.fmt(f),
            RowId::Milliseconds(ms) => write!(f, "{ms}-*"),
        }
    }
}

/// The words that follow a stream's key.
fn options(request: &WriteRequest) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    if request.no_make_stream {
        words.push(b"NOMKSTREAM".to_vec());
    }
    if let Some(Trim { bound, approximate, limit }) = request.trim {
        let (word, bound) = match bound {
            TrimBound::MaxLen(entries) => ("MAXLEN", entries.to_string()),
            TrimBound::MinId(id) => ("MINID", id.to_string()),
        };
        let operator = if approximate { "~" } else { "=" };
        words.extend([word.into(), operator.into(), bound.into_bytes()]);
        if let Some(limit) = limit {
            words.extend([b"LIMIT".to_vec(), limit.to_string().into_bytes()]);
        }
    }
    words
}

impl Frame {
    fn new(
        batch: &RecordBatch,
        request: &WriteRequest,
        keys: &mut Keys,
        first: usize,
    ) -> Result<Frame> {
        let names = field_names(batch, request);
        if names.is_empty() {
            return Err(Error::new(
                ErrorKind::Schema,
                "there is no column to write, and an entry needs a field",
            ));
        }
        let mut fields = Vec::with_capacity(names.len());
        for name in names {
            let (field, array) = column(batch, &name)?;
            let column = Column::new(field, array)?;
            if !column.empty_is_value
                && let Some(row) = (0..batch.num_rows()).find(|row| {
                    !column.is_null(*row) && column.text(*row, &mut Vec::new()).is_empty()
                })
            {
                return Err(at_row(
                    first + row,
                    &format!(
                        "the column {name:?} has the empty text as a category, which would be read \
                         as null; cast it to a string; nothing has been sent"
                    ),
                ));
            }
            fields.push(FieldColumn::new(&name, column, &request.null_texts));
        }
        let ids = match &request.ids {
            IdSource::Server => RowIds::Server,
            IdSource::Column(name) => {
                let (field, array) = column(batch, name)?;
                match field.data_type() {
                    DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 => {
                        RowIds::Text(Column::new(field, array)?)
                    }
                    _ => return Err(wrong_type(name, "id_column", "text such as \"5-1\"")),
                }
            }
            IdSource::Timestamp(name) => RowIds::Milliseconds(milliseconds(batch, name, first)?),
        };
        let keys = match &request.stream {
            Target::One(_) => Vec::new(),
            Target::Column(name) => key_indices(batch, name, first, keys)?,
        };
        Ok(Frame { fields, ids, keys, rows: batch.num_rows(), first })
    }

    fn key(&self, row: usize) -> usize {
        self.keys.get(row).map_or(0, |key| *key as usize)
    }

    /// The words that a row's fields take.
    #[inline]
    fn words(&self, row: usize) -> usize {
        2 * self.fields.iter().filter(|field| field.is_written(row)).count()
    }

    fn is_never_empty(&self) -> bool {
        self.fields.iter().any(|field| field.null.is_some() || field.column.nulls().is_none())
    }

    #[inline]
    fn push_fields(&self, row: usize, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        for field in &self.fields {
            if !field.column.is_null(row) {
                out.extend_from_slice(&field.name);
                push_bulk(field.column.text(row, scratch), out);
            } else if let Some(null) = &field.null {
                out.extend_from_slice(&field.name);
                out.extend_from_slice(null);
            }
        }
    }

    fn id(&self, row: usize) -> Option<RowId> {
        self.checked_id(row).ok()
    }

    fn checked_id(&self, row: usize) -> Result<RowId, String> {
        match &self.ids {
            RowIds::Server => Err(String::new()),
            RowIds::Milliseconds(values) => {
                let ms = values.get(row).copied().unwrap_or_default();
                u64::try_from(ms).map(RowId::Milliseconds).map_err(|_| {
                    "the timestamp is before 1970, which no ID can be; nothing has been sent".into()
                })
            }
            RowIds::Text(column) if column.is_null(row) => {
                Err("the ID is null; nothing has been sent".into())
            }
            RowIds::Text(column) => {
                let mut scratch = Vec::new();
                let text = column.text(row, &mut scratch);
                match parse_id(text) {
                    None => Err(format!(
                        "{} is no entry ID; write \"ms-seq\", \"ms\" or \"ms-*\"; nothing has been \
                         sent",
                        shorten(text)
                    )),
                    Some(RowId::Whole(EntryId::MIN)) => {
                        Err("no entry can have the ID 0-0; nothing has been sent".into())
                    }
                    Some(id) => Ok(id),
                }
            }
        }
    }
}

fn parse_id(text: &[u8]) -> Option<RowId> {
    if let Some(id) = EntryId::from_bytes(text) {
        return Some(RowId::Whole(id));
    }
    let (ms, partial) = match text.strip_suffix(b"-*") {
        Some(ms) => (ms, true),
        None => (text, false),
    };
    let ms = EntryId::from_bytes(&[ms, b"-0"].concat())?.ms;
    Some(if partial { RowId::Milliseconds(ms) } else { RowId::Whole(EntryId::new(ms, 0)) })
}

/// Writes the ID; gives it back where it is whole.
fn push_id(
    id: RowId,
    key: usize,
    sequences: Option<&mut Vec<Option<EntryId>>>,
    out: &mut Vec<u8>,
) -> Option<EntryId> {
    let mut buffer = [0; EntryId::MAX_LEN];
    let own = match (id, sequences.and_then(|sequences| sequences.get_mut(key))) {
        (RowId::Whole(id), Some(last)) => {
            *last = Some(id);
            id
        }
        (RowId::Whole(id), None) => id,
        (RowId::Milliseconds(ms), Some(last)) => {
            let id = match *last {
                Some(id) if id.ms == ms => EntryId::new(ms, id.seq.saturating_add(1)),
                _ => EntryId::new(ms, u64::from(ms == 0)),
            };
            *last = Some(id);
            id
        }
        (RowId::Milliseconds(ms), None) => {
            push_bulk(format!("{ms}-*").as_bytes(), out);
            return None;
        }
    };
    push_bulk(own.write(&mut buffer), out);
    Some(own)
}

impl FieldColumn {
    fn new(name: &str, column: Column, nulls: &NullTexts) -> Self {
        let bulk = |text: &str| {
            let mut bulk = Vec::new();
            push_bulk(text.as_bytes(), &mut bulk);
            bulk
        };
        let null = nulls.by_field.get(name).or(nulls.all.as_ref()).map(|text| bulk(text));
        FieldColumn { name: bulk(name), column, null }
    }

    #[inline]
    fn is_written(&self, row: usize) -> bool {
        self.null.is_some() || !self.column.is_null(row)
    }

    fn plain_name(&self) -> String {
        let name = String::from_utf8_lossy(&self.name);
        name.split_once("\r\n").map_or("", |(_, name)| name).trim_end_matches("\r\n").to_owned()
    }
}

/// The names of the columns that become fields.
fn field_names(batch: &RecordBatch, request: &WriteRequest) -> Vec<String> {
    if let Some(names) = &request.fields {
        return names.clone();
    }
    let id = match &request.ids {
        IdSource::Server => None,
        IdSource::Column(name) | IdSource::Timestamp(name) => Some(name),
    };
    let key = match &request.stream {
        Target::One(_) => None,
        Target::Column(name) => Some(name),
    };
    let schema = batch.schema();
    let names = schema.fields().iter().map(|field| field.name());
    names.filter(|name| Some(*name) != id && Some(*name) != key).cloned().collect()
}

pub(super) fn column<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<(&'a Field, &'a arrow_array::ArrayRef)> {
    let found = batch.schema_ref().column_with_name(name);
    found
        .and_then(|(index, field)| Some((field, batch.columns().get(index)?)))
        .ok_or_else(|| Error::new(ErrorKind::Schema, format!("there is no column {name:?}")))
}

fn wrong_type(name: &str, parameter: &str, wanted: &str) -> Error {
    let message = format!("the column {name:?}, which {parameter} names, must hold {wanted}");
    Error::new(ErrorKind::Schema, message)
}

/// The milliseconds of a column of timestamps.
fn milliseconds(batch: &RecordBatch, name: &str, first: usize) -> Result<Vec<i64>> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::*;

    let (field, array) = column(batch, name)?;
    let scaled = |values: &[i64], per_ms: i64| -> Vec<i64> {
        values.iter().map(|value| value.div_euclid(per_ms)).collect()
    };
    let values = match field.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values().to_vec(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values().to_vec()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            scaled(array.as_primitive::<TimestampMicrosecondType>().values(), 1_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            scaled(array.as_primitive::<TimestampNanosecondType>().values(), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            let seconds = array.as_primitive::<TimestampSecondType>().values();
            seconds.iter().map(|value| value.saturating_mul(1_000)).collect()
        }
        _ => {
            let wanted = "datetimes, or integers that count milliseconds";
            return Err(wrong_type(name, "timestamp_column", wanted));
        }
    };
    if let Some(row) = (0..array.len()).find(|row| array.is_null(*row)) {
        return Err(at_row(first + row, "the timestamp is null; nothing has been sent"));
    }
    Ok(values)
}

/// The index of each row's key.
fn key_indices(batch: &RecordBatch, name: &str, first: usize, keys: &mut Keys) -> Result<Vec<u32>> {
    let (field, array) = column(batch, name)?;
    let column = Column::new(field, array)?;
    let mut scratch = Vec::new();
    (0..batch.num_rows())
        .map(|row| {
            if column.is_null(row) {
                return Err(at_row(first + row, "the stream is null; nothing has been sent"));
            }
            let index = keys.add(column.text(row, &mut scratch));
            u32::try_from(index).map_err(|_| Error::invalid("there are too many streams"))
        })
        .collect()
}

/// `$3\r\nabc\r\n`
#[inline]
pub(super) fn push_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    push_header(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// `$3\r\n`
#[inline]
pub(super) fn push_header(kind: u8, length: usize, out: &mut Vec<u8>) {
    match length {
        0..10 => out.extend_from_slice(&[kind, b'0' + length as u8, b'\r', b'\n']),
        10..100 => {
            let digits = [b'0' + (length / 10) as u8, b'0' + (length % 10) as u8];
            out.extend_from_slice(&[kind, digits[0], digits[1], b'\r', b'\n']);
        }
        _ => {
            let mut buffer = [0; 32];
            out.push(kind);
            out.extend_from_slice(lexical_core::write(length, &mut buffer));
            out.extend_from_slice(b"\r\n");
        }
    }
}
