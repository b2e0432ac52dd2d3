//! Exactly once: what a processor keeps beside its input stream.

pub(crate) mod table;
