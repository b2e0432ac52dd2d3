//! An entry that a producer was given, and the ID that it gets.

use std::sync::{Arc, OnceLock};

use arrow_array::{Array, StringViewArray};

use super::producer::Producer;

/// Where the ID of an entry is left for its caller: `None` inside where the stream does not exist
/// and is not to be made.
pub(super) type Slot = Arc<OnceLock<Option<String>>>;

/// An entry that a [`Producer`] was given, to learn what became of it.
#[derive(Clone)]
pub struct Sent {
    producer: Producer,
    slot: Slot,
    /// Its number among the rows that the producer was given.
    number: usize,
}

impl Sent {
    pub(super) fn new(producer: Producer, slot: Slot, number: usize) -> Self {
        Sent { producer, slot, number }
    }

    /// Returns when it is known what became of it, or the producer has failed.
    pub async fn settled(&self) {
        self.producer.until_settled(self.number).await;
    }

    /// Whether that is known.
    pub fn is_settled(&self) -> bool {
        self.producer.has_settled(self.number)
    }

    /// Its entry ID once it is in; `None` inside where its stream does not exist and is not to be
    /// made. `None` before that, and where the producer [has failed](Producer::failed) and it is not
    /// known to be in.
    pub fn id(&self) -> Option<Option<&str>> {
        self.slot.get().map(Option::as_deref)
    }
}

/// Leaves the IDs of entries that were written where somebody may ask for them; with `all`, those
/// without an ID were not to be added.
pub(super) fn fill(slots: &[Slot], ids: &StringViewArray, all: bool) {
    for (row, slot) in slots.iter().enumerate().filter(|(_, slot)| Arc::strong_count(slot) > 1) {
        let id = (row < ids.len() && ids.is_valid(row)).then(|| ids.value(row).to_owned());
        if all || id.is_some() {
            // Nobody else sets it.
            let _ = slot.set(id);
        }
    }
}
