//! How the rows of a sharded stream are divided. No IO.

use xxhash_rust::xxh64::xxh64;

use super::tags::{MOST_SHARDS, TAGS};
use crate::error::{Error, ErrorKind, Result, shorten};

/// A stream over several keys, as the hash at its name says:
///
/// | field | value |
/// |---|---|
/// | `redfloe` | `sharded-stream` |
/// | `shards` | their number N, in decimal |
/// | `hash` | `xxh64` |
/// | `by` | the field that says where an entry goes |
///
/// An entry belongs into the shard whose number is the XXH64 (seed 0) of that field's bytes, an unsigned
/// number, modulo N; an entry without the field counts as one whose field is empty. The shard's key is
/// the name, a colon, and the shard's tag in braces. The tags are the same for all streams, so that shard
/// *i* of all of them shares a slot.
///
/// ```
/// use redfloe::ShardedStream;
///
/// let events = ShardedStream::new("events", 8, "user_id")?;
/// assert_eq!(events.shard_of(b"ada"), 0);
/// assert_eq!(events.key(0), b"events:{0-dnh}");
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardedStream {
    name: Vec<u8>,
    shards: usize,
    by: String,
}

/// The field that says what the hash is, and its value.
const KIND: (&str, &str) = ("redfloe", "sharded-stream");
const HASH: &str = "xxh64";

impl ShardedStream {
    /// A stream of that name over so many shards, whose rows are divided by that field.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for no shard or more than
    /// [`MOST_SHARDS`](crate::MOST_SHARDS), and for a name that has a tag of its own, `{...}`.
    pub fn new(name: impl Into<Vec<u8>>, shards: usize, by: impl Into<String>) -> Result<Self> {
        let (name, by) = (name.into(), by.into());
        if !(1..=MOST_SHARDS).contains(&shards) {
            let message = format!("shards must be 1 to {MOST_SHARDS}, not {shards}");
            return Err(Error::invalid(message));
        }
        // What follows the first brace would be the tag of all shards, or a part of it.
        if name.contains(&b'{') {
            return Err(Error::invalid(format!(
                "a sharded stream's name must have no brace, since the shards' names have tags of their \
                 own; {} has one",
                shorten(&name)
            )));
        }
        Ok(ShardedStream { name, shards, by })
    }

    /// The logical name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The field that says which shard an entry belongs to.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// The number of the shard to which an entry belongs whose field has this text.
    pub fn shard_of(&self, text: &[u8]) -> usize {
        let shards = u64::try_from(self.shards).unwrap_or(1).max(1);
        usize::try_from(xxh64(text, 0) % shards).unwrap_or_default()
    }

    /// The key of the shard of that number.
    pub fn key(&self, shard: usize) -> Vec<u8> {
        let tag = TAGS.get(shard).copied().unwrap_or_default();
        [&self.name, b":{".as_slice(), tag.as_bytes(), b"}"].concat()
    }

    /// The keys of all shards, in order.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        (0..self.shards).map(|shard| self.key(shard)).collect()
    }

    /// The number of the shard that a key is of, if it is one of this stream's.
    pub fn shard_of_key(&self, key: &[u8]) -> Option<usize> {
        (0..self.shards).find(|shard| self.key(*shard) == key)
    }

    /// The fields of the hash at the stream's name, and their values.
    pub(super) fn fields(&self) -> [(&'static str, String); 4] {
        [
            (KIND.0, KIND.1.to_owned()),
            ("shards", self.shards.to_string()),
            ("hash", HASH.to_owned()),
            ("by", self.by.clone()),
        ]
    }

    /// What the fields of a hash say; `None` where it is no sharded stream's.
    pub(super) fn parse(name: &[u8], fields: &[(Vec<u8>, Vec<u8>)]) -> Result<Option<Self>> {
        let get = |wanted: &str| {
            let found = fields.iter().find(|(field, _)| field == wanted.as_bytes());
            found.and_then(|(_, value)| std::str::from_utf8(value).ok())
        };
        if get(KIND.0) != Some(KIND.1) {
            return Ok(None);
        }
        let odd = |what: &str| {
            Error::new(
                ErrorKind::Response,
                format!(
                    "the hash at {} describes a sharded stream {what}; another version of redfloe may \
                     have written it",
                    shorten(name)
                ),
            )
        };
        let shards = get("shards").and_then(|number| number.parse().ok());
        let (Some(shards), Some(by)) = (shards, get("by")) else {
            return Err(odd("without `shards` or `by`"));
        };
        if get("hash") != Some(HASH) {
            return Err(odd("with a hash function that this version does not know"));
        }
        let stream = ShardedStream::new(name, shards, by);
        stream.map(Some).map_err(|error| odd(&format!("that cannot be ({error})")))
    }

    /// Makes sure that a stream which exists is what a write takes it for.
    pub(super) fn check(&self, wanted: &ShardedStream) -> Result<()> {
        if self == wanted {
            return Ok(());
        }
        let of = |stream: &ShardedStream| {
            let shards = crate::error::counted(stream.shards, "shard", "shards");
            format!("{shards} by {:?}", stream.by)
        };
        Err(Error::invalid(format!(
            "the sharded stream has {}, and cannot become one of {}: its entries would be in other shards \
             than readers and states expect. Write to a new name, such as {}, let its readers finish \
             this one, and have them read that one then; nothing has been sent",
            of(self),
            of(wanted),
            shorten(&[&self.name, b"-2".as_slice()].concat()),
        ))
        .with_context("stream", String::from_utf8_lossy(&self.name).into_owned()))
    }
}

/// The key of the shard that shares the slot of a shard's key, of the stream of that name.
pub(crate) fn beside_shard(key: &[u8], name: &[u8]) -> Vec<u8> {
    let tag = memchr::memmem::rfind(key, b":{").and_then(|at| key.get(at..));
    [name, tag.unwrap_or_default()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::slot_of;

    /// As in docs/guide/sharded-streams.md, for those who write from other languages.
    const VECTORS: [(&str, u64, usize, usize); 6] = [
        ("", 0xef46_db37_51d8_e999, 1, 0),
        ("a", 0xd24e_c4f1_a98c_6e5b, 3, 2),
        ("ada", 0xd36c_3934_0912_06d0, 0, 0),
        ("user_1", 0x5b49_4230_1a29_d482, 2, 0),
        ("42", 0x6de6_f5d0_76d7_42b9, 1, 2),
        ("Zürich", 0x85f1_debc_bb1a_8279, 1, 0),
    ];

    #[test]
    fn the_documented_vectors() {
        for (text, hash, of_8, of_3) in VECTORS {
            let found = xxh64(text.as_bytes(), 0);
            let shard =
                |shards| ShardedStream::new("s", shards, "b").unwrap().shard_of(text.as_bytes());
            assert_eq!((found, shard(8), shard(3)), (hash, of_8, of_3), "{text} {found:016x}");
        }
    }

    fn fields(stream: &ShardedStream) -> Vec<(Vec<u8>, Vec<u8>)> {
        let fields = stream.fields().into_iter();
        fields.map(|(field, value)| (field.as_bytes().to_vec(), value.into_bytes())).collect()
    }

    #[test]
    fn hashes_of_others_and_of_later_versions() {
        let stream = ShardedStream::new("events", 4, "user_id").unwrap();
        let with = |name: &str, value: Option<&str>| {
            let mut fields = fields(&stream);
            fields.retain(|(field, _)| field != name.as_bytes());
            fields.extend(value.map(|value| (name.into(), value.into())));
            ShardedStream::parse(b"events", &fields)
        };
        assert_eq!(with("more", Some("x")).unwrap(), Some(stream.clone()));
        assert_eq!(with("redfloe", None).unwrap(), None);
        assert_eq!(ShardedStream::parse(b"events", &[]).unwrap(), None);
        for (name, value) in [
            ("shards", None),
            ("shards", Some("many")),
            ("shards", Some("0")),
            ("shards", Some("257")),
            ("hash", Some("md5")),
            ("by", None),
        ] {
            let error = with(name, value).unwrap_err();
            assert!(error.to_string().contains("another version"), "{name} {value:?}: {error}");
        }
    }

    #[test]
    fn what_cannot_be() {
        for (name, shards) in [("s", 0), ("s", 257), ("{s}", 4), ("a{", 4)] {
            assert!(ShardedStream::new(name, shards, "by").is_err(), "{name} {shards}");
        }
        let own = ShardedStream::new("s", 4, "by").unwrap();
        assert!(own.check(&own).is_ok());
        for other in [ShardedStream::new("s", 5, "by"), ShardedStream::new("s", 4, "other")] {
            let error = own.check(&other.unwrap()).unwrap_err().to_string();
            assert!(error.contains("4 shards by \"by\"") && error.contains("s-2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in "[^{]{0,9}", shards in 1..=MOST_SHARDS, by in ".{0,9}") {
            let stream = ShardedStream::new(name.clone(), shards, by).unwrap();
            prop_assert_eq!(ShardedStream::parse(name.as_bytes(), &fields(&stream)).unwrap(), Some(stream));
        }

        #[test]
        fn each_text_has_one_shard_and_each_shard_its_slot(
            text in prop::collection::vec(any::<u8>(), 0..40), shards in 1..=MOST_SHARDS,
        ) {
            let one = ShardedStream::new("one", shards, "by").unwrap();
            let two = ShardedStream::new("two", shards, "by").unwrap();
            let shard = one.shard_of(&text);
            prop_assert!(shard < shards);
            prop_assert_eq!(slot_of(&one.key(shard)), slot_of(&two.key(shard)));
            prop_assert_eq!(one.shard_of_key(&one.key(shard)), Some(shard));
            prop_assert_eq!(beside_shard(&one.key(shard), b"two"), two.key(shard));
            prop_assert_eq!(one.shard_of_key(&two.key(shard)), None);
        }
    }
}
