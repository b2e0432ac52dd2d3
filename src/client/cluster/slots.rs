//! Which slot of a cluster a key belongs to.

/// How many slots a cluster has.
pub(crate) const SLOTS: u16 = 16_384;

/// The slot of a key, as CLUSTER KEYSLOT (Redis 3.0) gives it.
///
/// The specification is at <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// What of a key is hashed: what is between the first `{` and the first `}` after it, unless that is
/// nothing; else all.
fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = || {
        let open = memchr::memchr(b'{', key)?;
        let rest = key.get(open + 1..)?;
        let close = memchr::memchr(b'}', rest)?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    };
    tag().unwrap_or(key)
}

/// A name like `name` that shares a slot with `key`: `{key}:name`, or `{tag}:name` of its tag.
pub(crate) fn tagged(key: &[u8], name: &[u8]) -> Vec<u8> {
    let tag = hash_tag(key);
    // Braces within are no tag: an odd key has no such names, but that of its own.
    let other = [b"{", tag, b"}:", name].concat();
    if slot_of(&other) == slot_of(key) { other } else { key.to_vec() }
}

/// CRC-16/XMODEM: polynomial 0x1021, nothing reflected, from 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let index = usize::from((crc >> 8) as u8 ^ byte);
        (crc << 8) ^ TABLE.get(index).copied().unwrap_or_default()
    })
}

const TABLE: [u16; 256] = table();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would refuse it")]
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn a_tag_is_what_the_first_braces_hold() {
        for (key, tag) in [
            ("events", "events"),
            ("{events}:dead", "events"),
            ("a{b}c{d}", "b"),
            ("a{{b}}", "{b"),
            ("a{}{b}", "a{}{b}"),
            ("{a", "{a"),
            ("a}{b}", "b"),
            ("a}b{", "a}b{"),
            ("", ""),
        ] {
            assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key}");
        }
    }

    #[test]
    fn a_tagged_name_shares_the_slot() {
        for (key, other) in [("a", "{a}:dead"), ("{t}:a", "{t}:dead"), ("a}b", "a}b")] {
            assert_eq!(tagged(key.as_bytes(), b"dead"), other.as_bytes(), "{key}");
        }
    }

    /// What CLUSTER KEYSLOT of Redis 7.0 says; tests/test_cluster.py asks for random keys.
    #[test]
    fn slots_are_those_of_the_server() {
        for (key, slot) in [("foo", 12_182), ("bar", 5_061), ("{foo}bar", 12_182), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }
}
