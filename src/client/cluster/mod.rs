//! Redis Cluster: which node serves a key, and connections to it.
//!
//! What a node says is read by [`slot_map`], which does no IO, as [`slots`] and [`asking`] do none.
//! `nodes` asks, and keeps a pool of connections for each node.

mod asking;
mod nodes;
mod options;
mod slot_map;
mod slots;

pub(super) use asking::Asking;
pub(super) use nodes::{Cluster, Known};
pub use options::ReadFrom;
pub(super) use options::{ClusterOptions, parse_address, split_seeds};
pub(crate) use slots::{slot_of, tagged};

/// Which node a session's connections lead to, where the server is a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Whichever; before the cluster is known that of the URL.
    Any,
    /// The master of the slot.
    Slot(u16),
    /// A replica of the slot, where there is one.
    Replica(u16),
}
