//! Replies, one after the other: which events belong to one, and where it ends.

use super::{Event, Nesting, Parser, doubled};
use crate::error::{Error, Result};

/// The events of replies. What a server sends aside of them in RESP3, push frames and attributes,
/// may come before any event and is no part of a reply.
#[derive(Debug, Default)]
pub(crate) struct ReplyEvents {
    parser: Parser,
    reply: Nesting,
    aside: Nesting,
}

#[derive(Debug)]
pub(crate) enum ReplyEvent<'a> {
    /// A part of the reply; with `ends` its last.
    Part { event: Event<'a>, ends: bool },
    /// A part of something else.
    Aside,
}

impl ReplyEvents {
    /// The next event, taken off the front of `input`; `None` when more bytes are needed.
    #[inline]
    pub(crate) fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<ReplyEvent<'s>>> {
        let Some(event) = self.parser.next(input)? else {
            return Ok(None);
        };
        if !self.aside.is_whole() {
            self.aside.observe(&event)?;
            return Ok(Some(ReplyEvent::Aside));
        }
        match event {
            Event::Push(len) => self.aside = Nesting::of(len),
            Event::Attribute(pairs) => self.aside = Nesting::of(doubled(pairs)?),
            event => {
                if self.reply.is_whole() {
                    self.reply = Nesting::reply();
                }
                self.reply.observe(&event)?;
                return Ok(Some(ReplyEvent::Part { event, ends: self.reply.is_whole() }));
            }
        }
        Ok(Some(ReplyEvent::Aside))
    }

    /// A bulk string off the front of `input`, if it is the next event and is there as a whole.
    /// Quicker than [`ReplyEvents::next`], which gives the same.
    #[inline]
    pub(crate) fn next_string<'i>(&mut self, input: &mut &'i [u8]) -> Option<&'i [u8]> {
        let string = match self.aside.is_whole() {
            true => self.parser.next_string(input)?,
            false => return None,
        };
        // An element of an array; where there is none, a reply of its own.
        self.reply.count_down();
        Some(string)
    }
}

/// Collects the bytes of one small reply, for redis-rs to parse into a value.
#[derive(Debug, Default)]
pub(crate) struct RawReply {
    events: ReplyEvents,
    /// Of which the first `kept` belong to the reply for certain.
    bytes: Vec<u8>,
    kept: usize,
    complete: bool,
    /// It may exceed the bound of small replies.
    unbounded: bool,
}

impl RawReply {
    /// A small reply is never larger than this; a server that claims more is not one of ours.
    const MAX: usize = 64 * 1024 * 1024;

    pub(crate) fn new() -> Self {
        RawReply::default()
    }

    /// For an entry, which may be of any size.
    pub(crate) fn of_any_size() -> Self {
        RawReply { unbounded: true, ..RawReply::default() }
    }

    /// Takes bytes off the front of `input` up to the end of the reply; says how many.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<usize> {
        let mut rest = input;
        while !self.complete {
            let before = rest;
            let event = self.events.next(&mut rest)?;
            let taken = before.len() - rest.len();
            self.bytes.extend_from_slice(before.get(..taken).unwrap_or_default());
            match event {
                None => break,
                Some(ReplyEvent::Aside) => self.bytes.truncate(self.kept),
                Some(ReplyEvent::Part { ends, .. }) => {
                    self.kept = self.bytes.len();
                    self.complete = ends;
                }
            }
        }
        if self.bytes.len() > Self::MAX && !self.unbounded {
            return Err(Error::protocol(format_args!("a reply exceeds {} bytes", Self::MAX)));
        }
        Ok(input.len() - rest.len())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The reply as a value. An error reply becomes an [`Error`], also one inside an array, as in
    /// that to EXEC.
    pub(crate) fn into_value(self) -> Result<redis::Value> {
        if let [b'-', line @ ..] = self.bytes.as_slice() {
            return Err(Error::from_server(line.trim_ascii_end()));
        }
        let value = redis::parse_redis_value(&self.bytes)
            .map_err(|error| Error::protocol("a reply does not parse").with_source(error))?;
        match inner_error(&value) {
            Some(error) => Err(error),
            None => Ok(value),
        }
    }
}

/// The first error inside a value.
fn inner_error(value: &redis::Value) -> Option<Error> {
    match value {
        redis::Value::ServerError(error) => {
            let line = [error.code(), error.details().unwrap_or_default()].join(" ");
            Some(Error::from_server(line.trim_ascii_end().as_bytes()))
        }
        redis::Value::Array(items) | redis::Value::Set(items) => items.iter().find_map(inner_error),
        redis::Value::Map(pairs) => {
            pairs.iter().find_map(|(key, value)| inner_error(key).or_else(|| inner_error(value)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, ServerCode};

    fn value(bytes: &[u8], size: usize) -> Result<redis::Value> {
        let mut reply = RawReply::new();
        for piece in bytes.chunks(size) {
            assert_eq!(reply.decode(piece)?, piece.len());
        }
        assert!(reply.is_complete());
        reply.into_value()
    }

    const NESTED: &[u8] = b"*2\r\n%1\r\n+a\r\n*1\r\n:1\r\n$2\r\nhi\r\n";

    #[test]
    fn a_reply_ends_where_its_nesting_does() -> Result<()> {
        for size in 1..=NESTED.len() {
            let parsed = value(NESTED, size)?;
            let redis::Value::Array(items) = parsed else { panic!("not an array: {parsed:?}") };
            assert_eq!(items.get(1), Some(&redis::Value::BulkString(b"hi".to_vec())));
        }
        let mut reply = RawReply::new();
        assert_eq!(reply.decode(b"+OK\r\n+next\r\n")?, 5);
        assert!(reply.is_complete());
        Ok(())
    }

    #[test]
    fn what_comes_aside_is_no_part_of_a_reply() -> Result<()> {
        let plain = value(NESTED, usize::MAX)?;
        let push =
            &b">3\r\n+invalidate\r\n*2\r\n$1\r\na\r\n|1\r\n+x\r\n:1\r\n$1\r\nb\r\n:7\r\n"[..];
        let attribute = &b"|1\r\n+ttl\r\n%1\r\n+a\r\n>1\r\n+p\r\n:3\r\n"[..];
        let aside = [push, attribute, push, b">0\r\n"].concat();
        // Before the reply, and before any of its elements.
        let places = [0, 4, 8, 12, 16, 20];
        for place in places {
            let (head, tail) = NESTED.split_at(place);
            let bytes = [head, &aside, tail].concat();
            for size in [1, 2, 3, 5, 7, bytes.len()] {
                assert_eq!(value(&bytes, size)?, plain, "at {place}, in pieces of {size}");
            }
        }
        Ok(())
    }

    #[test]
    fn an_error_reply_is_an_error_also_behind_a_push() {
        for bytes in [&b"-WRONGTYPE no stream\r\n"[..], b">1\r\n+x\r\n-WRONGTYPE no stream\r\n"] {
            for size in [1, 3, bytes.len()] {
                let error = value(bytes, size).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WrongType);
            }
        }
    }

    #[test]
    fn an_error_inside_an_array_is_an_error() {
        let bytes = b"*2\r\n+OK\r\n*1\r\n-OOM command not allowed\r\n";
        let error = value(bytes, 4).unwrap_err();
        assert_eq!(error.server_code(), Some(ServerCode::OutOfMemory));
        assert_eq!(error.message(), "the server answered: OOM command not allowed");
        let error = value(b"*1\r\n-ERR no such key\r\n", 4).unwrap_err();
        assert_eq!(error.message(), "the server answered: ERR no such key");
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        for bytes in [&b"%9223372036854775808\r\n"[..], b"*2\r\n*18446744073709551615\r\n"] {
            assert!(RawReply::new().decode(bytes).is_err());
        }
    }

    #[test]
    fn whole_strings_are_events_like_others() -> Result<()> {
        let mut events = ReplyEvents::default();
        let mut input =
            &b"$3\r\n1-0\r\n*2\r\n$1\r\na\r\n>1\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n+e\r\n"[..];
        assert_eq!(events.next_string(&mut input), Some(&b"1-0"[..]));
        assert_eq!(events.next_string(&mut input), None);
        let ends = |event: Option<ReplyEvent<'_>>| match event {
            Some(ReplyEvent::Part { ends, .. }) => Some(ends),
            _ => None,
        };
        assert_eq!(ends(events.next(&mut input)?), Some(false));
        assert_eq!(events.next_string(&mut input), Some(&b"a"[..]));
        assert_eq!(ends(events.next(&mut input)?), None);
        assert_eq!(events.next_string(&mut input), None);
        assert_eq!(ends(events.next(&mut input)?), None);
        assert_eq!(ends(events.next(&mut input)?), Some(true));
        assert_eq!(events.next_string(&mut input), Some(&b"d"[..]));
        assert_eq!(ends(events.next(&mut input)?), Some(true));
        Ok(())
    }
}
