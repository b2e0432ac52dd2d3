//! Payloads: all members of a row as one document, which may be compressed.

use std::ops::Range;

use arrow_array::LargeBinaryArray;
use arrow_array::builder::LargeBinaryBuilder;
use arrow_buffer::NullBuffer;

use super::encode::{Column, Encode};
use super::encoders::{Name, Texts, WriteText};
use crate::compression::PayloadCompression;
use crate::error::{Error, Result};
use crate::msgpack::{pack_array, pack_map, pack_null};
use crate::payload_schema::PayloadSchema;

/// Payloads: JSON objects that lack what is null.
pub(super) struct Documents(pub(super) Vec<Member>);

/// The same as MessagePack.
pub(super) struct PackedDocuments(pub(super) Vec<Member>);

/// How many rows there are, and which of them have no payload.
pub(super) struct Rows<'r> {
    pub(super) count: usize,
    pub(super) nulls: Option<&'r NullBuffer>,
}

/// A column whose values are members of payloads.
pub(super) struct Member {
    name: Name,
    values: Column,
    /// What stands for a null, if anything does.
    null: Option<Texts>,
}

impl Member {
    pub(super) fn new(name: &str, values: Column, null: Option<&String>) -> Self {
        Member { name: Name::new(name), values, null: null.map(|text| Texts::new(text)) }
    }

    fn is_written(&self, row: usize) -> bool {
        self.null.is_some() || !self.values.is_null(row)
    }

    fn at_most(&self, rows: Range<usize>) -> usize {
        let null = self.null.as_ref().map_or(0, |null| null.json.len().max(null.packed.len()));
        let around = self.name.at_most() + null;
        self.values.at_most(rows.clone()).saturating_add(around * rows.len())
    }
}

impl WriteText for Documents {
    const NESTED: bool = true;

    fn at_most(&self, rows: Range<usize>) -> usize {
        let members = self.0.iter().map(|member| member.at_most(rows.clone()));
        members.fold(2 * rows.len(), usize::saturating_add)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        out.push(b'{');
        let start = out.len();
        for Member { name, values, null } in self.0.iter().filter(|one| one.is_written(row)) {
            if out.len() > start {
                out.push(b',');
            }
            out.extend_from_slice(&name.json);
            match null {
                Some(null) if values.is_null(row) => out.extend_from_slice(&null.json),
                _ => values.json(row, out),
            }
        }
        out.push(b'}');
        false
    }
}

impl WriteText for PackedDocuments {
    const NESTED: bool = true;

    fn at_most(&self, rows: Range<usize>) -> usize {
        let members = self.0.iter().map(|member| member.at_most(rows.clone()));
        members.fold(2 * rows.len(), usize::saturating_add)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let written = || self.0.iter().filter(|member| member.is_written(row));
        pack_map(written().count(), out);
        for Member { name, values, null } in written() {
            out.extend_from_slice(&name.packed);
            match null {
                Some(null) if values.is_null(row) => out.extend_from_slice(&null.packed),
                _ => values.pack(row, out),
            }
        }
        false
    }
}

/// Payloads that are MessagePack arrays.
pub(super) struct PackedArrays(Vec<Option<Member>>);

impl PackedArrays {
    pub(super) fn new(members: Vec<Member>, positions: &[String]) -> Result<Self> {
        let names: Vec<Name> = positions.iter().map(|name| Name::new(name)).collect();
        let mut values: Vec<Option<Member>> = names.iter().map(|_| None).collect();
        for member in members {
            let place = names.iter().position(|name| name.packed == member.name.packed);
            match place.and_then(|place| values.get_mut(place)) {
                Some(value) => *value = Some(member),
                None => {
                    let name = String::from_utf8_lossy(&member.name.json);
                    return Err(Error::invalid(format!(
                        "the column {} is not one of payload_fields; nothing has been sent",
                        name.trim_end_matches(':')
                    )));
                }
            }
        }
        Ok(PackedArrays(values))
    }
}

impl WriteText for PackedArrays {
    const NESTED: bool = true;

    fn at_most(&self, rows: Range<usize>) -> usize {
        let members = self.0.iter().flatten().map(|member| member.at_most(rows.clone()));
        members.fold((5 + self.0.len()) * rows.len(), usize::saturating_add)
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        pack_array(self.0.len(), out);
        for member in &self.0 {
            match member {
                Some(Member { values, null: Some(null), .. }) if values.is_null(row) => {
                    out.extend_from_slice(&null.packed);
                }
                Some(member) => member.values.pack(row, out),
                None => pack_null(out),
            }
        }
        false
    }
}

impl PackedDocuments {
    /// The payloads that a schema makes of the first rows, all at once: they may not fit it.
    pub(super) fn by_schema(
        &self,
        schema: &PayloadSchema,
        rows: Rows<'_>,
    ) -> Result<LargeBinaryArray, (usize, String)> {
        let mut packer = schema.packer();
        let (mut document, mut payload) = (Vec::new(), Vec::new());
        let mut payloads = LargeBinaryBuilder::new();
        for row in 0..rows.count {
            document.clear();
            payload.clear();
            if rows.nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                self.write(row, &mut document);
                packer.pack(&document, &mut payload).map_err(|misfit| (row, misfit))?;
            }
            payloads.append_value(&payload);
        }
        Ok(payloads.finish())
    }
}

/// Payloads that are compressed.
pub(super) struct Compressed {
    pub(super) values: Box<dyn Encode>,
    pub(super) compression: PayloadCompression,
}

impl WriteText for Compressed {
    const NESTED: bool = true;

    fn at_most(&self, rows: Range<usize>) -> usize {
        let values = self.values.at_most(rows.clone());
        rows.len()
            .saturating_mul(PayloadCompression::at_most(0))
            .saturating_add(PayloadCompression::at_most(values))
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        self.compression.compress(self.values.text(row, &mut Vec::new()), out);
        false
    }
}
