//! Rows to XADD commands.

use std::sync::Arc;

use arrow_array::RecordBatch;

use super::frame::{Frame, Keys, RowIds, at_row};
use super::preflight::ALWAYS_TAKEN;
use super::request::{Target, Trim, TrimBound, WriteRequest};
use super::row_id::{RowId, push_id};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::resp::{push_bulk, push_header};

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
    pub(super) state: RowState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowState {
    Unanswered,
    Added(EntryId),
    /// The stream does not exist and is not to be made.
    NotAdded,
    Refused,
}

/// One entry that was not a row of a batch: how many arguments its fields take, and these.
#[derive(Debug)]
pub(super) struct Entry {
    /// The stream's key, where it is not the request's.
    stream: Option<Vec<u8>>,
    arguments: usize,
    packed: Vec<u8>,
    /// Its longest value and that one's field, where some server may refuse that.
    longest: Option<(usize, String)>,
}

impl Entry {
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) without a field.
    pub(super) fn new<'a>(
        stream: Option<&[u8]>,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Entry> {
        let stream = stream.map(<[u8]>::to_vec);
        let mut entry = Entry { stream, arguments: 0, packed: Vec::new(), longest: None };
        for (name, value) in fields {
            push_bulk(name, &mut entry.packed);
            push_bulk(value, &mut entry.packed);
            entry.arguments += 2;
            let most = entry.longest.as_ref().map_or(ALWAYS_TAKEN, |(length, _)| *length);
            if value.len() > most {
                let name = String::from_utf8_lossy(name).into_owned();
                entry.longest = Some((value.len(), name));
            }
        }
        match entry.arguments {
            0 => Err(Error::invalid("no field has a value, and an entry needs one")),
            _ => Ok(entry),
        }
    }

    /// The bytes of its fields, and of its stream's key where it has one of its own.
    pub(super) fn len(&self) -> usize {
        self.packed.len() + self.stream.as_ref().map_or(0, Vec::len)
    }
}

/// Turns batches into commands, in order.
pub(super) struct Rows {
    frames: Arc<[Frame]>,
    /// What is written instead, where there are no frames: each with the index of its key.
    entries: Arc<[(usize, Entry)]>,
    pub(super) keys: Arc<Keys>,
    /// What follows `*N\r\n` up to the ID, for each key.
    prefixes: Arc<Vec<Vec<u8>>>,
    /// The arguments of a command beside its fields.
    arguments: usize,
    /// Words before the ID that name the producer, and what all of this write's rows share.
    pub(super) idmp_producer: Option<Arc<IdmpProducer>>,
    /// On servers that do not add sequence numbers we do: the next for each key.
    pub(super) sequences: Option<Vec<Option<EntryId>>>,
    total: usize,
    /// Where to go on.
    frame: usize,
    row: usize,
    scratch: Vec<u8>,
    skip_empty: bool,
    /// Only these are written; `None` for all.
    selection: Option<Selection>,
}

/// A part of the rows: those for some streams, as far as they are not in.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    /// For each key whether its rows are among them.
    pub(super) keys: Vec<bool>,
    /// The numbers of rows that are, in order; and from this one on all are.
    pub(super) again: Arc<Vec<usize>>,
    pub(super) from: usize,
}

impl Selection {
    fn has_key(&self, key: usize) -> bool {
        self.keys.get(key).copied().unwrap_or_default()
    }

    fn has_row(&self, number: usize) -> bool {
        number >= self.from || self.again.binary_search(&number).is_ok()
    }
}

/// How the server tells rows of this write from all others.
pub(super) struct IdmpProducer {
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
        let rows = Rows::with(request, keys, frames, Vec::new(), total);
        rows.check_empty()?;
        rows.check_ids()?;
        Ok(rows)
    }

    /// Entries, each for the stream that it names or the request's, with IDs from the server.
    pub(super) fn of_entries(entries: Vec<Entry>, request: &WriteRequest) -> Rows {
        let mut keys = Keys::default();
        let to_key = |mut entry: Entry| {
            let key = match (entry.stream.take(), &request.stream) {
                (Some(stream), _) => keys.add(&stream),
                (None, Target::One(stream)) => keys.add(stream),
                (None, Target::Column(_) | Target::Shards(_)) => 0,
            };
            (key, entry)
        };
        let entries: Vec<(usize, Entry)> = entries.into_iter().map(to_key).collect();
        let total = entries.len();
        Rows::with(request, keys, Vec::new(), entries, total)
    }

    fn with(
        request: &WriteRequest,
        keys: Keys,
        frames: Vec<Frame>,
        entries: Vec<(usize, Entry)>,
        total: usize,
    ) -> Rows {
        let options = options(request);
        let mut prefixes = Vec::with_capacity(keys.iter().len());
        for key in keys.iter() {
            let mut prefix = Vec::new();
            push_bulk(b"XADD", &mut prefix);
            push_bulk(key, &mut prefix);
            options.iter().for_each(|option| push_bulk(option, &mut prefix));
            prefixes.push(prefix);
        }
        Rows {
            frames: frames.into(),
            entries: entries.into(),
            keys: Arc::new(keys),
            prefixes: Arc::new(prefixes),
            arguments: 3 + options.len(),
            idmp_producer: None,
            sequences: None,
            total,
            frame: 0,
            row: 0,
            scratch: Vec::new(),
            skip_empty: request.skip_empty,
            selection: None,
        }
    }

    /// A part of the rows, from its first on.
    pub(super) fn part(&self, selection: Selection) -> Rows {
        Rows {
            frames: Arc::clone(&self.frames),
            entries: Arc::clone(&self.entries),
            keys: Arc::clone(&self.keys),
            prefixes: Arc::clone(&self.prefixes),
            idmp_producer: self.idmp_producer.clone(),
            sequences: self.sequences.clone(),
            scratch: Vec::new(),
            selection: Some(selection),
            frame: 0,
            row: 0,
            ..*self
        }
    }

    /// The first stream that rows go to.
    pub(super) fn first_key(&self) -> &[u8] {
        let first = (0..self.prefixes.len()).find(|key| self.has_key(*key));
        self.keys.get(first.unwrap_or_default())
    }

    fn has_key(&self, key: usize) -> bool {
        self.selection.as_ref().is_none_or(|selection| selection.has_key(key))
    }

    fn has_row(&self, number: usize) -> bool {
        self.selection.as_ref().is_none_or(|selection| selection.has_row(number))
    }

    /// The index of a row's key.
    pub(super) fn key_of(&self, number: usize) -> usize {
        let frame = self.frames.partition_point(|frame| frame.first <= number);
        match frame.checked_sub(1).and_then(|frame| self.frames.get(frame)) {
            Some(frame) => frame.key(number - frame.first),
            None => self.entries.get(number).map_or(0, |(key, _)| *key),
        }
    }

    /// The number of rows in all.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// The number of the row that is sent next, if there is one.
    pub(super) fn next_number(&self) -> Option<usize> {
        let mut start = self.row;
        for frame in self.frames.iter().skip(self.frame) {
            let is_next = |row: &usize| {
                self.has_key(frame.key(*row))
                    && self.has_row(frame.first + row)
                    && frame.arguments(*row) > 0
            };
            if let Some(row) = (start..frame.rows).find(is_next) {
                return Some(frame.first + row);
            }
            start = 0;
        }
        let mut rest = self.entries.iter().enumerate().skip(start);
        let next = rest.find(|(number, (key, _))| self.has_key(*key) && self.has_row(*number));
        next.map(|(number, _)| number)
    }

    /// Has the server recognise rows that come twice.
    pub(super) fn with_idmp_producer(&mut self, producer: IdmpProducer) {
        self.arguments += 3;
        for prefix in Arc::make_mut(&mut self.prefixes) {
            push_bulk(b"IDMP", prefix);
            push_bulk(&producer.name, prefix);
        }
        self.idmp_producer = Some(Arc::new(producer));
    }

    /// The commands of the next rows, about `bytes` long and at most `rows`; or none at the
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
            let (key, number) = (frame.key(row), frame.first + row);
            if let Some(selection) = &self.selection
                && !selection.has_key(key)
            {
                continue;
            }
            let arguments = frame.arguments(row);
            if arguments == 0 {
                continue;
            }
            if !self.has_row(number) {
                if let (Some(id), Some(_)) = (frame.id(row), &self.sequences) {
                    // It is in, with its number; the next gets the one after that.
                    self.scratch.clear();
                    push_id(id, key, self.sequences.as_mut(), &mut self.scratch);
                }
                continue;
            }
            self.open_row(number, key, arguments, &mut chunk.bytes);
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
            chunk.rows.push(Row {
                number,
                end: chunk.bytes.len(),
                key,
                own,
                state: RowState::Unanswered,
            });
        }
        let entries = Arc::clone(&self.entries);
        while chunk.rows.len() < rows
            && chunk.bytes.len() < bytes
            && let Some((key, entry)) = entries.get(self.row)
        {
            let (number, key) = (self.row, *key);
            self.row += 1;
            if !self.has_key(key) || !self.has_row(number) {
                continue;
            }
            self.open_row(number, key, entry.arguments, &mut chunk.bytes);
            chunk.bytes.extend_from_slice(b"$1\r\n*\r\n");
            chunk.bytes.extend_from_slice(&entry.packed);
            let (end, state) = (chunk.bytes.len(), RowState::Unanswered);
            chunk.rows.push(Row { number, end, key, own: None, state });
        }
        (!chunk.rows.is_empty()).then_some(chunk)
    }

    /// A row's command, up to its ID.
    #[inline]
    fn open_row(&mut self, number: usize, key: usize, arguments: usize, out: &mut Vec<u8>) {
        push_header(b'*', self.arguments + arguments, out);
        if let Some(prefix) = self.prefixes.get(key) {
            out.extend_from_slice(prefix);
        }
        if let Some(producer) = &self.idmp_producer {
            push_bulk(format!("{:016x}-{number}", producer.nonce).as_bytes(), out);
        }
    }

    /// The first row of each key and its ID, where rows have IDs.
    pub(super) fn first_ids(&self) -> Vec<Option<(usize, RowId)>> {
        let mut first = vec![None; self.prefixes.len()];
        let mut missing = first.len();
        for frame in self.frames.iter() {
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

    /// The longest text of a field, where some server may refuse that: its length, row and name.
    pub(super) fn longest(&self) -> Option<(usize, usize, String)> {
        let mut longest: Option<(usize, usize, String)> = None;
        for frame in self.frames.iter() {
            for field in &frame.fields {
                let found = field.column.longest(frame.rows, ALWAYS_TAKEN);
                if let Some((row, len)) = found
                    && longest.as_ref().is_none_or(|(most, _, _)| len > *most)
                {
                    longest = Some((len, frame.first + row, field.plain_name()));
                }
            }
        }
        for (row, (_, entry)) in self.entries.iter().enumerate() {
            if let Some((len, name)) = &entry.longest
                && longest.as_ref().is_none_or(|(most, _, _)| len > most)
            {
                longest = Some((*len, row, name.clone()));
            }
        }
        longest
    }

    fn check_empty(&self) -> Result<()> {
        for frame in self.frames.iter() {
            if frame.is_never_empty() {
                continue;
            }
            if let Some(row) = (0..frame.rows).find(|row| frame.arguments(*row) == 0)
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
        for frame in self.frames.iter() {
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

/// The arguments that follow a stream's key.
fn options(request: &WriteRequest) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    if request.no_make_stream {
        arguments.push(b"NOMKSTREAM".to_vec());
    }
    if let Some(Trim { bound, approximate, limit }) = request.trim {
        let (word, bound) = match bound {
            TrimBound::MaxLen(entries) => ("MAXLEN", entries.to_string()),
            TrimBound::MinId(id) => ("MINID", id.to_string()),
        };
        let operator = if approximate { "~" } else { "=" };
        arguments.extend([word.into(), operator.into(), bound.into_bytes()]);
        if let Some(limit) = limit {
            arguments.extend([b"LIMIT".to_vec(), limit.to_string().into_bytes()]);
        }
    }
    arguments
}
