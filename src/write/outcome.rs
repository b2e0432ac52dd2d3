//! What became of the rows.

use std::ops::Range;

use arrow_array::builder::StringViewBuilder;
use arrow_array::{Array, StringViewArray};

use super::request::{RowsBefore, WriteRequest};
use crate::client::Client;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, counted};

/// Says how many of all rows are in.
pub(super) fn counted_in(rows: usize, all: usize) -> String {
    let is = if rows == 1 || all == 1 { "is" } else { "are" };
    format!("{rows} of {} {is} in", counted(all, "row", "rows"))
}

/// Says whose answers were lost; there is one row at least.
pub(super) fn answers_lost(rows: Range<usize>) -> String {
    match rows.len() {
        1 => {
            format!("the answer for row {} was lost, and nobody knows whether it is in", rows.start)
        }
        _ => format!(
            "the answers for rows {} to {} were lost, and nobody knows whether those are in",
            rows.start,
            rows.end.saturating_sub(1)
        ),
    }
}

/// What became of the rows of a write.
#[derive(Debug, Clone)]
pub struct Written {
    ids: StringViewArray,
    rows: usize,
}

impl Written {
    /// That many rows, which have no IDs.
    #[cfg(feature = "python")]
    pub(crate) fn of_rows(rows: usize) -> Written {
        Ids::with_capacity(0).count(rows)
    }

    /// The entry ID of each row; null where the row is not in.
    pub fn ids(&self) -> &StringViewArray {
        &self.ids
    }

    /// How many rows are in.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// A write that did not bring in all rows.
#[derive(Debug)]
pub struct WriteFailure {
    pub(super) error: Error,
    pub(super) written: Written,
    pub(super) row: Option<usize>,
    pub(super) unknown: Range<usize>,
}

impl WriteFailure {
    /// Numbers the rows from those on that came before.
    pub(super) fn after(mut self, before: RowsBefore) -> Self {
        if before.rows > 0 {
            let number = |row: usize| before.rows + row;
            self.row = self.row.map(number);
            if !self.unknown.is_empty() {
                self.unknown = number(self.unknown.start)..number(self.unknown.end);
            }
            self.error = self.error.map_context("row", |row| {
                row.parse().map_or_else(|_| row.to_owned(), |row| number(row).to_string())
            });
            let sent = match before.rows {
                1 => "nothing after the first row has been sent".to_owned(),
                rows => format!("nothing after the first {rows} rows has been sent"),
            };
            let message = self.error.message().replace("nothing has been sent", &sent);
            self.error = self.error.with_message(message);
        }
        if before.written > 0 {
            self = self.counting(before);
        }
        self
    }

    /// Tells of the rows that are in from before, where the error alone does not.
    fn counting(mut self, before: RowsBefore) -> Self {
        match self.error.kind() {
            // By that kind alone nothing would be in.
            ErrorKind::WrongType => {
                let row = self.row.unwrap_or(before.rows);
                let (rows_in, all) =
                    (before.written + self.written.rows, before.rows + self.total());
                let message = self.error.message().replace("; nothing is in", "");
                let count = format!("{}, none from row {row} on", counted_in(rows_in, all));
                self.error = self.error.with_message(message).reframed(ErrorKind::Write, &count);
                self.row = Some(row);
            }
            // What was refused before it was sent says so.
            ErrorKind::Write
            | ErrorKind::OutcomeUnknown
            | ErrorKind::DataLoss
            | ErrorKind::Schema
            | ErrorKind::InvalidArgument => {}
            _ => self.error = self.error.with_context("rows in", before.written.to_string()),
        }
        self
    }

    /// The failure as the caller of a write is told of it.
    pub(super) fn told(self, client: &Client, request: &WriteRequest) -> Self {
        self.without_password(client).after(request.before)
    }

    /// Whether nothing is in because a key holds no stream.
    pub(super) fn is_of_a_wrong_type(&self) -> bool {
        let nothing_is_in = self.written.rows == 0 && self.unknown.is_empty();
        nothing_is_in && self.error.kind() == ErrorKind::WrongType
    }

    /// How many rows were to be written.
    fn total(&self) -> usize {
        self.written.ids.len()
    }

    /// None of the rows was sent; the error's context may name the row that is to blame.
    pub(super) fn before_the_first(error: Error, total: usize) -> Self {
        let row = error.context().iter().find(|(name, _)| *name == "row");
        let row = row.and_then(|(_, row)| row.parse().ok());
        let written = Ids::with_capacity(0).finish(total);
        WriteFailure { error, written, row, unknown: 0..0 }
    }

    /// Nobody waited for the end of the write, when that many rows were known to be in.
    pub(crate) fn unawaited(rows: u64, total: usize) -> Self {
        let rows = usize::try_from(rows).unwrap_or(total);
        let message = format!(
            "{}, and nobody waited for the answers to the others: whether they are in is unknown",
            counted_in(rows, total)
        );
        let ids = Ids::with_capacity(0).finish(total).ids;
        let written = Written { ids, rows };
        let error = Error::new(ErrorKind::OutcomeUnknown, message);
        WriteFailure { error, written, row: None, unknown: 0..total }
    }

    /// The same without the password, which the server may quote.
    pub(super) fn without_password(mut self, client: &Client) -> Self {
        self.error = client.without_password(self.error);
        self
    }

    /// Why.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// What became of the rows of this write, as far as it is known: those with an ID are in.
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// The first row that is not in, counted after [those before](RowsBefore).
    pub fn row(&self) -> Option<usize> {
        self.row
    }

    /// Rows of which nobody knows whether they are in, because the reply was lost;
    /// counted in the same way.
    pub fn unknown(&self) -> Range<usize> {
        self.unknown.clone()
    }
}

impl From<WriteFailure> for Error {
    fn from(failure: WriteFailure) -> Self {
        failure.error
    }
}

impl std::fmt::Display for WriteFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for WriteFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Collects the IDs of rows, in their order.
pub(super) struct Ids {
    builder: StringViewBuilder,
    len: usize,
    rows: usize,
    /// Those of a part of the rows, which are put together with others.
    part: Option<Vec<(usize, EntryId)>>,
}

impl Ids {
    pub(super) fn with_capacity(rows: usize) -> Self {
        let builder = StringViewBuilder::with_capacity(rows);
        Ids { builder, len: 0, rows: 0, part: None }
    }

    /// For a part of the rows.
    pub(super) fn of_part() -> Self {
        Ids { part: Some(Vec::new()), ..Ids::with_capacity(0) }
    }

    /// The rows of a part that are in, and their IDs.
    pub(super) fn into_part(self) -> Vec<(usize, EntryId)> {
        self.part.unwrap_or_default()
    }

    /// The ID of a row after all that were pushed; rows between them have none.
    pub(super) fn push(&mut self, row: usize, id: EntryId) {
        if let Some(part) = &mut self.part {
            part.push((row, id));
            self.rows += 1;
            return;
        }
        self.fill(row);
        let mut buffer = [0; EntryId::MAX_LEN];
        match std::str::from_utf8(id.write(&mut buffer)) {
            Ok(text) => self.builder.append_value(text),
            Err(_) => self.builder.append_null(),
        }
        self.len += 1;
        self.rows += 1;
    }

    fn fill(&mut self, row: usize) {
        while self.len < row {
            self.builder.append_null();
            self.len += 1;
        }
    }

    /// How many rows have an ID.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the IDs of rows away that are not in after all; gives the number of the first.
    pub(super) fn forget(&mut self, is_lost: impl Fn(usize, EntryId) -> bool) -> Option<usize> {
        if let Some(part) = &mut self.part {
            let first = part.iter().find(|(row, id)| is_lost(*row, *id)).map(|(row, _)| *row);
            part.retain(|(row, id)| !is_lost(*row, *id));
            self.rows = part.len();
            return first;
        }
        let known = self.builder.finish();
        let (mut first, len) = (None, self.len);
        (self.len, self.rows) = (0, 0);
        for (row, text) in known.iter().enumerate() {
            match text.and_then(|text| EntryId::from_bytes(text.as_bytes())) {
                Some(id) if is_lost(row, id) => first = first.or(Some(row)),
                Some(id) => self.push(row, id),
                None => {}
            }
        }
        self.fill(len);
        first
    }

    /// That many rows, which have no IDs.
    pub(super) fn count(mut self, rows: usize) -> Written {
        Written { ids: self.builder.finish(), rows }
    }

    /// The IDs, of that many rows in all.
    pub(super) fn finish(mut self, rows: usize) -> Written {
        self.fill(rows);
        Written { ids: self.builder.finish(), rows: self.rows }
    }
}
