//! Rows for several streams: a pipeline for each node of a cluster that serves some of them. A server
//! may turn out to be such a node any time.
//!
//! Rows for one stream stay in order, because all of them are in one pipeline, and a row that a node
//! does not serve any more is sent again before those after it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::{StreamExt, stream};

use super::ends::Ends;
use super::failed::{Failed, Fatal};
use super::idmp_window::IdmpWindow;
use super::in_flight::SentBefore;
use super::lost_ends::{LostEnd, forget, lost_ends};
use super::outcome::{Ids, WriteFailure, Written};
use super::pipeline::{PartEnd, Pipeline};
use super::request::WriteRequest;
use super::rows::{Rows, Selection};
use crate::client::Client;
use crate::entry_id::EntryId;

/// Rounds in which the rows are split by nodes; then those that are left go stream by stream.
const BY_NODE: u32 = 3;
/// Pipelines that run at the same time.
const NODES: usize = 64;
const STREAMS: usize = 4;

/// Rows of some streams that are not in.
#[derive(Clone)]
struct Rest {
    keys: Vec<usize>,
    again: Arc<Vec<usize>>,
    from: usize,
    /// Some of these may be in all the same.
    sent_before: Option<SentBefore>,
}

pub(super) async fn write_scattered(
    client: &Client,
    rows: Rows,
    request: &WriteRequest,
    idmp_window: Option<IdmpWindow>,
) -> Result<Written, WriteFailure> {
    let total = rows.total();
    let mut ids = Vec::new();
    let mut ends = Ends::of_before(&rows, request);
    let keys = (0..rows.keys.iter().len()).collect();
    let all = Rest { keys, again: Arc::default(), from: 0, sent_before: None };
    let (mut rests, mut round) = (vec![all], 0);
    while !rests.is_empty() {
        let by_node = round < BY_NODE;
        round += 1;
        let mut parts = Vec::new();
        for rest in &rests {
            let keys: Vec<&[u8]> = rest.keys.iter().map(|key| rows.keys.get(*key)).collect();
            let lists = match by_node {
                true => {
                    let splitting = request.control.unless_stopped(client.split_by_node(&keys));
                    match splitting.await {
                        Some(Ok(lists)) => lists,
                        Some(Err(error)) => {
                            let failed = Failed::before_the_rest(Some(error), first_of(&rests));
                            return Err(failure(vec![failed], ids, &rests, request, &rows));
                        }
                        None => {
                            let failed = Failed::before_the_rest(None, first_of(&rests));
                            return Err(failure(vec![failed], ids, &rests, request, &rows));
                        }
                    }
                }
                false => (0..keys.len()).map(|key| vec![key]).collect(),
            };
            for list in lists {
                let keys: Vec<usize> =
                    list.iter().filter_map(|at| rest.keys.get(*at).copied()).collect();
                parts.push(Rest { keys, again: Arc::clone(&rest.again), ..rest.clone() });
            }
        }
        let halted = Arc::new(AtomicBool::new(false));
        let running = parts.into_iter().map(|part| {
            let (client, rows, halted) = (&*client, &rows, Arc::clone(&halted));
            let ends = ends.of(&part.keys);
            async move {
                let mut keys = vec![false; rows.keys.iter().len()];
                for key in &part.keys {
                    if let Some(key) = keys.get_mut(*key) {
                        *key = true;
                    }
                }
                let leaves = part.keys.len() > 1;
                let selection = Selection { keys, again: part.again, from: part.from };
                let pipeline = Pipeline::new(client, rows.part(selection), ends, request);
                let pipeline = pipeline.with_idmp_window(idmp_window).into_part(halted, leaves);
                let pipeline = pipeline.after(part.sent_before.as_ref());
                let (in_part, ends, end) = pipeline.run_part().await;
                (part.keys, in_part, ends, end)
            }
        });
        let at_once = if by_node { NODES } else { STREAMS };
        let ended: Vec<_> = stream::iter(running).buffer_unordered(at_once).collect().await;
        rests.clear();
        let mut failed = Vec::new();
        let mut was_halted = false;
        for (keys, in_part, part_ends, end) in ended {
            ids.extend(in_part);
            ends.extend(&part_ends);
            match end {
                PartEnd::Done => {}
                PartEnd::Rest { again, from, sent_before, halted } => {
                    was_halted |= halted;
                    rests.push(Rest { keys, again: Arc::new(again), from, sent_before });
                }
                PartEnd::Failed(part) => failed.push(*part),
            }
        }
        if !failed.is_empty() || was_halted {
            look_for_more(client, &rows, request, &ends, &mut failed).await;
            return Err(failure(failed, ids, &rests, request, &rows));
        }
    }
    Ok(together(ids, total).finish(total))
}

/// Where a stream has lost its end, others may have: in parts that have ended, or that were halted before
/// they came to look. The failure says what is known where they cannot be asked.
async fn look_for_more(
    client: &Client,
    rows: &Rows,
    request: &WriteRequest,
    ends: &Ends,
    failed: &mut [Failed],
) {
    let known = |key: usize| failed.iter().flat_map(|part| &part.lost).any(|lost| lost.is_of(key));
    let others: Vec<_> = ends.known().filter(|(key, _)| !known(*key)).collect();
    let Some(part) = failed.iter_mut().find(|part| !part.lost.is_empty()) else { return };
    let looking = lost_ends(client, rows, &others);
    if let Some(Ok(more)) = request.control.unless_stopped(looking).await {
        part.lost.extend(more);
    }
}

/// The first row that is not in.
fn first_of(rests: &[Rest]) -> Option<usize> {
    rests.iter().map(|rest| rest.again.first().copied().unwrap_or(rest.from)).min()
}

/// One failure of all parts that have failed: the first of them, or one that leaves rows unknown.
fn failure(
    mut failed: Vec<Failed>,
    ids: Vec<(usize, EntryId)>,
    rests: &[Rest],
    request: &WriteRequest,
    rows: &Rows,
) -> WriteFailure {
    let total = rows.total();
    // One that ended because another failed says nothing of why.
    let is_halted = |part: &Failed| matches!(part.fatal, Fatal::Halted);
    failed.sort_by_key(|part| (is_halted(part), part.unknown.is_empty(), part.row));
    let left = rests.iter().filter_map(|rest| Some(rest.sent_before.as_ref()?.rows.clone()));
    let unknown = failed.iter().map(|part| part.unknown.clone()).filter(|range| !range.is_empty());
    let unknown = unknown.chain(left);
    let unknown = unknown.reduce(|all, part| all.start.min(part.start)..all.end.max(part.end));
    let unknown = unknown.unwrap_or_default();
    let lost: Vec<LostEnd> = failed.iter().flat_map(|part| part.lost.clone()).collect();
    let mut ids = together(ids, total);
    // Also what was in before the part that has noticed.
    let first_lost = forget(&mut ids, &lost, rows);
    let row = failed.iter().filter_map(|part| part.row).chain(first_of(rests)).chain(first_lost);
    let row = row.min();
    let written = ids.finish(total);
    let mut first = match failed.into_iter().next() {
        Some(first) => first,
        None => Failed::before_the_rest(None, row),
    };
    first.unknown.clone_from(&unknown);
    let (error, _) = first.explain(request, total, written.rows());
    WriteFailure { error, written, row, unknown }
}

fn together(mut ids: Vec<(usize, EntryId)>, total: usize) -> Ids {
    // Each part's are in order already, which a stable sort makes use of.
    ids.sort_by_key(|(row, _)| *row);
    let mut all = Ids::with_capacity(total);
    ids.into_iter().for_each(|(row, id)| all.push(row, id));
    all
}
