//! Writes: rows to entries of streams.

mod ask;
mod atomic;
mod converse;
mod encode;
mod frame;
mod hashes;
mod memory;
mod outcome;
mod pipeline;
mod producer;
mod request;
mod row_id;
mod rows;
mod text;
mod under_way;
mod words;
mod writer;

pub use hashes::{HashRequest, IfExists, write_hashes};
pub use outcome::{WriteFailure, Written};
pub use producer::{Failed, Producer, ProducerOptions};
pub use request::{NullTexts, Trim, WriteControl, WriteRequest};
pub use writer::write;
