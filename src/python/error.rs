//! The one place where the crate's errors become Python's exceptions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::client::panicked;
use crate::error::{Error, ErrorKind};

/// The exception for an ID that cannot be right, in whose place Python takes a date too.
pub(super) fn id_exception(py: Python<'_>, error: &Error) -> PyErr {
    match error.kind() {
        ErrorKind::InvalidArgument => PyValueError::new_err(format!(
            "{error}; or a date or time as ISO 8601, such as \"2026-11-26\""
        )),
        _ => exception(py, error),
    }
}

/// The class in `redfloe._errors` for a kind; `None` stands for the builtin `ValueError`.
pub(crate) fn class_name(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::InvalidArgument => None,
        ErrorKind::Connection => Some("RedisConnectionError"),
        ErrorKind::Timeout => Some("RedisTimeoutError"),
        ErrorKind::Authentication => Some("AuthenticationError"),
        ErrorKind::Response => Some("ResponseError"),
        ErrorKind::WrongType => Some("WrongTypeError"),
        ErrorKind::NoStream => Some("NoStreamError"),
        ErrorKind::NoGroup => Some("NoGroupError"),
        ErrorKind::Schema => Some("SchemaError"),
        ErrorKind::Decode => Some("DecodeError"),
        ErrorKind::DataLoss => Some("DataLossError"),
        ErrorKind::Fenced => Some("FencedError"),
        ErrorKind::Claimed => Some("ClaimedError"),
        ErrorKind::Write => Some("WriteError"),
        ErrorKind::OutcomeUnknown => Some("OutcomeUnknownError"),
        ErrorKind::NotDurable => Some("NotDurableError"),
        ErrorKind::PendingEntries => Some("PendingEntriesError"),
        ErrorKind::NoProcessor => Some("NoProcessorError"),
        ErrorKind::ProcessorRunning => Some("ProcessorRunningError"),
        ErrorKind::Internal => Some("RedfloeError"),
    }
}

/// Makes PyO3's exception for panics an `Exception`: else one would end a program that handles all
/// of those. A panic becomes it wherever [`no_panic`] is not, as while arguments are converted. The
/// class is this extension's own.
pub(super) fn make_panics_exceptions(py: Python<'_>) -> PyResult<()> {
    py.get_type::<PanicException>().setattr("__bases__", (py.get_type::<PyException>(),))
}

/// Runs what works on data from outside. A panic becomes an error that asks to be reported.
pub(crate) fn no_panic<T>(py: Python<'_>, run: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(exception(py, &panicked())))
}

/// The exception for an error.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let Some(name) = class_name(error.kind()) else {
        return PyValueError::new_err(error.to_string());
    };
    // The classes are written in Python, because each has two bases.
    let raised = py
        .import("redfloe._errors")
        .and_then(|module| module.getattr(name))
        .and_then(|class| Ok(class.cast_into::<PyType>()?))
        .and_then(|class| class.call1((error.to_string(), error.code())))
        .and_then(|raised| say_where(&raised, error).map(|()| raised));
    let raised = match raised {
        Ok(value) => PyErr::from_value(value),
        Err(broken) => broken,
    };
    // What a function of the user's raised.
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<PyErr>());
    if let Some(cause) = cause {
        raised.set_cause(py, Some(cause.clone_ref(py)));
    }
    raised
}

/// Sets the attributes that say where it happened.
fn say_where(raised: &Bound<'_, PyAny>, error: &Error) -> PyResult<()> {
    let is_of_entry = matches!(error.kind(), ErrorKind::Decode | ErrorKind::Schema);
    for (name, value) in error.context() {
        let attribute = match *name {
            "stream" => "stream",
            "entry ID" if is_of_entry => "entry_id",
            "field" if is_of_entry => "field",
            _ => continue,
        };
        raised.setattr(attribute, value)?;
    }
    Ok(())
}

/// Raises the exception of the kind at this index, for the test that each kind has one; returns
/// the number of kinds for an index after the last.
#[pyfunction]
pub(crate) fn raise_kind(py: Python<'_>, index: usize) -> PyResult<usize> {
    match ErrorKind::ALL.get(index) {
        Some(kind) => Err(exception(py, &Error::new(*kind, format!("{kind:?}")))),
        None => Ok(ErrorKind::ALL.len()),
    }
}
