//! Schemas in and batches out, over Arrow's PyCapsule interface.

use std::convert::Infallible;
use std::mem;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::ffi::FFI_ArrowArray;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{Array, RecordBatch as ArrowBatch, StringViewArray, StructArray};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, DataType, Field, Fields};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

use super::error::{exception, no_panic};
use super::lent_schema::lend_schema;
use crate::c_data::{export_field, import_array, import_field};
use crate::client::PerProcess;
use crate::decode::Batch;
use crate::error::{Error, ErrorKind};

#[doc = include_str!(concat!(env!("OUT_DIR"), "/RecordBatch.txt"))]
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct RecordBatch {
    batch: Arc<Batch>,
}

impl RecordBatch {
    pub(crate) fn new(batch: impl Into<Arc<Batch>>) -> Self {
        RecordBatch { batch: batch.into() }
    }

    /// The rows as the crate has them.
    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }
}

#[pymethods]
impl RecordBatch {
    fn __len__(&self) -> usize {
        self.batch.len()
    }

    /// Whether it is the other one, for Python only.
    fn is_same(&self, other: &RecordBatch) -> bool {
        Arc::ptr_eq(&self.batch, &other.batch)
    }

    /// The entry ID of each row.
    fn ids(&self) -> Vec<String> {
        self.batch.ids().iter().map(ToString::to_string).collect()
    }

    /// The number of each row's stream, where a read has several; empty where it has one.
    fn streams(&self) -> Vec<usize> {
        self.batch.streams()
    }

    /// How often each row has been delivered; empty where it is the first time for all.
    fn delivery_counts(&self) -> Vec<u64> {
        self.batch.delivery_counts().to_vec()
    }

    fn __repr__(&self) -> String {
        format!("RecordBatch(rows={})", self.batch.len())
    }

    /// The requested schema may be ignored, says the interface, where it is not the data's own.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        drop(requested_schema);
        no_panic(py, || self.export(py))
    }
}

impl RecordBatch {
    fn export<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let records = self.batch.records().clone();
        // A name is a C string there. In a schema such a name has been refused before.
        if let Some(field) = records.schema_ref().fields().iter().find(|f| f.name().contains('\0'))
        {
            let message = format!(
                "the field {:?} has a name with a NUL, which no column can bear; leave it out with \
                 a schema",
                field.name()
            );
            return Err(exception(py, &Error::new(ErrorKind::Schema, message)));
        }
        let schema = lend_schema(records.schema_ref()).map_err(|error| internal(py, error))?;
        capsules(py, schema, &StructArray::from(records))
    }
}

/// The IDs of rows that were written, as an array of text.
pub(super) fn export_ids<'py>(
    py: Python<'py>,
    ids: &StringViewArray,
) -> PyResult<Bound<'py, PyTuple>> {
    let field = Field::new("", DataType::Utf8View, true);
    let schema = export_field(&field).map_err(|error| internal(py, error))?;
    capsules(py, schema, ids)
}

/// What `__arrow_c_array__` gives.
fn capsules<'py>(
    py: Python<'py>,
    schema: FFI_ArrowSchema,
    array: &dyn Array,
) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(
        py,
        [
            PyCapsule::new_with_value(py, schema, c"arrow_schema")?,
            PyCapsule::new_with_value(py, FFI_ArrowArray::new(&array.to_data()), c"arrow_array")?,
        ],
    )
}

/// The batches of an object with `__arrow_c_stream__`, such as a `polars.DataFrame`.
pub(super) fn import_batches(frame: &Bound<'_, PyAny>) -> PyResult<Imported> {
    release_imported(frame.py());
    no_panic(frame.py(), || batches_of(frame)).map(|(_, batches)| Imported(batches))
}

/// Batches whose memory may be an object's of Python, such as a NumPy array: to free it takes the GIL,
/// which threads of the runtime must not. So they leave it to the next thread that has the GIL.
pub(super) struct Imported(Vec<ArrowBatch>);

static RELEASED: PerProcess<Mutex<Vec<Vec<ArrowBatch>>>> = PerProcess::new();

fn released() -> MutexGuard<'static, Vec<Vec<ArrowBatch>>> {
    let Ok(released) = RELEASED.get(|| Ok::<_, Infallible>(Mutex::default()));
    released.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frees what threads of the runtime have left.
pub(super) fn release_imported(_: Python<'_>) {
    let batches = mem::take(&mut *released());
    drop(batches);
}

impl Deref for Imported {
    type Target = [ArrowBatch];

    fn deref(&self) -> &[ArrowBatch] {
        &self.0
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        released().push(mem::take(&mut self.0));
    }
}

/// The columns and the batches that have rows.
pub(super) fn batches_of(frame: &Bound<'_, PyAny>) -> PyResult<(Fields, Vec<ArrowBatch>)> {
    let py = frame.py();
    let capsule = frame.call_method0("__arrow_c_stream__")?.cast_into::<PyCapsule>()?;
    let pointer = capsule.pointer_checked(Some(c"arrow_array_stream"))?;
    // SAFETY: a capsule of this name holds a valid ArrowArrayStream, says the PyCapsule interface.
    // What is moved out leaves a released one behind, which the capsule's destructor knows.
    let mut stream = unsafe { FFI_ArrowArrayStream::from_raw(pointer.as_ptr().cast()) };
    let unreadable = |what: &str| PyTypeError::new_err(format!("the frame's {what} is unreadable"));
    let (Some(get_schema), Some(get_next)) = (stream.get_schema, stream.get_next) else {
        return Err(unreadable("Arrow stream, which was consumed already,"));
    };
    let mut schema = FFI_ArrowSchema::empty();
    // SAFETY: the stream was not released; it writes a schema or returns an error.
    if unsafe { get_schema(&mut stream, &mut schema) } != 0 || schema.format() != "+s" {
        return Err(unreadable("schema"));
    }
    let mut fields = Vec::new();
    for child in schema.children() {
        fields.push(import_field(child).map_err(|error| {
            let name = child.name().unwrap_or_default();
            let message = format!(
                "the column {name:?} has a dtype that has no text form; cast it or leave it out"
            );
            exception(py, &Error::new(ErrorKind::Schema, message).with_source(error))
        })?);
    }
    let fields = Fields::from(fields);
    let mut batches = Vec::new();
    loop {
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: as above; the array it writes is of the schema that it gave.
        if unsafe { get_next(&mut stream, &mut array) } != 0 {
            return Err(unreadable("next batch"));
        }
        if array.is_released() {
            return Ok((fields, batches));
        }
        // Polars exports categories without any as a dictionary that cannot be imported.
        if array.is_empty() {
            continue;
        }
        let data_type = DataType::Struct(fields.clone());
        // What does not keep to the interface may have arrow-rs panic, which is not for Python.
        let rows = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the array is of this type; only 128-bit integers are called decimals.
            unsafe { import_array(array, &data_type) }.map(|rows| rows.as_struct().clone())
        }));
        let rows = rows.map_err(|_| unreadable("next batch"))?;
        let rows = rows.map_err(|error| unimportable(py, error))?;
        if rows.null_count() > 0 {
            return Err(unreadable("next batch, which has rows that are null,"));
        }
        batches.push(ArrowBatch::from(rows));
    }
}

fn unimportable(py: Python<'_>, error: ArrowError) -> PyErr {
    let message = format!("the frame cannot be read as Arrow: {error}; cast its columns");
    exception(py, &Error::new(ErrorKind::Schema, message).with_source(error))
}

fn internal(py: Python<'_>, error: ArrowError) -> PyErr {
    let message = "a schema could not be exported; please report this";
    exception(py, &Error::new(ErrorKind::Internal, message).with_source(error))
}

/// The fields of an object with `__arrow_c_schema__`, such as a `polars.Schema`.
pub(crate) fn import_fields(schema: &Bound<'_, PyAny>) -> PyResult<Vec<Field>> {
    no_panic(schema.py(), || fields_of(schema))
}

fn fields_of(schema: &Bound<'_, PyAny>) -> PyResult<Vec<Field>> {
    let py = schema.py();
    let capsule = schema.call_method0("__arrow_c_schema__")?.cast_into::<PyCapsule>()?;
    let pointer = capsule.pointer_checked(Some(c"arrow_schema"))?.cast::<FFI_ArrowSchema>();
    // SAFETY: a capsule of this name holds a valid ArrowSchema, says the PyCapsule interface, and
    // `capsule` keeps it alive for as long as it is borrowed here.
    let root = unsafe { pointer.as_ref() };
    if root.format() != "+s" {
        return Err(PyTypeError::new_err("the schema is not that of a table"));
    }
    let mut fields = Vec::new();
    for child in root.children() {
        let field = import_field(child).map_err(|error| {
            let name = child.name().unwrap_or_default();
            let message = format!("the field {name:?} has a dtype that has no text form");
            exception(py, &Error::new(ErrorKind::Schema, format!("{message}: {error}")))
        })?;
        fields.push(field);
    }
    Ok(fields)
}
