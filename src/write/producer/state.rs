//! What a producer holds, and who is to write it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;

use super::{ProducerFailure, ProducerOptions};
use crate::write::control::stopped_before_the_first;
use crate::write::outcome::WriteFailure;
use crate::write::request::RowsBefore;
use crate::write::rows::Entry;
use crate::write::sent::Slot;

#[derive(Default)]
pub(super) struct State {
    pub(super) queue: VecDeque<Item>,
    pub(super) bytes: usize,
    /// When the oldest of the queue came.
    pub(super) since: Option<Instant>,
    /// Rows that were taken, and rows that are settled.
    pub(super) taken: usize,
    pub(super) settled: usize,
    pub(super) rows_written: usize,
    /// Rows before this one are not to wait for others.
    pub(super) flushed: usize,
    pub(super) closed: bool,
    pub(super) failed: Option<Arc<ProducerFailure>>,
    /// Somebody writes what was taken out of the queue: the worker, or a [`Turn`](super::Turn).
    pub(super) writing: bool,
    /// Whether it was a turn that wrote last; none before the first.
    pub(super) by_turn: Option<bool>,
    /// How many entries in a row could have had a turn.
    pub(super) alone: usize,
}

/// Batches, and whatever has to become of their memory when they are written.
pub(super) type Frame = Box<dyn Deref<Target = [RecordBatch]> + Send + Sync>;

pub(super) enum Item {
    Entry(Entry, Slot),
    /// With its stream, where it is not the request's, and its rows and bytes.
    Frame(Frame, Option<Vec<u8>>, usize, usize),
}

impl Item {
    fn rows(&self) -> usize {
        match self {
            Item::Entry(..) => 1,
            Item::Frame(_, _, rows, _) => *rows,
        }
    }
}

/// What is written at once: a frame, or entries.
#[derive(Default)]
pub(super) struct Items {
    pub(super) frame: Option<(Frame, Option<Vec<u8>>)>,
    pub(super) entries: Vec<Entry>,
    pub(super) slots: Vec<Slot>,
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// What the worker is to do.
pub(super) enum Plan {
    Write(Items),
    /// Wait for more to do, or that long for others to be sent with what is there.
    Wait(Option<Duration>),
    End,
}

impl State {
    /// What the worker is to do next.
    pub(super) fn plan(&mut self, is_stopped: bool, options: &ProducerOptions) -> Plan {
        if self.writing {
            // Whoever writes tells when that is done.
            return Plan::Wait(None);
        }
        if is_stopped {
            self.give_up();
            return Plan::End;
        }
        let full = self.queue.len() >= options.batch_rows;
        let age = self.since.map(|since| since.elapsed());
        let due = age.is_some_and(|age| age >= options.linger);
        let pressed = self.flushed > self.settled || self.closed;
        let holds_frame = matches!(self.queue.front(), Some(Item::Frame(..)));
        if !self.queue.is_empty() && (full || due || pressed || holds_frame) {
            self.by_turn = Some(false);
            return Plan::Write(self.next(options.batch_rows));
        }
        if self.queue.is_empty() && self.closed {
            return Plan::End;
        }
        Plan::Wait(age.map(|age| options.linger.saturating_sub(age)))
    }

    pub(super) fn fail(&mut self, failure: ProducerFailure) {
        self.failed = Some(Arc::new(failure));
        self.closed = true;
        self.queue.clear();
    }

    /// What was not sent is not in.
    fn give_up(&mut self) {
        let rows = self.queue.iter().map(Item::rows).sum();
        if rows > 0 {
            let (first_row, rows_before) = (self.settled, self.rows_written);
            let before = RowsBefore { rows: first_row, written: rows_before };
            let error = stopped_before_the_first(rows, before);
            let failure = Arc::new(WriteFailure::before_the_first(error, rows).after(before));
            self.fail(ProducerFailure { failure, first_row, rows_before });
        }
    }

    /// Whether the item that came last is its caller's to write. What the worker writes goes over another
    /// connection, on which the server is asked first whether it has what was acknowledged on this one:
    /// so those who come together with others leave all to the worker, until they have come alone for
    /// a while.
    pub(super) fn has_turn(&mut self, in_turn: bool) -> bool {
        const A_WHILE: usize = 32;
        let is_alone = in_turn && self.queue.len() == 1 && !self.writing;
        self.alone = if is_alone { self.alone.saturating_add(1) } else { 0 };
        is_alone && (self.by_turn != Some(false) || self.alone >= A_WHILE)
    }

    /// Takes out what is to be written next; nobody else may meanwhile.
    pub(super) fn next(&mut self, most: usize) -> Items {
        self.writing = true;
        let mut items = Items::default();
        while items.rows < most {
            match self.queue.pop_front() {
                Some(Item::Entry(entry, slot)) => {
                    items.rows += 1;
                    items.bytes += entry.len();
                    items.entries.push(entry);
                    items.slots.push(slot);
                }
                Some(Item::Frame(frame, stream, rows, bytes)) if items.rows == 0 => {
                    self.since = self.since.filter(|_| !self.queue.is_empty());
                    return Items { frame: Some((frame, stream)), rows, bytes, ..items };
                }
                Some(frame) => {
                    self.queue.push_front(frame);
                    break;
                }
                None => break,
            }
        }
        self.since = self.since.filter(|_| !self.queue.is_empty());
        items
    }
}
