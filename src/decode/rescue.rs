//! The rescue column: what did not fit, as one JSON object a row.

use arrow_array::ArrayRef;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::column::{ColumnBuilder, Text};
use super::text::{Content, ViewColumn};
use crate::error::Result;

pub(crate) struct RescueColumn {
    column: ViewColumn,
    /// What has been rescued of the rows on the tape.
    rescued: Vec<(usize, String, Value)>,
}

impl RescueColumn {
    pub(crate) fn new() -> Self {
        RescueColumn { column: ViewColumn::new(Content::Utf8), rescued: Vec::new() }
    }

    /// Keeps a value of a row; rows count from the last [`RescueColumn::advance`].
    pub(crate) fn keep(&mut self, row: usize, name: &[u8], value: &[u8]) {
        // Escaped, two names that are not text stay two; replaced, they might become one.
        let name = match std::str::from_utf8(name) {
            Ok(text) => text.to_owned(),
            Err(_) => name.escape_ascii().to_string(),
        };
        // JSON has no bytes: what is not text is kept whole as base64, in an object that says so.
        let value = match std::str::from_utf8(value) {
            Ok(text) => Value::from(text),
            Err(_) => json!({ "$base64": BASE64_STANDARD.encode(value) }),
        };
        self.rescued.push((row, name, value));
    }

    /// Appends so many rows, each with what was kept of it, or null.
    pub(crate) fn advance(&mut self, rows: usize) {
        let base = self.column.len();
        // Columns were read one after the other, so their misfits come row by row only now. The
        // sort is stable: of a repeated field the last value wins.
        self.rescued.sort_by_key(|(row, _, _)| *row);
        let mut rescued = std::mem::take(&mut self.rescued).into_iter().peekable();
        while let Some((row, name, value)) = rescued.next() {
            let mut object = Map::from_iter([(name, value)]);
            while let Some((_, name, value)) = rescued.next_if(|(next, _, _)| *next == row) {
                object.insert(name, value);
            }
            self.fill(base + row);
            let json = Value::Object(object).to_string();
            if self.column.append(Text::of(&json)).is_err() {
                self.column.append_nulls(1);
            }
        }
        self.fill(base + rows);
    }

    fn fill(&mut self, rows: usize) {
        if rows > self.column.len() {
            self.column.append_nulls(rows - self.column.len());
        }
    }

    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        self.column.finish()
    }
}
