//! Processors: their lanes and their loops.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::time::timeout;

use super::connection::Server;
use super::error::{exception, no_panic};
use super::lanes::Runtime;
use super::operation::Operation;
use super::request::Request;
use super::shards::Shards;
use super::table::{Table, TableColumns};
use super::transaction::{Pair, Transaction};
use crate::client::{Client, LentRuntime};
use crate::error::{Error, ErrorKind, Result};
use crate::process::table::{self, Changes};
use crate::process::{
    self, Alarm, Alarms, Came, Durability, LaneOptions, ProcessorOptions, Stopper, Told, check_slot,
};
use crate::read::OnDataLoss;
use crate::shard::ShardedStream;

/// How a processor acquires its lane and commits, as `redfloe._processing.arguments` puts it together.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ProcessorArguments {
    name: Vec<u8>,
    label: String,
    lease_ms: u64,
    takeover: bool,
    wait_replicas: u32,
    wait_aof: bool,
    wait_aof_replicas: u32,
    wait_timeout_ms: u64,
    max_commit_bytes: usize,
    dead_letter: Option<Vec<u8>>,
    max_deliveries: Option<u64>,
    outputs: Vec<Vec<u8>>,
    continue_after_loss: bool,
}

impl ProcessorArguments {
    fn processor(self, client: &Client, request: crate::ReadRequest) -> Result<process::Processor> {
        if client.is_cluster() {
            let stream = request.stream();
            self.outputs.iter().try_for_each(|output| check_slot(stream, output))?;
        }
        let lane = LaneOptions {
            lease: Duration::from_millis(self.lease_ms),
            takeover: self.takeover,
            durability: Durability {
                replicas: self.wait_replicas,
                local_aof: self.wait_aof,
                replica_aof: self.wait_aof_replicas,
                timeout: Duration::from_millis(self.wait_timeout_ms),
            },
            label: self.label,
            ..LaneOptions::default()
        };
        let options = ProcessorOptions {
            lane,
            on_data_loss: match self.continue_after_loss {
                true => OnDataLoss::Continue,
                false => OnDataLoss::Raise,
            },
            max_commit_bytes: self.max_commit_bytes,
            dead_letter: self.dead_letter,
            max_deliveries: self.max_deliveries,
        };
        process::Processor::new(client, request, &self.name, options)
    }
}

/// Checks what a processor is made of, without a server.
#[pyfunction]
pub(crate) fn check_processor(
    py: Python<'_>,
    server: Server,
    request: Request<'_>,
    options: ProcessorArguments,
) -> PyResult<()> {
    let request = request.read_request(py)?;
    let made = options.processor(&server.client(py)?, request);
    made.map(drop).map_err(|error| exception(py, &error))
}

/// A processor that has been started, until its `with` ends. Documented in `_core.pyi`.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Processor {
    shared: Arc<Shared>,
    stopper: Stopper,
    stats: Arc<Mutex<process::ProcessorStats>>,
    told: Told,
    /// What the lane's connection belongs to, for those who wait without an event loop.
    runtime: Arc<LentRuntime>,
}

struct Shared {
    processor: tokio::sync::Mutex<process::Processor>,
    /// The process that made it. In a forked child the lock may be held by a thread that is not there.
    process: u32,
}

impl Shared {
    async fn lock(&self) -> Result<tokio::sync::MutexGuard<'_, process::Processor>> {
        if !self.is_own() {
            let message = "this processor was started before the process forked, and belongs to the \
                           parent; make one in the child";
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        Ok(self.processor.lock().await)
    }

    fn is_own(&self) -> bool {
        self.process == std::process::id()
    }
}

/// An error of a processor whose caller may be gone. A loss counts as told once somebody has it.
struct Untold {
    error: Error,
    /// The epoch that it is about.
    epoch: Option<u64>,
}

impl Untold {
    fn of(error: Error, processor: &mut process::Processor) -> Self {
        Untold { error, epoch: processor.giving() }
    }

    /// What its caller is given.
    fn raised(&self, py: Python<'_>, told: &Told) -> PyErr {
        if let Some(epoch) = self.epoch {
            told.tell(epoch, self.error.kind());
        }
        exception(py, &self.error)
    }
}

#[pymethods]
impl Processor {
    #[new]
    #[pyo3(signature = (server, request, options, runtime=None))]
    fn new(
        py: Python<'_>,
        server: Server,
        request: Request<'_>,
        options: ProcessorArguments,
        runtime: Option<&Runtime>,
    ) -> PyResult<Self> {
        let request = request.read_request(py)?;
        let made = options.processor(&server.client(py)?, request);
        let processor = made.map_err(|error| exception(py, &error))?;
        Ok(Processor {
            stopper: processor.stopper(),
            stats: processor.watched(),
            told: processor.told(),
            shared: Arc::new(Shared {
                processor: tokio::sync::Mutex::new(processor),
                process: std::process::id(),
            }),
            runtime: runtime
                .map_or_else(|| Arc::new(LentRuntime::new()), |own| Arc::clone(own.lent())),
        })
    }

    /// The next batch, `None` at the end. Where the lane has been acquired since the epoch that the caller
    /// knows it is the epoch and the fields of the state instead, before there is a batch: what was known of
    /// them is to be forgotten, and it is asked again.
    /// Alarms, of a quiet time and a time of the server's clock, and of the loop's end, may have a batch come
    /// without entries.
    fn next(&self, epoch: Option<u64>, alarms: (Vec<(i64, i64)>, bool)) -> Operation {
        let shared = Arc::clone(&self.shared);
        let (quiet, at_end) = alarms;
        let quiet = quiet.into_iter().map(|(after_ms, due_ms)| Alarm { after_ms, due_ms });
        let alarms = Alarms { quiet: quiet.collect(), at_end };
        let next = async move {
            let mut processor = shared.lock().await?;
            let held = match processor.next_in(epoch, &alarms).await {
                Ok(Came::End) => return Ok(Ok((None, None))),
                Ok(Came::Batch(transaction)) => return Ok(Ok((None, Some(*transaction)))),
                Ok(Came::Lane(held)) => held,
                Err(error) => return Ok(Err(Untold::of(error, &mut processor))),
            };
            if processor.is_of_group() {
                return Ok(Ok((Some((held, Vec::new())), None)));
            }
            let (key, stopper) = (processor.state_key(), processor.stopper());
            let loaded = stopper.or(processor.load(&key)).await.transpose()?;
            let state = loaded.map(|state| (held, state.into_iter().collect::<Vec<Pair>>()));
            Ok(Ok((state, None)))
        };
        let told = self.told.clone();
        self.operation(Operation::new(next, move |py, next: Result<_, Untold>| {
            let (state, transaction) = next.map_err(|error| error.raised(py, &told))?;
            let state = state.map(|(epoch, state): (u64, Vec<Pair>)| {
                let bytes = |text: &[u8]| PyBytes::new(py, text).unbind();
                let pairs = state.iter().map(|(name, value)| (bytes(name), bytes(value)));
                (epoch, pairs.collect::<Vec<_>>())
            });
            (state, transaction.map(Transaction::new)).into_py_any(py)
        }))
        .only_while_waited_for()
    }

    /// The next batch, where it is there already and the lane is held in that epoch.
    fn at_hand(&self, epoch: u64) -> Option<Transaction> {
        // While it is in use, whoever waits for its turn is told.
        let mut processor =
            self.shared.is_own().then(|| self.shared.processor.try_lock().ok())??;
        let transaction = processor.at_hand().filter(|next| next.epoch() == epoch)?;
        Some(Transaction::new(transaction))
    }

    /// Waits for the lane, where it is not held; says whether it is, and not that the loop was stopped.
    fn hold(&self) -> Operation {
        let shared = Arc::clone(&self.shared);
        let holding = async move {
            let mut processor = shared.lock().await?;
            let held = processor.hold_untold().await;
            Ok(held.map_err(|error| Untold::of(error, &mut processor)))
        };
        let told = self.told.clone();
        self.operation(Operation::new(holding, move |py, held: Result<bool, Untold>| {
            held.map_err(|error| error.raised(py, &told))?.into_py_any(py)
        }))
        .only_while_waited_for()
    }

    /// Acquires the lane, if nobody else has it; says whether it is held.
    fn try_hold(&self) -> Operation {
        let shared = Arc::clone(&self.shared);
        let trying = async move { shared.lock().await?.try_hold().await };
        self.operation(Operation::new(trying, |py, held| held.into_py_any(py)))
    }

    /// The sharded stream, where the stream's name is that of one.
    #[pyo3(signature = (dead_letter=None))]
    fn find_shards(&self, dead_letter: Option<Vec<u8>>) -> Operation {
        let shared = Arc::clone(&self.shared);
        let finding = async move { shared.lock().await?.find_shards(dead_letter).await };
        self.operation(Operation::new(finding, |py, found: Option<ShardedStream>| {
            found.map(Shards).into_py_any(py)
        }))
        .only_while_waited_for()
    }

    /// Leaves the lane to others, to be acquired again later.
    fn release(&self) -> Operation {
        let shared = Arc::clone(&self.shared);
        let releasing = async move { shared.lock().await?.release().await };
        self.operation(Operation::new(releasing, |py, ()| Ok(py.None())))
    }

    /// Commits a transaction: what it is to write, what has changed of tables, by their names, and of the
    /// state. Says whether it is in; where it `settles`, it is not once the lane has to be acquired anew.
    fn commit(
        &self,
        py: Python<'_>,
        transaction: &Transaction,
        tables: Vec<(Vec<u8>, Py<Table>)>,
        state: (Vec<Pair>, Vec<Vec<u8>>),
        settles: bool,
    ) -> PyResult<Operation> {
        // Now, and not once the task runs: where the caller is cancelled meanwhile its tables are as they
        // were saved again, while the commit goes on.
        let tables: Vec<(Vec<u8>, Arc<Mutex<table::Table>>)> =
            tables.into_iter().map(|(name, table)| (name, table.get().shared())).collect();
        let changes: PyResult<Vec<(Vec<u8>, Changes)>> = no_panic(py, || {
            let changes: Result<Vec<_>> = py.detach(|| {
                let of_each = tables.into_iter();
                of_each.map(|(name, table)| Ok((name, lock(&table).changes()?))).collect()
            });
            changes.map_err(|error| exception(py, &error))
        });
        let changes = changes?;
        let mut transaction = transaction.take()?;
        let (epoch, shared) = (transaction.epoch(), Arc::clone(&self.shared));
        let committing = async move {
            let mut processor = shared.lock().await?;
            for (name, changes) in changes {
                let key = processor.table_key(&name);
                let commit = transaction.commit();
                changes.sets().try_for_each(|(field, row)| commit.set(&key, field, row))?;
                changes.deletes().try_for_each(|field| commit.unset(&key, field))?;
            }
            let (key, (sets, deletes)) = (processor.state_key(), state);
            let commit = transaction.commit();
            sets.iter().try_for_each(|(name, value)| commit.set(&key, name, value))?;
            deletes.iter().try_for_each(|name| commit.unset(&key, name))?;
            let is_in = match processor.commit_untold(transaction).await {
                Err(error) if settles => processor.settled(error).map(|()| false),
                committed => committed.map(|_| true),
            };
            Ok(is_in.map_err(|error| Untold { error, epoch: Some(epoch) }))
        };
        let told = self.told.clone();
        Ok(self.operation(Operation::new(committing, move |py, is_in: Result<bool, Untold>| {
            is_in.map_err(|error| error.raised(py, &told))?.into_py_any(py)
        })))
    }

    /// Leaves the entries of a transaction pending, instead of a commit.
    fn leave(&self, transaction: &Transaction) -> PyResult<()> {
        // While it is in use, by a commit that is not waited for any more, they come again a little earlier.
        if self.shared.is_own()
            && let Ok(mut processor) = self.shared.processor.try_lock()
        {
            transaction.with(|transaction| {
                processor.leave(transaction);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Has the batch of a transaction be the same if it comes again.
    fn plan(&self, transaction: &Transaction) -> PyResult<Operation> {
        let transaction = transaction.with(|transaction| Ok(transaction.part(0..usize::MAX)))?;
        let shared = Arc::clone(&self.shared);
        let planning = async move { shared.lock().await?.plan(&transaction).await };
        Ok(self.operation(Operation::new(planning, |py, ()| Ok(py.None()))))
    }

    fn load_table(
        &self,
        py: Python<'_>,
        name: Vec<u8>,
        columns: TableColumns<'_>,
        newest_ms: Option<i64>,
    ) -> PyResult<Operation> {
        let spec = Arc::new(columns.spec(py)?);
        let shared = Arc::clone(&self.shared);
        let loading = async move {
            let mut table = shared.lock().await?.load_table(&name, &spec).await?;
            table.see(newest_ms);
            Ok(table)
        };
        let loading = Operation::new(loading, |py, table| Table::new(table).into_py_any(py));
        Ok(self.operation(loading).only_while_waited_for())
    }

    /// The same for what the loop itself needs before its next batch: `None` where it is stopped first.
    fn load_table_until_stopped(
        &self,
        py: Python<'_>,
        name: Vec<u8>,
        columns: TableColumns<'_>,
    ) -> PyResult<Operation> {
        let spec = Arc::new(columns.spec(py)?);
        let (shared, stopper) = (Arc::clone(&self.shared), self.stopper.clone());
        let loading = async move {
            let loading = async { shared.lock().await?.load_table(&name, &spec).await };
            stopper.or(loading).await.transpose()
        };
        let loading = Operation::new(loading, |py, table: Option<table::Table>| {
            table.map(Table::new).into_py_any(py)
        });
        Ok(self.operation(loading).only_while_waited_for())
    }

    /// Ends the loop before its next batch.
    fn stop(&self) {
        // In a forked child nobody waits.
        if self.shared.is_own() {
            self.stopper.stop();
        }
    }

    /// Ends the loop and leaves the lane to others, as far as that takes no longer than so many
    /// milliseconds: the lease expires by itself.
    fn finish(&self, patience_ms: u64) -> Operation {
        self.stop();
        let shared = Arc::clone(&self.shared);
        let finishing = async move {
            if shared.is_own() {
                let releasing = async { shared.lock().await?.release().await };
                // Nothing depends on it.
                let _ = timeout(Duration::from_millis(patience_ms), releasing).await;
            }
            Ok(())
        };
        self.operation(Operation::new(finishing, |py, ()| Ok(py.None())))
    }

    #[getter]
    fn stats(&self) -> ProcessorStats {
        if !self.shared.is_own() {
            return ProcessorStats::from(process::ProcessorStats::default());
        }
        ProcessorStats::from(*lock(&self.stats))
    }
}

impl Processor {
    fn operation(&self, operation: Operation) -> Operation {
        operation.on(&self.runtime)
    }
}

/// What the locks here guard is whole whatever their holder was doing when it panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a processor has done since it was started.
#[pyclass(frozen, get_all, module = "redfloe._core")]
pub(crate) struct ProcessorStats {
    commits: u64,
    entries: u64,
    dead_lettered: u64,
    bytes: u64,
    epoch: Option<u64>,
    position: Option<String>,
    commit_seconds: f64,
    last_commit_seconds: Option<f64>,
}

impl From<process::ProcessorStats> for ProcessorStats {
    fn from(stats: process::ProcessorStats) -> Self {
        ProcessorStats {
            commits: stats.commits,
            entries: stats.entries,
            dead_lettered: stats.dead_lettered,
            bytes: stats.bytes,
            epoch: stats.epoch,
            position: stats.position.map(|position| position.to_string()),
            commit_seconds: stats.commit_time.as_secs_f64(),
            last_commit_seconds: stats.last_commit.map(|time| time.as_secs_f64()),
        }
    }
}
