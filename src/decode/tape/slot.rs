//! Where a value lies, and where its text comes from.

use crate::decode::column::Origin;

/// A value of one column: its row on this tape and its place in the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) row: u32,
    pub(super) len: u32,
    /// The offset; above it, in three bits that no offset reaches, where the value comes from.
    pub(super) place: u64,
}

impl Slot {
    const ORIGIN: u32 = u64::BITS - 3;

    /// The slot once this number of rows and bytes before it is gone, if it is not among them.
    pub(super) fn moved(self, rows: usize, bytes: usize) -> Option<Slot> {
        let offset = self.without_origin().place.checked_sub(bytes as u64)?;
        Some(Slot {
            row: self.row.checked_sub(u32::try_from(rows).ok()?)?,
            place: offset | (self.place >> Self::ORIGIN << Self::ORIGIN),
            ..self
        })
    }

    /// Where a field's value begins.
    pub(super) fn start(self) -> usize {
        self.place as usize
    }

    /// The same of a text that comes from there.
    pub(super) fn with_origin(self, origin: Origin) -> Slot {
        Slot { place: self.place | ((origin as u64) << Self::ORIGIN), ..self }
    }

    /// Where the text comes from.
    #[inline]
    pub(crate) fn origin(&self) -> Origin {
        match self.place >> Self::ORIGIN {
            0 => Origin::Field,
            1 => Origin::JsonString,
            2 => Origin::Json,
            3 => Origin::Bytes,
            4 => Origin::Packed,
            _ => Origin::Null,
        }
    }

    /// The same with its offset alone, which its bytes are found by.
    #[inline]
    pub(crate) fn without_origin(self) -> Slot {
        Slot { place: self.place & (u64::MAX >> 3), ..self }
    }

    /// The value's bytes in the tape's buffer.
    #[inline]
    pub(crate) fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let offset = self.place as usize;
        bytes.get(offset..offset + self.len as usize).unwrap_or_default()
    }

    /// Whether neither end cuts a character of a buffer that is valid UTF-8 as a whole.
    #[inline]
    pub(crate) fn is_on_boundaries(&self, bytes: &[u8]) -> bool {
        let offset = self.place as usize;
        let starts_character = |at: usize| bytes.get(at).is_none_or(|byte| byte & 0xc0 != 0x80);
        starts_character(offset) && starts_character(offset + self.len as usize)
    }
}
