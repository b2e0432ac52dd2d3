//! A request for entries.

use std::time::Duration;

use crate::resp::{self, Packed, PageLimit};

/// A command that asks for entries, how many it asks for, and how long the server waits for the
/// first.
#[derive(Debug, Clone)]
pub(super) struct PageRequest {
    pub(super) command: Packed,
    pub(super) limit: PageLimit,
    pub(super) wait: Option<Duration>,
    /// The number of small replies before the one with entries, to commands that were sent along.
    pub(super) before: usize,
    /// The first of all replies is that to the question for the newest entry.
    pub(super) asks_newest: bool,
    /// Which of several streams the entries are of.
    pub(super) stream: usize,
}

impl PageRequest {
    pub(super) fn new(command: Packed, limit: PageLimit) -> Self {
        PageRequest { command, limit, wait: None, before: 0, asks_newest: false, stream: 0 }
    }

    /// Asks for the newest entry first, in the same round trip.
    pub(super) fn with_newest(self, stream: &[u8]) -> Self {
        self.with_newest_by(resp::newest(stream))
    }

    /// The same by this question.
    pub(super) fn with_newest_by(self, question: Packed) -> Self {
        let command = [question, self.command].concat();
        PageRequest { command, asks_newest: true, ..self }
    }
}
