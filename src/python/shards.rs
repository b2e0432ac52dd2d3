//! Sharded streams: what is at their names.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::connection::Server;
use super::error::exception;
use super::operation::Operation;
use crate::shard::{self, ShardedStream};

/// A stream over several keys. Documented in `_core.pyi`.
#[pyclass(frozen, eq, module = "redfloe._core")]
#[derive(PartialEq)]
pub(crate) struct Shards(pub(super) ShardedStream);

#[pymethods]
impl Shards {
    #[new]
    fn new(py: Python<'_>, name: Vec<u8>, shards: usize, by: String) -> PyResult<Self> {
        ShardedStream::new(name, shards, by).map(Shards).map_err(|error| exception(py, &error))
    }

    #[getter]
    fn by(&self) -> &str {
        self.0.by()
    }

    /// The keys of its shards, in order.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.0.keys().iter().map(|key| PyBytes::new(py, key)).collect()
    }

    /// The number of the shard to which an entry belongs.
    fn shard_of(&self, text: &[u8]) -> usize {
        self.0.shard_of(text)
    }
}

/// The sharded stream of a name; `None` where it is no such thing. Where it is one, another is made sure
/// of that is like it, and is for its dead letters.
#[pyfunction]
#[pyo3(signature = (server, name, dead_letter=None))]
pub(crate) fn find_shards(
    py: Python<'_>,
    server: Server,
    name: Vec<u8>,
    dead_letter: Option<Vec<u8>>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let finding = async move { shard::find_shards(&client, &name, dead_letter).await };
    Ok(Operation::new(finding, |py, found: Option<ShardedStream>| {
        found.map(Shards).into_py_any(py)
    }))
}

/// Makes sure that there is such a sharded stream.
#[pyfunction]
pub(crate) fn claim_shards(
    py: Python<'_>,
    server: Server,
    name: Vec<u8>,
    shards: usize,
    by: String,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let stream = ShardedStream::new(name, shards, by).map_err(|error| exception(py, &error))?;
    let claiming = async move { shard::claim(&client, &stream).await };
    Ok(Operation::new(claiming, |py, ()| Ok(py.None())))
}

/// Creates an empty sharded stream; says whether there was none.
#[pyfunction]
pub(crate) fn create_sharded_stream(
    py: Python<'_>,
    server: Server,
    name: Vec<u8>,
    shards: usize,
    by: String,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let stream = ShardedStream::new(name, shards, by).map_err(|error| exception(py, &error))?;
    let creating = async move { shard::create_sharded_stream(&client, &stream).await };
    Ok(Operation::new(creating, |py, created| created.into_py_any(py)))
}
