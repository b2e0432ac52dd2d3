//! Exactly once: what a processor keeps beside its input stream.

// So far only the extension has a use for it.
#![cfg_attr(not(feature = "python"), allow(dead_code))]

pub(crate) mod table;
