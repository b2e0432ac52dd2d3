//! What a consumer of a group does beside reading, for Python.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::arrow::RecordBatch;
use super::error::exception;
use super::members::Members;
use super::operation::Operation;
use super::reading::{Reading, enter};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::{self, Watched};

/// A member of a consumer group. Documented in `_core.pyi`.
///
/// Entries are named by their IDs and, where the reader has several streams, by the numbers of these.
#[pyclass(frozen, module = "redfloe._core")]
pub(crate) struct Member {
    members: Members,
    watched: Arc<Watched>,
    /// Whose end ends what the loop does of its own accord.
    reading: Weak<Reading>,
    /// Its operations outlast any outage that the reader does, as long as they are waited for.
    is_patient: bool,
}

/// What is done to some of a stream's entries.
type OfStream<T> = (read::Member, Vec<T>);

impl Member {
    /// Where the reading is a group's.
    pub(super) fn of(reading: &Arc<Reading>) -> Option<Self> {
        let members = reading.members.clone()?;
        let watched = Arc::clone(&reading.watched);
        let reading = Arc::downgrade(reading);
        Some(Member { members, watched, reading, is_patient: false })
    }

    /// The entries by stream, each of which is of the stream of its number; of one stream without.
    fn by_stream<T>(&self, entries: Vec<T>, streams: &[usize]) -> Vec<OfStream<T>> {
        let mut all: Vec<(usize, Vec<T>)> = Vec::new();
        let mut places = HashMap::new();
        for (row, entry) in entries.into_iter().enumerate() {
            let stream = streams.get(row).copied().unwrap_or_default();
            let place = *places.entry(stream).or_insert(all.len());
            match all.get_mut(place) {
                Some((_, entries)) => entries.push(entry),
                None => all.push((stream, vec![entry])),
            }
        }
        if all.is_empty() {
            all.push((0, Vec::new())); // which is refused as entries would be
        }
        let member = |(stream, entries)| {
            let member = self.members.of(stream)?;
            Some((if self.is_patient { member.patiently() } else { member }, entries))
        };
        all.into_iter().filter_map(member).collect()
    }

    /// The same of entries that Python names.
    fn named(
        &self,
        py: Python<'_>,
        ids: Vec<String>,
        streams: &[usize],
    ) -> PyResult<Vec<OfStream<EntryId>>> {
        Ok(self.by_stream(parsed(py, ids)?, streams))
    }

    /// What the futures do for this member, stream by stream.
    fn operation<T, F>(
        &self,
        entries: Vec<OfStream<T>>,
        act: impl Fn(read::Member, Vec<T>) -> F + Send + 'static,
    ) -> Operation
    where
        T: Send + 'static,
        F: Future<Output = Result<u64>> + Send + 'static,
    {
        let watched = Arc::clone(&self.watched);
        let future = async move {
            let _user = enter(&watched)?;
            let mut number = 0;
            for (member, entries) in entries {
                number += act(member, entries).await?;
            }
            Ok(number)
        };
        self.counting(future)
    }

    fn acknowledging(&self, entries: Vec<OfStream<EntryId>>) -> Operation {
        if entries.len() > 1 {
            let watched = Arc::clone(&self.watched);
            let acknowledging = async move {
                let _user = enter(&watched)?;
                read::Member::acknowledge_each(&entries).await
            };
            return self.counting(acknowledging);
        }
        self.operation(entries, |member, ids| async move { member.acknowledge(&ids).await })
    }

    /// What says of how many entries it was.
    fn counting(&self, future: impl Future<Output = Result<u64>> + Send + 'static) -> Operation {
        let operation = Operation::new(future, |py, number: u64| number.into_py_any(py));
        if self.is_patient { operation.only_while_waited_for() } else { operation }
    }
}

#[pymethods]
impl Member {
    fn patient(&self) -> Self {
        Member {
            members: self.members.clone(),
            watched: Arc::clone(&self.watched),
            reading: Weak::clone(&self.reading),
            is_patient: true,
        }
    }

    #[pyo3(signature = (ids, streams=Vec::new()))]
    fn acknowledge(
        &self,
        py: Python<'_>,
        ids: Vec<String>,
        streams: Vec<usize>,
    ) -> PyResult<Operation> {
        Ok(self.acknowledging(self.named(py, ids, &streams)?))
    }

    /// The same of all rows of a batch, whose IDs need not be made text and parsed.
    fn acknowledge_all(&self, rows: &RecordBatch) -> Operation {
        let batch = rows.batch();
        self.acknowledging(self.by_stream(batch.ids().to_vec(), &batch.streams()))
    }

    #[pyo3(signature = (entries, delay_ms, streams=Vec::new()))]
    fn nack(
        &self,
        py: Python<'_>,
        entries: Vec<(String, u64)>,
        delay_ms: Option<u64>,
        streams: Vec<usize>,
    ) -> PyResult<Operation> {
        let (ids, deliveries): (Vec<String>, Vec<u64>) = entries.into_iter().unzip();
        let entries: Vec<(EntryId, u64)> = parsed(py, ids)?.into_iter().zip(deliveries).collect();
        let delay = delay_ms.map(Duration::from_millis);
        let entries = self.by_stream(entries, &streams);
        Ok(self.operation(entries, move |member, entries| async move {
            member.nack(&entries, delay).await
        }))
    }

    #[pyo3(signature = (ids, streams=Vec::new()))]
    fn keep(&self, py: Python<'_>, ids: Vec<String>, streams: Vec<usize>) -> PyResult<Operation> {
        let entries = self.named(py, ids, &streams)?;
        Ok(self.operation(entries, |member, ids| async move { member.keep(&ids).await }))
    }

    #[pyo3(signature = (ids, streams=Vec::new()))]
    fn leave(&self, py: Python<'_>, ids: Vec<String>, streams: Vec<usize>) -> PyResult<()> {
        let _user = enter(&self.watched).map_err(|error| exception(py, &error))?;
        for (member, ids) in self.named(py, ids, &streams)? {
            member.leave_pending(&ids);
        }
        Ok(())
    }

    #[pyo3(signature = (ids, reason, streams=Vec::new()))]
    fn dead_letter(
        &self,
        py: Python<'_>,
        ids: Vec<String>,
        reason: String,
        streams: Vec<usize>,
    ) -> PyResult<Operation> {
        let entries = self.named(py, ids, &streams)?;
        let reason: Arc<str> = reason.into();
        Ok(self.operation(entries, move |member, ids| {
            let reason = Arc::clone(&reason);
            async move { member.dead_letter(&ids, &reason).await }
        }))
    }

    #[pyo3(signature = (ids, reason, streams=Vec::new()))]
    fn put_aside(
        &self,
        py: Python<'_>,
        ids: Vec<String>,
        reason: String,
        streams: Vec<usize>,
    ) -> PyResult<Operation> {
        let entries = self.named(py, ids, &streams)?;
        let (watched, reading) = (Arc::clone(&self.watched), self.reading.upgrade());
        let putting = async move {
            let _user = enter(&watched)?;
            let Some(reading) = reading else { return Ok(None) }; // nobody reads any more
            for (member, ids) in entries {
                let member = member.patiently();
                if reading.ending.or(member.dead_letter(&ids, &reason)).await?.is_none() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        };
        let operation = Operation::new(putting, |py, moved| moved.is_some().into_py_any(py));
        Ok(operation.only_while_waited_for())
    }
}

pub(super) fn parsed(py: Python<'_>, ids: Vec<String>) -> PyResult<Vec<EntryId>> {
    let ids: Result<Vec<EntryId>> = ids.iter().map(|id| id.parse()).collect();
    ids.map_err(|error| exception(py, &error))
}

#[doc = include_str!(concat!(env!("OUT_DIR"), "/Stats.txt"))]
#[pyclass(frozen, get_all, module = "redfloe._core")]
pub(crate) struct Stats {
    batches: u64,
    entries: u64,
    bytes: u64,
    acknowledged: u64,
    reclaimed: u64,
    dead_lettered: u64,
    deleted: u64,
    last_id: Option<String>,
    done_up_to: Option<String>,
    lag: Option<u64>,
}

impl Stats {
    pub(super) fn of(watched: &Watched) -> Self {
        Stats::from(watched.snapshot())
    }
}

impl From<read::Stats> for Stats {
    fn from(stats: read::Stats) -> Self {
        Stats {
            batches: stats.batches,
            entries: stats.entries,
            bytes: stats.bytes,
            acknowledged: stats.acknowledged,
            reclaimed: stats.reclaimed,
            dead_lettered: stats.dead_lettered,
            deleted: stats.deleted,
            last_id: stats.last_id.map(|id| id.to_string()),
            done_up_to: stats.done_up_to.map(|id| id.to_string()),
            lag: stats.lag,
        }
    }
}
