//! The bounds of a read as things are now, so that it can be repeated.

use pyo3::prelude::*;

use super::completion::Task;
use super::connection::Server;
use super::request::Request;
use super::wait::wait_on;
use crate::client::LentRuntime;
use crate::entry_id::EntryId;
use crate::read;

/// The first and the last entry ID of a read, as milliseconds and sequence numbers.
pub(super) type Bounds = ((u64, u64), (u64, u64));

/// The bounds of a request as things are now; `None` where there are no entries.
#[pyfunction]
#[pyo3(signature = (server, request, while_waiting=None))]
pub(crate) fn pin(
    py: Python<'_>,
    server: Server,
    request: Request<'_>,
    while_waiting: Option<Py<PyAny>>,
) -> PyResult<Option<Bounds>> {
    let request = request.read_request(py)?;
    let client = server.client(py)?;
    let pinning = async move { read::pin(&client, &request).await };
    let pinned = wait_on(py, &LentRuntime::new(), while_waiting.as_ref(), pinning)?;
    Ok(pinned.map(bounds))
}

/// The bounds of each of several streams as things are now; the first is greater than the last where
/// there are no entries.
#[pyfunction]
#[pyo3(signature = (server, request, while_waiting=None))]
pub(crate) fn pin_streams(
    py: Python<'_>,
    server: Server,
    request: Request<'_>,
    while_waiting: Option<Py<PyAny>>,
) -> PyResult<Vec<Bounds>> {
    let request = request.read_request(py)?;
    let client = server.client(py)?;
    let pinning = async move { read::pin_streams(&client, &request).await };
    let pinned = wait_on(py, &LentRuntime::new(), while_waiting.as_ref(), pinning)?;
    Ok(pinned.into_iter().map(bounds).collect())
}

/// The same as `pin` for an event loop.
#[pyfunction]
pub(crate) fn start_pin(py: Python<'_>, server: Server, request: Request<'_>) -> PyResult<Task> {
    let request = request.read_request(py)?;
    let client = server.client(py)?;
    Task::start(py, async move { Ok(read::pin(&client, &request).await?.map(bounds)) })
}

fn bounds((first, last): (EntryId, EntryId)) -> Bounds {
    ((first.ms, first.seq), (last.ms, last.seq))
}
