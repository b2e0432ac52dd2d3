//! Reply bytes to columns, pushed: bytes cut anywhere go in, batches come out. No IO.

mod batch;
mod column;
mod make;
mod metadata;
mod nested;
mod number;
mod primitive;
mod reply;
mod rescue;
mod tape;
mod text;
mod time;

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, FieldRef, Schema};

pub use batch::{Batch, Rejected};
pub use make::{ENUM_METADATA, INT128_METADATA};
pub use reply::{Reply, ReplyShape};

use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::schema::{OnError, StreamSchema};
use column::{ColumnBuilder, Misfit, NullRules, Text};
pub(crate) use make::dtype_name;
use make::{Source, make_builder};
use metadata::MetadataColumns;
pub(crate) use reply::Claimed;
use reply::ReplyReader;
use rescue::RescueColumn;
use tape::{Slot, Tape};

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
    reader: ReplyReader,
    tape: Tape,
    metadata: MetadataColumns,
    columns: Vec<Column>,
    rescue: Option<RescueColumn>,
    /// The IDs of the rows in the builders; those on the tape come after them.
    ids: Vec<EntryId>,
    last_id: Option<EntryId>,
    /// Rows that do not fit, where they are to be left out.
    rejected: Vec<(usize, Error)>,
    row_limit: usize,
}

/// A field and what builds its column.
struct Column {
    field: FieldRef,
    builder: Box<dyn ColumnBuilder>,
    nulls: NullRules,
}

impl Column {
    fn new(field: FieldRef, schema: &StreamSchema) -> Result<Self> {
        let made = make_builder(&field, Source::Field)?;
        let nulls =
            NullRules { empty: !made.empty_is_value, values: schema.null_values.of(field.name()) };
        Ok(Column { field, builder: made.builder, nulls })
    }
}

impl Decoder {
    /// A decoder of replies of one shape.
    ///
    /// # Errors
    ///
    /// [`Schema`](ErrorKind::Schema) where the schema contradicts itself or names a dtype that no
    /// text stands for.
    pub fn new(schema: StreamSchema, shape: ReplyShape) -> Result<Self> {
        schema.validate()?;
        let schema = Arc::new(schema);
        let columns: Result<Vec<Column>> =
            schema.fields.iter().map(|field| Column::new(Arc::clone(field), &schema)).collect();
        Ok(Decoder {
            reader: ReplyReader::new(shape),
            tape: Tape::new(Arc::clone(&schema)),
            metadata: MetadataColumns::new(&schema),
            columns: columns?,
            rescue: schema.rescue_column.as_ref().map(|_| RescueColumn::new()),
            ids: Vec::new(),
            last_id: None,
            rejected: Vec::new(),
            row_limit: usize::MAX,
            schema,
        })
    }

    /// A decoder that takes no more bytes once it has so many rows, until they are flushed; so a
    /// reply may be cut into several batches.
    pub fn with_row_limit(mut self, rows: usize) -> Self {
        self.row_limit = rows;
        self
    }

    /// Whether there are as many rows as the limit allows.
    pub fn is_full(&self) -> bool {
        self.rows() >= self.row_limit
    }

    /// Takes bytes off the front of `buf`, up to the end of the current reply or the row limit at
    /// most, and says how many. Bytes behind that are left for the caller.
    ///
    /// # Errors
    ///
    /// [`Response`](ErrorKind::Response) where the bytes are not RESP or not such a reply;
    /// [`Schema`](ErrorKind::Schema) or [`Decode`](ErrorKind::Decode) where a field's name cannot
    /// be a column's. The decoder is of no use afterwards.
    pub fn decode(&mut self, buf: &[u8]) -> Result<usize> {
        let room = self.row_limit.saturating_sub(self.ids.len());
        let taken = self.reader.decode(&mut self.tape, buf, room)?;
        self.last_id = self.tape.ids().last().copied().or(self.last_id);
        Ok(taken)
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

    /// Takes the IDs of deleted entries since the last flush, or the last call.
    pub(crate) fn take_deleted(&mut self) -> Vec<EntryId> {
        self.reader.take_deleted()
    }

    /// Takes what the latest XAUTOCLAIM said beside its entries.
    pub(crate) fn take_claimed(&mut self) -> Claimed {
        self.reader.take_claimed()
    }

    /// The shape of the replies to come; none is under way.
    pub(crate) fn set_shape(&mut self, shape: ReplyShape) {
        self.reader.set_shape(shape);
    }

    /// The fields that have a column so far.
    pub(crate) fn fields(&self) -> Vec<FieldRef> {
        self.columns.iter().map(|column| Arc::clone(&column.field)).collect()
    }

    /// The number of whole entries since the last flush.
    pub fn rows(&self) -> usize {
        self.ids.len() + self.tape.ids().len()
    }

    /// Builds the columns of what has been decoded, so that the memory of its text can be used
    /// again. [`flush`](Decoder::flush) does the same first.
    ///
    /// # Errors
    ///
    /// [`Decode`](ErrorKind::Decode) where a text does not fit its dtype and the schema says to
    /// raise. The decoder is of no use afterwards.
    pub fn build(&mut self) -> Result<()> {
        self.add_columns()?;
        let Decoder { schema, tape, metadata, columns, rescue, ids, rejected, .. } = self;
        let buffer_is_utf8 = simdutf8::basic::from_utf8(tape.bytes()).is_ok();

        // What becomes of a value that does not fit: an error, or null and perhaps rescued.
        let mut refuse = |row: usize, field: &Field, text: &[u8], misfit: Misfit| {
            match rescue {
                Some(rescue) => rescue.keep(row, field.name().as_bytes(), text),
                None if schema.tolerates_misfits() => {}
                None => {
                    let id = tape.ids().get(row).copied().unwrap_or_default();
                    let error = misfit_error(field, id, text, misfit);
                    if schema.on_error != OnError::Reject {
                        return Err(error);
                    }
                    rejected.push((ids.len() + row, error));
                }
            }
            Ok(())
        };

        metadata.append(tape.ids(), |row, id, misfit| {
            let name = schema.timestamp_column.as_deref().unwrap_or_default();
            let field = Field::new(name, schema.timestamp_type.clone(), true);
            refuse(row, &field, id.ms.to_string().as_bytes(), misfit)
        })?;
        for (index, column) in columns.iter_mut().enumerate() {
            let Column { field, builder, nulls } = column;
            let mut on_misfit = |slot: &Slot, text: &[u8], misfit: Misfit| {
                refuse(slot.row as usize, field, text, misfit)
            };
            builder.append_slots(tape, tape.slots(index), buffer_is_utf8, nulls, &mut on_misfit)?;
        }
        if let Some(rescue) = rescue {
            for stray in tape.strays() {
                let (name, value) = (stray.name.of(tape.bytes()), stray.value.of(tape.bytes()));
                rescue.keep(stray.value.row as usize, name, value);
            }
            rescue.advance(tape.ids().len());
        }
        ids.extend_from_slice(tape.ids());
        tape.clear();
        Ok(())
    }

    /// The rows since the last flush; perhaps none, but always every column.
    ///
    /// # Errors
    ///
    /// As [`build`](Decoder::build).
    pub fn flush(&mut self) -> Result<Batch> {
        self.build()?;
        let mut fields = self.schema.metadata_fields();
        let mut arrays = self.metadata.finish()?;
        for column in &mut self.columns {
            fields.push(Arc::clone(&column.field));
            arrays.push(column.builder.finish()?);
        }
        if let (Some(field), Some(rescue)) = (self.schema.rescue_field(), &mut self.rescue) {
            fields.push(field);
            arrays.push(rescue.finish()?);
        }
        let ids = std::mem::take(&mut self.ids);
        let options = RecordBatchOptions::new().with_row_count(Some(ids.len()));
        let records =
            RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
                .map_err(primitive::internal)?;
        let batch = Batch::new(records, ids, self.reader.take_deleted());
        let mut rejected = std::mem::take(&mut self.rejected);
        if rejected.is_empty() {
            return Ok(batch);
        }
        // Columns are built one after the other; the first that does not fit is the reason.
        rejected.sort_by_key(|(row, _)| *row);
        rejected.dedup_by_key(|(row, _)| *row);
        batch.reject(rejected)
    }

    /// Columns for fields that an open schema met for the first time; null in the rows before.
    fn add_columns(&mut self) -> Result<()> {
        for name in self.tape.names().iter().skip(self.columns.len()) {
            let field = Arc::new(Field::new(name, DataType::Utf8View, true));
            let mut column = Column::new(field, &self.schema)?;
            column.builder.append_nulls(self.ids.len());
            self.columns.push(column);
        }
        Ok(())
    }
}

/// Whether a text is a value of the field's dtype.
pub(crate) fn parses(field: &Field, text: &str) -> bool {
    make_builder(field, Source::Field)
        .is_ok_and(|mut made| made.builder.append(Text::of(text)).is_ok())
}

fn misfit_error(field: &Field, id: EntryId, text: &[u8], misfit: Misfit) -> Error {
    Error::new(
        ErrorKind::Decode,
        format!(
            "{} {}; pass on_error=\"null\" to make such values null, or rescue_column=\"_rescued\" \
             to keep them",
            shorten(text),
            misfit.0
        ),
    )
    .with_context("entry ID", id.to_string())
    .with_context("field", field.name().clone())
    .with_context("dtype", dtype_name(field))
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
