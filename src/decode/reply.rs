//! The grammar of replies that carry entries: events in, rows on the tape.

use super::tape::Tape;
use crate::entry_id::EntryId;
use crate::error::{Error, Result, ServerCode, shorten};
use crate::resp::{Event, Nesting, Parser, doubled};

/// What the reply looks like, which depends on the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReplyShape {
    /// An array of entries: XRANGE, XREVRANGE, XCLAIM.
    #[default]
    Entries,
    /// Streams with their entries: XREAD, XREADGROUP; a map in RESP3.
    Streams,
    /// A cursor, entries, and since 7.0 the IDs of those that were deleted: XAUTOCLAIM.
    Claimed,
}

/// How a reply ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// With entries, perhaps none.
    Entries,
    /// With nil: a BLOCK that timed out, or was ended by CLIENT UNBLOCK or the key's end.
    Nil,
    /// With an error of the server.
    Error(Error),
}

/// What may come next.
#[derive(Debug, Clone)]
enum Expect {
    Reply,
    Stream,
    StreamName,
    StreamEntries,
    Entry,
    Id,
    Fields,
    Name,
    Value,
    /// What XREADGROUP CLAIM says of an entry behind its fields.
    Trailer,
    Cursor,
    DeletedIds,
    DeletedId,
    /// The rest of something outside the reply: a push frame, attributes.
    Aside(Nesting),
    /// The rest of an entry after the last that is wanted.
    Beyond(Nesting),
}

/// Reads replies of one shape, one after the other.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    parser: Parser,
    grammar: Grammar,
}

#[derive(Debug)]
struct Grammar {
    shape: ReplyShape,
    expect: Expect,
    /// Streams, entries and fields that are still to come, at their levels.
    streams: usize,
    entries: usize,
    fields: usize,
    /// Values after the fields of the entry, and IDs after the entries.
    trailers: usize,
    deleted_ids: usize,
    /// Whether IDs of deleted entries come after the entries.
    tells_deleted: bool,
    /// RESP2 sends each stream as an array of two, RESP3 as a pair of a map.
    streams_are_pairs: bool,
    /// The beginning of an ID or name that the input cut in two.
    partial: Vec<u8>,
    /// IDs whose fields were nil: pending entries that were deleted from the stream.
    /// With the streams that they are of.
    deleted: Vec<(usize, EntryId)>,
    id: EntryId,
    /// Entries after this ID are passed over; their streams are noted.
    last_wanted: EntryId,
    beyond: Vec<usize>,
    end: Option<Reply>,
}

impl ReplyReader {
    pub(crate) fn new(shape: ReplyShape) -> Self {
        ReplyReader {
            parser: Parser::default(),
            grammar: Grammar {
                shape,
                expect: Expect::Reply,
                streams: 0,
                entries: 0,
                fields: 0,
                trailers: 0,
                deleted_ids: 0,
                tells_deleted: false,
                streams_are_pairs: false,
                partial: Vec::new(),
                deleted: Vec::new(),
                id: EntryId::MIN,
                last_wanted: EntryId::MAX,
                beyond: Vec::new(),
                end: None,
            },
        }
    }

    /// Takes bytes off the front of `buf`, up to the end of the reply or of the last entry that the
    /// tape has room for at most; says how many.
    pub(crate) fn decode(&mut self, tape: &mut Tape, buf: &[u8]) -> Result<usize> {
        let mut rest = buf;
        while self.grammar.end.is_none() && !self.grammar.is_full(tape) {
            match self.parser.next(&mut rest)? {
                Some(event) => self.grammar.step(event, tape)?,
                None => break,
            }
            rest = self.grammar.take_whole(&mut self.parser, rest, tape)?;
        }
        Ok(buf.len() - rest.len())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.grammar.end.is_some()
    }

    /// Takes the end of a complete reply and gets ready for the next one.
    pub(crate) fn take_end(&mut self) -> Option<Reply> {
        self.grammar.end.take()
    }

    /// Takes the IDs of deleted pending entries seen so far.
    pub(crate) fn take_deleted(&mut self) -> Vec<(usize, EntryId)> {
        std::mem::take(&mut self.grammar.deleted)
    }

    /// Passes over entries after this ID.
    pub(crate) fn set_last_wanted(&mut self, id: EntryId) {
        self.grammar.last_wanted = id;
    }

    /// Takes the streams of entries that were passed over since the last call.
    pub(crate) fn take_beyond(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.grammar.beyond)
    }

    /// Forgets a reply that will never end; the next bytes begin a new one.
    pub(crate) fn abandon(&mut self) {
        self.parser = Parser::default();
        self.grammar.partial.clear();
        self.grammar.trailers = 0;
        self.grammar.tells_deleted = false;
        self.grammar.expect = Expect::Reply;
        self.grammar.end = None;
    }
}

impl Grammar {
    /// Whether the next thing to come is one more entry than there may be.
    fn is_full(&self, tape: &Tape) -> bool {
        matches!(self.expect, Expect::Entry) && tape.is_full()
    }

    /// Takes entries and fields as long as the input holds them whole, which is nearly always, and
    /// gives the rest. [`Grammar::step`] does the same, event by event, and whatever else there is.
    ///
    /// Not inlined, so that the rare cases take no registers from this loop.
    #[inline(never)]
    fn take_whole<'i>(
        &mut self,
        parser: &mut Parser,
        mut input: &'i [u8],
        tape: &mut Tape,
    ) -> Result<&'i [u8]> {
        loop {
            match self.expect {
                Expect::Name => {
                    while self.fields > 0 {
                        let Some((name, value)) = parser.next_pair(&mut input) else {
                            return Ok(input);
                        };
                        tape.name(name)?;
                        tape.value(value, true)?;
                        self.fields -= 1;
                    }
                }
                Expect::Entry if !tape.is_full() => {
                    let Some((id, len)) = parser.next_entry(&mut input) else {
                        return Ok(input);
                    };
                    let id = parse_id(id)?;
                    if id > self.last_wanted {
                        self.pass_over(Nesting::of(len), tape);
                        continue;
                    }
                    self.begin_entry(id, tape);
                    self.begin_fields(len)?;
                }
                _ => return Ok(input),
            }
            self.after_field(tape);
        }
    }

    #[inline]
    fn step(&mut self, event: Event<'_>, tape: &mut Tape) -> Result<()> {
        match (&mut self.expect, event) {
            // The three that make up nearly all of a reply come first.
            (Expect::Value, Event::Bytes { part, done }) => {
                tape.value(part, done)?;
                if done {
                    self.fields -= 1;
                    self.after_field(tape);
                }
            }
            (Expect::Name, Event::Bytes { part, done }) => {
                if !done || !self.partial.is_empty() {
                    self.partial.extend_from_slice(part);
                    if !done {
                        return Ok(());
                    }
                    tape.name(&self.partial)?;
                    self.partial.clear();
                } else {
                    tape.name(part)?;
                }
                self.expect = Expect::Value;
            }
            (Expect::Id, Event::Bytes { part, done }) => match self.take_id(part, done)? {
                Some(id) if id > self.last_wanted => self.pass_over(Nesting::of(1), tape),
                Some(id) => self.begin_entry(id, tape),
                None => {}
            },
            (Expect::Entry, Event::Array(2)) => self.expect = Expect::Id,
            // With how long it was idle, and how often it had been delivered.
            (Expect::Entry, Event::Array(4)) => {
                self.trailers = 2;
                self.expect = Expect::Id;
            }
            (Expect::Trailer, Event::Scalar(_)) => {
                self.trailers -= 1;
                self.after_entry();
            }
            // Before 7.0 a claimed entry that was deleted is nil without its ID.
            (Expect::Entry, Event::Nil) => self.after_entry(),
            (Expect::Cursor, Event::Bytes { part, done }) => {
                if self.take_id(part, done)?.is_some() {
                    self.expect = Expect::StreamEntries;
                }
            }
            (Expect::DeletedIds, Event::Array(len)) => {
                self.deleted_ids = len;
                self.next_deleted();
            }
            (Expect::DeletedId, Event::Bytes { part, done }) => {
                if let Some(id) = self.take_id(part, done)? {
                    self.deleted.push((tape.stream(), id));
                    self.deleted_ids -= 1;
                    self.next_deleted();
                }
            }
            (Expect::Fields, Event::Array(len)) => {
                self.begin_fields(len)?;
                self.after_field(tape);
            }
            (Expect::Fields, Event::Map(pairs)) => {
                self.fields = pairs;
                self.after_field(tape);
            }
            (Expect::Fields, Event::Nil) => {
                self.deleted.push((tape.stream(), self.id));
                self.after_entry();
            }
            // A value that the server types is taken as its text.
            (Expect::Value, Event::Scalar(text)) => {
                tape.value(text, true)?;
                self.fields -= 1;
                self.after_field(tape);
            }
            (Expect::Reply, Event::Error(line)) => {
                let error = Error::from_server(line);
                self.finish(match error.server_code().is_some_and(ServerCode::ends_wait) {
                    true => Reply::Nil,
                    false => Reply::Error(error),
                });
            }
            (Expect::Reply, Event::Nil) => self.finish(Reply::Nil),
            (Expect::Reply, Event::Push(len)) => self.skip(Nesting::of(len)),
            (Expect::Reply, Event::Attribute(pairs)) => self.skip(Nesting::of(doubled(pairs)?)),
            (Expect::Reply, event) => self.begin_reply(event)?,
            (Expect::Aside(nesting), event) => {
                nesting.observe(&event)?;
                if nesting.is_whole() {
                    self.expect = Expect::Reply;
                }
            }
            (Expect::Beyond(nesting), event) => {
                nesting.observe(&event)?;
                if nesting.is_whole() {
                    self.after_entry();
                }
            }
            (Expect::Stream, Event::Array(2)) => self.expect = Expect::StreamName,
            (Expect::StreamName, Event::Bytes { part, done }) => {
                // What is longer than all names that there are is none of them.
                if tape.longest_name().is_some_and(|most| self.partial.len() <= most) {
                    self.partial.extend_from_slice(part);
                }
                if done {
                    tape.begin_named_stream(&self.partial)?;
                    self.partial.clear();
                    self.expect = Expect::StreamEntries;
                }
            }
            (Expect::StreamEntries, Event::Array(len)) => self.begin_entries(len),
            (expect, event) => return Err(unexpected(expect, &event)),
        }
        Ok(())
    }

    fn skip(&mut self, nesting: Nesting) {
        if !nesting.is_whole() {
            self.expect = Expect::Aside(nesting);
        }
    }

    fn begin_reply(&mut self, event: Event<'_>) -> Result<()> {
        match (self.shape, event) {
            (ReplyShape::Entries, Event::Array(len)) => {
                self.streams = 1;
                self.begin_entries(len);
            }
            (ReplyShape::Streams, Event::Array(len)) => {
                self.streams_are_pairs = false;
                self.begin_streams(len);
            }
            (ReplyShape::Streams, Event::Map(len)) => {
                self.streams_are_pairs = true;
                self.begin_streams(len);
            }
            (ReplyShape::Claimed, Event::Array(len @ 2..=3)) => {
                self.tells_deleted = len == 3;
                self.streams = 1;
                self.expect = Expect::Cursor;
            }
            (_, event) => return Err(unexpected(&Expect::Reply, &event)),
        }
        Ok(())
    }

    fn begin_streams(&mut self, len: usize) {
        self.streams = len;
        self.next_stream();
    }

    fn next_stream(&mut self) {
        match self.streams {
            0 => self.finish(Reply::Entries),
            _ if self.streams_are_pairs => self.expect = Expect::StreamName,
            _ => self.expect = Expect::Stream,
        }
    }

    /// The reply has come to its end. What follows is another one, whatever it looks like.
    fn finish(&mut self, end: Reply) {
        self.end = Some(end);
        self.expect = Expect::Reply;
    }

    fn begin_entries(&mut self, len: usize) {
        self.entries = len;
        self.expect = Expect::Entry;
        if len == 0 {
            self.after_entries();
        }
    }

    fn after_entries(&mut self) {
        self.streams -= 1;
        match std::mem::take(&mut self.tells_deleted) {
            true => self.expect = Expect::DeletedIds,
            false => self.next_stream(),
        }
    }

    fn next_deleted(&mut self) {
        match self.deleted_ids {
            0 => self.next_stream(),
            _ => self.expect = Expect::DeletedId,
        }
    }

    /// An ID, once it is whole.
    fn take_id(&mut self, part: &[u8], done: bool) -> Result<Option<EntryId>> {
        if done && self.partial.is_empty() {
            return parse_id(part).map(Some);
        }
        self.partial.extend_from_slice(part);
        // An ID has at most 41 bytes; a server that sends more sends no ID.
        if !done && self.partial.len() <= 64 {
            return Ok(None);
        }
        let id = std::mem::take(&mut self.partial);
        parse_id(&id).map(Some)
    }

    #[inline]
    fn begin_entry(&mut self, id: EntryId, tape: &mut Tape) {
        self.id = id;
        tape.open_entry(id);
        self.expect = Expect::Fields;
    }

    /// An entry that is not wanted, whose fields come.
    fn pass_over(&mut self, fields: Nesting, tape: &Tape) {
        let stream = tape.stream();
        if self.beyond.last() != Some(&stream) {
            self.beyond.push(stream);
        }
        match fields.is_whole() {
            true => self.after_entry(),
            false => self.expect = Expect::Beyond(fields),
        }
    }

    #[inline]
    fn begin_fields(&mut self, len: usize) -> Result<()> {
        if len % 2 == 1 {
            return Err(Error::protocol("a field has a name and no value"));
        }
        self.fields = len / 2;
        Ok(())
    }

    #[inline]
    fn after_field(&mut self, tape: &mut Tape) {
        if self.fields > 0 {
            self.expect = Expect::Name;
        } else {
            tape.close_entry();
            self.after_entry();
        }
    }

    #[inline]
    fn after_entry(&mut self) {
        if self.trailers > 0 {
            self.expect = Expect::Trailer;
            return;
        }
        self.entries -= 1;
        self.expect = Expect::Entry;
        if self.entries == 0 {
            self.after_entries();
        }
    }
}

#[inline]
fn parse_id(id: &[u8]) -> Result<EntryId> {
    EntryId::from_bytes(id)
        .ok_or_else(|| Error::protocol(format_args!("{} is no entry ID", shorten(id))))
}

fn unexpected(expect: &Expect, event: &Event<'_>) -> Error {
    let event = match event {
        Event::Bytes { part, .. } => format!("the string {}", shorten(part)),
        Event::Scalar(text) => format!("the value {}", shorten(text)),
        Event::Error(line) => format!("the error {}", shorten(line)),
        other => format!("{other:?}"),
    };
    Error::protocol(format_args!("{event} came where {expect:?} was expected"))
}
