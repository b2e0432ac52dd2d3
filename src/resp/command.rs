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
