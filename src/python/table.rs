//! Tables of processors.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::{ArrayRef, BooleanArray, RecordBatch as ArrowBatch};
use arrow_schema::{DataType, Field, Schema};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::arrow::{RecordBatch, batches_of, import_fields};
use super::connection::Server;
use super::error::{exception, no_panic};
use super::operation::Operation;
use crate::client::Client;
use crate::decode::{Batch, internal, joined};
use crate::error::Result;
use crate::process::table::{self, Changes, Expiry, Spec};
use crate::process::{Lane, LaneOptions, check_same_slot};

/// The columns of a table, as `redfloe._processing.table` puts them together.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct TableColumns<'py> {
    key: Bound<'py, PyAny>,
    schema: Bound<'py, PyAny>,
    event_time: Option<String>,
    expire_after_ms: Option<i64>,
    null_keys: bool,
}

impl TableColumns<'_> {
    pub(super) fn spec(&self, py: Python<'_>) -> PyResult<Spec> {
        let (keys, values) = (import_fields(&self.key)?, import_fields(&self.schema)?);
        let expiry = self.event_time.clone().zip(self.expire_after_ms);
        let expiry = expiry.map(|(column, after_millis)| Expiry { column, after_millis });
        let spec = Spec::new(keys, values, expiry).map_err(|error| exception(py, &error))?;
        Ok(spec.with_null_keys(self.null_keys))
    }
}

/// A field of a hash, and its value.
type Pair = (Py<PyBytes>, Py<PyBytes>);

/// A table, with what has been changed of it. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Table {
    table: Arc<Mutex<table::Table>>,
}

impl Table {
    pub(super) fn new(table: table::Table) -> Self {
        Table { table: Arc::new(Mutex::new(table)) }
    }

    /// For a commit, which goes on without Python.
    pub(super) fn shared(&self) -> Arc<Mutex<table::Table>> {
        Arc::clone(&self.table)
    }

    fn lock(&self) -> MutexGuard<'_, table::Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the table, and with one batch of a frame's rows, without the GIL.
    fn with_rows<T: Send>(
        &self,
        frame: &Bound<'_, PyAny>,
        act: impl FnOnce(&mut table::Table, &ArrowBatch) -> Result<T> + Send,
    ) -> PyResult<T> {
        let py = frame.py();
        no_panic(py, || {
            let (fields, batches) = batches_of(frame)?;
            let done = py.detach(|| {
                let schema = Arc::new(Schema::new(fields));
                let batch = joined(&schema, &batches.iter().collect::<Vec<_>>())?;
                act(&mut self.lock(), &batch)
            });
            done.map_err(|error| exception(py, &error))
        })
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut table::Table) -> Result<T> + Send,
    ) -> PyResult<T> {
        no_panic(py, || py.detach(|| act(&mut self.lock())).map_err(|error| exception(py, &error)))
    }
}

fn exported(records: ArrowBatch) -> RecordBatch {
    RecordBatch::new(Batch::new(records, Vec::new(), Vec::new()))
}

#[pymethods]
impl Table {
    fn __len__(&self) -> usize {
        self.lock().len()
    }

    fn lookup(&self, keys: &Bound<'_, PyAny>) -> PyResult<RecordBatch> {
        self.with_rows(keys, |table, keys| table.lookup(keys)).map(exported)
    }

    fn contains(&self, keys: &Bound<'_, PyAny>) -> PyResult<RecordBatch> {
        let field = Field::new("", DataType::Boolean, false);
        let records = self.with_rows(keys, |table, keys| {
            let column: ArrayRef = Arc::new(BooleanArray::from(table.contains(keys)?));
            ArrowBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).map_err(internal)
        })?;
        Ok(exported(records))
    }

    fn frame(&self, py: Python<'_>) -> PyResult<RecordBatch> {
        self.with(py, |table| table.frame()).map(exported)
    }

    fn upsert(&self, frame: &Bound<'_, PyAny>) -> PyResult<()> {
        self.with_rows(frame, |table, rows| table.upsert(rows))
    }

    fn delete(&self, keys: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.with_rows(keys, |table, keys| table.delete(keys))
    }

    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |table| {
            table.clear();
            Ok(())
        })
    }

    #[pyo3(signature = (watermark_ms=None))]
    fn expire(&self, py: Python<'_>, watermark_ms: Option<i64>) -> PyResult<usize> {
        self.with(py, |table| Ok(table.expire(watermark_ms)))
    }

    /// The newest time that the table has seen, in milliseconds.
    fn newest_ms(&self) -> Option<i64> {
        self.lock().newest_ms()
    }

    fn changes(&self, py: Python<'_>) -> PyResult<(Vec<Pair>, Vec<Py<PyBytes>>)> {
        let changes: Changes = self.with(py, |table| table.changes())?;
        let bytes = |text: &[u8]| PyBytes::new(py, text).unbind();
        let sets = changes.sets().map(|(key, row)| (bytes(key), bytes(row))).collect();
        Ok((sets, changes.deletes().map(bytes).collect()))
    }

    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, table::Table::commit)
    }

    fn rollback(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |table| {
            table.rollback();
            Ok(())
        })
    }
}

/// Checks the columns of a table, without a server.
#[pyfunction]
pub(crate) fn check_table(py: Python<'_>, columns: TableColumns<'_>) -> PyResult<()> {
    columns.spec(py).map(drop)
}

/// Reads a table, as anybody may: it is not a processor's, who would load it through its lane.
#[pyfunction]
pub(crate) fn read_table(
    py: Python<'_>,
    server: Server,
    key: Vec<u8>,
    columns: TableColumns<'_>,
) -> PyResult<Operation> {
    let spec = Arc::new(columns.spec(py)?);
    let client = server.client(py)?;
    let reading = async move { table::read(&client, &key, &spec).await };
    Ok(Operation::new(reading, |py, table| Table::new(table).into_py_any(py))
        .only_while_waited_for())
}

/// Reads the rows of some keys, as anybody may, of a table in the slot of a stream.
#[pyfunction]
pub(crate) fn lookup_table(
    server: Server,
    stream: Vec<u8>,
    key: Vec<u8>,
    columns: TableColumns<'_>,
    keys: &Bound<'_, PyAny>,
) -> PyResult<Operation> {
    let py = keys.py();
    let raised = |error| exception(py, &error);
    let spec = Arc::new(columns.spec(py)?);
    let client = server.client(py)?;
    let keys = no_panic(py, || {
        let (fields, batches) = batches_of(keys)?;
        joined(&Arc::new(Schema::new(fields)), &batches.iter().collect::<Vec<_>>()).map_err(raised)
    })?;
    let reading = async move {
        if let Err(error) = check_same_slot(&stream, &key)
            && client.looks_like_a_cluster().await?
        {
            return Err(error);
        }
        table::read_keys(&client, &key, &spec, &keys).await
    };
    Ok(Operation::new(reading, |py, table| Table::new(table).into_py_any(py))
        .only_while_waited_for())
}

/// A lane of this name, taken over from whoever has it.
async fn lane_of(client: &Client, stream: &[u8], name: &[u8]) -> Result<Lane> {
    let options = LaneOptions { takeover: true, ..LaneOptions::default() };
    let mut lane = Lane::new(client, stream, name, options)?;
    lane.acquire().await?;
    Ok(lane)
}

/// Loads a table through a lane, which it takes over and leaves. For tests and benches: a processor loads
/// its tables through the lane that it keeps.
#[pyfunction]
pub(crate) fn load_table_for_test(
    py: Python<'_>,
    server: Server,
    lane: (Vec<u8>, Vec<u8>),
    key: Vec<u8>,
    columns: TableColumns<'_>,
    newest_ms: Option<i64>,
) -> PyResult<Operation> {
    let spec = Arc::new(columns.spec(py)?);
    let client = server.client(py)?;
    let loading = async move {
        let mut lane = lane_of(&client, &lane.0, &lane.1).await?;
        let mut table = table::load(&mut lane, &key, &spec).await?;
        table.see(newest_ms);
        lane.release().await?;
        Ok(table)
    };
    Ok(Operation::new(loading, |py, table| Table::new(table).into_py_any(py))
        .only_while_waited_for())
}

/// All fields of a hash, and their values, through a lane; for tests as well.
#[pyfunction]
pub(crate) fn load_state_for_test(
    py: Python<'_>,
    server: Server,
    lane: (Vec<u8>, Vec<u8>),
    key: Vec<u8>,
) -> PyResult<Operation> {
    let client = server.client(py)?;
    let loading = async move {
        let mut lane = lane_of(&client, &lane.0, &lane.1).await?;
        let take = |fields: &mut Vec<_>, name: &[u8], value: &[u8]| {
            fields.push((name.to_vec(), value.to_vec()));
            Ok(())
        };
        let fields = lane.load_with(&key, || Ok(Vec::new()), take).await?;
        lane.release().await?;
        Ok(fields)
    };
    Ok(Operation::new(loading, |py, fields| {
        let bytes = |text: &[u8]| PyBytes::new(py, text).unbind();
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        fields.into_py_any(py)
    })
    .only_while_waited_for())
}
