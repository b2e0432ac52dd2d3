//! Where a reply ends: nesting that is counted, for replies whose shape does not matter.

use super::Event;
use crate::error::{Error, Result};

/// Counts down the elements of nested containers until the value they make up is whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nesting {
    /// Elements that are still to come.
    open: usize,
}

impl Nesting {
    /// So many values are to come.
    pub(crate) fn of(values: usize) -> Self {
        Nesting { open: values }
    }

    /// The reply of one command is to come.
    pub(crate) fn reply() -> Self {
        Nesting::of(1)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.open == 0
    }

    /// Takes note of a value without elements. Nothing is missing where nothing was.
    #[inline]
    pub(crate) fn count_down(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Takes note of one event.
    pub(crate) fn observe(&mut self, event: &Event<'_>) -> Result<()> {
        let children = match event {
            Event::Array(len) => *len,
            Event::Map(pairs) => doubled(*pairs)?,
            // Neither a push frame nor attributes are the value that is waited for.
            Event::Push(len) => len.checked_add(1).ok_or_else(too_many)?,
            Event::Attribute(pairs) => doubled(*pairs)?.checked_add(1).ok_or_else(too_many)?,
            Event::Bytes { done: false, .. } => return Ok(()),
            Event::Bytes { .. } | Event::Nil | Event::Scalar(_) | Event::Error(_) => 0,
        };
        self.open = self
            .open
            .checked_sub(1)
            .and_then(|open| open.checked_add(children))
            .ok_or_else(too_many)?;
        Ok(())
    }
}

/// The number of values in so many pairs.
pub(crate) fn doubled(pairs: usize) -> Result<usize> {
    pairs.checked_mul(2).ok_or_else(too_many)
}

fn too_many() -> Error {
    Error::protocol("a length is out of range")
}
