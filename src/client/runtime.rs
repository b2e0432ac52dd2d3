//! The process's one tokio runtime, made on first use and again after a fork.

use std::future::Future;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
#[cfg(feature = "python")]
use std::{mem::ManuallyDrop, panic::AssertUnwindSafe};

#[cfg(feature = "python")]
use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use super::per_process::PerProcess;
use crate::error::{Error, ErrorKind, Result};

/// What belongs to one process. It lives as long as the process does.
struct Process {
    runtime: Runtime,
}

static PROCESS: PerProcess<Process> = PerProcess::new();

/// This process's runtime.
fn process() -> Result<&'static Process> {
    PROCESS.get(|| {
        // The threads that wait for batches need cores too; on a small machine a second worker
        // would do little but wake up.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads((cores / 2).clamp(1, 4))
            .thread_name("redfloe")
            .enable_all()
            .build()
            .map_err(no_runtime)?;
        Ok(Process { runtime })
    })
}

fn no_runtime(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "no runtime: threads cannot be started, or files not opened")
        .with_source(error)
}

/// How often a blocking call asks whether it was interrupted.
const CHECK: Duration = Duration::from_millis(50);

pub(crate) fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "a task panicked; please report this")
}

/// Runs a future on the process's runtime, on its own.
///
/// # Errors
///
/// [`Internal`](ErrorKind::Internal) where the process cannot start threads.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Result<AbortHandle> {
    Ok(process()?.runtime.spawn(future).abort_handle())
}

/// Runs a future on the process's runtime and waits for it, asking `interrupted` at least every
/// 50 ms; where that answers with an error, the future is dropped and the error is the result.
///
/// # Errors
///
/// Those of the future and of `interrupted`; [`Internal`](ErrorKind::Internal) where the future
/// panicked, or the process cannot start threads.
pub fn block_on<T, E>(
    future: impl Future<Output = Result<T>> + Send + 'static,
    mut interrupted: impl FnMut() -> Result<(), E>,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error>,
{
    let (sender, receiver) = mpsc::sync_channel(1);
    // On a worker the future is woken by the thread that polls the socket; on this thread each
    // read would cost a switch between the two.
    let task = process()?.runtime.spawn(async move {
        // The receiver is gone only when nobody waits any more.
        let _ = sender.send(future.await);
    });
    let process = std::process::id();
    loop {
        match receiver.recv_timeout(CHECK) {
            Ok(result) => return Ok(result?),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = interrupted() {
                    task.abort();
                    return Err(error);
                }
                if std::process::id() != process {
                    return Err(forked().into());
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(panicked().into());
            }
        }
    }
}

/// For the child of a fork by `interrupted`, such as a signal's handler: the parent has the future.
fn forked() -> Error {
    let message = "this process was forked during a call, which goes on in its parent";
    Error::new(ErrorKind::Connection, message)
}

/// A runtime on the thread that waits: it is woken by the socket itself, where a future on the
/// process's runtime is woken by the socket and then wakes the thread. For connections that are
/// used by one reader only, since nothing goes on while nobody waits.
#[cfg(feature = "python")]
pub(crate) struct OwnRuntime(PerProcess<InBackground>);

/// A runtime that does not wait for its threads when it is dropped: a look-up of a name takes as
/// long as it takes.
#[cfg(feature = "python")]
struct InBackground(ManuallyDrop<Runtime>);

#[cfg(feature = "python")]
impl Drop for InBackground {
    fn drop(&mut self) {
        // SAFETY: it is not used again: this is its owner's end.
        unsafe { ManuallyDrop::take(&mut self.0) }.shutdown_background();
    }
}

#[cfg(feature = "python")]
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
            let slice = async { tokio::time::timeout(CHECK, &mut future).await };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_make_one_runtime() -> Result<()> {
        let ids: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        process().map_or(0, |process| std::ptr::from_ref(process) as usize)
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        assert_eq!(ids.len(), 8);
        assert!(ids.iter().all(|id| *id != 0 && Some(id) == ids.first()));
        Ok(())
    }

    #[test]
    fn an_interrupted_future_is_dropped() {
        struct Dropped(mpsc::Sender<()>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (sender, receiver) = mpsc::channel();
        let dropped = Dropped(sender);
        let future = async move {
            let _dropped = dropped;
            std::future::pending::<Result<()>>().await
        };
        let result = block_on(future, || Err(Error::new(ErrorKind::Timeout, "interrupted")));
        assert!(result.is_err());
        assert!(receiver.recv_timeout(Duration::from_secs(5)).is_ok());
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let result: Result<()> = block_on(async { panic!("on purpose") }, || Ok(()));
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::Internal));
    }

    #[test]
    #[cfg(feature = "python")]
    fn a_panic_on_an_own_runtime_becomes_an_error() {
        let own: Result<()> = OwnRuntime::new().block_on(async { panic!("on purpose") }, || Ok(()));
        assert_eq!(own.map_err(|error| error.kind()), Err(ErrorKind::Internal));
    }

    #[test]
    #[cfg(feature = "python")]
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
    #[cfg(feature = "python")]
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
    #[cfg(feature = "python")]
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
}
