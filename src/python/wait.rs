//! Blocking calls: the GIL is released, and Ctrl-C is answered.

use std::future::Future;
use std::sync::Arc;

use pyo3::prelude::*;

use super::error::exception;
use super::events;
use crate::client::{LentRuntime, OwnRuntime, no_runtime};
use crate::error::{Error, Result};

/// What ends a blocking call early.
enum Failure {
    Crate(Error),
    /// A signal's handler raised, as the one of Ctrl-C does.
    Signal(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Crate(error)
    }
}

impl Failure {
    fn into_exception(self, py: Python<'_>) -> PyErr {
        match self {
            Failure::Crate(error) => exception(py, &error),
            Failure::Signal(raised) => raised,
        }
    }
}

/// Lets signals' handlers run, logs, and calls the caller's own function, any of which may raise. On
/// the thread of the call, outside of any runtime, because this is Python code like any other.
fn check_interrupts(while_waiting: Option<&Py<PyAny>>) -> Result<(), Failure> {
    let checked = Python::try_attach(|py| {
        py.check_signals()?;
        events::log(py)?;
        while_waiting.map_or(Ok(()), |call| call.call0(py).map(drop))
    });
    match checked {
        Some(checked) => checked.map_err(Failure::Signal),
        // The interpreter is going down, and this daemon thread must never touch it again.
        None => loop {
            std::thread::park();
        },
    }
}

/// Runs a future on this thread and waits for it.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    future: impl Future<Output = Result<T>> + Send,
) -> PyResult<T> {
    wait_on(py, &LentRuntime::new(), None, future)
}

/// As [`wait`], on this runtime; calls `while_waiting` about 20 times a second.
pub(crate) fn wait_on<T: Send>(
    py: Python<'_>,
    runtime: &OwnRuntime,
    while_waiting: Option<&Py<PyAny>>,
    future: impl Future<Output = Result<T>> + Send,
) -> PyResult<T> {
    let waited = py.detach(|| runtime.block_on(future, || check_interrupts(while_waiting)));
    events::log(py)?;
    waited.map_err(|failure| failure.into_exception(py))
}

/// Why a future was left that ran on this thread.
enum Left {
    /// It takes long.
    Slow,
    Failed(Error),
}

impl From<Error> for Left {
    fn from(error: Error) -> Self {
        Left::Failed(error)
    }
}

/// Runs a future on this thread, as long as there is no need to look for signals: what takes longer
/// goes on in a thread of its own, with the runtime. Whoever wants to know its end waits for that in
/// another way, which signals may end. So it is run to its end whatever they do.
pub(crate) fn begin_on(
    py: Python<'_>,
    runtime: &Arc<LentRuntime>,
    future: impl Future<Output = ()> + Send + 'static,
) -> PyResult<()> {
    let mut future = Box::pin(async move {
        future.await;
        Ok(())
    });
    let begun = py.detach(|| match runtime.block_on(&mut future, || Err(Left::Slow)) {
        Ok(()) => Ok(()),
        Err(Left::Failed(error)) => Err(error),
        Err(Left::Slow) => {
            let runtime = Arc::clone(runtime);
            let go_on = move || runtime.block_on(future, || Ok::<(), Error>(()));
            let thread = std::thread::Builder::new().name("redfloe".to_owned());
            thread.spawn(go_on).map(drop).map_err(no_runtime)
        }
    });
    events::log(py)?;
    begun.map_err(|error| exception(py, &error))
}

/// What was raised, or else what a signal raises that came after the wait's last look for them:
/// Python would raise it in place of the result.
pub(super) fn or_late_signal(py: Python<'_>, raised: Option<PyErr>) -> Option<PyErr> {
    raised.or_else(|| py.check_signals().err())
}

/// Runs a future that `stop` brings to an early and orderly end, and waits for that end: what a
/// signal's handler or `while_waiting` raised stops it and comes beside the result. A second signal
/// ends the wait at once.
pub(crate) fn wait_stopping<T: Send>(
    py: Python<'_>,
    while_waiting: Option<&Py<PyAny>>,
    stop: impl Fn() + Send + Sync,
    future: impl Future<Output = T> + Send,
) -> PyResult<(T, Option<PyErr>)> {
    let mut raised = None;
    let waited = py.detach(|| {
        LentRuntime::new().block_on(async { Ok(future.await) }, || {
            if raised.is_some() {
                return check_interrupts(None);
            }
            match check_interrupts(while_waiting) {
                Err(Failure::Signal(error)) => {
                    stop();
                    raised = Some(error);
                    Ok(())
                }
                checked => checked,
            }
        })
    });
    // What becomes of the rows is known, and must be told whatever is raised.
    let raised = raised.or(events::log(py).err());
    match waited {
        Ok(output) => Ok((output, raised)),
        Err(failure) => Err(failure.into_exception(py)),
    }
}
