//! RESP2 and RESP3: commands to bytes, bytes to events. No IO, no Arrow.

mod encode;
mod parse;
mod skip;

pub(crate) use encode::{
    Membership, Packed, ReadGroup, acknowledge, create_group, groups_info, newest, pending, range,
    read_after, read_now, stream_info,
};
#[cfg(feature = "python")]
pub(crate) use encode::{get, set};
pub(crate) use parse::{Event, Parser};
pub(crate) use skip::{Nesting, RawReply, doubled};
