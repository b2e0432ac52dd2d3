//! The core's events on their way to Python's logging: whoever runs in our code anyway passes them on.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::events::{self, EventValue};

/// The events since the last call: what happened, and its fields.
#[pyfunction]
pub(crate) fn take_events(py: Python<'_>) -> PyResult<Vec<(&'static str, Bound<'_, PyDict>)>> {
    let as_dict = |event: events::Event| {
        let fields = PyDict::new(py);
        for (name, value) in event.fields() {
            fields.set_item(*name, as_object(py, value)?)?;
        }
        Ok((event.name(), fields))
    };
    events::take_events().into_iter().map(as_dict).collect()
}

fn as_object<'py>(py: Python<'py>, value: &EventValue) -> PyResult<Bound<'py, PyAny>> {
    match value {
        EventValue::Text(text) => text.into_bound_py_any(py),
        EventValue::Number(number) => number.into_bound_py_any(py),
        EventValue::Seconds(seconds) => seconds.into_bound_py_any(py),
        EventValue::Texts(texts) => texts.into_bound_py_any(py),
        EventValue::Nothing => Ok(py.None().into_bound(py)),
    }
}

/// Has Python log what there is to log. Raises only what a signal's handler does.
pub(super) fn log(py: Python<'_>) -> PyResult<()> {
    match events::is_any() {
        true => py.import("redfloe._log")?.call_method0("log_events").map(drop),
        false => Ok(()),
    }
}
