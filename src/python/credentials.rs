//! `credentials=`: a function of the user's that is asked whenever a connection is opened.
//!
//! No thread of the runtime calls it. It leaves its question at a desk, and a thread of Python's,
//! which a socket wakes, calls the function and brings the answer. A function is called once at a
//! time: one that hangs must not take a thread for each connection that is tried meanwhile. Who asks
//! while a call runs gets the answer of the next one, which is as new as one of their own.

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
    /// Functions that are to be called.
    due: Vec<u64>,
    /// Functions that were dropped.
    released: Vec<u64>,
    /// By function, as long as a call of it is due or runs.
    asked: HashMap<u64, Asked>,
}

/// Who asks a function.
#[derive(Default)]
struct Asked {
    /// Those whom the call that runs answers.
    now: Vec<Asker>,
    /// Those who have asked since it began.
    later: Vec<Asker>,
}

type Asker = oneshot::Sender<Result<Credentials>>;

impl Desk {
    fn ask(&self, function: u64) -> oneshot::Receiver<Result<Credentials>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let is_first = !state.asked.contains_key(&function);
        let later = &mut state.asked.entry(function).or_default().later;
        later.retain(|asker| !asker.is_closed()); // those that gave up waiting
        later.push(sender);
        if is_first {
            self.call(&mut state, function);
        }
        receiver
    }

    /// Has a function called.
    fn call(&self, state: &mut State, function: u64) {
        self.wake(state);
        state.due.push(function);
    }

    /// The functions that are to be called, whose calls begin; and those that were dropped.
    fn take(&self) -> (Vec<u64>, Vec<u64>) {
        let mut state = self.state();
        let due = std::mem::take(&mut state.due);
        for function in &due {
            if let Some(asked) = state.asked.get_mut(function) {
                asked.now = std::mem::take(&mut asked.later);
            }
        }
        (due, std::mem::take(&mut state.released))
    }

    fn release(&self, function: u64) {
        let mut state = self.state();
        self.wake(&state);
        state.released.push(function);
    }

    /// A call has ended.
    fn answer(&self, function: u64, answer: impl Fn() -> Result<Credentials>) {
        let mut state = self.state();
        let Some(mut asked) = state.asked.remove(&function) else { return };
        asked.later.retain(|asker| !asker.is_closed());
        let now = std::mem::take(&mut asked.now);
        if !asked.later.is_empty() {
            state.asked.insert(function, asked);
            self.call(&mut state, function);
        }
        drop(state);
        for asker in now {
            // The caller may have given up.
            let _ = asker.send(answer());
        }
    }

    /// There is a byte in the socket as long as there is something to take.
    fn wake(&self, before: &State) {
        if before.due.is_empty() && before.released.is_empty() {
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

    fn take(&self) -> (Vec<u64>, Vec<u64>) {
        self.desk.take()
    }

    fn give(&self, function: u64, username: Option<&str>, password: &str) {
        self.desk.answer(function, || Ok(Credentials::new(username, password)));
    }

    /// The function failed. Time may mend what it raised, but not what it returned.
    fn refuse(&self, function: u64, why: &str, cause: Option<Bound<'_, PyAny>>) {
        self.desk.answer(function, || {
            Err(match &cause {
                Some(cause) => {
                    let source = PyErr::from_value(cause.clone());
                    refused(why).with_source(source).with_retryable(true)
                }
                None => refused(why),
            })
        });
    }
}
