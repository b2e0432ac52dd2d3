//! Batches that end whoever processes them: a state machine, without IO.
//!
//! What a lane notes of a batch before it is handed out outlasts the process. A batch that was handed out
//! and never committed is halved each time that it comes again, until the entry that ends the process is
//! alone, and then put aside.

use std::fmt;
use std::str::FromStr;

use crate::entry_id::EntryId;

/// A batch that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The position at which it begins.
    after: EntryId,
    rows: usize,
    /// How often it was.
    times: u64,
    /// Up to where entries are suspected.
    until: EntryId,
}

/// What is to be done with the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Hand out so many of its rows, after that was noted.
    HandOut { rows: usize, note: Option<Attempt> },
    /// Put its first entry aside, which was handed out alone so many times.
    PutAside { times: u64 },
}

/// What is known of the batches from the position on.
#[derive(Debug)]
pub(super) struct Suspects {
    /// How often an entry is handed out alone.
    most: u64,
    /// What was tried before the lane was acquired, or is suspected.
    tried: Option<Attempt>,
    /// What is in hand, and was noted.
    noted: Option<Attempt>,
    /// Nothing has been committed since the lane was acquired: what comes next may be why it was.
    is_first: bool,
}

impl Suspects {
    pub(super) fn new(most: u64) -> Self {
        Suspects { most: most.max(1), tried: None, noted: None, is_first: true }
    }

    /// The lane was acquired at this position, with a note of what was handed out last.
    pub(super) fn acquired(&mut self, position: EntryId, note: Option<Attempt>) {
        self.tried = note.and_then(|note| note.seen_from(position));
        (self.noted, self.is_first) = (None, true);
    }

    /// What is to be done with a batch of so many rows, up to `last`. Nothing changes before it was
    /// [noted](Suspects::noted).
    pub(super) fn next(&self, position: EntryId, rows: usize, last: EntryId) -> Step {
        if let Some(noted) = self.noted.filter(|noted| noted.after == position) {
            return Step::HandOut { rows: noted.rows.min(rows), note: None };
        }
        let note = |rows, times, until| Step::HandOut {
            rows,
            note: Some(Attempt { after: position, rows, times, until }),
        };
        match self.tried {
            Some(Attempt { rows: 1, times, .. }) if times >= self.most => Step::PutAside { times },
            Some(Attempt { rows: 1, times, until, .. }) => note(1, times + 1, until),
            Some(tried) if tried.times == 0 => note(tried.rows.min(rows), 1, tried.until),
            Some(tried) => note(tried.rows.min(rows).div_ceil(2), 1, tried.until),
            None if self.is_first => note(rows, 1, last),
            None => Step::HandOut { rows, note: None },
        }
    }

    /// The lane has the note of a batch, which is handed out now.
    pub(super) fn noted(&mut self, attempt: Attempt) {
        self.noted = Some(attempt);
    }

    /// Entries up to there are committed.
    pub(super) fn committed(&mut self, to: EntryId) {
        let rest = self.noted.take().or(self.tried);
        self.tried = rest.and_then(|rest| rest.seen_from(to));
        self.is_first = false;
    }
}

impl Attempt {
    /// What it says of the entries after a position.
    fn seen_from(self, position: EntryId) -> Option<Attempt> {
        match self.after == position {
            true => Some(self),
            // Of those that are suspected some are done with; what follows was not tried like this.
            false if self.after < position && position < self.until => {
                Some(Attempt { after: position, times: 0, ..self })
            }
            false => None,
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attempt { after, rows, times, until } = self;
        write!(f, "{after} {rows} {times} {until}")
    }
}

impl FromStr for Attempt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().ok_or(());
        let attempt = Attempt {
            after: next()?.parse().map_err(drop)?,
            rows: next()?.parse().map_err(drop)?,
            times: next()?.parse().map_err(drop)?,
            until: next()?.parse().map_err(drop)?,
        };
        (parts.next().is_none() && attempt.rows > 0).then_some(attempt).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> EntryId {
        EntryId::new(number, 0)
    }

    /// Processes the entries 1 to `last` in batches, and dies with each that has a poisonous one. Gives what
    /// was processed and what was put aside, and how often it died.
    fn run(last: u64, batch: u64, most: u64, poison: &[u64]) -> (Vec<u64>, Vec<u64>, u64) {
        let (mut position, mut note): (u64, Option<String>) = (0, None);
        let (mut done, mut aside, mut deaths) = (Vec::new(), Vec::new(), 0);
        'processes: loop {
            let mut suspects = Suspects::new(most);
            suspects.acquired(id(position), note.as_ref().and_then(|note| note.parse().ok()));
            while position < last {
                let rows = batch.min(last - position);
                match suspects.next(id(position), rows as usize, id(position + rows)) {
                    Step::PutAside { times } => {
                        assert_eq!(times, most);
                        aside.push(position + 1);
                        position += 1;
                    }
                    Step::HandOut { rows, note: attempt } => {
                        if let Some(attempt) = attempt {
                            note = Some(attempt.to_string());
                            suspects.noted(attempt);
                            // To ask again changes nothing.
                            let again = suspects.next(id(position), batch as usize, id(last));
                            assert!(matches!(again, Step::HandOut { note: None, .. }));
                        }
                        let entries = position + 1..position + 1 + rows as u64;
                        if entries.clone().any(|entry| poison.contains(&entry)) {
                            deaths += 1;
                            assert!(deaths < 1_000);
                            continue 'processes;
                        }
                        position += rows as u64;
                        done.extend(entries);
                    }
                }
                suspects.committed(id(position));
            }
            return (done, aside, deaths);
        }
    }

    #[test]
    fn what_ends_the_process_is_put_aside_and_nothing_else() {
        for batch in [1, 2, 3, 7, 16, 100] {
            for most in 1..4 {
                for poison in [vec![], vec![1], vec![20], vec![7, 8], vec![3, 11, 12, 19]] {
                    let (done, aside, deaths) = run(20, batch, most, &poison);
                    assert_eq!(aside, poison, "batches of {batch}");
                    let others: Vec<u64> = (1..=20).filter(|n| !poison.contains(n)).collect();
                    assert_eq!(done, others);
                    // Halving takes a logarithm of the batch, for each of them.
                    assert!(deaths <= poison.len() as u64 * (most + 7 + 1), "{deaths}");
                }
            }
        }
    }

    #[test]
    fn a_batch_that_failed_once_is_halved() {
        let mut suspects = Suspects::new(3);
        suspects.acquired(id(5), "5-0 8 1 13-0".parse().ok());
        let Step::HandOut { rows: 4, note: Some(note) } = suspects.next(id(5), 100, id(105)) else {
            panic!("it is not halved");
        };
        assert_eq!(note.to_string(), "5-0 4 1 13-0");
        suspects.noted(note);
        // The others that are suspected come in batches of that size, each noted, and then all as usual.
        suspects.committed(id(9));
        let next = suspects.next(id(9), 100, id(109));
        assert!(matches!(next, Step::HandOut { rows: 4, note: Some(_) }), "{next:?}");
        suspects.committed(id(13));
        let next = suspects.next(id(13), 100, id(113));
        assert_eq!(next, Step::HandOut { rows: 100, note: None });
    }

    #[test]
    fn notes_of_other_places_say_nothing() {
        for note in ["", "1-0", "4-0 0 1 9-0", "4-0 2 1 5-0", "9-0 2 1 12-0", "5-0 2 1 9-0 x"] {
            let mut suspects = Suspects::new(1);
            suspects.acquired(id(5), note.parse().ok());
            let next = suspects.next(id(5), 10, id(15));
            assert!(matches!(next, Step::HandOut { rows: 10, .. }), "{note}: {next:?}");
        }
    }
}
