//! The commands that are sent, and since when servers know them.

use std::time::Duration;

use super::{Cmd, command};
use crate::entry_id::{EntryId, GroupStart};

/// One or several commands, packed for the socket.
pub(crate) type Packed = Vec<u8>;

/// XRANGE: `count` entries from `start` to `end`, both inclusive, oldest first. Redis 5.0.
///
/// Exclusive bounds (Redis 6.2) are not needed: a neighbour of the ID serves as well.
pub(crate) fn range(stream: &[u8], start: EntryId, end: EntryId, count: u64) -> Packed {
    Cmd::new()
        .arg("XRANGE")
        .arg(stream)
        .arg(start.to_string())
        .arg(end.to_string())
        .arg("COUNT")
        .arg(count)
        .get_packed_command()
}

/// XREVRANGE: `count` entries from `end` back to `start`, both inclusive, newest first. Redis 5.0.
pub(crate) fn range_backwards(stream: &[u8], end: EntryId, start: EntryId, count: u64) -> Packed {
    Cmd::new()
        .arg("XREVRANGE")
        .arg(stream)
        .arg(end.to_string())
        .arg(start.to_string())
        .arg("COUNT")
        .arg(count)
        .get_packed_command()
}

/// XREVRANGE: the newest entry, if there is one. Redis 5.0.
pub(crate) fn newest(stream: &[u8]) -> Packed {
    Cmd::new()
        .arg("XREVRANGE")
        .arg(stream)
        .arg("+")
        .arg("-")
        .arg("COUNT")
        .arg(1)
        .get_packed_command()
}

/// How much one reply to XREAD or XREADGROUP may bring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimit {
    pub(crate) count: u64,
    /// MAXSIZE: no entry after the one that reaches this number of bytes. Redis 8.10.
    pub(crate) max_bytes: Option<u64>,
}

impl PageLimit {
    /// At most `count` entries, of any size.
    pub(crate) fn of_count(count: u64) -> Self {
        PageLimit { count, max_bytes: None }
    }

    fn add_to(self, command: &mut Cmd) {
        command.arg("COUNT").arg(self.count);
        if let Some(max_bytes) = self.max_bytes {
            command.arg("MAXSIZE").arg(max_bytes);
        }
    }
}

/// XREAD: entries after `after`, waiting up to `block_ms` (0: without limit) for the first; without
/// `block_ms` those that are there, or nil. Redis 5.0.
pub(crate) fn read_after(
    stream: &[u8],
    after: EntryId,
    limit: PageLimit,
    block_ms: Option<u64>,
) -> Packed {
    read_many_after(&[(stream, after)], limit, block_ms)
}

/// The same for several streams, each after an ID of its own; the limit is that of each.
pub(crate) fn read_many_after(
    streams: &[(&[u8], EntryId)],
    limit: PageLimit,
    block_ms: Option<u64>,
) -> Packed {
    let mut command = Cmd::new();
    command.arg("XREAD");
    limit.add_to(&mut command);
    if let Some(block_ms) = block_ms {
        command.arg("BLOCK").arg(block_ms);
    }
    command.arg("STREAMS");
    for (stream, _) in streams {
        command.arg(stream);
    }
    for (_, after) in streams {
        command.arg(after.to_string());
    }
    command.get_packed_command()
}

/// XREADGROUP: entries for a consumer: new ones, or its own pending ones after an ID. Redis 5.0.
pub(crate) struct ReadGroup<'a> {
    /// One or more; the limit is that of each.
    pub(crate) streams: Vec<&'a [u8]>,
    pub(crate) group: &'a [u8],
    pub(crate) consumer: &'a [u8],
    pub(crate) limit: PageLimit,
    /// How long to wait for the first (0: without limit).
    pub(crate) block_ms: Option<u64>,
    pub(crate) noack: bool,
    /// `None` stands for new entries.
    pub(crate) pending_after: Option<EntryId>,
}

impl ReadGroup<'_> {
    pub(crate) fn packed(&self) -> Packed {
        let mut command = Cmd::new();
        command.arg("XREADGROUP").arg("GROUP").arg(self.group).arg(self.consumer);
        self.limit.add_to(&mut command);
        if let Some(block_ms) = self.block_ms {
            command.arg("BLOCK").arg(block_ms);
        }
        if self.noack {
            command.arg("NOACK");
        }
        let after = self.pending_after.map_or_else(|| ">".to_owned(), |after| after.to_string());
        command.arg("STREAMS");
        for stream in &self.streams {
            command.arg(*stream);
        }
        for _ in &self.streams {
            command.arg(&after);
        }
        command.get_packed_command()
    }
}

/// XADD: an entry of these names and values in turn, its ID given by the server. Redis 5.0.
pub(crate) fn add<'a>(stream: &[u8], parts: impl Iterator<Item = &'a [u8]>) -> Packed {
    let mut command = Cmd::new();
    command.arg("XADD").arg(stream).arg("*");
    for part in parts {
        command.arg(part);
    }
    command.get_packed_command()
}

/// XACK: the entries are done with. Redis 5.0.
pub(crate) fn acknowledge(stream: &[u8], group: &[u8], ids: &[EntryId]) -> Packed {
    let mut command = Cmd::new();
    command.arg("XACK").arg(stream).arg(group);
    for id in ids {
        command.arg(id.to_string());
    }
    command.get_packed_command()
}

/// XGROUP CREATE: a group, and with MKSTREAM the stream where it is missing. Redis 5.0.
pub(crate) fn create_group(
    stream: &[u8],
    group: &[u8],
    start: GroupStart,
    make_stream: bool,
) -> Packed {
    let mut command = Cmd::new();
    command.arg("XGROUP").arg("CREATE").arg(stream).arg(group).arg(start.to_string());
    if make_stream {
        command.arg("MKSTREAM");
    }
    command.get_packed_command()
}

/// XGROUP DESTROY: a group goes, with all that is pending. Redis 5.0.
pub(crate) fn delete_group(stream: &[u8], group: &[u8]) -> Packed {
    Cmd::new().arg("XGROUP").arg("DESTROY").arg(stream).arg(group).get_packed_command()
}

/// XGROUP DELCONSUMER: a consumer goes, with all that is pending for it. Redis 5.0.
pub(crate) fn delete_consumer(stream: &[u8], group: &[u8], consumer: &[u8]) -> Packed {
    let mut command = Cmd::new();
    command.arg("XGROUP").arg("DELCONSUMER").arg(stream).arg(group).arg(consumer);
    command.get_packed_command()
}

/// XDEL: entries go. Redis 5.0.
pub(crate) fn delete_entries(stream: &[u8], ids: &[EntryId]) -> Packed {
    let mut command = Cmd::new();
    command.arg("XDEL").arg(stream);
    for id in ids {
        command.arg(id.to_string());
    }
    command.get_packed_command()
}

/// XTRIM: the oldest entries go. MINID and LIMIT need Redis 6.2, MAXLEN 5.0.
pub(crate) fn trim(
    stream: &[u8],
    to: (&str, String),
    approximate: bool,
    limit: Option<u64>,
) -> Packed {
    let (strategy, threshold) = to;
    let mut command = Cmd::new();
    command.arg("XTRIM").arg(stream).arg(strategy);
    command.arg(if approximate { "~" } else { "=" }).arg(threshold);
    if let Some(limit) = limit {
        command.arg("LIMIT").arg(limit);
    }
    command.get_packed_command()
}

/// XPENDING: `count` of a group's pending entries between two IDs, both inclusive. Redis 5.0.
pub(crate) struct Pending<'a> {
    pub(crate) stream: &'a [u8],
    pub(crate) group: &'a [u8],
    /// IDLE: only those last delivered so long ago. Redis 6.2.
    pub(crate) min_idle: Option<Duration>,
    pub(crate) start: EntryId,
    pub(crate) end: EntryId,
    pub(crate) count: u64,
    pub(crate) consumer: Option<&'a [u8]>,
}

impl Pending<'_> {
    pub(crate) fn packed(&self) -> Packed {
        let mut command = Cmd::new();
        command.arg("XPENDING").arg(self.stream).arg(self.group);
        if let Some(idle) = self.min_idle {
            command.arg("IDLE").arg(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        }
        command.arg(self.start.to_string()).arg(self.end.to_string()).arg(self.count);
        if let Some(consumer) = self.consumer {
            command.arg(consumer);
        }
        command.get_packed_command()
    }
}

/// A member of a consumer group.
#[derive(Clone, Copy)]
pub(crate) struct Membership<'a> {
    pub(crate) stream: &'a [u8],
    pub(crate) group: &'a [u8],
    pub(crate) consumer: &'a [u8],
}

impl Membership<'_> {
    /// XAUTOCLAIM JUSTID: so many entries from `start` on that have been pending for so many
    /// milliseconds become this consumer's. It is no delivery. Redis 6.2.
    pub(crate) fn claim_from(&self, start: EntryId, min_idle_ms: u64, count: u64) -> Packed {
        let mut command = Cmd::new();
        command.arg("XAUTOCLAIM").arg(self.stream).arg(self.group).arg(self.consumer);
        command.arg(min_idle_ms).arg(start.to_string()).arg("COUNT").arg(count).arg("JUSTID");
        command.get_packed_command()
    }

    /// XCLAIM JUSTID: these entries become this consumer's, where they have been pending for so many
    /// milliseconds. It is no delivery. Redis 5.0.
    pub(crate) fn claim(&self, ids: &[EntryId], min_idle_ms: u64) -> Packed {
        let mut command = Cmd::new();
        command.arg("XCLAIM").arg(self.stream).arg(self.group).arg(self.consumer);
        command.arg(min_idle_ms);
        for id in ids {
            command.arg(id.to_string());
        }
        command.arg("JUSTID").get_packed_command()
    }

    /// EVAL: a script about this consumer's entries, with further keys and arguments. Redis 2.6.
    pub(crate) fn script(&self, script: &str, keys: &[&[u8]], arguments: &[Vec<u8>]) -> Packed {
        let mut command = Cmd::new();
        command.arg("EVAL").arg(script).arg(keys.len() + 1).arg(self.stream).arg(keys);
        command.arg(self.group).arg(self.consumer).arg(arguments);
        command.get_packed_command()
    }
}

/// EVAL: a script about keys. Redis 2.6.
pub(crate) fn script(script: &str, keys: &[&[u8]], arguments: &[Vec<u8>]) -> Packed {
    let mut command = Cmd::new();
    command.arg("EVAL").arg(script).arg(keys.len()).arg(keys).arg(arguments);
    command.get_packed_command()
}

/// GET: a key's value. Redis 1.0.
#[cfg(feature = "python")]
pub(crate) fn get(key: &[u8]) -> Packed {
    Cmd::new().arg("GET").arg(key).get_packed_command()
}

/// SET: a key's value, from now on. Redis 1.0.
#[cfg(feature = "python")]
pub(crate) fn set(key: &[u8], value: &[u8]) -> Packed {
    Cmd::new().arg("SET").arg(key).arg(value).get_packed_command()
}

/// DEL: a key goes. Redis 1.0.
#[cfg(feature = "python")]
pub(crate) fn delete(key: &[u8]) -> Packed {
    Cmd::new().arg("DEL").arg(key).get_packed_command()
}

/// XINFO GROUPS: what the server knows of a stream's groups. Redis 5.0.
pub(crate) fn groups_info(stream: &[u8]) -> Packed {
    Cmd::new().arg("XINFO").arg("GROUPS").arg(stream).get_packed_command()
}

/// XINFO CONSUMERS: what the server knows of a group's consumers. Redis 5.0.
pub(crate) fn consumers_info(stream: &[u8], group: &[u8]) -> Packed {
    Cmd::new().arg("XINFO").arg("CONSUMERS").arg(stream).arg(group).get_packed_command()
}

/// XLEN: how many entries a stream has. Redis 5.0.
pub(crate) fn length(stream: &[u8]) -> Packed {
    command(&[b"XLEN", stream])
}

/// TYPE, Redis 1.0.
pub(crate) fn type_of(key: &[u8]) -> Packed {
    command(&[b"TYPE", key])
}

/// SCAN TYPE: some keys of a type whose name fits a pattern, and where to go on. Redis 6.0.
pub(crate) fn scan(cursor: &[u8], pattern: &[u8], kind: &[u8]) -> Packed {
    command(&[b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000", b"TYPE", kind])
}

/// MEMORY USAGE: how many bytes a key takes, by a sample of it. Redis 4.0.
pub(crate) fn memory_usage(key: &[u8]) -> Packed {
    command(&[b"MEMORY", b"USAGE", key])
}

/// TIME: the server's clock. Redis 2.6.
pub(crate) fn time() -> Packed {
    command(&[b"TIME"])
}

/// COMMAND INFO: whether the server has a command. Redis 2.8.13.
pub(crate) fn command_info(name: &[u8]) -> Packed {
    Cmd::new().arg("COMMAND").arg("INFO").arg(name).get_packed_command()
}

/// XINFO STREAM: what the server knows of a stream. Redis 5.0.
pub(crate) fn stream_info(stream: &[u8]) -> Packed {
    Cmd::new().arg("XINFO").arg("STREAM").arg(stream).get_packed_command()
}

/// EVAL: the greatest ID that a stream ever had, without the entries that XINFO STREAM ships with it.
/// Redis 5.0.
pub(crate) fn last_generated(stream: &[u8]) -> Packed {
    /// An error is given as it is: it says that there is no such key, or that the user may not ask.
    const SCRIPT: &str = r"
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  return info
end
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then
    return info[i + 1]
  end
end
";
    Cmd::new().arg("EVAL").arg(SCRIPT).arg(1).arg(stream).get_packed_command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(packed: Packed) -> String {
        let text = String::from_utf8_lossy(&packed).into_owned();
        let words = text.split("\r\n").filter(|word| !word.starts_with(['*', '$']));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn groups_and_streams_are_administered() {
        let start = GroupStart::Behind(EntryId::MIN);
        assert_eq!(text(create_group(b"s", b"g", start, true)), "XGROUP CREATE s g 0-0 MKSTREAM ");
        assert_eq!(text(create_group(b"s", b"g", start, false)), "XGROUP CREATE s g 0-0 ");
        assert_eq!(text(delete_group(b"s", b"g")), "XGROUP DESTROY s g ");
        assert_eq!(text(delete_consumer(b"s", b"g", b"c")), "XGROUP DELCONSUMER s g c ");
        assert_eq!(text(groups_info(b"s")), "XINFO GROUPS s ");
        assert_eq!(text(consumers_info(b"s", b"g")), "XINFO CONSUMERS s g ");
        assert_eq!(text(trim(b"s", ("MAXLEN", 5.to_string()), false, None)), "XTRIM s MAXLEN = 5 ");
        let id = EntryId::new(5, 1);
        assert_eq!(
            text(trim(b"s", ("MINID", id.to_string()), true, Some(9))),
            "XTRIM s MINID ~ 5-1 LIMIT 9 "
        );
        let pending = Pending {
            stream: b"s",
            group: b"g",
            min_idle: None,
            start: EntryId::MIN,
            end: id,
            count: 7,
            consumer: None,
        };
        assert_eq!(text(pending.packed()), "XPENDING s g 0-0 5-1 7 ");
        let min_idle = Some(Duration::from_secs(2));
        let pending = Pending { min_idle, consumer: Some(b"c"), ..pending };
        assert_eq!(text(pending.packed()), "XPENDING s g IDLE 2000 0-0 5-1 7 c ");
    }

    #[test]
    fn a_group_is_read_and_acknowledged() {
        let read = ReadGroup {
            streams: vec![b"s"],
            group: b"g",
            consumer: b"c",
            limit: PageLimit::of_count(2),
            block_ms: None,
            noack: false,
            pending_after: None,
        };
        assert_eq!(text(read.packed()), "XREADGROUP GROUP g c COUNT 2 STREAMS s > ");
        let read = ReadGroup {
            limit: PageLimit { count: 2, max_bytes: Some(9) },
            block_ms: Some(5),
            noack: true,
            pending_after: Some(EntryId::new(1, 2)),
            ..read
        };
        assert_eq!(
            text(read.packed()),
            "XREADGROUP GROUP g c COUNT 2 MAXSIZE 9 BLOCK 5 NOACK STREAMS s 1-2 "
        );
        let read = ReadGroup {
            streams: vec![b"s", b"t"],
            limit: PageLimit::of_count(2),
            block_ms: None,
            noack: false,
            pending_after: None,
            ..read
        };
        assert_eq!(text(read.packed()), "XREADGROUP GROUP g c COUNT 2 STREAMS s t > > ");
        let ids = [EntryId::new(1, 2), EntryId::new(3, 0)];
        assert_eq!(text(acknowledge(b"s", b"g", &ids)), "XACK s g 1-2 3-0 ");
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let id = EntryId::new(1, 2);
        assert_eq!(
            range(b"s", id, EntryId::MAX, 3),
            b"*6\r\n$6\r\nXRANGE\r\n$1\r\ns\r\n$3\r\n1-2\r\n$41\r\n\
              18446744073709551615-18446744073709551615\r\n$5\r\nCOUNT\r\n$1\r\n3\r\n"
        );
        assert_eq!(
            range_backwards(b"s", EntryId::MAX, id, 3),
            b"*6\r\n$9\r\nXREVRANGE\r\n$1\r\ns\r\n\
              $41\r\n18446744073709551615-18446744073709551615\r\n$3\r\n1-2\r\n\
              $5\r\nCOUNT\r\n$1\r\n3\r\n"
        );
        assert_eq!(
            newest(b"\xff"),
            b"*6\r\n$9\r\nXREVRANGE\r\n$1\r\n\xff\r\n$1\r\n+\r\n$1\r\n-\r\n$5\r\nCOUNT\r\n$1\r\n1\r\n"
        );
        assert_eq!(
            read_after(b"s", id, PageLimit::of_count(4), Some(0)),
            b"*8\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$1\r\n4\r\n$5\r\nBLOCK\r\n$1\r\n0\r\n\
              $7\r\nSTREAMS\r\n$1\r\ns\r\n$3\r\n1-2\r\n"
        );
        assert_eq!(
            read_after(b"s", id, PageLimit::of_count(4), None),
            b"*6\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$1\r\n4\r\n\
              $7\r\nSTREAMS\r\n$1\r\ns\r\n$3\r\n1-2\r\n"
        );
        assert_eq!(stream_info(b"s"), b"*3\r\n$5\r\nXINFO\r\n$6\r\nSTREAM\r\n$1\r\ns\r\n");
    }
}
