//! Frames of other libraries, looked at before they are imported.
//!
//! Arrow has types that Polars has not, and Polars panics on some of them; so such columns are refused
//! by name first. Only the schema is looked at, which does not consume the stream.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_schema::ffi::FFI_ArrowSchema;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::error::exception;
use crate::error::{Error, ErrorKind};

/// No schema that means something is nested deeper.
const MAX_DEPTH: usize = 64;

/// Refuses columns of an Arrow stream whose types Polars does not have; gives the time zones that it
/// has to know, each with its column, and whether there are types of which Polars changes some
/// values. Documented in `_core.pyi`.
#[pyfunction]
pub(crate) fn check_arrow_stream(
    stream: &Bound<'_, PyCapsule>,
    narrow_decimals: bool,
    lacking: Vec<String>,
) -> PyResult<(Vec<(String, String)>, bool)> {
    let py = stream.py();
    let pointer = stream.pointer_checked(Some(c"arrow_array_stream"))?;
    let unreadable = || PyTypeError::new_err("the frame's Arrow stream is unreadable");
    // SAFETY: a capsule of this name holds a valid ArrowArrayStream, says the PyCapsule interface, and
    // `stream` keeps it alive. Nobody else uses it meanwhile.
    let raw = unsafe { &mut *pointer.as_ptr().cast::<FFI_ArrowArrayStream>() };
    let get_schema = raw
        .get_schema
        .filter(|_| raw.release.is_some())
        .ok_or_else(|| PyTypeError::new_err("the frame's Arrow stream was consumed already"))?;
    let mut schema = FFI_ArrowSchema::empty();
    // SAFETY: the stream was not released; it writes a schema or returns an error.
    if unsafe { get_schema(raw, &mut schema) } != 0 || schema.format() != "+s" {
        return Err(unreadable());
    }
    let mut check = Check { narrow_decimals, lacking, zones: Vec::new(), may_change: false };
    // arrow-rs panics on names that are no UTF-8.
    let checked = catch_unwind(AssertUnwindSafe(|| check.members(&schema, "", 0)));
    let checked = checked.unwrap_or_else(|_| {
        Err("the frame's Arrow schema is unreadable, perhaps for a name that is no valid UTF-8"
            .to_owned())
    });
    checked.map_err(|message| exception(py, &Error::new(ErrorKind::Schema, message)))?;
    Ok((check.zones, check.may_change))
}

struct Check {
    /// Whether decimals of 32 and 64 bits pass: Polars reads those of a pyarrow table, and aborts the
    /// process on those of a stream.
    narrow_decimals: bool,
    /// Dtypes that this Polars does not have yet. One without Float16 imports such floats as something
    /// that aborts the process when it is exported, one without Map makes null maps empty lists.
    lacking: Vec<String>,
    /// Columns and their time zones.
    zones: Vec<(String, String)>,
    /// Whether Polars changes some values of these types: see `values`.
    may_change: bool,
}

impl Check {
    fn members(
        &mut self,
        schema: &FFI_ArrowSchema,
        path: &str,
        depth: usize,
    ) -> Result<(), String> {
        let mut names: Vec<&str> =
            schema.children().map(|child| child.name().unwrap_or("")).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            let name = twice.first().copied().unwrap_or_default();
            let within = if path.is_empty() { "the frame".to_owned() } else { format!("{path:?}") };
            return Err(format!("{within} has two columns of the name {name:?}; rename one"));
        }
        for child in schema.children() {
            let name = child.name().unwrap_or_default();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            self.data_type(child, &path, depth + 1)?;
        }
        Ok(())
    }

    fn lacks(&self, dtype: &str) -> bool {
        self.lacking.iter().any(|lacking| lacking == dtype)
    }

    fn data_type(
        &mut self,
        schema: &FFI_ArrowSchema,
        path: &str,
        depth: usize,
    ) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("the column {path:?} is nested deeper than {MAX_DEPTH} types"));
        }
        if let Some(values) = schema.dictionary() {
            return self.data_type(values, path, depth + 1);
        }
        let format = schema.format();
        let lacks = |kind: &str, cure: &str| {
            Err(format!(
                "the column {path:?} has the Arrow type {kind}, which this Polars does not have; {cure}, or \
                 leave it out of the frame"
            ))
        };
        let (kind, parameters) = format.split_once(':').unwrap_or((format, ""));
        self.may_change |= matches!(kind, "tss" | "tDs" | "tts" | "ttm" | "ttu" | "ttn");
        match kind {
            "e" if self.lacks("Float16") => lacks("float16", "cast it to a float32"),
            "+m" if self.lacks("Map") => lacks("map", "cast it to a list of structs"),
            "n" | "b" | "c" | "C" | "s" | "S" | "i" | "I" | "l" | "L" | "e" | "f" | "g" | "z"
            | "Z" | "u" | "U" | "vu" | "vz" | "w" | "tdD" | "tdm" | "tts" | "ttm" | "ttu"
            | "ttn" | "tDs" | "tDm" | "tDu" | "tDn" => Ok(()),
            "tss" | "tsm" | "tsu" | "tsn" => {
                if !parameters.is_empty() {
                    self.zones.push((path.to_owned(), parameters.to_owned()));
                }
                Ok(())
            }
            "d" => match parameters.split(',').nth(2) {
                None | Some("128") => Ok(()),
                Some("32" | "64") if self.narrow_decimals => Ok(()),
                Some(bits) => lacks(
                    &format!("decimal{bits}"),
                    "cast it to a decimal128, of at most 38 digits",
                ),
            },
            "+s" => self.members(schema, path, depth),
            "+l" | "+L" | "+w" | "+m" => {
                schema.children().try_for_each(|item| self.data_type(item, path, depth + 1))
            }
            "tiM" | "tiD" | "tin" => lacks("interval", "cast it to a duration or to text"),
            "+ud" | "+us" => lacks("union", "cast it to the type of one of its members or to text"),
            "+r" => lacks("run-end encoded", "decode it, as by pyarrow's run_end_decode"),
            "+vl" | "+vL" => lacks("list view", "cast it to a list"),
            _ => lacks(&format!("of the format {format:?}"), "cast it"),
        }
    }
}
