//! How far the caller of a reader has come, for its checkpoints.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::error::exception;
use super::member::parsed;
use super::reading::Reading;
use crate::entry_id::EntryId;
use crate::ledger::{Acknowledge, Positions};

/// What checkpoints are to say. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Progress {
    reading: Arc<Reading>,
}

/// The number of a stream, its key, and the position in it.
type Position = (usize, Py<PyBytes>, String);

/// Rows by their IDs and, where the reader has several streams, the numbers of these.
type Rows = (Vec<String>, Vec<usize>);

impl Progress {
    pub(super) fn new(reading: Arc<Reading>, automatic: bool) -> Self {
        reading.watched.keep_positions(match automatic {
            true => Acknowledge::Automatically,
            false => Acknowledge::Manually,
        });
        Progress { reading }
    }

    fn tell<T>(
        &self,
        py: Python<'_>,
        tell: impl FnOnce(&mut Positions) -> T,
    ) -> PyResult<Option<T>> {
        let _user = self.reading.enter().map_err(|error| exception(py, &error))?;
        Ok(self.reading.watched.positions(tell))
    }
}

#[pymethods]
impl Progress {
    fn moved(&self, py: Python<'_>) -> PyResult<Vec<Position>> {
        let moved = self.tell(py, |positions| positions.moved())?.unwrap_or_default();
        let watched = &self.reading.watched;
        let with_key = |(stream, id): (usize, EntryId)| {
            let key = watched.key(stream)?;
            Some((stream, PyBytes::new(py, &key).unbind(), id.to_string()))
        };
        Ok(moved.into_iter().filter_map(with_key).collect())
    }

    fn saved(&self, py: Python<'_>, positions: Vec<(usize, Vec<u8>, String)>) -> PyResult<()> {
        let mut streams = Vec::with_capacity(positions.len());
        let mut ids = Vec::with_capacity(positions.len());
        for (stream, _, id) in positions {
            streams.push(stream);
            ids.push(id);
        }
        let saved: Vec<_> = streams.into_iter().zip(parsed(py, ids)?).collect();
        self.tell(py, |positions| positions.saved(&saved)).map(drop)
    }

    fn done(&self, py: Python<'_>) -> PyResult<()> {
        self.tell(py, Positions::done_with_batch).map(drop)
    }

    fn acknowledged(&self, py: Python<'_>, batch: Rows, done: Rows) -> PyResult<()> {
        if self.reading.members.is_some() {
            return Ok(()); // which has told of the rows itself
        }
        let (batch, done) = (rows(py, batch)?, rows(py, done)?);
        self.tell(py, |positions| positions.acknowledged(&batch, &done)).map(drop)
    }

    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        self.tell(py, Positions::left_in_hand).map(drop)
    }
}

/// The rows with the numbers of their streams; that of the only one is 0.
fn rows(py: Python<'_>, (ids, streams): Rows) -> PyResult<Vec<(usize, EntryId)>> {
    let streams = streams.into_iter().chain(std::iter::repeat(0));
    Ok(streams.zip(parsed(py, ids)?).collect())
}
