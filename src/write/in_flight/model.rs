//! Random histories of connections: what is called in is in, and what is called absent is not.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{LENGTH, pushed, row};
use super::*;

#[derive(Debug, Clone)]
enum Event {
    Push(usize),
    Send(usize),
    /// The server takes the next rows that have come; it refuses some.
    Serve(Vec<bool>),
    Deliver(usize),
    /// The connection is lost, and that many rows more are executed.
    Lose(usize),
    /// What the server refused is sent again.
    Retry,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => (1usize..5).prop_map(Event::Push),
        4 => (1usize..40).prop_map(Event::Send),
        4 => vec(prop::bool::weighted(0.8), 1..5).prop_map(Event::Serve),
        4 => (1usize..30).prop_map(Event::Deliver),
        1 => (0usize..4).prop_map(Event::Lose),
        1 => Just(Event::Retry),
    ];
    vec(event, 0..60)
}

struct Model {
    rows: InFlight,
    pushed: usize,
    /// Rows that the server has executed, on any connection.
    executed: BTreeSet<usize>,
    /// Rows that were sent as a whole, on any connection.
    sent: BTreeSet<usize>,
    /// The row that the server takes next on this connection.
    next: usize,
    replies: Vec<u8>,
}

impl Model {
    fn new() -> Self {
        let (executed, sent) = (BTreeSet::new(), BTreeSet::new());
        Model { rows: pushed(0), pushed: 0, executed, sent, next: 0, replies: Vec::new() }
    }

    /// Says whether the write goes on.
    fn happens(&mut self, event: Event) -> bool {
        match event {
            Event::Push(count) if self.rows.refused().is_none() => {
                let rows: Vec<Row> =
                    (0..count).map(|index| row(self.pushed + index, index)).collect();
                self.pushed += count;
                self.rows.push(Chunk { bytes: vec![0; count * LENGTH], rows });
            }
            Event::Send(bytes) => {
                let limit = match self.rows.refused() {
                    Some(_) => self.rows.end_of_command(),
                    None => self.rows.end,
                };
                self.rows.note_sent(bytes.min(limit - self.rows.sent));
                self.sent.extend(0..self.rows.sent / LENGTH);
            }
            Event::Serve(fates) => fates.into_iter().for_each(|takes| self.serve(takes)),
            Event::Deliver(bytes) => {
                let bytes: Vec<u8> = self.replies.drain(..bytes.min(self.replies.len())).collect();
                self.rows.take(&bytes).expect("replies that fit");
            }
            Event::Lose(more) => {
                (0..more).for_each(|_| self.serve(true));
                self.replies.clear();
                if !self.may_go_on() {
                    return false;
                }
                match self.rows.take_refused() {
                    Some(refused) => self.rows.resend_refused(refused.row),
                    None => self.rows.resend(self.rows.outstanding().start),
                }
                self.next = self.rows.answered;
            }
            Event::Retry if self.rows.refused().is_some() && self.replies.is_empty() => {
                if self.rows.outstanding().is_empty() && self.rows.is_between_commands() {
                    if !self.may_go_on() {
                        return false;
                    }
                    let row = self.rows.take_refused().map_or(0, |refused| refused.row);
                    self.rows.resend_refused(row);
                    self.next = row;
                }
            }
            Event::Push(_) | Event::Retry => {}
        }
        true
    }

    fn serve(&mut self, takes: bool) {
        if (self.next + 1) * LENGTH > self.rows.sent {
            return;
        }
        if takes {
            self.executed.insert(self.next);
            let id = format!("{}-0", self.next + 1);
            self.replies.extend(format!("${}\r\n{id}\r\n", id.len()).into_bytes());
        } else {
            self.replies.extend(b"-OOM no\r\n");
        }
        self.next += 1;
    }

    /// As `Pipeline::resume` has it.
    fn may_go_on(&self) -> bool {
        let is_answered = self.rows.outstanding().is_empty();
        self.rows.refused().is_none_or(|refused| is_answered && !refused.overtaken)
    }

    fn is_called_in(&self, row: usize) -> bool {
        let state = row.checked_sub(self.rows.first).and_then(|row| self.rows.rows.get(row));
        state.is_none_or(|row| matches!(row.state, RowState::Added(_)))
    }

    fn check(&self) {
        let uncertain = self.rows.uncertain();
        let called_in = (0..self.pushed).filter(|row| self.is_called_in(*row));
        assert_eq!(self.rows.rows_in(), called_in.count());
        for row in 0..self.pushed {
            match self.is_called_in(row) {
                true => assert!(self.executed.contains(&row), "{row} is not in"),
                false if uncertain.contains(&row) => {}
                false => assert!(!self.executed.contains(&row), "{row} is in"),
            }
        }
        if let (Some(first), Some(last)) = (uncertain.clone().min(), uncertain.max()) {
            assert!(self.sent.contains(&first) && self.sent.contains(&last), "never sent");
            assert!(!self.is_called_in(first) && !self.is_called_in(last));
        }
    }
}

proptest! {
    #[test]
    fn what_is_called_in_is_in_and_what_is_called_absent_is_not(events in events()) {
        let mut model = Model::new();
        for event in events {
            let goes_on = model.happens(event);
            model.check();
            if !goes_on {
                break;
            }
        }
    }
}
