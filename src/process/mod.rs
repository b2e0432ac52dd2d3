//! Exactly once: a stream's entries are processed in commits, each of which writes outputs, state and the
//! position after them in one step, or not at all.
//!
//! A [`Lane`] is what a processor has for one input stream. Whoever acquires it gets an *epoch*, which
//! every later commit must bear; the next one to acquire it increments the epoch, and so fences all that
//! came before. A lease says when a lane may be acquired; safety never rests on it.

mod commit;
mod durability;
mod keys;
mod lane;
mod looking;
mod machine;
#[cfg(feature = "python")]
mod members;
#[cfg(test)]
mod model;
mod page;
mod processor;
mod protocol;
mod script;
mod shared;
#[cfg(any(feature = "python", test))]
mod shares;
pub(crate) mod table;

pub use commit::Commit;
pub use durability::{Durability, evicting_policy};
#[cfg(feature = "python")]
pub(crate) use keys::key as own_key;
#[cfg(feature = "python")]
pub(crate) use keys::{check_same_slot, check_slot};
pub use keys::{output_name, shares_slot, state_key, table_key};
pub use lane::{
    Committed, Held, Lane, LaneOptions, ProcessorReset, delete_processor, reset_processor,
};
pub use looking::{LaneFilter, LaneInfo, processor_info};
#[cfg(feature = "python")]
pub(crate) use members::{Membership, Step};
pub use page::{Page, PageReader};
#[cfg(feature = "python")]
pub(crate) use processor::{Alarm, Alarms, Came, Told, Turn};
pub use processor::{Processor, ProcessorOptions, ProcessorStats, Stopper, Transaction};
