//! The columnar connector for Redis Streams: reply bytes straight into Arrow columns.
//!
//! The path of the data is one line, and no file sends it backwards:
//!
//! ```text
//! socket bytes -> resp events -> tape -> column builders -> Batch (RecordBatch + entry IDs)
//! ```
//!
//! ```no_run
//! use redfloe::{Client, ConnectionOptions, ReadRequest, StreamSchema};
//!
//! # async fn example() -> redfloe::Result<()> {
//! let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
//! let batch = redfloe::read(&client, ReadRequest::new("events", StreamSchema::default())).await?;
//! println!("{} entries, the last is {:?}", batch.len(), batch.ids().last());
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]
// What comes from outside must not be able to cause a panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod admin;
mod c_data;
mod client;
mod compression;
mod decode;
mod dtype;
mod entry_id;
mod error;
mod events;
mod glob;
mod infer;
mod ledger;
mod msgpack;
mod payload;
mod payload_schema;
mod process;
#[cfg(feature = "python")]
mod python;
mod read;
mod resp;
mod schema;
mod shard;
mod write;

pub use admin::{
    ConsumerInfo, GroupInfo, IfPending, ListedGroup, ListedStream, PendingEntry, PendingFilter,
    StreamInfo, TrimTo, claim_entries, consumer_info, create_group, create_stream, delete_consumer,
    delete_entries, delete_group, delete_stream, find_streams, group_info, list_groups,
    list_streams, pending_entries, stream_info, trim_stream,
};
pub use c_data::{export_field, import_array, import_field};
pub use client::{
    AddressFuture, AddressMapper, Client, ConnectionOptions, Credentials, CredentialsFuture,
    CredentialsProvider, ReadFrom, TlsOptions, block_on, shared_client,
};
pub use compression::PayloadCompression;
pub use decode::{Batch, Decoder, Rejected, Reply, ReplyShape, decode_payloads};
pub use dtype::{ENUM_METADATA, INT128_METADATA};
pub use entry_id::{EntryId, GroupStart, IdBound};
pub use error::{Error, ErrorKind, Remedy, Result};
pub use events::{Event, EventValue, take_events};
pub use payload::{Payload, PayloadFormat};
pub use payload_schema::{AvroFraming, AvroLookup, AvroOptions, PayloadSchema};
pub use process::{
    Commit, Committed, Durability, Held, Lane, LaneFilter, LaneInfo, LaneOptions, Page, PageReader,
    Processor, ProcessorOptions, ProcessorReset, ProcessorStats, Stopper, Transaction,
    delete_processor, evicting_policy, output_name, processor_info, reset_processor, shares_slot,
    state_key, table_key,
};
pub use read::{
    Batches, BlockingBatches, DeadLetter, GroupOptions, Member, OnDataLoss, OnGroupLost, OnIdle,
    OnSchemaMismatch, OwnPending, PageSize, Partition, Piece, ReadRequest, Reclaim, Removal,
    Replayed, Resume, Stats, StreamOrder, ack_entries, batches, check_offsets, infer_schema,
    offsets, offsets_ahead, pin, pin_streams, read, replay_dead_letters, split, tail,
};
pub use schema::{NullValues, OnError, StreamSchema};
pub use shard::{MOST_SHARDS, ShardedStream, create_sharded_stream, sharded_stream};
pub use write::{
    HashRequest, IfExists, NullTexts, Producer, ProducerFailure, ProducerOptions, RowsBefore, Sent,
    Trim, WriteControl, WriteFailure, WriteRequest, Written, encode_payloads, write, write_hashes,
};
