//! What a consumer of a group does beside reading, for Python.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use redis::Value;

use super::connection::Server;
use super::error::exception;
use super::operation::Operation;
use super::reading::{Reading, enter};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::read::{self, Watched};
use crate::resp;

/// A member of a consumer group. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Member {
    member: read::Member,
    watched: Arc<Watched>,
}

impl Member {
    /// Where the reading is a group's.
    pub(super) fn of(reading: &Reading) -> Option<Self> {
        let member = reading.member.clone()?;
        Some(Member { member, watched: Arc::clone(&reading.watched) })
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
}

pub(super) fn parsed(py: Python<'_>, ids: Vec<String>) -> PyResult<Vec<EntryId>> {
    let ids: Result<Vec<EntryId>> = ids.iter().map(|id| id.parse()).collect();
    ids.map_err(|error| exception(py, &error))
}

/// A key's value.
#[pyfunction]
pub(crate) fn get_value(py: Python<'_>, server: Server, key: Vec<u8>) -> PyResult<Operation> {
    let client = server.client(py)?;
    let getting = async move {
        match client.session().value(&resp::get(&key)).await? {
            Value::BulkString(value) => Ok(Some(value)),
            Value::Nil => Ok(None),
            other => Err(Error::protocol(format_args!("{other:?} came for GET"))),
        }
    };
    Ok(Operation::new(getting, |py, value| {
        value.map(|value| PyBytes::new(py, &value).unbind()).into_py_any(py)
    }))
}

/// Sets a key's value.
#[pyfunction]
pub(crate) fn set_value(
    py: Python<'_>,
    server: Server,
    key: Vec<u8>,
    value: Vec<u8>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let setting = async move { client.session().value(&resp::set(&key, &value)).await.map(drop) };
    Ok(Operation::new(setting, |py, ()| Ok(py.None())))
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
