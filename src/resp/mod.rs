//! RESP2 and RESP3: commands to bytes, bytes to events. No IO, no Arrow.

mod command;
mod encode;
mod info;
mod outline;
mod parse;
mod replies;
mod skip;
mod small;

pub(crate) use command::{Cmd, cmd, command, push_bulk, push_header};
pub(crate) use encode::{
    Membership, Packed, PageLimit, Pending, ReadGroup, acknowledge, add, command_info,
    consumers_info, create_group, delete_consumer, delete_entries, delete_group, groups_info,
    last_generated, length, memory_usage, newest, range, range_backwards, read_after,
    read_many_after, scan, script, stream_info, time, trim, type_of,
};
#[cfg(feature = "python")]
pub(crate) use encode::{delete, get, set};
pub(crate) use info::{Info, id, number, text};
pub(crate) use outline::{Outline, Outlines};
pub(crate) use parse::{Event, Parser};
pub(crate) use replies::{RawReply, ReplyEvent, ReplyEvents};
pub(crate) use skip::{Nesting, doubled};
pub(crate) use small::{SmallEvent, SmallReplies};
