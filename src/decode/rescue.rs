//! The rescue column: what did not fit, as one JSON object a row.
//!
//! Each field is a member, and its value a string; `{"$base64": ...}` where it is not text, since
//! JSON has no bytes. A value inside a field's has its path for a name, such as `items[1].price`. A field that an entry repeats has the list of all its values. In a name a
//! byte that is not text is `\\xff`, and a backslash is doubled, so that two names stay two.

use arrow_array::ArrayRef;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::column::{ColumnBuilder, Origin, Text, packed_text};
use super::tape::{Repeat, Slot, Tape};
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

    /// Keeps a value of a row on the tape.
    pub(crate) fn keep(&mut self, row: usize, name: &[u8], value: &[u8]) {
        self.rescued.push((row, name_text(name), value_json(value)));
    }

    /// Appends the rows of the tape, each with what was kept of it, or null.
    pub(crate) fn append(&mut self, tape: &Tape) {
        for stray in tape.strays() {
            let (name, value) =
                (stray.name.of(tape.bytes()), stray.value.without_origin().of(tape.bytes()));
            self.keep(stray.value.row as usize, name, value);
        }
        self.keep_repeats(tape);
        let base = self.column.len();
        // Columns were read one after the other, so their misfits come row by row only now.
        self.rescued.sort_by_key(|(row, _, _)| *row);
        let mut rescued = std::mem::take(&mut self.rescued).into_iter().peekable();
        while let Some((row, name, value)) = rescued.next() {
            let mut object = Map::from_iter([(name, value)]);
            while let Some((_, name, value)) = rescued.next_if(|(next, _, _)| *next == row) {
                add_member(&mut object, name, value);
            }
            self.column.fill(base + row);
            let json = Value::Object(object).to_string();
            if self.column.push(Text::of(&json)).is_err() {
                self.column.append_nulls(1);
            }
        }
        self.column.fill(base + tape.ids().len());
    }

    /// Keeps all values of the fields that an entry repeats; their columns have the last.
    fn keep_repeats(&mut self, tape: &Tape) {
        let mut repeats = tape.repeats().to_vec();
        repeats.sort_by_key(|repeat| (repeat.slot.row, repeat.column));
        for same in repeats
            .chunk_by(|one, other| (one.slot.row, one.column) == (other.slot.row, other.column))
        {
            let Some(Repeat { column, slot: Slot { row, .. } }) = same.first() else {
                continue;
            };
            let slots = tape.slots(*column);
            let last = slots.binary_search_by_key(row, |slot| slot.row).ok();
            let last = last.and_then(|index| slots.get(index));
            let values = same.iter().map(|repeat| &repeat.slot).chain(last);
            let values = values.map(|slot| match slot.origin() {
                Origin::Null => Value::Null,
                Origin::Packed => value_json(&packed_text(slot.without_origin().of(tape.bytes()))),
                _ => value_json(slot.without_origin().of(tape.bytes())),
            });
            let values = values.collect();
            let name = name_text(tape.column_name(*column).as_bytes());
            self.rescued.push((*row as usize, name, values));
        }
    }

    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        self.column.finish()
    }
}

/// Adds a field's value: to those that it has already, where the entry repeats it.
fn add_member(object: &mut Map<String, Value>, name: String, value: Value) {
    match object.get_mut(&name) {
        // The list of all, of which the one that did not fit its column was the last.
        Some(kept) if value.is_array() => *kept = value,
        Some(Value::Array(values)) => values.push(value),
        Some(kept) => *kept = Value::Array(vec![kept.take(), value]),
        None => drop(object.insert(name, value)),
    }
}

fn value_json(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "$base64": BASE64_STANDARD.encode(value) }),
    }
}

fn name_text(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\\"));
        text.extend(chunk.invalid().iter().map(|byte| format!(r"\x{byte:02x}")));
    }
    text
}
