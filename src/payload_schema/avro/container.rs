//! Object container files of one record.

use std::io::Read;

use flate2::read::DeflateDecoder;

use super::wire::{Cursor, Malformed};
use crate::decode::Misfit;

/// What is in a container.
pub(super) struct Container<'c> {
    pub(super) schema: &'c [u8],
    pub(super) datum: &'c [u8],
}

const NO_CONTAINER: &str = "is not an Avro container file";

impl From<Malformed> for &'static str {
    fn from(_: Malformed) -> Self {
        NO_CONTAINER
    }
}

/// Opens a container whose record comes to `most` bytes at most.
pub(super) fn open<'c>(
    payload: &'c [u8],
    most: usize,
    inflated: &'c mut Vec<u8>,
) -> Result<Container<'c>, Misfit> {
    let file = payload.strip_prefix(b"Obj\x01").ok_or(NO_CONTAINER)?;
    let (header, records, block) = parts(file)?;
    let datum = match header.codec {
        None | Some(b"null") => block,
        Some(b"deflate") => {
            inflated.clear();
            // One byte more tells that there are more.
            let read = DeflateDecoder::new(block).take(most as u64 + 1).read_to_end(inflated);
            read.map_err(|_| "has an Avro container that cannot be decompressed")?;
            if inflated.len() > most {
                let what = "once it is decompressed";
                return Err(format!("is more than payload_max_bytes={most} {what}").into());
            }
            inflated
        }
        Some(other) => {
            return Err(format!(
                "has an Avro container with the codec {:?}; write it with \"null\" or \"deflate\"",
                String::from_utf8_lossy(other.get(..32).unwrap_or(other))
            )
            .into());
        }
    };
    match records {
        1 => Ok(Container { schema: header.schema, datum }),
        others => Err(format!("has {others} records in its Avro container, not one").into()),
    }
}

struct Header<'c> {
    schema: &'c [u8],
    codec: Option<&'c [u8]>,
}

/// The header, and how many records the first block has, and its bytes. Nothing comes after it.
fn parts(file: &[u8]) -> Result<(Header<'_>, usize, &[u8]), &'static str> {
    let mut cursor = Cursor::new(file);
    let mut header = Header { schema: b"", codec: None };
    loop {
        // Each entry has two lengths.
        let (count, _) = cursor.block(2).map_err(|_| Malformed)?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            let (key, value) = (cursor.bytes()?, cursor.bytes()?);
            match key {
                b"avro.schema" => header.schema = value,
                b"avro.codec" => header.codec = Some(value),
                _ => {}
            }
        }
    }
    let marker: [u8; 16] = cursor.chunk()?;
    if cursor.end().is_ok() {
        return Ok((header, 0, b""));
    }
    let records = cursor.place()?;
    let block = cursor.bytes()?;
    if cursor.chunk()? != marker {
        return Err(NO_CONTAINER);
    }
    // More blocks, with more records.
    let mut others = 0usize;
    while cursor.end().is_err() {
        others = others.saturating_add(cursor.place()?);
        cursor.bytes()?;
        if cursor.chunk()? != marker {
            return Err(NO_CONTAINER);
        }
    }
    Ok((header, records.saturating_add(others), block))
}
