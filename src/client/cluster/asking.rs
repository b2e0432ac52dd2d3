//! ASKING before each command, and without its replies. No IO.
//!
//! A node that takes over a slot serves its keys before the slot is its own to those who say ASKING,
//! which holds for one command, or up to the end of a transaction. So between the one who sends
//! commands and a connection it is put before each, and its replies are taken out of what comes back.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::resp::{ReplyEvent, ReplyEvents};

/// Puts ASKING (Redis 3.0) before commands, which may come in pieces, and takes out its replies.
#[derive(Debug, Default)]
pub(in crate::client) struct Asking {
    at: At,
    /// The command so far, as long as it may be one of a transaction.
    words: Vec<u8>,
    in_transaction: bool,
    /// The replies that are to come: whether each is one of ASKING.
    owed: VecDeque<bool>,
    events: ReplyEvents,
}

/// What the next byte of a command belongs to.
#[derive(Debug, Default, Clone, Copy)]
enum At {
    #[default]
    Start,
    /// The line that says how many arguments follow.
    Count(usize),
    /// The line that says how long an argument is; this one and how many come after it.
    Length(usize, usize),
    /// An argument of which so many bytes are missing, with the end of its line.
    Argument(usize, usize),
}

impl Asking {
    const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";
    /// No command of a transaction is longer.
    const WORDS: usize = 32;

    /// Appends commands to `out`, as we pack them: arrays of bulk strings.
    pub(in crate::client) fn put(&mut self, commands: &[u8], out: &mut Vec<u8>) {
        let mut rest = commands;
        while let Some(first) = rest.first() {
            if let At::Start = self.at
                && !self.in_transaction
            {
                out.extend_from_slice(Self::ASKING);
                self.owed.push_back(true);
            }
            let taken = match &mut self.at {
                At::Argument(missing, _) => {
                    let taken = rest.len().min(*missing);
                    *missing -= taken;
                    taken
                }
                _ => 1,
            };
            let (bytes, after) = rest.split_at(taken);
            out.extend_from_slice(bytes);
            if self.words.len() <= Self::WORDS {
                let room = (Self::WORDS + 1).saturating_sub(self.words.len());
                self.words.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            }
            rest = after;
            self.at = match (self.at, *first) {
                (At::Start, _) => At::Count(0),
                (At::Count(count), digit @ b'0'..=b'9') => {
                    At::Count(count.wrapping_mul(10).wrapping_add(usize::from(digit - b'0')))
                }
                (At::Count(count), b'\n') => self.argument_after(count),
                (At::Length(length, left), digit @ b'0'..=b'9') => {
                    let length = length.wrapping_mul(10).wrapping_add(usize::from(digit - b'0'));
                    At::Length(length, left)
                }
                (At::Length(length, left), b'\n') => At::Argument(length.saturating_add(2), left),
                (At::Argument(0, left), _) => self.argument_after(left),
                (at, _) => at,
            };
        }
    }

    /// Where one of so many arguments is to come; with none the command is over.
    fn argument_after(&mut self, left: usize) -> At {
        if let Some(left) = left.checked_sub(1) {
            return At::Length(0, left);
        }
        match self.words.as_slice() {
            b"*1\r\n$5\r\nMULTI\r\n" => self.in_transaction = true,
            b"*1\r\n$4\r\nEXEC\r\n" | b"*1\r\n$7\r\nDISCARD\r\n" => self.in_transaction = false,
            _ => {}
        }
        self.words.clear();
        self.owed.push_back(false);
        At::Start
    }

    /// Takes the replies of ASKING out of what has come; says how many bytes are left, which are
    /// moved to the front.
    pub(in crate::client) fn strip(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut kept: Vec<Range<usize>> = Vec::new();
        let mut rest = &*bytes;
        while !rest.is_empty() {
            let from = bytes.len() - rest.len();
            let event = self.events.next(&mut rest)?;
            let to = bytes.len() - rest.len();
            let (is_part, is_over) = match event {
                Some(ReplyEvent::Part { ends, .. }) => (true, ends),
                Some(ReplyEvent::Aside) | None => (false, false),
            };
            let is_asking = match self.owed.front() {
                Some(is_asking) => *is_asking,
                None if is_part => return Err(more_replies()),
                None => false,
            };
            if !is_asking {
                match kept.last_mut() {
                    Some(last) if last.end == from => last.end = to,
                    _ => kept.push(from..to),
                }
            }
            if is_over {
                self.owed.pop_front();
            }
        }
        let mut left = 0;
        for range in kept {
            let len = range.len();
            bytes.copy_within(range, left);
            left += len;
        }
        Ok(left)
    }

    /// Whether nothing is owed, and no command was begun.
    pub(in crate::client) fn is_idle(&self) -> bool {
        self.owed.is_empty() && matches!(self.at, At::Start) && !self.in_transaction
    }
}

fn more_replies() -> Error {
    Error::protocol("more replies came than commands were sent")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command;

    fn sent(pieces: usize, commands: &[u8]) -> (Asking, Vec<u8>) {
        let (mut asking, mut out) = (Asking::default(), Vec::new());
        commands.chunks(pieces).for_each(|piece| asking.put(piece, &mut out));
        (asking, out)
    }

    fn stripped(asking: &mut Asking, replies: &[u8], pieces: usize) -> Result<Vec<u8>> {
        let mut left = Vec::new();
        for piece in replies.chunks(pieces) {
            let mut piece = piece.to_vec();
            let len = asking.strip(&mut piece)?;
            left.extend_from_slice(&piece[..len]);
        }
        Ok(left)
    }

    #[test]
    fn each_command_has_its_asking_and_no_reply_to_it() -> Result<()> {
        let (get, add) = (command(&[b"GET", b"k\r\n*1"]), command(&[b"XADD", b"", b"12345678901"]));
        let ask = Asking::ASKING;
        let commands = [&get[..], &add, &get].concat();
        let expected = [ask, &get, ask, &add, ask, &get].concat();
        let ok = b"+OK\r\n".as_slice();
        let answers =
            [&b"$5\r\n+OK\r\n\r\n"[..], b"*2\r\n:1\r\n*1\r\n$-1\r\n", b"-MOVED 1 h:1\r\n"];
        let replies: Vec<u8> =
            answers.iter().flat_map(|answer| [ok, answer]).flatten().copied().collect();
        for pieces in 1..=expected.len() {
            let (mut asking, out) = sent(pieces, &commands);
            assert_eq!(out, expected);
            assert_eq!(stripped(&mut asking, &replies, pieces)?, answers.concat(), "{pieces}");
            assert!(asking.is_idle());
        }
        Ok(())
    }

    #[test]
    fn a_transaction_has_one() -> Result<()> {
        let [watch, multi, add, exec] =
            [&[b"WATCH".as_slice(), b"k"][..], &[b"MULTI"], &[b"XADD", b"k"], &[b"EXEC"]]
                .map(command);
        let ask = Asking::ASKING;
        let commands = [&watch[..], &multi, &add, &exec, &add].concat();
        let (mut asking, out) = sent(3, &commands);
        assert_eq!(out, [ask, &watch, ask, &multi, &add, &exec, ask, &add].concat());
        let replies =
            b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n$3\r\n1-1\r\n-ERR no\r\n:1\r\n";
        let left = b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n$3\r\n1-1\r\n:1\r\n";
        assert_eq!(stripped(&mut asking, replies, 4)?, left);
        assert!(asking.is_idle());
        Ok(())
    }

    #[test]
    fn a_reply_too_many_is_no_reply() {
        let (mut asking, _) = sent(9, &command(&[b"PING"]));
        assert!(stripped(&mut asking, b"+OK\r\n+PONG\r\n+PONG\r\n", 100).is_err());
    }
}
