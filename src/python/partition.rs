//! Reads cut into parts, and positions, for who reads with several processes.

use pyo3::prelude::*;

use super::admin::operation;
use super::connection::Server;
use super::error::id_exception;
use super::member::parsed;
use super::operation::Operation;
use super::pin::Bounds;
use super::request::Request;
use crate::entry_id::{EntryId, IdBound};
use crate::read::{self, Partition};

/// The pieces of a partition, each with its stream's place, and the number of its entries.
type Split = (Vec<(usize, Bounds)>, u64);

#[pyfunction]
pub(crate) fn split_stream(
    py: Python<'_>,
    server: Server,
    request: Request<'_>,
    number: usize,
) -> PyResult<Operation> {
    let request = request.read_request(py)?;
    let client = server.client(py)?;
    let asked = client.clone();
    let splitting = async move {
        let partitions = read::split(&client, &request, number).await?;
        Ok(partitions.into_iter().map(parts).collect::<Vec<Split>>())
    };
    Ok(operation(asked, splitting).only_while_waited_for())
}

fn parts(partition: Partition) -> Split {
    let bounds = |(first, last): (EntryId, EntryId)| ((first.ms, first.seq), (last.ms, last.seq));
    let pieces = partition.pieces.iter().map(|piece| (piece.stream, bounds(piece.range)));
    (pieces.collect(), partition.entries)
}

/// The newest entry of each stream that is older than a read from `start_id` on gives.
#[pyfunction]
pub(crate) fn stream_offsets(
    py: Python<'_>,
    server: Server,
    streams: Vec<Vec<u8>>,
    start_id: &str,
) -> PyResult<Operation> {
    let last = match IdBound::parse_start(start_id).map_err(|error| id_exception(py, &error))? {
        IdBound::Id(id) => id.predecessor().unwrap_or(EntryId::MIN),
        IdBound::Newest | IdBound::AfterNewest | IdBound::Nothing => EntryId::MAX,
    };
    let client = server.client(py)?;
    let asked = client.clone();
    let asking = async move { Ok(texts(&read::offsets(&client, &streams, last).await?)) };
    Ok(operation(asked, asking).only_while_waited_for())
}

/// The positions `count` entries in all after `after`, none of which is beyond `up_to`.
#[pyfunction]
pub(crate) fn advance_offsets(
    py: Python<'_>,
    server: Server,
    streams: Vec<Vec<u8>>,
    after: Vec<String>,
    up_to: Vec<String>,
    count: u64,
) -> PyResult<Operation> {
    let ranges = parsed(py, after)?.into_iter().zip(parsed(py, up_to)?);
    let ranges: Vec<(EntryId, EntryId)> = ranges.collect();
    let client = server.client(py)?;
    let asked = client.clone();
    let asking =
        async move { Ok(texts(&read::offsets_ahead(&client, &streams, &ranges, count).await?)) };
    Ok(operation(asked, asking).only_while_waited_for())
}

/// Raises where entries after these positions may be lost.
#[pyfunction]
pub(crate) fn check_offsets(
    py: Python<'_>,
    server: Server,
    streams: Vec<Vec<u8>>,
    after: Vec<String>,
    are_entries: bool,
) -> PyResult<Operation> {
    let after = parsed(py, after)?;
    let client = server.client(py)?;
    let asked = client.clone();
    let asking = async move { read::check_offsets(&client, &streams, &after, are_entries).await };
    Ok(operation(asked, asking).only_while_waited_for())
}

fn texts(ids: &[EntryId]) -> Vec<String> {
    ids.iter().map(EntryId::to_string).collect()
}
