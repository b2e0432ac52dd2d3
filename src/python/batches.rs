//! Batches for Python's iterators, blocking and asynchronous.

use std::cell::RefCell;
use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::arrow::RecordBatch;
use super::completion::Task;
use super::connection::Server;
use super::ending::{CLOSED, STOPPED};
use super::error::exception;
use super::member::{Member, Stats};
use super::progress::Progress;
use super::reading::{Offer, Reading};
use super::request::Request;
use super::wait::wait_on;
use crate::client::LentRuntime;
use crate::error::Result;
use crate::read;

/// Batches for a thread that waits for them. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct BatchReader {
    reading: Arc<Reading>,
    /// What its connection belongs to. Last, so that others can use both afterwards.
    runtime: LentRuntime,
}

thread_local! {
    /// The readers that this thread waits for.
    static WAITING: RefCell<Vec<*const Reading>> = const { RefCell::new(Vec::new()) };
}

impl BatchReader {
    /// Waits, unless this thread does so already: in a signal's handler, which the outer wait runs,
    /// an inner one for the same reader would have no end.
    fn wait(
        &self,
        py: Python<'_>,
        while_waiting: Option<&Py<PyAny>>,
        future: impl Future<Output = Result<()>> + Send + 'static,
    ) -> PyResult<()> {
        let reader = Arc::as_ptr(&self.reading);
        if WAITING.with_borrow(|waiting| waiting.contains(&reader)) {
            return Err(PyRuntimeError::new_err(
                "this thread waits for this iterator already; a signal's handler may close or stop \
                 it, or use another one",
            ));
        }
        WAITING.with_borrow_mut(|waiting| waiting.push(reader));
        let waited = wait_on(py, &self.runtime, while_waiting, future);
        WAITING.with_borrow_mut(Vec::pop);
        waited
    }

    fn make_ready(&self, py: Python<'_>, while_waiting: Option<&Py<PyAny>>) -> PyResult<()> {
        let reading = Arc::clone(&self.reading);
        self.wait(py, while_waiting, async move { reading.make_ready().await })
    }
}

#[pymethods]
impl BatchReader {
    /// Of a stream's entries as they are now, or with `follow` also of those to come.
    #[new]
    fn new(py: Python<'_>, server: Server, request: Request<'_>, follow: bool) -> PyResult<Self> {
        let request = request.read_request(py)?;
        let (client, stream) = (server.client(py)?, request.stream_name());
        let batches = match follow {
            true => read::tail(&client.apart(), request),
            false => read::batches(&client, request),
        };
        let batches = batches.map_err(|error| exception(py, &error))?;
        let reading = Reading::new(stream, batches, client);
        Ok(BatchReader { reading, runtime: LentRuntime::new() })
    }

    /// Resolves `$` now rather than with the first batch.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let reading = Arc::clone(&self.reading);
        self.wait(py, None, async move { reading.start().await })
    }

    /// Ends the waits of other threads.
    fn close(&self) {
        self.reading.end(CLOSED);
    }

    /// Ends the reading before the next batch, with what is done acknowledged.
    fn stop(&self) {
        self.reading.end(STOPPED);
    }

    /// Acknowledges what is done with; with `success` also the batch in hand.
    fn finish(&self, py: Python<'_>, success: bool) -> PyResult<()> {
        let reading = Arc::clone(&self.reading);
        self.wait(py, None, async move { reading.finish(success).await })
    }

    #[getter]
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        stats(py, &self.reading)
    }

    /// What was done of each of several streams.
    fn stats_by_stream(&self, py: Python<'_>) -> PyResult<Vec<(String, Stats)>> {
        stats_by_stream(py, &self.reading)
    }

    /// For what this consumer of a group does beside reading.
    #[getter]
    fn member(&self) -> Option<Member> {
        Member::of(&self.reading)
    }

    /// For a checkpoint.
    fn progress(&self, automatic: bool) -> Progress {
        Progress::new(Arc::clone(&self.reading), automatic)
    }

    /// Waits for the next batch; `None` at the end. `while_waiting` is called about 20 times a
    /// second, and may raise.
    #[pyo3(signature = (while_waiting=None))]
    fn next_batch(
        &self,
        py: Python<'_>,
        while_waiting: Option<Py<PyAny>>,
    ) -> PyResult<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.reading.hand_out(py)? {
                return Ok(batch);
            }
            self.make_ready(py, while_waiting.as_ref())?;
        }
    }

    /// Waits for the next batch, and offers what `make` makes of it; `None` at the end.
    fn next_offer(&self, py: Python<'_>, make: &Bound<'_, PyAny>) -> PyResult<Option<Offer>> {
        loop {
            // Another thread may have been quicker.
            if let Some(offer) = self.reading.offer(py, make)? {
                return Ok(offer);
            }
            self.make_ready(py, None)?;
        }
    }
}

/// Batches for an event loop. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct AsyncBatchReader {
    reading: Arc<Reading>,
}

#[pymethods]
impl AsyncBatchReader {
    /// Of a stream's entries as they are now, or with `follow` also of those to come.
    #[new]
    fn new(py: Python<'_>, server: Server, request: Request<'_>, follow: bool) -> PyResult<Self> {
        let request = request.read_request(py)?;
        let (client, stream) = (server.client(py)?, request.stream_name());
        let batches = match follow {
            true => read::tail(&client, request),
            false => read::batches(&client, request),
        };
        let batches = batches.map_err(|error| exception(py, &error))?;
        Ok(AsyncBatchReader { reading: Reading::new(stream, batches, client) })
    }

    /// Makes a batch ready in the background. Where the task is cancelled, a connection that owes
    /// an answer is closed.
    fn request(&self, py: Python<'_>) -> PyResult<Task> {
        let reading = Arc::clone(&self.reading);
        Task::start(py, async move { reading.make_ready().await })
    }

    /// Resolves what the reading starts with in the background, rather than with the first batch.
    fn start(&self, py: Python<'_>) -> PyResult<Task> {
        let reading = Arc::clone(&self.reading);
        Task::start(py, async move { reading.start().await })
    }

    /// Ends the waits of other tasks.
    fn close(&self) {
        self.reading.end(CLOSED);
    }

    /// Ends the reading before the next batch, with what is done acknowledged.
    fn stop(&self) {
        self.reading.end(STOPPED);
    }

    /// Acknowledges what is done with, with `success` also the batch in hand, in the background.
    fn finish(&self, py: Python<'_>, success: bool) -> PyResult<Task> {
        let reading = Arc::clone(&self.reading);
        Ok(Task::start(py, async move { reading.finish(success).await })?.detached())
    }

    #[getter]
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        stats(py, &self.reading)
    }

    /// What was done of each of several streams.
    fn stats_by_stream(&self, py: Python<'_>) -> PyResult<Vec<(String, Stats)>> {
        stats_by_stream(py, &self.reading)
    }

    /// For what this consumer of a group does beside reading.
    #[getter]
    fn member(&self) -> Option<Member> {
        Member::of(&self.reading)
    }

    /// For a checkpoint.
    fn progress(&self, automatic: bool) -> Progress {
        Progress::new(Arc::clone(&self.reading), automatic)
    }

    /// Offers what `make` makes of the batch that is ready, in a tuple of one, which holds `None`
    /// at the end; `None` where nothing is ready yet.
    fn offer(&self, py: Python<'_>, make: &Bound<'_, PyAny>) -> PyResult<Option<(Option<Offer>,)>> {
        Ok(self.reading.offer(py, make)?.map(|offer| (offer,)))
    }
}

fn stats(py: Python<'_>, reading: &Reading) -> PyResult<Stats> {
    let _user = reading.enter().map_err(|error| exception(py, &error))?;
    Ok(Stats::of(&reading.watched))
}

fn stats_by_stream(py: Python<'_>, reading: &Reading) -> PyResult<Vec<(String, Stats)>> {
    let _user = reading.enter().map_err(|error| exception(py, &error))?;
    let by_stream = reading.watched.by_stream().into_iter();
    Ok(by_stream.map(|(stream, stats)| (stream, Stats::from(stats))).collect())
}
