//! Which keys need not be asked for their type again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keys that held a stream, or nothing, when they were asked for. One that is given another type
/// afterwards refuses its rows. Remembers nothing by default; clones share what is remembered.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownStreams {
    keys: Option<Arc<Mutex<HashSet<Vec<u8>>>>>,
}

impl KnownStreams {
    /// Beyond that many it begins anew, so that a stream for each user takes no memory for ever.
    const MOST: usize = 10_000;

    pub(super) fn remembered() -> Self {
        KnownStreams { keys: Some(Arc::default()) }
    }

    fn keys(&self) -> Option<MutexGuard<'_, HashSet<Vec<u8>>>> {
        let keys = self.keys.as_ref()?;
        Some(keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.keys().is_some_and(|keys| keys.contains(key))
    }

    pub(super) fn add(&self, key: &[u8]) {
        if let Some(mut keys) = self.keys() {
            if keys.len() >= Self::MOST {
                keys.clear();
            }
            keys.insert(key.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
