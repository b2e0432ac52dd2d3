//! Batches for Python's iterators, blocking and asynchronous.
//!
//! A batch is first made ready and then taken, so that one which came just when its reader was
//! interrupted or cancelled is there for the next call.

use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use pyo3::prelude::*;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::arrow::RecordBatch;
use super::completion::Task;
use super::connection::Server;
use super::error::exception;
use super::member::{Member, Stats};
use super::read::Request;
use super::wait::{wait_here, wait_looking};
use crate::client::{Client, OwnRuntime};
use crate::decode::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::read::{self, Batches, Watched};

struct Shared {
    batches: tokio::sync::Mutex<Batches>,
    ready: Mutex<Option<Result<Option<Batch>>>>,
    ending: AtomicU8,
    ends: Notify,
    watched: Arc<Watched>,
    member: Option<read::Member>,
    /// How long a clean end may take, and since when it has been tried.
    patience: Duration,
    end_by: OnceLock<Instant>,
}

/// How the reading is to end: not at all, before the next batch, or at once.
const GOES_ON: u8 = 0;
const STOPPED: u8 = 1;
const CLOSED: u8 = 2;

/// What [`Shared::take`] found: nothing that is ready, or the end, or a batch.
type Taken = Option<Option<RecordBatch>>;

impl Shared {
    /// `client` is for what is done beside reading.
    fn new(batches: Batches, client: Client) -> Arc<Self> {
        Arc::new(Shared {
            watched: batches.watched(),
            patience: client.options().response_timeout,
            end_by: OnceLock::new(),
            member: batches.member().map(|member| member.with_client(client)),
            batches: tokio::sync::Mutex::new(batches),
            ready: Mutex::new(None),
            ending: AtomicU8::new(GOES_ON),
            ends: Notify::new(),
        })
    }

    /// Ends all waits, now and from now on.
    fn end(&self, how: u8) {
        self.ending.fetch_max(how, Ordering::AcqRel);
        self.ends.notify_waiters();
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) != GOES_ON
    }

    fn ready(&self) -> MutexGuard<'_, Option<Result<Option<Batch>>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once a batch, the end or an error is ready to be taken.
    async fn make_ready(&self) {
        if !self.is_ending() && self.read_until_ending().await {
            return;
        }
        if self.ending.load(Ordering::Acquire) == CLOSED {
            *self.ready() = Some(Ok(None));
        } else if self.ready().is_none() {
            // What had not come stays pending; what was handed out has been asked to be done with.
            let finished = self.finish_in_time(&mut *self.batches.lock().await, true).await;
            *self.ready() = Some(finished.map(|()| None));
        }
    }

    /// Waits for the next batch; says whether there is one, and not an end that came before.
    async fn read_until_ending(&self) -> bool {
        let ends = pin!(self.ends.notified());
        let reading = pin!(async {
            let mut batches = self.batches.lock().await;
            if self.ready().is_none() {
                let next = batches.next().await;
                *self.ready() = Some(next);
            }
        });
        // Who ended it before `ends` was made has said so before.
        !self.is_ending() && matches!(select(ends, reading).await, Either::Right(_))
    }

    /// Acknowledges what is done with; with `success` also the batch in hand.
    async fn finish(&self, success: bool) -> Result<()> {
        if !success && self.end_by.get().is_some() {
            return Ok(()); // it has been tried, and failed or was interrupted
        }
        let mut batches = self.batches.lock().await;
        // A batch that is ready was never in anybody's hand.
        let in_hand = self.ready().is_none();
        self.finish_in_time(&mut batches, success && in_hand).await
    }

    /// Finishes within one `response_timeout` in all: a server that is silent when the loop ends
    /// is silent too when the `with` around it does.
    async fn finish_in_time(&self, batches: &mut Batches, success: bool) -> Result<()> {
        let end_by = *self.end_by.get_or_init(|| Instant::now() + self.patience);
        let left = end_by.saturating_duration_since(Instant::now());
        timeout(left, batches.finish(success)).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the end took longer than response_timeout ({:?}); what could not be \
                     acknowledged is pending, and comes first when this consumer starts again",
                    self.patience
                ),
            ))
        })
    }

    fn take(&self, py: Python<'_>) -> PyResult<Taken> {
        match self.ready().take() {
            None => Ok(None),
            Some(Ok(batch)) => Ok(Some(batch.map(RecordBatch::new))),
            Some(Err(error)) => Err(exception(py, &error)),
        }
    }
}

/// Batches for a thread that waits for them. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct BatchReader {
    shared: Arc<Shared>,
    /// Where the connection is this reader's alone, as that of one which follows a stream.
    runtime: Option<OwnRuntime>,
}

impl BatchReader {
    fn wait(
        &self,
        py: Python<'_>,
        look: Option<Py<PyAny>>,
        future: impl Future<Output = Result<()>> + Send + 'static,
    ) -> PyResult<()> {
        match &self.runtime {
            Some(runtime) => wait_here(py, runtime, future),
            None => wait_looking(py, look, future),
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
        let (batches, runtime) = match follow {
            true => (read::tail(&client.apart(), request), Some(OwnRuntime::new())),
            false => (read::batches(&client, request), None),
        };
        let batches = batches.map_err(|error| exception(py, &error))?;
        Ok(BatchReader { shared: Shared::new(batches, client), runtime })
    }

    /// Resolves `$` now rather than with the first batch.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let shared = Arc::clone(&self.shared);
        self.wait(py, None, async move { shared.batches.lock().await.start().await })
    }

    /// Ends the waits of other threads.
    fn close(&self) {
        self.shared.end(CLOSED);
    }

    /// Ends the reading before the next batch, with what is done acknowledged.
    fn stop(&self) {
        self.shared.end(STOPPED);
    }

    /// Acknowledges what is done with; with `success` also the batch in hand.
    fn finish(&self, py: Python<'_>, success: bool) -> PyResult<()> {
        let shared = Arc::clone(&self.shared);
        self.wait(py, None, async move { shared.finish(success).await })
    }

    #[getter]
    fn stats(&self) -> Stats {
        Stats::of(&self.shared.watched)
    }

    /// For what this consumer of a group does beside reading.
    #[getter]
    fn member(&self) -> Option<Member> {
        self.shared.member.clone().map(Member::new)
    }

    /// Waits for the next batch; `None` at the end. Where it takes long, `look` is called every now
    /// and then, and may raise.
    #[pyo3(signature = (look=None))]
    fn next_batch(&self, py: Python<'_>, look: Option<Py<PyAny>>) -> PyResult<Option<RecordBatch>> {
        loop {
            let shared = Arc::clone(&self.shared);
            let look = look.as_ref().map(|look| look.clone_ref(py));
            self.wait(py, look, async move {
                shared.make_ready().await;
                Ok(())
            })?;
            // Another thread may have been quicker.
            if let Some(batch) = self.shared.take(py)? {
                return Ok(batch);
            }
        }
    }
}

/// Batches for an event loop. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct AsyncBatchReader {
    shared: Arc<Shared>,
}

#[pymethods]
impl AsyncBatchReader {
    #[new]
    fn new(py: Python<'_>, server: Server, request: Request<'_>) -> PyResult<Self> {
        let request = request.read_request(py)?;
        let client = server.client(py)?;
        let batches = read::tail(&client, request).map_err(|error| exception(py, &error))?;
        Ok(AsyncBatchReader { shared: Shared::new(batches, client) })
    }

    /// Makes a batch ready in the background. Where the task is cancelled, a connection that owes
    /// an answer is closed.
    fn request(&self, py: Python<'_>) -> PyResult<Task> {
        let shared = Arc::clone(&self.shared);
        Task::start(py, async move {
            shared.make_ready().await;
            Ok(())
        })
    }

    /// Ends the waits of other tasks.
    fn close(&self) {
        self.shared.end(CLOSED);
    }

    /// Ends the reading before the next batch, with what is done acknowledged.
    fn stop(&self) {
        self.shared.end(STOPPED);
    }

    /// Acknowledges what is done with, with `success` also the batch in hand, in the background.
    fn finish(&self, py: Python<'_>, success: bool) -> PyResult<Task> {
        let shared = Arc::clone(&self.shared);
        Ok(Task::start(py, async move { shared.finish(success).await })?.detached())
    }

    #[getter]
    fn stats(&self) -> Stats {
        Stats::of(&self.shared.watched)
    }

    /// For what this consumer of a group does beside reading.
    #[getter]
    fn member(&self) -> Option<Member> {
        self.shared.member.clone().map(Member::new)
    }

    /// The batch that is ready, in a tuple of one, which holds `None` at the end; `None` where
    /// nothing is ready yet.
    fn take(&self, py: Python<'_>) -> PyResult<Option<(Option<RecordBatch>,)>> {
        Ok(self.shared.take(py)?.map(|batch| (batch,)))
    }
}
