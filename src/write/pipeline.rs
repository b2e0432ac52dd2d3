//! XADDs pipelined without MULTI: sent ahead of their replies, and again where that is safe.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::control::{stopped, unanswered};
use super::ends::Ends;
use super::failed::{Failed, Fatal};
use super::idmp_window::IdmpWindow;
use super::in_flight::{InFlight, Refusal, SentBefore};
use super::lost_ends::{explained, forget, lost_ends};
use super::outcome::{Ids, WriteFailure, Written};
use super::reconcile::present;
use super::request::WriteRequest;
use super::rows::{RowState, Rows};
use crate::client::{Client, Connection, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Remedy, Result, ServerCode};

pub(super) struct Pipeline<'r> {
    client: Client,
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
    part: Option<PartOf>,
}

/// Why no more rows are sent on a connection.
enum End {
    /// The server refused a row, and has answered all that were sent.
    Refused(Refusal),
    Lost(Error),
    Stopped,
    /// Another part of the write has failed.
    Halted,
    Failed(Fatal),
}

/// What becomes of a part of the rows.
pub(super) enum PartEnd {
    Done,
    /// These rows, and those from `from` on, are not in, but for those that a lost connection may have
    /// brought: another node of the cluster serves some of their streams, or another part has failed.
    Rest {
        again: Vec<usize>,
        from: usize,
        sent_before: Option<SentBefore>,
        halted: bool,
    },
    Failed(Box<Failed>),
}

/// What a part has in common with the others.
struct PartOf {
    halted: Arc<AtomicBool>,
    leaves: bool,
}

impl<'r> Pipeline<'r> {
    pub(super) fn new(client: &Client, rows: Rows, request: &'r WriteRequest) -> Self {
        let mut in_flight = InFlight::new(rows.total(), request.control.clone());
        in_flight.ends = Ends::of_before(&rows, request);
        let window = request.batch_rows;
        Pipeline {
            client: client.clone(),
            session: client.session_for(rows.first_key()),
            questions: client.session_for(rows.first_key()),
            rows,
            in_flight,
            request,
            window,
            idmp_window: None,
            exhausted: false,
            part: None,
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

    /// Its rows are a part of those that are written, whose streams have come to these `ends`. It sends
    /// no more of them once `halted`; and where `leaves` once another node of the cluster serves some,
    /// which are then left to others.
    pub(super) fn into_part(mut self, ends: Ends, halted: Arc<AtomicBool>, leaves: bool) -> Self {
        self.in_flight = self.in_flight.of_part(ends);
        self.part = Some(PartOf { halted, leaves });
        self
    }

    /// Some of the rows may be in, by what was sent before.
    pub(super) fn after(mut self, before: Option<&SentBefore>) -> Self {
        const PORTION: usize = 128 * 1024;
        let Some(before) = before else { return self };
        // They were in flight together, so that there is room for them.
        while self.rows.next_number().is_some_and(|next| next < before.rows.end)
            && let Some(chunk) = self.rows.next(self.window, PORTION)
        {
            self.in_flight.hold(chunk, before);
        }
        self
    }

    pub(super) async fn run(mut self) -> Result<Written, WriteFailure> {
        let total = self.rows.total();
        match self.send_all().await {
            Ok(()) => Ok(self.in_flight.into_ids().finish(total)),
            Err(fatal) => {
                let request = self.request;
                let failed = self.failed(fatal);
                let (row, unknown, rows_in) = (failed.row, failed.unknown.clone(), failed.rows_in);
                let (error, ids) = failed.explain(request, total, rows_in);
                Err(WriteFailure { error, written: ids.finish(total), row, unknown })
            }
        }
    }

    /// Sends the rows of a part; says which of them are in, and what is to become of the others.
    pub(super) async fn run_part(mut self) -> (Vec<(usize, EntryId)>, Ends, PartEnd) {
        let sent = self.send_all().await;
        let ends = std::mem::take(&mut self.in_flight.ends);
        let fatal = match sent {
            Ok(()) => return (self.in_flight.into_ids().into_part(), ends, PartEnd::Done),
            Err(fatal) => fatal,
        };
        // Rows that a lost connection may have brought are no rest: they are reported as unknown.
        let is_rest = match fatal {
            Fatal::Elsewhere(_) => true,
            Fatal::Halted => self.in_flight.uncertain().is_empty(),
            _ => false,
        };
        if is_rest && let Some(again) = self.in_flight.missing() {
            let from = self.rows.next_number().unwrap_or(usize::MAX);
            let sent_before = self.in_flight.sent_before();
            let halted = matches!(fatal, Fatal::Halted);
            let end = PartEnd::Rest { again, from, sent_before, halted };
            return (self.in_flight.into_ids().into_part(), ends, end);
        }
        if let Some(part) = &self.part {
            part.halted.store(true, Ordering::Relaxed);
        }
        let mut failed = self.failed(fatal);
        let ids = std::mem::replace(&mut failed.ids, Ids::with_capacity(0));
        (ids.into_part(), ends, PartEnd::Failed(Box::new(failed)))
    }

    async fn send_all(&mut self) -> Result<(), Fatal> {
        let sent = loop {
            if let Err(end) = self.attempt().await {
                match self.resume(end).await {
                    Ok(()) => continue,
                    Err(fatal) => break Err(fatal),
                }
            }
            break Ok(());
        };
        for (key, end) in self.in_flight.ends.known() {
            self.request.known_streams.reached(self.rows.keys.get(key), end);
        }
        sent
    }

    fn is_halted(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.halted.load(Ordering::Relaxed))
    }

    /// Sends rows and takes their answers, on one connection.
    async fn attempt(&mut self) -> Result<(), End> {
        let control = self.request.control.clone();
        let mut connection = self.connect().await?;
        loop {
            let stopped = control.is_stopped();
            let closing = stopped || self.is_halted() || self.in_flight.refused().is_some();
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
                    None if !stopped => Err(End::Halted),
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

    /// A connection to a server that has what was acknowledged, on this connection or on others.
    async fn connect(&mut self) -> Result<Connection, End> {
        let control = &self.request.control;
        loop {
            let connecting = self.session.take_connection();
            let connected = control.unless_stopped(connecting).await.ok_or(End::Stopped)?;
            let connection = connected.map_err(End::Lost)?;
            let number = connection.number();
            let doubtful = self.in_flight.ends.doubtful(number);
            if doubtful.is_empty() {
                self.in_flight.ends.go_on(number);
                return Ok(connection);
            }
            self.session.put_back(connection);
            let asking = lost_ends(&self.client, &self.rows, &doubtful);
            let lost = control.unless_stopped(asking).await.ok_or(End::Stopped)?;
            let lost = lost.map_err(|error| End::Failed(Fatal::Broken(error)))?;
            if !lost.is_empty() {
                let error = explained(&lost, &self.rows);
                return Err(End::Failed(Fatal::Lost(lost, error)));
            }
            self.in_flight.ends.go_on(number);
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
            End::Halted => Err(Fatal::Halted),
            End::Failed(fatal) => Err(fatal),
            End::Refused(refused) if self.leaves(&refused) => self.leave(refused).await,
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
                    Some(refused) if self.leaves(&refused) => {
                        let uncertain = self.in_flight.uncertain();
                        if !uncertain.is_empty() && !self.may_ask(&uncertain, &error) {
                            return Err(Fatal::Broken(error));
                        }
                        self.leave(refused).await
                    }
                    Some(refused) if is_answered => self.retry_refused(refused).await,
                    // Rows after it may be in, and are asked for with it.
                    Some(refused) if refused.error.retryable() && !refused.overtaken => {
                        self.reconnect(error, refused.row).await
                    }
                    Some(_) => Err(Fatal::Broken(error)),
                    None => self.reconnect(error, self.in_flight.outstanding().start).await,
                }
            }
        }
    }

    /// Whether the row is left to another node: that one may serve it alone, and none of the other
    /// streams, of the same slot even.
    fn leaves(&self, refused: &Refusal) -> bool {
        self.part.as_ref().is_some_and(|part| part.leaves)
            && refused.error.remedy() == Remedy::Rediscover
    }

    /// Has others send the rows that are not in.
    async fn leave(&mut self, refused: Refusal) -> Result<(), Fatal> {
        self.session.learn(&refused.error);
        // Rows that were sent before, on a lost connection, may have been refused because they are in.
        let range = self.in_flight.refused_again();
        if !range.is_empty() && self.have_ids(&range) {
            let control = self.request.control.clone();
            let found = match control.within_grace(self.find_added(range.clone(), true)).await {
                Some(Ok(found)) => found,
                Some(Err(error)) => return Err(Fatal::Unknown(error, range)),
                None => return Err(Fatal::Unknown(unanswered(), range)),
            };
            if let Some(missing) = found.missing {
                return Err(Fatal::Unknown(missing_rows(), missing));
            }
        }
        Err(Fatal::Elsewhere(refused.error))
    }

    fn have_ids(&self, rows: &Range<usize>) -> bool {
        self.in_flight.rows(rows.clone()).all(|row| row.own.is_some())
    }

    /// Whether one can find out which of these rows are in, after this error.
    fn may_ask(&self, rows: &Range<usize>, error: &Error) -> bool {
        // A server that was silent for too long may take them yet, and is asked as well: rows that it
        // knows cannot come twice.
        let is_lost = error.retryable() || error.kind() == ErrorKind::Timeout;
        is_lost && (self.have_ids(rows) || self.is_in_idmp_window())
    }

    /// After a pause the rows without an answer, which begin at this one, are sent again, but for those
    /// that are in already; an error where that cannot be told.
    async fn reconnect(&mut self, error: Error, from: usize) -> Result<(), Fatal> {
        let uncertain = self.in_flight.uncertain();
        let uncertain = uncertain.start.min(from)..uncertain.end;
        let is_own = self.have_ids(&uncertain);
        if !uncertain.is_empty() && !self.may_ask(&uncertain, &error) {
            return Err(Fatal::Broken(error));
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
            self.in_flight.resend(from);
        } else if is_own {
            let found = control.within_grace(self.find_added(uncertain, false)).await;
            let found = found.ok_or(Fatal::Stopped)?.map_err(Fatal::Broken)?;
            if let Some(missing) = found.missing {
                return Err(Fatal::Unknown(missing_rows(), missing));
            }
            self.in_flight.resend(found.next);
        } else if self.is_in_idmp_window() {
            self.in_flight.resend(from);
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
        let leaves = self.part.as_ref().is_some_and(|part| part.leaves);
        let found = match control.within_grace(self.find_added(range.clone(), leaves)).await {
            Some(Ok(found)) => found,
            Some(Err(error)) => return Err(Fatal::Unknown(error, range)),
            None => return Err(Fatal::Unknown(unanswered(), range)),
        };
        if found.missing.is_some() || found.next < range.end {
            // Some may have been refused because another node serves them.
            let is_left = leaves && found.missing.is_none() && self.in_flight.missing().is_some();
            return Err(if is_left {
                Fatal::Elsewhere(error)
            } else {
                Fatal::Unknown(error, range)
            });
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

    /// Asks the streams which of these rows they hold, and records those as added: `all` of them, or
    /// those before the first that is missing, from which on rows are sent again.
    async fn find_added(&mut self, range: Range<usize>, all: bool) -> Result<Found> {
        let mut wanted: BTreeMap<usize, (EntryId, EntryId)> = BTreeMap::new();
        for row in self.in_flight.rows(range.clone()) {
            if let Some(id) = row.own {
                wanted.entry(row.key).or_insert((id, id)).1 = id;
            }
        }
        let mut held: HashSet<(usize, EntryId)> = HashSet::new();
        for (key, (first, last)) in wanted {
            let stream = self.rows.keys.get(key);
            // Another node may have it than the one that has the stream before.
            self.questions.aim(stream, false);
            let ids = present(&mut self.questions, stream, first, last).await?;
            held.extend(ids.into_iter().map(|id| (key, id)));
        }
        let is_held = |key, own: Option<EntryId>| own.is_some_and(|id| held.contains(&(key, id)));
        let rows: Vec<(usize, bool)> = self
            .in_flight
            .rows(range.clone())
            .map(|row| (row.key, is_held(row.key, row.own)))
            .collect();
        // The server takes commands in order: what comes before a row of the same stream that is there
        // was there. Unless something removes entries, which we may have asked for ourselves.
        let mut last: HashMap<usize, usize> = HashMap::new();
        for (at, (key, _)) in rows.iter().enumerate().filter(|(_, (_, held))| *held) {
            last.insert(*key, at);
        }
        let was_there = |at: usize, key: &usize| last.get(key).is_some_and(|last| at <= *last);
        let next = rows.iter().enumerate().position(|(at, (key, _))| !was_there(at, key));
        let next = range.start + next.unwrap_or(rows.len());
        let trims = self.request.trim.is_some();
        let gone = rows.iter().enumerate().filter(|(at, (key, held))| !held && was_there(*at, key));
        let gone = gone.map(|(at, _)| range.start + at).filter(|_| !trims);
        let missing = gone.fold(None, |found: Option<Range<usize>>, row| {
            Some(found.map_or(row, |found| found.start)..row + 1)
        });
        let mut added = Vec::new();
        let end = if all { range.end } else { next };
        for (at, (row, (_, held))) in
            self.in_flight.rows_mut(range.start..end).zip(&rows).enumerate()
        {
            if let Some(own) = row.own
                && (*held || (trims && was_there(at, &row.key)))
                && !matches!(row.state, RowState::Added(_))
            {
                row.state = RowState::Added(own);
                added.push((row.key, own));
                self.request.control.add_rows(1);
            }
        }
        added.into_iter().for_each(|(key, id)| self.in_flight.ends.acknowledged(key, id));
        Ok(Found { next, missing })
    }

    fn failed(self, fatal: Fatal) -> Failed {
        let mut unknown = self.in_flight.uncertain();
        let mut refused = 0;
        match &fatal {
            Fatal::Refused(Refusal { row, .. }) => {
                refused = self.in_flight.number(*row).unwrap_or_default();
            }
            Fatal::Elsewhere(_) => refused = self.in_flight.first_missing().unwrap_or_default(),
            Fatal::Unknown(_, range) => unknown = range.start..range.end.max(unknown.end),
            // With what was acknowledged goes what was sent after it.
            Fatal::Lost(..) => unknown = 0..0,
            _ => {}
        }
        let lost = if let Fatal::Lost(lost, _) = &fatal { lost.clone() } else { Vec::new() };
        let unknown = self.in_flight.numbers(unknown);
        let missing = self.in_flight.first_missing().or(self.rows.next_number());
        let mut ids = self.in_flight.into_ids();
        let first_lost = forget(&mut ids, &lost, &self.rows);
        let row = first_lost.into_iter().chain(missing).min();
        Failed { fatal, refused, unknown, row, rows_in: ids.rows(), ids, lost }
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
