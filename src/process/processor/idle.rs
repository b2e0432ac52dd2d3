//! When a processor has a turn without entries: a state machine without IO, to which the server's time comes.

// So far only the extension has a use for it.
#![cfg_attr(not(feature = "python"), allow(dead_code))]

use std::time::Duration;

use crate::entry_id::EntryId;

/// When something is to be done on a quiet stream: no entry has come for that long, and it is that time by
/// the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alarm {
    pub(crate) after_ms: i64,
    pub(crate) due_ms: i64,
}

/// Everything that is to be done without entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Alarms {
    pub(crate) quiet: Vec<Alarm>,
    /// There is something to do before the loop ends, because a wait found nothing.
    pub(crate) at_end: bool,
}

impl Alarms {
    pub(super) fn is_empty(&self) -> bool {
        self.quiet.is_empty() && !self.at_end
    }
}

/// A turn without entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The server's time, in milliseconds.
    pub(crate) now_ms: i64,
    /// For how long no entry has come.
    pub(crate) quiet_ms: i64,
    /// The loop ends after it.
    pub(crate) is_last: bool,
}

/// For how long no entry has come, by the server's clock.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// When somebody has looked first, and found nothing; or when the latest commit was.
    since: Option<i64>,
    /// How long it is until something is to be done, when somebody looked last.
    left: Option<Duration>,
    /// Where the last turn of a loop has been committed.
    ended: Option<EntryId>,
}

impl Quiet {
    /// The lane was acquired, whose latest commit was then.
    pub(super) fn acquired(&mut self, committed_ms: Option<i64>) {
        *self = Quiet { since: committed_ms, ..Quiet::default() };
    }

    /// Entries have come.
    pub(super) fn stirred(&mut self) {
        *self = Quiet::default();
    }

    /// A turn is committed at that position: the next one is that far away at least.
    pub(super) fn taken(&mut self, turn: Turn, position: EntryId) {
        (self.since, self.left) = (Some(turn.now_ms), None);
        if turn.is_last {
            self.ended = Some(position);
        }
    }

    /// How long to wait for entries, where nobody would wait longer than that: the first look is at once.
    pub(super) fn wait(&self, wait: Duration, alarms: &Alarms) -> Duration {
        match alarms.quiet.is_empty() {
            true => wait,
            false => wait.min(self.left.unwrap_or(Duration::ZERO)),
        }
    }

    /// Somebody has looked at that time, and found nothing after the position, which is the end where
    /// it `ends`: gives the turn that is due.
    pub(super) fn looked(
        &mut self,
        now_ms: i64,
        alarms: &Alarms,
        position: EntryId,
        ends: bool,
    ) -> Option<Turn> {
        // A clock that has gone back says nothing of the time before.
        let since = *self.since.insert(self.since.unwrap_or(now_ms).min(now_ms));
        let is_last = ends && alarms.at_end && self.ended != Some(position);
        let times =
            alarms.quiet.iter().map(|alarm| since.saturating_add(alarm.after_ms).max(alarm.due_ms));
        let next = times.min();
        if is_last || next.is_some_and(|next| next <= now_ms) {
            self.left = None;
            return Some(Turn { now_ms, quiet_ms: now_ms - since, is_last });
        }
        self.left = next.map(|next| {
            Duration::from_millis(next.saturating_sub(now_ms).unsigned_abs())
                .max(Duration::from_millis(1))
        });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: EntryId = EntryId { ms: 5, seq: 0 };

    fn quiet(after_ms: i64, due_ms: i64) -> Alarms {
        Alarms { quiet: vec![Alarm { after_ms, due_ms }], at_end: false }
    }

    #[test]
    fn a_turn_comes_once_it_was_quiet_for_so_long_and_the_clock_is_that_far() {
        let long = Duration::from_secs(1);
        for (after, due, at) in [(100, 0, 1_100), (100, 1_050, 1_100), (100, 1_700, 1_700)] {
            let (mut state, alarms) = (Quiet::default(), quiet(after, due));
            assert_eq!(state.wait(long, &alarms), Duration::ZERO);
            let mut now = 1_000;
            let turn = loop {
                match state.looked(now, &alarms, AT, false) {
                    Some(turn) => break turn,
                    None => now += state.wait(long, &alarms).as_millis() as i64,
                }
            };
            assert_eq!(turn, Turn { now_ms: at, quiet_ms: at - 1_000, is_last: false });
            // One that is not committed comes again at once; after one that is there is a pause.
            assert!(state.looked(at, &alarms, AT, false).is_some());
            state.taken(turn, AT);
            assert_eq!(state.looked(at + after - 1, &alarms, AT, false), None);
            assert!(state.looked(at + after, &alarms, AT, false).is_some());
        }
    }

    #[test]
    fn entries_begin_it_anew_and_a_restart_does_not() {
        let (mut state, alarms) = (Quiet::default(), quiet(100, 0));
        assert_eq!(state.looked(1_000, &alarms, AT, false), None);
        state.stirred();
        assert_eq!(state.looked(1_100, &alarms, AT, false), None);
        state.acquired(Some(1_000));
        let turn = state.looked(1_150, &alarms, AT, false);
        assert_eq!(turn, Some(Turn { now_ms: 1_150, quiet_ms: 150, is_last: false }));
        // The commit of a server whose clock was ahead.
        state.acquired(Some(9_000));
        assert_eq!(state.looked(1_000, &alarms, AT, false), None);
        assert!(state.looked(1_100, &alarms, AT, false).is_some());
    }

    #[test]
    fn the_last_turn_comes_once_for_each_end() {
        let (mut state, alarms) = (Quiet::default(), Alarms { quiet: Vec::new(), at_end: true });
        assert_eq!(state.wait(Duration::from_secs(1), &alarms), Duration::from_secs(1));
        assert_eq!(state.looked(1, &alarms, AT, false), None);
        let turn = state.looked(1, &alarms, AT, true).unwrap();
        assert!(turn.is_last && state.looked(1, &alarms, AT, true).is_some());
        state.taken(turn, AT);
        assert_eq!(state.looked(1, &alarms, AT, true), None);
        state.stirred();
        assert!(state.looked(1, &alarms, AT, true).is_some());
    }
}
