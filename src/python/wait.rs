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

fn check_signals() -> Result<(), Failure> {
    match Python::try_attach(|py| py.check_signals()) {
        Some(checked) => checked.map_err(Failure::Signal),
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
    py.detach(|| block_on(future, check_signals)).map_err(|failure| failure.into_exception(py))
}

/// Runs a future on this thread and waits for it.
pub(crate) fn wait_here<T: Send>(
    py: Python<'_>,
    runtime: &OwnRuntime,
    future: impl Future<Output = Result<T>> + Send,
) -> PyResult<T> {
    py.detach(|| runtime.block_on(future, check_signals))
        .map_err(|failure| failure.into_exception(py))
}
