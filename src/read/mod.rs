//! Reads of a stream, without a group.

mod page;
mod range;

pub use page::PageSize;
pub use range::{ReadRequest, infer_schema, read};
