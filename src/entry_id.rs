//! Entry IDs (`ms-seq`): parse, format, order, successor, predecessor, the bounds of a range, and
//! where a consumer group begins.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, shorten};

/// The ID of a stream entry: milliseconds and a sequence number, ordered as Redis orders them.
///
/// ```
/// use redfloe::EntryId;
///
/// let id: EntryId = "1704067200000-7".parse()?;
/// assert_eq!((id.ms, id.seq), (1704067200000, 7));
/// assert!("9-0".parse::<EntryId>()? < "10-0".parse()?);
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch, where the server chose the ID.
    pub ms: u64,
    /// Tells entries of one millisecond apart.
    pub seq: u64,
}

impl EntryId {
    /// `0-0`: below every entry; no entry can have it.
    pub const MIN: EntryId = EntryId { ms: 0, seq: 0 };
    /// `18446744073709551615-18446744073709551615`: the last ID that can exist.
    pub const MAX: EntryId = EntryId { ms: u64::MAX, seq: u64::MAX };

    /// The most characters an ID has.
    pub(crate) const MAX_LEN: usize = 41;

    /// The ID of `ms` and `seq`.
    pub const fn new(ms: u64, seq: u64) -> Self {
        EntryId { ms, seq }
    }

    /// The next ID, or `None` after the last.
    pub fn successor(self) -> Option<EntryId> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(EntryId { ms: self.ms, seq }),
            None => self.ms.checked_add(1).map(|ms| EntryId { ms, seq: 0 }),
        }
    }

    /// The previous ID, or `None` before the first.
    pub fn predecessor(self) -> Option<EntryId> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(EntryId { ms: self.ms, seq }),
            None => self.ms.checked_sub(1).map(|ms| EntryId { ms, seq: u64::MAX }),
        }
    }

    /// Parses an ID whose sequence number may be missing: it is then the first of its millisecond.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where it is malformed.
    pub fn parse_first(text: &str) -> Result<EntryId> {
        parse_partial(text, 0).ok_or_else(|| {
            Error::invalid(format!(
                "entry ID {} is malformed; write \"ms-seq\" or \"ms\"",
                shorten(text.as_bytes())
            ))
        })
    }

    /// Writes the ID as [`Display`](fmt::Display) does, which is slow where there are millions.
    pub(crate) fn write(self, buffer: &mut [u8; Self::MAX_LEN]) -> &[u8] {
        let mut len = lexical_core::write(self.ms, buffer).len();
        if let Some([dash, seq @ ..]) = buffer.get_mut(len..) {
            *dash = b'-';
            len += 1 + lexical_core::write(self.seq, seq).len();
        }
        buffer.get(..len).unwrap_or_default()
    }

    /// Parses a whole ID, `ms-seq`, as a server sends it.
    pub(crate) fn from_bytes(text: &[u8]) -> Option<EntryId> {
        let (ms, rest) = split_number(text)?;
        let seq = parse_number(rest.strip_prefix(b"-")?)?;
        Some(EntryId { ms, seq })
    }
}

/// Decimal digits and nothing else, within 64 bits.
fn parse_number(digits: &[u8]) -> Option<u64> {
    match split_number(digits)? {
        (number, []) => Some(number),
        _ => None,
    }
}

/// The number that `text` begins with, and what follows it.
fn split_number(text: &[u8]) -> Option<(u64, &[u8])> {
    // The parser would take a plus sign.
    text.first().filter(|byte| byte.is_ascii_digit())?;
    let (number, len) = lexical_core::parse_partial(text).ok()?;
    Some((number, text.get(len..)?))
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        EntryId::from_bytes(text.as_bytes()).ok_or_else(|| {
            Error::invalid(format!(
                "entry ID {} is malformed; write it whole, \"ms-seq\" (two integers up to \
                 18446744073709551615), as reads give it",
                shorten(text.as_bytes())
            ))
        })
    }
}

fn malformed(what: &str, text: &str) -> Error {
    Error::invalid(format!(
        "{what} {} is malformed; write \"ms-seq\" (two integers up to 18446744073709551615), \
         \"ms\", \"(ms-seq\" for an exclusive bound, \"-\", \"+\" or \"$\"",
        shorten(text.as_bytes())
    ))
}

/// One end of a range of IDs, as a caller writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdBound {
    /// This ID and beyond, inclusive.
    Id(EntryId),
    /// The newest ID at the time the read starts: `+` or `$` as an end.
    Newest,
    /// What comes after the newest ID at the time the read starts: `$` as a start.
    AfterNewest,
    /// Nothing can match, as after `(18446744073709551615-18446744073709551615`.
    Nothing,
}

impl IdBound {
    /// Whether an end of this kind is the newest entry.
    pub(crate) fn is_newest(self) -> bool {
        matches!(self, IdBound::Newest | IdBound::AfterNewest)
    }

    /// Parses the start of a range: `-`, `+`, `$`, an ID, `(id`; a partial ID starts at `ms-0`.
    pub fn parse_start(text: &str) -> Result<IdBound> {
        match text {
            "-" => Ok(IdBound::Id(EntryId::MIN)),
            "+" => Ok(IdBound::Id(EntryId::MAX)),
            "$" => Ok(IdBound::AfterNewest),
            _ => match text.strip_prefix('(') {
                Some(id) => Ok(parse_partial(id, 0)
                    .ok_or_else(|| malformed("start_id", text))?
                    .successor()
                    .map_or(IdBound::Nothing, IdBound::Id)),
                None => parse_partial(text, 0)
                    .map(IdBound::Id)
                    .ok_or_else(|| malformed("start_id", text)),
            },
        }
    }

    /// Parses the end of a range: `-`, `+`, `$`, an ID, `(id`; a partial ID ends at `ms-max`.
    pub fn parse_end(text: &str) -> Result<IdBound> {
        match text {
            "-" => Ok(IdBound::Id(EntryId::MIN)),
            "+" | "$" => Ok(IdBound::Newest),
            _ => match text.strip_prefix('(') {
                Some(id) => Ok(parse_partial(id, u64::MAX)
                    .ok_or_else(|| malformed("end_id", text))?
                    .predecessor()
                    .map_or(IdBound::Nothing, IdBound::Id)),
                None => parse_partial(text, u64::MAX)
                    .map(IdBound::Id)
                    .ok_or_else(|| malformed("end_id", text)),
            },
        }
    }
}

/// Where a consumer group begins when it is created.
///
/// ```
/// use redfloe::{EntryId, GroupStart};
///
/// assert_eq!(GroupStart::parse("0")?, GroupStart::Behind(EntryId::MIN));
/// assert_eq!(GroupStart::parse("$")?, GroupStart::BehindNewest);
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupStart {
    /// The group delivers the entries with greater IDs; all of them for [`EntryId::MIN`].
    Behind(EntryId),
    /// The group delivers what is added from then on.
    BehindNewest,
}

impl GroupStart {
    /// Parses `$`, or an ID, of which the sequence number may be missing and is then 0.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where it is neither.
    pub fn parse(text: &str) -> Result<GroupStart> {
        match text {
            "$" => Ok(GroupStart::BehindNewest),
            _ => parse_partial(text, 0).map(GroupStart::Behind).ok_or_else(|| {
                Error::invalid(format!(
                    "{} is no place for a group to begin; write \"0\" for all entries, \"$\" for \
                     those to come, or the ID (\"ms-seq\" or \"ms\") behind which to begin",
                    shorten(text.as_bytes())
                ))
            }),
        }
    }
}

impl fmt::Display for GroupStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupStart::Behind(id) => id.fmt(f),
            GroupStart::BehindNewest => f.write_str("$"),
        }
    }
}

/// `ms-seq`, or `ms` with the given sequence number, as XRANGE reads it.
fn parse_partial(text: &str, seq: u64) -> Option<EntryId> {
    match text.contains('-') {
        true => EntryId::from_bytes(text.as_bytes()),
        false => parse_number(text.as_bytes()).map(|ms| EntryId { ms, seq }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn formats_and_parses_back(ms: u64, seq: u64) {
            let id = EntryId { ms, seq };
            let text = id.to_string();
            prop_assert_eq!(text.parse::<EntryId>().ok(), Some(id));
            let mut buffer = [0; EntryId::MAX_LEN];
            prop_assert_eq!(id.write(&mut buffer), text.as_bytes());
        }

        #[test]
        fn successor_and_predecessor_are_neighbours(ms: u64, seq: u64) {
            let id = EntryId { ms, seq };
            if let Some(next) = id.successor() {
                prop_assert!(next > id);
                prop_assert_eq!(next.predecessor(), Some(id));
            }
        }

        #[test]
        fn any_text_parses_or_is_refused(text in ".{0,30}") {
            let _ = text.parse::<EntryId>();
            let _ = IdBound::parse_start(&text);
            let _ = IdBound::parse_end(&text);
        }
    }

    #[test]
    fn the_limits_have_no_neighbour() {
        assert_eq!(EntryId::MAX.successor(), None);
        assert_eq!(EntryId::MIN.predecessor(), None);
        assert_eq!(EntryId::new(3, u64::MAX).successor(), Some(EntryId::new(4, 0)));
        assert_eq!(EntryId::new(4, 0).predecessor(), Some(EntryId::new(3, u64::MAX)));
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in
            ["", "-1", "1-", "1-2-3", "x", "1-x", "18446744073709551616-0", "1 -2", "+1-0", "١-٢"]
        {
            assert!(text.parse::<EntryId>().is_err(), "{text}");
        }
        for text in ["", "(", "(x", "((1", "(-", "--", "1-2-3"] {
            assert!(IdBound::parse_start(text).is_err(), "{text}");
            assert!(IdBound::parse_end(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_begins_behind_an_id() -> Result<()> {
        for (text, written) in [("0", "0-0"), ("5", "5-0"), ("5-7", "5-7"), ("$", "$")] {
            assert_eq!(GroupStart::parse(text)?.to_string(), written);
        }
        for text in ["", "-", "+", "(5-0", "x", "5-", ">"] {
            assert!(GroupStart::parse(text).is_err(), "{text}");
        }
        Ok(())
    }

    #[test]
    fn bounds_read_as_xrange_reads_them() -> Result<()> {
        let id = |ms, seq| IdBound::Id(EntryId { ms, seq });
        assert_eq!(IdBound::parse_start("5")?, id(5, 0));
        assert_eq!(IdBound::parse_end("5")?, id(5, u64::MAX));
        assert_eq!(IdBound::parse_start("(5")?, id(5, 1));
        assert_eq!(IdBound::parse_end("(5")?, id(5, u64::MAX - 1));
        assert_eq!(IdBound::parse_end("(5-0")?, id(4, u64::MAX));
        assert_eq!(IdBound::parse_end("(0-0")?, IdBound::Nothing);
        assert_eq!(IdBound::parse_start(&format!("({}", EntryId::MAX))?, IdBound::Nothing);
        assert_eq!(IdBound::parse_start("$")?, IdBound::AfterNewest);
        assert_eq!(IdBound::parse_end("+")?, IdBound::Newest);
        Ok(())
    }
}
