//! What one commit writes.

use std::collections::{HashMap, HashSet};

use arrow_array::RecordBatch;

use super::script::Arguments;
use crate::entry_id::EntryId;
use crate::error::{Error, Result, shorten};
use crate::resp::push_bulk;
use crate::write::{WriteRequest, for_each_entry};

/// What one commit writes: entries for other streams, fields of hashes (a processor's state and tables),
/// and what it has processed.
///
/// Everything is in the slot of the input stream. A commit keeps other clients waiting while it is
/// written, so its size is bounded.
#[derive(Debug, Clone)]
pub struct Commit {
    to: Option<EntryId>,
    acknowledged: Vec<EntryId>,
    keys: Vec<Key>,
    index: HashMap<Vec<u8>, usize>,
    parts: Vec<Part>,
    arguments: usize,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug, Clone)]
struct Key {
    name: Vec<u8>,
    kind: Kind,
    is_trimmed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stream,
    Hash,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Stream => "stream",
            Kind::Hash => "hash",
        }
    }
}

/// Calls of one command about one key, each with as many arguments.
#[derive(Debug, Clone)]
struct Part {
    command: &'static str,
    key: usize,
    calls: usize,
    width: usize,
    packed: Vec<u8>,
}

impl Commit {
    /// Lua passes a command at most 8,000 arguments (LUAI_MAXCSTACK).
    const WIDTH: usize = 7_900;
    /// Servers before 7.0 take a command of no more arguments than a few above this.
    const ARGUMENTS: usize = 1_000_000;
    /// The size that a commit may have, unless it is told otherwise: it keeps a server busy for a
    /// fraction of a second.
    pub const MAX_BYTES: usize = 64 * 1024 * 1024;

    /// What came of the entries after the lane's position up to this one.
    pub fn up_to(to: EntryId) -> Self {
        Commit::new(Some(to), Vec::new())
    }

    /// What came of these entries, which are pending to the lane's consumer, and are acknowledged in the
    /// same step.
    pub fn acknowledging(ids: Vec<EntryId>) -> Self {
        Commit::new(None, ids)
    }

    fn new(to: Option<EntryId>, acknowledged: Vec<EntryId>) -> Self {
        Commit {
            to,
            arguments: acknowledged.len(),
            acknowledged,
            keys: Vec::new(),
            index: HashMap::new(),
            parts: Vec::new(),
            bytes: 0,
            max_bytes: Self::MAX_BYTES,
        }
    }

    /// Another bound of its size.
    pub fn with_max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Adds a batch's rows as entries of the request's stream or streams (XADD), with IDs from the server.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for rows that cannot be entries, or make the
    /// commit too large; [`Schema`](crate::ErrorKind::Schema) for columns that have no text.
    pub fn publish(&mut self, batch: &RecordBatch, request: &WriteRequest) -> Result<()> {
        for_each_entry(batch, request, |stream, arguments, packed| {
            self.push(Kind::Stream, "XADD", stream, arguments, packed)
        })
    }

    /// Adds one entry to a stream (XADD), with an ID from the server.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) without fields, or where the commit gets too
    /// large.
    pub fn add<'a>(
        &mut self,
        stream: &[u8],
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<()> {
        let (mut arguments, mut packed) = (0, Vec::new());
        for (name, value) in fields {
            push_bulk(name, &mut packed);
            push_bulk(value, &mut packed);
            arguments += 2;
        }
        match arguments {
            0 => Err(Error::invalid("no field has a value, and an entry needs one")),
            _ => self.push(Kind::Stream, "XADD", stream, arguments, &packed),
        }
    }

    /// Trims a stream after what was added to it (XTRIM MAXLEN).
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the key is a hash of the same commit.
    pub fn trim(&mut self, stream: &[u8], max_len: u64, approximate: bool) -> Result<()> {
        let mut packed = Vec::new();
        for argument in ["MAXLEN", if approximate { "~" } else { "=" }, &max_len.to_string()] {
            push_bulk(argument.as_bytes(), &mut packed);
        }
        self.push(Kind::Stream, "XTRIM", stream, 3, &packed)?;
        if let Some(key) = self.index.get(stream).and_then(|index| self.keys.get_mut(*index)) {
            key.is_trimmed = true;
        }
        Ok(())
    }

    /// Sets a field of a hash (HSET), such as that of [a table](crate::table_key).
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the commit gets too large.
    pub fn set(&mut self, hash: &[u8], field: &[u8], value: &[u8]) -> Result<()> {
        let mut packed = Vec::with_capacity(field.len() + value.len() + 32);
        push_bulk(field, &mut packed);
        push_bulk(value, &mut packed);
        self.push(Kind::Hash, "HSET", hash, 2, &packed)
    }

    /// Removes a field of a hash (HDEL).
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the commit gets too large.
    pub fn unset(&mut self, hash: &[u8], field: &[u8]) -> Result<()> {
        let mut packed = Vec::with_capacity(field.len() + 16);
        push_bulk(field, &mut packed);
        self.push(Kind::Hash, "HDEL", hash, 1, &packed)
    }

    /// Where the position is after it; `None` where it acknowledges.
    pub fn to(&self) -> Option<EntryId> {
        self.to
    }

    /// The size of what it writes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(
        &mut self,
        kind: Kind,
        command: &'static str,
        name: &[u8],
        width: usize,
        packed: &[u8],
    ) -> Result<()> {
        if width > Self::WIDTH {
            return Err(Error::invalid(format!(
                "an entry of a commit has at most {} fields, and this one has {}; put some of them \
                 into one as JSON",
                Self::WIDTH / 2,
                width / 2
            )));
        }
        let (bytes, arguments) = (self.bytes + packed.len(), self.arguments + width);
        if bytes > self.max_bytes || arguments > Self::ARGUMENTS {
            return Err(Error::invalid(format!(
                "a commit writes at most {} bytes in {} arguments, since the server does nothing else \
                 meanwhile, and this one has more; process fewer entries at a time, by a smaller \
                 batch_size",
                self.max_bytes,
                Self::ARGUMENTS
            )));
        }
        let key = self.key(name, kind)?;
        match self.parts.last_mut() {
            Some(part)
                if part.command == command
                    && part.key == key
                    && kind == Kind::Hash
                    && part.width + width <= Self::WIDTH =>
            {
                part.width += width;
                part.packed.extend_from_slice(packed);
                self.arguments = arguments;
            }
            Some(part)
                if part.command == command
                    && part.key == key
                    && kind == Kind::Stream
                    && part.width == width =>
            {
                part.calls += 1;
                part.packed.extend_from_slice(packed);
                self.arguments = arguments;
            }
            _ => {
                let packed = packed.to_vec();
                self.parts.push(Part { command, key, calls: 1, width, packed });
                self.arguments = arguments + 4;
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    fn key(&mut self, name: &[u8], kind: Kind) -> Result<usize> {
        let known = self.index.get(name).copied();
        let index = known.unwrap_or(self.keys.len());
        match known.and_then(|index| self.keys.get(index)) {
            Some(key) if key.kind != kind => Err(Error::invalid(format!(
                "one commit cannot write to {} as a {} and as a {}",
                shorten(name),
                key.kind.name(),
                kind.name()
            ))),
            Some(_) => Ok(index),
            None => {
                self.keys.push(Key { name: name.to_vec(), kind, is_trimmed: false });
                self.index.insert(name.to_vec(), index);
                Ok(index)
            }
        }
    }

    /// The keys that are written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| key.name.as_slice())
    }

    /// What a key of it is to be, for a message.
    pub(super) fn kind_of(&self, index: usize) -> Option<(&[u8], &'static str)> {
        self.keys.get(index).map(|key| (key.name.as_slice(), key.kind.name()))
    }

    /// The script's arguments after those of the request. Whether the user may write to a key is looked
    /// at once: `checked` are those where it was.
    pub(super) fn arguments(
        &self,
        group: Option<(&[u8], &[u8])>,
        checked: &HashSet<Vec<u8>>,
    ) -> Arguments {
        /// The number of the first key that a commit writes to, from 1.
        const FIRST_KEY: usize = 3;
        let mut arguments = Arguments::default();
        arguments.packed.reserve(self.bytes + 32 * (self.parts.len() + self.acknowledged.len()));
        let (group, consumer) = group.unwrap_or_default();
        let letters: Vec<u8> = self
            .keys
            .iter()
            .map(|key| match (key.kind, checked.contains(&key.name)) {
                (Kind::Stream, false) if key.is_trimmed => b'T',
                (Kind::Stream, true) if key.is_trimmed => b't',
                (Kind::Stream, false) => b'X',
                (Kind::Stream, true) => b'x',
                (Kind::Hash, false) => b'H',
                (Kind::Hash, true) => b'h',
            })
            .collect();
        arguments.push(group);
        arguments.push(consumer);
        arguments.push(self.acknowledged.len().to_string().as_bytes());
        arguments.push(&letters);
        for id in &self.acknowledged {
            arguments.push(id.write(&mut [0; EntryId::MAX_LEN]));
        }
        for Part { command, key, calls, width, packed } in &self.parts {
            arguments.push(command.as_bytes());
            for number in [key + FIRST_KEY, *calls, *width] {
                arguments.push(number.to_string().as_bytes());
            }
            arguments.append(&Arguments { number: calls * width, packed: Vec::new() });
            arguments.packed.extend_from_slice(packed);
        }
        arguments
    }
}
