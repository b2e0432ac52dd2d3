//! Checkpoints in keys of a server: what a store of them sends.

use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use redis::Value;

use super::connection::Server;
use super::ending::{Ending, STOPPED};
use super::operation::Operation;
use super::read::Request;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::resp;

/// The value of a key.
async fn get(client: Client, key: Vec<u8>) -> Result<Option<Vec<u8>>> {
    match client.session_for(&key).value(&resp::get(&key)).await? {
        Value::BulkString(value) => Ok(Some(value)),
        Value::Nil => Ok(None),
        other => Err(Error::protocol(format_args!("{other:?} came for GET"))),
    }
}

async fn set(client: Client, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
    client.session_for(&key).value(&resp::set(&key, &value)).await.map(drop)
}

fn bytes(py: Python<'_>, value: Option<Vec<u8>>) -> PyResult<Py<PyAny>> {
    value.map(|value| PyBytes::new(py, &value).unbind()).into_py_any(py)
}

/// A key's value.
#[pyfunction]
pub(crate) fn get_value(py: Python<'_>, server: Server, key: Vec<u8>) -> PyResult<Operation> {
    Ok(Operation::new(get(server.client(py)?, key), bytes))
}

/// Sets a key's value.
#[pyfunction]
pub(crate) fn set_value(
    py: Python<'_>,
    server: Server,
    key: Vec<u8>,
    value: Vec<u8>,
) -> PyResult<Operation> {
    let setting = set(server.client(py)?, key, value);
    Ok(Operation::new(setting, |py, ()| true.into_py_any(py)))
}

/// The checkpoints of one loop. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Checkpoints {
    client: Client,
    ending: Arc<Ending>,
    /// The process whose loop it is.
    process: u32,
}

#[pymethods]
impl Checkpoints {
    #[new]
    fn new(py: Python<'_>, server: Server, reader: Server, request: Request<'_>) -> PyResult<Self> {
        let request = request.read_request(py)?;
        let (client, reader) = (server.client(py)?, reader.client(py)?);
        let client = match request.never_ends() && reader.keep_trying(request.who()).keeps_trying()
        {
            true => client.keep_trying(request.who()),
            false => client,
        };
        Ok(Checkpoints { client, ending: Arc::default(), process: std::process::id() })
    }

    fn get(&self, key: Vec<u8>) -> Operation {
        let (getting, ending) = (get(self.client.clone(), key), Arc::clone(&self.ending));
        let getting = async move { Ok(ending.or(getting).await?.flatten()) };
        Operation::new(getting, bytes).only_while_waited_for()
    }

    fn set(&self, key: Vec<u8>, value: Vec<u8>) -> Operation {
        let (setting, ending) = (set(self.client.clone(), key, value), Arc::clone(&self.ending));
        let setting = async move { ending.or(setting).await };
        Operation::new(setting, |py, set| set.is_some().into_py_any(py)).only_while_waited_for()
    }

    fn stop(&self) {
        self.ending.set(STOPPED);
        // In a forked child nobody waits, and the lock of those who do may be held.
        if self.process == std::process::id() {
            self.ending.wake();
        }
    }
}
