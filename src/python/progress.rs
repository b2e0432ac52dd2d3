//! How far the caller of a reader has come, for its checkpoint.

use std::sync::Arc;

use pyo3::prelude::*;

use super::error::exception;
use super::member::parsed;
use super::reading::Reading;
use crate::ledger::{Acknowledge, Ledger};

/// What a checkpoint is to say. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Progress {
    reading: Arc<Reading>,
}

impl Progress {
    pub(super) fn new(reading: Arc<Reading>, automatic: bool) -> Self {
        reading.watched.keep_checkpoint(match automatic {
            true => Acknowledge::Automatically,
            false => Acknowledge::Manually,
        });
        Progress { reading }
    }

    fn tell<T>(&self, py: Python<'_>, tell: impl FnOnce(&mut Ledger) -> T) -> PyResult<Option<T>> {
        let _user = self.reading.enter().map_err(|error| exception(py, &error))?;
        Ok(self.reading.watched.checkpoint(tell))
    }
}

#[pymethods]
impl Progress {
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let position = self.tell(py, |ledger| ledger.position())?.flatten();
        Ok(position.map(|id| id.to_string()))
    }

    fn done(&self, py: Python<'_>) -> PyResult<()> {
        self.tell(py, Ledger::done_with_batch).map(drop)
    }

    fn acknowledged(&self, py: Python<'_>, batch: Vec<String>, ids: Vec<String>) -> PyResult<()> {
        if self.reading.members.is_some() {
            return Ok(()); // which has told of the rows itself
        }
        let (batch, ids) = (parsed(py, batch)?, parsed(py, ids)?);
        self.tell(py, |ledger| ledger.acked_of(&batch, &ids)).map(drop)
    }

    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        self.tell(py, Ledger::left_in_hand).map(drop)
    }
}
