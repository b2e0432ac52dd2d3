//! The process's one tokio runtime, made on first use and again after a fork.

use std::future::Future;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

use super::per_process::PerProcess;
use crate::error::{Error, ErrorKind, Result};

/// What belongs to one process. It lives as long as the process does.
struct Process {
    handle: Handle,
    /// Always there, until it is dropped.
    runtime: Option<Runtime>,
}

impl Process {
    fn new() -> Result<Self> {
        // The threads that wait for batches need cores too; on a small machine a second worker
        // would do little but wake up.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads((cores / 2).clamp(1, 4))
            .thread_name("redfloe")
            .enable_all()
            .build()
            .map_err(no_runtime)?;
        Ok(Process { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of two threads that make one at the same time one drops it, perhaps within a task of
        // another runtime, where a drop that waits for its threads would panic.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

static PROCESS: PerProcess<Process> = PerProcess::new();

/// This process's runtime.
fn process() -> Result<&'static Process> {
    PROCESS.get(Process::new)
}

pub(crate) fn no_runtime(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "no runtime: threads cannot be started, or files not opened")
        .with_source(error)
}

/// How often a blocking call asks whether it was interrupted.
pub(super) const CHECK: Duration = Duration::from_millis(50);

pub(crate) fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "a task panicked; please report this")
}

/// Runs a future on the process's runtime, on its own.
///
/// # Errors
///
/// [`Internal`](ErrorKind::Internal) where the process cannot start threads.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Result<AbortHandle> {
    Ok(process()?.handle.spawn(future).abort_handle())
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
    let task = process()?.handle.spawn(async move {
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
pub(super) fn forked() -> Error {
    let message = "this process was forked during a call, which goes on in its parent";
    Error::new(ErrorKind::Connection, message)
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

    #[tokio::test]
    async fn one_that_came_too_late_is_dropped_within_a_task() -> Result<()> {
        drop(Process::new()?);
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
}
