//! A whole write: what is checked and asked before the first row is sent.

use std::hash::{BuildHasher, RandomState};

use arrow_array::RecordBatch;

use super::atomic::write_atomically;
use super::idmp_window::IdmpWindow;
use super::outcome::{Ids, WriteFailure, Written};
use super::pipeline::Pipeline;
use super::preflight::{check_ids, check_lengths, check_types, idmp_window, knows_partial_ids};
use super::request::{IdSource, WriteRequest};
use super::rows::{IdmpProducer, Rows};
use crate::client::{Client, Session};
use crate::error::Result;

/// Adds an entry for each row (XADD, Redis 5.0), in order, and gives the entry IDs.
///
/// A value is written as the text that a read of its type takes; a null is a field that the entry
/// lacks. Commands are pipelined without a transaction: at most
/// [`batch_rows`](WriteRequest::with_batch_rows) are sent ahead of their replies.
///
/// # Errors
///
/// Those of arguments and of columns before anything is sent. Afterwards the failure says which
/// rows are in: kind [`Write`](crate::ErrorKind::Write) where the server refused a row, and
/// [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown) where replies were lost for good. After a
/// lost connection rows with their own IDs are looked for in the stream and the write goes on
/// behind them; others are sent again only where the server recognises them
/// ([`with_idmp_producer`](with_idmp_producer)).
pub async fn write(
    client: &Client,
    batches: &[RecordBatch],
    request: &WriteRequest,
) -> Result<Written, WriteFailure> {
    let total = batches.iter().map(RecordBatch::num_rows).sum();
    match Rows::new(batches, request) {
        Ok(rows) => write_rows(client, rows, request).await,
        Err(error) => Err(WriteFailure::before_the_first(error, total)),
    }
}

pub(super) async fn write_rows(
    client: &Client,
    mut rows: Rows,
    request: &WriteRequest,
) -> Result<Written, WriteFailure> {
    let total = rows.total();
    let mut session = client.session();
    if rows.total() == 0 {
        return Ok(Ids::with_capacity(0).finish(0));
    }
    let idmp_window = prepare(&mut session, &mut rows, request).await;
    let idmp_window = idmp_window.map_err(|error| WriteFailure::before_the_first(error, total))?;
    drop(session); // its connection serves the rows
    match request.atomic {
        true => write_atomically(client, rows, request, idmp_window).await,
        false => Pipeline::new(client, rows, request).with_idmp_window(idmp_window).run().await,
    }
}

/// What the server must be asked before it is sent a row; gives how many rows it recognises.
async fn prepare(
    session: &mut Session,
    rows: &mut Rows,
    request: &WriteRequest,
) -> Result<Option<IdmpWindow>> {
    check_types(session, rows).await?;
    check_lengths(session, rows).await?;
    if request.ids != IdSource::Server {
        let last_ids = check_ids(session, rows).await?;
        if rows.has_partial_ids() && !knows_partial_ids(session, rows).await? {
            rows.sequences = Some(last_ids);
        }
        return Ok(None);
    }
    let Some(name) = &request.idmp_producer else {
        return Ok(None);
    };
    let idmp_window = idmp_window(session, rows).await?;
    if idmp_window.is_some() {
        // No other write may use the same numbers, or the server would take its rows for ours.
        let nonce = RandomState::new().hash_one(std::process::id());
        rows.with_idmp_producer(IdmpProducer { name: name.clone(), nonce });
    }
    Ok(idmp_window)
}
