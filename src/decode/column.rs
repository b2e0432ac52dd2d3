//! What every column builder does: read its slots off the tape, one after the other.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::Field;

use super::misfit::{Leaves, Misfit, Refused};
use super::number::integer_text;
use super::packed::Packed;
use super::tape::{Slot, Tape};
use super::value::Notation;
use crate::error::Result;

/// A value's bytes, whether they are already known to be UTF-8, and where they come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) is_utf8: bool,
    pub(crate) origin: Origin,
}

/// Where a text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is a field's value.
    Field,
    /// A string of JSON, without quotes and escapes.
    JsonString,
    /// Another value of JSON, as it is written there.
    Json,
    /// A string, or bytes, of a binary format: as in a field, there is no base64.
    Bytes,
    /// Another value of such a format, which has no text yet: as MessagePack has it.
    Packed,
    /// A format's null.
    Null,
}

impl<'a> Text<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        Text { bytes: text.as_bytes(), is_utf8: true, origin: Origin::Field }
    }

    /// What is shown of it, and kept of it, where it does not fit.
    pub(crate) fn shown(&self) -> Cow<'a, [u8]> {
        match self.origin {
            Origin::Packed => packed_text(self.bytes).into(),
            _ => self.bytes.into(),
        }
    }
}

/// The text of a value that has none yet.
#[cold]
pub(crate) fn packed_text(packed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    Packed::push_other(packed, &mut text);
    text
}

/// Which texts of a column are null.
#[derive(Debug, Clone, Default)]
pub(crate) struct NullRules {
    /// The empty text is null.
    pub(crate) empty: bool,
    /// So are these.
    pub(crate) values: Arc<[Box<[u8]>]>,
}

impl NullRules {
    /// Whether a value of a payload is null.
    #[inline(always)]
    pub(crate) fn make_null(&self, text: Text<'_>) -> bool {
        match text.origin {
            Origin::Null => true,
            Origin::Packed => !self.values.is_empty() && self.is_null(&text.shown()),
            _ => self.is_null(text.bytes),
        }
    }

    #[inline]
    pub(crate) fn is_null(&self, text: &[u8]) -> bool {
        match text.is_empty() && self.empty {
            true => true,
            false => !self.values.is_empty() && self.values.iter().any(|value| &**value == text),
        }
    }
}

/// Told of each value that does not fit: its slot, or that of the value it is in, its text and why.
pub(crate) type OnMisfit<'a> = &'a mut dyn FnMut(&Slot, Refused<'_>);

/// The values of one column on the tape.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    pub(crate) tape: &'a Tape,
    pub(crate) buffer_is_utf8: bool,
    pub(crate) field: &'a Field,
    pub(crate) slots: &'a [Slot],
}

/// Builds one column. A value that is refused leaves the builder as it was.
pub(crate) trait ColumnBuilder: Send {
    /// The number of rows.
    fn len(&self) -> usize;

    /// Appends the value that `text` stands for. Values inside it that do not fit are null, and
    /// added to `leaves`.
    fn append(&mut self, text: Text<'_>, leaves: &mut Leaves) -> std::result::Result<(), Misfit>;

    /// Appends a value of a binary format that has no text yet, as MessagePack has it.
    fn append_packed(
        &mut self,
        packed: &[u8],
        leaves: &mut Leaves,
    ) -> std::result::Result<(), Misfit> {
        append_as_text(self, packed, leaves)
    }

    /// Appends a number of nulls.
    fn append_nulls(&mut self, count: usize);

    /// Appends nulls up to that many rows; where there is none to append, the column needs no
    /// bitmap of them.
    #[inline]
    fn fill(&mut self, rows: usize) {
        if rows > self.len() {
            self.append_nulls(rows - self.len());
        }
    }

    /// Drops all rows from `len` on.
    fn truncate(&mut self, len: usize);

    /// The rows as an array; the builder starts afresh.
    fn finish(&mut self) -> Result<ArrayRef>;

    /// Appends a column's slots, and nulls where rows have none, up to the tape's last row; also
    /// where the rows of earlier tapes are missing.
    ///
    /// Compiled once for each builder, so the loop over a column's values has no virtual call.
    fn append_slots(&mut self, slots: Slots<'_>, nulls: &NullRules, on_misfit: OnMisfit<'_>) {
        match slots.tape.has_payload() {
            true => read_slots::<true, _>(self, slots, nulls, on_misfit),
            false => read_slots::<false, _>(self, slots, nulls, on_misfit),
        }
    }
}

/// The loop over a column's values. Where none can come from a payload, it does not look.
#[inline(always)]
fn read_slots<const PAYLOAD: bool, B: ColumnBuilder + ?Sized>(
    builder: &mut B,
    Slots { tape, buffer_is_utf8, field, slots }: Slots<'_>,
    nulls: &NullRules,
    on_misfit: OnMisfit<'_>,
) {
    let mut leaves = tape.wanted_leaves();
    let base = tape.built();
    let bytes = tape.bytes();
    for slot in slots {
        builder.fill(base + slot.row as usize);
        let origin = if PAYLOAD { slot.origin() } else { Origin::Field };
        let slot = &if PAYLOAD { slot.without_origin() } else { *slot };
        let is_utf8 = buffer_is_utf8 && slot.is_on_boundaries(bytes);
        let text = Text { bytes: slot.of(bytes), is_utf8, origin };
        if if PAYLOAD { nulls.make_null(text) } else { nulls.is_null(text.bytes) } {
            builder.append_nulls(1);
            continue;
        }
        let appended = match PAYLOAD {
            true => append_value(builder, text, &mut leaves),
            false => builder.append(text, &mut leaves),
        };
        if let Err(misfit) = appended {
            on_misfit(slot, Refused::whole(field, &text.shown(), misfit));
            builder.append_nulls(1);
        }
        if !leaves.is_empty() {
            leaves.drain(field, &text.shown(), |refused| on_misfit(slot, refused));
        }
    }
    builder.fill(base + tape.ids().len());
}

/// Appends a value that may come from a payload.
#[inline(always)]
pub(crate) fn append_value<B: ColumnBuilder + ?Sized>(
    builder: &mut B,
    value: Text<'_>,
    leaves: &mut Leaves,
) -> std::result::Result<(), Misfit> {
    match value.origin {
        Origin::Packed => builder.append_packed(value.bytes, leaves),
        _ => append_text(builder, value, leaves),
    }
}

/// Appends the text of a value that has none yet.
pub(crate) fn append_as_text<B: ColumnBuilder + ?Sized>(
    builder: &mut B,
    packed: &[u8],
    leaves: &mut Leaves,
) -> std::result::Result<(), Misfit> {
    let text = packed_text(packed);
    append_text(builder, Text { bytes: &text, is_utf8: false, origin: Origin::Json }, leaves)
}

/// Appends a text that may come from JSON, which has one type for all numbers: `1.0` is an integer
/// there.
#[inline(always)]
fn append_text<B: ColumnBuilder + ?Sized>(
    builder: &mut B,
    text: Text<'_>,
    leaves: &mut Leaves,
) -> std::result::Result<(), Misfit> {
    match builder.append(text, leaves) {
        Err(misfit) if text.origin == Origin::Json => match integer_text(text.bytes) {
            Some(bytes) => {
                builder.append(Text { bytes: &bytes, ..text }, leaves).map_err(|_| misfit)
            }
            None => Err(misfit),
        },
        appended => appended,
    }
}
