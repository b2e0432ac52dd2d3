//! The floor that `benches/compare.py` measures against: requests the pages that `read_stream`
//! requests, finds the last entry ID of each, and drops every other byte.
//!
//! ```text
//! drain HOST:PORT STREAM                 prints the entries, the bytes and the seconds
//! drain HOST:PORT STREAM GROUP BATCH     the same as a member of a group, acknowledging
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use redfloe::{EntryId, PageSize};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(stream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: drain HOST:PORT STREAM [GROUP BATCH]".into());
    };
    let mut server = TcpStream::connect(address)?;
    server.set_nodelay(true)?;
    let started = Instant::now();
    let (entries, bytes) = match (arguments.next(), arguments.next()) {
        (Some(group), Some(batch)) => consume(&mut server, &stream, &group, &batch)?,
        _ => read(&mut server, &stream)?,
    };
    println!("{entries} {bytes} {}", started.elapsed().as_secs_f64());
    Ok(())
}

/// The pages of `read_stream`.
fn read(server: &mut TcpStream, stream: &str) -> Outcome<(u64, u64)> {
    let end = newest(server, stream)?;
    let (mut entries, mut bytes) = (0, 0);
    let mut start = EntryId::MIN;
    let mut page = PageSize::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = page.count();
        let (first, most) = (start.to_string(), count.to_string());
        request(server, &["XRANGE", stream, &first, &end, "COUNT", &most])?;
        let reply = drain(&mut Input::new(server, &mut buffer), false)?;
        entries += reply.entries;
        bytes += reply.bytes;
        page.observe(reply.entries, reply.bytes);
        match reply.last_id.successor() {
            Some(next) if reply.entries == count && reply.last_id.to_string() != end => {
                start = next
            }
            _ => return Ok((entries, bytes)),
        }
    }
}

/// The commands of `StreamConsumer`: what is done is acknowledged before the next batch is asked
/// for, a thousand IDs to a command.
fn consume(server: &mut TcpStream, stream: &str, group: &str, batch: &str) -> Outcome<(u64, u64)> {
    let (mut entries, mut bytes) = (0, 0);
    let mut buffer = vec![0; 256 * 1024];
    let mut done: Vec<String> = Vec::new();
    loop {
        let mut commands = Vec::new();
        for ids in done.chunks(1_000) {
            let head = ["XACK", stream, group];
            let ids = ids.iter().map(String::as_str);
            pack(&mut commands, &head.into_iter().chain(ids).collect::<Vec<_>>());
        }
        let read = ["XREADGROUP", "GROUP", group, "worker", "COUNT", batch, "STREAMS", stream, ">"];
        pack(&mut commands, &read);
        server.write_all(&commands)?;
        let mut input = Input::new(server, &mut buffer);
        for _ in done.chunks(1_000) {
            input.header(b':')?;
        }
        if input.header(b'*').is_err() {
            return Ok((entries, bytes)); // nil
        }
        input.header(b'*')?;
        let name = input.header(b'$')?;
        input.skip(name)?;
        let reply = drain(&mut input, true)?;
        entries += reply.entries;
        bytes += reply.bytes;
        done = reply.ids;
    }
}

fn request(server: &mut TcpStream, arguments: &[&str]) -> Outcome<()> {
    let mut command = Vec::new();
    pack(&mut command, arguments);
    Ok(server.write_all(&command)?)
}

fn pack(command: &mut Vec<u8>, arguments: &[&str]) {
    command.extend(format!("*{}\r\n", arguments.len()).bytes());
    for argument in arguments {
        command.extend(format!("${}\r\n{argument}\r\n", argument.len()).bytes());
    }
}

/// The newest ID, where `read_stream` ends too.
fn newest(server: &mut TcpStream, stream: &str) -> Outcome<String> {
    request(server, &["XREVRANGE", stream, "+", "-", "COUNT", "1"])?;
    Ok(drain(&mut Input::new(server, &mut vec![0; 64 * 1024]), false)?.last_id.to_string())
}

struct Reply {
    entries: u64,
    bytes: u64,
    last_id: EntryId,
    ids: Vec<String>,
}

/// Reads an array of entries off the socket, hopping from header to header; keeps the last ID, or
/// all of them.
fn drain(input: &mut Input<'_>, all_ids: bool) -> Outcome<Reply> {
    let mut ids = Vec::new();
    let entries = input.header(b'*')?;
    let mut last_id = EntryId::MIN;
    for entry in 1..=entries {
        input.header(b'*')?;
        let len = input.header(b'$')?;
        match (all_ids, entry == entries) {
            (true, _) => ids.push(String::from_utf8(input.take(len)?)?),
            (false, true) => last_id = String::from_utf8(input.take(len)?)?.parse()?,
            (false, false) => input.skip(len)?,
        }
        for _ in 0..input.header(b'*')? {
            let len = input.header(b'$')?;
            input.skip(len)?;
        }
    }
    Ok(Reply { entries: entries as u64, bytes: input.bytes, last_id, ids })
}

struct Input<'a> {
    server: &'a mut TcpStream,
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    bytes: u64,
}

impl<'a> Input<'a> {
    fn new(server: &'a mut TcpStream, buffer: &'a mut [u8]) -> Self {
        Input { server, buffer, start: 0, end: 0, bytes: 0 }
    }

    fn fill(&mut self) -> Outcome<()> {
        (self.start, self.end) = (0, self.server.read(self.buffer)?);
        self.bytes += self.end as u64;
        if self.end == 0 { Err("the server closed the connection".into()) } else { Ok(()) }
    }

    fn byte(&mut self) -> Outcome<u8> {
        if self.start == self.end {
            self.fill()?;
        }
        let byte = self.buffer[self.start];
        self.start += 1;
        Ok(byte)
    }

    /// The number in a header of this kind.
    fn header(&mut self, kind: u8) -> Outcome<usize> {
        let found = self.byte()?;
        if found != kind {
            return Err(format!("unexpected reply: {}", found.escape_ascii()).into());
        }
        let mut number = 0;
        loop {
            match self.byte()? {
                b'\r' => break,
                b'-' => return Err("nil".into()),
                digit => number = number * 10 + usize::from(digit - b'0'),
            }
        }
        self.byte()?;
        Ok(number)
    }

    /// Drops a bulk string and its terminator.
    fn skip(&mut self, len: usize) -> Outcome<()> {
        let mut left = len + 2;
        while left > self.end - self.start {
            left -= self.end - self.start;
            self.fill()?;
        }
        self.start += left;
        Ok(())
    }

    fn take(&mut self, len: usize) -> Outcome<Vec<u8>> {
        let bytes = (0..len).map(|_| self.byte()).collect::<Outcome<Vec<u8>>>()?;
        self.skip(0)?;
        Ok(bytes)
    }
}
