//! What expressions are told: checked when one is made, and written down as a text.

use std::collections::BTreeMap;

use arrow_schema::Field;
use arrow_schema::ffi::FFI_ArrowSchema;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use redfloe::{
    Error, ErrorKind, NullValues, OnError, Payload, PayloadFormat, Result, StreamSchema,
    decode_payloads, import_field,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::schemas::SchemaOptions;

/// `decode`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Decode {
    fields: Vec<Field>,
    payload: PayloadOptions,
    null_values: Vec<String>,
    /// In order, for equal expressions to be known as such.
    null_values_by_field: BTreeMap<String, Vec<String>>,
    on_error: String,
    rescue_column: Option<String>,
}

/// `encode`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Encode {
    payload: PayloadOptions,
}

/// `entry_id`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IdParts {
    on_error: String,
}

/// How payloads are written.
#[derive(Debug, Default, Serialize, Deserialize)]
struct PayloadOptions {
    format: String,
    /// What the payloads are by, where the format has schemas.
    schema: Option<SchemaOptions>,
    compression: Option<String>,
    max_bytes: Option<usize>,
    path: Option<String>,
    positions: Vec<String>,
}

impl PayloadOptions {
    fn new(format: String, schema: Option<&str>) -> PyResult<Self> {
        let schema = schema.map(serde_json::from_str).transpose();
        let schema = schema.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(PayloadOptions { format, schema, ..PayloadOptions::default() })
    }

    fn format(&self) -> Result<PayloadFormat> {
        match &self.schema {
            Some(schema) => Ok(PayloadFormat::Schema(schema.compiled()?)),
            None => self.format.parse(),
        }
    }

    /// All fields of payloads that have a schema.
    fn fields(&self) -> PyResult<Vec<Field>> {
        match (&self.schema, &self.path) {
            (Some(schema), None) => {
                let fields = schema.compiled().map_err(exception)?.fields();
                Ok(fields.iter().map(|field| field.as_ref().clone()).collect())
            }
            (Some(_), Some(_)) => {
                Err(PyTypeError::new_err("with a payload_path decode needs the dtype"))
            }
            (None, _) => Err(PyTypeError::new_err(format!(
                "decode needs the dtype of what is in payloads of {}",
                self.format
            ))),
        }
    }

    /// The payloads in a column of this name, which errors quote.
    fn payload(&self, name: &str) -> Result<Payload> {
        let mut payload = Payload::new(name)
            .with_format(self.format()?)
            .with_compression(self.compression.as_deref().map(str::parse).transpose()?)
            .with_positions(self.positions.clone());
        if let Some(bytes) = self.max_bytes {
            payload = payload.with_max_bytes(bytes);
        }
        match &self.path {
            Some(path) => payload.with_path(path),
            None => Ok(payload),
        }
    }
}

impl Decode {
    /// What becomes of the payloads in a column of this name.
    pub(crate) fn schema(&self, name: &str) -> Result<StreamSchema> {
        let null_values = NullValues {
            all: self.null_values.clone(),
            by_field: self.null_values_by_field.clone().into_iter().collect(),
        };
        Ok(StreamSchema::closed(self.fields.iter().cloned())
            .with_payload(Some(self.payload.payload(name)?))
            .with_null_values(null_values)
            .with_rescue_column(self.rescue_column.as_deref())
            .with_on_error(on_error(&self.on_error)?))
    }
}

impl Encode {
    pub(crate) fn payload(&self) -> Result<Payload> {
        self.payload.payload("")
    }
}

impl IdParts {
    pub(crate) fn on_error(&self) -> Result<OnError> {
        on_error(&self.on_error)
    }
}

fn on_error(name: &str) -> Result<OnError> {
    match name {
        "raise" => Ok(OnError::Raise),
        "null" => Ok(OnError::Null),
        other => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("on_error must be \"raise\" or \"null\", not {other:?}"),
        )),
    }
}

/// The options of a call, whose arguments Polars has pickled.
pub(crate) fn of_call<T: DeserializeOwned>(kwargs: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Kwargs {
        options: String,
    }

    let unreadable = |error: String| {
        let message = format!("an expression's options are unreadable: {error}");
        Error::new(ErrorKind::Internal, message)
    };
    let Kwargs { options } = serde_pickle::from_slice(kwargs, serde_pickle::DeOptions::new())
        .map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_str(&options).map_err(|error| unreadable(error.to_string()))
}

fn written(options: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(options).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn exception(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The options of `decode`, for fields of an object with `__arrow_c_schema__`; without one for all that
/// the payloads' own schema has.
#[pyfunction]
#[pyo3(signature = (
    schema, *, payload_format, payload_schema, compression, max_bytes, path, positions, null_values, null_values_by_field,
    on_error, rescue_column
))]
// They are keywords.
#[allow(clippy::too_many_arguments)]
pub(crate) fn decode_options(
    schema: Option<&Bound<'_, PyAny>>,
    payload_format: String,
    payload_schema: Option<&str>,
    compression: Option<String>,
    max_bytes: Option<usize>,
    path: Option<String>,
    positions: Vec<String>,
    null_values: Vec<String>,
    null_values_by_field: BTreeMap<String, Vec<String>>,
    on_error: String,
    rescue_column: Option<String>,
) -> PyResult<String> {
    let payload = PayloadOptions::new(payload_format, payload_schema)?;
    let payload = PayloadOptions { compression, max_bytes, path, positions, ..payload };
    let decode = Decode {
        fields: schema.map_or_else(|| payload.fields(), fields_of)?,
        payload,
        null_values,
        null_values_by_field,
        on_error,
        rescue_column,
    };
    decode.schema("").and_then(|schema| decode_payloads([], schema)).map_err(exception)?;
    let options = written(&decode)?;
    // What is nested too deeply could not be read again.
    serde_json::from_str::<Decode>(&options).map_err(|error| {
        PyValueError::new_err(format!("the dtype is nested too deeply: {error}"))
    })?;
    Ok(options)
}

/// The options of `encode`.
#[pyfunction]
#[pyo3(signature = (*, payload_format, payload_schema, compression))]
pub(crate) fn encode_options(
    payload_format: String,
    payload_schema: Option<&str>,
    compression: Option<String>,
) -> PyResult<String> {
    let payload = PayloadOptions::new(payload_format, payload_schema)?;
    let payload = PayloadOptions { compression, ..payload };
    payload.payload("").map_err(exception)?;
    written(&Encode { payload })
}

/// The options of `entry_id`.
#[pyfunction]
#[pyo3(signature = (*, on_error))]
pub(crate) fn entry_id_options(on_error: String) -> PyResult<String> {
    let parts = IdParts { on_error };
    parts.on_error().map_err(exception)?;
    written(&parts)
}

fn fields_of(schema: &Bound<'_, PyAny>) -> PyResult<Vec<Field>> {
    let capsule = schema.call_method0("__arrow_c_schema__")?.cast_into::<PyCapsule>()?;
    let pointer = capsule.pointer_checked(Some(c"arrow_schema"))?.cast::<FFI_ArrowSchema>();
    // SAFETY: a capsule of this name holds a valid ArrowSchema, says the PyCapsule interface, and
    // `capsule` keeps it alive for as long as it is borrowed here.
    let root = unsafe { pointer.as_ref() };
    let mut fields = Vec::new();
    for child in root.children() {
        fields.push(import_field(child).map_err(|error| {
            let name = child.name().unwrap_or_default();
            PyTypeError::new_err(format!("the field {name:?} has a dtype without a form: {error}"))
        })?);
    }
    Ok(fields)
}
