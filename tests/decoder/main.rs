//! The decoder through its public face: bytes in, batches out.
//!
//! Every case runs with whole buffers and with buffers of 1, 3 and 5 bytes, with batches taken in
//! one go and in between, in RESP2 and RESP3: see `common::decode_every_way`.

#[path = "../common/mod.rs"]
mod common;

mod batches;
mod cuts;
mod dtypes;
mod fields;
mod ids;
mod misfits;
mod nested;
mod packed;
mod payloads;
mod replies;
mod streams;
