//! Several lanes in one loop: waits for whichever has something, and shares the lanes with others.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::Server;
use super::operation::{Operation, Outcome, Running};
use crate::client::LentRuntime;
use crate::error::{Error, Result};
use crate::process::{Membership, Step};

/// What the connections of several lanes belong to, for those who wait without an event loop.
#[pyclass(frozen, skip_from_py_object, module = "redfloe._core")]
#[derive(Clone)]
pub(crate) struct Runtime(Arc<LentRuntime>);

#[pymethods]
impl Runtime {
    #[new]
    fn new() -> Self {
        Runtime(Arc::new(LentRuntime::new()))
    }
}

impl Runtime {
    pub(super) fn lent(&self) -> &Arc<LentRuntime> {
        &self.0
    }
}

/// Operations that are waited for together; those that have not come to their end go on with the next wait.
/// Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Selection {
    asked: Arc<Mutex<Asked>>,
    runtime: Runtime,
}

#[derive(Default)]
struct Asked {
    running: HashMap<usize, Running>,
    /// Which of them was the last to come to its end: the others come first.
    last: usize,
}

impl Asked {
    /// Waits for the first of them.
    async fn first(&mut self) -> (usize, Result<Outcome>) {
        let ended = poll_fn(|context| {
            let mut numbers: Vec<usize> = self.running.keys().copied().collect();
            numbers.sort_unstable_by_key(|number| (*number <= self.last, *number));
            for number in numbers {
                if let Some(running) = self.running.get_mut(&number)
                    && let Poll::Ready(outcome) = Pin::new(running).poll(context)
                {
                    return Poll::Ready((number, outcome));
                }
            }
            Poll::Pending
        });
        let (number, outcome) = ended.await;
        self.running.remove(&number);
        self.last = number;
        (number, outcome)
    }
}

#[pymethods]
impl Selection {
    #[new]
    fn new(runtime: &Runtime) -> Self {
        Selection { asked: Arc::default(), runtime: runtime.clone() }
    }

    /// Another one to wait for, which is started with the next wait.
    fn add(&self, number: usize, operation: &Operation) -> PyResult<()> {
        let running = operation.take()?;
        self.with(|asked| drop(asked.running.insert(number, running)))
    }

    /// Gives one up, if it has not come to its end.
    fn remove(&self, number: usize) -> PyResult<()> {
        self.with(|asked| drop(asked.running.remove(&number)))
    }

    /// The numbers of those that are waited for.
    fn numbers(&self) -> PyResult<Vec<usize>> {
        self.with(|asked| asked.running.keys().copied().collect())
    }

    /// Waits that long for the first that comes to its end, and gives its number and what it has come to.
    fn first(&self, patience_ms: u64) -> Operation {
        let asked = Arc::clone(&self.asked);
        let waiting = async move {
            let until = Instant::now() + Duration::from_millis(patience_ms);
            let mut asked = asked.lock().await;
            tokio::select! {
                first = asked.first() => Ok(Some(first)),
                () = sleep_until(until) => Ok(None),
            }
        };
        Operation::new(waiting, |py, first: Option<(usize, Result<Outcome>)>| {
            let Some((number, outcome)) = first else { return Ok(py.None()) };
            let come = match outcome {
                Ok(outcome) => outcome(py),
                Err(error) => Err(super::error::exception(py, &error)),
            };
            match come {
                Ok(value) => (number, value, py.None()).into_py_any(py),
                // Its caller has to know of which.
                Err(error) => (number, py.None(), error.into_value(py)).into_py_any(py),
            }
        })
        .on(self.runtime.lent())
        .only_while_waited_for()
    }
}

impl Selection {
    fn with<T>(&self, change: impl FnOnce(&mut Asked) -> T) -> PyResult<T> {
        let Ok(mut asked) = self.asked.try_lock() else {
            let message = "another thread or task waits for these lanes";
            return Err(pyo3::exceptions::PyRuntimeError::new_err(message));
        };
        Ok(change(&mut asked))
    }
}

/// One of those who share the lanes. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct LaneMember {
    membership: Arc<Mutex<Membership>>,
    lanes: usize,
    runtime: Runtime,
}

#[pymethods]
impl LaneMember {
    #[new]
    fn new(
        py: Python<'_>,
        server: Server,
        stream: &[u8],
        name: &[u8],
        own: Vec<u8>,
        counts: (usize, u64),
        runtime: &Runtime,
    ) -> PyResult<Self> {
        let (lanes, counts_for_ms) = counts;
        let counts_for = Duration::from_millis(counts_for_ms);
        let membership = Membership::new(&server.client(py)?, stream, name, own, counts_for);
        let membership = Arc::new(Mutex::new(membership));
        Ok(LaneMember { membership, lanes, runtime: runtime.clone() })
    }

    /// Says how many lanes this one has, and gives how many it is to acquire, or, where that is negative, to
    /// leave to others.
    fn beat(&self, held: usize) -> Operation {
        let (membership, lanes) = (Arc::clone(&self.membership), self.lanes);
        let beating = async move {
            let step = membership.lock().await.beat(held, lanes).await?;
            let number = |number: usize| i64::try_from(number).map_err(|_| Error::invalid("lanes"));
            match step {
                Step::Stay => Ok(0),
                Step::Take(lanes) => number(lanes),
                Step::GiveUp(lanes) => number(lanes).map(|lanes| -lanes),
            }
        };
        Operation::new(beating, |py, step: i64| step.into_py_any(py))
            .on(self.runtime.lent())
            .only_while_waited_for()
    }

    /// Says that this one is there no more, as far as that takes no longer than so many milliseconds: it
    /// counts for a while only.
    fn leave(&self, patience_ms: u64) -> Operation {
        let membership = Arc::clone(&self.membership);
        let leaving = async move {
            let leaving = async { membership.lock().await.leave().await };
            // Nothing depends on it.
            let _ = timeout(Duration::from_millis(patience_ms), leaving).await;
            Ok(())
        };
        Operation::new(leaving, |py, ()| Ok(py.None())).on(self.runtime.lent())
    }
}
