//! `RedisConnection`: how a server is reached.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyMapping, PyString, PyType};

use super::credentials::Function;
use super::error::exception;
use crate::client::{
    Address, Client, ConnectionOptions, PerProcess, ReadFrom, Secret, TlsOptions, shared_client,
    slot_of,
};
use crate::error::{Error, Result};
use crate::read::check_slots;

#[doc = include_str!(concat!(env!("OUT_DIR"), "/RedisConnection.txt"))]
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
        url, *, max_retries=None, retry_base_delay=0.1, retry_max_delay=30.0, connect_timeout=5.0,
        response_timeout=30.0, tls_ca=None, tls_cert=None, tls_key=None, client_name=None,
        username=None,
        password=None, credentials=None, sentinel_username=None, sentinel_password=None,
        read_from="master", address_map=None
    ))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = url_text)] url: String,
        max_retries: Option<WholeNumber>,
        #[pyo3(from_py_with = number)] retry_base_delay: f64,
        #[pyo3(from_py_with = number)] retry_max_delay: f64,
        #[pyo3(from_py_with = number)] connect_timeout: f64,
        #[pyo3(from_py_with = number)] response_timeout: f64,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        client_name: Option<&str>,
        #[pyo3(from_py_with = username_text)] username: Option<String>,
        #[pyo3(from_py_with = password_text)] password: Option<String>,
        credentials: Option<Bound<'_, PyAny>>,
        #[pyo3(from_py_with = sentinel_username_text)] sentinel_username: Option<String>,
        #[pyo3(from_py_with = sentinel_password_text)] sentinel_password: Option<String>,
        read_from: &str,
        address_map: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let max_retries = max_retries.map(|WholeNumber(number)| u32::try_from(number)).transpose();
        let max_retries = max_retries
            .map_err(|_| PyValueError::new_err("max_retries must be between 0 and 4294967295"))?;
        let base = seconds("retry_base_delay", retry_base_delay)?;
        let max = seconds("retry_max_delay", retry_max_delay)?;
        let connect = positive("connect_timeout", connect_timeout)?;
        let response = positive("response_timeout", response_timeout)?;
        let tls = TlsOptions { ca: tls_ca, cert: tls_cert, key: tls_key };
        let number: Option<u64> = match credentials {
            Some(credentials) => {
                Some(python(py)?.call_method1("register", (credentials,))?.extract()?)
            }
            None => None,
        };
        let function = number.map(|number| Arc::new(Function::new(number)));
        let (mut table, mut mapping): (Option<BTreeMap<String, String>>, Option<u64>) =
            (None, None);
        match address_map {
            Some(map) if map.is_callable() => {
                mapping =
                    Some(python(py)?.call_method1("register_address_map", (map,))?.extract()?);
            }
            Some(map) => table = Some(address_table(&map)?),
            None => {}
        }
        let mapper = mapping.map(|number| Arc::new(Function::new(number)));
        let options = ConnectionOptions::parse(&url)
            .and_then(|options| options.with_tls(tls)?.with_client_name(client_name))
            .and_then(|options| options.with_login(username.as_deref(), password.as_deref()))
            .and_then(|options| {
                let (username, password) = (&sentinel_username, &sentinel_password);
                options.with_sentinel_login(username.as_deref(), password.as_deref())
            })
            .and_then(|options| match function {
                Some(function) => options.with_credentials(function),
                None => Ok(options),
            })
            .and_then(|options| match table {
                Some(table) => options.with_address_map(table),
                None => Ok(options),
            })
            .map(|options| match mapper {
                Some(mapper) => options.with_address_mapper(mapper),
                None => options,
            })
            .map_err(|error| exception(py, &error))?
            .with_read_from(read_from_of(read_from)?)
            .with_connect_timeout(connect)
            .with_response_timeout(response)
            .with_retries(max_retries, base, max);
        let login = Login {
            url: Secret::new(&url),
            username,
            password: password.as_deref().map(Secret::new),
            sentinel_username,
            sentinel_password: sentinel_password.as_deref().map(Secret::new),
            function: number,
            mapping,
        };
        let given = Given { options, login };
        Ok(RedisConnection { server: Server::Options(Arc::new(given)) })
    }

    #[doc = include_str!(concat!(env!("OUT_DIR"), "/RedisConnection.from_env.txt"))]
    #[classmethod]
    #[pyo3(signature = (prefix="REDIS_"))]
    fn from_env(_class: &Bound<'_, PyType>, prefix: &str) -> PyResult<Py<PyAny>> {
        let py = _class.py();
        Ok(py.import("redfloe._settings")?.call_method1("from_env", (prefix,))?.unbind())
    }

    #[doc = include_str!(concat!(env!("OUT_DIR"), "/RedisConnection.from_file.txt"))]
    #[classmethod]
    #[pyo3(signature = (path, *, section="redis", env_prefix="REDIS_"))]
    fn from_file(
        _class: &Bound<'_, PyType>,
        path: PathBuf,
        section: Option<&str>,
        env_prefix: Option<&str>,
    ) -> PyResult<Py<PyAny>> {
        let py = _class.py();
        let arguments = (path, section, env_prefix);
        Ok(py.import("redfloe._settings")?.call_method1("from_file", arguments)?.unbind())
    }

    /// What pickle makes an equal one from, in another process too: with the password.
    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((String,), Bound<'py, PyDict>)> {
        let Given { options, login } = self.server.given(py)?;
        let settings = PyDict::new(py);
        settings.set_item("max_retries", options.max_retries)?;
        settings.set_item("retry_base_delay", options.retry_base_delay.as_secs_f64())?;
        settings.set_item("retry_max_delay", options.retry_max_delay.as_secs_f64())?;
        settings.set_item("connect_timeout", options.connect_timeout.as_secs_f64())?;
        settings.set_item("response_timeout", options.response_timeout.as_secs_f64())?;
        if let Some(TlsOptions { ca, cert, key }) = &options.tls {
            settings.set_item("tls_ca", ca)?;
            settings.set_item("tls_cert", cert)?;
            settings.set_item("tls_key", key)?;
        }
        settings.set_item("client_name", &options.client_name)?;
        if options.read_from() == ReadFrom::Replica {
            settings.set_item("read_from", "replica")?;
        }
        if let Some(table) = options.address_table() {
            settings.set_item("address_map", table)?;
        }
        if let Some(number) = login.mapping {
            settings.set_item("address_map", python(py)?.call_method1("registered", (number,))?)?;
        }
        settings.set_item("username", &login.username)?;
        settings.set_item("password", login.password.as_ref().map(Secret::expose))?;
        settings.set_item("sentinel_username", &login.sentinel_username)?;
        let sentinel_password = login.sentinel_password.as_ref().map(Secret::expose);
        settings.set_item("sentinel_password", sentinel_password)?;
        if let Some(number) = login.function {
            settings.set_item("credentials", python(py)?.call_method1("registered", (number,))?)?;
        }
        Ok(((login.url.expose().to_owned(),), settings))
    }

    fn __repr__(&self) -> String {
        match &self.server {
            Server::Options(given) => format!("RedisConnection(\"{}\")", given.options),
            Server::Malformed(_) | Server::NoUrl(_) => "RedisConnection(<refused>)".to_owned(),
        }
    }
}

fn read_from_of(text: &str) -> PyResult<ReadFrom> {
    match text {
        "master" => Ok(ReadFrom::Master),
        "replica" => Ok(ReadFrom::Replica),
        other => Err(PyValueError::new_err(format!(
            "read_from must be \"master\" or \"replica\", not {other:?}"
        ))),
    }
}

/// Raises where the server is known to be a cluster, and the dead letters would be of another slot.
#[pyfunction]
pub(crate) fn check_dead_letter(
    py: Python<'_>,
    server: Server,
    stream: &[u8],
    dead_letter: &[u8],
) -> PyResult<()> {
    match server.client(py)?.is_cluster() {
        true => check_slots(stream, dead_letter).map_err(|error| exception(py, &error)),
        false => Ok(()),
    }
}

/// The slot of a cluster that a key belongs to.
#[pyfunction]
pub(crate) fn key_slot(key: &[u8]) -> u16 {
    slot_of(key)
}

fn url_text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    secret_text("url", value)
}

fn username_text(value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    optional_text("username", value)
}

fn password_text(value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    optional_text("password", value)
}

fn sentinel_username_text(value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    optional_text("sentinel_username", value)
}

fn sentinel_password_text(value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    optional_text("sentinel_password", value)
}

fn optional_text(parameter: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if value.is_none() { Ok(None) } else { secret_text(parameter, value).map(Some) }
}

/// A text that is not quoted where it is no UTF-8: Python's own error would keep it.
fn secret_text(parameter: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    let Ok(text) = value.cast::<PyString>() else {
        let kind = value.get_type().name()?;
        return Err(PyTypeError::new_err(format!("{parameter} must be str, not {kind}")));
    };
    text.to_str().map(str::to_owned).map_err(|_| {
        PyValueError::new_err(format!(
            "{parameter} has a lone surrogate, as of bytes that are not UTF-8; write such bytes in \
             a URL as %XX"
        ))
    })
}

/// What a function of the package was given as `url`, without the password that a text shows. It
/// refuses nothing: an exception would show the text in the frames that it passes. What it makes
/// raises when it is used, or by [`check_connection`].
#[pyfunction]
pub(crate) fn connect(py: Python<'_>, url: Bound<'_, PyAny>) -> PyResult<Py<RedisConnection>> {
    let other = match url.cast_into::<RedisConnection>() {
        Ok(connection) => return Ok(connection.unbind()),
        Err(other) => other.into_inner(),
    };
    if let Some(text) = other.cast::<PyString>().ok().and_then(|text| text.to_cow().ok())
        && let Some(known) = latest().iter().rfind(|known| known.get().server.is_of(&text))
    {
        return Ok(known.clone_ref(py));
    }
    let connection = Py::new(py, RedisConnection { server: other.extract()? })?;
    if let Server::Options(_) = connection.get().server {
        let mut latest = latest();
        let oldest = (latest.len() == MOST_LATEST).then(|| latest.remove(0));
        latest.push(connection.clone_ref(py));
        drop(latest);
        drop(oldest);
    }
    Ok(connection)
}

/// What the latest texts stood for: to parse one takes a part of the time of a small call.
static LATEST: PerProcess<Mutex<Vec<Py<RedisConnection>>>> = PerProcess::new();

const MOST_LATEST: usize = 8;

/// No Python runs while it is locked.
fn latest() -> MutexGuard<'static, Vec<Py<RedisConnection>>> {
    let Ok(latest) = LATEST.get(|| Ok::<_, Infallible>(Mutex::default()));
    // A list is whole whatever its holder was doing when it panicked.
    latest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises where [`connect`] was given what names no server.
#[pyfunction]
pub(crate) fn check_connection(py: Python<'_>, connection: &RedisConnection) -> PyResult<()> {
    connection.server.given(py).map(drop)
}

/// The host and the port; without a port the path of a Unix socket, or the sentinels and the master's
/// name.
#[pyfunction]
pub(crate) fn server_address(
    py: Python<'_>,
    connection: &RedisConnection,
) -> PyResult<(String, Option<u16>)> {
    Ok(match &connection.server.given(py)?.options.address {
        Address::Tcp { host, port } => (host.clone(), Some(*port)),
        Address::Unix(path) => (path.to_string_lossy().into_owned(), None),
        // Which server is the master changes.
        Address::Sentinel(sentinels) => (sentinels.to_string(), None),
    })
}

/// An int of Python; one that is too large as one that is out of all bounds.
struct WholeNumber(i64);

impl<'py> FromPyObject<'_, 'py> for WholeNumber {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        fitting(&object, -1).map(WholeNumber)
    }
}

/// A float of Python, or an int; one that is too large as infinity.
fn number(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    fitting(value, f64::INFINITY)
}

fn fitting<'py, T>(value: &Bound<'py, PyAny>, too_large: T) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    if value.is_instance_of::<PyBool>() {
        // A flag that was meant for another parameter.
        return Err(PyTypeError::new_err("must be a number, not bool"));
    }
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

/// A mapping of addresses.
fn address_table(map: &Bound<'_, PyAny>) -> PyResult<BTreeMap<String, String>> {
    let mapping = map.cast::<PyMapping>().map_err(|_| {
        PyTypeError::new_err(format!(
            "address_map must be a mapping of host:port to host:port, or a function (host, port) -> (host, \
             port), not {}",
            map.get_type().name().map_or_else(|_| "that".to_owned(), |name| name.to_string())
        ))
    })?;
    mapping.items()?.iter().map(|item| item.extract()).collect()
}

/// The module that knows the functions which give credentials and addresses.
fn python(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("redfloe._credentials")
}

/// How a server is reached, and what that was said by. Equal where the options are.
#[derive(Clone)]
pub(crate) struct Given {
    options: ConnectionOptions,
    login: Login,
}

/// The words that the server and the login were given by, which a pickle repeats.
#[derive(Clone)]
struct Login {
    url: Secret,
    username: Option<String>,
    password: Option<Secret>,
    sentinel_username: Option<String>,
    sentinel_password: Option<Secret>,
    /// The numbers of the functions that give credentials, and addresses.
    function: Option<u64>,
    mapping: Option<u64>,
}

impl Given {
    fn parse(url: &str) -> Result<Self> {
        let login = Login {
            url: Secret::new(url),
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            function: None,
            mapping: None,
        };
        Ok(Given { options: ConnectionOptions::parse(url)?, login })
    }
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        self.options == other.options
    }
}

impl Eq for Given {}

impl Hash for Given {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.options.hash(state);
    }
}

/// What Python code may call a server by.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Server {
    Options(Arc<Given>),
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
        Ok(match url.to_cow().map(|url| Given::parse(&url)) {
            Ok(Ok(given)) => Server::Options(Arc::new(given)),
            Ok(Err(error)) => Server::Malformed(error.to_string()),
            Err(_) => Server::Malformed("the URL is no valid Unicode".to_owned()),
        })
    }
}

impl Server {
    /// Whether this text is what it was given by.
    fn is_of(&self, url: &str) -> bool {
        matches!(self, Server::Options(given) if given.login.url.expose() == url)
    }

    fn given(&self, py: Python<'_>) -> PyResult<&Given> {
        match self {
            Server::Options(given) => Ok(given),
            Server::Malformed(why) => Err(exception(py, &Error::invalid(why.as_str()))),
            Server::NoUrl(class) => Err(PyTypeError::new_err(format!(
                "url must be a str or a RedisConnection, not {class}"
            ))),
        }
    }

    /// The process's client of this server.
    pub(crate) fn client(&self, py: Python<'_>) -> PyResult<Client> {
        let given = self.given(py)?;
        if given.login.function.is_some() || given.login.mapping.is_some() {
            python(py)?.call_method0("watch")?;
        }
        shared_client(&given.options).map_err(|error| exception(py, &error))
    }
}
