//! redfloe's decoders of payloads as Polars expressions.
//!
//! Polars hands a plugin its columns by Arrow's C data interface, and takes one back. `plugin.rs`
//! does that, `expressions.rs` says what the expressions do, and `options.rs` what they are told: a
//! text that Python asks for when an expression is made, and that comes back with each call.

// What comes from outside must not be able to cause a panic.
#![deny(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod expressions;
mod options;
mod plugin;
mod schemas;

use pyo3::prelude::*;

/// Checks and writes down options. The expressions themselves are called by Polars.
#[pymodule]
mod _plugin {
    #[pymodule_export]
    use crate::options::{decode_options, encode_options, entry_id_options};
}
