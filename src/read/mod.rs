//! Reads of a stream.

mod ack;
mod batches;
mod bounds;
mod deadline;
mod feed;
mod group;
mod page;
mod range;
mod request;
mod tail;

pub use ack::ack_entries;
pub use batches::{Batches, BlockingBatches, batches, tail};
pub(crate) use bounds::{find_last_generated, ids_only};
pub use page::PageSize;
pub use range::{infer_schema, pin, read};
pub use request::{GroupOptions, OnIdle, OwnPending, ReadRequest};
