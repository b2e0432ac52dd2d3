//! What several writes to the same streams know of them: which keys need not be asked for their type
//! again, and how far the streams have come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ends::StreamEnd;

/// Keys that held a stream, or nothing, when they were asked for. One that is given another type
/// afterwards refuses its rows. Remembers nothing by default; clones share what is remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownStreams {
    keys: Option<Arc<Mutex<Known>>>,
}

/// Each with the end that writes have come to, if they have added anything.
type Known = HashMap<Vec<u8>, Option<StreamEnd>>;

impl KnownStreams {
    /// Beyond that many it begins anew, so that a stream for each user takes no memory for ever.
    const MOST: usize = 10_000;

    pub(crate) fn remembered() -> Self {
        KnownStreams { keys: Some(Arc::default()) }
    }

    fn keys(&self) -> Option<MutexGuard<'_, Known>> {
        let keys = self.keys.as_ref()?;
        Some(keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.keys().is_some_and(|keys| keys.contains_key(key))
    }

    pub(super) fn add(&self, key: &[u8]) {
        self.note(key, |known| known);
    }

    /// A write has come to that end of a stream.
    pub(super) fn reached(&self, key: &[u8], end: StreamEnd) {
        self.note(key, |_| Some(end));
    }

    fn note(&self, key: &[u8], end: impl Fn(Option<StreamEnd>) -> Option<StreamEnd>) {
        let Some(mut keys) = self.keys() else { return };
        if let Some(known) = keys.get_mut(key) {
            *known = end(*known);
            return;
        }
        if keys.len() >= Self::MOST {
            keys.clear();
        }
        keys.insert(key.to_vec(), end(None));
    }

    /// What these writes have added last to a stream.
    pub(super) fn end(&self, key: &[u8]) -> Option<StreamEnd> {
        *self.keys()?.get(key)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry_id::EntryId;

    #[test]
    fn they_are_remembered_by_clones_and_not_for_ever() {
        let forgetful = KnownStreams::default();
        forgetful.add(b"a");
        assert!(!forgetful.contains(b"a"));
        let known = KnownStreams::remembered();
        known.clone().add(b"a");
        assert!(known.contains(b"a") && !known.contains(b"b"));
        for number in 1..KnownStreams::MOST {
            known.add(number.to_string().as_bytes());
        }
        assert!(known.contains(b"a"));
        known.add(b"b");
        assert!(known.contains(b"b") && !known.contains(b"a"));
    }

    #[test]
    fn how_far_they_have_come_is_remembered_too() {
        let known = KnownStreams::remembered();
        let end = StreamEnd::of_before(EntryId::new(5, 0), 1);
        known.add(b"a");
        assert_eq!(known.end(b"a"), None);
        for key in [b"a", b"b"] {
            known.reached(key, end);
            known.add(key);
            assert_eq!(known.end(key), Some(end));
        }
    }
}
