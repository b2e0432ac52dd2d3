//! The extension module `redfloe._core`: arguments in, Arrow out. The only files that know Python.

mod arrow;
mod connection;
mod error;
mod read;
mod wait;

use pyo3::prelude::*;

/// Registers, and does nothing else.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<connection::RedisConnection>()?;
    module.add_class::<arrow::RecordBatch>()?;
    module.add_function(wrap_pyfunction!(read::read_stream, module)?)?;
    module.add_function(wrap_pyfunction!(read::infer_schema, module)?)?;
    module.add_function(wrap_pyfunction!(error::raise_kind, module)?)?;
    Ok(())
}
