//! `credentials=` and `address_map=`: functions of the user's that are asked whenever a connection is
//! opened.
//!
//! No thread of the runtime calls them. It leaves its question at a desk, and a thread of Python's,
//! which a socket wakes, calls the function and brings the answer. A question is answered by one call
//! at a time: one that hangs must not take a thread for each connection that is tried meanwhile. Who
//! asks while a call runs gets the answer of the next one, which is as new as one of their own.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use tokio::sync::oneshot;

use crate::client::{
    AddressFuture, AddressMapper, Credentials, CredentialsFuture, CredentialsProvider, PerProcess,
};
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
            match desk()?.ask((self.number, None)).await {
                Ok(Ok(Answer::Credentials(credentials))) => Ok(credentials),
                Ok(Err(error)) => Err(error),
                _ => Err(refused(false, "the credentials function was not called")),
            }
        })
    }

    /// A number is far from any address.
    fn identity(&self) -> usize {
        self.number as usize
    }
}

impl AddressMapper for Function {
    fn mapped(&self, host: &str, port: u16) -> AddressFuture<'_> {
        let announced = (host.to_owned(), port);
        Box::pin(async move {
            match desk()?.ask((self.number, Some(announced))).await {
                Ok(Ok(Answer::Address(host, port))) => Ok((host, port)),
                Ok(Err(error)) => Err(error),
                _ => Err(refused(true, "the address_map function was not called")),
            }
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

/// The error of a function that is asked for an address, or for credentials.
fn refused(is_address: bool, message: impl Into<String>) -> Error {
    let kind = if is_address { ErrorKind::Connection } else { ErrorKind::Authentication };
    Error::new(kind, message).with_retryable(false)
}

/// The number of a function, and what it is asked for: an address in place of this one, or credentials.
type Question = (u64, Option<(String, u16)>);

enum Answer {
    Credentials(Credentials),
    Address(String, u16),
}

/// This process's desk.
fn desk() -> Result<&'static Desk> {
    static DESK: PerProcess<Desk> = PerProcess::new();
    DESK.get(|| {
        let (watched, written) = UnixStream::pair().map_err(|error| {
            Error::new(ErrorKind::Internal, "no socket for questions").with_source(error)
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
    /// Questions that functions are to be called for.
    due: Vec<Question>,
    /// Functions that were dropped.
    released: Vec<u64>,
    /// By question, as long as a call for it is due or runs.
    asked: HashMap<Question, Asked>,
}

/// Who asks a question.
#[derive(Default)]
struct Asked {
    /// Those whom the call that runs answers.
    now: Vec<Asker>,
    /// Those who have asked since it began.
    later: Vec<Asker>,
}

type Asker = oneshot::Sender<Result<Answer>>;

impl Desk {
    fn ask(&self, question: Question) -> oneshot::Receiver<Result<Answer>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let is_first = !state.asked.contains_key(&question);
        let later = &mut state.asked.entry(question.clone()).or_default().later;
        later.retain(|asker| !asker.is_closed()); // those that gave up waiting
        later.push(sender);
        if is_first {
            self.call(&mut state, question);
        }
        receiver
    }

    /// Has a function called.
    fn call(&self, state: &mut State, question: Question) {
        self.wake(state);
        state.due.push(question);
    }

    /// The questions that functions are to be called for, whose calls begin; and the functions that were
    /// dropped.
    fn take(&self) -> (Vec<Question>, Vec<u64>) {
        let mut state = self.state();
        let due = std::mem::take(&mut state.due);
        for question in &due {
            if let Some(asked) = state.asked.get_mut(question) {
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
    fn answer(&self, question: Question, answer: impl Fn() -> Result<Answer>) {
        let mut state = self.state();
        let Some(mut asked) = state.asked.remove(&question) else { return };
        asked.later.retain(|asker| !asker.is_closed());
        let now = std::mem::take(&mut asked.now);
        if !asked.later.is_empty() {
            state.asked.insert(question.clone(), asked);
            self.call(&mut state, question);
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

/// Where connections that are being opened ask for credentials and addresses. Documented in `_core.pyi`.
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

    fn take(&self) -> (Vec<Question>, Vec<u64>) {
        self.desk.take()
    }

    fn give(&self, question: Question, username: Option<&str>, password: &str) {
        let credentials = || Answer::Credentials(Credentials::new(username, password));
        self.desk.answer(question, || Ok(credentials()));
    }

    fn give_address(&self, question: Question, host: &str, port: u16) {
        self.desk.answer(question, || Ok(Answer::Address(host.to_owned(), port)));
    }

    /// The function failed. Time may mend what it raised, but not what it returned.
    fn refuse(&self, question: Question, why: &str, cause: Option<Bound<'_, PyAny>>) {
        let is_address = question.1.is_some();
        self.desk.answer(question, || {
            let error = refused(is_address, why);
            Err(match &cause {
                Some(cause) => {
                    error.with_source(PyErr::from_value(cause.clone())).with_retryable(true)
                }
                None => error,
            })
        });
    }
}
