//! What the readers of a consumer's parts know of one another.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lane::Lane;
use crate::decode::StreamNames;
use crate::read::poll::{FirstCame, Pace};
use crate::schema::StreamSchema;

/// What the readers of a consumer's parts have in common.
#[derive(Default)]
pub(super) struct Joint {
    /// When the first row came of the batch that is being collected, of any part.
    pub(super) first_came: Arc<FirstCame>,
    /// The most entries that one request asks for: together they have a few batches' worth.
    share: AtomicU64,
    /// When to look for other streams; in the past while that is being done.
    looks_at: Mutex<Option<Instant>>,
    /// The names of all streams.
    names: Mutex<Arc<StreamNames>>,
    /// Held by the part that infers the columns, by what is in all streams. They all wait, or none
    /// does: nobody else asks for it. When the latest that found nothing began to.
    pub(super) inferring: tokio::sync::Mutex<Option<Instant>>,
    /// The columns, where they were inferred: for all parts the same.
    schema: Mutex<Option<Arc<StreamSchema>>>,
}

impl Joint {
    pub(super) fn share(&self) -> u64 {
        self.share.load(Ordering::Relaxed)
    }

    pub(super) fn set_share(&self, share: u64) {
        self.share.store(share, Ordering::Relaxed);
    }

    pub(super) fn looks_at(&self) -> Option<Instant> {
        *lock(&self.looks_at)
    }

    pub(super) fn is_time_to_look(&self) -> bool {
        self.looks_at().is_some_and(|at| at <= Instant::now())
    }

    pub(super) fn set_looks_at(&self, at: Option<Instant>) {
        *lock(&self.looks_at) = at;
    }

    /// How long a request may wait, so that other streams are soon asked for as well. Where looking
    /// for them takes long, it is longer.
    pub(super) fn wait_until_look(&self) -> Option<Duration> {
        let (at, now) = (self.looks_at()?, Instant::now());
        let ahead = at.saturating_duration_since(now);
        Some(ahead.max(now.saturating_duration_since(at)).max(Pace::PAUSE))
    }

    pub(super) fn names(&self) -> Arc<StreamNames> {
        Arc::clone(&lock(&self.names))
    }

    pub(super) fn set_names(&self, names: &Arc<StreamNames>) {
        *lock(&self.names) = Arc::clone(names);
    }

    pub(super) fn schema(&self) -> Option<Arc<StreamSchema>> {
        lock(&self.schema).clone()
    }

    /// The columns, which are these unless another was faster.
    pub(super) fn inferred(&self, schema: Arc<StreamSchema>) -> Arc<StreamSchema> {
        Arc::clone(lock(&self.schema).get_or_insert(schema))
    }
}

/// What the reader of a part is to be told when it asks for more.
#[derive(Default)]
pub(super) struct Inbox {
    news: Mutex<News>,
    /// It is to come to rest where it has nothing in hand.
    is_called: AtomicBool,
}

#[derive(Default)]
pub(super) struct News {
    /// More streams.
    pub(super) lanes: Vec<Lane>,
    /// All streams that there are now, of any part.
    pub(super) found: Option<Arc<HashSet<Vec<u8>>>>,
}

impl Inbox {
    pub(super) fn add(&self, lane: Lane) {
        lock(&self.news).lanes.push(lane);
    }

    pub(super) fn found(&self, found: &Arc<HashSet<Vec<u8>>>) {
        lock(&self.news).found = Some(Arc::clone(found));
    }

    /// What was found and nobody has been told of both are told, as their streams may change places.
    pub(super) fn share(&self, other: &Inbox) {
        let found = [self, other].map(|inbox| lock(&inbox.news).found.clone());
        if let Some(found) = found.into_iter().flatten().next() {
            self.found(&found);
            other.found(&found);
        }
    }

    pub(super) fn call(&self, is_called: bool) {
        self.is_called.store(is_called, Ordering::Relaxed);
    }

    pub(super) fn is_called(&self) -> bool {
        self.is_called.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> News {
        std::mem::take(&mut lock(&self.news))
    }
}

/// What the locks here guard is whole whatever their holder was doing when it panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
