//! The end of a processor's loop, for those who wait in it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{Either, select};
use tokio::sync::Notify;

/// Ends a [processor's](crate::Processor) loop before its next batch, from wherever it is called.
#[derive(Debug, Clone, Default)]
pub struct Stopper {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    is_set: AtomicBool,
    comes: Notify,
}

impl Stopper {
    /// The next batch is not waited for: [`Processor::next`](crate::Processor::next) gives `None`.
    pub fn stop(&self) {
        self.inner.is_set.store(true, Ordering::Release);
        self.inner.comes.notify_waiters();
    }

    /// Whether that was called.
    pub fn is_stopped(&self) -> bool {
        self.inner.is_set.load(Ordering::Acquire)
    }

    /// What a future gives, or `None` where the loop is stopped first: then the future is dropped.
    pub(crate) async fn or<T>(&self, doing: impl Future<Output = T>) -> Option<T> {
        let comes = pin!(async {
            let comes = self.inner.comes.notified();
            if !self.is_stopped() {
                comes.await;
            }
        });
        match select(comes, pin!(doing)).await {
            Either::Left(_) => None,
            Either::Right((done, _)) => Some(done),
        }
    }
}
