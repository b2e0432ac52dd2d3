//! A resumable RESP parser: bytes cut anywhere go in, events come out.
//!
//! It is pulled: [`Parser::next`] takes bytes off the front of the input and gives one event, or
//! `None` when the input ends inside one. Nothing is allocated for a length that a header merely
//! claims; only a header line that the input cuts in two is kept, and such a line is bounded.

use crate::error::{Error, Result, shorten};

/// The longest header or simple line that is accepted. Real ones are errors of a few hundred bytes.
const MAX_LINE: usize = 64 * 1024;

/// One step through a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// An array or set of so many elements follows.
    Array(usize),
    /// A map of so many pairs follows.
    Map(usize),
    /// An out-of-band frame of so many elements follows.
    Push(usize),
    /// So many pairs of attributes follow, and after them the reply they belong to.
    Attribute(usize),
    /// A nil, in any of its three spellings.
    Nil,
    /// A piece of a bulk string; with `done` its last, the terminator included.
    Bytes { part: &'a [u8], done: bool },
    /// A simple string, integer, double, boolean or big number, as its text.
    Scalar(&'a [u8]),
    /// An error reply, without its leading `-`.
    Error(&'a [u8]),
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// `line` is whole and its event was given; the next line starts afresh.
    line_used: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Header,
    /// Inside a bulk string that lacks so many bytes.
    Body(usize),
    /// After a bulk string's body; `true` once the CR is there.
    Terminator(bool),
}

impl Parser {
    /// The next event, taken off the front of `input`; `None` when more bytes are needed.
    #[inline]
    pub(crate) fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Event<'s>>> {
        match self.state {
            State::Header => self.header(input),
            State::Body(missing) => self.body(missing, input),
            State::Terminator(cr) => self.terminator(cr, input),
        }
    }

    /// An array of a bulk string and another array off the front of `input`, up to the elements of
    /// the latter, if that is there and whole: the string, and the number of elements.
    ///
    /// That is how an entry begins. [`Parser::next`] gives the same as three events, and those of
    /// [`Parser::next_pair`] as two; all at once they take half the time.
    #[inline]
    pub(crate) fn next_entry<'i>(&mut self, input: &mut &'i [u8]) -> Option<(&'i [u8], usize)> {
        if !self.is_between_values() {
            return None;
        }
        let (id, rest) = bulk_string(input.strip_prefix(b"*2\r\n")?)?;
        let (fields, rest) = short_header(b'*', rest)?;
        *input = rest;
        Some((id, fields))
    }

    /// Two bulk strings off the front of `input`, if they are there and whole: a name and a value.
    #[inline]
    pub(crate) fn next_pair<'i>(&mut self, input: &mut &'i [u8]) -> Option<(&'i [u8], &'i [u8])> {
        if !self.is_between_values() {
            return None;
        }
        let (name, rest) = bulk_string(input)?;
        let (value, rest) = bulk_string(rest)?;
        *input = rest;
        Some((name, value))
    }

    /// A bulk string off the front of `input`, if it is there and whole.
    #[inline]
    pub(crate) fn next_string<'i>(&mut self, input: &mut &'i [u8]) -> Option<&'i [u8]> {
        if !self.is_between_values() {
            return None;
        }
        let (string, rest) = bulk_string(input)?;
        *input = rest;
        Some(string)
    }

    #[inline]
    fn is_between_values(&self) -> bool {
        matches!(self.state, State::Header) && (self.line.is_empty() || self.line_used)
    }

    #[inline]
    fn header<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Event<'s>>> {
        if self.line_used {
            self.line.clear();
            self.line_used = false;
        }
        if self.line.is_empty() {
            if let Some((len, rest)) = short_header(b'$', input) {
                *input = rest;
                return self.body(len, input);
            }
            if let Some((len, rest)) = short_header(b'*', input) {
                *input = rest;
                return Ok(Some(Event::Array(len)));
            }
        }
        self.line(input)
    }

    /// The general case of [`Parser::header`]: a line of any kind, perhaps cut in two.
    #[inline(never)]
    fn line<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Event<'s>>> {
        let bytes: &'i [u8] = input;
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.keep(bytes)?;
            *input = &[];
            return Ok(None);
        };
        let (head, rest) = bytes.split_at(end + 1);
        *input = rest;
        let split = !self.line.is_empty();
        if split {
            self.keep(head)?;
            self.line_used = true;
        }
        let line = whole_line(if split { &self.line } else { head })?;
        // A verbatim string is a bulk string that begins with three letters and a colon.
        if let [b'$' | b'=', digits @ ..] = line {
            return match length(digits)? {
                Some(len) => self.body(len, input),
                None => Ok(Some(Event::Nil)),
            };
        }
        line_event(whole_line(if split { &self.line } else { head })?).map(Some)
    }

    #[inline]
    fn body<'a>(&mut self, missing: usize, input: &mut &'a [u8]) -> Result<Option<Event<'a>>> {
        let bytes: &'a [u8] = input;
        if let Some((part, [b'\r', b'\n', rest @ ..])) = bytes.split_at_checked(missing) {
            *input = rest;
            self.state = State::Header;
            return Ok(Some(Event::Bytes { part, done: true }));
        }
        self.part_of_body(missing, input)
    }

    /// The general case of [`Parser::body`]: the input ends within the body or its terminator.
    #[cold]
    fn part_of_body<'a>(
        &mut self,
        missing: usize,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>> {
        if missing == 0 {
            self.state = State::Terminator(false);
            return self.terminator(false, input);
        }
        let bytes: &'a [u8] = input;
        let (part, rest) = bytes.split_at(missing.min(bytes.len()));
        *input = rest;
        self.state = State::Body(missing - part.len());
        Ok((!part.is_empty()).then_some(Event::Bytes { part, done: false }))
    }

    fn terminator<'a>(&mut self, cr: bool, input: &mut &'a [u8]) -> Result<Option<Event<'a>>> {
        let bytes: &'a [u8] = input;
        match (cr, bytes) {
            (_, []) => Ok(None),
            (false, [b'\r', rest @ ..]) => {
                *input = rest;
                self.state = State::Terminator(true);
                self.terminator(true, input)
            }
            (true, [b'\n', rest @ ..]) => {
                *input = rest;
                self.state = State::Header;
                Ok(Some(Event::Bytes { part: &[], done: true }))
            }
            _ => Err(Error::protocol("a bulk string is longer than its header says")),
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        if self.line.len() + bytes.len() > MAX_LINE {
            return Err(too_long(if self.line.is_empty() { bytes } else { &self.line }));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }
}

/// `<kind><len>\r\n` at the front of `bytes`, where all of it is there and the length has up to three
/// digits: its length, and what follows.
///
/// Nearly every header of a stream's reply is like this, and so it has a path of its own.
#[inline(always)]
fn short_header(kind: u8, bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (len, rest) = match bytes {
        [_, a, b'\r', b'\n', rest @ ..] => (digit(*a)?, rest),
        [_, a, b, b'\r', b'\n', rest @ ..] => (digit(*a)? * 10 + digit(*b)?, rest),
        [_, a, b, c, b'\r', b'\n', rest @ ..] => {
            (digit(*a)? * 100 + digit(*b)? * 10 + digit(*c)?, rest)
        }
        _ => return None,
    };
    (bytes.first() == Some(&kind)).then_some((len, rest))
}

#[inline(always)]
fn digit(byte: u8) -> Option<usize> {
    let digit = byte.wrapping_sub(b'0');
    (digit < 10).then_some(usize::from(digit))
}

/// A bulk string at the front of `bytes`, where all of it is there, and what follows.
#[inline(always)]
fn bulk_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = short_header(b'$', bytes)?;
    match rest.split_at_checked(len)? {
        (body, [b'\r', b'\n', rest @ ..]) => Some((body, rest)),
        _ => None,
    }
}

/// The line without its end.
fn whole_line(line: &[u8]) -> Result<&[u8]> {
    if line.len() > MAX_LINE {
        return Err(too_long(line));
    }
    line.strip_suffix(b"\r\n")
        .ok_or_else(|| Error::protocol(format_args!("a line ends without CR: {}", shorten(line))))
}

fn too_long(line: &[u8]) -> Error {
    Error::protocol(format_args!("a line is longer than {MAX_LINE} bytes: {}", shorten(line)))
}

/// The event of a line that is not the header of a bulk string.
fn line_event(line: &[u8]) -> Result<Event<'_>> {
    let Some((&kind, rest)) = line.split_first() else {
        return Err(Error::protocol("a line is empty"));
    };
    let counted = |event: fn(usize) -> Event<'static>| -> Result<Event<'static>> {
        Ok(length(rest)?.map_or(Event::Nil, event))
    };
    match kind {
        b'*' | b'~' => counted(Event::Array),
        b'%' => counted(Event::Map),
        b'>' => counted(Event::Push),
        b'|' => counted(Event::Attribute),
        b'_' => Ok(Event::Nil),
        b'-' => Ok(Event::Error(rest)),
        b'+' | b':' | b',' | b'#' | b'(' => Ok(Event::Scalar(rest)),
        _ => Err(Error::protocol(format_args!("no reply begins with {}", shorten(line)))),
    }
}

/// A length: digits, or `-1` for nil.
fn length(digits: &[u8]) -> Result<Option<usize>> {
    if digits == b"-1" {
        return Ok(None);
    }
    std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .map(Some)
        .ok_or_else(|| Error::protocol(format_args!("{} is not a length", shorten(digits))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every event of `bytes` fed in pieces of `size`, bulk strings put together again.
    fn events(bytes: &[u8], size: usize) -> Result<Vec<String>> {
        let mut parser = Parser::default();
        let mut seen = Vec::new();
        let mut bulk = Vec::new();
        for mut piece in bytes.chunks(size) {
            while let Some(event) = parser.next(&mut piece)? {
                match event {
                    Event::Bytes { part, done } => {
                        bulk.extend_from_slice(part);
                        if done {
                            seen.push(format!("bulk {}", shorten(&std::mem::take(&mut bulk))));
                        }
                    }
                    Event::Scalar(text) => seen.push(format!("scalar {}", shorten(text))),
                    Event::Error(text) => seen.push(format!("error {}", shorten(text))),
                    other => seen.push(format!("{other:?}")),
                }
            }
        }
        Ok(seen)
    }

    const EVERYTHING: &[u8] = b"*2\r\n$3\r\na\r\n\r\n$0\r\n\r\n%1\r\n+OK\r\n:-12\r\n>2\r\n_\r\n$-1\r\n*-1\r\n\
        |1\r\n,1.5\r\n#t\r\n(123456789012345678901234567890\r\n=7\r\ntxt:abc\r\n~1\r\n-ERR no\r\n*0\r\n";

    #[test]
    fn pieces_of_every_size_give_the_same_events() -> Result<()> {
        let whole = events(EVERYTHING, usize::MAX)?;
        assert_eq!(
            whole,
            [
                "Array(2)",
                "bulk \"a\\r\\n\"",
                "bulk \"\"",
                "Map(1)",
                "scalar \"OK\"",
                "scalar \"-12\"",
                "Push(2)",
                "Nil",
                "Nil",
                "Nil",
                "Attribute(1)",
                "scalar \"1.5\"",
                "scalar \"t\"",
                "scalar \"123456789012345678901234567890\"",
                "bulk \"txt:abc\"",
                "Array(1)",
                "error \"ERR no\"",
                "Array(0)",
            ]
        );
        for size in 1..EVERYTHING.len() {
            assert_eq!(events(EVERYTHING, size)?, whole, "pieces of {size}");
        }
        Ok(())
    }

    #[test]
    fn the_quick_ways_take_what_is_whole_or_nothing() -> Result<()> {
        let (entry, pair) = (b"*2\r\n$3\r\n1-0\r\n*12\r\n", b"$4\r\nname\r\n$0\r\n\r\n");
        let bytes = [&entry[..], pair, b"+rest"].concat();
        let mut parser = Parser::default();
        let mut input = &bytes[..];
        assert_eq!(parser.next_pair(&mut input), None);
        assert_eq!(parser.next_entry(&mut input), Some((&b"1-0"[..], 12)));
        assert_eq!(parser.next_entry(&mut input), None);
        assert_eq!(parser.next_pair(&mut input), Some((&b"name"[..], &b""[..])));
        assert_eq!(input, b"+rest");
        let mut input = &pair[..];
        assert_eq!(parser.next_string(&mut input), Some(&b"name"[..]));
        assert_eq!(parser.next_string(&mut input), Some(&b""[..]));
        for (whole, from) in [(&entry[..], 0), (pair, entry.len())] {
            for cut in 0..whole.len() {
                let mut input = &bytes[from..from + cut];
                assert_eq!(parser.next_entry(&mut input), None);
                assert_eq!(parser.next_pair(&mut input), None);
                assert_eq!(input.len(), cut);
                if cut < 10 {
                    assert_eq!(parser.next_string(&mut input), None);
                }
            }
        }
        // Within a header or a body, what looks like a beginning is none.
        for begun in [&b"$"[..], b"$30\r\nx"] {
            let mut parser = Parser::default();
            parser.next(&mut { begun })?;
            assert_eq!(parser.next_entry(&mut &entry[..]), None);
            assert_eq!(parser.next_pair(&mut &pair[..]), None);
        }
        Ok(())
    }

    #[test]
    fn what_is_not_resp_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"*99999999999999999999999\r\n",
            b"$3\r\nabcd\r\n",
            b"$3\r\nabc\rx",
            b"*1\n",
            b"$+3\r\nabc\r\n",
            b"!3\r\nERR\r\n",
            &[b'+'; MAX_LINE + 1],
            &[&[b'+'; MAX_LINE][..], b"\r\n"].concat(),
        ] {
            for size in [1, 3, 7, usize::MAX] {
                assert!(events(bytes, size).is_err(), "{} in pieces of {size}", shorten(bytes));
            }
        }
    }

    #[test]
    fn a_huge_length_allocates_nothing() -> Result<()> {
        let mut parser = Parser::default();
        let mut input = &b"$9223372036854775807\r\nabc"[..];
        assert_eq!(parser.next(&mut input)?, Some(Event::Bytes { part: b"abc", done: false }));
        assert_eq!(parser.next(&mut input)?, None);
        assert_eq!(parser.line.capacity(), 0);
        Ok(())
    }
}
