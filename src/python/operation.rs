//! Something that is done either now, while its thread waits, or in the background.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::completion::Task;
use super::error::exception;
use super::wait::{wait, wait_on};
use crate::client::LentRuntime;
use crate::error::Result;

/// What it came to, made into Python's terms by the thread that asks for it.
pub(super) type Outcome = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

type Note = Box<dyn Fn() -> Option<String> + Send + Sync>;

pub(super) type Running = Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// Something that is to be done, once. Documented in `_core.pyi`.
#[pyclass(frozen, generic, module = "redfloe._core")]
pub(crate) struct Operation {
    future: Mutex<Option<Running>>,
    /// It goes on where nobody waits for it any more.
    goes_on: bool,
    /// What an exception is told that ends the wait, such as that of Ctrl-C.
    note: Option<Note>,
    /// What it is waited for on, where that is not any.
    runtime: Option<Arc<LentRuntime>>,
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
        let future = Mutex::new(Some(Box::pin(future) as Running));
        Operation { future, goes_on: true, note: None, runtime: None }
    }

    /// It is given up with its wait: it might go on for ever.
    pub(super) fn only_while_waited_for(self) -> Self {
        Operation { goes_on: false, ..self }
    }

    /// Whoever waits for it does so on that runtime, which its connections belong to.
    pub(super) fn on(self, runtime: &Arc<LentRuntime>) -> Self {
        Operation { runtime: Some(Arc::clone(runtime)), ..self }
    }

    /// What ends the wait for it is told this, where there is something to tell.
    pub(super) fn with_note(
        self,
        note: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Operation { note: Some(Box::new(note)), ..self }
    }

    pub(super) fn take(&self) -> PyResult<Running> {
        // Where another thread holds the lock, or held it when the process was forked, it starts it.
        let future = self.future.try_lock().ok().and_then(|mut future| future.take());
        future.ok_or_else(|| PyRuntimeError::new_err("the operation was started before"))
    }
}

#[pymethods]
impl Operation {
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let waited = match &self.runtime {
            Some(runtime) => wait_on(py, runtime, None, self.take()?),
            None => wait(py, self.take()?),
        };
        if let (Err(error), Some(note)) = (&waited, self.note.as_ref().and_then(|note| note())) {
            // The exception itself is what matters.
            let _ = error.value(py).call_method1("add_note", (note,));
        }
        waited?(py)
    }

    fn start(&self, py: Python<'_>) -> PyResult<Task> {
        let task = Task::start_with(py, self.take()?, |py, outcome| match outcome {
            Ok(outcome) => outcome(py),
            Err(error) => Err(exception(py, &error)),
        });
        Ok(if self.goes_on { task?.detached() } else { task? })
    }
}
