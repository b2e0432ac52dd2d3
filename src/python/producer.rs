//! `StreamProducer`'s core: entries in, one by one, for threads and for event loops.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::arrow::import_batches;
use super::completion::Task;
use super::connection::Server;
use super::error::{exception, no_panic};
use super::events;
use super::wait::{begin_on, or_late_signal, wait, wait_stopping};
use super::write::{Outcome, WriteArguments};
use crate::client::{LentRuntime, spawn};
use crate::write::{self, ProducerOptions};

/// Takes entries and writes them in the background. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Producer {
    producer: write::Producer,
    /// What callers write themselves is written on this runtime, and so over one connection.
    runtime: OnceLock<Arc<LentRuntime>>,
    /// The process whose runtime writes; a forked child has no such worker.
    process: u32,
}

impl Producer {
    fn get(&self) -> PyResult<&write::Producer> {
        match self.process == std::process::id() {
            true => Ok(&self.producer),
            false => Err(PyRuntimeError::new_err(
                "the producer belongs to the process that this one was forked from; make another",
            )),
        }
    }
}

impl Drop for Producer {
    /// Nobody can close it any more. In a forked child the lock may be held by a thread that is
    /// not there.
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.producer.end();
        }
    }
}

#[pymethods]
impl Producer {
    #[new]
    fn new(
        py: Python<'_>,
        server: Server,
        request: WriteArguments,
        linger_ms: u64,
        batch_size: usize,
        buffer_bytes: usize,
        max_age_ms: Option<(u64, bool)>,
    ) -> PyResult<Self> {
        let request = request.write_request().map_err(|error| exception(py, &error))?;
        let options = ProducerOptions {
            linger: Duration::from_millis(linger_ms),
            batch_rows: batch_size,
            buffer_bytes,
            max_age: max_age_ms.map(|(age, _)| Duration::from_millis(age)),
            is_max_age_exact: max_age_ms.is_some_and(|(_, exact)| exact),
        };
        let producer = write::Producer::new(server.client(py)?, request, options);
        spawn(producer.worker()).map_err(|error| exception(py, &error))?;
        Ok(Producer { producer, runtime: OnceLock::new(), process: std::process::id() })
    }

    #[getter]
    fn rows_written(&self) -> PyResult<usize> {
        Ok(self.get()?.rows_written())
    }

    /// Takes an entry, for this stream or the producer's; `None` where there was no room.
    fn send(
        &self,
        py: Python<'_>,
        stream: Option<Vec<u8>>,
        fields: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> PyResult<Option<Sent>> {
        let fields = fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let producer = self.get()?;
        no_panic(py, || {
            let sent = producer.send_to(stream.as_deref(), fields);
            let sent = sent.map_err(|error| exception(py, &error))?;
            Ok(sent.map(|sent| Sent { sent, process: self.process }))
        })
    }

    /// Takes an entry, and waits until it is known what became of it: its ID in a tuple of one once it
    /// is in; `None` where there was no room, and where the producer has failed. Giving up the wait
    /// stops nothing.
    fn write(
        &self,
        py: Python<'_>,
        stream: Option<Vec<u8>>,
        fields: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> PyResult<Option<(Option<String>,)>> {
        let fields = fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let producer = self.get()?;
        if producer.failed().is_some() {
            return Ok(None);
        }
        let taken = no_panic(py, || {
            let taken = producer.send_in_turn(stream.as_deref(), fields);
            taken.map_err(|error| exception(py, &error))
        })?;
        let Some((sent, turn)) = taken else { return Ok(None) };
        if let Some(turn) = turn {
            let runtime = self.runtime.get_or_init(|| Arc::new(LentRuntime::new()));
            begin_on(py, runtime, turn.write())?;
        }
        let sent = Sent { sent, process: self.process };
        sent.wait(py, None)?;
        sent.id()
    }

    /// Takes a frame's rows, for this stream or the producer's; says whether there was room.
    fn send_frame(
        &self,
        py: Python<'_>,
        stream: Option<Vec<u8>>,
        frame: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let batches = import_batches(frame)?;
        let producer = self.get()?;
        no_panic(py, || {
            let sent = producer.send_batches(stream.as_deref(), batches);
            sent.map_err(|error| exception(py, &error))
        })
    }

    /// What ended the producer, with the number of the last pipeline's first row and of the rows
    /// before it that are in; `None` while it works.
    fn failure(&self, py: Python<'_>) -> PyResult<Option<(Outcome, usize, usize)>> {
        // A producer that is never waited for logs here.
        events::log(py)?;
        Ok(self.get()?.failed().map(|failed| {
            let outcome = Outcome::of_failure(&failed.failure);
            (outcome, failed.first_row, failed.rows_before)
        }))
    }

    /// Waits for "room", or for all that was sent ("flush"). Giving up the wait stops nothing.
    fn wait(&self, py: Python<'_>, what: &str) -> PyResult<()> {
        let waiting = waiting(self.get()?.clone(), what);
        wait(py, async move {
            waiting.await;
            Ok(())
        })
    }

    /// Waits for that in the background.
    fn start_wait(&self, py: Python<'_>, what: &str) -> PyResult<Task> {
        let waiting = waiting(self.get()?.clone(), what);
        Task::start(py, async move {
            waiting.await;
            Ok(())
        })
    }

    /// Takes no more; what was sent is written in the background.
    fn end(&self) -> PyResult<()> {
        self.get()?.end();
        Ok(())
    }

    /// Takes no more and sends no more; closing then takes a second at most.
    fn stop(&self) -> PyResult<()> {
        self.get()?.stop();
        Ok(())
    }

    /// Writes what is left, and stops after `limit_ms`: says whether it did. Stopped by a signal whose
    /// handler raises too, and gives what it raised.
    fn close(&self, py: Python<'_>, limit_ms: Option<u64>) -> PyResult<(bool, Option<PyErr>)> {
        let producer = self.get()?;
        let closing = closing(producer.clone(), limit_ms);
        let (is_over, raised) = wait_stopping(py, None, || producer.stop(), closing)?;
        Ok((is_over, or_late_signal(py, raised)))
    }

    /// Does that in the background; it can be stopped.
    fn start_close(&self, py: Python<'_>, limit_ms: Option<u64>) -> PyResult<Task> {
        let producer = self.get()?.clone();
        let closing = closing(producer.clone(), limit_ms);
        let task = Task::start(py, async move { Ok(closing.await) });
        Ok(task?.with_stop(move || producer.stop()))
    }
}

/// An entry that a producer was given. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Sent {
    sent: write::Sent,
    process: u32,
}

impl Sent {
    fn get(&self) -> PyResult<&write::Sent> {
        match self.process == std::process::id() {
            true => Ok(&self.sent),
            false => Err(PyRuntimeError::new_err(
                "the entry was sent by the process that this one was forked from",
            )),
        }
    }
}

#[pymethods]
impl Sent {
    fn is_settled(&self) -> PyResult<bool> {
        Ok(self.get()?.is_settled())
    }

    /// The ID in a tuple of one, once the entry is in; `None` where it is not known to be.
    fn id(&self) -> PyResult<Option<(Option<String>,)>> {
        Ok(self.get()?.id().map(|id| (id.map(str::to_owned),)))
    }

    /// Waits until it is known what became of the entry, or that long; says whether it is.
    fn wait(&self, py: Python<'_>, limit_ms: Option<u64>) -> PyResult<bool> {
        let sent = self.get()?.clone();
        if sent.is_settled() {
            return Ok(true);
        }
        let limit = limit_ms.map(Duration::from_millis);
        wait(py, async move {
            Ok(match limit {
                Some(limit) => tokio::time::timeout(limit, sent.settled()).await.is_ok(),
                None => {
                    sent.settled().await;
                    true
                }
            })
        })
    }

    /// Waits for that in the background.
    fn start_wait(&self, py: Python<'_>) -> PyResult<Task> {
        let sent = self.get()?.clone();
        Task::start(py, async move {
            sent.settled().await;
            Ok(())
        })
    }
}

fn waiting(producer: write::Producer, what: &str) -> impl Future<Output = ()> + Send + 'static {
    let for_room = what == "room";
    async move {
        match for_room {
            true => producer.room().await,
            false => producer.flush().await,
        }
    }
}

/// Closes; says whether the time was over before all was settled.
async fn closing(producer: write::Producer, limit_ms: Option<u64>) -> bool {
    match limit_ms {
        Some(limit) => producer.close_within(Duration::from_millis(limit)).await,
        None => {
            producer.close().await;
            false
        }
    }
}
