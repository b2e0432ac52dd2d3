//! `RedisConnection`: how a server is reached.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::error::exception;
use crate::client::{Client, ConnectionOptions, TlsOptions, shared_client};
use crate::error::Error;

/// How to reach a server. Documented in `_core.pyi`.
#[pyclass(frozen, eq, hash, module = "redfloe")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct RedisConnection {
    server: Server,
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
        #[pyo3(from_py_with = whole_number)] max_retries: i64,
        #[pyo3(from_py_with = number)] retry_base_delay: f64,
        #[pyo3(from_py_with = number)] retry_max_delay: f64,
        #[pyo3(from_py_with = number)] connect_timeout: f64,
        #[pyo3(from_py_with = number)] response_timeout: f64,
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
        Ok(RedisConnection { server: Server::Options(Box::new(options)) })
    }

    fn __repr__(&self) -> String {
        match &self.server {
            Server::Options(options) => format!("RedisConnection(\"{options}\")"),
            Server::Malformed(_) | Server::NoUrl(_) => "RedisConnection(<refused>)".to_owned(),
        }
    }
}

/// What a function of the package was given as `url`, without the password that a text shows. It
/// refuses nothing: an exception would show the text in the frames that it passes. What it makes
/// raises when it is used, or by [`check_connection`].
#[pyfunction]
pub(crate) fn connect(py: Python<'_>, url: Bound<'_, PyAny>) -> PyResult<Py<RedisConnection>> {
    match url.cast_into::<RedisConnection>() {
        Ok(connection) => Ok(connection.unbind()),
        Err(other) => {
            let server = other.into_inner().extract()?;
            Py::new(py, RedisConnection { server })
        }
    }
}

/// Raises where [`connect`] was given what names no server.
#[pyfunction]
pub(crate) fn check_connection(py: Python<'_>, connection: &RedisConnection) -> PyResult<()> {
    connection.server.options(py).map(drop)
}

/// An int of Python; one that is too large as one that is out of all bounds.
fn whole_number(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    fitting(value, -1)
}

/// A float of Python, or an int; one that is too large as infinity.
fn number(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    fitting(value, f64::INFINITY)
}

fn fitting<'py, T>(value: &Bound<'py, PyAny>, too_large: T) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let extracted: PyResult<T> = value.extract();
    match extracted {
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => Ok(too_large),
        extracted => extracted,
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
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Server {
    Options(Box<ConnectionOptions>),
    /// A text that is no URL, and why.
    Malformed(String),
    /// Something of another type.
    NoUrl(String),
}

impl<'py> FromPyObject<'_, 'py> for Server {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(connection) = object.cast::<RedisConnection>() {
            return Ok(connection.get().server.clone());
        }
        let Ok(url) = object.cast::<PyString>() else {
            return Ok(Server::NoUrl(object.get_type().name()?.to_string()));
        };
        Ok(match url.to_cow().map(|url| ConnectionOptions::parse(&url)) {
            Ok(Ok(options)) => Server::Options(Box::new(options)),
            Ok(Err(error)) => Server::Malformed(error.to_string()),
            Err(_) => Server::Malformed("the URL is no valid Unicode".to_owned()),
        })
    }
}

impl Server {
    fn options(&self, py: Python<'_>) -> PyResult<&ConnectionOptions> {
        match self {
            Server::Options(options) => Ok(options),
            Server::Malformed(why) => Err(exception(py, &Error::invalid(why.as_str()))),
            Server::NoUrl(class) => Err(PyTypeError::new_err(format!(
                "url must be a str or a RedisConnection, not {class}"
            ))),
        }
    }

    /// The process's client of this server.
    pub(crate) fn client(&self, py: Python<'_>) -> PyResult<Client> {
        shared_client(self.options(py)?).map_err(|error| exception(py, &error))
    }
}
