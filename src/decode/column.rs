//! What every column builder does: read its slots off the tape, one after the other.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::ArrayRef;

use super::tape::{Slot, Tape};
use crate::error::Result;

/// Why a text does not fit a dtype, as the end of the sentence `"abc" ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit(pub(crate) Cow<'static, str>);

impl From<&'static str> for Misfit {
    fn from(reason: &'static str) -> Self {
        Misfit(Cow::Borrowed(reason))
    }
}

impl From<String> for Misfit {
    fn from(reason: String) -> Self {
        Misfit(Cow::Owned(reason))
    }
}

/// A value's bytes, and whether they are already known to be UTF-8.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) is_utf8: bool,
}

impl<'a> Text<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        Text { bytes: text.as_bytes(), is_utf8: true }
    }
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
    #[inline]
    pub(crate) fn is_null(&self, text: &[u8]) -> bool {
        match text.is_empty() && self.empty {
            true => true,
            false => !self.values.is_empty() && self.values.iter().any(|value| &**value == text),
        }
    }
}

/// Told of each value that does not fit: its slot, its text and why.
pub(crate) type OnMisfit<'a> = &'a mut dyn FnMut(&Slot, &[u8], Misfit);

/// Builds one column. A value that is refused leaves the builder as it was.
pub(crate) trait ColumnBuilder: Send {
    /// The number of rows.
    fn len(&self) -> usize;

    /// Appends the value that `text` stands for.
    fn append(&mut self, text: Text<'_>) -> std::result::Result<(), Misfit>;

    /// Appends so many nulls.
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
    fn append_slots(
        &mut self,
        tape: &Tape,
        slots: &[Slot],
        buffer_is_utf8: bool,
        nulls: &NullRules,
        on_misfit: OnMisfit<'_>,
    ) {
        let base = tape.built();
        let bytes = tape.bytes();
        for slot in slots {
            self.fill(base + slot.row as usize);
            let text = slot.of(bytes);
            if nulls.is_null(text) {
                self.append_nulls(1);
                continue;
            }
            let is_utf8 = buffer_is_utf8 && slot.is_on_boundaries(bytes);
            if let Err(misfit) = self.append(Text { bytes: text, is_utf8 }) {
                on_misfit(slot, text, misfit);
                self.append_nulls(1);
            }
        }
        self.fill(base + tape.ids().len());
    }
}
