//! Writes: rows to entries of streams.

mod atomic;
mod columns;
mod control;
mod documents;
mod durations;
mod encode;
mod encoders;
mod ends;
mod entries;
mod failed;
mod frame;
mod hashes;
mod idmp_window;
mod in_flight;
mod known_streams;
mod lost_ends;
mod outcome;
mod pipeline;
mod preflight;
mod producer;
mod reconcile;
mod request;
mod round_trip;
mod row_id;
mod rows;
mod scattered;
mod sent;
#[cfg(feature = "python")]
mod staged;
mod text;
mod transaction;
mod writer;

pub use columns::encode_payloads;
pub use control::WriteControl;
pub(crate) use encode::Column;
#[cfg(feature = "python")]
pub(crate) use encode::time_beyond_a_day;
pub(crate) use entries::for_each_entry;
pub use hashes::{HashRequest, IfExists, write_hashes};
#[cfg(feature = "python")]
pub(crate) use known_streams::KnownStreams;
pub use outcome::{WriteFailure, Written};
pub use producer::{Producer, ProducerFailure, ProducerOptions};
pub use request::{NullTexts, RowsBefore, Trim, WriteRequest};
pub use sent::Sent;
#[cfg(feature = "python")]
pub(crate) use staged::{Staged, commit_staged, prepare_staging};
pub(crate) use text::{
    push_date, push_digits, push_json_string, push_number, push_seconds, push_time, push_timestamp,
};
pub use writer::write;
