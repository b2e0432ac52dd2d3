//! Runtimes of threads that wait: for Python's blocking calls.

use std::convert::Infallible;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};

use super::per_process::PerProcess;
use super::runtime::{CHECK, forked, no_runtime, panicked};
use crate::error::{Error, Result};

/// A runtime on the thread that waits: it is woken by the socket itself, where a future on the
/// process's runtime is woken by the socket and then wakes the thread. Nothing goes on while nobody
/// waits. So its connections are no other runtime's ([`Pool`](super::pool::Pool) sees to that).
pub(crate) struct OwnRuntime(PerProcess<InBackground>);

/// A runtime that does not wait for its threads when it is dropped: a look-up of a name takes as
/// long as it takes.
struct InBackground(ManuallyDrop<Runtime>);

impl Drop for InBackground {
    fn drop(&mut self) {
        // SAFETY: it is not used again: this is its owner's end.
        unsafe { ManuallyDrop::take(&mut self.0) }.shutdown_background();
    }
}

impl OwnRuntime {
    pub(crate) fn new() -> Self {
        OwnRuntime(PerProcess::new())
    }

    /// Runs a future and waits for it, as [`block_on`] does.
    ///
    /// The runtime is left for each call of `interrupted`, which runs Python code: that may use
    /// another runtime on this thread, or drop one, and neither is possible inside of this one.
    pub(crate) fn block_on<T, E>(
        &self,
        future: impl Future<Output = Result<T>>,
        mut interrupted: impl FnMut() -> Result<(), E>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        let make = || Builder::new_current_thread().enable_all().build().map_err(no_runtime);
        let runtime =
            self.0.get(|| make().map(|runtime| InBackground(ManuallyDrop::new(runtime))))?;
        let process = std::process::id();
        let mut future = Box::pin(AssertUnwindSafe(future).catch_unwind());
        loop {
            // The timer is made inside, where the runtime's clock is.
            let slice = async {
                let ended = tokio::time::timeout(CHECK, &mut future).await;
                if ended.is_err() {
                    // A part of the future that has yielded is woken before the runtime is left, which
                    // forgets it otherwise. Where parts are polled only when woken, it would never go on.
                    tokio::task::yield_now().await;
                }
                ended
            };
            match runtime.0.block_on(slice) {
                Ok(Ok(result)) => return Ok(result?),
                Ok(Err(_)) => return Err(panicked().into()),
                Err(_) => interrupted()?,
            }
            if std::process::id() != process {
                // Its sockets and its locks are the parent's.
                std::mem::forget(future);
                return Err(forked().into());
            }
        }
    }
}

/// A runtime that one call or reader has to itself for a while. Afterwards it is kept for the next
/// one, and with it the connections that were opened on it.
pub(crate) struct LentRuntime(ManuallyDrop<OwnRuntime>);

/// Those that nobody uses, the latest last.
static IDLE: PerProcess<Mutex<Vec<OwnRuntime>>> = PerProcess::new();

/// Runtimes beyond this number are dropped when they come back.
const MAX_IDLE: usize = 8;

fn idle() -> MutexGuard<'static, Vec<OwnRuntime>> {
    let Ok(idle) = IDLE.get(|| Ok::<_, Infallible>(Mutex::default()));
    // A list is whole whatever its holder was doing when it panicked.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LentRuntime {
    /// The one that was used last, whose connections are the most likely to be open still.
    pub(crate) fn new() -> Self {
        LentRuntime(ManuallyDrop::new(idle().pop().unwrap_or_else(OwnRuntime::new)))
    }
}

impl Deref for LentRuntime {
    type Target = OwnRuntime;

    fn deref(&self) -> &OwnRuntime {
        &self.0
    }
}

impl Drop for LentRuntime {
    fn drop(&mut self) {
        // SAFETY: it is not used again: this is its owner's end.
        let runtime = unsafe { ManuallyDrop::take(&mut self.0) };
        // In a forked child it makes itself anew, and its connections are not used.
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.push(runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::client::block_on;
    use crate::error::ErrorKind;

    #[test]
    fn a_panic_on_an_own_runtime_becomes_an_error() {
        let own: Result<()> = OwnRuntime::new().block_on(async { panic!("on purpose") }, || Ok(()));
        assert_eq!(own.map_err(|error| error.kind()), Err(ErrorKind::Internal));
    }

    #[test]
    fn an_own_runtime_asks_whether_it_is_interrupted() {
        let mut asked = 0;
        let result: Result<()> = OwnRuntime::new().block_on(std::future::pending(), || {
            asked += 1;
            if asked < 3 { Ok(()) } else { Err(Error::new(ErrorKind::Timeout, "interrupted")) }
        });
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::Timeout));
        assert_eq!(asked, 3);
    }

    #[test]
    fn parts_of_a_future_that_yield_at_its_interruption_go_on() {
        let part = async || {
            let start = std::time::Instant::now();
            while start.elapsed() < 3 * CHECK {
                tokio::task::yield_now().await;
            }
        };
        let done: Result<Vec<()>> = OwnRuntime::new().block_on(
            async { Ok(stream::iter(0..4).map(|_| part()).buffer_unordered(2).collect().await) },
            {
                let start = std::time::Instant::now();
                move || match start.elapsed() < Duration::from_secs(20) {
                    true => Ok(()),
                    false => Err(Error::new(ErrorKind::Timeout, "it hangs")),
                }
            },
        );
        assert_eq!(done.map(|done| done.len()).ok(), Some(4));
    }

    #[test]
    fn whoever_is_asked_may_use_and_drop_other_runtimes() {
        let mut other = Some(OwnRuntime::new());
        let result: Result<()> = OwnRuntime::new().block_on(std::future::pending(), || {
            let used: Option<Result<i32>> =
                other.take().map(|other| other.block_on(async { Ok(1) }, || Ok(())));
            let nested: Result<i32> = block_on(async { Ok(2) }, || Ok(()));
            match (used, nested) {
                (Some(Ok(1)), Ok(2)) => Err(Error::new(ErrorKind::Timeout, "both were used")),
                (used, nested) => {
                    Err(Error::new(ErrorKind::Internal, format!("{used:?} {nested:?}")))
                }
            }
        });
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::Timeout));
    }

    #[test]
    fn an_own_runtime_goes_while_a_name_is_looked_up() {
        let own = OwnRuntime::new();
        let interrupted: Result<()> = own.block_on(
            async {
                tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(5)))
                    .await
                    .ok();
                Ok(())
            },
            || Err(Error::new(ErrorKind::Timeout, "interrupted")),
        );
        assert!(interrupted.is_err());
        let start = std::time::Instant::now();
        drop(own);
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_runtime_is_lent_to_one_at_a_time_and_then_to_the_next() {
        let id = |lent: &LentRuntime| {
            let running: Result<_> =
                lent.block_on(async { Ok(tokio::runtime::Handle::current().id()) }, || Ok(()));
            running.ok()
        };
        // Other tests lend none.
        let first = LentRuntime::new();
        let second = LentRuntime::new();
        let (one, other) = (id(&first), id(&second));
        assert!(one.is_some() && other.is_some() && one != other);
        drop(second);
        drop(first);
        assert_eq!(id(&LentRuntime::new()), one);
    }
}
