//! Commands are arrays of bulk strings: how those are spelled.

/// `$3\r\nabc\r\n`
#[inline]
pub(crate) fn push_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    push_header(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// `$3\r\n`
#[inline]
pub(crate) fn push_header(kind: u8, length: usize, out: &mut Vec<u8>) {
    match length {
        0..10 => out.extend_from_slice(&[kind, b'0' + length as u8, b'\r', b'\n']),
        10..100 => {
            let digits = [b'0' + (length / 10) as u8, b'0' + (length % 10) as u8];
            out.extend_from_slice(&[kind, digits[0], digits[1], b'\r', b'\n']);
        }
        _ => {
            let mut buffer = [0; 32];
            out.push(kind);
            out.extend_from_slice(lexical_core::write(length, &mut buffer));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A command of these arguments, the first of which is its name.
pub(crate) fn command(arguments: &[&[u8]]) -> Vec<u8> {
    let mut packed = Vec::new();
    push_header(b'*', arguments.len(), &mut packed);
    arguments.iter().for_each(|argument| push_bulk(argument, &mut packed));
    packed
}

/// A command, argument by argument; [`push_bulk`] spells each.
#[derive(Debug, Clone)]
pub(crate) struct Cmd {
    arguments: usize,
    body: Vec<u8>,
}

impl Cmd {
    pub(crate) fn new() -> Self {
        /// Most commands are no longer.
        const USUAL: usize = 112;
        Cmd { arguments: 0, body: Vec::with_capacity(USUAL) }
    }

    /// Adds an argument, or each of several.
    pub(crate) fn arg(&mut self, argument: impl Argument) -> &mut Self {
        argument.push_to(self);
        self
    }

    fn push(&mut self, bytes: &[u8]) {
        self.arguments += 1;
        push_bulk(bytes, &mut self.body);
    }

    pub(crate) fn get_packed_command(&self) -> Vec<u8> {
        let mut packed = Vec::new();
        self.write_packed_command(&mut packed);
        packed
    }

    pub(crate) fn write_packed_command(&self, out: &mut Vec<u8>) {
        out.reserve_exact(self.body.len() + 16);
        push_header(b'*', self.arguments, out);
        out.extend_from_slice(&self.body);
    }
}

/// A command of that name.
pub(crate) fn cmd(name: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg(name);
    command
}

/// What can be an argument of a command: bytes, text, a number, or several of one of them.
pub(crate) trait Argument {
    fn push_to(&self, command: &mut Cmd);
}

impl Argument for [u8] {
    fn push_to(&self, command: &mut Cmd) {
        command.push(self);
    }
}

impl Argument for str {
    fn push_to(&self, command: &mut Cmd) {
        command.push(self.as_bytes());
    }
}

impl Argument for Vec<u8> {
    fn push_to(&self, command: &mut Cmd) {
        command.push(self);
    }
}

impl Argument for String {
    fn push_to(&self, command: &mut Cmd) {
        command.push(self.as_bytes());
    }
}

impl<const N: usize> Argument for [u8; N] {
    fn push_to(&self, command: &mut Cmd) {
        command.push(self);
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Argument for $number {
            fn push_to(&self, command: &mut Cmd) {
                command.push(lexical_core::write(*self, &mut [0; 40]));
            }
        })*
    };
}

numbers!(u16 u32 u64 usize i32 i64);

impl<A: Argument + ?Sized> Argument for &A {
    fn push_to(&self, command: &mut Cmd) {
        (**self).push_to(command);
    }
}

impl<A: Argument + ?Sized> Argument for [&A] {
    fn push_to(&self, command: &mut Cmd) {
        self.iter().for_each(|argument| argument.push_to(command));
    }
}

impl Argument for [Vec<u8>] {
    fn push_to(&self, command: &mut Cmd) {
        self.iter().for_each(|argument| argument.push_to(command));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_every_kind_are_bulk_strings() {
        let mut command = cmd("X");
        command.arg(&b"\xff"[..]).arg(vec![b'a']).arg("é".to_owned()).arg(b"bc").arg(7).arg(-1);
        command.arg(u64::MAX).arg(12_usize).arg(&["d", "e"][..]).arg(&[b"f".to_vec()][..]);
        let packed = command.get_packed_command();
        let whole = redis::cmd("X")
            .arg(&b"\xff"[..])
            .arg(vec![b'a'])
            .arg("é")
            .arg(b"bc")
            .arg(7)
            .arg(-1)
            .arg(u64::MAX)
            .arg(12_usize)
            .arg(&["d", "e"])
            .arg("f")
            .get_packed_command();
        assert_eq!(packed, whole);
        let mut twice = packed.clone();
        command.write_packed_command(&mut twice);
        assert_eq!(twice, [&packed[..], &packed].concat());
    }

    #[test]
    fn lengths_have_as_many_digits_as_it_takes() {
        for length in [0, 1, 9, 10, 99, 100, 12_345] {
            let bytes = vec![b'x'; length];
            let mut out = Vec::new();
            push_bulk(&bytes, &mut out);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(out, format!("${length}\r\n{text}\r\n").as_bytes());
        }
    }
}
