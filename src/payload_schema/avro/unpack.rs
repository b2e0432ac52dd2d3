//! Data to MessagePack, step by step.

use super::resolve::{FieldStep, Plan, RecordStep, Step, StepId};
use super::schema::Parsed;
use super::wire::{Cursor, MALFORMED, Malformed};
use crate::decode::Misfit;
use crate::payload_schema::Packer;
#[cfg(test)]
use crate::payload_schema::packer::packed_text;

impl Plan {
    /// Appends what a datum is. Nothing comes after it.
    pub(super) fn unpack(
        &self,
        datum: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut Packer,
    ) -> Result<(), Misfit> {
        unpack(&self.writer, &self.steps, self.root, datum, scratch, out).map_err(|misfit| {
            match misfit.0 == MALFORMED {
                true => format!("{MALFORMED} {}", self.writer.name()).into(),
                false => misfit,
            }
        })
    }
}

pub(super) fn unpack(
    writer: &Parsed,
    steps: &[Step],
    root: StepId,
    datum: &[u8],
    scratch: &mut Vec<u8>,
    out: &mut Packer,
) -> Result<(), Misfit> {
    let mut unpacking = Unpacking { writer, steps, cursor: Cursor::new(datum), scratch };
    unpacking.value(root, out)?;
    unpacking.cursor.end()?;
    out.check()
}

struct Unpacking<'u, 'd> {
    writer: &'u Parsed,
    steps: &'u [Step],
    cursor: Cursor<'d>,
    scratch: &'u mut Vec<u8>,
}

impl Unpacking<'_, '_> {
    /// What is inside a value is deeper in what is packed, which is bounded.
    fn value(&mut self, step: StepId, out: &mut Packer) -> Result<(), Misfit> {
        let steps = self.steps;
        match steps.get(step).ok_or(Malformed)? {
            Step::Null => out.null(),
            Step::Boolean => out.boolean(self.cursor.boolean()?),
            Step::Integer { wide, logical } => {
                let value = self.integer(*wide)?;
                match logical {
                    None => out.signed(value),
                    Some(logical) => logical.pack_integer(value, self.scratch, out),
                }
            }
            // As any language converts them.
            Step::IntegerAsFloat { single: true } => out.single(self.cursor.long()? as f32),
            Step::IntegerAsFloat { single: false } => out.float(self.cursor.long()? as f64),
            Step::Float => out.single(f32::from_le_bytes(self.cursor.chunk()?)),
            Step::FloatAsDouble => out.float(f32::from_le_bytes(self.cursor.chunk()?).into()),
            Step::Double => out.float(f64::from_le_bytes(self.cursor.chunk()?)),
            Step::Text => out.text(self.cursor.bytes()?),
            Step::Bytes { size, logical } => {
                let bytes = match size {
                    Some(size) => self.cursor.take(*size)?,
                    None => self.cursor.bytes()?,
                };
                match logical {
                    None => out.bytes_value(bytes),
                    Some(logical) => logical.pack_bytes(bytes, self.scratch, out)?,
                }
            }
            Step::Enum(symbols) => {
                out.packed(symbols.get(self.cursor.place()?).ok_or(Malformed)?);
            }
            Step::Union(branches) => {
                let branch = branches.get(self.cursor.place()?).ok_or(Malformed)?;
                self.value(*branch, out)?;
            }
            Step::Array { item, least } => out.array_of_any_length(|out| {
                self.blocks(*least, out, |unpacking, out| unpacking.value(*item, out))
            })?,
            Step::Map { value, least } => out.array_of_any_length(|out| {
                self.blocks(*least, out, |unpacking, out| {
                    out.map(2, |out| {
                        out.packed(KEY);
                        out.text(unpacking.cursor.bytes()?);
                        out.packed(VALUE);
                        unpacking.value(*value, out)
                    })
                })
            })?,
            Step::Record(record) => self.record(record, out)?,
            Step::Never(why) => return Err(why.clone().into()),
        }
        Ok(())
    }

    #[inline]
    fn integer(&mut self, wide: bool) -> Result<i64, Malformed> {
        if wide { self.cursor.long() } else { self.cursor.int() }
    }

    fn record(&mut self, record: &RecordStep, out: &mut Packer) -> Result<(), Misfit> {
        out.map(record.len, |out| {
            for field in &record.fields {
                match field {
                    FieldStep::Take(name, step) => {
                        out.name(name);
                        self.value(*step, out)?;
                    }
                    FieldStep::Skip(node) => self.cursor.skip(self.writer, *node, 0)?,
                }
            }
            for (name, packed) in &record.defaults {
                out.name(name);
                out.packed(packed);
            }
            Ok(())
        })
    }

    /// The items of all blocks; returns how many.
    fn blocks(
        &mut self,
        least: usize,
        out: &mut Packer,
        mut item: impl FnMut(&mut Self, &mut Packer) -> Result<(), Misfit>,
    ) -> Result<usize, Misfit> {
        let mut items = 0usize;
        loop {
            let (count, _) = self.cursor.block(least)?;
            if count == 0 {
                return Ok(items);
            }
            for _ in 0..count {
                item(self, out)?;
                out.check()?;
            }
            items += count;
        }
    }
}

/// `key` and `value`, packed: a map is a list of both, as Polars has maps.
const KEY: &[u8] = b"\xa3key";
const VALUE: &[u8] = b"\xa5value";

#[cfg(test)]
#[test]
fn names_of_maps_are_packed() {
    assert_eq!((KEY, VALUE), (&*packed_text("key"), &*packed_text("value")));
}
