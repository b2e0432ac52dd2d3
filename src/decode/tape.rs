//! The tape: where in one buffer the values of each column lie.
//!
//! Entries are written to it as they are parsed, and each column then reads its own slots. A value
//! is copied once, out of the socket's buffer; a value that no column wants is not copied at all.
//! A row counts only once its entry is whole: until then nobody sees its values, nor a column that
//! it is the first to have.

use std::collections::HashMap;
use std::sync::Arc;

use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::schema::StreamSchema;

/// A value of one column: its row on this tape and its place in the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) row: u32,
    len: u32,
    offset: usize,
}

/// A value that has no column, kept for the rescue column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stray {
    pub(crate) name: Slot,
    pub(crate) value: Slot,
}

/// Where the value of a field goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Column(usize),
    Stray,
    Nowhere,
}

#[derive(Debug)]
pub(crate) struct Tape {
    schema: Arc<StreamSchema>,
    bytes: Vec<u8>,
    ids: Vec<EntryId>,
    columns: Vec<Vec<Slot>>,
    strays: Vec<Stray>,
    /// The columns' names; an open schema adds to them.
    names: Vec<String>,
    /// So many of the bytes and of the names belong to whole entries.
    whole_bytes: usize,
    whole_names: usize,
    index: HashMap<Box<[u8]>, usize>,
    /// The names and targets of the latest entry's fields by position: most entries of a stream
    /// have the same fields in the same order, so the next field is nearly always found here.
    layout: Vec<(Vec<u8>, Target)>,
    entry: OpenEntry,
}

/// The entry that is being written.
#[derive(Debug)]
struct OpenEntry {
    id: EntryId,
    fields: usize,
    target: Target,
    name: Slot,
    value_start: usize,
}

impl Tape {
    /// The buffer that is kept between pages; a larger one held a rare giant and is given back.
    const KEPT: usize = 8 * 1024 * 1024;

    pub(crate) fn new(schema: Arc<StreamSchema>) -> Self {
        let names: Vec<String> = schema.fields.iter().map(|field| field.name().clone()).collect();
        Tape {
            index: names
                .iter()
                .enumerate()
                .map(|(at, name)| (name.as_bytes().into(), at))
                .collect(),
            columns: vec![Vec::new(); names.len()],
            whole_bytes: 0,
            whole_names: names.len(),
            names,
            schema,
            bytes: Vec::new(),
            ids: Vec::new(),
            strays: Vec::new(),
            layout: Vec::new(),
            entry: OpenEntry {
                id: EntryId::MIN,
                fields: 0,
                target: Target::Nowhere,
                name: Slot { row: 0, len: 0, offset: 0 },
                value_start: 0,
            },
        }
    }

    /// The IDs of the whole entries.
    pub(crate) fn ids(&self) -> &[EntryId] {
        &self.ids
    }

    /// The names of the columns, in their order.
    pub(crate) fn names(&self) -> &[String] {
        self.names.get(..self.whole_names).unwrap_or_default()
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

    /// Forgets the whole entries and keeps the memory. What there is of an open entry stays.
    pub(crate) fn clear(&mut self) {
        let (rows, start) = (self.ids.len(), self.whole_bytes);
        for column in &mut self.columns {
            let open = column.last().and_then(|slot| slot.moved(rows, start));
            column.clear();
            column.extend(open);
        }
        self.strays.drain(..self.whole_strays());
        for stray in &mut self.strays {
            stray.name = stray.name.moved(rows, start).unwrap_or(stray.name);
            stray.value = stray.value.moved(rows, start).unwrap_or(stray.value);
        }
        self.entry.name = self.entry.name.moved(rows, start).unwrap_or(self.entry.name);
        // Between two entries it is out of date, and may lie before `start`.
        self.entry.value_start = self.entry.value_start.saturating_sub(start);
        self.ids.clear();
        self.bytes.drain(..start);
        self.bytes.shrink_to(Self::KEPT);
        self.whole_bytes = 0;
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
        self.ids.push(self.entry.id);
        self.whole_bytes = self.bytes.len();
        self.whole_names = self.names.len();
    }

    /// Forgets what was written of an entry that never became whole.
    pub(crate) fn drop_open_entry(&mut self) {
        let rows = self.ids.len();
        for column in &mut self.columns {
            column.pop_if(|slot| slot.row as usize >= rows);
        }
        self.strays.truncate(self.whole_strays());
        self.bytes.truncate(self.whole_bytes);
        self.columns.truncate(self.whole_names);
        for name in self.names.drain(self.whole_names..) {
            self.index.remove(name.as_bytes());
        }
        // It may point at a column that has just gone.
        self.layout.clear();
    }

    /// A field's name; its value follows.
    #[inline(always)]
    pub(crate) fn name(&mut self, name: &[u8]) -> Result<()> {
        let position = self.entry.fields;
        self.entry.fields += 1;
        self.entry.target = match self.layout.get(position) {
            Some((seen, target)) if seen == name => *target,
            _ => self.look_up(position, name)?,
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
            Target::Column(column) => {
                if let Some(slots) = self.columns.get_mut(column) {
                    match slots.last_mut() {
                        // A repeated field: the last wins, as in every client's dict.
                        Some(last) if last.row == value.row => *last = value,
                        _ => slots.push(value),
                    }
                }
            }
            Target::Stray => self.strays.push(Stray { name: self.entry.name, value }),
            Target::Nowhere => {}
        }
        Ok(())
    }

    /// The slot from `offset` to the end of the buffer, in the row of the open entry.
    #[inline]
    fn slot(&self, offset: usize) -> Result<Slot> {
        let size = |what: &str, number: usize| {
            u32::try_from(number).map_err(|_| {
                Error::new(ErrorKind::Decode, format!("{what} exceeds 4294967295"))
                    .with_context("entry ID", self.entry.id.to_string())
            })
        };
        Ok(Slot {
            row: size("the number of entries decoded at once", self.ids.len())?,
            len: size("a value's length in bytes", self.bytes.len() - offset)?,
            offset,
        })
    }

    /// Finds or makes the target of a field that is not where it was in the latest entry.
    #[cold]
    fn look_up(&mut self, position: usize, name: &[u8]) -> Result<Target> {
        let target = match self.index.get(name) {
            Some(&column) => Target::Column(column),
            None if self.schema.open => self.add_column(name)?,
            None if self.schema.rescue_column.is_some() => Target::Stray,
            None => Target::Nowhere,
        };
        match self.layout.get_mut(position) {
            Some((seen, old)) => {
                seen.clear();
                seen.extend_from_slice(name);
                *old = target;
            }
            None => self.layout.push((name.to_vec(), target)),
        }
        Ok(target)
    }

    fn add_column(&mut self, name: &[u8]) -> Result<Target> {
        let Ok(text) = std::str::from_utf8(name) else {
            return match (&self.schema.rescue_column, self.schema.tolerates_misfits()) {
                (Some(_), _) => Ok(Target::Stray),
                (None, true) => Ok(Target::Nowhere),
                (None, false) => Err(Error::new(
                    ErrorKind::Decode,
                    format!(
                        "the field name {} is not UTF-8; give a schema, or on_error=\"null\" to \
                         leave the field out, or a rescue_column",
                        shorten(name)
                    ),
                )
                .with_context("entry ID", self.entry.id.to_string())),
            };
        };
        self.schema
            .check_name(text)
            .map_err(|error| error.with_context("entry ID", self.entry.id.to_string()))?;
        let column = self.names.len();
        self.names.push(text.to_owned());
        self.columns.push(Vec::new());
        self.index.insert(name.into(), column);
        Ok(Target::Column(column))
    }
}

impl Slot {
    /// The slot once so many rows and bytes before it are gone, if it is not among them.
    fn moved(self, rows: usize, bytes: usize) -> Option<Slot> {
        Some(Slot {
            row: self.row.checked_sub(u32::try_from(rows).ok()?)?,
            offset: self.offset.checked_sub(bytes)?,
            ..self
        })
    }

    /// The value's bytes in the tape's buffer.
    #[inline]
    pub(crate) fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.offset..self.offset + self.len as usize).unwrap_or_default()
    }

    /// Whether neither end cuts a character of a buffer that is valid UTF-8 as a whole.
    #[inline]
    pub(crate) fn is_on_boundaries(&self, bytes: &[u8]) -> bool {
        let starts_character = |at: usize| bytes.get(at).is_none_or(|byte| byte & 0xc0 != 0x80);
        starts_character(self.offset) && starts_character(self.offset + self.len as usize)
    }
}
