//! `RedisConnection`: how a server is reached.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::error::exception;
use crate::client::{Client, ConnectionOptions, TlsOptions, shared_client};
use crate::error::Error;

/// How to reach a server. Documented in `_core.pyi`.
#[pyclass(frozen, eq, hash, module = "redfloe")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct RedisConnection {
    options: ConnectionOptions,
}

#[pymethods]
impl RedisConnection {
    // PyO3 turns the parameters of Python's signature into the function's own.
    #[allow(clippy::too_many_arguments)]
    #[new]
    #[pyo3(signature = (
        url, *, max_retries=5, retry_base_delay=0.1, retry_max_delay=30.0, connect_timeout=5.0,
        response_timeout=30.0, tls_ca=None, tls_cert=None, tls_key=None, client_name=None
    ))]
    fn new(
        py: Python<'_>,
        url: &str,
        max_retries: i64,
        retry_base_delay: f64,
        retry_max_delay: f64,
        connect_timeout: f64,
        response_timeout: f64,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        client_name: Option<&str>,
    ) -> PyResult<Self> {
        let max_retries = u32::try_from(max_retries)
            .map_err(|_| PyValueError::new_err("max_retries must be between 0 and 4294967295"))?;
        let base = seconds("retry_base_delay", retry_base_delay)?;
        let max = seconds("retry_max_delay", retry_max_delay)?;
        let connect = positive("connect_timeout", connect_timeout)?;
        let response = positive("response_timeout", response_timeout)?;
        let tls = TlsOptions { ca: tls_ca, cert: tls_cert, key: tls_key };
        let options = ConnectionOptions::parse(url)
            .and_then(|options| options.with_tls(tls)?.with_client_name(client_name))
            .map_err(|error| exception(py, &error))?
            .with_connect_timeout(connect)
            .with_response_timeout(response)
            .with_retries(max_retries, base, max);
        Ok(RedisConnection { options })
    }

    fn __repr__(&self) -> String {
        format!("RedisConnection(\"{}\")", self.options)
    }
}

fn seconds(name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        PyValueError::new_err(format!("{name} must be a number of seconds, not {seconds}"))
    })
}

fn positive(name: &str, value: f64) -> PyResult<Duration> {
    let duration = seconds(name, value)?;
    match duration.is_zero() {
        true => Err(PyValueError::new_err(format!("{name} must be above zero"))),
        false => Ok(duration),
    }
}

/// What Python code may call a server by.
pub(crate) enum Server {
    Connection(Py<RedisConnection>),
    Url(String),
}

impl<'py> FromPyObject<'_, 'py> for Server {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(connection) = object.cast::<RedisConnection>() {
            return Ok(Server::Connection(connection.to_owned().unbind()));
        }
        match object.extract() {
            Ok(url) => Ok(Server::Url(url)),
            Err(_) => Err(PyTypeError::new_err(format!(
                "url must be a str or a RedisConnection, not {}",
                object.get_type().name()?
            ))),
        }
    }
}

impl Server {
    /// The process's client of this server.
    pub(crate) fn client(&self, py: Python<'_>) -> PyResult<Client> {
        let options = match self {
            Server::Connection(connection) => Ok(connection.get().options.clone()),
            Server::Url(url) => ConnectionOptions::parse(url),
        };
        options
            .and_then(|options| shared_client(&options))
            .map_err(|error: Error| exception(py, &error))
    }
}
