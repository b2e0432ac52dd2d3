//! Blocking calls: the GIL is released, and Ctrl-C is answered.

use std::future::Future;

use pyo3::prelude::*;

use super::error::exception;
use crate::client::{OwnRuntime, block_on};
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

/// What a blocking call does every now and then: it lets signals' handlers run, and calls what its
/// caller gave it, either of which may raise.
fn look(given: Option<&Py<PyAny>>) -> Result<(), Failure> {
    let looked = Python::try_attach(|py| {
        py.check_signals()?;
        given.map_or(Ok(()), |look| look.call0(py).map(drop))
    });
    match looked {
        Some(looked) => looked.map_err(Failure::Signal),
        // The interpreter is going down, and this daemon thread must never touch it again.
        None => loop {
            std::thread::park();
        },
    }
}

/// Runs a future on the process's runtime and waits for it.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> PyResult<T> {
    wait_looking(py, None, future)
}

/// As [`wait`], and calls `given` every now and then.
pub(crate) fn wait_looking<T: Send + 'static>(
    py: Python<'_>,
    given: Option<Py<PyAny>>,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> PyResult<T> {
    py.detach(|| block_on(future, || look(given.as_ref())))
        .map_err(|failure| failure.into_exception(py))
}

/// Runs a future on this thread and waits for it.
pub(crate) fn wait_here<T: Send>(
    py: Python<'_>,
    runtime: &OwnRuntime,
    future: impl Future<Output = Result<T>> + Send,
) -> PyResult<T> {
    py.detach(|| runtime.block_on(future, || look(None)))
        .map_err(|failure| failure.into_exception(py))
}

/// Runs a future that `stop` brings to an early and orderly end, and waits for that end: what a
/// signal's handler or `given` raised stops it and comes beside the result. A second signal ends the
/// wait at once.
pub(crate) fn wait_stopping<T: Send + 'static>(
    py: Python<'_>,
    given: Option<Py<PyAny>>,
    stop: impl Fn() + Send + Sync,
    future: impl Future<Output = T> + Send + 'static,
) -> PyResult<(T, Option<PyErr>)> {
    let mut raised = None;
    let waited = py.detach(|| {
        block_on(async { Ok(future.await) }, || {
            if raised.is_some() {
                return look(None);
            }
            match look(given.as_ref()) {
                Err(Failure::Signal(error)) => {
                    stop();
                    raised = Some(error);
                    Ok(())
                }
                looked => looked,
            }
        })
    });
    match waited {
        Ok(output) => Ok((output, raised)),
        Err(failure) => Err(failure.into_exception(py)),
    }
}
