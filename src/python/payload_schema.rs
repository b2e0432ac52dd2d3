//! Formats of payloads that have a schema, and how Python names a format.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use arrow_array::RecordBatch as ArrowBatch;
use arrow_schema::Schema;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use super::arrow::RecordBatch;
use super::error::exception;
use crate::client::panicked;
use crate::decode::Batch;
use crate::error::{Error, ErrorKind};
use crate::payload::PayloadFormat;
use crate::payload_schema::{AvroFraming, AvroLookup, AvroOptions, PayloadSchema};

/// What payloads are by. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core", name = "PayloadSchema")]
pub(crate) struct Compiled(PayloadSchema);

#[pymethods]
impl Compiled {
    #[staticmethod]
    fn protobuf(py: Python<'_>, descriptor_set: &[u8], message: &str) -> PyResult<Self> {
        let schema = py.detach(|| PayloadSchema::protobuf(descriptor_set, message));
        schema.map(Compiled).map_err(|error| exception(py, &error))
    }

    #[staticmethod]
    fn avro(
        py: Python<'_>,
        schema: Option<String>,
        schemas: BTreeMap<u32, String>,
        lookup: Option<Py<PyAny>>,
        reader_schema: Option<String>,
        framing: &str,
        schema_id: Option<u32>,
    ) -> PyResult<Self> {
        let framing = match framing {
            "single-object" => AvroFraming::SingleObject,
            "confluent" => AvroFraming::Confluent,
            "container" => AvroFraming::Container,
            _ => AvroFraming::None,
        };
        let mut options = AvroOptions::new().with_framing(framing).with_schemas(schemas);
        if let Some(schema) = schema {
            options = options.with_schema(schema);
        }
        if let Some(schema) = reader_schema {
            options = options.with_reader_schema(schema);
        }
        if let Some(id) = schema_id {
            options = options.with_schema_id(id);
        }
        if let Some(lookup) = lookup {
            options = options.with_lookup(asking(lookup));
        }
        let schema = py.detach(|| PayloadSchema::avro(options));
        schema.map(Compiled).map_err(|error| exception(py, &error))
    }

    /// No rows, with a column for each field.
    fn columns(&self) -> RecordBatch {
        let records = ArrowBatch::new_empty(Schema::new(self.0.fields()).into());
        RecordBatch::new(Batch::new(records, Vec::new(), Vec::new()))
    }

    /// The payload that a MessagePack map is.
    fn pack<'py>(&self, py: Python<'py>, document: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let mut payload = Vec::new();
        // It may ask Python for a schema.
        match py.detach(|| self.0.packer().pack(document, &mut payload)) {
            Ok(()) => Ok(PyBytes::new(py, &payload)),
            Err(misfit) => Err(PyValueError::new_err(misfit)),
        }
    }
}

fn failed(why: &str) -> Error {
    Error::new(ErrorKind::Schema, why)
}

/// What asks Python for the schema of an ID, on a thread of its own: there it may use redfloe too, which
/// a thread that decodes may not.
fn asking(lookup: Py<PyAny>) -> AvroLookup {
    let lookup = Arc::new(lookup);
    Arc::new(move |id| {
        let lookup = Arc::clone(&lookup);
        let asking = thread::Builder::new().name("redfloe-schema".to_owned()).spawn(move || {
            let asked = Python::try_attach(|py| {
                let given = lookup.call1(py, (id,));
                let given = given.and_then(|given| given.extract::<Option<String>>(py));
                given.map_err(|error| failed(&error.to_string()).with_source(error))
            });
            asked.unwrap_or_else(|| Err(failed("the interpreter is about to exit")))
        });
        let asking = asking.map_err(|error| failed(&error.to_string()))?;
        let answer = || asking.join().unwrap_or_else(|_| Err(panicked()));
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            // What else this thread of the process's runtime has to do goes on on another one.
            Ok(RuntimeFlavor::MultiThread) => block_in_place(answer),
            _ => answer(),
        }
    })
}

/// A format by its name, or what Python's object for a schema has.
pub(crate) struct Format(pub(crate) PayloadFormat);

impl<'py> FromPyObject<'_, 'py> for Format {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(name) = given.extract::<&str>() {
            let format = name.parse().map_err(|error| exception(given.py(), &error));
            return format.map(Format);
        }
        let compiled = given.getattr("_compiled")?;
        let compiled = compiled.cast::<Compiled>()?;
        Ok(Format(PayloadFormat::Schema(compiled.get().0.clone())))
    }
}
