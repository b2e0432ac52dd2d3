//! The outline of a reply: what is short and not nested deeply, whatever else the server ships.

use redis::Value;

use super::{Event, Nesting, ReplyEvent, ReplyEvents, doubled};
use crate::error::{Error, Result};

/// Collects one reply of which only the outline matters, in bounded memory.
///
/// XINFO STREAM ships the first and the last entry whole, and an entry may be as large as memory. A
/// text that is longer than any ID or name comes cut, and the fields of an entry, which lie three
/// levels down, come as nil.
#[derive(Debug)]
pub(crate) struct Outline {
    events: ReplyEvents,
    complete: bool,
    /// The arrays that are open, and how many of their elements are missing.
    open: Vec<(usize, Vec<Value>)>,
    text: Vec<u8>,
    whole: Option<Value>,
    error: Option<Error>,
    /// Elements whose values are not kept, because they are nested too deeply.
    skipped: Nesting,
    kept: usize,
    bytes: u64,
}

impl Outline {
    /// A text is kept up to this length. Names of groups are among the texts, and may be long; values
    /// of fields lie too deep to be.
    const TEXT: usize = 64 * 1024;
    /// Arrays within so many others come as nil.
    const DEPTH: usize = 2;
    /// A reply of more values than this is none of those that have an outline.
    const VALUES: usize = 1_000_000;

    pub(crate) fn new() -> Self {
        Outline {
            events: ReplyEvents::default(),
            complete: false,
            open: Vec::new(),
            text: Vec::new(),
            whole: None,
            error: None,
            skipped: Nesting::of(0),
            kept: 0,
            bytes: 0,
        }
    }

    /// Takes bytes off the front of `input` up to the end of the reply; says how many.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<usize> {
        let mut rest = input;
        // They lend their events, and the rest of `self` is wanted meanwhile.
        let mut events = std::mem::take(&mut self.events);
        while !self.complete {
            match events.next(&mut rest)? {
                None => break,
                Some(ReplyEvent::Aside) => {}
                Some(ReplyEvent::Part { event, ends }) => {
                    self.step(&event)?;
                    self.complete = ends;
                }
            }
        }
        self.events = events;
        let taken = input.len() - rest.len();
        self.bytes += taken as u64;
        Ok(taken)
    }

    /// How many bytes it has taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The reply; an error reply becomes an [`Error`].
    pub(crate) fn into_value(self) -> Result<Value> {
        match (self.error, self.whole) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(Error::protocol("a reply ended before it was whole")),
        }
    }

    fn step(&mut self, event: &Event<'_>) -> Result<()> {
        if !self.skipped.is_whole() {
            return self.skipped.observe(event);
        }
        match event {
            Event::Array(len) => self.begin(*len)?,
            Event::Map(pairs) => self.begin(doubled(*pairs)?)?,
            // These are aside of the reply.
            Event::Push(_) | Event::Attribute(_) => {}
            Event::Nil => self.value(Value::Nil)?,
            Event::Bytes { part, done } => {
                let room = Self::TEXT.saturating_sub(self.text.len());
                self.text.extend_from_slice(part.get(..room).unwrap_or(part));
                if *done {
                    let text = std::mem::take(&mut self.text);
                    self.value(Value::BulkString(text))?;
                }
            }
            Event::Scalar(text) => {
                let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                let text = text.get(..Self::TEXT).unwrap_or(text);
                self.value(number.map_or_else(|| Value::BulkString(text.to_vec()), Value::Int))?;
            }
            Event::Error(line) => {
                self.error.get_or_insert_with(|| Error::from_server(line));
                self.value(Value::Nil)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, len: usize) -> Result<()> {
        if self.open.len() >= Self::DEPTH {
            self.skipped = Nesting::of(len);
            return self.value(Value::Nil);
        }
        match len {
            0 => self.value(Value::Array(Vec::new())),
            _ => {
                self.open.push((len, Vec::new()));
                Ok(())
            }
        }
    }

    /// A value is whole, and with it perhaps the arrays that it is the last of.
    fn value(&mut self, mut value: Value) -> Result<()> {
        self.kept += 1;
        if self.kept > Self::VALUES {
            return Err(Error::protocol(format_args!("a reply has over {} values", Self::VALUES)));
        }
        while let Some((missing, mut values)) = self.open.pop() {
            values.push(value);
            if missing > 1 {
                self.open.push((missing - 1, values));
                return Ok(());
            }
            value = Value::Array(values);
        }
        self.whole = Some(value);
        Ok(())
    }
}

/// Collects the outlines of replies, as many as commands were sent.
#[derive(Debug)]
pub(crate) struct Outlines {
    missing: usize,
    current: Outline,
    values: Vec<Result<Value>>,
}

impl Outlines {
    pub(crate) fn new(number: usize) -> Self {
        Outlines { missing: number, current: Outline::new(), values: Vec::with_capacity(number) }
    }

    /// Takes bytes off the front of `input` up to the end of the last reply; says how many.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<usize> {
        let mut taken = 0;
        while !self.is_complete() {
            taken += self.current.decode(input.get(taken..).unwrap_or_default())?;
            if !self.current.is_complete() {
                break;
            }
            let whole = std::mem::replace(&mut self.current, Outline::new());
            self.values.push(whole.into_value());
            self.missing -= 1;
        }
        Ok(taken)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Each reply, or its error, in order.
    pub(crate) fn into_values(self) -> Vec<Result<Value>> {
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Info;

    fn outline(reply: &[u8], size: usize) -> Result<Value> {
        let mut outline = Outline::new();
        for piece in reply.chunks(size) {
            assert_eq!(outline.decode(piece)?, piece.len());
        }
        assert!(outline.is_complete());
        outline.into_value()
    }

    #[test]
    fn short_values_stay_and_entries_lose_their_fields() -> Result<()> {
        let long = "x".repeat(100_000);
        for (open, aside) in [("*8", ""), ("%4", ""), ("%4", ">2\r\n+pubsub\r\n+hello\r\n")] {
            let reply = format!(
                "{aside}{open}\r\n$6\r\nlength\r\n:2\r\n$17\r\nlast-generated-id\r\n$3\r\n5-1\r\n\
                 $11\r\nfirst-entry\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n${}\r\n{long}\r\n\
                 $4\r\nlong\r\n${}\r\n{long}\r\n",
                long.len(),
                long.len()
            );
            for size in [1, 3, 5, reply.len()] {
                let value = outline(reply.as_bytes(), size)?;
                let info = Info(&value);
                assert_eq!(info.number("length"), Some(2));
                assert_eq!(info.id("last-generated-id"), Some(crate::EntryId::new(5, 1)));
                let first = info.get("first-entry").and_then(Value::as_sequence).unwrap();
                assert_eq!(first, [Value::BulkString(b"1-0".to_vec()), Value::Nil]);
                assert_eq!(info.text("long").map(<[u8]>::len), Some(Outline::TEXT));
            }
        }
        Ok(())
    }

    #[test]
    fn a_reply_need_not_be_a_map() -> Result<()> {
        assert_eq!(outline(b"$3\r\n5-1\r\n", 2)?, Value::BulkString(b"5-1".to_vec()));
        assert_eq!(outline(b"*0\r\n", 1)?, Value::Array(Vec::new()));
        assert_eq!(outline(b"*2\r\n*0\r\n:7\r\n", 1)?, {
            Value::Array(vec![Value::Array(Vec::new()), Value::Int(7)])
        });
        let error = outline(b"-ERR no such key\r\n", 4).unwrap_err();
        assert_eq!(error.code(), Some("ERR"));
        Ok(())
    }

    #[test]
    fn each_of_several_replies_is_a_value_or_an_error() -> Result<()> {
        let bytes = b"+stream\r\n>1\r\n+x\r\n-WRONGTYPE no\r\n*1\r\n:1\r\n+next";
        for size in [1, 3, bytes.len()] {
            let mut replies = Outlines::new(3);
            let mut taken = 0;
            for piece in bytes.chunks(size) {
                taken += replies.decode(piece)?;
            }
            assert!(replies.is_complete());
            assert_eq!(taken, bytes.len() - 5);
            let [one, two, three] = &replies.into_values()[..] else { panic!("not three") };
            assert_eq!(one.as_ref().ok(), Some(&Value::BulkString(b"stream".to_vec())));
            assert_eq!(two.as_ref().map_err(Error::code), Err(Some("WRONGTYPE")));
            assert_eq!(three.as_ref().ok(), Some(&Value::Array(vec![Value::Int(1)])));
        }
        Ok(())
    }
}
