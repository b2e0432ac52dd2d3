//! XADDs pipelined without MULTI: sent ahead of their replies, and again where that is safe.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::control::{stopped, unanswered};
use super::idmp_window::IdmpWindow;
use super::in_flight::{InFlight, Refusal};
use super::outcome::{WriteFailure, Written, answers_lost, counted_in};
use super::reconcile::present;
use super::request::WriteRequest;
use super::rows::{RowState, Rows};
use crate::client::{Client, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, ServerCode};

pub(super) struct Pipeline<'r> {
    session: Session,
    /// For questions, whose answers are not the progress that has retries start over.
    questions: Session,
    rows: Rows,
    in_flight: InFlight,
    request: &'r WriteRequest,
    /// The most rows that may be without an answer.
    window: usize,
    idmp_window: Option<IdmpWindow>,
    /// There are no more rows to come.
    exhausted: bool,
}

/// Why no more rows are sent on a connection.
enum End {
    /// The server refused a row, and has answered all that were sent.
    Refused(Refusal),
    Lost(Error),
    Stopped,
}

/// Why the write ends.
enum Fatal {
    /// The rows from here on are not in, but for those that have an ID.
    Refused(Refusal),
    /// No connection could be had.
    Broken(Error),
    /// Nobody knows whether these rows are in, for a reason beside a lost answer.
    Unknown(Error, Range<usize>),
    Stopped,
}

impl<'r> Pipeline<'r> {
    pub(super) fn new(client: &Client, rows: Rows, request: &'r WriteRequest) -> Self {
        let in_flight = InFlight::new(rows.total(), request.control.clone());
        let window = request.batch_rows;
        Pipeline {
            session: client.session(),
            questions: client.session(),
            rows,
            in_flight,
            request,
            window,
            idmp_window: None,
            exhausted: false,
        }
    }

    /// The server recognises rows that come again, as long as no more are in flight.
    pub(super) fn with_idmp_window(mut self, idmp_window: Option<IdmpWindow>) -> Self {
        if let Some(idmp_window) = idmp_window {
            self.window = self.window.min(idmp_window.rows.max(1));
        }
        self.idmp_window = idmp_window;
        self
    }

    pub(super) async fn run(mut self) -> Result<Written, WriteFailure> {
        loop {
            let Err(end) = self.attempt().await else {
                let total = self.rows.total();
                return Ok(self.in_flight.into_ids().finish(total));
            };
            if let Err(fatal) = self.resume(end).await {
                return Err(self.fail(fatal));
            }
        }
    }

    /// Sends rows and takes their answers, on one connection.
    async fn attempt(&mut self) -> Result<(), End> {
        let control = self.request.control.clone();
        let connecting = self.session.take_connection();
        let connected = control.unless_stopped(connecting).await.ok_or(End::Stopped)?;
        let mut connection = connected.map_err(End::Lost)?;
        loop {
            let stopped = control.is_stopped();
            let closing = stopped || self.in_flight.refused().is_some();
            if !closing {
                self.fill();
            }
            let done = if closing { true } else { self.exhausted && self.in_flight.unsent() == 0 };
            if done
                && self.in_flight.is_between_commands()
                && self.in_flight.outstanding().is_empty()
            {
                connection.settle();
                self.session.put_back(connection);
                return match self.in_flight.take_refused() {
                    Some(refused) => Err(End::Refused(refused)),
                    None if self.is_everything_in() => Ok(()),
                    None => Err(End::Stopped),
                };
            }
            let before = self.in_flight.accepted();
            let exchanging = self.in_flight.exchange(&mut connection, closing);
            let exchanged = match stopped {
                false => match control.unless_stopped(exchanging).await {
                    Some(exchanged) => exchanged,
                    // The next turn sends no more.
                    None => continue,
                },
                true => control.within_grace(exchanging).await.unwrap_or_else(|| Err(unanswered())),
            };
            exchanged.map_err(End::Lost)?;
            if self.in_flight.accepted() > before {
                self.session.succeeded();
            }
        }
    }

    /// Whether every row has its answer; a write that is stopped then has succeeded.
    fn is_everything_in(&self) -> bool {
        self.in_flight.waiting() == 0 && self.rows.next_number().is_none()
    }

    /// Has enough to send, within the bounds of what may be in flight.
    fn fill(&mut self) {
        /// A system call's worth, and small enough that answers are looked at often.
        const AHEAD: usize = 128 * 1024;
        // Not a few rows whenever a few are answered: the server has enough to do meanwhile.
        if self.in_flight.waiting() > self.window - self.window / 8 {
            return;
        }
        while !self.exhausted
            && self.in_flight.unsent() < AHEAD
            && self.in_flight.waiting() < self.window
            && self.in_flight.bytes() < self.request.batch_bytes
        {
            let room = self.window - self.in_flight.waiting();
            match self.rows.next(room, AHEAD) {
                Some(chunk) => self.in_flight.push(chunk),
                None => self.exhausted = true,
            }
        }
    }

    /// Makes the next attempt possible, or says why there is to be none.
    async fn resume(&mut self, end: End) -> Result<(), Fatal> {
        match end {
            End::Stopped => Err(Fatal::Stopped),
            End::Refused(refused) if self.is_too_small(&refused) => {
                self.reconcile_refused(refused).await
            }
            End::Refused(refused) => self.retry_refused(refused).await,
            End::Lost(error) => {
                let is_answered = self.in_flight.outstanding().is_empty();
                match self.in_flight.take_refused() {
                    // The server hangs up after such an answer, and does nothing of what follows.
                    Some(refused) if refused.error.server_code() == Some(ServerCode::Protocol) => {
                        self.in_flight.forget_unanswered();
                        Err(Fatal::Refused(refused))
                    }
                    Some(refused) if is_answered => self.retry_refused(refused).await,
                    Some(_) => Err(Fatal::Broken(error)),
                    None => self.reconnect(error).await,
                }
            }
        }
    }

    /// After a pause the rows without an answer are sent again, but for those that are in already;
    /// an error where that cannot be told.
    async fn reconnect(&mut self, error: Error) -> Result<(), Fatal> {
        let uncertain = self.in_flight.uncertain();
        let is_own = self.in_flight.rows(uncertain.clone()).all(|row| row.own.is_some());
        if !uncertain.is_empty() {
            // A server that was silent for too long may take them yet, and is asked as well: rows
            // that it knows cannot come twice.
            let is_lost = error.retryable() || error.kind() == ErrorKind::Timeout;
            if !(is_own || self.is_in_idmp_window()) || !is_lost {
                return Err(Fatal::Broken(error));
            }
        }
        let is_certain = uncertain.is_empty();
        let error = if is_certain { error } else { error.with_retryable(true) };
        let control = self.request.control.clone();
        match control.unless_stopped(self.session.recover(error)).await {
            Some(recovered) => recovered.map_err(Fatal::Broken)?,
            // Which of them are in can still be asked.
            None if is_own && !is_certain => {}
            None => return Err(Fatal::Stopped),
        }
        if is_certain {
            self.in_flight.reconnect();
        } else if is_own {
            let found = control.within_grace(self.find_added(uncertain)).await;
            let found = found.ok_or(Fatal::Stopped)?.map_err(Fatal::Broken)?;
            if let Some(missing) = found.missing {
                return Err(Fatal::Unknown(missing_rows(), missing));
            }
            self.in_flight.resend(found.next);
        } else if self.is_in_idmp_window() {
            self.in_flight.reconnect();
        } else {
            return Err(Fatal::Broken(forgotten()));
        }
        Ok(())
    }

    /// The server refused a row, and everything after it, for a reason that time may mend.
    async fn retry_refused(&mut self, mut refused: Refusal) -> Result<(), Fatal> {
        if !refused.error.retryable() || refused.overtaken {
            return Err(Fatal::Refused(refused));
        }
        let error = std::mem::replace(&mut refused.error, stopped());
        let row = refused.row;
        match self.request.control.unless_stopped(self.session.recover(error)).await {
            Some(Ok(())) => {
                self.in_flight.resend_refused(row);
                Ok(())
            }
            Some(Err(error)) => Err(Fatal::Refused(Refusal { error, ..refused })),
            None => {
                self.in_flight.resend_refused(row);
                Err(Fatal::Stopped)
            }
        }
    }

    /// Whether a row was refused whose own ID is not greater than the stream's last.
    fn is_too_small(&self, refused: &Refusal) -> bool {
        refused.error.server_code() == Some(ServerCode::IdTooSmall)
            && self.in_flight.rows(refused.row..refused.row + 1).any(|row| row.own.is_some())
    }

    /// Rows that were sent before on a lost connection may have come through late: then their IDs
    /// are there, and so the server refused them now.
    async fn reconcile_refused(&mut self, refused: Refusal) -> Result<(), Fatal> {
        let range = self.in_flight.refused_again();
        if range.is_empty() {
            return Err(Fatal::Refused(refused));
        }
        let error = Error::new(ErrorKind::Response, refused.error.message().to_owned());
        let control = self.request.control.clone();
        let found = match control.within_grace(self.find_added(range.clone())).await {
            Some(Ok(found)) => found,
            Some(Err(error)) => return Err(Fatal::Unknown(error, range)),
            None => return Err(Fatal::Unknown(unanswered(), range)),
        };
        if found.missing.is_some() || found.next < range.end {
            return Err(Fatal::Unknown(error, range));
        }
        // What was refused after them is another matter.
        let end = self.in_flight.outstanding().start;
        let rest =
            self.in_flight.rows(range.end..end).position(|row| row.state == RowState::Refused);
        match rest {
            None => Ok(()),
            Some(_) => Err(Fatal::Refused(Refusal { row: range.end, ..refused })),
        }
    }

    /// Whether the server still recognises the rows that are in flight.
    fn is_in_idmp_window(&self) -> bool {
        self.idmp_window
            .zip(self.in_flight.since())
            .is_some_and(|(idmp_window, since)| idmp_window.holds(since))
    }

    /// Asks the streams which of these rows they hold, and records those as added.
    async fn find_added(&mut self, range: Range<usize>) -> Result<Found> {
        let mut wanted: BTreeMap<usize, (EntryId, EntryId)> = BTreeMap::new();
        for row in self.in_flight.rows(range.clone()) {
            if let Some(id) = row.own {
                wanted.entry(row.key).or_insert((id, id)).1 = id;
            }
        }
        let mut held: HashSet<(usize, EntryId)> = HashSet::new();
        for (key, (first, last)) in wanted {
            let stream = self.rows.keys.get(key);
            let ids = present(&mut self.questions, stream, first, last).await?;
            held.extend(ids.into_iter().map(|id| (key, id)));
        }
        let is_held = |key, own: Option<EntryId>| own.is_some_and(|id| held.contains(&(key, id)));
        let rows: Vec<bool> =
            self.in_flight.rows(range.clone()).map(|row| is_held(row.key, row.own)).collect();
        let Some(last) = rows.iter().rposition(|held| *held) else {
            return Ok(Found { next: range.start, missing: None });
        };
        // The server takes commands in order: what comes before a row that is there was there.
        // Unless something removes entries, which we may have asked for ourselves.
        let next = range.start + last + 1;
        let missing = rows.iter().position(|held| !held).filter(|first| *first < last);
        let trims = self.request.trim.is_some();
        for (row, held) in self.in_flight.rows_mut(range.start..next).zip(&rows) {
            if let Some(own) = row.own
                && (*held || trims)
            {
                row.state = RowState::Added(own);
                self.request.control.add_rows(1);
            }
        }
        let missing = missing.filter(|_| !trims).map(|first| range.start + first..next - 1);
        Ok(Found { next, missing })
    }

    fn fail(self, fatal: Fatal) -> WriteFailure {
        let total = self.rows.total();
        let rows_in = self.in_flight.rows_in();
        let before = self.request.before;
        let (all_in, all) = (before.written + rows_in, before.rows + total);
        let count = counted_in(all_in, all);
        let is_in_part = rows_in > 0;
        // Whatever ends the write, rows that were sent and have no answer may be in.
        let mut uncertain = self.in_flight.uncertain();
        let error = match fatal {
            Fatal::Refused(refused) => {
                let is_typed = matches!(
                    refused.error.kind(),
                    ErrorKind::WrongType | ErrorKind::Authentication
                );
                let row = before.rows + self.in_flight.number(refused.row).unwrap_or_default();
                // A key that is no stream is explained later.
                let is_first = refused.error.kind() == ErrorKind::WrongType || before.written == 0;
                match is_typed && !is_in_part && is_first {
                    true => refused.error,
                    false => refused
                        .error
                        .reframed(ErrorKind::Write, &format!("row {row} was refused, {count}")),
                }
            }
            Fatal::Broken(error) if !is_in_part => error,
            Fatal::Broken(error) => {
                error.reframed(ErrorKind::Write, &format!("the write cannot go on, {count}"))
            }
            Fatal::Stopped => stopped().reframed(ErrorKind::Write, &count),
            Fatal::Unknown(error, range) => {
                uncertain = range.start..range.end.max(uncertain.end);
                error
            }
        };
        let unknown = self.in_flight.numbers(uncertain);
        let error = match unknown.is_empty() {
            true => error,
            false => error.reframed(
                ErrorKind::OutcomeUnknown,
                &answers_lost(before.rows + unknown.start..before.rows + unknown.end),
            ),
        };
        let row = self.in_flight.first_missing().or(self.rows.next_number());
        let error = match self.request.stream_name() {
            Some(stream) => error.with_context("stream", stream),
            None => error,
        };
        WriteFailure { error, written: self.in_flight.into_ids().finish(total), row, unknown }
    }
}

/// What a stream holds of some rows.
struct Found {
    /// The row after the last that is there.
    next: usize,
    /// Rows before it that are not.
    missing: Option<Range<usize>>,
}

fn missing_rows() -> Error {
    Error::new(
        ErrorKind::Response,
        "the stream holds rows that were sent after them, so somebody has removed them or the \
         server has refused them",
    )
}

fn forgotten() -> Error {
    Error::new(ErrorKind::Connection, "it took longer than the server recognises rows")
}
