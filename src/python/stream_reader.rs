//! A read as an Arrow stream, for DuckDB, pyarrow, pandas, DataFusion and others that speak it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch as ArrowBatch, RecordBatchOptions, RecordBatchReader};
use arrow_cast::cast;
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, Schema, SchemaRef};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::connection::Server;
use super::error::{class_name, exception};
use super::request::Request;
use crate::client::panicked;
use crate::decode::Batch;
use crate::dtype::{without_int128, without_views};
use crate::error::{Error, ErrorKind};
use crate::read::{self, BlockingBatches, ReadRequest};

#[doc = include_str!(concat!(env!("OUT_DIR"), "/StreamReader.txt"))]
#[pyclass(frozen, module = "redfloe")]
pub(crate) struct StreamReader {
    schema: SchemaRef,
    server: Server,
    request: ReadRequest,
}

#[pymethods]
impl StreamReader {
    /// The request has a schema, so that the stream's is known before its first batch.
    #[new]
    fn new(py: Python<'_>, server: Server, request: Request<'_>) -> PyResult<Self> {
        let request = request.read_request(py)?;
        let schema = request.schema().clone().map_fields(without_int128);
        let request = request.with_schema(schema);
        server.client(py)?; // so that what cannot be right raises now
        let schema = request.schema().arrow().map_err(|error| exception(py, &error))?;
        let fields: Vec<_> = schema.fields().iter().map(without_views).collect();
        Ok(StreamReader { schema: Schema::new(fields).into(), server, request })
    }

    fn __repr__(&self) -> String {
        let names: Vec<_> = self.schema.fields().iter().map(|field| field.name()).collect();
        format!("StreamReader(columns={names:?})")
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(self.schema.as_ref()).map_err(|error| {
            let message = "a schema could not be exported; please report this";
            exception(py, &Error::new(ErrorKind::Internal, message).with_source(error))
        })?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }

    /// A read of its own. The requested schema may be ignored, says the interface, where it is not the data's own.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        drop(requested_schema);
        let client = self.server.client(py)?;
        let batches = read::batches(&client, self.request.clone());
        let batches = batches.map_err(|error| exception(py, &error))?.into_iter();
        let reader = ArrowReader { schema: self.schema.clone(), batches };
        let stream = FFI_ArrowArrayStream::new(Box::new(reader));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }
}

/// Batches as arrow-rs wants them, called from whatever thread the consumer runs on.
struct ArrowReader {
    schema: SchemaRef,
    batches: BlockingBatches,
}

impl Iterator for ArrowReader {
    type Item = Result<ArrowBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        // The consumer is C, through which a panic would abort the process.
        let next = catch_unwind(AssertUnwindSafe(|| {
            let batch = self.batches.next()?.map_err(foreign);
            Some(batch.and_then(|batch| self.cast(&batch)))
        }));
        next.unwrap_or_else(|_| Some(Err(foreign(panicked()))))
    }
}

impl ArrowReader {
    fn cast(&self, batch: &Batch) -> Result<ArrowBatch, ArrowError> {
        let columns = batch.records().columns().iter().zip(self.schema.fields());
        let columns: Result<Vec<_>, _> =
            columns.map(|(column, field)| cast(column, field.data_type())).collect();
        // Without columns only this tells the number of rows.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.len()));
        ArrowBatch::try_new_with_options(self.schema.clone(), columns?, &options)
    }
}

/// All that a consumer learns of an error is its text, so that names the class as well.
fn foreign(error: Error) -> ArrowError {
    let class = class_name(error.kind()).unwrap_or("ValueError");
    ArrowError::ExternalError(format!("{class}: {error}").into())
}

impl RecordBatchReader for ArrowReader {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
