//! The tape: where in one buffer the values of each column lie.
//!
//! Entries are written to it as they are parsed, and each column then reads its own slots. A value
//! is copied once, out of the socket's buffer; a value that no column wants is not copied at all.
//! A row counts only once its entry is whole: until then nobody sees its values, nor a column that
//! it is the first to have.

mod payload;
mod slot;
mod target;

use std::sync::Arc;

use super::column::Origin;
use super::layout::Layout;
use super::misfit::Leaves;
use super::names::Names;
use super::sources::{Run, Sources, StreamNames};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::StreamSchema;
use payload::Documents;
pub(crate) use payload::{Member, Unreadable, split_payload};
pub(crate) use slot::Slot;
pub(super) use target::Target;

/// A value that has no column, kept for the rescue column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stray {
    pub(crate) name: Slot,
    pub(crate) value: Slot,
}

/// A value of a column that the same entry had another value for afterwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeat {
    pub(crate) column: usize,
    pub(crate) slot: Slot,
}

/// How much a batch may hold; a batch of one row may exceed it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    /// Columns times rows of an open schema, whose entries decide how many columns there are.
    pub(crate) cells: usize,
    /// What the batch's payloads may come to, where they are compressed: few bytes of a reply may
    /// become many.
    pub(crate) inflated: usize,
}

/// The bytes of payloads that were decompressed: those on the tape, and those of the batch that have
/// left it.
#[derive(Debug, Clone, Copy, Default)]
struct Inflated {
    on_tape: usize,
    built: usize,
}

/// The streams whose rows are told apart; one without a name where a column wants it all the same.
fn sources_of(schema: &StreamSchema) -> Option<Arc<StreamNames>> {
    let unnamed = || schema.stream_column.as_ref().map(|_| Arc::default());
    schema.sources.clone().or_else(unnamed)
}

#[derive(Debug)]
pub(crate) struct Tape {
    schema: Arc<StreamSchema>,
    bytes: Vec<u8>,
    ids: Vec<EntryId>,
    columns: Vec<Vec<Slot>>,
    strays: Vec<Stray>,
    repeats: Vec<Repeat>,
    /// Whole entries that are to be left out, which have no values; and why.
    refused: Vec<(usize, Error)>,
    /// The columns' names; an open schema adds to them.
    names: Names,
    /// How many of the bytes and of the names belong to whole entries.
    whole_bytes: usize,
    whole_names: usize,
    /// The names and targets of the latest entry's fields by position: most entries of a stream
    /// have the same fields in the same order, so the next field is nearly always found here.
    layout: Layout,
    /// How many of them it has.
    latest: usize,
    documents: Documents,
    /// Where it matters which stream a row is of.
    sources: Option<Sources>,
    entry: OpenEntry,
    inflated: Inflated,
    limits: Limits,
    /// The rows of the batch that have left the tape, and how many there may be on it.
    built: usize,
    room: usize,
}

/// The entry that is being written.
#[derive(Debug)]
struct OpenEntry {
    id: EntryId,
    fields: usize,
    target: Target,
    name: Slot,
    value_start: usize,
    /// Why it is to be left out.
    refused: Option<Error>,
}

impl Tape {
    /// The buffer that is kept between pages; a larger one held a rare giant and is given back.
    const KEPT: usize = 8 * 1024 * 1024;

    /// How much is decompressed before columns are built of it.
    const HEAVY: usize = 64 * 1024 * 1024;

    /// An empty tape. The names are those of the schema's fields, and others of an earlier tape of
    /// the same schema.
    pub(crate) fn new(schema: Arc<StreamSchema>, names: Option<Names>) -> Self {
        let names = names.unwrap_or_else(|| {
            let mut names = Names::default();
            for field in &schema.fields {
                names.push(field.name());
            }
            names
        });
        Tape {
            columns: vec![Vec::new(); names.len()],
            whole_bytes: 0,
            whole_names: names.len(),
            names,
            bytes: Vec::new(),
            ids: Vec::new(),
            strays: Vec::new(),
            repeats: Vec::new(),
            refused: Vec::new(),
            layout: Layout::default(),
            latest: 0,
            documents: Documents::new(&schema),
            sources: sources_of(&schema).map(Sources::new),
            entry: OpenEntry {
                id: EntryId::MIN,
                fields: 0,
                target: Target::Nowhere,
                name: Slot { row: 0, len: 0, place: 0 },
                value_start: 0,
                refused: None,
            },
            inflated: Inflated::default(),
            limits: Limits { rows: usize::MAX, cells: usize::MAX, inflated: usize::MAX },
            built: 0,
            room: usize::MAX,
            schema,
        }
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.make_room();
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Finds out how many entries the batch still has room for.
    fn make_room(&mut self) {
        let rows = match self.schema.open {
            true => self.limits.rows.min(self.limits.cells / self.names.len().max(1)),
            false => self.limits.rows,
        };
        self.room = rows.max(1).saturating_sub(self.built);
        let Inflated { on_tape, built } = self.inflated;
        if on_tape >= Self::HEAVY || on_tape.saturating_add(built) >= self.limits.inflated {
            // An entry that is open comes to its end, and no other begins.
            self.room = self.room.min(self.ids.len());
        }
    }

    /// A payload was decompressed.
    fn add_inflated(&mut self, bytes: usize) {
        self.inflated.on_tape += bytes;
        self.make_room();
    }

    /// Whether there is so much on the tape that columns should be built of it first, though the
    /// batch is to go on.
    pub(crate) fn is_heavy(&self) -> bool {
        self.inflated.on_tape >= Self::HEAVY
    }

    /// Whether the batch is to take no more entries.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.ids.len() >= self.room
    }

    /// The rows of the batch that have left the tape.
    #[inline]
    pub(crate) fn built(&self) -> usize {
        self.built
    }

    /// There are other streams as well, as the schema says too.
    pub(crate) fn set_streams(&mut self, schema: &Arc<StreamSchema>, names: &Arc<StreamNames>) {
        self.schema = Arc::clone(schema);
        match &mut self.sources {
            Some(sources) => sources.set_names(names),
            None => self.sources = Some(Sources::new(Arc::clone(names))),
        }
    }

    /// The entries from now on are of this one of the streams.
    pub(crate) fn begin_stream(&mut self, stream: usize) {
        if let Some(sources) = &mut self.sources {
            sources.begin(self.built + self.ids.len(), stream);
        }
    }

    /// The length of the longest of the streams' keys, where it matters which stream a row is of.
    pub(crate) fn longest_name(&self) -> Option<usize> {
        self.sources.as_ref().map(Sources::longest_name)
    }

    /// The same as `begin_stream` for the stream of this key.
    pub(crate) fn begin_named_stream(&mut self, key: &[u8]) -> Result<()> {
        match &mut self.sources {
            Some(sources) => sources.begin_named(self.built + self.ids.len(), key),
            None => Ok(()),
        }
    }

    /// The stream that entries are of now.
    pub(crate) fn stream(&self) -> usize {
        self.sources.as_ref().map_or(0, Sources::current)
    }

    pub(crate) fn sources(&self) -> Option<&Sources> {
        self.sources.as_ref()
    }

    /// The error of a row with the stream that it is of.
    #[cold]
    pub(crate) fn about(&self, row: usize, error: Error) -> Error {
        match &self.sources {
            Some(sources) => sources.about(self.built + row, error),
            None => error,
        }
    }

    /// Another batch begins with what is on the tape. Gives the streams of the rows of this one.
    pub(crate) fn begin_batch(&mut self) -> Vec<Run> {
        self.built = 0;
        self.inflated.built = 0;
        if self.schema.open {
            self.names.shrink();
            self.columns.shrink_to_fit();
        }
        self.layout.bound();
        self.documents.bound();
        self.make_room();
        self.sources.as_mut().map(Sources::begin_batch).unwrap_or_default()
    }

    /// The rows of the batch that have left the tape are no more than this, and nothing follows.
    pub(crate) fn fall_back(&mut self, built: usize) {
        self.drop_open_entry();
        self.built = built;
    }

    /// Takes the names, for another tape of the same schema.
    pub(crate) fn take_names(&mut self) -> Names {
        self.drop_open_entry();
        std::mem::take(&mut self.names)
    }

    /// The IDs of the whole entries.
    pub(crate) fn ids(&self) -> &[EntryId] {
        &self.ids
    }

    /// The number of columns.
    pub(crate) fn width(&self) -> usize {
        self.whole_names
    }

    /// The name of a column.
    pub(crate) fn column_name(&self, column: usize) -> &str {
        self.names.get(column)
    }

    /// Whether a whole entry has had the field, or the schema names it.
    pub(crate) fn has_column(&self, name: &str) -> bool {
        self.names.find(name.as_bytes()).is_some_and(|index| index < self.width())
    }

    /// To collect what does not fit inside values.
    pub(crate) fn wanted_leaves(&self) -> Leaves {
        Leaves::wanted_by(&self.schema)
    }

    /// The slots of a column, in the order of rows.
    pub(crate) fn slots(&self, column: usize) -> &[Slot] {
        match self.columns.get(column).map(Vec::as_slice) {
            // A column has at most one slot in each row, so only the last can be of the open entry.
            Some([whole @ .., last]) if self.is_open(last) => whole,
            Some(slots) => slots,
            None => &[],
        }
    }

    pub(crate) fn strays(&self) -> &[Stray] {
        self.strays.get(..self.whole_strays()).unwrap_or_default()
    }

    /// Values that others of the same field and entry came after, in order.
    pub(crate) fn repeats(&self) -> &[Repeat] {
        self.repeats.get(..self.whole_repeats()).unwrap_or_default()
    }

    /// Takes the rows that are to be left out, in order, and why.
    pub(crate) fn take_refused(&mut self) -> Vec<(usize, Error)> {
        std::mem::take(&mut self.refused)
    }

    /// The text that the slots point into.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.whole_bytes).unwrap_or_default()
    }

    fn is_open(&self, slot: &Slot) -> bool {
        slot.row as usize >= self.ids.len()
    }

    fn whole_strays(&self) -> usize {
        self.strays.partition_point(|stray| !self.is_open(&stray.value))
    }

    fn whole_repeats(&self) -> usize {
        self.repeats.partition_point(|repeat| !self.is_open(&repeat.slot))
    }

    /// Forgets the whole entries, which have been built, and keeps the memory. What there is of an
    /// open entry stays.
    pub(crate) fn clear(&mut self) {
        let (rows, start) = (self.ids.len(), self.whole_bytes);
        for column in &mut self.columns {
            if column.is_empty() {
                // A field that has become rare.
                *column = Vec::new();
                continue;
            }
            let open = column.last().and_then(|slot| slot.moved(rows, start));
            column.clear();
            column.extend(open);
        }
        self.repeats.drain(..self.whole_repeats());
        for repeat in &mut self.repeats {
            repeat.slot = repeat.slot.moved(rows, start).unwrap_or(repeat.slot);
        }
        self.strays.drain(..self.whole_strays());
        for stray in &mut self.strays {
            stray.name = stray.name.moved(rows, start).unwrap_or(stray.name);
            stray.value = stray.value.moved(rows, start).unwrap_or(stray.value);
        }
        self.documents.clear(rows, start);
        self.entry.name = self.entry.name.moved(rows, start).unwrap_or(self.entry.name);
        // Between two entries it is out of date, and may lie before `start`.
        self.entry.value_start = self.entry.value_start.saturating_sub(start);
        self.ids.clear();
        self.bytes.drain(..start);
        self.bytes.shrink_to(Self::KEPT);
        self.whole_bytes = 0;
        self.built += rows;
        self.inflated.built = self.inflated.built.saturating_add(self.inflated.on_tape);
        self.inflated.on_tape = 0;
        self.make_room();
    }

    /// Opens an entry; everything until [`Tape::close_entry`] belongs to it.
    #[inline]
    pub(crate) fn open_entry(&mut self, id: EntryId) {
        self.entry.id = id;
        self.entry.fields = 0;
    }

    /// The entry is whole: its row counts.
    #[inline]
    pub(crate) fn close_entry(&mut self) {
        if self.entry.refused.is_some() {
            self.refuse_entry();
        }
        self.ids.push(self.entry.id);
        self.latest = self.entry.fields;
        self.whole_bytes = self.bytes.len();
        self.whole_names = self.names.len();
    }

    /// Forgets what was written of the entry, whose row stays empty and is left out of the batch.
    #[cold]
    fn refuse_entry(&mut self) {
        let refused = self.entry.refused.take();
        self.drop_open_entry();
        self.refused.extend(refused.map(|error| (self.ids.len(), error)));
    }

    /// Forgets what was written of an entry that never became whole.
    pub(crate) fn drop_open_entry(&mut self) {
        let rows = self.ids.len();
        for column in &mut self.columns {
            column.pop_if(|slot| slot.row as usize >= rows);
        }
        self.strays.truncate(self.whole_strays());
        self.repeats.truncate(self.whole_repeats());
        self.bytes.truncate(self.whole_bytes);
        self.columns.truncate(self.whole_names);
        self.names.truncate(self.whole_names);
        self.entry.refused = None;
        if rows == 0 {
            self.inflated.on_tape = 0;
        }
        self.documents.drop_open(rows);
        // It may point at a column that has just gone.
        self.layout.clear();
        self.make_room();
    }

    /// A field's name; its value follows.
    #[inline(always)]
    pub(crate) fn name(&mut self, name: &[u8]) -> Result<()> {
        let position = self.entry.fields;
        self.entry.fields += 1;
        self.entry.target = match self.layout.get(position, name) {
            Some(target) => target,
            None => self.look_up(position, name)?,
        };
        if self.entry.target == Target::Stray {
            let offset = self.bytes.len();
            self.bytes.extend_from_slice(name);
            self.entry.name = self.slot(offset)?;
        }
        self.entry.value_start = self.bytes.len();
        Ok(())
    }

    /// A piece of the field's value; with `done` the last.
    #[inline(always)]
    pub(crate) fn value(&mut self, part: &[u8], done: bool) -> Result<()> {
        if self.entry.target == Target::Nowhere {
            return Ok(());
        }
        self.bytes.extend_from_slice(part);
        if !done {
            return Ok(());
        }
        let value = self.slot(self.entry.value_start)?;
        match self.entry.target {
            Target::Column(column) => self.put(column, value),
            _ => self.keep(value),
        }
    }

    /// A value that is no column's.
    #[inline(never)]
    fn keep(&mut self, value: Slot) -> Result<()> {
        match self.entry.target {
            Target::Payload => return self.document(value),
            Target::Stray => self.strays.push(Stray { name: self.entry.name, value }),
            Target::Column(_) | Target::Nowhere => {}
        }
        Ok(())
    }

    /// A column's value in the open entry.
    #[inline(always)]
    fn put(&mut self, column: usize, value: Slot) -> Result<()> {
        if let Some(slots) = self.columns.get_mut(column) {
            match slots.last_mut() {
                // A repeated field: the last wins, as in every client's dict.
                Some(last) if last.row == value.row => {
                    let slot = std::mem::replace(last, value);
                    return self.repeat(Repeat { column, slot }, value);
                }
                _ => slots.push(value),
            }
        }
        Ok(())
    }

    /// Keeps a repeated value for the rescue column.
    #[cold]
    fn repeat(&mut self, repeat: Repeat, last: Slot) -> Result<()> {
        let is_field = |slot: Slot| slot.origin() == Origin::Field;
        if is_field(repeat.slot) != is_field(last) {
            return self.refuse_clash(repeat.column);
        }
        if self.schema.rescue_column.is_some() {
            self.repeats.push(repeat);
        }
        Ok(())
    }

    /// The slot from `offset` to the end of the buffer, in the row of the open entry.
    #[inline]
    fn slot(&self, offset: usize) -> Result<Slot> {
        self.slot_of(offset, self.bytes.len() - offset)
    }

    /// The slot of that many bytes.
    #[inline]
    fn slot_of(&self, offset: usize, len: usize) -> Result<Slot> {
        let row = self.ids.len();
        match (u32::try_from(row), u32::try_from(len)) {
            (Ok(row), Ok(len)) => Ok(Slot { row, len, place: offset as u64 }),
            (Err(_), _) => Err(self.too_large("the number of entries decoded at once")),
            (Ok(_), Err(_)) => Err(self.too_large("a value's length in bytes")),
        }
    }

    #[cold]
    fn too_large(&self, what: &str) -> Error {
        self.at_entry(Error::new(ErrorKind::Decode, format!("{what} exceeds 4294967295")))
    }

    fn at_entry(&self, error: Error) -> Error {
        let error = error.with_context("entry ID", self.entry.id.to_string());
        self.about(self.ids.len(), error)
    }
}
