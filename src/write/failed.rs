//! Why a pipeline came to its end before its rows were in.

use std::ops::Range;

use super::control::stopped;
use super::in_flight::Refusal;
use super::lost_ends::LostEnd;
use super::outcome::{Ids, answers_lost, counted_in};
use super::request::WriteRequest;
use crate::error::{Error, ErrorKind};

/// Why the write ends.
pub(super) enum Fatal {
    /// Another node of the cluster serves the stream of a row.
    Elsewhere(Error),
    Halted,
    /// The rows from here on are not in, but for those that have an ID.
    Refused(Refusal),
    /// No connection could be had.
    Broken(Error),
    /// Nobody knows whether these rows are in, for a reason beside a lost answer.
    Unknown(Error, Range<usize>),
    /// The server lacks entries that it had acknowledged.
    Lost(Vec<LostEnd>, Error),
    Stopped,
}

/// A write, or a part of one, that came to its end before all of its rows were in.
pub(super) struct Failed {
    pub(super) fatal: Fatal,
    /// The number of the row that was refused, if one was.
    pub(super) refused: usize,
    /// The numbers of rows of which nobody knows.
    pub(super) unknown: Range<usize>,
    /// The first that is not in.
    pub(super) row: Option<usize>,
    pub(super) rows_in: usize,
    pub(super) ids: Ids,
    /// The ends of streams that are lost, which rows of other parts may be in.
    pub(super) lost: Vec<LostEnd>,
}

impl Failed {
    /// Of rows that were not sent: nobody knows where to, or the write is stopped.
    pub(super) fn before_the_rest(error: Option<Error>, row: Option<usize>) -> Self {
        Failed {
            fatal: error.map_or(Fatal::Stopped, Fatal::Broken),
            refused: 0,
            unknown: 0..0,
            row,
            rows_in: 0,
            ids: Ids::with_capacity(0),
            lost: Vec::new(),
        }
    }

    /// The failure, where this number of all rows is in.
    pub(super) fn explain(
        self,
        request: &WriteRequest,
        total: usize,
        rows_in: usize,
    ) -> (Error, Ids) {
        let before = request.before;
        let (all_in, all) = (before.written + rows_in, before.rows + total);
        let count = counted_in(all_in, all);
        let is_in_part = rows_in > 0;
        let error = match self.fatal {
            Fatal::Refused(Refusal { error, .. }) | Fatal::Elsewhere(error) => {
                let is_typed =
                    matches!(error.kind(), ErrorKind::WrongType | ErrorKind::Authentication);
                let row = before.rows + self.refused;
                // A key that is no stream is explained later.
                let is_first = error.kind() == ErrorKind::WrongType || before.written == 0;
                match is_typed && !is_in_part && is_first {
                    true => error,
                    false => {
                        error.reframed(ErrorKind::Write, &format!("row {row} was refused, {count}"))
                    }
                }
            }
            Fatal::Broken(error) if !is_in_part => error,
            Fatal::Broken(error) => {
                error.reframed(ErrorKind::Write, &format!("the write cannot go on, {count}"))
            }
            Fatal::Stopped | Fatal::Halted => stopped().reframed(ErrorKind::Write, &count),
            Fatal::Unknown(error, _) => error,
            Fatal::Lost(_, error) if error.kind() == ErrorKind::DataLoss => error,
            Fatal::Lost(_, error) => error.reframed(ErrorKind::Write, &count),
        };
        // Whatever ends the write, rows that were sent and have no answer may be in.
        let error = match self.unknown.is_empty() {
            true => error,
            false => error.reframed(
                ErrorKind::OutcomeUnknown,
                &answers_lost(before.rows + self.unknown.start..before.rows + self.unknown.end),
            ),
        };
        let error = match request.stream_name() {
            Some(stream) => error.with_context("stream", stream),
            None => error,
        };
        (error, self.ids)
    }
}
