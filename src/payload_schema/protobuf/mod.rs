//! Protobuf: a message's descriptor says what its bytes are. `prost-reflect` reads descriptors;
//! messages are read here, without a tree of their values.

mod pack;
mod plan;
mod unpack;
mod values;
mod well_known;
mod wire;

use std::panic::catch_unwind;
use std::sync::Arc;

use arrow_schema::{Fields, TimeUnit};
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorSet;

use super::{Pack, PayloadSchema, Schema, Unpack, Wanted};
use crate::error::{Error, Result};
use pack::Packing;
use plan::Plan;
use unpack::Unpacker;

impl PayloadSchema {
    /// Payloads that are Protobuf messages, of proto2 or proto3: a serialised `FileDescriptorSet`, as
    /// `protoc --include_imports --descriptor_set_out=shop.binpb shop.proto` writes it, and the
    /// message's full name, such as `shop.Order`.
    ///
    /// A field is null where it is not written and its absence can be told: it is `optional`, one of a
    /// `oneof`, a message or of proto2. Others have the value that stands for it. Enums are Enums, by
    /// their names; maps are lists of structs of `key` and `value`; `Timestamp`, `Duration` and the
    /// wrappers are what they mean; `Struct`, `Value`, `ListValue`, and a message inside itself, are text
    /// that holds JSON.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is no descriptor set, or lacks
    /// the message or what it imports.
    pub fn protobuf(descriptor_set: &[u8], message: &str) -> Result<Self> {
        refuse_editions(descriptor_set)?;
        // prost-reflect panics where a descriptor contradicts itself.
        let made = catch_unwind(|| PayloadSchema::of_message(descriptor_set, message));
        made.unwrap_or_else(|_| Err(Error::invalid("the descriptor contradicts itself")))
    }

    fn of_message(descriptor_set: &[u8], message: &str) -> Result<Self> {
        let pool = DescriptorPool::decode(descriptor_set).map_err(|error| {
            Error::invalid(format!(
                "the descriptor is not a FileDescriptorSet with all that it imports, as protoc \
                 --include_imports --descriptor_set_out writes it: {error}"
            ))
        })?;
        let Some(described) = pool.get_message_by_name(message) else {
            let mut names: Vec<_> = pool
                .all_messages()
                .filter(|one| !one.is_map_entry())
                .map(|one| one.full_name().to_owned())
                .filter(|name| !name.starts_with("google.protobuf."))
                .collect();
            names.truncate(10);
            return Err(Error::invalid(format!(
                "the descriptor has no message {message:?}; it has {}",
                names.join(", ")
            )));
        };
        Ok(PayloadSchema { schema: Arc::new(Protobuf { plan: Arc::new(Plan::new(&described)?) }) })
    }
}

/// Files of editions, which prost-reflect does not know yet, and panics at.
fn refuse_editions(descriptor_set: &[u8]) -> Result<()> {
    // What is no set is refused with prost-reflect's own words.
    let set = FileDescriptorSet::decode(descriptor_set).unwrap_or_default();
    match set.file.iter().find(|file| file.syntax() == "editions") {
        None => Ok(()),
        Some(file) => Err(Error::invalid(format!(
            "the file {:?} is of an edition of Protobuf; only proto2 and proto3 are read",
            file.name()
        ))),
    }
}

#[derive(Debug)]
struct Protobuf {
    plan: Arc<Plan>,
}

impl Schema for Protobuf {
    fn fields(&self) -> Fields {
        self.plan.columns.clone()
    }

    fn duration_unit(&self) -> Option<TimeUnit> {
        Some(TimeUnit::Nanosecond)
    }

    fn takes_empty(&self) -> bool {
        true
    }

    fn unpacker(&self, wanted: Wanted) -> Box<dyn Unpack> {
        Box::new(Unpacker::new(Arc::clone(&self.plan), &wanted))
    }

    fn packer(&self) -> Box<dyn Pack> {
        Box::new(Packing::new(Arc::clone(&self.plan)))
    }
}

#[cfg(test)]
mod tests;
