//! `credentials=`: a function of the user's that is asked whenever a connection is opened.
//!
//! No thread of the runtime calls it. It leaves its question at a desk, and a thread of Python's,
//! which a socket wakes, calls the function and brings the answer.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use tokio::sync::oneshot;

use crate::client::{Credentials, CredentialsFuture, CredentialsProvider, PerProcess};
use crate::error::{Error, ErrorKind, Result};

/// A function that Python knows by this number.
pub(super) struct Function {
    number: u64,
}

impl Function {
    pub(super) fn new(number: u64) -> Self {
        Function { number }
    }
}

impl CredentialsProvider for Function {
    fn credentials(&self) -> CredentialsFuture<'_> {
        Box::pin(async move {
            let answer = desk()?.ask(self.number);
            answer.await.unwrap_or_else(|_| Err(refused("the credentials function was not called")))
        })
    }

    /// A number is far from any address.
    fn identity(&self) -> usize {
        self.number as usize
    }
}

impl Drop for Function {
    /// One less may call it.
    fn drop(&mut self) {
        if let Ok(desk) = desk() {
            desk.release(self.number);
        }
    }
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Authentication, message)
}

/// This process's desk.
fn desk() -> Result<&'static Desk> {
    static DESK: PerProcess<Desk> = PerProcess::new();
    DESK.get(|| {
        let (watched, written) = UnixStream::pair().map_err(|error| {
            Error::new(ErrorKind::Internal, "no socket for credentials").with_source(error)
        })?;
        Ok(Desk { watched, written, state: Mutex::default() })
    })
}

struct Desk {
    watched: UnixStream,
    written: UnixStream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Questions that nobody has taken yet: the question's number, and the function's.
    asked: Vec<(u64, u64)>,
    /// Functions that were dropped.
    released: Vec<u64>,
    waiting: HashMap<u64, oneshot::Sender<Result<Credentials>>>,
    questions: u64,
}

impl Desk {
    fn ask(&self, function: u64) -> oneshot::Receiver<Result<Credentials>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let question = state.questions;
        state.questions += 1;
        // Those that gave up waiting.
        state.waiting.retain(|_, waiting| !waiting.is_closed());
        state.waiting.insert(question, sender);
        self.wake(&state);
        state.asked.push((question, function));
        receiver
    }

    fn release(&self, function: u64) {
        let mut state = self.state();
        self.wake(&state);
        state.released.push(function);
    }

    fn answer(&self, question: u64, answer: Result<Credentials>) {
        if let Some(waiting) = self.state().waiting.remove(&question) {
            // Whoever asked may have given up.
            let _ = waiting.send(answer);
        }
    }

    /// There is a byte in the socket as long as there is something to take.
    fn wake(&self, before: &State) {
        if before.asked.is_empty() && before.released.is_empty() {
            // It cannot fail: both ends are open, and a byte or two at a time are in the socket.
            let _ = (&self.written).write(&[0]);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is whole whatever its holder was doing when it panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where connections that are being opened ask for credentials. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct CredentialsDesk {
    desk: &'static Desk,
}

#[pymethods]
impl CredentialsDesk {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(CredentialsDesk { desk: desk().map_err(|error| super::error::exception(py, &error))? })
    }

    fn fileno(&self) -> RawFd {
        self.desk.watched.as_raw_fd()
    }

    fn take(&self) -> (Vec<(u64, u64)>, Vec<u64>) {
        let mut state = self.desk.state();
        (std::mem::take(&mut state.asked), std::mem::take(&mut state.released))
    }

    fn give(&self, question: u64, username: Option<&str>, password: &str) {
        self.desk.answer(question, Ok(Credentials::new(username, password)));
    }

    /// The function failed. Time may mend what it raised, but not what it returned.
    fn refuse(&self, question: u64, why: &str, cause: Option<Bound<'_, PyAny>>) {
        let error = refused(why);
        let error = match cause {
            Some(cause) => error.with_source(PyErr::from_value(cause)).with_retryable(true),
            None => error,
        };
        self.desk.answer(question, Err(error));
    }
}
