//! Several lanes in one loop: waits for whichever has something, and shares the lanes with others.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use tokio::time::timeout;

use super::connection::Server;
use super::operation::{Operation, Outcome, Running};
use crate::client::LentRuntime;
use crate::error::{Error, Result};
use crate::process::{Membership, Step, Stopper};

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
    /// The process that made it. In a forked child the lock may be held by a thread that is not there.
    process: u32,
}

#[derive(Default)]
struct Asked {
    running: BTreeMap<usize, Running>,
    /// Which of them was the last to come to its end: those after it are looked at first.
    last: usize,
}

impl Asked {
    /// Looks whether one of them has come to its end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(usize, Result<Outcome>)> {
        let last = self.last;
        let after = (Bound::Excluded(last), Bound::Unbounded);
        let numbers = self.running.range(after).chain(self.running.range(..=last));
        let numbers: Vec<usize> = numbers.map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(running) = self.running.get_mut(&number)
                && let Poll::Ready(outcome) = Pin::new(running).poll(context)
            {
                self.running.remove(&number);
                self.last = number;
                return Poll::Ready((number, outcome));
            }
        }
        Poll::Pending
    }
}

#[pymethods]
impl Selection {
    #[new]
    fn new(runtime: &Runtime) -> Self {
        let process = std::process::id();
        Selection { asked: Arc::default(), runtime: runtime.clone(), process }
    }

    /// Another one to wait for, which is started with the next wait.
    fn add(&self, number: usize, operation: &Operation) -> PyResult<()> {
        let running = operation.take()?;
        self.with(|asked| drop(asked.running.insert(number, running)));
        Ok(())
    }

    /// Gives one up, if it has not come to its end.
    fn remove(&self, number: usize) {
        self.with(|asked| drop(asked.running.remove(&number)));
    }

    /// The numbers of those that are waited for.
    fn numbers(&self) -> Vec<usize> {
        self.with(|asked| asked.running.keys().copied().collect()).unwrap_or_default()
    }

    /// Waits that long for the first that comes to its end, and gives its number and what it has come to.
    fn first(&self, patience_ms: u64) -> Operation {
        let asked = Arc::clone(&self.asked);
        // The lock is held while one looks and not while one waits: others add and remove meanwhile.
        let first = poll_fn(move |context| lock(&asked).poll(context));
        let waiting = async move {
            // Their own errors are told with their numbers.
            Ok(timeout(Duration::from_millis(patience_ms), first).await.ok())
        };
        Operation::new(waiting, |py, first: Option<(usize, Result<Outcome>)>| {
            let Some((number, outcome)) = first else { return Ok(py.None()) };
            let come = match outcome {
                Ok(outcome) => outcome(py),
                Err(error) => Err(super::error::exception(py, &error)),
            };
            match come {
                Ok(value) => (number, value, py.None()).into_py_any(py),
                Err(error) => (number, py.None(), error.into_value(py)).into_py_any(py),
            }
        })
        .on(self.runtime.lent())
        .only_while_waited_for()
    }
}

impl Selection {
    /// Looks at what is asked, in the process that asks it.
    fn with<T>(&self, look: impl FnOnce(&mut Asked) -> T) -> Option<T> {
        (self.process == std::process::id()).then(|| look(&mut lock(&self.asked)))
    }
}

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    // An operation that panicked is one that never ends.
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of those who share the lanes. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct LaneMember {
    membership: Arc<tokio::sync::Mutex<Membership>>,
    lanes: usize,
    stopper: Stopper,
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
        let membership = Arc::new(tokio::sync::Mutex::new(membership));
        let stopper = Stopper::default();
        Ok(LaneMember { membership, lanes, stopper, runtime: runtime.clone() })
    }

    /// Says how many lanes this one has, and gives how many it is to acquire, or, where that is negative, to
    /// leave to others.
    fn beat(&self, held: usize) -> Operation {
        let (membership, lanes) = (Arc::clone(&self.membership), self.lanes);
        let stopper = self.stopper.clone();
        let beating = async move {
            let beating = async { membership.lock().await.beat(held, lanes).await };
            let step = stopper.or(beating).await.unwrap_or(Ok(Step::Stay))?;
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

    /// Has nobody wait for a server that is silent any more.
    fn stop(&self) {
        self.stopper.stop();
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
