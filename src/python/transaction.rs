//! A batch of a processor, and what is written with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_schema::Schema;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::arrow::{RecordBatch, batches_of};
use super::error::{exception, no_panic};
use super::member::parsed;
use super::write::WriteArguments;
use crate::decode::joined;
use crate::process::{self, Turn};

/// A field of a hash, and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// A batch of a processor, and what its commit is to write. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Transaction {
    /// Until it is committed.
    transaction: Mutex<Option<process::Transaction>>,
    range: (String, String),
    epoch: u64,
    turn: Option<Turn>,
}

impl Transaction {
    pub(super) fn new(transaction: process::Transaction) -> Self {
        let (after, last) = transaction.range();
        Transaction {
            range: (after.to_string(), last.to_string()),
            epoch: transaction.epoch(),
            turn: transaction.turn(),
            transaction: Mutex::new(Some(transaction)),
        }
    }

    pub(super) fn take(&self) -> PyResult<process::Transaction> {
        lock(&self.transaction).take().ok_or_else(has_ended)
    }

    pub(super) fn with<T>(
        &self,
        act: impl FnOnce(&mut process::Transaction) -> PyResult<T>,
    ) -> PyResult<T> {
        act(lock(&self.transaction).as_mut().ok_or_else(has_ended)?)
    }
}

fn has_ended() -> PyErr {
    PyRuntimeError::new_err("this transaction has ended")
}

#[pymethods]
impl Transaction {
    fn rows(&self) -> PyResult<RecordBatch> {
        self.with(|transaction| Ok(RecordBatch::new(transaction.batch().clone())))
    }

    /// All rows that were read with these, and where these begin among them, if there are more.
    fn page(&self) -> PyResult<Option<(RecordBatch, usize)>> {
        self.with(|transaction| {
            let page = transaction.page();
            Ok(page.map(|(page, start)| (RecordBatch::new(Arc::clone(page)), start)))
        })
    }

    /// The position before it, and the one after it.
    #[getter]
    fn range(&self) -> (&str, &str) {
        (&self.range.0, &self.range.1)
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Without entries, on a quiet stream: the server's time and for how long no entry has come, in
    /// milliseconds, and whether the loop ends after it.
    #[getter]
    fn turn(&self) -> Option<(i64, i64, bool)> {
        self.turn.map(|turn| (turn.now_ms, turn.quiet_ms, turn.is_last))
    }

    /// Adds a frame's rows to a stream, or several, and then trims it to so many, about or exactly.
    fn publish(
        &self,
        frame: &Bound<'_, PyAny>,
        request: WriteArguments,
        trim: Option<(u64, bool)>,
    ) -> PyResult<()> {
        let py = frame.py();
        no_panic(py, || {
            let raised = |error| exception(py, &error);
            let trimmed = request.one_stream().zip(trim);
            let request = request.write_request().map_err(raised)?;
            let (fields, batches) = batches_of(frame)?;
            let added = py.detach(|| {
                let schema = Arc::new(Schema::new(fields));
                let batch = joined(&schema, &batches.iter().collect::<Vec<_>>())?;
                let mut transaction = lock(&self.transaction);
                let Some(transaction) = transaction.as_mut() else { return Ok(false) };
                transaction.commit().publish(&batch, &request)?;
                if let Some((stream, (max_len, approximate))) = trimmed {
                    transaction.commit().trim(&stream, max_len, approximate)?;
                }
                Ok(true)
            });
            match added.map_err(raised)? {
                true => Ok(()),
                false => Err(has_ended()),
            }
        })
    }

    /// Adds entries to a stream, all of them or none, and then trims it.
    fn add(
        &self,
        py: Python<'_>,
        stream: Vec<u8>,
        entries: Vec<Vec<Pair>>,
        trim: Option<(u64, bool)>,
    ) -> PyResult<()> {
        self.with(|transaction| {
            let added = transaction.commit().add_all(&stream, &entries);
            let trimmed = added.and_then(|()| match trim {
                Some((max_len, approximate)) => {
                    transaction.commit().trim(&stream, max_len, approximate)
                }
                None => Ok(()),
            });
            trimmed.map_err(|error| exception(py, &error))
        })
    }

    /// Has these entries go to the dead letters.
    fn fail(
        &self,
        py: Python<'_>,
        ids: Vec<String>,
        reason: &str,
        deliveries: u64,
    ) -> PyResult<()> {
        let ids = parsed(py, ids)?;
        self.with(|transaction| {
            let failed = transaction.fail(&ids, reason, deliveries);
            failed.map_err(|error| exception(py, &error))
        })
    }

    /// Some of its rows, with nothing to write so far.
    fn part(&self, start: usize, end: usize) -> PyResult<Transaction> {
        self.with(|transaction| Ok(Transaction::new(transaction.part(start..end))))
    }

    /// It is not committed.
    fn forget(&self) {
        lock(&self.transaction).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is whole whatever its holder was doing when it panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
