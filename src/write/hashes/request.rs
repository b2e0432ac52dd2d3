//! What to write into hashes, and how.

use std::time::Duration;

use crate::write::control::WriteControl;

/// How rows become hashes. Made by [`HashRequest::new`] and changed by its `with_` methods.
#[derive(Debug, Clone)]
pub struct HashRequest {
    pub(super) key_column: String,
    pub(super) key_prefix: Vec<u8>,
    pub(super) fields: Option<Vec<String>>,
    pub(super) ttl: Option<Duration>,
    pub(super) if_exists: IfExists,
    pub(super) batch_rows: usize,
    pub(super) control: WriteControl,
}

/// What happens to a hash that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IfExists {
    /// The row takes its place, in one step.
    Replace,
    /// The row's fields are set, and those that are null in the row removed; others stay.
    Merge,
    /// It is left as it is, and the write fails.
    Fail,
}

impl HashRequest {
    /// A hash for each row, of the key in this column; every other column is a field.
    pub fn new(key_column: &str) -> Self {
        HashRequest {
            key_column: key_column.to_owned(),
            key_prefix: Vec::new(),
            fields: None,
            ttl: None,
            if_exists: IfExists::Replace,
            batch_rows: 1_000,
            control: WriteControl::default(),
        }
    }

    /// What each key begins with.
    pub fn with_key_prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Writes these columns, in this order, instead of all but the key's.
    pub fn with_fields(mut self, names: Option<Vec<String>>) -> Self {
        self.fields = names;
        self
    }

    /// How long the hashes live from now on (PEXPIRE); by default without end, and a hash that is
    /// merged keeps the time that it has.
    pub fn with_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }

    /// What happens to hashes that are there already.
    pub fn with_if_exists(mut self, if_exists: IfExists) -> Self {
        self.if_exists = if_exists;
        self
    }

    /// How many rows are sent together. 1,000 by default; at least one.
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows.max(1);
        self
    }

    /// Lets another task look at the write, and stop it.
    pub fn with_control(mut self, control: WriteControl) -> Self {
        self.control = control;
        self
    }
}
