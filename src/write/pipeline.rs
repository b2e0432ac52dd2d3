//! XADDs pipelined without MULTI: sent ahead of their replies, and again where that is safe.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::Instant;

use super::idmp_window::IdmpWindow;
use super::in_flight::{InFlight, Refusal};
use super::outcome::{WriteFailure, Written};
use super::preflight::present;
use super::request::{WriteControl, WriteRequest};
use super::round_trip::too_late;
use super::rows::{RowState, Rows};
use crate::client::{Client, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};

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
    /// When a write that was stopped does not wait any longer.
    deadline: Option<Instant>,
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
    /// Nothing is in flight, but it cannot go on.
    Broken(Error),
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
            deadline: None,
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
        let mut connection = unless_stopped(&control, connecting).await?.map_err(End::Lost)?;
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
                    None if stopped && !(self.exhausted && self.in_flight.waiting() == 0) => {
                        Err(End::Stopped)
                    }
                    None => Ok(()),
                };
            }
            let before = self.in_flight.accepted();
            let exchanging = self.in_flight.exchange(&mut connection, closing);
            let exchanged = match stopped {
                false => tokio::select! {
                    biased;
                    exchanged = exchanging => exchanged,
                    // The next turn sends no more.
                    () = control.stopped() => continue,
                },
                true => {
                    let now = Instant::now();
                    let deadline = *self.deadline.get_or_insert(now + WriteControl::GRACE);
                    let left = deadline.saturating_duration_since(now);
                    match tokio::time::timeout(left, exchanging).await {
                        Ok(exchanged) => exchanged,
                        Err(_) => Err(too_late()),
                    }
                }
            };
            exchanged.map_err(End::Lost)?;
            if self.in_flight.accepted() > before {
                self.session.succeeded();
            }
        }
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
        let reached = self.in_flight.reached();
        match end {
            End::Stopped => Err(Fatal::Stopped),
            End::Refused(refused) if is_not_larger(&refused.error) && self.is_own(refused.row) => {
                self.reconcile_refused(refused).await
            }
            End::Refused(refused) => self.retry_refused(refused).await,
            End::Lost(error) => {
                let outstanding = self.in_flight.outstanding();
                match self.in_flight.take_refused() {
                    // The server hangs up after such an answer, and does nothing of what follows.
                    Some(refused) if is_protocol_error(&refused.error) => {
                        return Err(Fatal::Refused(refused));
                    }
                    Some(refused) if outstanding.is_empty() => {
                        return self.retry_refused(refused).await;
                    }
                    Some(_) => return Err(Fatal::Unknown(error, outstanding)),
                    None => {}
                }
                if outstanding.is_empty() {
                    self.recover(error).await?.map_err(Fatal::Broken)?;
                    self.in_flight.reconnect();
                    return Ok(());
                }
                let own = self.in_flight.rows(outstanding.clone()).all(|row| row.own.is_some());
                // A server that was silent for too long may take them yet, and is asked as well:
                // rows that it knows cannot come twice.
                let is_lost = error.retryable() || error.kind() == ErrorKind::Timeout;
                if !(own || self.is_in_idmp_window()) || !is_lost {
                    return Err(Fatal::Unknown(error, outstanding));
                }
                let error = error.with_retryable(true);
                let unknown = |error| Fatal::Unknown(error, outstanding.clone());
                self.recover(error).await?.map_err(unknown)?;
                if own {
                    let found = self.find_added(outstanding.clone()).await.map_err(unknown)?;
                    if let Some(missing) = found.missing {
                        return Err(Fatal::Unknown(missing_rows(), missing));
                    }
                    self.in_flight.rewind(found.next);
                } else if self.is_in_idmp_window() {
                    self.in_flight.reconnect();
                } else {
                    return Err(Fatal::Unknown(forgotten(), outstanding));
                }
                debug_assert!(self.in_flight.reached() >= reached);
                Ok(())
            }
        }
    }

    /// A pause, after which rows may be sent again; ends at once when the write is stopped.
    async fn recover(&mut self, error: Error) -> Result<Result<()>, Fatal> {
        let control = &self.request.control;
        match unless_stopped(control, self.session.recover(error)).await {
            Ok(recovered) => Ok(recovered),
            Err(_) => {
                let outstanding = self.in_flight.outstanding();
                Err(match outstanding.is_empty() {
                    true => Fatal::Stopped,
                    false => Fatal::Unknown(stopped(), outstanding),
                })
            }
        }
    }

    /// The server refused a row, and everything behind it, for a reason that time may mend.
    async fn retry_refused(&mut self, mut refused: Refusal) -> Result<(), Fatal> {
        if !is_transient(&refused.error) || refused.overtaken {
            return Err(Fatal::Refused(refused));
        }
        let error = std::mem::replace(&mut refused.error, stopped()).with_retryable(true);
        let row = refused.row;
        match unless_stopped(&self.request.control, self.session.recover(error)).await {
            Ok(Ok(())) => {
                self.in_flight.rewind(row);
                Ok(())
            }
            Ok(Err(error)) => Err(Fatal::Refused(Refusal { error, ..refused })),
            Err(_) => Err(Fatal::Stopped),
        }
    }

    fn is_own(&self, row: usize) -> bool {
        self.in_flight.rows(row..row + 1).any(|row| row.own.is_some())
    }

    /// Rows that were sent before on a lost connection may have come through late: then their IDs
    /// are there, and so the server refused them now.
    async fn reconcile_refused(&mut self, refused: Refusal) -> Result<(), Fatal> {
        let sent_before = refused.row..self.in_flight.sent_before().max(refused.row);
        let late: Vec<usize> = self
            .in_flight
            .rows(sent_before.clone())
            .zip(sent_before.clone())
            .filter(|(row, _)| row.state == RowState::Refused)
            .map(|(_, index)| index)
            .collect();
        let (Some(first), Some(last)) = (late.first().copied(), late.last().copied()) else {
            return Err(Fatal::Refused(refused));
        };
        let range = first..last + 1;
        let error = Error::new(ErrorKind::Response, refused.error.message().to_owned());
        let found = match self.find_added(range.clone()).await {
            Ok(found) => found,
            Err(error) => return Err(Fatal::Unknown(error, range)),
        };
        if found.missing.is_some() || found.next < range.end {
            return Err(Fatal::Unknown(error, range));
        }
        // What was refused behind them is another matter.
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

    /// Asks the streams which of these rows they hold, and takes note of those.
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
        let number = |row: usize| self.in_flight.number(row);
        let count = format!("{rows_in} of {total} rows are in");
        let next = self.in_flight.outstanding().start;
        let (error, row, unknown) = match fatal {
            Fatal::Refused(refused) => {
                let row = number(refused.row);
                let is_typed = matches!(
                    refused.error.kind(),
                    ErrorKind::WrongType | ErrorKind::Authentication
                );
                let error = match rows_in == 0 && is_typed {
                    true => refused.error,
                    false => refused.error.reframed(
                        ErrorKind::Write,
                        &format!("row {} was refused, {count}", row.unwrap_or_default()),
                    ),
                };
                (error, row, 0..0)
            }
            Fatal::Broken(error) if self.in_flight.reached() == 0 => (error, number(next), 0..0),
            Fatal::Broken(error) => {
                let message = format!("the write cannot go on, {count}");
                (error.reframed(ErrorKind::Write, &message), number(next).or(Some(0)), 0..0)
            }
            Fatal::Stopped => {
                let message = format!("the write was stopped, {count}");
                let error = Error::new(ErrorKind::Write, message);
                (error, self.rows.next_number().or(number(next)), 0..0)
            }
            Fatal::Unknown(error, range) => {
                let numbers = number(range.start)
                    .zip(number(range.end.saturating_sub(1)))
                    .map_or(0..0, |(first, last)| first..last + 1);
                let message = format!(
                    "the answers for rows {} to {} were lost, and nobody knows whether those are \
                     in; beside them {count}",
                    numbers.start,
                    numbers.end.saturating_sub(1)
                );
                let error = error.reframed(ErrorKind::OutcomeUnknown, &message);
                (error, Some(numbers.start), numbers)
            }
        };
        let error = match self.request.stream_name() {
            Some(stream) => error.with_context("stream", stream),
            None => error,
        };
        WriteFailure { error, written: self.in_flight.into_ids().finish(total), row, unknown }
    }
}

/// What a stream holds of some rows.
struct Found {
    /// The row behind the last that is there.
    next: usize,
    /// Rows before it that are not.
    missing: Option<Range<usize>>,
}

/// What comes of it, unless the write is stopped before.
async fn unless_stopped<T>(
    control: &WriteControl,
    future: impl Future<Output = T>,
) -> Result<T, End> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = control.stopped() => Err(End::Stopped),
    }
}

/// Whether the server may take a row later that it refused now.
fn is_transient(error: &Error) -> bool {
    error.retryable() || error.code() == Some("OOM")
}

fn is_not_larger(error: &Error) -> bool {
    error.message().contains("equal or smaller")
}

fn is_protocol_error(error: &Error) -> bool {
    error.message().contains("Protocol error")
}

fn stopped() -> Error {
    Error::new(ErrorKind::Write, "the write was stopped")
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
