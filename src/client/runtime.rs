//! The process's one tokio runtime and its clients, made on first use and again after a fork.

use std::collections::HashMap;
use std::future::Future;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
#[cfg(feature = "python")]
use tokio::task::AbortHandle;

use super::Client;
use super::options::ConnectionOptions;
use crate::error::{Error, ErrorKind, Result};

/// What belongs to one process. It lives as long as the process does.
struct Process {
    id: u32,
    runtime: Runtime,
    clients: Mutex<HashMap<ConnectionOptions, Client>>,
}

static CURRENT: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());

/// This process's runtime and clients.
///
/// No lock is involved, because a fork may copy one that a thread of the parent holds, and that
/// thread is not there to release it. The child leaves the parent's threads and sockets alone.
fn process() -> Result<&'static Process> {
    let id = std::process::id();
    let seen = CURRENT.load(Ordering::Acquire);
    // SAFETY: the pointer is null or comes from `Box::leak` below, so it is valid for ever.
    if let Some(current) = unsafe { seen.as_ref() }
        && current.id == id
    {
        return Ok(current);
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)))
        .thread_name("redfloe")
        .enable_all()
        .build()
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "no runtime: threads cannot be started")
                .with_source(error)
        })?;
    let made = Box::into_raw(Box::new(Process { id, runtime, clients: Mutex::default() }));
    match CURRENT.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: `made` was a box a moment ago and is never freed from here on.
        Ok(_) => Ok(unsafe { &*made }),
        Err(_) => {
            // SAFETY: `made` was never shared; another thread was first.
            drop(unsafe { Box::from_raw(made) });
            process()
        }
    }
}

/// The client that all users of equal options in this process share.
///
/// # Errors
///
/// [`Internal`](ErrorKind::Internal) where the process cannot start threads.
pub fn shared_client(options: &ConnectionOptions) -> Result<Client> {
    let mut clients = process()?.clients.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(clients.entry(options.clone()).or_insert_with(|| Client::new(options.clone())).clone())
}

/// Runs a future on the process's runtime, on its own.
///
/// # Errors
///
/// [`Internal`](ErrorKind::Internal) where the process cannot start threads.
#[cfg(feature = "python")]
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
    const CHECK: Duration = Duration::from_millis(50);
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
                return Err(
                    Error::new(ErrorKind::Internal, "a task panicked; please report this").into()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_options_share_a_client() -> Result<()> {
        let options = ConnectionOptions::parse("redis://h")?;
        let (one, two) = (shared_client(&options)?, shared_client(&options)?);
        assert!(std::sync::Arc::ptr_eq(&one.shared, &two.shared));
        Ok(())
    }

    #[test]
    fn many_threads_make_one_runtime() -> Result<()> {
        let ids: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| process().map_or(0, |process| ptr::from_ref(process) as usize))
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
}
