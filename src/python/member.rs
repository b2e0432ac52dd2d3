//! What a consumer of a group does beside reading, for Python.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::error::exception;
use super::operation::Operation;
use super::reading::{Reading, enter};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::{self, Watched};

/// A member of a consumer group. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Member {
    member: read::Member,
    watched: Arc<Watched>,
    /// Whose end ends what the loop does of its own accord.
    reading: Weak<Reading>,
}

impl Member {
    /// Where the reading is a group's.
    pub(super) fn of(reading: &Arc<Reading>) -> Option<Self> {
        let member = reading.member.clone()?;
        let watched = Arc::clone(&reading.watched);
        Some(Member { member, watched, reading: Arc::downgrade(reading) })
    }

    /// What the future does for this member.
    fn operation<F>(&self, act: impl FnOnce(read::Member) -> F) -> Operation
    where
        F: Future<Output = Result<u64>> + Send + 'static,
    {
        let (acting, watched) = (act(self.member.clone()), Arc::clone(&self.watched));
        let future = async move {
            let _user = enter(&watched)?;
            acting.await
        };
        Operation::new(future, |py, number| number.into_py_any(py))
    }
}

#[pymethods]
impl Member {
    fn acknowledge(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<Operation> {
        let ids = parsed(py, ids)?;
        Ok(self.operation(|member| async move { member.acknowledge(&ids).await }))
    }

    fn nack(
        &self,
        py: Python<'_>,
        entries: Vec<(String, u64)>,
        delay_ms: Option<u64>,
    ) -> PyResult<Operation> {
        let (ids, deliveries): (Vec<String>, Vec<u64>) = entries.into_iter().unzip();
        let entries: Vec<(EntryId, u64)> = parsed(py, ids)?.into_iter().zip(deliveries).collect();
        let delay = delay_ms.map(Duration::from_millis);
        Ok(self.operation(|member| async move { member.nack(&entries, delay).await }))
    }

    fn keep(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<Operation> {
        let ids = parsed(py, ids)?;
        Ok(self.operation(|member| async move { member.keep(&ids).await }))
    }

    fn leave(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<()> {
        let _user = enter(&self.watched).map_err(|error| exception(py, &error))?;
        self.member.leave_pending(&parsed(py, ids)?);
        Ok(())
    }

    fn dead_letter(&self, py: Python<'_>, ids: Vec<String>, reason: String) -> PyResult<Operation> {
        let ids = parsed(py, ids)?;
        Ok(self.operation(|member| async move { member.dead_letter(&ids, &reason).await }))
    }

    fn put_aside(&self, py: Python<'_>, ids: Vec<String>, reason: String) -> PyResult<Operation> {
        let (ids, watched) = (parsed(py, ids)?, Arc::clone(&self.watched));
        let (member, reading) = (self.member.patiently(), self.reading.upgrade());
        let putting = async move {
            let _user = enter(&watched)?;
            match reading {
                Some(reading) => reading.ending.or(member.dead_letter(&ids, &reason)).await,
                None => Ok(None), // nobody reads any more
            }
        };
        let operation = Operation::new(putting, |py, moved| moved.is_some().into_py_any(py));
        Ok(operation.only_while_waited_for())
    }
}

pub(super) fn parsed(py: Python<'_>, ids: Vec<String>) -> PyResult<Vec<EntryId>> {
    let ids: Result<Vec<EntryId>> = ids.iter().map(|id| id.parse()).collect();
    ids.map_err(|error| exception(py, &error))
}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/Stats.txt"))]
#[pyclass(frozen, get_all, module = "redfloe._core")]
pub(crate) struct Stats {
    batches: u64,
    entries: u64,
    bytes: u64,
    acknowledged: u64,
    reclaimed: u64,
    dead_lettered: u64,
    deleted: u64,
    last_id: Option<String>,
    done_up_to: Option<String>,
    lag: Option<u64>,
}

impl Stats {
    pub(super) fn of(watched: &Watched) -> Self {
        let stats = watched.snapshot();
        Stats {
            batches: stats.batches,
            entries: stats.entries,
            bytes: stats.bytes,
            acknowledged: stats.acknowledged,
            reclaimed: stats.reclaimed,
            dead_lettered: stats.dead_lettered,
            deleted: stats.deleted,
            last_id: stats.last_id.map(|id| id.to_string()),
            done_up_to: stats.done_up_to.map(|id| id.to_string()),
            lag: stats.lag,
        }
    }
}
