//! Checkpoints in keys of a server: what a store of them sends.

use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use redis::Value;

use super::connection::Server;
use super::ending::{Ending, STOPPED};
use super::operation::Operation;
use super::request::Request;
use crate::client::{About, Client};
use crate::error::{Error, Result};
use crate::resp;

type Keys = Vec<Vec<u8>>;
type Values = Vec<Option<Vec<u8>>>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Keys that are asked for together: more would keep other clients waiting.
const AT_ONCE: usize = 1_000;

/// The values of keys, of each node in few round trips.
async fn get(client: Client, keys: Keys) -> Result<Values> {
    let mut values = Vec::with_capacity(keys.len());
    for keys in keys.chunks(AT_ONCE) {
        let about: Vec<About<'_>> =
            keys.iter().map(|key| About { key, questions: vec![resp::get(key)] }).collect();
        for answer in client.ask_about(&about).await?.into_iter().flatten() {
            values.push(match answer? {
                Value::BulkString(value) => Some(value),
                Value::Nil => None,
                other => return Err(Error::protocol(format_args!("{other:?} came for GET"))),
            });
        }
    }
    Ok(values)
}

/// Sets the values of keys in the same way; what may have been set already is set again.
async fn set(client: Client, pairs: Pairs) -> Result<()> {
    for pairs in pairs.chunks(AT_ONCE) {
        let setting = pairs.iter();
        let about: Vec<About<'_>> = setting
            .map(|(key, value)| About { key, questions: vec![resp::set(key, value)] })
            .collect();
        for answer in client.ask_about(&about).await?.into_iter().flatten() {
            answer?;
        }
    }
    Ok(())
}

fn bytes(py: Python<'_>, values: Values) -> PyResult<Py<PyAny>> {
    let values = values.into_iter().map(|value| Some(PyBytes::new(py, &value?).unbind()));
    values.collect::<Vec<_>>().into_py_any(py)
}

/// The values of keys.
#[pyfunction]
pub(crate) fn get_values(py: Python<'_>, server: Server, keys: Keys) -> PyResult<Operation> {
    Ok(Operation::new(get(server.client(py)?, keys), bytes))
}

/// Sets the values of keys.
#[pyfunction]
pub(crate) fn set_values(py: Python<'_>, server: Server, pairs: Pairs) -> PyResult<Operation> {
    let setting = set(server.client(py)?, pairs);
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

    fn get(&self, keys: Keys) -> Operation {
        let nothing = vec![None; keys.len()];
        let (getting, ending) = (get(self.client.clone(), keys), Arc::clone(&self.ending));
        let getting = async move { Ok(ending.or(getting).await?.unwrap_or(nothing)) };
        Operation::new(getting, bytes).only_while_waited_for()
    }

    fn set(&self, pairs: Pairs) -> Operation {
        let (setting, ending) = (set(self.client.clone(), pairs), Arc::clone(&self.ending));
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
