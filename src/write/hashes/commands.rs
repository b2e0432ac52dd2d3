//! A batch's rows as the commands that write their hashes.

use std::ops::Range;

use arrow_array::RecordBatch;

use super::request::{HashRequest, IfExists};
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{command, push_bulk, push_header};
use crate::write::encode::Column;
use crate::write::frame::{Columns, at_row, plain_name};
use crate::write::preflight::ALWAYS_TAKEN;

/// One batch's columns, ready to be written.
pub(super) struct Hashes<'r> {
    key: Column,
    fields: Vec<(Vec<u8>, Column)>,
    rows: usize,
    /// The number of its first row among all.
    pub(super) first: usize,
    request: &'r HashRequest,
}

impl<'r> Hashes<'r> {
    pub(super) fn new(batch: &RecordBatch, request: &'r HashRequest, first: usize) -> Result<Self> {
        let columns = Columns::of(batch);
        let (field, array) = columns.get(&request.key_column)?;
        let key = Column::new(field, array)?;
        if let Some(row) = (0..batch.num_rows()).find(|row| key.is_null(*row)) {
            return Err(at_row(first + row, "the key is null; nothing has been sent"));
        }
        let schema = batch.schema();
        let names = match &request.fields {
            Some(names) => names.clone(),
            None => {
                let names = schema.fields().iter().map(|field| field.name());
                names.filter(|name| **name != request.key_column).cloned().collect()
            }
        };
        if names.is_empty() {
            let message = "there is no column to write beside the key";
            return Err(Error::new(ErrorKind::Schema, message));
        }
        let mut fields = Vec::with_capacity(names.len());
        for name in names {
            let (field, array) = columns.get(&name)?;
            let mut bulk = Vec::new();
            push_bulk(name.as_bytes(), &mut bulk);
            fields.push((bulk, Column::new(field, array)?));
        }
        Ok(Hashes { key, fields, rows: batch.num_rows(), first, request })
    }

    pub(super) fn parts(&self, rows: usize) -> impl Iterator<Item = Part<'_, 'r>> {
        let starts = (0..self.rows).step_by(rows);
        starts.map(move |start| Part {
            hashes: self,
            rows: (start..self.rows.min(start.saturating_add(rows))).collect(),
        })
    }

    pub(super) fn key<'a>(&self, row: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let mut text = Vec::new();
        let key = self.key.text(row, &mut text);
        scratch.clear();
        scratch.extend_from_slice(&self.request.key_prefix);
        scratch.extend_from_slice(key);
        scratch
    }

    /// The longest text, where some server may refuse that: its length, row and field.
    pub(super) fn longest(&self) -> Option<(usize, usize, String)> {
        let prefix = self.request.key_prefix.len();
        let keys = self.key.longest(self.rows, ALWAYS_TAKEN.saturating_sub(prefix));
        let keys = keys.map(|(row, len)| (len + prefix, row, self.request.key_column.clone()));
        let values = self.fields.iter().filter_map(|(name, column)| {
            let (row, len) = column.longest(self.rows, ALWAYS_TAKEN)?;
            Some((len, row, plain_name(name)))
        });
        let longest = keys.into_iter().chain(values).max_by_key(|(len, ..)| *len);
        longest.map(|(len, row, name)| (len, self.first + row, name))
    }

    /// Whether a row takes several commands, which are sent as a transaction.
    pub(super) fn needs_transactions(&self) -> bool {
        let has_nulls = || self.fields.iter().any(|(_, column)| column.nulls().is_some());
        match self.request.if_exists {
            IfExists::Replace => true,
            IfExists::Merge => self.request.ttl.is_some() || has_nulls(),
            IfExists::Fail => false,
        }
    }

    /// Appends a row's commands; says how many replies come.
    pub(super) fn push_row(&self, row: usize, out: &mut Vec<u8>) -> usize {
        let mut key = Vec::new();
        let key = self.key(row, &mut key);
        let ttl = self.request.ttl.map(|ttl| ttl.as_millis().max(1).to_string());
        let (set, null): (Vec<_>, Vec<_>) =
            self.fields.iter().partition(|(_, column)| !column.is_null(row));
        let mut pairs = Vec::new();
        let mut scratch = Vec::new();
        for (name, column) in &set {
            pairs.extend_from_slice(name);
            push_bulk(column.text(row, &mut scratch), &mut pairs);
        }
        if self.request.if_exists == IfExists::Fail {
            push_header(b'*', 5 + 2 * set.len(), out);
            push_bulk(b"EVAL", out);
            push_bulk(SET_IF_MISSING.as_bytes(), out);
            push_bulk(b"1", out);
            push_bulk(key, out);
            push_bulk(ttl.unwrap_or_default().as_bytes(), out);
            out.extend_from_slice(&pairs);
            return 1;
        }
        let mut commands: Vec<Vec<u8>> = Vec::new();
        if self.request.if_exists == IfExists::Replace {
            commands.push(command(&[b"DEL", key]));
        }
        if !set.is_empty() {
            let mut command = Vec::new();
            push_header(b'*', 2 + 2 * set.len(), &mut command);
            push_bulk(b"HSET", &mut command);
            push_bulk(key, &mut command);
            command.extend_from_slice(&pairs);
            commands.push(command);
        }
        // After HSET: a hash whose last field goes is gone, and with it the time that it has.
        if self.request.if_exists == IfExists::Merge && !null.is_empty() {
            let mut command = Vec::new();
            push_header(b'*', 2 + null.len(), &mut command);
            push_bulk(b"HDEL", &mut command);
            push_bulk(key, &mut command);
            null.iter().for_each(|(name, _)| command.extend_from_slice(name));
            commands.push(command);
        }
        if let Some(ttl) = ttl {
            commands.push(command(&[b"PEXPIRE", key, ttl.as_bytes()]));
        }
        match commands.as_slice() {
            [one] => {
                out.extend_from_slice(one);
                1
            }
            several => {
                out.extend_from_slice(&command(&[b"MULTI"]));
                several.iter().for_each(|command| out.extend_from_slice(command));
                out.extend_from_slice(&command(&[b"EXEC"]));
                several.len() + 2
            }
        }
    }
}

/// Sets a hash that is not there, and says whether it was not. Where it cannot be given its time,
/// it is not there afterwards either.
const SET_IF_MISSING: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end \
    for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end \
    if ARGV[1] ~= '' then local set = redis.pcall('PEXPIRE', KEYS[1], ARGV[1]) \
    if type(set) == 'table' and set.err then redis.call('DEL', KEYS[1]) return set end end return 1";

/// Rows that are sent together.
pub(super) struct Part<'a, 'r> {
    pub(super) hashes: &'a Hashes<'r>,
    /// Rows of the batch, in order. Elsewhere they are counted from the first of these.
    rows: Vec<usize>,
}

impl<'a, 'r> Part<'a, 'r> {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Some of its rows.
    pub(super) fn part(&self, rows: &[usize]) -> Part<'a, 'r> {
        let rows = rows.iter().filter_map(|row| self.rows.get(*row).copied()).collect();
        Part { hashes: self.hashes, rows }
    }

    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        let key = |row: &usize| self.hashes.key(*row, &mut Vec::new()).to_vec();
        self.rows.iter().map(key).collect()
    }

    /// The number of a row among all.
    pub(super) fn number(&self, row: usize) -> usize {
        // After the last one comes the next.
        let next = self.rows.last().map_or(0, |last| last + 1);
        self.hashes.first + self.rows.get(row).copied().unwrap_or(next)
    }

    /// From the first to the last of these rows.
    pub(super) fn numbers(&self, rows: Range<usize>) -> Range<usize> {
        match rows.is_empty() {
            true => 0..0,
            false => self.number(rows.start)..self.number(rows.end - 1) + 1,
        }
    }

    /// The commands of the rows from this one on.
    pub(super) fn commands(&self, start: usize) -> PartCommands {
        let mut commands =
            PartCommands { packed: Vec::new(), counts: Vec::new(), ends: Vec::new() };
        for row in self.rows.iter().skip(start) {
            commands.counts.push(self.hashes.push_row(*row, &mut commands.packed));
            commands.ends.push(commands.packed.len());
        }
        commands
    }
}

/// The commands of some rows.
pub(super) struct PartCommands {
    pub(super) packed: Vec<u8>,
    /// How many replies come for each row.
    pub(super) counts: Vec<usize>,
    /// Where each row's commands end.
    ends: Vec<usize>,
}

impl PartCommands {
    /// How many rows have been sent as a whole with this many bytes. Of the next one nothing is
    /// executed: a command that lacks its end is none, and without EXEC a transaction is nothing.
    pub(super) fn rows_sent(&self, bytes: usize) -> usize {
        self.ends.partition_point(|end| *end <= bytes)
    }
}
