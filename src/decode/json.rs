//! JSON split into the texts of its parts: an object's members, an array's elements. Each is
//! checked to its end, and nothing is built of it.
//!
//! Beside JSON it takes `NaN`, `Infinity` and `-Infinity` for values, which Python's `json.dumps`
//! writes for floats that JSON has no number for.

use std::ops::Range;

use super::column::Origin;
use super::value::{Kind, Malformed, Notation, Value};

/// JSON documents.
pub(crate) enum Json {}

impl Notation for Json {
    const NO_OBJECT: &'static str = "is not a JSON object";
    const NO_ARRAY: &'static str = "is not a JSON array";

    #[inline]
    fn split_object(text: &[u8], member: impl FnMut(Value, Value)) -> Result<(), Malformed> {
        split_object(text, member)
    }

    #[inline]
    fn split_array(text: &[u8], element: impl FnMut(Value)) -> Result<(), Malformed> {
        split_array(text, element)
    }

    #[inline]
    fn is_null(text: &[u8]) -> bool {
        text.trim_ascii() == b"null"
    }

    #[inline]
    fn is_array(text: &[u8]) -> bool {
        text.trim_ascii_start().starts_with(b"[")
    }

    #[inline]
    fn push_string(content: &[u8], out: &mut Vec<u8>) {
        unescape(content, out);
    }

    #[inline]
    fn push_other(value: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(value);
    }

    #[inline(always)]
    fn origin(kind: Kind) -> Origin {
        match kind {
            Kind::Null => Origin::Null,
            Kind::String { .. } => Origin::JsonString,
            _ => Origin::Json,
        }
    }
}

/// Gives an object's keys and values, in order, one that is repeated each time.
#[inline]
pub(crate) fn split_object(
    text: &[u8],
    mut member: impl FnMut(Value, Value),
) -> Result<(), Malformed> {
    let mut cursor = Cursor::begin(text, b'{')?;
    if cursor.peek() == Some(b'}') {
        cursor.at += 1;
        return cursor.end();
    }
    loop {
        let key = cursor.key()?;
        let value = cursor.value()?;
        member(key, value);
        if !cursor.has_next(b'}')? {
            return cursor.end();
        }
    }
}

/// Gives an array's elements, in order.
pub(crate) fn split_array(text: &[u8], mut element: impl FnMut(Value)) -> Result<(), Malformed> {
    let mut cursor = Cursor::begin(text, b'[')?;
    if cursor.peek() == Some(b']') {
        cursor.at += 1;
        return cursor.end();
    }
    loop {
        element(cursor.value()?);
        if !cursor.has_next(b']')? {
            return cursor.end();
        }
    }
}

/// Appends what a string's text stands for. The half of a surrogate pair, which no text can have,
/// becomes bytes that are not UTF-8, so that whoever asks for text refuses it.
pub(crate) fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain);
        rest = match escape {
            [_, b'u', tail @ ..] => unescape_unicode(tail, out),
            [_, letter, tail @ ..] => {
                out.push(match letter {
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                tail
            }
            _ => &[],
        };
    }
    out.extend_from_slice(rest);
}

/// Appends to a buffer what a string's text in it stands for.
pub(crate) fn unescape_within(buffer: &mut Vec<u8>, text: Range<usize>) {
    let mut unescaped = Vec::with_capacity(text.len());
    unescape(buffer.get(text).unwrap_or_default(), &mut unescaped);
    buffer.append(&mut unescaped);
}

/// Appends the character of four hexadecimal digits, or of two times four; gives the rest.
fn unescape_unicode<'t>(text: &'t [u8], out: &mut Vec<u8>) -> &'t [u8] {
    let unit = |text: &'t [u8]| {
        let (digits, rest) = text.split_at_checked(4)?;
        let value = |number: u32, digit: &u8| Some(number * 16 + char::from(*digit).to_digit(16)?);
        Some((digits.iter().try_fold(0, value)?, rest))
    };
    let Some((first, mut rest)) = unit(text) else {
        return &[];
    };
    let mut code = first;
    if (0xd800..0xdc00).contains(&first)
        && let [b'\\', b'u', tail @ ..] = rest
        && let Some((second @ 0xdc00..0xe000, tail)) = unit(tail)
    {
        code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        rest = tail;
    }
    match char::from_u32(code) {
        Some(character) => {
            let mut buffer = [0; 4];
            out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
        }
        // As UTF-8 would write it if it could.
        None => {
            let bytes = [0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63)];
            out.extend(bytes.map(|byte| byte as u8));
        }
    }
    rest
}

/// The deepest that arrays and objects may be nested in each other.
pub(crate) const DEEPEST: u32 = 128;

struct Cursor<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Cursor<'t> {
    /// After the bracket that opens the whole text.
    #[inline]
    fn begin(text: &'t [u8], open: u8) -> Result<Self, Malformed> {
        let mut cursor = Cursor { text, at: 0 };
        cursor.skip_space();
        cursor.take(open)?;
        cursor.skip_space();
        Ok(cursor)
    }

    /// Nothing comes after the value but space.
    #[inline]
    fn end(mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(Malformed) }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// After a value: whether another one follows before the bracket that closes.
    #[inline]
    fn has_next(&mut self, close: u8) -> Result<bool, Malformed> {
        self.skip_space();
        let byte = self.peek().ok_or(Malformed)?;
        self.at += 1;
        match byte {
            b',' => {
                self.skip_space();
                Ok(true)
            }
            byte if byte == close => Ok(false),
            _ => Err(Malformed),
        }
    }

    /// A key and its colon.
    #[inline]
    fn key(&mut self) -> Result<Value, Malformed> {
        self.take(b'"')?;
        let key = self.string()?;
        self.skip_space();
        self.take(b':')?;
        self.skip_space();
        Ok(key)
    }

    #[inline]
    fn value(&mut self) -> Result<Value, Malformed> {
        match self.peek() {
            Some(b'{' | b'[') => self.nested(),
            _ => self.scalar(),
        }
    }

    #[inline]
    fn scalar(&mut self) -> Result<Value, Malformed> {
        let start = self.at;
        let kind = match self.peek().ok_or(Malformed)? {
            b'"' => {
                self.at += 1;
                return self.string();
            }
            b'-' | b'0'..=b'9' => {
                self.number()?;
                Kind::Number
            }
            b't' => self.word(b"true", Kind::Boolean)?,
            b'f' => self.word(b"false", Kind::Boolean)?,
            b'n' => self.word(b"null", Kind::Null)?,
            b'N' => self.word(b"NaN", Kind::Number)?,
            b'I' => self.word(b"Infinity", Kind::Number)?,
            _ => return Err(Malformed),
        };
        Ok(self.value_from(start, kind))
    }

    /// What begins at `start` and ends here.
    #[inline(always)]
    fn value_from(&self, start: usize, kind: Kind) -> Value {
        Value::new(kind, start, self.at)
    }

    #[inline]
    fn word(&mut self, word: &[u8], kind: Kind) -> Result<Kind, Malformed> {
        if !self.text.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(kind)
    }

    #[inline]
    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'I') => return self.word(b"Infinity", Kind::Number).map(drop),
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    #[inline]
    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Malformed) }
    }

    /// A string whose opening quote has been taken.
    #[inline]
    fn string(&mut self) -> Result<Value, Malformed> {
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_len(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    let value = self.value_from(start, Kind::String { escaped });
                    self.at += 1;
                    return Ok(value);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                // The end, or a control character.
                _ => return Err(Malformed),
            }
        }
    }

    #[cold]
    fn escape(&mut self) -> Result<(), Malformed> {
        let (_, escape) = self.text.split_at_checked(self.at + 1).ok_or(Malformed)?;
        match escape {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
            [b'u', a, b, c, d, ..]
                if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) =>
            {
                self.at += 6;
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// An array or object with all that is in it. Without recursion, so that no text exhausts the
    /// stack.
    fn nested(&mut self) -> Result<Value, Malformed> {
        let start = self.at;
        let kind = if self.peek() == Some(b'{') { Kind::Object } else { Kind::Array };
        // A bit for each level, the lowest for the innermost: whether it is an object.
        let (mut objects, mut depth) = (0u128, 0u32);
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEEPEST {
                        return Err(Malformed);
                    }
                    depth += 1;
                    objects = (objects << 1) | u128::from(open == b'{');
                    self.at += 1;
                    self.skip_space();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.peek() != Some(close) {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    depth -= 1;
                    objects >>= 1;
                }
                _ => drop(self.scalar()?),
            }
            // A value has come to its end, and with it perhaps those that it is in.
            loop {
                if depth == 0 {
                    return Ok(self.value_from(start, kind));
                }
                let in_object = objects & 1 == 1;
                if self.has_next(if in_object { b'}' } else { b']' })? {
                    if in_object {
                        self.key()?;
                    }
                    break;
                }
                depth -= 1;
                objects >>= 1;
            }
        }
    }
}

/// The length of the text up to a quote, a backslash or a control character.
#[inline]
fn plain_len(text: &[u8]) -> usize {
    /// Eight bytes of one value.
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // The highest bit of each byte that is zero; perhaps also of some after the first such byte.
    let zeros = |word: u64| word.wrapping_sub(each(1)) & !word & each(0x80);
    let (words, rest) = text.as_chunks::<8>();
    for (index, bytes) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        let control = word.wrapping_sub(each(0x20)) & !word & each(0x80);
        let found = control | zeros(word ^ each(b'"')) | zeros(word ^ each(b'\\'));
        if found != 0 {
            return index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let ends = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    words.len() * 8 + rest.iter().position(ends).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests;
