//! XADDs pipelined without MULTI: sent ahead of their replies, and again where that is safe.

mod resume;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::resume::forgotten;
use super::control::unanswered;
use super::ends::Ends;
use super::failed::{Failed, Fatal};
use super::idmp_window::IdmpWindow;
use super::in_flight::{InFlight, Refusal, SentBefore};
use super::lost_ends::{explained, forget, lost_ends};
use super::outcome::{Ids, WriteFailure, Written};
use super::request::WriteRequest;
use super::rows::Rows;
use crate::client::{Client, Connection, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};

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
    /// The streams have come to these `ends`, as far as is known.
    pub(super) fn new(client: &Client, rows: Rows, ends: Ends, request: &'r WriteRequest) -> Self {
        let in_flight = InFlight::new(rows.total(), ends, request.control.clone());
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

    /// Over the connection of this session, which leads to the same stream.
    pub(super) fn over(mut self, session: Session) -> Self {
        self.session = session;
        self
    }

    /// The server recognises rows that come again, as long as no more are in flight.
    pub(super) fn with_idmp_window(mut self, idmp_window: Option<IdmpWindow>) -> Self {
        if let Some(idmp_window) = idmp_window {
            self.window = self.window.min(idmp_window.rows.max(1));
        }
        self.idmp_window = idmp_window;
        self
    }

    /// Its rows are a part of those that are written. It sends no more of them once `halted`; and where
    /// `leaves` once another node of the cluster serves some, which are then left to others.
    pub(super) fn into_part(mut self, halted: Arc<AtomicBool>, leaves: bool) -> Self {
        self.in_flight = self.in_flight.of_part();
        self.part = Some(PartOf { halted, leaves });
        self
    }

    /// Some of the rows may be in, by what was sent before.
    pub(super) fn after(mut self, before: Option<&SentBefore>) -> Self {
        const PORTION: usize = 128 * 1024;
        let Some(before) = before else { return self };
        // They were in flight together, so that there is room for them.
        while self.rows.next_number().is_some_and(|next| next < before.rows.end)
            && let Some(chunk) =
                self.rows.next(self.window.saturating_sub(self.in_flight.waiting()).max(1), PORTION)
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
        let uncertain = self.in_flight.uncertain();
        if !uncertain.is_empty() && !self.have_ids(&uncertain) && !self.is_in_idmp_window() {
            self.session.put_back(connection);
            return Err(End::Failed(Fatal::Broken(forgotten())));
        }
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
