//! The process's one tokio runtime, made on first use and again after a fork.

use std::future::Future;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
#[cfg(feature = "python")]
use std::{panic::AssertUnwindSafe, pin::pin};

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
    loop {
        match receiver.recv_timeout(CHECK) {
            Ok(result) => return Ok(result?),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = interrupted() {
                    task.abort();
                    return Err(error);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(panicked().into());
            }
        }
    }
}

/// A runtime on the thread that waits: it is woken by the socket itself, where a future on the
/// process's runtime is woken by the socket and then wakes the thread. For connections that are
/// used by one reader only, since nothing goes on while nobody waits.
#[cfg(feature = "python")]
pub(crate) struct OwnRuntime(PerProcess<Runtime>);

#[cfg(feature = "python")]
impl OwnRuntime {
    pub(crate) fn new() -> Self {
        OwnRuntime(PerProcess::new())
    }

    /// Runs a future and waits for it, as [`block_on`] does.
    pub(crate) fn block_on<T, E>(
        &self,
        future: impl Future<Output = Result<T>>,
        mut interrupted: impl FnMut() -> Result<(), E>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        let make = || Builder::new_current_thread().enable_all().build().map_err(no_runtime);
        self.0.get(make)?.block_on(async {
            let mut future = pin!(AssertUnwindSafe(future).catch_unwind());
            loop {
                match tokio::time::timeout(CHECK, &mut future).await {
                    Ok(Ok(result)) => return Ok(result?),
                    Ok(Err(_)) => return Err(panicked().into()),
                    Err(_) => interrupted()?,
                }
            }
        })
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
}
