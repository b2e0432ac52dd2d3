//! Rows that were written aside by several processes, and come to a stream once.

use pyo3::prelude::*;

use super::admin::operation;
use super::connection::Server;
use super::operation::Operation;
use crate::process::own_key;
use crate::write::{self, Staged};

/// The name of a key of ours in the slot of a stream.
#[pyfunction]
pub(crate) fn staged_key(stream: &[u8], parts: Vec<Vec<u8>>) -> Vec<u8> {
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    own_key(stream, &parts)
}

/// Makes a stream that goes away by itself, for rows that are written aside.
#[pyfunction]
pub(crate) fn prepare_staging(
    py: Python<'_>,
    server: Server,
    key: Vec<u8>,
    expiry_ms: u64,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    Ok(operation(
        client.clone(),
        async move { write::prepare_staging(&client, &key, expiry_ms).await },
    ))
}

/// Moves the rows of a batch to the stream, where that was not done before; says how many they are. The keys
/// come with their numbers of rows. With `is_last` nobody will ask for it again, and the marker goes, too.
/// With `chunks` only that many are moved, for tests.
// PyO3 turns the parameters of Python's signature into the function's own.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (server, stream, marker, batch, keys, *, is_last=false, chunks=None))]
pub(crate) fn commit_staged(
    py: Python<'_>,
    server: Server,
    stream: Vec<u8>,
    marker: Vec<u8>,
    batch: u64,
    keys: Vec<(Vec<u8>, u64)>,
    is_last: bool,
    chunks: Option<u64>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let staged = Staged { stream, marker, batch, keys, is_last };
    Ok(operation(
        client.clone(),
        async move { write::commit_staged(&client, &staged, chunks).await },
    ))
}
