//! The one way from the runtime's threads to an event loop: a socket that the loop watches.
//!
//! No thread of the runtime calls into Python. It would have to take the GIL, and where the
//! interpreter is being finalized CPython ends a thread that tries, in the middle of Rust's frames,
//! which aborts the process.

use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use super::error::{exception, no_panic};
use crate::client::{panicked, spawn};
use crate::error::Result;
use crate::events::{Listener, listen};
use crate::write::WriteControl;

/// What a task came to, made into Python's terms by the thread that asks for it.
type Outcome = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// A future on the process's runtime, for a coroutine to wait for. Documented in `_core.pyi`.
#[pyclass(frozen, generic, module = "redfloe._core")]
pub(crate) struct Task {
    state: Arc<Mutex<State>>,
    handle: AbortHandle,
    on_cancel: OnCancel,
    stop: Option<Box<dyn Fn() + Send + Sync>>,
    /// What a write is watched by.
    control: Option<WriteControl>,
    /// The process whose runtime runs it; in a forked child it never ends, and a lock of its may be
    /// held by a thread that is not there.
    process: u32,
}

/// What becomes of a task that nobody waits for any more.
#[derive(PartialEq)]
enum OnCancel {
    Abort,
    Continue,
}

enum State {
    Running(Option<Watcher>),
    Done(Option<Outcome>),
}

impl Task {
    /// Starts a future. Cancelling the task drops it.
    pub(super) fn start<T>(
        py: Python<'_>,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> PyResult<Task>
    where
        T: for<'py> IntoPyObject<'py> + Send + 'static,
    {
        Task::start_with(py, future, |py, result| {
            result.map_err(|error| exception(py, &error))?.into_py_any(py)
        })
    }

    /// Starts a future whose output `convert` makes a Python object of, or an exception.
    pub(super) fn start_with<T: Send + 'static>(
        py: Python<'_>,
        future: impl Future<Output = T> + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Task> {
        let state = Arc::new(Mutex::new(State::Running(None)));
        let mut completer = Completer { state: Some(Arc::clone(&state)) };
        let running = async move {
            let caught = AssertUnwindSafe(future).catch_unwind().await;
            completer.complete(Box::new(move |py| match caught {
                Ok(output) => convert(py, output),
                Err(_) => Err(exception(py, &panicked())),
            }));
        };
        let handle = spawn(running).map_err(|error| exception(py, &error))?;
        let process = std::process::id();
        let on_cancel = OnCancel::Abort;
        Ok(Task { state, handle, on_cancel, stop: None, control: None, process })
    }

    /// The task goes on when it is cancelled.
    pub(super) fn detached(mut self) -> Self {
        self.on_cancel = OnCancel::Continue;
        self
    }

    /// `stop` brings the task to an early and orderly end.
    pub(super) fn with_stop(mut self, stop: impl Fn() + Send + Sync + 'static) -> Self {
        self.stop = Some(Box::new(stop));
        self
    }

    /// The task is a write that this watches and stops.
    pub(super) fn with_control(mut self, control: WriteControl) -> Self {
        self.control = Some(control.clone());
        self.with_stop(move || control.stop())
    }

    fn is_own(&self) -> bool {
        self.process == std::process::id()
    }

    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        match self.is_own() {
            true => Ok(lock(&self.state)),
            false => Err(PyRuntimeError::new_err(
                "this was started by the process that this one was forked from; start it again",
            )),
        }
    }
}

#[pymethods]
impl Task {
    /// Gives up waiting: the task is dropped where it is, unless it is one that goes on.
    fn cancel(&self) {
        if self.on_cancel == OnCancel::Abort && self.is_own() {
            self.handle.abort();
        }
    }

    /// Asks for an early end, which then comes with a result. Nothing for tasks without one.
    fn stop(&self) {
        if let Some(stop) = &self.stop
            && self.is_own()
        {
            stop();
        }
    }

    /// How many rows of a write are in so far.
    #[getter]
    fn rows_written(&self) -> u64 {
        self.control.as_ref().map_or(0, WriteControl::rows_written)
    }

    /// What the task came to, once it is done; given once.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let outcome = match &mut *self.state()? {
            State::Running(_) => None,
            State::Done(outcome) => outcome.take(),
        };
        match outcome {
            Some(outcome) => no_panic(py, || outcome(py)),
            None => Err(PyRuntimeError::new_err("the task is not done, or its result was taken")),
        }
    }
}

impl Drop for Task {
    /// Nobody can ask for its result any more.
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The runtime's side of a task: it says that the task is done, whatever its end.
struct Completer {
    state: Option<Arc<Mutex<State>>>,
}

impl Completer {
    fn complete(&mut self, outcome: Outcome) {
        let Some(state) = self.state.take() else { return };
        let before = std::mem::replace(&mut *lock(&state), State::Done(Some(outcome)));
        if let State::Running(Some(watcher)) = before {
            watcher.wake();
        }
    }
}

impl Drop for Completer {
    /// The task was aborted, perhaps while somebody else waits for it.
    fn drop(&mut self) {
        self.complete(Box::new(|_| Err(PyRuntimeError::new_err("the task was cancelled"))));
    }
}

/// Which tasks of an event loop are done, and whether there is something to log. Documented in
/// `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Completions {
    sockets: Arc<Sockets>,
}

/// A pair of which the event loop watches one end; the other is written to. Tasks own both, so
/// that no write meets a closed end: SIGPIPE may not be ignored.
struct Sockets {
    watched: UnixStream,
    written: UnixStream,
    numbers: AtomicU64,
    /// In a forked child the sockets are shared with the parent, and a thread that is not there may
    /// hold the lock.
    process: u32,
    news: Mutex<News>,
}

/// What the event loop has not taken yet. There is a byte in the socket when there is any.
#[derive(Default)]
struct News {
    /// Tasks that are done.
    done: Vec<u64>,
    /// Something is to be logged.
    events: bool,
}

/// Where a task says that it is done.
struct Watcher {
    sockets: Arc<Sockets>,
    number: u64,
}

impl Sockets {
    fn open() -> io::Result<Self> {
        let (watched, written) = UnixStream::pair()?;
        watched.set_nonblocking(true)?;
        written.set_nonblocking(true)?;
        Ok(Sockets {
            watched,
            written,
            numbers: AtomicU64::new(0),
            process: std::process::id(),
            news: Mutex::default(),
        })
    }

    fn tell(&self, add: impl FnOnce(&mut News)) {
        let mut news = lock(&self.news);
        let is_first = news.done.is_empty() && !news.events;
        add(&mut news);
        if is_first {
            // It cannot fail: the other end is open, and a byte at a time is in the socket.
            let _ = (&self.written).write(&[0]);
        }
    }
}

impl Listener for Sockets {
    fn wake(&self) {
        self.tell(|news| news.events = true);
    }
}

impl Watcher {
    fn wake(self) {
        self.sockets.tell(|news| news.done.push(self.number));
    }
}

#[pymethods]
impl Completions {
    #[new]
    fn new() -> PyResult<Self> {
        let sockets = Arc::new(Sockets::open()?);
        listen(Arc::downgrade(&sockets) as Weak<dyn Listener>);
        Ok(Completions { sockets })
    }

    /// The socket that becomes readable when a task is done, or an event is to be logged.
    fn fileno(&self) -> RawFd {
        self.sockets.watched.as_raw_fd()
    }

    /// Will tell when the task is done, by the number that this gives.
    fn watch(&self, task: &Task) -> PyResult<u64> {
        if self.sockets.process != std::process::id() {
            return Err(PyRuntimeError::new_err(
                "this event loop belongs to the process that this one was forked from; run another",
            ));
        }
        let number = self.sockets.numbers.fetch_add(1, Ordering::Relaxed);
        let watcher = Watcher { sockets: Arc::clone(&self.sockets), number };
        match &mut *task.state()? {
            State::Running(watching) => *watching = Some(watcher),
            State::Done(_) => watcher.wake(),
        }
        Ok(number)
    }

    /// The numbers of the tasks that are done since the last call.
    fn take(&self) -> Vec<u64> {
        if self.sockets.process != std::process::id() {
            return Vec::new();
        }
        // Both under the lock: there is a byte exactly while there is news. Where there is none it
        // fails.
        let mut news = lock(&self.sockets.news);
        let _ = (&self.sockets.watched).read(&mut [0; 8]);
        std::mem::take(&mut *news).done
    }
}

/// What the locks here guard is whole whatever their holder was doing when it panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
