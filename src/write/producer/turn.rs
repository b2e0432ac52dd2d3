//! Entries that their callers write themselves.

use std::sync::Arc;

use super::state::Items;
use super::{Producer, ProducerFailure};
use crate::write::outcome::WriteFailure;
use crate::write::request::RowsBefore;

/// An entry that its caller writes, while the producer's worker waits: see [`Producer::send_in_turn`].
pub(crate) struct Turn {
    producer: Producer,
    items: Option<Items>,
}

impl Turn {
    pub(super) fn new(producer: Producer, items: Items) -> Self {
        Turn { producer, items: Some(items) }
    }

    /// Writes it as the worker would. To be run to its end, wherever that is.
    #[cfg(feature = "python")]
    pub(crate) async fn write(mut self) {
        let Some(items) = &mut self.items else { return };
        self.producer.write(std::mem::take(items)).await;
        self.items = None;
    }
}

impl Drop for Turn {
    /// Where it was not run to its end, by a panic say, nobody knows what became of the entry.
    fn drop(&mut self) {
        if self.items.is_some() {
            let mut state = self.producer.state();
            let (first_row, rows_before) = (state.settled, state.rows_written);
            let before = RowsBefore { rows: first_row, written: rows_before };
            let failure = Arc::new(WriteFailure::unawaited(0, 1).after(before));
            state.fail(ProducerFailure { failure, first_row, rows_before });
            self.producer.end_turn(state);
        }
    }
}
