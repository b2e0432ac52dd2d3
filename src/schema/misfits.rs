//! What text that fits no dtype, or stands for nothing, becomes.

use std::collections::HashMap;
use std::sync::Arc;

#[cfg(doc)]
use crate::error::ErrorKind;

/// What happens to a field's text that does not fit its dtype, and to a field whose name no column
/// can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnError {
    /// The read fails with a [`Decode`](ErrorKind::Decode) error that names the entry.
    #[default]
    Raise,
    /// The value becomes null; the field is left out.
    Null,
    /// The entry is left out of the batch, and listed in [`Batch::rejected`](crate::Batch).
    Reject,
}

/// Texts that mean null, beside the empty text, which is null for all but strings and binary. They
/// hold inside JSON as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NullValues {
    /// For every field.
    pub all: Vec<String>,
    /// For single fields, by name.
    pub by_field: HashMap<String, Vec<String>>,
}

impl NullValues {
    /// The texts that mean null in the field `name`.
    pub(crate) fn of(&self, name: &str) -> Arc<[Box<[u8]>]> {
        let own = self.by_field.get(name).into_iter().flatten();
        self.all.iter().chain(own).map(|text| text.as_bytes().into()).collect()
    }
}
