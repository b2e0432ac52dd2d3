//! All rows or none: one transaction.
//!
//! MULTI does not take back what came before a command that fails. So whatever could make an XADD
//! fail is looked at before, and WATCH has the server refuse all if it changes meanwhile.

use std::time::Instant;

use super::frame::at_row;
use super::idmp_window::IdmpWindow;
use super::outcome::{Ids, WriteFailure, Written};
use super::preflight::{check_types, present};
use super::request::{IdSource, Target, WriteRequest};
use super::round_trip::{RoundTripError, round_trip, too_late};
use super::row_id::RowId;
use super::rows::{Chunk, RowState, Rows};
use crate::client::{Client, Session, Sink};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::resp::{Event, Info, Parser, RawReply};

/// The server holds a transaction in its memory until it is executed, and serves nobody meanwhile.
const MOST_BYTES: usize = 64 * 1024 * 1024;

pub(super) async fn write_atomically(
    client: &Client,
    mut rows: Rows,
    request: &WriteRequest,
    idmp_window: Option<IdmpWindow>,
) -> Result<Written, WriteFailure> {
    let total = rows.total();
    let refused = |error: Error, row: Option<usize>, unknown| WriteFailure {
        error: match request.stream_name() {
            Some(stream) => error.with_context("stream", stream),
            None => error,
        },
        written: Ids::with_capacity(0).finish(total),
        row,
        unknown,
    };
    let chunk = rows.next(usize::MAX, MOST_BYTES).unwrap_or_default();
    if rows.next_number().is_some() || chunk.bytes.len() > MOST_BYTES {
        let message = format!(
            "atomic=True sends all rows in one transaction of at most {MOST_BYTES} bytes, and \
             these take more; write them in several, or without it; nothing has been sent"
        );
        return Err(refused(Error::invalid(message), None, 0..0));
    }
    let mut transaction = Transaction::new(client, &rows, request, idmp_window, chunk);
    match transaction.run().await {
        Ok(()) => Ok(transaction.into_ids().finish(total)),
        Err(TransactionError::Nothing(error, row)) => Err(refused(error, row, 0..0)),
        Err(TransactionError::Unknown(error)) => {
            let message = "the answer to the transaction was lost, and nobody knows whether all \
                           rows are in or none";
            Err(refused(error.reframed(ErrorKind::OutcomeUnknown, message), Some(0), 0..total))
        }
        Err(TransactionError::Partly(error, row)) => {
            let written = transaction.into_ids().finish(total);
            Err(WriteFailure { error, written, row: Some(row), unknown: 0..0 })
        }
    }
}

enum TransactionError {
    /// Nothing is in.
    Nothing(Error, Option<usize>),
    Unknown(Error),
    /// The server executed the transaction, and refused some rows all the same.
    Partly(Error, usize),
}

struct Transaction<'r> {
    session: Session,
    /// For questions, whose answers are not the progress that has retries start over.
    questions: Session,
    rows: &'r Rows,
    request: &'r WriteRequest,
    idmp_window: Option<IdmpWindow>,
    chunk: Chunk,
    packed: Vec<u8>,
    /// Since when one is in flight of which nobody knows whether it was executed.
    unsure: Option<Instant>,
}

impl<'r> Transaction<'r> {
    fn new(
        client: &Client,
        rows: &'r Rows,
        request: &'r WriteRequest,
        idmp_window: Option<IdmpWindow>,
        mut chunk: Chunk,
    ) -> Self {
        let commands = std::mem::take(&mut chunk.bytes);
        let packed = [b"*1\r\n$5\r\nMULTI\r\n", &commands[..], b"*1\r\n$4\r\nEXEC\r\n"].concat();
        Transaction {
            session: client.session(),
            questions: client.session(),
            rows,
            request,
            idmp_window,
            chunk,
            packed,
            unsure: None,
        }
    }

    async fn run(&mut self) -> Result<(), TransactionError> {
        loop {
            if let Some(since) = self.unsure {
                match self.is_in().await.map_err(TransactionError::Unknown)? {
                    Some(true) => return Ok(()),
                    Some(false) => {}
                    None if self.idmp_window.is_some_and(|window| {
                        window.rows >= self.chunk.rows.len() && window.holds(since)
                    }) => {}
                    None => return Err(TransactionError::Unknown(too_late())),
                }
            }
            match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Attempt::Refused(error, row)) => {
                    let transient = error.retryable() || error.code() == Some("OOM");
                    let recovered = match transient {
                        true => self.session.recover(error.with_retryable(true)).await,
                        false => Err(error),
                    };
                    recovered.map_err(|error| self.nothing_is_in(error, row))?;
                }
                Err(Attempt::Partly(error, row)) => {
                    return Err(TransactionError::Partly(error, row));
                }
                Err(Attempt::Lost(lost)) => {
                    let is_unsure = lost.sent >= self.packed.len();
                    let can_tell = self.idmp_window.is_some() || self.is_own();
                    if is_unsure {
                        self.unsure.get_or_insert_with(Instant::now);
                        if !can_tell || !lost.error.retryable() {
                            return Err(TransactionError::Unknown(lost.error));
                        }
                    }
                    let unsure = self.unsure.is_some();
                    self.session.recover(lost.error).await.map_err(|error| match unsure {
                        true => TransactionError::Unknown(error),
                        false => TransactionError::Nothing(error, None),
                    })?;
                }
            }
            if self.request.control.is_stopped() {
                let error = Error::new(ErrorKind::Write, "the write was stopped, nothing is in");
                return Err(match self.unsure {
                    Some(_) => TransactionError::Unknown(error),
                    None => TransactionError::Nothing(error, Some(0)),
                });
            }
        }
    }

    fn nothing_is_in(&self, error: Error, row: Option<usize>) -> TransactionError {
        if self.unsure.is_some() {
            return TransactionError::Unknown(error);
        }
        let is_typed = matches!(error.kind(), ErrorKind::WrongType | ErrorKind::Authentication);
        let error = match is_typed {
            true => error,
            false => error.reframed(ErrorKind::Write, "the transaction failed, nothing is in"),
        };
        TransactionError::Nothing(error, row.or(Some(0)))
    }

    fn is_own(&self) -> bool {
        self.chunk.rows.iter().all(|row| row.own.is_some())
    }

    /// Whether a transaction was executed whose answer was lost; `None` where IDs do not tell.
    async fn is_in(&mut self) -> Result<Option<bool>> {
        let Some((key, id)) = self.chunk.rows.last().and_then(|row| Some((row.key, row.own?)))
        else {
            return Ok(None);
        };
        let found = present(&mut self.questions, self.rows.keys.get(key), id, id).await?;
        if found.is_empty() {
            return Ok(Some(false));
        }
        for row in &mut self.chunk.rows {
            row.state = row.own.map_or(RowState::Unanswered, RowState::Added);
        }
        Ok(Some(true))
    }

    /// Whether a row can be refused for something that may change between a look and EXEC.
    fn needs_watch(&self) -> bool {
        self.request.ids != IdSource::Server || matches!(self.request.stream, Target::Column(_))
    }

    async fn attempt(&mut self) -> Result<(), Attempt> {
        let nothing = |error| Attempt::Lost(RoundTripError { error, sent: 0 });
        if self.needs_watch() {
            self.watch().await?;
        } else {
            check_types(&mut self.questions, self.rows)
                .await
                .map_err(|error| Attempt::Refused(error, None))?;
        }
        if self.request.control.is_stopped() {
            return Err(nothing(too_late()));
        }
        let mut replies = TransactionReplies::new(&mut self.chunk);
        let control = &self.request.control;
        round_trip(&mut self.session, control, &self.packed, &mut replies)
            .await
            .map_err(Attempt::Lost)?;
        let (refused, executed) = (replies.refused.take(), replies.executed);
        match (refused, executed) {
            (None, true) => {
                self.session.succeeded();
                self.request.control.add_rows(self.chunk.rows.len() as u64);
                Ok(())
            }
            (Some((error, row)), executed) => {
                let is_partly = executed
                    && self.chunk.rows.iter().any(|row| matches!(row.state, RowState::Added(_)));
                let number = self.chunk.rows.get(row).map(|row| row.number);
                Err(match is_partly {
                    true => Attempt::Partly(error, number.unwrap_or_default()),
                    false => Attempt::Refused(error, number),
                })
            }
            (None, false) => Err(Attempt::Refused(
                Error::new(ErrorKind::Response, "the stream was changed by others again and again")
                    .with_retryable(true),
                None,
            )),
        }
    }

    /// Has EXEC do nothing if a stream changes from now on, and looks whether the rows fit.
    async fn watch(&mut self) -> Result<(), Attempt> {
        let lost = |error| Attempt::Lost(RoundTripError { error, sent: 0 });
        let mut watch = redis::cmd("WATCH");
        self.rows.keys.iter().for_each(|key| {
            watch.arg(key);
        });
        let mut connection = self.session.take_connection().await.map_err(lost)?;
        let mut packed = watch.get_packed_command();
        for key in self.rows.keys.iter() {
            let mut info = redis::cmd("XINFO");
            info.arg("STREAM").arg(key).write_packed_command(&mut packed);
        }
        connection.send(&packed).await.map_err(lost)?;
        let mut answers = Vec::new();
        for _ in 0..self.rows.keys.iter().len() + 1 {
            let mut reply = RawReply::new();
            connection.receive(&mut reply, Some(std::time::Duration::ZERO)).await.map_err(lost)?;
            answers.push(reply.into_value());
        }
        self.session.put_back(connection);
        let mut answers = answers.into_iter();
        if let Some(Err(error)) = answers.next() {
            return Err(Attempt::Refused(error, None));
        }
        for (key, info) in answers.enumerate() {
            let last = match info {
                Ok(info) => Info(&info).id("last-generated-id"),
                Err(error) if error.kind() == ErrorKind::WrongType => {
                    return Err(Attempt::Refused(error, None));
                }
                Err(_) => None,
            };
            let first = self.chunk.rows.iter().find(|row| row.key == key);
            let wanted = first
                .and_then(|row| row.own)
                .map(RowId::Whole)
                .or_else(|| self.rows.first_ids().get(key).copied().flatten().map(|(_, id)| id));
            if let (Some(last), Some(id), Some(row)) = (last, wanted, first)
                && !RowId::Whole(last).may_precede(id)
            {
                let reason = format!("the ID {id} does not come after {last}, the stream's last");
                let error = at_row(row.number, &reason).into_kind(ErrorKind::Write);
                return Err(Attempt::Refused(error, Some(row.number)));
            }
        }
        Ok(())
    }

    fn into_ids(self) -> Ids {
        let mut ids = Ids::with_capacity(self.chunk.rows.len());
        for row in &self.chunk.rows {
            if let RowState::Added(id) = row.state {
                ids.push(row.number, id);
            }
        }
        ids
    }
}

enum Attempt {
    /// Nothing is in, and perhaps it is known which row is to blame.
    Refused(Error, Option<usize>),
    Partly(Error, usize),
    Lost(RoundTripError),
}

/// The replies to MULTI, to each row, and to EXEC.
struct TransactionReplies<'a> {
    chunk: &'a mut Chunk,
    parser: Parser,
    partial: Vec<u8>,
    /// Of MULTI and the rows.
    queued: usize,
    /// Of EXEC's array.
    taken: usize,
    /// EXEC's reply has begun.
    executed: bool,
    complete: bool,
    refused: Option<(Error, usize)>,
}

impl<'a> TransactionReplies<'a> {
    fn new(chunk: &'a mut Chunk) -> Self {
        TransactionReplies {
            chunk,
            parser: Parser::default(),
            partial: Vec::new(),
            queued: 0,
            taken: 0,
            executed: false,
            complete: false,
            refused: None,
        }
    }

    fn answer(&mut self, answer: RowState) {
        if let Some(row) = self.chunk.rows.get_mut(self.taken) {
            row.state = answer;
        }
        self.taken += 1;
        self.complete = self.taken == self.chunk.rows.len();
    }

    fn take(&mut self, event: Taken) -> Result<()> {
        let rows = self.chunk.rows.len();
        match event {
            Taken::Error(error) => {
                let row = match self.executed {
                    true => self.taken,
                    false => self.queued.saturating_sub(1),
                };
                self.refused.get_or_insert((error, row.min(rows.saturating_sub(1))));
                if self.executed {
                    self.answer(RowState::Refused);
                } else {
                    self.complete = self.queued > rows;
                    self.queued += 1;
                }
            }
            Taken::Queued if self.queued <= rows => self.queued += 1,
            Taken::Array(len) if self.queued > rows && !self.executed && len == rows => {
                self.executed = true;
            }
            // A key that was watched has changed.
            Taken::Nil if self.queued > rows && !self.executed => self.complete = true,
            Taken::Nil if self.executed => self.answer(RowState::NotAdded),
            Taken::Id(id) if self.executed => self.answer(RowState::Added(id)),
            _ => return Err(Error::protocol("the reply is not one to a transaction")),
        }
        Ok(())
    }
}

enum Taken {
    Queued,
    Array(usize),
    Nil,
    Id(EntryId),
    Error(Error),
}

impl Sink for TransactionReplies<'_> {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut rest = bytes;
        while !self.complete {
            let taken = match self.parser.next(&mut rest)? {
                None => break,
                Some(Event::Scalar(_)) => Taken::Queued,
                Some(Event::Array(len)) => Taken::Array(len),
                Some(Event::Nil) => Taken::Nil,
                Some(Event::Error(line)) => Taken::Error(Error::from_server(line)),
                Some(Event::Bytes { part, done }) => {
                    self.partial.extend_from_slice(part);
                    if !done {
                        continue;
                    }
                    let text = std::mem::take(&mut self.partial);
                    Taken::Id(EntryId::from_bytes(&text).ok_or_else(|| {
                        Error::protocol(format_args!("{} is no entry ID", shorten(&text)))
                    })?)
                }
                Some(_) => return Err(Error::protocol("the reply is not one to a transaction")),
            };
            self.take(taken)?;
        }
        Ok(bytes.len() - rest.len())
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}
