//! All rows or none: one transaction.
//!
//! MULTI does not take back what came before a command that fails. So whatever could make an XADD
//! fail is looked at before, and WATCH has the server refuse all if it changes meanwhile.

use std::time::Instant;

use super::control::{stopped, unanswered};
use super::frame::at_row;
use super::idmp_window::IdmpWindow;
use super::outcome::{Ids, WriteFailure, Written};
use super::preflight::check_type;
use super::reconcile::present;
use super::request::{IdSource, Target, WriteRequest};
use super::round_trip::RoundTripError;
use super::row_id::RowId;
use super::rows::{Chunk, RowState, Rows};
use super::transaction::{TransactionReplies, TransactionState};
use crate::client::{Client, Exclusive, Questions, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{self, Info};

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
    /// Nothing is in, and perhaps it is known which row is to blame.
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
    /// The rows' commands, and EXEC.
    packed: Vec<u8>,
    /// Since when one is in flight of which nobody knows whether it was executed.
    unsure: Option<Instant>,
}

/// How an attempt ended that did not succeed.
enum Attempt {
    /// Nothing of it is in, and perhaps it is known which row is to blame.
    Refused(Error, Option<usize>),
    /// Nothing of it is in.
    Stopped,
    Partly(Error, usize),
    Lost(RoundTripError),
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
        let packed = [&commands[..], &resp::command(&[b"EXEC"])].concat();
        Transaction {
            session: client.session_for(rows.keys.get(0)),
            questions: client.session_for(rows.keys.get(0)),
            rows,
            request,
            idmp_window,
            chunk,
            packed,
            unsure: None,
        }
    }

    async fn run(&mut self) -> Result<(), TransactionError> {
        let control = self.request.control.clone();
        loop {
            if let Some(since) = self.unsure {
                let is_in = control.within_grace(self.is_in()).await;
                match is_in.unwrap_or_else(|| Err(unanswered())) {
                    Err(error) => return Err(TransactionError::Unknown(error)),
                    Ok(Some(true)) => return Ok(()),
                    Ok(Some(false)) => {}
                    Ok(None) if self.is_in_idmp_window(since) => {}
                    Ok(None) => return Err(TransactionError::Unknown(forgotten())),
                }
            }
            let (error, row) = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Attempt::Partly(error, row)) => {
                    return Err(TransactionError::Partly(error, row));
                }
                Err(Attempt::Stopped) => return Err(self.nothing_is_in(stopped(), Some(0))),
                Err(Attempt::Refused(error, row)) => {
                    if !error.retryable() {
                        return Err(self.nothing_is_in(error, row));
                    }
                    (error, row)
                }
                Err(Attempt::Lost(RoundTripError { error, sent })) => {
                    // Without EXEC nothing is executed.
                    if sent >= self.packed.len() {
                        self.unsure.get_or_insert_with(Instant::now);
                        let can_tell = self.idmp_window.is_some() || self.is_own();
                        if !can_tell || !error.retryable() {
                            return Err(TransactionError::Unknown(error));
                        }
                    }
                    (error, None)
                }
            };
            match control.unless_stopped(self.session.recover(error)).await {
                Some(recovered) => {
                    recovered.map_err(|error| self.nothing_is_in(error, row))?;
                }
                // Whether it was executed can still be asked.
                None if self.unsure.is_some() && self.is_own() => {}
                None => return Err(self.nothing_is_in(stopped(), Some(0))),
            }
        }
    }

    /// The transaction is not to be sent again: nothing is in, unless an answer was lost before.
    fn nothing_is_in(&self, error: Error, row: Option<usize>) -> TransactionError {
        if self.unsure.is_some() {
            return TransactionError::Unknown(error);
        }
        let is_typed = !matches!(
            error.kind(),
            ErrorKind::Response | ErrorKind::Write | ErrorKind::InvalidArgument
        );
        let error = match is_typed {
            true => error,
            false => error.reframed(ErrorKind::Write, "the transaction failed, nothing is in"),
        };
        TransactionError::Nothing(error, row.or(Some(0)))
    }

    fn is_own(&self) -> bool {
        self.chunk.rows.iter().all(|row| row.own.is_some())
    }

    /// Whether the server still recognises the rows, which were first sent then.
    fn is_in_idmp_window(&self, since: Instant) -> bool {
        self.idmp_window
            .is_some_and(|window| window.rows >= self.chunk.rows.len() && window.holds(since))
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
        self.request.ids != IdSource::Server || !matches!(self.request.stream, Target::One(_))
    }

    /// Opens the transaction, and sends the rows only once the server has said that it is open.
    async fn attempt(&mut self) -> Result<(), Attempt> {
        let control = &self.request.control;
        let needs_watch = self.needs_watch();
        let questions = opening(self.rows, needs_watch);
        let opening = async {
            let mut connection = Exclusive::take(&mut self.session).await?;
            let answers = connection.ask(&questions.packed, questions.count).await?;
            Ok((connection, answers))
        };
        let opened = control.unless_stopped(opening).await.ok_or(Attempt::Stopped)?;
        let (mut connection, answers) =
            opened.map_err(|error| Attempt::Lost(RoundTripError { error, sent: 0 }))?;
        check_opening(self.rows, &self.chunk, needs_watch, answers)?;
        if control.is_stopped() {
            return Err(Attempt::Stopped);
        }
        let mut sent = 0;
        let mut replies = TransactionReplies::new(&mut self.chunk);
        let exchanging = connection.exchange(&self.packed, &mut sent, &mut replies);
        let exchanged = control.within_grace(exchanging).await;
        let exchanged = exchanged.unwrap_or_else(|| Err(unanswered()));
        let (state, refused) = (replies.state(), replies.take_refused());
        exchanged.map_err(|error| Attempt::Lost(RoundTripError { error, sent }))?;
        if matches!(state, TransactionState::Executed | TransactionState::Discarded) {
            connection.release();
        }
        match refused {
            None if state == TransactionState::Executed => {
                self.session.succeeded();
                self.request.control.add_rows(self.chunk.rows.len() as u64);
                Ok(())
            }
            None => Err(Attempt::Refused(
                Error::new(ErrorKind::Response, "the stream was changed by others again and again")
                    .with_retryable(true),
                None,
            )),
            Some((error, row)) => {
                let is_in = |state| matches!(state, RowState::Added(_));
                let number = self.chunk.rows.get(row).map(|row| row.number);
                Err(match self.chunk.rows.iter().any(|row| is_in(row.state)) {
                    true => Attempt::Partly(error, number.unwrap_or_default()),
                    false => Attempt::Refused(error, number),
                })
            }
        }
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

/// WATCH, which has EXEC do nothing if a stream changes from now on, where a change could have rows
/// refused; what tells whether the rows fit; and MULTI.
fn opening(rows: &Rows, needs_watch: bool) -> Questions {
    let mut questions = Questions::default();
    if needs_watch {
        let keys: Vec<&[u8]> = rows.keys.iter().collect();
        questions.add(&resp::command(&[&[b"WATCH".as_slice()], &keys[..]].concat()));
    }
    for key in rows.keys.iter() {
        match needs_watch {
            true => questions.add(&resp::stream_info(key)),
            false => questions.add(&resp::type_of(key)),
        }
    }
    questions.add(&resp::command(&[b"MULTI"]));
    questions
}

/// Refuses what EXEC would refuse, when others could not be taken back any more.
fn check_opening(
    rows: &Rows,
    chunk: &Chunk,
    needs_watch: bool,
    answers: Vec<Result<redis::Value>>,
) -> Result<(), Attempt> {
    let refused = |error| Attempt::Refused(error, None);
    let mut answers = answers.into_iter();
    if needs_watch {
        answers.next().unwrap_or_else(|| Err(unanswered())).map_err(refused)?;
    }
    for (index, (key, answer)) in rows.keys.iter().zip(answers.by_ref()).enumerate() {
        if !needs_watch {
            check_type(key, answer).map_err(refused)?;
            continue;
        }
        let last = match answer {
            Ok(info) => Info(&info).id("last-generated-id"),
            Err(error) if error.kind() == ErrorKind::WrongType || error.retryable() => {
                return Err(refused(error));
            }
            Err(_) => None,
        };
        let first = chunk.rows.iter().find(|row| row.key == index);
        let wanted = first
            .and_then(|row| row.own)
            .map(RowId::Whole)
            .or_else(|| rows.first_ids().get(index).copied().flatten().map(|(_, id)| id));
        if let (Some(last), Some(id), Some(row)) = (last, wanted, first)
            && !RowId::Whole(last).may_precede(id)
        {
            let reason = format!("the ID {id} does not come after {last}, the stream's last");
            let error = at_row(row.number, &reason).into_kind(ErrorKind::Write);
            return Err(Attempt::Refused(error, Some(row.number)));
        }
    }
    let opened = answers.next().unwrap_or_else(|| Err(unanswered()));
    opened.map(drop).map_err(|error| match error.kind() {
        ErrorKind::Authentication => {
            let message = "atomic=True needs the permission for MULTI; nothing has been sent";
            refused(error.reframed(ErrorKind::Authentication, message))
        }
        _ => refused(error),
    })
}

fn forgotten() -> Error {
    Error::new(ErrorKind::Connection, "it took longer than the server recognises rows")
}
