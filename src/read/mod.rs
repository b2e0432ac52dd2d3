//! Reads of a stream.

mod ack;
#[cfg(feature = "python")]
mod ack_each;
mod batches;
mod bounds;
mod claim;
mod counts;
mod dead_letter;
mod deadline;
mod feed;
mod group;
mod group_options;
mod in_flight;
mod intake;
mod keeper;
mod lost;
mod many;
mod member;
mod nack;
mod offsets;
mod page;
mod page_request;
mod pages;
mod partition;
mod poll;
mod portion;
mod range;
mod replay;
mod request;
mod sample;
mod stats;
mod tail;
mod watchers;
mod worker;

pub use ack::ack_entries;
#[cfg(feature = "python")]
pub(crate) use ack_each::ack_entries_each;
pub use batches::{Batches, BlockingBatches, batches, tail};
#[cfg(feature = "python")]
pub(crate) use bounds::no_match;
pub(crate) use bounds::{ids_only, last_decoded, newest_up_to};
pub(crate) use dead_letter::bounded_reason;
#[cfg(feature = "python")]
pub(crate) use dead_letter::check_slots;
pub use group_options::{DeadLetter, GroupOptions, OnGroupLost, OwnPending, Reclaim, Removal};
pub(crate) use lost::{StreamLoss, lost_behind, lost_end};
pub use many::{OnSchemaMismatch, StreamOrder, pin_streams};
pub use member::Member;
pub use offsets::{check_offsets, offsets, offsets_ahead};
pub use page::PageSize;
pub use partition::{Partition, Piece, split};
#[cfg(feature = "python")]
pub(crate) use range::{check_streams, read_pieces};
pub use range::{pin, read};
pub use replay::{Replayed, replay_dead_letters};
pub use request::{OnDataLoss, OnIdle, ReadRequest, Resume};
pub use sample::infer_schema;
pub use stats::Stats;
#[cfg(feature = "python")]
pub(crate) use stats::{Handing, Watched};
