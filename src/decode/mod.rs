//! Reply bytes to columns, pushed: bytes cut anywhere go in, batches come out. No IO.

mod batch;
mod column;
mod columns;
mod dictionaries;
mod flush;
pub(crate) mod json;
mod layout;
mod make;
mod metadata;
mod misfit;
mod names;
mod nested;
mod number;
pub(crate) mod packed;
mod presence;
mod primitive;
mod reply;
mod rescue;
mod sources;
mod tape;
mod text;
mod time;
pub(crate) mod value;

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field, FieldRef, Fields};

pub use batch::{Batch, Rejected};
pub use columns::decode_payloads;
pub use reply::{Reply, ReplyShape};

use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::{OnError, StreamSchema};
use column::{NullRules, Slots, Text};
#[cfg(feature = "python")]
pub(crate) use dictionaries::joined;
pub(crate) use dictionaries::{Enums, with_one_dictionary};
pub(crate) use json::DEEPEST;
use make::{Made, make_builder};
use metadata::MetadataColumns;
pub(crate) use misfit::Misfit;
use misfit::{Leaves, Refused};
pub(crate) use names::Names;
pub(crate) use presence::{Missing, Presence};
pub(crate) use primitive::{Parse, internal};
use reply::ReplyReader;
use rescue::RescueColumn;
use sources::Sources;
#[cfg(feature = "python")]
pub(crate) use sources::readable;
pub(crate) use sources::{Run, StreamNames, ends, stream_at};
use tape::{Limits, Slot, Tape, Unreadable};
pub(crate) use tape::{Member, split_payload};
use text::{Content, ViewColumn};
pub(crate) use time::{Date, Time, Timestamp};

/// Decodes the replies of commands that send entries.
///
/// Feed it with [`decode`](Decoder::decode) until [`reply_complete`](Decoder::reply_complete);
/// [`take_reply`](Decoder::take_reply) says how the reply ended. [`flush`](Decoder::flush) gives
/// the rows since the last flush, of as many replies as there were.
///
/// ```
/// use arrow_schema::{DataType, Field};
/// use redfloe::{Decoder, ReplyShape, StreamSchema};
///
/// let schema = StreamSchema::closed([Field::new("n", DataType::Int64, true)]);
/// let mut decoder = Decoder::new(schema, ReplyShape::Entries)?;
/// let reply = b"*1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\nn\r\n$2\r\n42\r\n";
/// for piece in reply.chunks(3) {
///     assert_eq!(decoder.decode(piece)?, piece.len());
/// }
/// assert!(decoder.reply_complete());
/// let batch = decoder.flush()?;
/// assert_eq!(batch.len(), 1);
/// assert_eq!(batch.records().schema().field(2).name(), "n");
/// # Ok::<(), redfloe::Error>(())
/// ```
pub struct Decoder {
    schema: Arc<StreamSchema>,
    shape: ReplyShape,
    reader: ReplyReader,
    tape: Tape,
    metadata: MetadataColumns,
    /// Of the schema's own fields.
    columns: Vec<Column>,
    /// Of the fields that an open schema found. They take no memory where neither this batch nor the
    /// one before has a value of them; where the batch has, the rows after the last value are filled
    /// in only at the end.
    found: Vec<Option<Box<Column>>>,
    rescue: Option<RescueColumn>,
    /// The IDs of the rows in the builders; those on the tape come after them.
    ids: Vec<EntryId>,
    last_id: Option<EntryId>,
    /// The last ID before this batch.
    last_before: Option<EntryId>,
    /// Rows that do not fit, where they are to be left out.
    rejected: Vec<(usize, Error)>,
    /// Why the entry after the last row cannot be read, and so none after it.
    failure: Option<Error>,
    /// Where that is watched: which of the schema's fields have come, and what is missing.
    presence: Option<Presence>,
    missing: Option<Missing>,
}

/// A field and what builds its column.
struct Column {
    field: FieldRef,
    made: Made,
}

impl Column {
    fn new(field: FieldRef, schema: &StreamSchema) -> Result<Self> {
        let made = make_builder(&field, &schema.null_values.of(field.name()), &schema.enums)?;
        Ok(Column { field, made })
    }

    /// The column of a field that an open schema found.
    fn found(name: &str, schema: &StreamSchema) -> Box<Self> {
        let nulls = NullRules { empty: false, values: schema.null_values.of(name) };
        // A decoder is made only where each dtype that the schema names has a builder.
        let column = Column::new(schema.found_field(name), schema).unwrap_or_else(|_| Column {
            field: Arc::new(Field::new(name, DataType::Utf8View, true)),
            made: Made { builder: Box::new(ViewColumn::new(Content::Utf8)), nulls },
        });
        Box::new(column)
    }

    /// The column's array, with nulls up to that many rows.
    fn finish(&mut self, rows: usize) -> Result<ArrayRef> {
        self.made.builder.fill(rows);
        self.made.builder.finish()
    }
}

impl Decoder {
    /// A decoder of replies of one shape.
    ///
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) where the schema contradicts itself or names a dtype that no
    /// text stands for.
    pub fn new(schema: impl Into<Arc<StreamSchema>>, shape: ReplyShape) -> Result<Self> {
        let schema = schema.into();
        schema.shared_arrow()?;
        Decoder::with_names(schema, shape, None)
    }

    fn with_names(
        schema: Arc<StreamSchema>,
        shape: ReplyShape,
        names: Option<Names>,
    ) -> Result<Self> {
        let columns: Result<Vec<Column>> =
            schema.fields.iter().map(|field| Column::new(Arc::clone(field), &schema)).collect();
        for field in &schema.overrides {
            Column::new(Arc::clone(field), &schema)?;
        }
        Ok(Decoder {
            shape,
            reader: ReplyReader::new(shape),
            tape: Tape::new(Arc::clone(&schema), names),
            metadata: MetadataColumns::new(&schema),
            columns: columns?,
            found: Vec::new(),
            rescue: schema.rescue_column.as_ref().map(|_| RescueColumn::new()),
            ids: Vec::new(),
            last_id: None,
            last_before: None,
            rejected: Vec::new(),
            failure: None,
            presence: None,
            missing: None,
            schema,
        })
    }

    /// Begins anew, with the columns that there were: forgets the rows since the last flush, and
    /// the reply that was being read.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let (names, limits) = (self.tape.take_names(), self.tape.limits());
        let presence = self.presence.take();
        *self = Decoder::with_names(Arc::clone(&self.schema), self.shape, Some(names))?;
        self.tape.set_limits(limits);
        self.presence = presence;
        Ok(())
    }

    /// A decoder that takes no more bytes once it has this many rows, until they are flushed; so a
    /// reply may be cut into several batches.
    pub fn with_row_limit(mut self, rows: usize) -> Self {
        self.tape.set_limits(Limits { rows, ..self.tape.limits() });
        self
    }

    /// The same for the bytes that the columns of an open schema take, at 16 a cell: entries with
    /// ever new fields make a batch large that is small as a reply. And for the bytes of payloads once
    /// they are decompressed. One row may exceed it.
    pub fn with_cell_bytes(mut self, bytes: u64) -> Self {
        /// What a text takes in a view array, a null as well.
        const CELL: u64 = 16;
        let cells = usize::try_from(bytes / CELL).unwrap_or(usize::MAX);
        let inflated = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.tape.set_limits(Limits { cells, inflated, ..self.tape.limits() });
        self
    }

    /// The entries from now on are of this one of the streams, unless replies name theirs.
    pub(crate) fn begin_stream(&mut self, stream: usize) {
        self.tape.begin_stream(stream);
    }

    /// There are other streams as well, after those that there were.
    pub(crate) fn set_streams(&mut self, names: &Arc<StreamNames>) {
        let mut schema = StreamSchema::clone(&self.schema);
        schema.sources = Some(Arc::clone(names));
        self.schema = schema.into();
        self.tape.set_streams(&self.schema, names);
    }

    /// Whether the batch is to take no more: its limits are reached, or the next entry cannot be
    /// read.
    pub fn is_full(&self) -> bool {
        self.failure.is_some() || self.tape.is_full()
    }

    /// Takes bytes off the front of `buf`, up to the end of the current reply or to where the batch
    /// is full at most, and says how many. Bytes after that are left for the caller.
    ///
    /// An entry that cannot be read is no error here: it ends the batch, and [`flush`] says why.
    ///
    /// # Errors
    ///
    /// [`Response`](ErrorKind::Response) where the bytes are not RESP or not such a reply. The
    /// decoder is of no use afterwards.
    ///
    /// [`flush`]: Decoder::flush
    pub fn decode(&mut self, buf: &[u8]) -> Result<usize> {
        if self.failure.is_some() {
            // Nothing after it will be read.
            return Ok(buf.len());
        }
        let taken = match self.read(buf) {
            Ok(taken) => taken,
            Err(error) if matches!(error.kind(), ErrorKind::Schema | ErrorKind::Decode) => {
                self.tape.drop_open_entry();
                self.failure = Some(error);
                buf.len()
            }
            Err(error) => return Err(error),
        };
        self.last_id = self.tape.ids().last().copied().or(self.last_id);
        Ok(taken)
    }

    /// Takes bytes as far as there is room, and makes some where the tape alone is full.
    fn read(&mut self, buf: &[u8]) -> Result<usize> {
        let mut taken = 0;
        loop {
            let rest = buf.get(taken..).unwrap_or_default();
            taken += self.reader.decode(&mut self.tape, rest)?;
            if !self.tape.is_heavy() {
                return Ok(taken);
            }
            self.build();
            if self.failure.is_some() {
                return Ok(buf.len());
            }
        }
    }

    /// Takes an entry of one field, or of none, that no reply brought: a row of a table or a column.
    pub(crate) fn push_entry(&mut self, id: EntryId, field: Option<(&[u8], &[u8])>) -> Result<()> {
        if self.failure.is_some() {
            return Ok(());
        }
        self.tape.open_entry(id);
        let taken = field.map_or(Ok(()), |(name, value)| {
            self.tape.name(name).and_then(|()| self.tape.value(value, true))
        });
        match taken {
            Ok(()) => self.tape.close_entry(),
            Err(error) if matches!(error.kind(), ErrorKind::Schema | ErrorKind::Decode) => {
                self.tape.drop_open_entry();
                self.failure = Some(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the current reply has come to its end.
    pub fn reply_complete(&self) -> bool {
        self.reader.is_complete()
    }

    /// Takes the end of a complete reply; the next bytes begin another one.
    pub fn take_reply(&mut self) -> Option<Reply> {
        self.reader.take_end()
    }

    /// Forgets a reply that will never end. Its whole entries stay; the one that was cut is gone.
    pub fn abandon_reply(&mut self) {
        self.reader.abandon();
        self.tape.drop_open_entry();
    }

    /// The ID of the latest whole entry ever decoded.
    pub fn last_id(&self) -> Option<EntryId> {
        self.last_id
    }

    /// Takes the IDs of deleted entries since the last flush, or the last call, each with which of
    /// the streams it is of.
    pub(crate) fn take_deleted(&mut self) -> Vec<(usize, EntryId)> {
        self.reader.take_deleted()
    }

    /// Entries after this ID are no rows, whatever they hold.
    pub(crate) fn set_last_wanted(&mut self, id: EntryId) {
        self.reader.set_last_wanted(id);
    }

    /// Takes the streams of such entries since the last call.
    pub(crate) fn take_beyond(&mut self) -> Vec<usize> {
        self.reader.take_beyond()
    }

    /// From now on watches whether the schema's fields occur; see [`take_missing`].
    ///
    /// [`take_missing`]: Decoder::take_missing
    pub(crate) fn watch_fields(&mut self) {
        self.presence = Presence::of(&self.schema);
    }

    /// Leaves it to others to judge by [`presence`](Decoder::presence) what is missing.
    pub(crate) fn is_one_of_several(&mut self) {
        self.presence.iter_mut().for_each(Presence::is_one_of_several);
    }

    /// What of the schema has come so far, while that is watched.
    pub(crate) fn presence(&self) -> Option<&Presence> {
        self.presence.as_ref()
    }

    /// After a flush: what the entries so far lack, once in a decoder's life.
    pub(crate) fn take_missing(&mut self) -> Option<Missing> {
        self.missing.take()
    }

    /// The number of whole entries since the last flush.
    pub fn rows(&self) -> usize {
        self.ids.len() + self.tape.ids().len()
    }

    /// The IDs of the whole entries since the last flush, from this row on.
    pub(crate) fn ids_from(&self, row: usize) -> Vec<EntryId> {
        let on_tape = self.tape.ids();
        let built = self.ids.get(row..).unwrap_or_default();
        let on_tape = on_tape.get(row.saturating_sub(self.ids.len())..).unwrap_or_default();
        [built, on_tape].concat()
    }

    /// Which streams the rows since the last flush are of.
    pub(crate) fn runs(&self) -> &[Run] {
        self.tape.sources().map(Sources::runs).unwrap_or_default()
    }

    /// Builds the columns of what has been decoded, so that the memory of its text can be used
    /// again. [`flush`](Decoder::flush) does the same first, and says what did not fit.
    pub fn build(&mut self) {
        let Decoder { schema, tape, metadata, columns, found, rescue, ids, rejected, .. } = self;
        let buffer_is_utf8 = simdutf8::basic::from_utf8(tape.bytes()).is_ok();
        let base = ids.len();
        if let Some(presence) = &mut self.presence {
            presence.look(tape);
        }
        let mut raised: Option<(usize, Error)> = None;

        // What becomes of a value that does not fit: an error, or null and perhaps rescued.
        let mut refuse = |row: usize, column: &str, refused: Refused<'_>| match rescue {
            Some(rescue) => {
                rescue.keep(row, format!("{column}{}", refused.place).as_bytes(), refused.text);
            }
            None if schema.tolerates_misfits() => {}
            // Columns are read one after the other, so the first row may come last.
            None if raised.as_ref().is_some_and(|(first, _)| *first <= row) => {}
            None => {
                let id = tape.ids().get(row).copied().unwrap_or_default();
                let error = tape.about(row, refused.error(column, id));
                match schema.on_error {
                    OnError::Reject => rejected.push((base + row, error)),
                    OnError::Raise | OnError::Null => raised = Some((row, error)),
                }
            }
        };

        metadata.append(tape.ids(), |row, id, misfit| {
            let name = schema.timestamp_column.as_deref().unwrap_or_default();
            let field = Field::new(name, schema.timestamp_type.clone(), true);
            refuse(row, name, Refused::whole(&field, id.ms.to_string().as_bytes(), misfit));
        });
        for Unreadable { slot, misfit } in tape.unreadable() {
            let name = schema.payload.as_ref().map_or("", |payload| &payload.field);
            let field = Field::new(name, DataType::Struct(Fields::empty()), true);
            let refused = Refused::whole(&field, slot.of(tape.bytes()), misfit.clone());
            refuse(slot.row as usize, name, refused);
        }
        let mut read = |Column { field, made }: &mut Column, slots: &[Slot]| {
            let Made { builder, nulls } = made;
            let slots = Slots { tape, buffer_is_utf8, field, slots };
            builder.append_slots(slots, nulls, &mut |slot, refused| {
                refuse(slot.row as usize, field.name(), refused);
            });
        };
        for (index, column) in columns.iter_mut().enumerate() {
            read(column, tape.slots(index));
        }
        found.resize_with(tape.width() - columns.len(), || None);
        for (index, column) in (columns.len()..).zip(found) {
            let slots = tape.slots(index);
            if !slots.is_empty() {
                let new = || Column::found(tape.column_name(index), schema);
                read(column.get_or_insert_with(new), slots);
            }
        }
        if let Some(rescue) = rescue {
            rescue.append(tape);
        }
        let refused = tape.take_refused().into_iter();
        rejected.extend(refused.map(|(row, error)| (base + row, error)));
        ids.extend_from_slice(tape.ids());
        tape.clear();
        if let Some((row, error)) = raised {
            self.fail(base + row, error);
        }
    }

    /// Forgets the rows from this one on, which cannot be read.
    #[cold]
    fn fail(&mut self, row: usize, error: Error) {
        self.failure = Some(error);
        self.tape.fall_back(row);
        self.ids.truncate(row);
        self.metadata.truncate(row);
        self.rejected.retain(|(rejected, _)| *rejected < row);
        self.columns.iter_mut().for_each(|column| column.made.builder.truncate(row));
        for column in self.found.iter_mut().flatten() {
            // It may have come to its last value before.
            let builder = &mut column.made.builder;
            builder.truncate(row.min(builder.len()));
        }
        self.last_id = self.ids.last().copied().or(self.last_before);
    }

    /// What comes next is of another stream.
    pub(crate) fn forget_last_id(&mut self) {
        (self.last_id, self.last_before) = (None, None);
    }
}

/// Whether a text is a value of the field's dtype.
pub(crate) fn parses(field: &Field, text: &str) -> bool {
    let mut leaves = Leaves::first();
    make_builder(field, &Arc::default(), &Enums::default())
        .is_ok_and(|mut made| made.builder.append(Text::of(text), &mut leaves).is_ok())
        && leaves.is_empty()
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("schema", &self.schema)
            .field("rows", &self.rows())
            .field("last_id", &self.last_id)
            .finish_non_exhaustive()
    }
}
