//! Rows into hashes, one each: where aggregates go.

use std::time::Duration;

use arrow_array::RecordBatch;

use super::encode::Column;
use super::frame::{at_row, column};
use super::outcome::{Ids, WriteFailure};
use super::request::WriteControl;
use super::round_trip::{RoundTripError, round_trip};
use crate::client::{Client, Session, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{Event, Nesting, Parser};
use crate::resp::{push_bulk, push_header};

/// How rows become hashes. Made by [`HashRequest::new`] and changed by its `with_` methods.
#[derive(Debug, Clone)]
pub struct HashRequest {
    key_column: String,
    key_prefix: Vec<u8>,
    fields: Option<Vec<String>>,
    ttl: Option<Duration>,
    if_exists: IfExists,
    batch_rows: usize,
    control: WriteControl,
}

/// What happens to a hash that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// The row takes its place, in one step.
    Replace,
    /// The row's fields are set, and those that are null in the row removed; others stay.
    Merge,
    /// It is left as it is, and the write fails.
    Fail,
}

impl HashRequest {
    /// A hash for each row, of the key in this column; every other column is a field.
    pub fn new(key_column: &str) -> Self {
        HashRequest {
            key_column: key_column.to_owned(),
            key_prefix: Vec::new(),
            fields: None,
            ttl: None,
            if_exists: IfExists::Replace,
            batch_rows: 1_000,
            control: WriteControl::default(),
        }
    }

    /// What each key begins with.
    pub fn with_key_prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Writes these columns, in this order, instead of all but the key's.
    pub fn with_fields(mut self, names: Option<Vec<String>>) -> Self {
        self.fields = names;
        self
    }

    /// How long the hashes live from now on (PEXPIRE); by default without end, and a hash that is
    /// merged keeps the time that it has.
    pub fn with_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }

    /// What happens to hashes that are there already.
    pub fn with_if_exists(mut self, if_exists: IfExists) -> Self {
        self.if_exists = if_exists;
        self
    }

    /// How many rows are sent together. 1,000 by default; at least one.
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows.max(1);
        self
    }

    /// Lets another task look at the write, and stop it.
    pub fn with_control(mut self, control: WriteControl) -> Self {
        self.control = control;
        self
    }
}

/// Writes a hash for each row (HSET, Redis 4.0), pipelined, and gives the number of rows.
///
/// A value is written as the text that a read of its type takes; a null is a field that the hash
/// lacks. Each row is written in one step: nobody sees a hash without its fields. After a lost
/// connection rows are written again, which changes nothing, but with [`IfExists::Fail`].
///
/// # Errors
///
/// Those of arguments and columns, and [`WrongType`](ErrorKind::WrongType) for a key that holds
/// something else, before anything is written. [`Write`](ErrorKind::Write) where a row was refused;
/// the failure names the first, and rows behind it may be in.
/// [`OutcomeUnknown`](ErrorKind::OutcomeUnknown) where the connection was lost with
/// [`IfExists::Fail`].
pub async fn write_hashes(
    client: &Client,
    batches: &[RecordBatch],
    request: &HashRequest,
) -> Result<usize, WriteFailure> {
    let nothing = |error| WriteFailure::before_the_first(error, 0);
    let mut hashes = Vec::with_capacity(batches.len());
    let mut total = 0;
    for batch in batches {
        hashes.push(Hashes::new(batch, request, total).map_err(nothing)?);
        total += batch.num_rows();
    }
    let mut writer = Writer { session: client.session(), request, rows_in: 0, total };
    for part in hashes.iter().flat_map(|hashes| hashes.parts(request.batch_rows)) {
        writer.check(&part).await.map_err(nothing)?;
    }
    for part in hashes.iter().flat_map(|hashes| hashes.parts(request.batch_rows)) {
        writer.write(part).await?;
    }
    Ok(total)
}

fn failure(
    error: Error,
    rows: usize,
    row: Option<usize>,
    unknown: std::ops::Range<usize>,
) -> WriteFailure {
    let written = Ids::with_capacity(0).count(rows);
    WriteFailure { error, written, row, unknown }
}

/// One batch's columns, ready to be written.
struct Hashes<'r> {
    key: Column,
    fields: Vec<(Vec<u8>, Column)>,
    rows: usize,
    first: usize,
    request: &'r HashRequest,
}

impl<'r> Hashes<'r> {
    fn new(batch: &RecordBatch, request: &'r HashRequest, first: usize) -> Result<Self> {
        let (field, array) = column(batch, &request.key_column)?;
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
            let (field, array) = column(batch, &name)?;
            let mut bulk = Vec::new();
            push_bulk(name.as_bytes(), &mut bulk);
            fields.push((bulk, Column::new(field, array)?));
        }
        Ok(Hashes { key, fields, rows: batch.num_rows(), first, request })
    }

    fn parts(&self, rows: usize) -> impl Iterator<Item = Part<'_, 'r>> {
        let starts = (0..self.rows).step_by(rows);
        starts.map(move |start| Part {
            hashes: self,
            rows: start..self.rows.min(start.saturating_add(rows)),
        })
    }

    fn key<'a>(&self, row: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let mut text = Vec::new();
        let key = self.key.text(row, &mut text);
        scratch.clear();
        scratch.extend_from_slice(&self.request.key_prefix);
        scratch.extend_from_slice(key);
        scratch
    }

    /// A row's commands; says how many replies come.
    fn push_row(&self, row: usize, out: &mut Vec<u8>) -> usize {
        let mut scratch = Vec::new();
        let mut text = Vec::new();
        let key = self.key(row, &mut scratch);
        let (set, null): (Vec<_>, Vec<_>) =
            self.fields.iter().partition(|(_, column)| !column.is_null(row));
        let pairs = |out: &mut Vec<u8>, text: &mut Vec<u8>| {
            for (name, column) in &set {
                out.extend_from_slice(name);
                push_bulk(column.text(row, text), out);
            }
        };
        let ttl = self.request.ttl.map(|ttl| ttl.as_millis().max(1).to_string());
        if self.request.if_exists == IfExists::Fail {
            push_header(b'*', 5 + 2 * set.len(), out);
            push_bulk(b"EVAL", out);
            push_bulk(SET_IF_MISSING.as_bytes(), out);
            push_bulk(b"1", out);
            push_bulk(key, out);
            push_bulk(ttl.unwrap_or_default().as_bytes(), out);
            pairs(out, &mut text);
            return 1;
        }
        let mut commands: Vec<Vec<u8>> = Vec::new();
        if self.request.if_exists == IfExists::Replace {
            commands.push(command(&[b"DEL", key]));
        } else if !null.is_empty() {
            let mut command = Vec::new();
            push_header(b'*', 2 + null.len(), &mut command);
            push_bulk(b"HDEL", &mut command);
            push_bulk(key, &mut command);
            null.iter().for_each(|(name, _)| command.extend_from_slice(name));
            commands.push(command);
        }
        if !set.is_empty() {
            let mut command = Vec::new();
            push_header(b'*', 2 + 2 * set.len(), &mut command);
            push_bulk(b"HSET", &mut command);
            push_bulk(key, &mut command);
            pairs(&mut command, &mut text);
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

/// Sets a hash that is not there, and says whether it was not.
const SET_IF_MISSING: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end \
    for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end \
    if ARGV[1] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end return 1";

fn command(arguments: &[&[u8]]) -> Vec<u8> {
    let mut command = Vec::new();
    push_header(b'*', arguments.len(), &mut command);
    arguments.iter().for_each(|word| push_bulk(word, &mut command));
    command
}

/// Rows that are sent together.
struct Part<'a, 'r> {
    hashes: &'a Hashes<'r>,
    rows: std::ops::Range<usize>,
}

struct Writer<'r> {
    session: Session,
    request: &'r HashRequest,
    rows_in: usize,
    total: usize,
}

impl Writer<'_> {
    /// Refuses keys that hold something else, or anything, as the request says.
    async fn check(&mut self, part: &Part<'_, '_>) -> Result<()> {
        let mut packed = Vec::new();
        let mut scratch = Vec::new();
        for row in part.rows.clone() {
            let key = part.hashes.key(row, &mut scratch);
            packed.extend_from_slice(&command(&[b"TYPE", key]));
        }
        let replies = loop {
            let mut replies = HashReplies::new(vec![1; part.rows.len()]);
            match round_trip(&mut self.session, &self.request.control, &packed, &mut replies).await
            {
                Ok(()) => break replies,
                Err(lost) => self.session.recover(lost.error).await?,
            }
        };
        for (row, reply) in part.rows.clone().zip(replies.rows) {
            let number = part.hashes.first + row;
            let kind = match &reply.error {
                // Whoever may not ask is told by the write.
                Some(_) => continue,
                None => String::from_utf8_lossy(&reply.text).into_owned(),
            };
            let key = String::from_utf8_lossy(part.hashes.key(row, &mut scratch)).into_owned();
            match (kind.as_str(), self.request.if_exists) {
                ("none", _) | ("hash", IfExists::Replace | IfExists::Merge) => {}
                ("hash", IfExists::Fail) => {
                    let message = "the hash exists already; nothing has been written";
                    return Err(at_row(number, message)
                        .into_kind(ErrorKind::Write)
                        .with_context("key", key));
                }
                _ => {
                    let message =
                        format!("the key holds a {kind}, not a hash; nothing has been written");
                    return Err(at_row(number, &message)
                        .into_kind(ErrorKind::WrongType)
                        .with_code("WRONGTYPE")
                        .with_context("key", key));
                }
            }
        }
        Ok(())
    }

    async fn write(&mut self, part: Part<'_, '_>) -> Result<(), WriteFailure> {
        let mut start = part.rows.start;
        while start < part.rows.end {
            let number = part.hashes.first + start;
            let control = &self.request.control;
            if control.is_stopped() {
                return Err(
                    self.failed(Error::new(ErrorKind::Write, "the write was stopped"), number)
                );
            }
            let mut packed = Vec::new();
            let counts = (start..part.rows.end).map(|row| part.hashes.push_row(row, &mut packed));
            let mut replies = HashReplies::new(counts.collect());
            if let Err(RoundTripError { error, sent }) =
                round_trip(&mut self.session, control, &packed, &mut replies).await
            {
                let unknown = number..part.hashes.first + part.rows.end;
                if self.request.if_exists == IfExists::Fail && sent > 0 {
                    let message = format!(
                        "answers for rows {} to {} were lost, and nobody knows whether those are in",
                        unknown.start,
                        unknown.end - 1
                    );
                    let error = error.reframed(ErrorKind::OutcomeUnknown, &message);
                    return Err(failure(error, self.rows_in, Some(number), unknown));
                }
                if let Err(error) = self.session.recover(error).await {
                    let is_first = self.rows_in == 0 && sent == 0;
                    return Err(match is_first {
                        true => failure(error, 0, None, 0..0),
                        false => self.failed(error, number),
                    });
                }
                continue;
            }
            let exists = self.request.if_exists == IfExists::Fail;
            let mut refused: Option<(usize, Error)> = None;
            for (row, reply) in (start..).zip(replies.rows) {
                let error = match reply.error {
                    None if exists && reply.text == b"0" => {
                        Some(Error::new(ErrorKind::Write, "the hash exists already"))
                    }
                    error => error,
                };
                match (error, &refused) {
                    (None, _) => {
                        self.rows_in += 1;
                        control.add_rows(1);
                    }
                    (Some(error), None) => refused = Some((row, error)),
                    (Some(_), Some(_)) => {}
                }
            }
            let Some((row, error)) = refused else {
                self.session.succeeded();
                return Ok(());
            };
            let transient = error.retryable() || error.code() == Some("OOM");
            let overtaken = self.rows_in > number + row - start;
            if !transient || overtaken {
                return Err(self.failed(error, part.hashes.first + row));
            }
            let recovered = self.session.recover(error.with_retryable(true)).await;
            recovered.map_err(|error| self.failed(error, part.hashes.first + row))?;
            start = row;
        }
        Ok(())
    }

    fn failed(&self, error: Error, row: usize) -> WriteFailure {
        let is_typed = matches!(error.kind(), ErrorKind::Authentication);
        let message =
            format!("row {row} was not written, {} of {} are in", self.rows_in, self.total);
        let error = match is_typed && self.rows_in == 0 {
            true => error,
            false => error.reframed(ErrorKind::Write, &message),
        };
        failure(error, self.rows_in, Some(row), 0..0)
    }
}

/// What came for a row: the first error of its replies, and the text of the last where it is simple.
#[derive(Default)]
struct RowReply {
    error: Option<Error>,
    text: Vec<u8>,
}

/// Takes so many replies for each row.
struct HashReplies {
    parser: Parser,
    nesting: Nesting,
    counts: Vec<usize>,
    /// How many replies of the current row have come.
    come: usize,
    rows: Vec<RowReply>,
    current: RowReply,
}

impl HashReplies {
    fn new(counts: Vec<usize>) -> Self {
        HashReplies {
            parser: Parser::default(),
            nesting: Nesting::reply(),
            rows: Vec::with_capacity(counts.len()),
            counts,
            come: 0,
            current: RowReply::default(),
        }
    }
}

impl Sink for HashReplies {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut rest = bytes;
        while !self.is_complete() {
            let Some(event) = self.parser.next(&mut rest)? else {
                break;
            };
            self.nesting.observe(&event)?;
            match event {
                Event::Error(line) => {
                    self.current.error.get_or_insert_with(|| Error::from_server(line));
                }
                Event::Scalar(text) => {
                    self.current.text.clear();
                    self.current.text.extend_from_slice(text);
                }
                _ => {}
            }
            if self.nesting.is_whole() {
                self.nesting = Nesting::reply();
                self.come += 1;
                if self.counts.get(self.rows.len()) == Some(&self.come) {
                    self.rows.push(std::mem::take(&mut self.current));
                    self.come = 0;
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn is_complete(&self) -> bool {
        self.rows.len() == self.counts.len()
    }
}
