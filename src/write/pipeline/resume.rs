//! How a pipeline goes on after rows were refused, or a connection was lost: what may be in is asked for.

use std::ops::Range;

use super::{End, Pipeline};
use crate::error::{Error, ErrorKind, Remedy, Result, ServerCode};
use crate::write::control::{stopped, unanswered};
use crate::write::failed::Fatal;
use crate::write::in_flight::{Found, Refusal};
use crate::write::reconcile::held;
use crate::write::rows::RowState;

impl Pipeline<'_> {
    /// Makes the next attempt possible, or says why there is to be none.
    pub(super) async fn resume(&mut self, end: End) -> Result<(), Fatal> {
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
            let found = self.look_again(range, true).await?;
            if let Some(missing) = found.missing {
                return Err(Fatal::Unknown(missing_rows(), missing));
            }
        }
        Err(Fatal::Elsewhere(refused.error))
    }

    pub(super) fn have_ids(&self, rows: &Range<usize>) -> bool {
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
            let found = control.within_grace(self.look(uncertain, false)).await;
            let found = found.ok_or(Fatal::Stopped)?.map_err(Fatal::Broken)?;
            if let Some(missing) = found.missing {
                return Err(Fatal::Unknown(missing_rows(), missing));
            }
            self.in_flight.resend(found.next);
        } else {
            // If the server still recognises them, which is looked at before anything is sent.
            self.in_flight.resend(from);
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
        let leaves = self.part.as_ref().is_some_and(|part| part.leaves);
        let found = self.look_again(range.clone(), leaves).await?;
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
            // Perhaps because another node serves them.
            Some(_) if leaves && self.in_flight.missing().is_some() => Err(Fatal::Elsewhere(error)),
            Some(at) => Err(Fatal::Refused(Refusal { row: range.end + at, ..refused })),
        }
    }

    /// Whether the server still recognises the rows that are in flight.
    pub(super) fn is_in_idmp_window(&self) -> bool {
        self.idmp_window
            .zip(self.in_flight.since())
            .is_some_and(|(idmp_window, since)| idmp_window.holds(since))
    }

    /// Asks the streams which of these rows they hold, and records those as added: `all` of them, or
    /// those before the first that is missing, from which on rows are sent again.
    async fn look(&mut self, range: Range<usize>, all: bool) -> Result<Found> {
        let rows = self.in_flight.rows(range.clone());
        let held = held(&mut self.questions, &self.rows.keys, rows).await?;
        Ok(self.in_flight.found(range, &held, self.request.trim.is_some(), all))
    }

    /// The same of rows that were refused.
    async fn look_again(&mut self, range: Range<usize>, all: bool) -> Result<Found, Fatal> {
        let control = self.request.control.clone();
        match control.within_grace(self.look(range.clone(), all)).await {
            Some(found) => found.map_err(|error| Fatal::Unknown(error, range)),
            None => Err(Fatal::Unknown(unanswered(), range)),
        }
    }
}

fn missing_rows() -> Error {
    Error::new(
        ErrorKind::Response,
        "the stream holds rows that were sent after them, so somebody has removed them or the \
         server has refused them",
    )
}

pub(super) fn forgotten() -> Error {
    Error::new(ErrorKind::Connection, "it took longer than the server recognises rows")
}
