//! Something that is done either now, while its thread waits, or in the background.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::completion::Task;
use super::error::exception;
use super::wait::wait;
use crate::error::Result;

/// What it came to, made into Python's terms by the thread that asks for it.
type Outcome = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

type Running = Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// Something that is to be done, once. Documented in `_core.pyi`.
#[pyclass(frozen, generic, module = "redfloe._core")]
pub(crate) struct Operation {
    future: Mutex<Option<Running>>,
}

impl Operation {
    /// Of whose output `convert` makes a Python object, or an exception.
    pub(super) fn new<T: Send + 'static>(
        future: impl Future<Output = Result<T>> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Self {
        let future = async move {
            let output = future.await?;
            Ok(Box::new(move |py: Python<'_>| convert(py, output)) as Outcome)
        };
        Operation { future: Mutex::new(Some(Box::pin(future))) }
    }

    fn take(&self) -> PyResult<Running> {
        // Where another thread holds the lock, or held it when the process was forked, it starts it.
        let future = self.future.try_lock().ok().and_then(|mut future| future.take());
        future.ok_or_else(|| PyRuntimeError::new_err("the operation was started before"))
    }
}

#[pymethods]
impl Operation {
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        wait(py, self.take()?)?(py)
    }

    fn start(&self, py: Python<'_>) -> PyResult<Task> {
        let task = Task::start_with(py, self.take()?, |py, outcome| match outcome {
            Ok(outcome) => outcome(py),
            Err(error) => Err(exception(py, &error)),
        });
        Ok(task?.detached())
    }
}
