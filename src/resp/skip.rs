//! Where a reply ends: nesting that is counted, for replies whose shape does not matter.

use super::{Event, Parser};
use crate::error::{Error, Result};

/// Counts down the elements of nested containers until the value they make up is whole.
#[derive(Debug, Clone)]
pub(crate) struct Nesting {
    /// Elements that are still to come.
    open: usize,
}

impl Nesting {
    /// So many values are to come.
    pub(crate) fn of(values: usize) -> Self {
        Nesting { open: values }
    }

    /// The reply of one command is to come.
    pub(crate) fn reply() -> Self {
        Nesting::of(1)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.open == 0
    }

    /// Takes note of one event.
    pub(crate) fn observe(&mut self, event: &Event<'_>) -> Result<()> {
        let children = match event {
            Event::Array(len) => *len,
            Event::Map(pairs) => doubled(*pairs)?,
            // Neither a push frame nor attributes are the value that is waited for.
            Event::Push(len) => len.checked_add(1).ok_or_else(too_many)?,
            Event::Attribute(pairs) => doubled(*pairs)?.checked_add(1).ok_or_else(too_many)?,
            Event::Bytes { done: false, .. } => return Ok(()),
            Event::Bytes { .. } | Event::Nil | Event::Scalar(_) | Event::Error(_) => 0,
        };
        self.open = self
            .open
            .checked_sub(1)
            .and_then(|open| open.checked_add(children))
            .ok_or_else(too_many)?;
        Ok(())
    }
}

/// The number of values in so many pairs.
pub(crate) fn doubled(pairs: usize) -> Result<usize> {
    pairs.checked_mul(2).ok_or_else(too_many)
}

fn too_many() -> Error {
    Error::protocol("a length is out of range")
}

/// Collects the bytes of one small reply, for redis-rs to parse into a value.
#[derive(Debug)]
pub(crate) struct RawReply {
    parser: Parser,
    nesting: Nesting,
    bytes: Vec<u8>,
}

impl RawReply {
    /// A small reply is never larger than this; a server that claims more is not one of ours.
    const MAX: usize = 64 * 1024 * 1024;

    pub(crate) fn new() -> Self {
        RawReply { parser: Parser::default(), nesting: Nesting::reply(), bytes: Vec::new() }
    }

    /// Takes bytes off the front of `input` up to the end of the reply; says how many.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<usize> {
        let mut rest = input;
        while !self.nesting.is_whole() {
            match self.parser.next(&mut rest)? {
                Some(event) => self.nesting.observe(&event)?,
                None => break,
            }
        }
        let taken = input.len() - rest.len();
        self.bytes.extend_from_slice(input.get(..taken).unwrap_or_default());
        if self.bytes.len() > Self::MAX {
            return Err(Error::protocol(format_args!("a reply exceeds {} bytes", Self::MAX)));
        }
        Ok(taken)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.nesting.is_whole()
    }

    /// The reply as a value; an error reply becomes an [`Error`].
    pub(crate) fn into_value(self) -> Result<redis::Value> {
        if let [b'-', line @ ..] = self.bytes.as_slice() {
            return Err(Error::from_server(line.trim_ascii_end()));
        }
        redis::parse_redis_value(&self.bytes)
            .map_err(|error| Error::protocol("a reply does not parse").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8], size: usize) -> Result<redis::Value> {
        let mut reply = RawReply::new();
        for piece in bytes.chunks(size) {
            assert_eq!(reply.decode(piece)?, piece.len());
        }
        assert!(reply.is_complete());
        reply.into_value()
    }

    #[test]
    fn a_reply_ends_where_its_nesting_does() -> Result<()> {
        let bytes = b"*2\r\n%1\r\n+a\r\n*1\r\n:1\r\n$2\r\nhi\r\n";
        for size in 1..=bytes.len() {
            let parsed = value(bytes, size)?;
            let redis::Value::Array(items) = parsed else { panic!("not an array: {parsed:?}") };
            assert_eq!(items.get(1), Some(&redis::Value::BulkString(b"hi".to_vec())));
        }
        let mut reply = RawReply::new();
        assert_eq!(reply.decode(b"+OK\r\n+next\r\n")?, 5);
        assert!(reply.is_complete());
        Ok(())
    }

    #[test]
    fn an_error_reply_is_an_error() {
        let error = value(b"-WRONGTYPE no stream\r\n", 3).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::WrongType);
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        for bytes in [&b"%9223372036854775808\r\n"[..], b"*2\r\n*18446744073709551615\r\n"] {
            assert!(RawReply::new().decode(bytes).is_err());
        }
    }
}
