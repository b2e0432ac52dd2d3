//! Rows in flight: sent, or about to be, and not settled yet.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::outcome::Ids;
use super::request::WriteControl;
use super::rows::{Chunk, Row, RowState};
use crate::client::Sink;
use crate::entry_id::EntryId;
use crate::error::{Error, Result, shorten};
use crate::resp::{Event, Parser};

/// Rows are counted from the first of the write, without those that were left out; bytes from the
/// first of its commands.
pub(super) struct InFlight {
    chunks: VecDeque<Sent>,
    rows: VecDeque<Row>,
    /// The index of the first of `rows`, and where its command begins.
    first: usize,
    first_byte: usize,
    /// Rows before this one have an answer.
    answered: usize,
    /// Bytes before this one were sent on this connection.
    sent: usize,
    /// Rows before this one were sent, on this connection or one before.
    reached: usize,
    /// The same, on a connection before this one.
    reached_before: usize,
    /// The end of all that is here.
    end: usize,
    /// How many answers said that a row is in, or needs not be.
    accepted: usize,
    refused: Option<Refusal>,
    ids: Ids,
    control: WriteControl,
    parser: Parser,
    /// A reply that came in pieces.
    partial: Vec<u8>,
}

/// The commands of some rows, and where they begin.
struct Sent {
    start: usize,
    /// Shared with the exchange that sends them, which may be dropped at any time.
    bytes: Arc<Vec<u8>>,
    since: Option<Instant>,
}

/// The first row that the server refused.
pub(super) struct Refusal {
    pub(super) row: usize,
    pub(super) error: Error,
    /// A row behind it is in, so that it cannot come in its place any more.
    pub(super) overtaken: bool,
}

impl InFlight {
    pub(super) fn new(total: usize, control: WriteControl) -> Self {
        InFlight {
            chunks: VecDeque::new(),
            rows: VecDeque::new(),
            first: 0,
            first_byte: 0,
            answered: 0,
            sent: 0,
            reached: 0,
            reached_before: 0,
            end: 0,
            accepted: 0,
            refused: None,
            ids: Ids::with_capacity(total),
            control,
            parser: Parser::default(),
            partial: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, mut chunk: Chunk) {
        let start = self.end;
        for row in &mut chunk.rows {
            row.end += start;
        }
        self.end += chunk.bytes.len();
        self.rows.extend(chunk.rows);
        self.chunks.push_back(Sent { start, bytes: Arc::new(chunk.bytes), since: None });
    }

    /// Rows that are here without an answer.
    pub(super) fn waiting(&self) -> usize {
        self.first + self.rows.len() - self.answered
    }

    /// Bytes that are here, answered or not.
    pub(super) fn bytes(&self) -> usize {
        self.end - self.first_byte
    }

    pub(super) fn unsent(&self) -> usize {
        self.end - self.sent
    }

    /// Rows whose commands were sent as a whole and not answered.
    pub(super) fn outstanding(&self) -> Range<usize> {
        let sent = self.first + self.rows.partition_point(|row| row.end <= self.sent);
        self.answered..sent.max(self.answered)
    }

    /// Where the command ends of which a part was sent.
    fn end_of_command(&self) -> usize {
        let row = self.rows.partition_point(|row| row.end < self.sent);
        let before = match row.checked_sub(1) {
            Some(before) => self.rows.get(before).map_or(self.first_byte, |row| row.end),
            None => self.first_byte,
        };
        match self.rows.get(row) {
            Some(row) if self.sent > before => row.end,
            _ => self.sent,
        }
    }

    /// Sends on: bytes up to the end, or, when there are to be no more rows, to the end of the
    /// command that was begun; and takes answers.
    pub(super) async fn exchange(
        &mut self,
        connection: &mut crate::client::Connection,
        closing: bool,
    ) -> Result<()> {
        let limit = if closing { self.end_of_command() } else { self.end };
        let mut sent = 0;
        let index =
            self.chunks.partition_point(|chunk| chunk.start + chunk.bytes.len() <= self.sent);
        let chunk = self.chunks.get_mut(index).map(|chunk| {
            chunk.since.get_or_insert_with(Instant::now);
            (chunk.start, Arc::clone(&chunk.bytes))
        });
        let packed = match &chunk {
            Some((start, bytes)) => {
                let to = (limit - start).min(bytes.len());
                bytes.get(self.sent - start..to).unwrap_or_default()
            }
            None => &[],
        };
        let received = connection.exchange(packed, &mut sent, &mut XaddReplies(self)).await;
        self.sent += sent;
        self.reached = self.reached.max(self.outstanding().end);
        received?;
        self.settle();
        Ok(())
    }

    fn answer(&mut self, answer: RowState, error: impl FnOnce() -> Option<Error>) -> Result<()> {
        let index = self.answered - self.first;
        let Some(row) = self.rows.get_mut(index) else {
            return Err(Error::protocol("more replies came than commands were sent"));
        };
        row.state = answer;
        match (answer, &mut self.refused) {
            (RowState::Refused, None) => {
                if let Some(error) = error() {
                    let row = self.answered;
                    self.refused = Some(Refusal { row, error, overtaken: false });
                }
            }
            (RowState::Refused | RowState::Unanswered, _) => {}
            (RowState::Added(_) | RowState::NotAdded, refused) => {
                self.control.add_rows(u64::from(answer != RowState::NotAdded));
                self.accepted += 1;
                if let Some(refused) = refused {
                    refused.overtaken = true;
                }
            }
        }
        self.answered += 1;
        Ok(())
    }

    fn answer_with_id(&mut self, text: &[u8]) -> Result<()> {
        let id = EntryId::from_bytes(text).ok_or_else(|| {
            Error::protocol(format_args!("{} came for XADD, and is no entry ID", shorten(text)))
        })?;
        self.answer(RowState::Added(id), || None)
    }

    /// Drops the rows whose answers cannot change any more.
    fn settle(&mut self) {
        let known = self.refused.as_ref().map_or(self.answered, |refused| refused.row);
        while self.first < known
            && let Some(row) = self.rows.pop_front()
        {
            if let RowState::Added(id) = row.state {
                self.ids.push(row.number, id);
            }
            self.first += 1;
            self.first_byte = row.end;
        }
        while self
            .chunks
            .front()
            .is_some_and(|chunk| chunk.start + chunk.bytes.len() <= self.first_byte.min(self.sent))
        {
            self.chunks.pop_front();
        }
    }

    /// Grows with every row that the server takes.
    pub(super) fn accepted(&self) -> usize {
        self.accepted
    }

    pub(super) fn refused(&self) -> Option<&Refusal> {
        self.refused.as_ref()
    }

    pub(super) fn take_refused(&mut self) -> Option<Refusal> {
        self.refused.take()
    }

    /// All from this row on is to be sent again, on another connection.
    pub(super) fn rewind(&mut self, row: usize) {
        self.refused = None;
        self.reached_before = self.reached;
        self.answered = row;
        let index = row.saturating_sub(self.first);
        for row in self.rows.iter_mut().skip(index) {
            row.state = RowState::Unanswered;
        }
        self.sent = match index.checked_sub(1) {
            Some(before) => self.rows.get(before).map_or(self.first_byte, |row| row.end),
            None => self.first_byte,
        };
        self.parser = Parser::default();
        self.partial.clear();
        self.settle();
    }

    /// Rows without an answer are sent again, on another connection.
    pub(super) fn reconnect(&mut self) {
        self.rewind(self.answered);
    }

    /// Whether no command was sent in part only.
    pub(super) fn is_between_commands(&self) -> bool {
        self.end_of_command() == self.sent
    }

    /// Rows before this one were sent on a connection before this one.
    pub(super) fn sent_before(&self) -> usize {
        self.reached_before
    }

    /// Rows before this one were sent at some time.
    pub(super) fn reached(&self) -> usize {
        self.reached
    }

    pub(super) fn rows_mut(&mut self, range: Range<usize>) -> impl Iterator<Item = &mut Row> {
        let skipped = range.start.saturating_sub(self.first);
        self.rows.iter_mut().skip(skipped).take(range.len())
    }

    pub(super) fn rows(&self, range: Range<usize>) -> impl Iterator<Item = &Row> {
        let skipped = range.start.saturating_sub(self.first);
        self.rows.iter().skip(skipped).take(range.len())
    }

    /// Since when the oldest row without an answer is in flight.
    pub(super) fn since(&self) -> Option<Instant> {
        let chunk = self.chunks.iter().find(|chunk| {
            let end = chunk.start + chunk.bytes.len();
            self.rows.get(self.answered - self.first).is_some_and(|row| row.end <= end)
        });
        chunk.and_then(|chunk| chunk.since)
    }

    /// The number of a row among all of the write's.
    pub(super) fn number(&self, row: usize) -> Option<usize> {
        self.rows.get(row.checked_sub(self.first)?).map(|row| row.number)
    }

    /// How many rows are in.
    pub(super) fn rows_in(&self) -> usize {
        let here = self.rows.iter().filter(|row| matches!(row.state, RowState::Added(_)));
        self.ids.rows() + here.count()
    }

    /// The IDs, as far as they are known.
    pub(super) fn into_ids(mut self) -> Ids {
        for row in self.rows {
            if let RowState::Added(id) = row.state {
                self.ids.push(row.number, id);
            }
        }
        self.ids
    }
}

/// Takes the replies to XADD.
struct XaddReplies<'a>(&'a mut InFlight);

impl Sink for XaddReplies<'_> {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let rows = &mut *self.0;
        let mut rest = bytes;
        let mut parser = std::mem::take(&mut rows.parser);
        loop {
            if let Some(id) = parser.next_string(&mut rest) {
                rows.answer_with_id(id)?;
                continue;
            }
            match parser.next(&mut rest)? {
                None => break,
                Some(Event::Bytes { part, done }) => {
                    rows.partial.extend_from_slice(part);
                    if rows.partial.len() > EntryId::MAX_LEN {
                        return Err(Error::protocol("a long text came for XADD"));
                    }
                    if done {
                        let id = std::mem::take(&mut rows.partial);
                        rows.answer_with_id(&id)?;
                    }
                }
                Some(Event::Nil) => rows.answer(RowState::NotAdded, || None)?,
                Some(Event::Error(line)) => {
                    rows.answer(RowState::Refused, || Some(Error::from_server(line)))?;
                }
                Some(other) => {
                    return Err(Error::protocol(format_args!("{other:?} came for XADD")));
                }
            }
        }
        rows.parser = parser;
        Ok(bytes.len())
    }

    fn is_complete(&self) -> bool {
        self.0.outstanding().is_empty()
    }
}
