//! What a consumer of a group does beside reading, for Python.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use redis::Value;

use super::completion::Task;
use super::connection::Server;
use super::error::exception;
use super::wait::wait;
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::read::{self, Watched};
use crate::resp;

/// A member of a consumer group. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Member {
    member: read::Member,
}

/// What to do to entries.
enum Deed {
    Acknowledge(Vec<EntryId>),
    GiveBack(Vec<EntryId>),
    Keep(Vec<EntryId>),
    Leave(Vec<EntryId>),
    DeadLetter(Vec<(EntryId, String)>),
}

impl Deed {
    fn parse(py: Python<'_>, deed: &str, ids: &[String], reason: Option<String>) -> PyResult<Self> {
        let ids: Result<Vec<EntryId>> = ids.iter().map(|id| id.parse()).collect();
        let ids = ids.map_err(|error| exception(py, &error))?;
        match (deed, reason) {
            ("acknowledge", None) => Ok(Deed::Acknowledge(ids)),
            ("give_back", None) => Ok(Deed::GiveBack(ids)),
            ("keep", None) => Ok(Deed::Keep(ids)),
            ("leave", None) => Ok(Deed::Leave(ids)),
            ("dead_letter", Some(reason)) => {
                Ok(Deed::DeadLetter(ids.into_iter().map(|id| (id, reason.clone())).collect()))
            }
            (other, _) => Err(PyValueError::new_err(format!("{other:?} is no deed"))),
        }
    }

    async fn perform(self, member: read::Member) -> Result<u64> {
        match self {
            Deed::Acknowledge(ids) => member.acknowledge(&ids).await,
            Deed::GiveBack(ids) => member.give_back(&ids).await,
            Deed::Keep(ids) => member.keep(&ids).await,
            Deed::Leave(ids) => {
                member.leave_pending(&ids);
                Ok(ids.len() as u64)
            }
            Deed::DeadLetter(entries) => member.dead_letter(&entries).await,
        }
    }
}

impl Member {
    pub(super) fn new(member: read::Member) -> Self {
        Member { member }
    }
}

#[pymethods]
impl Member {
    /// Does it, and says to how many entries.
    #[pyo3(signature = (deed, ids, reason=None))]
    fn perform(
        &self,
        py: Python<'_>,
        deed: &str,
        ids: Vec<String>,
        reason: Option<String>,
    ) -> PyResult<u64> {
        let deed = Deed::parse(py, deed, &ids, reason)?;
        wait(py, deed.perform(self.member.clone()))
    }

    /// Does it in the background, also where nobody waits for it any more.
    #[pyo3(signature = (deed, ids, reason=None))]
    fn start(
        &self,
        py: Python<'_>,
        deed: &str,
        ids: Vec<String>,
        reason: Option<String>,
    ) -> PyResult<Task> {
        let deed = Deed::parse(py, deed, &ids, reason)?;
        Ok(Task::start(py, deed.perform(self.member.clone()))?.detached())
    }
}

/// A key's value.
#[pyfunction]
pub(crate) fn get_value(py: Python<'_>, server: Server, key: Vec<u8>) -> PyResult<Option<Vec<u8>>> {
    let client = server.client(py)?;
    wait(py, async move {
        match client.session().value(&resp::get(&key)).await? {
            Value::BulkString(value) => Ok(Some(value)),
            Value::Nil => Ok(None),
            other => Err(Error::protocol(format_args!("{other:?} came for GET"))),
        }
    })
}

/// Sets a key's value.
#[pyfunction]
pub(crate) fn set_value(
    py: Python<'_>,
    server: Server,
    key: Vec<u8>,
    value: Vec<u8>,
) -> PyResult<()> {
    let client = server.client(py)?;
    wait(py, async move { client.session().value(&resp::set(&key, &value)).await.map(drop) })
}

/// What a reader has done so far. Documented in `_core.pyi`.
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
