//! Reads of a stream, without a group.

mod batches;
mod bounds;
mod deadline;
mod feed;
mod page;
mod range;
mod request;
mod tail;

pub use batches::{Batches, BlockingBatches, batches, tail};
pub use page::PageSize;
pub use range::{infer_schema, pin, read};
pub use request::{OnIdle, ReadRequest};
