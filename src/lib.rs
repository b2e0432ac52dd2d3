//! The columnar connector for Redis Streams: reply bytes straight into Arrow columns.

mod decode;
mod entry_id;
mod error;
mod resp;
mod schema;

pub use decode::{Batch, Decoder, ENUM_METADATA, INT128_METADATA, Reply, ReplyShape};
pub use entry_id::{EntryId, IdBound};
pub use error::{Error, ErrorKind, Result};
pub use schema::{NullValues, OnError, StreamSchema};
