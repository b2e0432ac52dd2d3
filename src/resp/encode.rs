//! Commands to bytes, by redis-rs's encoder.

use redis::Cmd;

use crate::entry_id::EntryId;

/// One or several commands, packed for the socket.
pub(crate) type Packed = Vec<u8>;

/// XRANGE: so many entries from `start` to `end`, both inclusive, oldest first. Redis 5.0.
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

/// XREAD: so many entries after `after`, waiting up to `block_ms` (0: without limit) for the
/// first. Redis 5.0.
pub(crate) fn read_after(stream: &[u8], after: EntryId, count: u64, block_ms: u64) -> Packed {
    Cmd::new()
        .arg("XREAD")
        .arg("COUNT")
        .arg(count)
        .arg("BLOCK")
        .arg(block_ms)
        .arg("STREAMS")
        .arg(stream)
        .arg(after.to_string())
        .get_packed_command()
}

/// XREAD without BLOCK: so many entries after `after`, or nil. Redis 5.0.
pub(crate) fn read_now(stream: &[u8], after: EntryId, count: u64) -> Packed {
    Cmd::new()
        .arg("XREAD")
        .arg("COUNT")
        .arg(count)
        .arg("STREAMS")
        .arg(stream)
        .arg(after.to_string())
        .get_packed_command()
}

/// XINFO STREAM: what the server knows of a stream. Redis 5.0.
pub(crate) fn stream_info(stream: &[u8]) -> Packed {
    Cmd::new().arg("XINFO").arg("STREAM").arg(stream).get_packed_command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let id = EntryId::new(1, 2);
        assert_eq!(
            range(b"s", id, EntryId::MAX, 3),
            b"*6\r\n$6\r\nXRANGE\r\n$1\r\ns\r\n$3\r\n1-2\r\n$41\r\n\
              18446744073709551615-18446744073709551615\r\n$5\r\nCOUNT\r\n$1\r\n3\r\n"
        );
        assert_eq!(
            newest(b"\xff"),
            b"*6\r\n$9\r\nXREVRANGE\r\n$1\r\n\xff\r\n$1\r\n+\r\n$1\r\n-\r\n$5\r\nCOUNT\r\n$1\r\n1\r\n"
        );
        assert_eq!(
            read_after(b"s", id, 4, 0),
            b"*8\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$1\r\n4\r\n$5\r\nBLOCK\r\n$1\r\n0\r\n\
              $7\r\nSTREAMS\r\n$1\r\ns\r\n$3\r\n1-2\r\n"
        );
        assert_eq!(
            read_now(b"s", id, 4),
            b"*6\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$1\r\n4\r\n\
              $7\r\nSTREAMS\r\n$1\r\ns\r\n$3\r\n1-2\r\n"
        );
        assert_eq!(stream_info(b"s"), b"*3\r\n$5\r\nXINFO\r\n$6\r\nSTREAM\r\n$1\r\ns\r\n");
    }
}
