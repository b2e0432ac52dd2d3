//! How the values of each kind of column are written: as the text of a field, as JSON, and as MessagePack.

use std::ops::Range;

use arrow_array::types::*;
use arrow_array::{ArrayAccessor, ArrowPrimitiveType, BooleanArray, PrimitiveArray};
use arrow_buffer::{ArrowNativeType, OffsetBuffer, ScalarBuffer};
use arrow_schema::TimeUnit;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lexical_core::ToLexical;
use num_traits::ToPrimitive;

use super::encode::{Column, Encode};
use super::text::{
    push_date, push_decimal, push_json_string, push_number, push_time, push_timestamp,
};
use crate::msgpack::*;

/// What quoted texts take at most, of which JSON may write each byte as six.
fn quoted_at_most<'a, A: ArrayAccessor<Item = &'a V>, V: AsRef<[u8]> + ?Sized + 'a>(
    array: A,
    rows: Range<usize>,
) -> usize {
    let lengths = rows.map(|row| array.value(row).as_ref().len());
    lengths.fold(0, |sum, length| length.saturating_mul(6).saturating_add(sum + 2))
}

/// Where all are null, none is asked for.
pub(super) struct Nothing;

impl Encode for Nothing {
    fn text<'a>(&'a self, _: usize, _: &'a mut Vec<u8>) -> &'a [u8] {
        &[]
    }

    fn json(&self, _: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"null");
    }

    fn pack(&self, _: usize, out: &mut Vec<u8>) {
        pack_null(out);
    }

    fn at_most(&self, _: Range<usize>) -> usize {
        0
    }

    fn may_exceed(&self, _: usize) -> bool {
        false
    }
}

pub(super) struct Strings<A>(pub(super) A);

impl<A: Send + Sync> Encode for Strings<A>
where
    for<'a> &'a A: ArrayAccessor<Item = &'a str>,
{
    #[inline]
    fn text<'a>(&'a self, row: usize, _: &'a mut Vec<u8>) -> &'a [u8] {
        (&self.0).value(row).as_bytes()
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) {
        push_json_string((&self.0).value(row), out);
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        pack_text((&self.0).value(row).as_bytes(), out);
    }

    fn at_most(&self, rows: Range<usize>) -> usize {
        quoted_at_most(&self.0, rows)
    }
}

pub(super) struct Binaries<A>(pub(super) A);

impl<A: Send + Sync> Encode for Binaries<A>
where
    for<'a> &'a A: ArrayAccessor<Item = &'a [u8]>,
{
    #[inline]
    fn text<'a>(&'a self, row: usize, _: &'a mut Vec<u8>) -> &'a [u8] {
        (&self.0).value(row)
    }

    /// JSON has no bytes: there it is base64.
    fn json(&self, row: usize, out: &mut Vec<u8>) {
        push_json_string(&BASE64_STANDARD.encode((&self.0).value(row)), out);
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        pack_bytes((&self.0).value(row), out);
    }

    fn at_most(&self, rows: Range<usize>) -> usize {
        quoted_at_most(&self.0, rows)
    }
}

pub(super) struct Booleans(pub(super) BooleanArray);

impl Encode for Booleans {
    #[inline]
    fn text<'a>(&'a self, row: usize, _: &'a mut Vec<u8>) -> &'a [u8] {
        if self.0.value(row) { b"true" } else { b"false" }
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) {
        let text = self.text(row, &mut Vec::new()).to_vec();
        out.extend_from_slice(&text);
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        pack_boolean(self.0.value(row), out);
    }

    fn at_most(&self, rows: Range<usize>) -> usize {
        b"false".len() * rows.len()
    }

    fn may_exceed(&self, _: usize) -> bool {
        false
    }
}

/// Text that is written anew for each value, and whether JSON must quote it.
pub(super) trait WriteText: Send + Sync {
    /// Whether values have others within.
    const NESTED: bool = false;

    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool;

    /// As in [`Encode`]; text, where MessagePack has nothing else for it.
    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        let mut text = Vec::new();
        self.write(row, &mut text);
        pack_text(&text, out);
    }

    /// As in [`Encode`]. The longest number has 40 digits, and the longest timestamp is not longer.
    fn at_most(&self, rows: Range<usize>) -> usize {
        rows.len().saturating_mul(48)
    }
}

impl<W: WriteText> Encode for W {
    #[inline]
    fn text<'a>(&'a self, row: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        scratch.clear();
        self.write(row, scratch);
        scratch
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        if self.write(row, out) {
            out.insert(start, b'"');
            out.push(b'"');
        }
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        WriteText::pack(self, row, out);
    }

    fn at_most(&self, rows: Range<usize>) -> usize {
        WriteText::at_most(self, rows)
    }

    fn may_exceed(&self, _: usize) -> bool {
        W::NESTED
    }
}

pub(super) struct Numbers<T: ArrowPrimitiveType>(pub(super) PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> WriteText for Numbers<T>
where
    T::Native: ToLexical + ToPrimitive,
{
    #[inline]
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        push_number(self.0.value(row), out);
        false
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        pack_integer(&self.0.value(row), out);
    }
}

pub(super) struct Floats<T: ArrowPrimitiveType>(pub(super) PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> WriteText for Floats<T>
where
    T::Native: ToLexical + Into<f64>,
{
    /// JSON has no number for NaN and the infinities.
    #[inline]
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let value = self.0.value(row);
        push_number(value, out);
        !value.into().is_finite()
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row).into();
        // Which it was before.
        let single = (size_of::<T::Native>() == size_of::<f32>()).then_some(value as f32);
        match single {
            Some(value) => pack_single(value, out),
            None => pack_float(value, out),
        }
    }
}

pub(super) struct Decimals {
    pub(super) values: PrimitiveArray<Decimal128Type>,
    pub(super) scale: i8,
}

impl WriteText for Decimals {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        push_decimal(self.values.value(row), self.scale, out);
        false
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        let value = self.values.value(row);
        if self.scale != 0 || !pack_integer(&value, out) {
            let mut text = Vec::new();
            self.write(row, &mut text);
            pack_text(&text, out);
        }
    }

    fn at_most(&self, rows: Range<usize>) -> usize {
        rows.len().saturating_mul(48 + usize::from(self.scale.unsigned_abs()))
    }
}

pub(super) struct Dates(pub(super) PrimitiveArray<Date32Type>);

impl WriteText for Dates {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        push_date(self.0.value(row), out);
        true
    }
}

pub(super) struct Times(pub(super) PrimitiveArray<Time64NanosecondType>);

impl WriteText for Times {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        push_time(self.0.value(row), out);
        true
    }
}

pub(super) struct Timestamps {
    pub(super) values: ScalarBuffer<i64>,
    pub(super) unit: TimeUnit,
    pub(super) zoned: bool,
}

impl WriteText for Timestamps {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let epoch = self.values.get(row).copied().unwrap_or_default();
        push_timestamp(epoch, self.unit, self.zoned, out)
    }

    /// An instant as such, a datetime without a zone as text; beyond ISO 8601 both as an integer.
    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        let epoch = self.values.get(row).copied().unwrap_or_default();
        let mut text = Vec::new();
        match push_timestamp(epoch, self.unit, self.zoned, &mut text) {
            true if self.zoned => pack_instant(epoch, self.unit, out),
            true => pack_text(&text, out),
            false => drop(pack_integer(&epoch, out)),
        }
    }
}

pub(super) struct Durations(pub(super) ScalarBuffer<i64>);

impl WriteText for Durations {
    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        push_number(self.0.get(row).copied().unwrap_or_default(), out);
        false
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        pack_integer(&self.0.get(row).copied().unwrap_or_default(), out);
    }
}

/// Categories: the texts of the members, and which of them each row has.
pub(super) struct Dictionary {
    pub(super) member: Box<dyn Fn(usize) -> usize + Send + Sync>,
    pub(super) members: Column,
    pub(super) count: usize,
}

impl Encode for Dictionary {
    #[inline]
    fn text<'a>(&'a self, row: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        self.members.text((self.member)(row), scratch)
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) {
        self.members.json((self.member)(row), out);
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        self.members.pack((self.member)(row), out);
    }

    fn at_most(&self, rows: Range<usize>) -> usize {
        // That of a null may be none.
        let members = rows.map(|row| (self.member)(row)).filter(|member| *member < self.count);
        let lengths = members.map(|member| self.members.at_most(member..member + 1));
        lengths.fold(0, usize::saturating_add)
    }

    fn may_exceed(&self, length: usize) -> bool {
        self.members.longest(self.count, length).is_some()
    }
}

/// JSON arrays.
pub(super) struct Lists {
    pub(super) offsets: OffsetBuffer<i64>,
    pub(super) items: Column,
}

impl Lists {
    /// The items of these rows.
    fn items_of(&self, rows: Range<usize>) -> Range<usize> {
        let at = |index: usize| self.offsets.get(index).map_or(0, |offset| offset.as_usize());
        at(rows.start)..at(rows.end)
    }
}

impl WriteText for Lists {
    const NESTED: bool = true;

    fn at_most(&self, rows: Range<usize>) -> usize {
        let (brackets, items) = (2 * rows.len(), self.items_of(rows));
        (brackets + items.len()).saturating_add(self.items.at_most(items))
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        out.push(b'[');
        let range = self.items_of(row..row + 1);
        let first = range.start;
        for index in range {
            if index > first {
                out.push(b',');
            }
            self.items.json(index, out);
        }
        out.push(b']');
        false
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        let range = self.items_of(row..row + 1);
        pack_array(range.len(), out);
        range.for_each(|index| self.items.pack(index, out));
    }
}

/// A member's name.
pub(super) struct Name {
    /// Quoted, and with its colon.
    pub(super) json: Vec<u8>,
    pub(super) packed: Vec<u8>,
}

impl Name {
    pub(super) fn new(name: &str) -> Self {
        let Texts { mut json, packed } = Texts::new(name);
        json.push(b':');
        Name { json, packed }
    }

    /// More than it takes, with what parts it from other members.
    pub(super) fn at_most(&self) -> usize {
        self.json.len().max(self.packed.len()) + 1
    }
}

/// A text as JSON and as MessagePack.
pub(super) struct Texts {
    pub(super) json: Vec<u8>,
    pub(super) packed: Vec<u8>,
}

impl Texts {
    pub(super) fn new(text: &str) -> Self {
        let (mut json, mut packed) = (Vec::new(), Vec::new());
        push_json_string(text, &mut json);
        pack_text(text.as_bytes(), &mut packed);
        Texts { json, packed }
    }
}

/// Objects: each member's name, and its values.
pub(super) struct Structs(pub(super) Vec<(Name, Column)>);

impl WriteText for Structs {
    const NESTED: bool = true;

    fn at_most(&self, rows: Range<usize>) -> usize {
        let members = self.0.iter().map(|(name, values)| {
            values.at_most(rows.clone()).saturating_add(name.at_most() * rows.len())
        });
        members.fold(2 * rows.len(), usize::saturating_add)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        out.push(b'{');
        for (index, (name, values)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&name.json);
            values.json(row, out);
        }
        out.push(b'}');
        false
    }

    fn pack(&self, row: usize, out: &mut Vec<u8>) {
        pack_map(self.0.len(), out);
        for (name, values) in &self.0 {
            out.extend_from_slice(&name.packed);
            values.pack(row, out);
        }
    }
}
