//! RESP2 and RESP3: commands to bytes, bytes to events. No IO, no Arrow.

mod encode;
mod parse;
mod skip;

pub(crate) use encode::{
    Packed, ReadGroup, acknowledge, create_group, groups_info, newest, range, read_after, read_now,
    stream_info,
};
pub(crate) use parse::{Event, Parser};
pub(crate) use skip::{Nesting, RawReply, doubled};
