//! The floor that `benches/compare.py` measures against: requests the pages that `read_stream`
//! requests, finds the last entry ID of each, and drops every other byte.
//!
//! ```text
//! drain HOST:PORT STREAM    prints the entries, the bytes and the seconds
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
        return Err("usage: drain HOST:PORT STREAM".into());
    };
    let mut server = TcpStream::connect(address)?;
    server.set_nodelay(true)?;
    let started = Instant::now();
    let end = newest(&mut server, &stream)?;
    let (mut entries, mut bytes) = (0, 0);
    let mut start = EntryId::MIN;
    let mut page = PageSize::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = page.count();
        request(
            &mut server,
            &["XRANGE", &stream, &start.to_string(), &end, "COUNT", &count.to_string()],
        )?;
        let reply = drain(&mut server, &mut buffer)?;
        entries += reply.entries;
        bytes += reply.bytes;
        page.observe(reply.entries, reply.bytes);
        match reply.last_id.successor() {
            Some(next) if reply.entries == count && reply.last_id.to_string() != end => {
                start = next
            }
            _ => break,
        }
    }
    println!("{entries} {bytes} {}", started.elapsed().as_secs_f64());
    Ok(())
}

fn request(server: &mut TcpStream, arguments: &[&str]) -> Outcome<()> {
    let mut command = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        command += &format!("${}\r\n{argument}\r\n", argument.len());
    }
    Ok(server.write_all(command.as_bytes())?)
}

/// The newest ID, where `read_stream` ends too.
fn newest(server: &mut TcpStream, stream: &str) -> Outcome<String> {
    request(server, &["XREVRANGE", stream, "+", "-", "COUNT", "1"])?;
    Ok(drain(server, &mut vec![0; 64 * 1024])?.last_id.to_string())
}

struct Reply {
    entries: u64,
    bytes: u64,
    last_id: EntryId,
}

/// Reads one XRANGE reply off the socket, hopping from header to header.
fn drain(server: &mut TcpStream, buffer: &mut [u8]) -> Outcome<Reply> {
    let mut input = Input { server, buffer, start: 0, end: 0, bytes: 0 };
    let entries = input.header(b'*')?;
    let mut last_id = EntryId::MIN;
    for entry in 1..=entries {
        input.header(b'*')?;
        let len = input.header(b'$')?;
        match entry == entries {
            true => last_id = String::from_utf8(input.take(len)?)?.parse()?,
            false => input.skip(len)?,
        }
        for _ in 0..input.header(b'*')? {
            let len = input.header(b'$')?;
            input.skip(len)?;
        }
    }
    Ok(Reply { entries: entries as u64, bytes: input.bytes, last_id })
}

struct Input<'a> {
    server: &'a mut TcpStream,
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    bytes: u64,
}

impl Input<'_> {
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
