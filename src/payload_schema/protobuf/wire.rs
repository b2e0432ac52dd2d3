//! Protobuf's wire: tags, and what follows them. No length is believed before its bytes are there.

use super::plan::Wire;

/// It is not written as messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What follows a tag: a number, or the place of bytes in the payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    pub(super) wire: Wire,
    value: u64,
}

impl Raw {
    fn bytes(wire: Wire, start: usize, end: usize) -> Raw {
        // No payload comes to four gigabytes.
        Raw { wire, value: ((start as u64) << 32) | end as u64 & u64::from(u32::MAX) }
    }

    /// The number.
    #[inline]
    pub(super) fn number(self) -> u64 {
        self.value
    }

    /// The bytes' place: where they start and end.
    #[inline]
    pub(super) fn place(self) -> Place {
        Place { start: (self.value >> 32) as usize, end: self.value as u32 as usize }
    }
}

/// A part of a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Place {
    #[inline]
    pub(super) fn of(self, payload: &[u8]) -> &[u8] {
        payload.get(self.start..self.end).unwrap_or_default()
    }
}

/// Reads a part of a payload.
pub(super) struct Cursor<'p> {
    /// The payload up to where the part ends.
    bytes: &'p [u8],
    at: usize,
}

/// In how many groups a field may be that nobody knows.
const DEEPEST_GROUP: usize = 100;

impl<'p> Cursor<'p> {
    pub(super) fn new(payload: &'p [u8], place: Place) -> Self {
        Cursor { bytes: payload.get(..place.end).unwrap_or_default(), at: place.start }
    }

    #[inline]
    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if let Some(byte) = rest.first()
            && *byte < 0x80
        {
            self.at += 1;
            return Ok(u64::from(*byte));
        }
        let mut value = 0;
        for (index, byte) in rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f).wrapping_shl(7 * index as u32);
            if *byte < 0x80 {
                self.at += index + 1;
                // The tenth byte has one bit of the number.
                return if index == 9 && *byte > 1 { Err(Malformed) } else { Ok(value) };
            }
        }
        Err(Malformed)
    }

    #[inline]
    pub(super) fn fixed32(&mut self) -> Result<u64, Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let bytes = rest.first_chunk().ok_or(Malformed)?;
        self.at += 4;
        Ok(u32::from_le_bytes(*bytes).into())
    }

    #[inline]
    pub(super) fn fixed64(&mut self) -> Result<u64, Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let bytes = rest.first_chunk().ok_or(Malformed)?;
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    #[inline]
    fn place(&mut self) -> Result<Place, Malformed> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        let start = self.at;
        let end = start.checked_add(len).ok_or(Malformed)?;
        if end > self.bytes.len() {
            return Err(Malformed);
        }
        self.at = end;
        Ok(Place { start, end })
    }

    /// A field's number, and what it has; where a group is, all between its tags.
    #[inline]
    pub(super) fn field(&mut self) -> Result<(u32, Raw), Malformed> {
        let (number, wire) = self.tag()?;
        let raw = match wire {
            0 => Raw { wire: Wire::Varint, value: self.varint()? },
            1 => Raw { wire: Wire::Fixed64, value: self.fixed64()? },
            2 => {
                let place = self.place()?;
                Raw::bytes(Wire::Bytes, place.start, place.end)
            }
            3 => self.group(number)?,
            5 => Raw { wire: Wire::Fixed32, value: self.fixed32()? },
            _ => return Err(Malformed),
        };
        Ok((number, raw))
    }

    #[inline]
    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        match tag >> 3 {
            0 => Err(Malformed),
            number => Ok((number, (tag & 7) as u8)),
        }
    }

    /// All up to the tag that ends the group. Without recursion.
    #[cold]
    fn group(&mut self, number: u32) -> Result<Raw, Malformed> {
        let start = self.at;
        let mut open = vec![number];
        loop {
            let end = self.at;
            let (number, wire) = self.tag()?;
            match wire {
                0 => drop(self.varint()?),
                1 => drop(self.fixed64()?),
                2 => drop(self.place()?),
                3 if open.len() < DEEPEST_GROUP => open.push(number),
                4 if open.last() == Some(&number) => {
                    open.pop();
                    if open.is_empty() {
                        return Ok(Raw::bytes(Wire::Group, start, end));
                    }
                }
                5 => drop(self.fixed32()?),
                _ => return Err(Malformed),
            }
        }
    }
}
