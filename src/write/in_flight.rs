//! Rows in flight: sent, or about to be, and not settled yet.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

pub(super) use self::found::Found;
use super::control::WriteControl;
use super::ends::Ends;
use super::outcome::Ids;
use super::rows::{Chunk, Row, RowState};
use crate::client::Sink;
use crate::entry_id::EntryId;
use crate::error::{Error, Result, shorten};
use crate::resp::{SmallEvent, SmallReplies};

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
    /// Rows before this one were sent, on this connection or on one that was lost.
    reached: usize,
    /// The same, on a connection that was lost.
    reached_before: usize,
    /// The end of all that is here.
    end: usize,
    /// How many answers said that a row is in, or needs not be.
    accepted: usize,
    refused: Option<Refusal>,
    ids: Ids,
    /// How far the streams have come.
    pub(super) ends: Ends,
    control: WriteControl,
    replies: SmallReplies,
}

/// The commands of some rows, and where they begin.
struct Sent {
    start: usize,
    /// Shared with the exchange that sends them, which may be dropped at any time.
    bytes: Arc<Vec<u8>>,
    since: Option<Instant>,
}

/// Rows that may be in by a connection that was lost, though no answer says so.
#[derive(Debug, Clone)]
pub(super) struct SentBefore {
    /// From the first of them to the last, by their numbers.
    pub(super) rows: Range<usize>,
    since: Option<Instant>,
}

/// The first row that the server refused.
pub(super) struct Refusal {
    pub(super) row: usize,
    pub(super) error: Error,
    /// A row after it is in, so that it cannot come in its place any more.
    pub(super) overtaken: bool,
}

impl InFlight {
    /// Of streams that have come to these ends.
    pub(super) fn new(total: usize, ends: Ends, control: WriteControl) -> Self {
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
            ends,
            control,
            replies: SmallReplies::default(),
        }
    }

    /// Its rows are a part of those that are written.
    pub(super) fn of_part(mut self) -> Self {
        self.ids = Ids::of_part();
        self
    }

    /// Takes rows of which some were sent before, by another pipeline.
    pub(super) fn hold(&mut self, chunk: Chunk, before: &SentBefore) {
        self.push_since(chunk, before.since);
        let sent = self.rows.partition_point(|row| row.number < before.rows.end);
        self.reached_before = self.first + sent;
        self.reached = self.reached_before;
    }

    /// What another pipeline has to know of the rows that it is to send again.
    pub(super) fn sent_before(&self) -> Option<SentBefore> {
        let rows = self.numbers(self.uncertain());
        (!rows.is_empty()).then(|| SentBefore { rows, since: self.since() })
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        self.push_since(chunk, None);
    }

    fn push_since(&mut self, mut chunk: Chunk, since: Option<Instant>) {
        let start = self.end;
        for row in &mut chunk.rows {
            row.end += start;
        }
        self.end += chunk.bytes.len();
        self.rows.extend(chunk.rows);
        self.chunks.push_back(Sent { start, bytes: Arc::new(chunk.bytes), since });
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

    /// Rows that may be in although no answer says so: those that were sent, on this connection or
    /// on one that was lost. That a row is refused now says nothing of a connection that was lost.
    pub(super) fn uncertain(&self) -> Range<usize> {
        let refused = self.refused_again();
        if refused.is_empty() {
            return self.answered..self.reached.max(self.answered);
        }
        let is_answered = self.reached <= self.answered;
        refused.start..if is_answered { refused.end } else { self.reached }
    }

    /// From the first to the last of the rows that the server has refused and that were sent before,
    /// on a connection that was lost.
    pub(super) fn refused_again(&self) -> Range<usize> {
        let sent_before = self.first..self.reached_before.max(self.first);
        let rows = self.rows(sent_before.clone()).zip(sent_before);
        let refused = rows.filter(|(row, _)| row.state == RowState::Refused).map(|(_, row)| row);
        let range = refused.fold(None, |range: Option<Range<usize>>, row| {
            Some(range.map_or(row, |range| range.start)..row + 1)
        });
        range.unwrap_or(self.answered..self.answered)
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
        self.note_sent(sent);
        received?;
        self.settle();
        Ok(())
    }

    fn note_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        self.reached = self.reached.max(self.outstanding().end);
    }

    fn answer(&mut self, answer: RowState, error: impl FnOnce() -> Option<Error>) -> Result<()> {
        let index = self.answered - self.first;
        let Some(row) = self.rows.get_mut(index) else {
            return Err(Error::protocol("more replies came than commands were sent"));
        };
        row.state = answer;
        if let RowState::Added(id) = answer {
            self.ends.acknowledged(row.key, id);
        }
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

    /// The server has refused this row and all after it, or would: they are to be sent again.
    pub(super) fn resend_refused(&mut self, row: usize) {
        // What was sent on this connection has been answered.
        self.reached = self.reached_before.max(row);
        self.rewind(row);
    }

    /// The connection was lost: all from this row on is to be sent again, on another. Until it is
    /// answered there, it may be in.
    pub(super) fn resend(&mut self, row: usize) {
        self.reached_before = self.reached;
        self.rewind(row);
    }

    /// The server hung up after its last answer, and did nothing of what it was sent after that.
    pub(super) fn forget_unanswered(&mut self) {
        self.sent = self.end_of_row(self.answered);
        self.reached = self.reached_before.max(self.answered);
    }

    /// Where the commands of the rows before this one end.
    fn end_of_row(&self, row: usize) -> usize {
        match row.saturating_sub(self.first).checked_sub(1) {
            Some(before) => self.rows.get(before).map_or(self.first_byte, |row| row.end),
            None => self.first_byte,
        }
    }

    fn rewind(&mut self, row: usize) {
        self.refused = None;
        self.answered = row;
        let index = row.saturating_sub(self.first);
        for row in self.rows.iter_mut().skip(index) {
            row.state = RowState::Unanswered;
        }
        self.sent = self.end_of_row(row);
        self.replies = SmallReplies::default();
        self.settle();
    }

    /// Whether no command was sent in part only.
    pub(super) fn is_between_commands(&self) -> bool {
        self.end_of_command() == self.sent
    }

    pub(super) fn rows_mut(&mut self, range: Range<usize>) -> impl Iterator<Item = &mut Row> {
        let skipped = range.start.saturating_sub(self.first);
        self.rows.iter_mut().skip(skipped).take(range.len())
    }

    pub(super) fn rows(&self, range: Range<usize>) -> impl Iterator<Item = &Row> {
        let skipped = range.start.saturating_sub(self.first);
        self.rows.iter().skip(skipped).take(range.len())
    }

    /// Since when the oldest row that may be in without an answer is in flight.
    pub(super) fn since(&self) -> Option<Instant> {
        let oldest = self.uncertain().start.checked_sub(self.first);
        let oldest = oldest.and_then(|row| self.rows.get(row));
        let chunk = self.chunks.iter().find(|chunk| {
            let end = chunk.start + chunk.bytes.len();
            oldest.is_some_and(|row| row.end <= end)
        });
        chunk.and_then(|chunk| chunk.since)
    }

    /// The number of the first row here that is not in, as far as it is known.
    pub(super) fn first_missing(&self) -> Option<usize> {
        let is_missing = |row: &&Row| matches!(row.state, RowState::Unanswered | RowState::Refused);
        self.rows.iter().find(is_missing).map(|row| row.number)
    }

    /// The numbers of the rows here that are not in; `None` where one of them was overtaken by a row
    /// for the same stream.
    pub(super) fn missing(&self) -> Option<Vec<usize>> {
        let (mut missing, mut keys) = (Vec::new(), HashSet::new());
        for row in &self.rows {
            match row.state {
                RowState::Unanswered | RowState::Refused => {
                    missing.push(row.number);
                    keys.insert(row.key);
                }
                RowState::Added(_) | RowState::NotAdded if keys.contains(&row.key) => return None,
                RowState::Added(_) | RowState::NotAdded => {}
            }
        }
        Some(missing)
    }

    /// The numbers of these rows among all of the write's.
    pub(super) fn numbers(&self, rows: Range<usize>) -> Range<usize> {
        let last = rows.end.checked_sub(1).filter(|_| !rows.is_empty());
        match self.number(rows.start).zip(last.and_then(|last| self.number(last))) {
            Some((first, last)) => first..last + 1,
            None => 0..0,
        }
    }

    /// The number of a row among all of the write's.
    pub(super) fn number(&self, row: usize) -> Option<usize> {
        self.rows.get(row.checked_sub(self.first)?).map(|row| row.number)
    }

    /// How many rows are in.
    #[cfg(test)]
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
        let mut replies = std::mem::take(&mut rows.replies);
        replies.read(&mut rest, |event| {
            match event {
                SmallEvent::Text(id) => rows.answer_with_id(id)?,
                SmallEvent::Nil => rows.answer(RowState::NotAdded, || None)?,
                SmallEvent::Error(line) => {
                    rows.answer(RowState::Refused, || Some(Error::from_server(line)))?;
                }
                other => return Err(Error::protocol(format_args!("{other:?} came for XADD"))),
            }
            Ok(true)
        })?;
        rows.replies = replies;
        Ok(bytes.len())
    }

    fn is_complete(&self) -> bool {
        self.0.outstanding().is_empty()
    }
}

mod found;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
