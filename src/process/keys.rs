//! The names of a processor's keys: all in the slot of its input stream, so that one script reaches them.

use crate::client::{slot_of, tagged};
use crate::error::{Error, Result, shorten};
use crate::glob;

/// Whose lane a key is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneName {
    pub(super) stream: Vec<u8>,
    pub(super) name: Vec<u8>,
    /// The group and the consumer, where it is a consumer's.
    pub(super) group: Option<(Vec<u8>, Vec<u8>)>,
}

impl LaneName {
    pub(super) fn key(&self) -> Vec<u8> {
        let group = self.group.as_ref().map(|(group, consumer)| (&group[..], &consumer[..]));
        lane_key(&self.stream, &self.name, group)
    }

    /// That of a key, where it is a lane's.
    pub(super) fn parse(key: &[u8]) -> Option<LaneName> {
        const MARK: &[u8] = b"}:redfloe:";
        // Parts have no braces: the last one closes the tag.
        let at = key.windows(MARK.len()).rposition(|part| part == MARK)? + MARK.len();
        let parts: Option<Vec<Vec<u8>>> =
            key.get(at..)?.split(|byte| *byte == b':').map(unescaped).collect();
        let lane = match <[Vec<u8>; 2]>::try_from(parts?) {
            Ok([stream, name]) => LaneName { stream, name, group: None },
            Err(parts) => match <[Vec<u8>; 5]>::try_from(parts).ok()? {
                [stream, name, word, group, consumer] if word == b"group" => {
                    LaneName { stream, name, group: Some((group, consumer)) }
                }
                _ => return None,
            },
        };
        // Somebody else's key may look like one.
        (lane.key() == key).then_some(lane)
    }

    /// A pattern for keys: those of all lanes, or of one stream's.
    pub(super) fn pattern(stream: Option<&[u8]>) -> Vec<u8> {
        let Some(stream) = stream else { return b"{*}:redfloe:*".to_vec() };
        [&glob::escaped(&key(stream, &[]))[..], b":*"].concat()
    }
}

/// A pattern for the keys of a processor's tables.
pub(super) fn tables_pattern(stream: &[u8], name: &[u8]) -> Vec<u8> {
    [&glob::escaped(&key(stream, &[name, b"table"]))[..], b":*"].concat()
}

/// The name of a processor's table, where a key is that of one.
pub(super) fn table_name(stream: &[u8], name: &[u8], table: &[u8]) -> Option<Vec<u8>> {
    let prefix = [&key(stream, &[name, b"table"])[..], b":"].concat();
    let table_name = unescaped(table.strip_prefix(&prefix[..])?)?;
    (table_key(stream, name, &table_name) == table).then_some(table_name)
}

/// The lane of a processor on a stream: a hash. For a member of a group, the lane of its consumer, whose
/// name is one of that group.
pub(super) fn lane_key(stream: &[u8], name: &[u8], group: Option<(&[u8], &[u8])>) -> Vec<u8> {
    match group {
        Some((group, consumer)) => key(stream, &[name, b"group", group, consumer]),
        None => key(stream, &[name]),
    }
}

/// The hash of a processor's state: a field for each name.
pub fn state_key(stream: &[u8], name: &[u8]) -> Vec<u8> {
    key(stream, &[name, b"state"])
}

/// The hash of those who process a sharded stream, in the slot of its first shard.
#[cfg(feature = "python")]
pub(super) fn members_key(stream: &[u8], name: &[u8]) -> Vec<u8> {
    key(stream, &[name, b"members", b"lanes"])
}

/// The hash of one of a processor's tables: a field for each key.
pub fn table_key(stream: &[u8], name: &[u8], table: &[u8]) -> Vec<u8> {
    key(stream, &[name, b"table", table])
}

/// Whether a commit of a processor on `stream` can write to `key` in a cluster.
pub fn shares_slot(stream: &[u8], key: &[u8]) -> bool {
    slot_of(stream) == slot_of(key)
}

/// Refuses a key that a commit of a processor on `stream` cannot write to in a cluster.
pub(crate) fn check_slot(stream: &[u8], key: &[u8]) -> Result<()> {
    if shares_slot(stream, key) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "in a cluster a commit writes to keys in the slot of its stream, and {} does not share that of {}; \
         name it {}, for example; nothing has been written",
        shorten(key),
        shorten(stream),
        shorten(&output_name(stream, key)),
    )))
}

/// Refuses to look into a table that is in another slot of a cluster than the stream: another server's, at
/// any time.
#[cfg(feature = "python")]
pub(crate) fn check_same_slot(stream: &[u8], table: &[u8]) -> Result<()> {
    if shares_slot(stream, table) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "in a cluster a processor looks into tables in the slot of its own stream, and {} does not share \
         that of {}; give both streams the same tag, as in {}, or read the table with read_table",
        shorten(table),
        shorten(stream),
        shorten(&output_name(stream, b"other")),
    )))
}

/// A name like `name` for an output, in the slot of `stream`, and never `stream` itself, whose processor
/// would read what it writes.
pub fn output_name(stream: &[u8], name: &[u8]) -> Vec<u8> {
    let named = tagged(stream, name);
    if named != stream {
        return named;
    }
    let named = [&tag(stream), b":".as_slice(), name].concat();
    match named == stream {
        true => [&named, b":output".as_slice()].concat(),
        false => named,
    }
}

/// `{tag}:redfloe:stream:part:part`. Each part is escaped, so no two lists of parts make one key.
pub(crate) fn key(stream: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut key = tag(stream);
    key.extend_from_slice(b":redfloe:");
    escape(stream, &mut key);
    for part in parts {
        key.push(b':');
        escape(part, &mut key);
    }
    key
}

/// `{...}`: whatever begins with it is in the slot of `stream`.
fn tag(stream: &[u8]) -> Vec<u8> {
    let slot = slot_of(stream);
    let own = tagged(stream, b"");
    if let Some(own) = own.strip_suffix(b":")
        && own != stream
        && slot_of(own) == slot
    {
        return own.to_vec();
    }
    // No tag is that of an odd name, such as one with a brace that closes nothing: a number serves.
    let numbers = (0..u32::MAX).map(|number| format!("{{{number}}}").into_bytes());
    numbers.into_iter().find(|tag| slot_of(tag) == slot).unwrap_or_default()
}

/// The separator and what the escape itself is written with are percent-encoded.
fn escape(part: &[u8], key: &mut Vec<u8>) {
    for byte in part {
        match byte {
            b'%' | b':' | b'{' | b'}' => key.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => key.push(*byte),
        }
    }
}

/// What [`escape`] wrote, where it can have.
fn unescaped(part: &[u8]) -> Option<Vec<u8>> {
    let (mut plain, mut rest) = (Vec::with_capacity(part.len()), part);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            plain.push(*byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        plain.push(u8::from_str_radix(digits, 16).ok()?);
        rest = rest.get(2..)?;
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(key: Vec<u8>) -> String {
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn keys_can_be_read() {
        assert_eq!(text(lane_key(b"sales", b"inventory", None)), "{sales}:redfloe:sales:inventory");
        assert_eq!(
            text(lane_key(b"s{t}", b"a:b", Some((b"g", b"c")))),
            "{t}:redfloe:s%7Bt%7D:a%3Ab:group:g:c"
        );
        assert_eq!(text(state_key(b"sales", b"n")), "{sales}:redfloe:sales:n:state");
        assert_eq!(text(table_key(b"sales", b"n", b"t%")), "{sales}:redfloe:sales:n:table:t%25");
        assert_eq!(text(output_name(b"sales", b"alerts")), "{sales}:alerts");
        assert_eq!(text(output_name(b"{t}:sales", b"alerts")), "{t}:alerts");
        assert_eq!(text(output_name(b"{t}:sales", b"sales")), "{t}:sales:output");
    }

    #[test]
    fn odd_names_have_keys_too() {
        for stream in [&b"a}b"[..], b"a{}{b}", b"", b"{}", b"a}", b"\xff}"] {
            let key = lane_key(stream, b"n", None);
            assert!(shares_slot(stream, &key), "{stream:?}: {key:?}");
            assert!(shares_slot(stream, &output_name(stream, b"out")));
            assert_ne!(output_name(stream, b"out"), stream);
        }
    }

    #[test]
    fn other_keys_are_no_lanes() {
        for key in [
            "{s}:redfloe:s:n:state",
            "{s}:redfloe:s:n:table:t",
            "{s}:redfloe:s:n:groups:g:c",
            "{s}:redfloe:s",
            "{s}:redfloe:s:n%",
            "{s}:redfloe:s:n%4",
            "{s}:redfloe:s:n%41",
            "{t}:redfloe:s:n",
            "redfloe:s:n",
            "",
        ] {
            assert_eq!(LaneName::parse(key.as_bytes()), None, "{key}");
        }
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(b':'), Just(b'{'), Just(b'}'), Just(b'%'), any::<u8>()];
        proptest::collection::vec(byte, 0..8)
    }

    proptest! {
        /// Names are read from keys again, and patterns find them.
        #[test]
        fn a_key_tells_whose_it_is(stream in name(), name in name(), group in name(), own in name()) {
            for group in [None, Some((group.clone(), own.clone()))] {
                let lane = LaneName { stream: stream.clone(), name: name.clone(), group };
                let key = lane.key();
                prop_assert!(glob::matches(&LaneName::pattern(None), &key));
                prop_assert!(glob::matches(&LaneName::pattern(Some(&stream)), &key));
                prop_assert_eq!(LaneName::parse(&key), Some(lane));
            }
            let table = table_key(&stream, &name, &own);
            prop_assert!(glob::matches(&tables_pattern(&stream, &name), &table));
            prop_assert_eq!(table_name(&stream, &name, &table), Some(own));
            prop_assert_eq!(LaneName::parse(&table), None);
            prop_assert_eq!(LaneName::parse(&state_key(&stream, &name)), None);
        }

        /// However names are chosen, keys share the stream's slot, and are equal only for equal names.
        #[test]
        fn each_has_keys_of_its_own(stream in name(), one in name(), other in name(), third in name()) {
            let keys = [
                lane_key(&stream, &one, None),
                lane_key(&stream, &one, Some((&other, &third))),
                lane_key(&stream, &one, Some((&third, b""))),
                state_key(&stream, &one),
                table_key(&stream, &one, &other),
                table_key(&stream, &one, b""),
            ];
            for key in &keys {
                prop_assert!(shares_slot(&stream, key));
            }
            for (index, key) in keys.iter().enumerate() {
                prop_assert!(
                    !keys[..index].contains(key) || other.is_empty() || other == third
                );
            }
            if one != third {
                prop_assert_ne!(lane_key(&stream, &one, None), lane_key(&stream, &third, None));
                prop_assert_ne!(lane_key(&one, &stream, None), lane_key(&third, &stream, None));
                prop_assert_ne!(
                    table_key(&stream, &one, &other),
                    table_key(&stream, &third, &other)
                );
            }
        }
    }
}
