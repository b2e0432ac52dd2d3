//! Small replies, one after the other: whole strings, and nothing that came in between.

use super::{Event, ReplyEvent, ReplyEvents, doubled};
use crate::error::{Error, Result};

/// The longest string that is kept until the rest of it comes.
const MAX_TEXT: usize = 64 * 1024;

/// A step through a small reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SmallEvent<'a> {
    /// An array, set or map of that many elements follows.
    Array(usize),
    Nil,
    /// A bulk string.
    Text(&'a [u8]),
    /// A simple string, integer, double, boolean or big number, as its text.
    Scalar(&'a [u8]),
    /// An error reply, without its leading `-`.
    Error(&'a [u8]),
}

/// Reads the replies to pipelined commands from bytes that are cut anywhere. Out-of-band frames and
/// attributes (RESP3) are skipped.
#[derive(Debug, Default)]
pub(crate) struct SmallReplies {
    events: ReplyEvents,
    /// The beginning of a string whose end has not come yet.
    partial: Vec<u8>,
}

impl SmallReplies {
    /// Takes events off the front of `input` while there are whole ones and `take` says to go on.
    #[inline]
    pub(crate) fn read(
        &mut self,
        input: &mut &[u8],
        mut take: impl FnMut(SmallEvent<'_>) -> Result<bool>,
    ) -> Result<()> {
        loop {
            if let Some(text) = self.events.next_string(input) {
                match take(SmallEvent::Text(text))? {
                    true => continue,
                    false => return Ok(()),
                }
            }
            if !self.step(input, &mut take)? {
                return Ok(());
            }
        }
    }

    /// The general case: an event of any kind, perhaps cut in two.
    fn step(
        &mut self,
        input: &mut &[u8],
        take: &mut impl FnMut(SmallEvent<'_>) -> Result<bool>,
    ) -> Result<bool> {
        let event = match self.events.next(input)? {
            None => return Ok(false),
            Some(ReplyEvent::Aside) => return Ok(true),
            Some(ReplyEvent::Part { event, .. }) => event,
        };
        match event {
            Event::Bytes { part, done } => {
                if self.partial.len() + part.len() > MAX_TEXT {
                    return Err(Error::protocol("a small reply has a long text"));
                }
                self.partial.extend_from_slice(part);
                if done {
                    let text = std::mem::take(&mut self.partial);
                    return take(SmallEvent::Text(&text));
                }
            }
            Event::Nil => return take(SmallEvent::Nil),
            Event::Scalar(text) => return take(SmallEvent::Scalar(text)),
            Event::Error(line) => return take(SmallEvent::Error(line)),
            Event::Array(len) => return take(SmallEvent::Array(len)),
            Event::Map(pairs) => return take(SmallEvent::Array(doubled(pairs)?)),
            // These are aside of the reply.
            Event::Push(_) | Event::Attribute(_) => {}
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &[u8], size: usize) -> Result<Vec<String>> {
        let mut replies = SmallReplies::default();
        let mut events = Vec::new();
        for mut piece in bytes.chunks(size) {
            replies.read(&mut piece, |event| {
                events.push(match event {
                    SmallEvent::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
                    SmallEvent::Scalar(text) => String::from_utf8_lossy(text).into_owned(),
                    SmallEvent::Error(text) => format!("-{}", String::from_utf8_lossy(text)),
                    other => format!("{other:?}"),
                });
                Ok(true)
            })?;
            assert!(piece.is_empty());
        }
        Ok(events)
    }

    #[test]
    fn frames_and_attributes_in_between_are_skipped_wherever_they_are_cut() -> Result<()> {
        let bytes = b"$3\r\n1-0\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n$3\r\n2-0\r\n>0\r\n\
            |1\r\n+ttl\r\n:3\r\n+QUEUED\r\n-ERR no\r\n*2\r\n_\r\n$0\r\n\r\n%1\r\n+a\r\n:1\r\n";
        for size in 1..=bytes.len() {
            assert_eq!(
                events(bytes, size)?,
                [
                    "\"1-0\"", "\"2-0\"", "QUEUED", "-ERR no", "Array(2)", "Nil", "\"\"",
                    "Array(2)", "a", "1"
                ],
                "{size}"
            );
        }
        Ok(())
    }

    #[test]
    fn reading_ends_where_it_is_told_to() -> Result<()> {
        let mut replies = SmallReplies::default();
        let mut input = &b"+a\r\n+b\r\n"[..];
        replies.read(&mut input, |_| Ok(false))?;
        assert_eq!(input, b"+b\r\n");
        Ok(())
    }
}
