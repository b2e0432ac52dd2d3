//! Batches for Python's iterators, blocking and asynchronous.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::arrow::RecordBatch;
use super::connection::Server;
use super::error::exception;
use super::read::Request;
use super::wait::wait;
use crate::client::spawn;
use crate::decode::Batch;
use crate::error::Result;
use crate::read::{self, Batches};

/// Reads batches ahead of whoever takes them. Documented in `_core.pyi`.
///
/// A batch is first made ready and then taken, so that one which came just when its reader was
/// interrupted or cancelled is there for the next call.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct BatchReader {
    shared: Arc<Shared>,
}

struct Shared {
    batches: tokio::sync::Mutex<Batches>,
    ready: Mutex<Option<Result<Option<Batch>>>>,
}

impl Shared {
    fn ready(&self) -> MutexGuard<'_, Option<Result<Option<Batch>>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once a batch, the end or an error is ready to be taken.
    async fn make_ready(&self) {
        let mut batches = self.batches.lock().await;
        if self.ready().is_none() {
            let next = batches.next().await;
            *self.ready() = Some(next);
        }
    }
}

#[pymethods]
impl BatchReader {
    /// Of a stream's entries as they are now, or with `follow` also of those to come.
    #[new]
    fn new(py: Python<'_>, server: Server, request: Request<'_>, follow: bool) -> PyResult<Self> {
        let request = request.read_request(py)?;
        let client = server.client(py)?;
        let batches = match follow {
            true => read::tail(&client, request),
            false => read::batches(&client, request),
        };
        let batches = batches.map_err(|error| exception(py, &error))?;
        let shared = Shared { batches: tokio::sync::Mutex::new(batches), ready: Mutex::new(None) };
        Ok(BatchReader { shared: Arc::new(shared) })
    }

    /// Resolves `$` now rather than with the first batch.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let shared = Arc::clone(&self.shared);
        wait(py, async move { shared.batches.lock().await.start().await })
    }

    /// Waits for the next batch; `None` at the end.
    fn next_batch(&self, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        loop {
            let shared = Arc::clone(&self.shared);
            wait(py, async move {
                shared.make_ready().await;
                Ok(())
            })?;
            // Another thread may have been quicker.
            if let Some(taken) = self.take(py)? {
                return Ok(taken.0);
            }
        }
    }

    /// The batch that is ready, in a tuple of one, which holds `None` at the end; `None` where
    /// nothing is ready yet.
    fn take(&self, py: Python<'_>) -> PyResult<Option<(Option<RecordBatch>,)>> {
        match self.shared.ready().take() {
            None => Ok(None),
            Some(Ok(batch)) => Ok(Some((batch.map(RecordBatch::new),))),
            Some(Err(error)) => Err(exception(py, &error)),
        }
    }

    /// Makes a batch ready in the background and then calls `notify`, from a thread of its own.
    fn request(&self, py: Python<'_>, notify: Py<PyAny>) -> PyResult<Pending> {
        let shared = Arc::clone(&self.shared);
        let task = spawn(async move {
            shared.make_ready().await;
            // Not on this thread, which must not wait for the GIL while others' replies come in.
            tokio::task::spawn_blocking(move || {
                // It fails where the event loop is closed: then nobody waits any more.
                let _ = Python::try_attach(|py| notify.call0(py).map(drop));
            });
        });
        Ok(Pending { task: task.map_err(|error| exception(py, &error))? })
    }
}

/// A batch that is being made ready. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Pending {
    task: tokio::task::AbortHandle,
}

#[pymethods]
impl Pending {
    /// Gives up where it is not ready yet; a connection that owes an answer is closed.
    fn cancel(&self) {
        self.task.abort();
    }
}
