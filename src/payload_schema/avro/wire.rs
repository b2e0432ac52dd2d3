//! Avro's binary encoding, read within bounds: no length is believed before its bytes are there.

use super::schema::{Kind, NodeId, Parsed};
use crate::decode::{DEEPEST, Misfit};

/// The bytes do not follow the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What that misfit says; the schema's name comes after it.
pub(super) const MALFORMED: &str = "does not follow the Avro schema";

impl From<Malformed> for Misfit {
    #[cold]
    fn from(_: Malformed) -> Self {
        MALFORMED.into()
    }
}

/// What is left of a datum.
#[derive(Debug)]
pub(super) struct Cursor<'d> {
    rest: &'d [u8],
    /// How many items there may still be that take no bytes, such as nulls.
    free: usize,
}

impl<'d> Cursor<'d> {
    /// Items that take no bytes cost nothing to claim.
    const FREE: usize = 65_536;

    pub(super) fn new(datum: &'d [u8]) -> Self {
        Cursor { rest: datum, free: Self::FREE }
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    #[inline]
    pub(super) fn take(&mut self, size: usize) -> Result<&'d [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(super) fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.chunk()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed),
        }
    }

    #[inline]
    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        let raw = match self.rest.split_first() {
            Some((first @ 0..0x80, rest)) => {
                self.rest = rest;
                u64::from(*first)
            }
            _ => self.long_varint()?,
        };
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (place, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth has one bit of the 64.
            if place == 9 && *byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(place + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    #[inline]
    pub(super) fn int(&mut self) -> Result<i64, Malformed> {
        let value = self.long()?;
        if i32::try_from(value).is_ok() { Ok(value) } else { Err(Malformed) }
    }

    /// The place of a branch or symbol.
    #[inline]
    pub(super) fn place(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.long()?).map_err(|_| Malformed)
    }

    /// Bytes or a string, behind its length.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'d [u8], Malformed> {
        let size = self.place()?;
        self.take(size)
    }

    /// How many items the next block of an array or map has, none at the end; and how many bytes, where
    /// it says so. Each item takes `least` bytes.
    pub(super) fn block(&mut self, least: usize) -> Result<(usize, Option<usize>), Misfit> {
        let count = self.long()?;
        let size = match count < 0 {
            true => Some(self.place()?).filter(|size| *size <= self.rest.len()),
            false => None,
        };
        if count < 0 && size.is_none() {
            return Err(Malformed.into());
        }
        let count = usize::try_from(count.unsigned_abs()).map_err(|_| Malformed)?;
        match self.rest.len().checked_div(least) {
            Some(most) if count <= most => {}
            Some(_) => return Err(Malformed.into()),
            None => {
                self.free = self.free.checked_sub(count).ok_or("has too many empty items")?;
            }
        }
        Ok((count, size))
    }

    /// Passes over a value.
    pub(super) fn skip(&mut self, schema: &Parsed, id: NodeId, depth: u32) -> Result<(), Misfit> {
        let node = schema.node(id);
        if node.least == 0 {
            return Ok(());
        }
        if depth > DEEPEST {
            return Err("is nested more than 128 levels deep".into());
        }
        match &node.kind {
            Kind::Null => {}
            Kind::Boolean => drop(self.boolean()?),
            Kind::Int | Kind::Long | Kind::Enum(_) => drop(self.long()?),
            Kind::Float => drop(self.take(4)?),
            Kind::Double => drop(self.take(8)?),
            Kind::Bytes | Kind::String => drop(self.bytes()?),
            Kind::Fixed(_, size) => drop(self.take(*size)?),
            Kind::Union(branches) => {
                let branch = branches.get(self.place()?).ok_or(Malformed)?;
                self.skip(schema, *branch, depth + 1)?;
            }
            Kind::Record(record) => {
                for field in &record.fields {
                    self.skip(schema, field.node, depth + 1)?;
                }
            }
            Kind::Array(item) => {
                let least = schema.node(*item).least;
                self.skip_blocks(least, |cursor| cursor.skip(schema, *item, depth + 1))?;
            }
            Kind::Map(value) => {
                let least = schema.node(*value).least.saturating_add(1);
                self.skip_blocks(least, |cursor| {
                    cursor.bytes()?;
                    cursor.skip(schema, *value, depth + 1)
                })?;
            }
        }
        Ok(())
    }

    fn skip_blocks(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        loop {
            match self.block(least)? {
                (0, _) => return Ok(()),
                (_, Some(size)) => drop(self.take(size)?),
                (_, None) if least == 0 => {}
                (count, None) => {
                    for _ in 0..count {
                        item(self)?;
                    }
                }
            }
        }
    }
}

/// Appends a long, or anything that is written as one.
pub(super) fn push_long(value: i64, out: &mut Vec<u8>) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Appends bytes or a string, behind its length.
pub(super) fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}
