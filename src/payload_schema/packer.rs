//! MessagePack of what payloads turn out to be, within bounds.

use crate::decode::packed::Packed;
use crate::decode::value::{Kind, Value};
use crate::decode::{DEEPEST, Member, Misfit};
use crate::msgpack;

const TEXT: Kind = Kind::String { escaped: false };

/// MessagePack that is written within bounds. What is beyond them does not fit.
#[derive(Debug)]
pub(crate) struct Packer {
    out: Vec<u8>,
    most: usize,
    /// In how many arrays and maps what is written is.
    depth: u32,
    /// The names in the outermost map, and where each begins.
    names: Vec<(usize, Value)>,
}

impl Packer {
    /// Refuses to write more bytes than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Packer { out: Vec::new(), most, depth: 0, names: Vec::new() }
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.out.clear();
        self.depth = 0;
        self.names.clear();
    }

    /// How many bytes there may be.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.out
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Keeps no more memory than that.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.clear();
        self.out.shrink_to(bytes);
        self.names.shrink_to(bytes / size_of::<(usize, Value)>());
    }

    pub(crate) fn null(&mut self) {
        msgpack::pack_null(&mut self.out);
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        msgpack::pack_boolean(value, &mut self.out);
    }

    pub(crate) fn signed(&mut self, value: i64) {
        let _ = rmp::encode::write_sint(&mut self.out, value);
    }

    pub(crate) fn unsigned(&mut self, value: u64) {
        let _ = rmp::encode::write_uint(&mut self.out, value);
    }

    pub(crate) fn single(&mut self, value: f32) {
        msgpack::pack_single(value, &mut self.out);
    }

    pub(crate) fn float(&mut self, value: f64) {
        msgpack::pack_float(value, &mut self.out);
    }

    /// Text, which need not be UTF-8: the column that takes it looks.
    pub(crate) fn text(&mut self, text: &[u8]) {
        msgpack::pack_text(text, &mut self.out);
    }

    pub(crate) fn bytes_value(&mut self, bytes: &[u8]) {
        msgpack::pack_bytes(bytes, &mut self.out);
    }

    /// An instant: seconds since 1970, and up to a second more.
    pub(crate) fn instant(&mut self, seconds: i64, nanos: u32) {
        msgpack::pack_timestamp(seconds, nanos, &mut self.out);
    }

    /// The name of the value that is written next.
    #[inline]
    pub(crate) fn name(&mut self, name: &PackedName) {
        let begins = self.out.len();
        self.out.extend_from_slice(&name.packed);
        if self.depth == 1 {
            let text = Value::new(TEXT, begins + name.header, self.out.len());
            self.names.push((begins, text));
        }
    }

    /// The members of the outermost map, whose names were all written by [`name`](Packer::name). Saves
    /// the reader from parsing the map that has just been written.
    pub(crate) fn members(&self) -> impl Iterator<Item = Member> {
        let ends = self.names.iter().skip(1).map(|(begins, _)| *begins);
        let ends = ends.chain([self.out.len()]);
        self.names.iter().zip(ends).map(|((_, name), end)| {
            let value = Packed::value_within(&self.out, name.start() + name.len(), end);
            Member { key: Some(*name), value }
        })
    }

    /// How far it is.
    pub(crate) fn mark(&self) -> Mark {
        Mark { out: self.out.len(), names: self.names.len() }
    }

    /// Forgets what has been written since, which was whole.
    pub(crate) fn back_to(&mut self, mark: Mark) {
        self.out.truncate(mark.out);
        self.names.truncate(mark.names);
    }

    /// What is packed already.
    pub(crate) fn packed(&mut self, packed: &[u8]) {
        self.out.extend_from_slice(packed);
    }

    /// An array of that many values, which `values` writes.
    pub(crate) fn array<E: From<Misfit>>(
        &mut self,
        len: usize,
        values: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.deeper()?;
        msgpack::pack_array(len, &mut self.out);
        values(self)?;
        self.depth -= 1;
        Ok(())
    }

    /// An array whose length is known only once its values are written: `values` returns it.
    pub(crate) fn array_of_any_length<E: From<Misfit>>(
        &mut self,
        values: impl FnOnce(&mut Self) -> Result<usize, E>,
    ) -> Result<(), E> {
        self.of_any_length(msgpack::pack_array, values)
    }

    /// A map likewise.
    pub(crate) fn map_of_any_length<E: From<Misfit>>(
        &mut self,
        members: impl FnOnce(&mut Self) -> Result<usize, E>,
    ) -> Result<(), E> {
        self.of_any_length(msgpack::pack_map, members)
    }

    fn of_any_length<E: From<Misfit>>(
        &mut self,
        begin: impl FnOnce(usize, &mut Vec<u8>),
        content: impl FnOnce(&mut Self) -> Result<usize, E>,
    ) -> Result<(), E> {
        self.deeper()?;
        // The longest beginning, which is long enough for each.
        let start = self.out.len();
        begin(u32::MAX as usize, &mut self.out);
        let len = content(self)?;
        let len = u32::try_from(len).map_err(|_| self.too_large())?;
        if let Some(place) = self.out.get_mut(start + 1..start + 5) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        self.depth -= 1;
        Ok(())
    }

    /// A map of that many names and values, which `members` writes by turns.
    pub(crate) fn map<E: From<Misfit>>(
        &mut self,
        len: usize,
        members: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.deeper()?;
        msgpack::pack_map(len, &mut self.out);
        members(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), Misfit> {
        if self.depth >= DEEPEST {
            return Err("is nested more than 128 levels deep".into());
        }
        self.depth += 1;
        self.check()
    }

    /// Whether there is room for more. Between two arrays or maps no more is written than is read,
    /// but for lists of numbers, which ask at each.
    pub(crate) fn check(&self) -> Result<(), Misfit> {
        match self.out.len() <= self.most {
            true => Ok(()),
            false => Err(self.too_large()),
        }
    }

    #[cold]
    fn too_large(&self) -> Misfit {
        format!("is more than payload_max_bytes={} once it is decoded", self.most).into()
    }
}

/// A place in what is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    out: usize,
    names: usize,
}

/// A member's name, as it is written each time.
#[derive(Debug, Clone)]
pub(crate) struct PackedName {
    packed: Box<[u8]>,
    /// How many bytes of it come before the text.
    header: usize,
}

impl PackedName {
    pub(crate) fn new(name: &str) -> Self {
        let packed = packed_text(name);
        PackedName { header: packed.len() - name.len(), packed }
    }
}

/// A text that does not change, as it is written each time.
pub(crate) fn packed_text(text: &str) -> Box<[u8]> {
    let mut packed = Vec::new();
    msgpack::pack_text(text.as_bytes(), &mut packed);
    packed.into()
}

#[cfg(test)]
impl Packer {
    /// The members are those that one finds who takes the map apart.
    pub(crate) fn check_members(&self) {
        use crate::decode::value::Notation;

        let mut found = Vec::new();
        Packed::split_object(&self.out, |key, value| {
            found.push(Member { key: Some(key), value });
        })
        .unwrap();
        let members: Vec<Member> = self.members().collect();
        assert_eq!(format!("{members:?}"), format!("{found:?}"));
    }
}
