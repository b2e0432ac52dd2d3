//! Small replies that redis-rs has parsed: maps of names to values, as XINFO gives them.

use redis::Value;

use crate::entry_id::EntryId;

/// A map: one in RESP3, an array of names and values in RESP2.
#[derive(Clone, Copy)]
pub(crate) struct Info<'a>(pub(crate) &'a Value);

impl<'a> Info<'a> {
    /// The maps of a reply that is an array of them.
    pub(crate) fn each(reply: &'a Value) -> impl Iterator<Item = Info<'a>> {
        reply.as_sequence().into_iter().flatten().map(Info)
    }

    /// The value of this name; `None` where the server is too old to know it.
    pub(crate) fn get(self, name: &str) -> Option<&'a Value> {
        let (_, value) =
            self.0.as_map_iter()?.find(|(found, _)| text(found) == Some(name.as_bytes()))?;
        Some(value)
    }

    pub(crate) fn text(self, name: &str) -> Option<&'a [u8]> {
        text(self.get(name)?)
    }

    pub(crate) fn id(self, name: &str) -> Option<EntryId> {
        id(self.get(name)?)
    }

    /// A number; `None` where the server says nil, or -1 for what never happened.
    pub(crate) fn number(self, name: &str) -> Option<u64> {
        number(self.get(name)?)
    }
}

/// The bytes of a string of any kind.
pub(crate) fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(text) => Some(text),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

pub(crate) fn id(value: &Value) -> Option<EntryId> {
    text(value).and_then(EntryId::from_bytes)
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_make_a_map() -> Result<(), redis::RedisError> {
        for reply in [
            &b"*10\r\n$4\r\nname\r\n$1\r\ng\r\n$2\r\nid\r\n$3\r\n5-1\r\n$3\r\nlag\r\n:7\r\n\
               $4\r\nread\r\n$-1\r\n$8\r\ninactive\r\n:-1\r\n"[..],
            &b"%5\r\n$4\r\nname\r\n$1\r\ng\r\n$2\r\nid\r\n$3\r\n5-1\r\n$3\r\nlag\r\n:7\r\n\
               $4\r\nread\r\n_\r\n$8\r\ninactive\r\n:-1\r\n"[..],
        ] {
            let value = redis::parse_redis_value(reply)?;
            let info = Info(&value);
            assert_eq!(info.text("name"), Some(&b"g"[..]));
            assert_eq!(info.id("id"), Some(EntryId::new(5, 1)));
            assert_eq!(info.number("lag"), Some(7));
            assert_eq!(info.number("read"), None);
            assert_eq!(info.number("inactive"), None);
            assert_eq!(info.number("missing"), None);
        }
        Ok(())
    }
}
