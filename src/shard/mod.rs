//! Sharded streams: one logical stream over several keys, so that it outgrows one server.
//!
//! The rows of `events` are in `events:{0-dnh}`, `events:{1-cep}` and so on, each in the one that the hash
//! of a column's text says. The key `events` itself is a hash that says how: see [`ShardedStream`].

mod layout;
mod lookup;
mod tags;

pub use layout::ShardedStream;
pub(crate) use layout::beside_shard;
#[cfg(feature = "python")]
pub(crate) use lookup::find_shards;
pub(crate) use lookup::{claim, delete_name, misnamed, shards_of, told};
pub use lookup::{create_sharded_stream, sharded_stream};
pub use tags::MOST_SHARDS;
