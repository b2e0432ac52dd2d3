//! What one commit writes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use arrow_array::RecordBatch;

use super::keys::check_slot;
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
    /// After which entry it begins, and up to which it goes.
    range: Option<(EntryId, EntryId)>,
    acknowledged: Vec<EntryId>,
    /// How many entries the batch had, where somebody has said so.
    entries: Option<usize>,
    took: Option<Duration>,
    keys: Vec<Key>,
    index: HashMap<Vec<u8>, usize>,
    parts: Vec<Part>,
    arguments: usize,
    bytes: usize,
    max_bytes: usize,
    /// Keys have to be in the slot of this one.
    beside: Option<Vec<u8>>,
    /// For a field and its value, of which there may be ten thousands.
    scratch: Vec<u8>,
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

/// How much a commit had of everything, at some time.
struct Mark {
    keys: usize,
    parts: usize,
    /// Calls, width and bytes of the last part.
    last: Option<(usize, usize, usize)>,
    arguments: usize,
    bytes: usize,
}

impl Commit {
    /// Lua passes a command at most 8,000 arguments (LUAI_MAXCSTACK).
    const WIDTH: usize = 7_900;
    /// Servers before 7.0 take a command of no more arguments than a few above this.
    const ARGUMENTS: usize = 1_000_000;
    /// The size that a commit may have, unless it is told otherwise: it keeps a server busy for a
    /// fraction of a second.
    pub const MAX_BYTES: usize = 64 * 1024 * 1024;

    /// What came of the entries after `after` up to `to`: the lane has to be at `after`, and is at `to` then.
    /// Where no entry came they are the same; of a stream that was created again `to` is smaller.
    pub fn between(after: EntryId, to: EntryId) -> Self {
        Commit::new(Some((after, to)), Vec::new())
    }

    /// What came of these entries, which are pending to the lane's consumer, and are acknowledged in the
    /// same step.
    pub fn acknowledging(ids: Vec<EntryId>) -> Self {
        Commit::new(None, ids)
    }

    fn new(range: Option<(EntryId, EntryId)>, acknowledged: Vec<EntryId>) -> Self {
        Commit {
            range,
            arguments: acknowledged.len(),
            entries: range.is_none().then_some(acknowledged.len()),
            took: None,
            acknowledged,
            keys: Vec::new(),
            index: HashMap::new(),
            parts: Vec::new(),
            bytes: 0,
            max_bytes: Self::MAX_BYTES,
            beside: None,
            scratch: Vec::new(),
        }
    }

    /// Another bound of its size.
    pub fn with_max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// What the lane is to show of the batch to people: how many entries it had, and how long they took.
    pub fn with_batch(mut self, entries: usize, took: Duration) -> Self {
        self.show(entries, took);
        self
    }

    pub(super) fn show(&mut self, entries: usize, took: Duration) {
        (self.entries, self.took) = (Some(entries), Some(took));
    }

    /// Refuses keys that are not in the slot of this one, as a cluster would.
    pub(super) fn beside(mut self, key: &[u8]) -> Self {
        self.beside = Some(key.to_vec());
        self
    }

    /// The same within the bounds of another.
    pub(super) fn bounded_as(self, other: &Commit) -> Self {
        Commit { max_bytes: other.max_bytes, beside: other.beside.clone(), ..self }
    }

    /// Adds a batch's rows as entries of the request's stream or streams (XADD), with IDs from the server.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for rows that cannot be entries, or make the
    /// commit too large, and for a request of what a commit does not do: IDs of columns, a trim
    /// ([`Commit::trim`] does), idempotency of its own;
    /// [`Schema`](crate::ErrorKind::Schema) for columns that have no text. The commit is as before then.
    pub fn publish(&mut self, batch: &RecordBatch, request: &WriteRequest) -> Result<()> {
        let before = self.mark();
        let added = for_each_entry(batch, request, |stream, arguments, packed| {
            self.push(Kind::Stream, "XADD", stream, arguments, packed)
        });
        added.inspect_err(|_| self.reset(before))
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

    /// Adds some entries, or none of them.
    #[cfg(feature = "python")]
    pub(crate) fn add_all(
        &mut self,
        stream: &[u8],
        entries: &[Vec<(Vec<u8>, Vec<u8>)>],
    ) -> Result<()> {
        let before = self.mark();
        let added = entries.iter().try_for_each(|fields| {
            self.add(stream, fields.iter().map(|(name, value)| (&name[..], &value[..])))
        });
        added.inspect_err(|_| self.reset(before))
    }

    /// Whether an entry of that many fields and bytes can be one of a commit at all.
    pub(super) fn may_have(&self, fields: usize, bytes: usize) -> bool {
        2 * fields <= Self::WIDTH && bytes <= self.max_bytes
    }

    /// Trims a stream after what was added to it (XTRIM MAXLEN).
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the key is a hash of the same commit.
    pub fn trim(&mut self, stream: &[u8], max_len: u64, approximate: bool) -> Result<()> {
        let mut packed = Vec::new();
        // The server's greatest.
        let max_len = max_len.min(i64::MAX.unsigned_abs()).to_string();
        for argument in ["MAXLEN", if approximate { "~" } else { "=" }, &max_len] {
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
        let mut packed = std::mem::take(&mut self.scratch);
        packed.clear();
        push_bulk(field, &mut packed);
        push_bulk(value, &mut packed);
        let pushed = self.push(Kind::Hash, "HSET", hash, 2, &packed);
        self.scratch = packed;
        pushed
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

    /// After which entry it begins, and up to which it goes; `None` where it acknowledges.
    pub fn range(&self) -> Option<(EntryId, EntryId)> {
        self.range
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
        // With those of a part of its own, and of a key.
        let (bytes, arguments) = (self.bytes + packed.len(), self.arguments + width + 5);
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
                self.arguments += width;
            }
            Some(part)
                if part.command == command
                    && part.key == key
                    && kind == Kind::Stream
                    && part.width == width =>
            {
                part.calls += 1;
                part.packed.extend_from_slice(packed);
                self.arguments += width;
            }
            _ => {
                let packed = packed.to_vec();
                self.parts.push(Part { command, key, calls: 1, width, packed });
                self.arguments += width + 4;
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    fn mark(&self) -> Mark {
        let last = self.parts.last();
        Mark {
            keys: self.keys.len(),
            parts: self.parts.len(),
            last: last.map(|part| (part.calls, part.width, part.packed.len())),
            arguments: self.arguments,
            bytes: self.bytes,
        }
    }

    /// Forgets what was added since.
    fn reset(&mut self, mark: Mark) {
        for key in self.keys.drain(mark.keys..) {
            self.index.remove(&key.name);
        }
        self.parts.truncate(mark.parts);
        if let (Some(part), Some((calls, width, packed))) = (self.parts.last_mut(), mark.last) {
            (part.calls, part.width) = (calls, width);
            part.packed.truncate(packed);
        }
        (self.arguments, self.bytes) = (mark.arguments, mark.bytes);
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
                if let Some(beside) = &self.beside {
                    check_slot(beside, name)?;
                }
                self.keys.push(Key { name: name.to_vec(), kind, is_trimmed: false });
                self.index.insert(name.to_vec(), index);
                self.arguments += 1;
                Ok(index)
            }
        }
    }

    /// Refuses what is not in the slot of a stream, for a cluster.
    pub(super) fn check_slots(&self, stream: &[u8]) -> Result<()> {
        self.keys().try_for_each(|key| check_slot(stream, key))
    }

    /// The keys that are written.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
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
        let text =
            |number: Option<u128>| number.map(|number| number.to_string()).unwrap_or_default();
        arguments.push(text(self.entries.map(|entries| entries as u128)).as_bytes());
        arguments.push(text(self.took.map(|took| took.as_millis())).as_bytes());
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
