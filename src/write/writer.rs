//! A whole write: what is checked and asked before the first row is sent.

use std::hash::{BuildHasher, RandomState};

use arrow_array::RecordBatch;

use super::atomic::write_atomically;
use super::control::stopped_before_the_first;
use super::ends::Ends;
use super::outcome::{Ids, WriteFailure, Written};
use super::pipeline::Pipeline;
use super::preflight::{check_type, preflight};
use super::request::{Target, WriteRequest};
use super::rows::{IdmpProducer, Rows};
use super::scattered::write_scattered;
use crate::client::{Client, Questions, slot_of, tagged};
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::resp::type_of;
use crate::shard::{claim, misnamed, sharded_stream};

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
/// after them; others are sent again only where the server recognises them
/// ([`with_idmp_producer`](WriteRequest::with_idmp_producer)).
pub async fn write(
    client: &Client,
    batches: &[RecordBatch],
    request: &WriteRequest,
) -> Result<Written, WriteFailure> {
    let total = batches.iter().map(RecordBatch::num_rows).sum();
    let unsent = |error| WriteFailure::before_the_first(error, total).after(request.before);
    let rows = Rows::new(batches, request).map_err(unsent)?;
    if let Target::Shards(stream) = &request.stream
        && !request.known_streams.contains(stream.name())
    {
        let claimed = request.control.unless_stopped(claim(client, stream)).await;
        claimed
            .unwrap_or_else(|| Err(stopped_before_the_first(total, request.before)))
            .map_err(|error| unsent(error).without_password(client))?;
        request.known_streams.add(stream.name());
    }
    let mut written = write_prepared(client, rows, request).await;
    if let (Err(failure), Target::One(name)) = (&written, &request.stream)
        && failure.is_of_a_wrong_type()
        // What is no stream may be one over several keys.
        && let Some(Ok(Some(stream))) =
            request.control.unless_stopped(sharded_stream(client, name)).await
    {
        let request = request.clone().into_shards(stream);
        let rows = Rows::new(batches, &request).map_err(unsent)?;
        written = write_prepared(client, rows, &request).await;
    }
    written.map_err(|failure| failure.told(client, request))
}

pub(super) async fn write_rows(
    client: &Client,
    rows: Rows,
    request: &WriteRequest,
) -> Result<Written, WriteFailure> {
    let written = match write_prepared(client, rows, request).await {
        Err(mut failure) if failure.is_of_a_wrong_type() => {
            let asking = request.control.unless_stopped(misnamed(client, &failure.error));
            if let Some(Some(message)) = asking.await {
                failure.error = failure.error.with_message(message);
            }
            Err(failure)
        }
        written => written,
    };
    written.map_err(|failure| failure.told(client, request))
}

async fn write_prepared(
    client: &Client,
    mut rows: Rows,
    request: &WriteRequest,
) -> Result<Written, WriteFailure> {
    let total = rows.total();
    if total == 0 {
        return Ok(Ids::with_capacity(0).finish(0));
    }
    // Its connection serves the rows afterwards, or is closed if the write is stopped meanwhile.
    let mut session = client.session_for(rows.keys.get(0));
    let asking = request.control.unless_stopped(preflight(client, &mut session, &rows, request));
    let answered =
        asking.await.unwrap_or_else(|| Err(stopped_before_the_first(total, request.before)));
    let preflight = answered.map_err(|error| WriteFailure::before_the_first(error, total))?;
    rows.sequences = preflight.sequences;
    if let (Some(_), Some(name)) = (preflight.idmp_window, &request.idmp_producer) {
        // No other write may use the same numbers, or the server would take its rows for ours.
        let nonce = RandomState::new().hash_one(std::process::id());
        rows.with_idmp_producer(IdmpProducer { name: name.clone(), nonce });
    }
    if request.atomic && client.is_cluster() {
        one_slot(&rows).map_err(|error| WriteFailure::before_the_first(error, total))?;
    }
    let key = rows.keys.get(0).to_vec();
    let is_one = rows.keys.iter().len() == 1;
    if request.atomic || !is_one {
        // To be taken by those that write.
        session.release();
    }
    let written = match request.atomic {
        true => write_atomically(client, rows, request, preflight.idmp_window).await,
        false if !is_one => write_scattered(client, rows, request, preflight.idmp_window).await,
        false => {
            let ends = Ends::of_before(&rows, request);
            let pipeline = Pipeline::new(client, rows, ends, request).over(session);
            pipeline.with_idmp_window(preflight.idmp_window).run().await
        }
    };
    match written {
        Err(failure) if is_one && failure.error.kind() == ErrorKind::WrongType => {
            Err(explained(client, &key, request, failure, total).await)
        }
        written => written,
    }
}

/// Refuses streams that one transaction of a cluster cannot reach.
fn one_slot(rows: &Rows) -> Result<()> {
    let first = rows.keys.get(0);
    match rows.keys.iter().find(|key| slot_of(key) != slot_of(first)) {
        None => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "atomic=True is one transaction, which in a cluster needs streams of one slot, and {} and {} \
             are of two; give their names a common part in braces, such as {}; nothing has been sent",
            shorten(first),
            shorten(other),
            shorten(&tagged(first, b"orders")),
        ))),
    }
}

/// What the key holds instead of a stream, where that is why nothing is in.
async fn explained(
    client: &Client,
    key: &[u8],
    request: &WriteRequest,
    failure: WriteFailure,
    total: usize,
) -> WriteFailure {
    if failure.written.rows() > 0 || !failure.unknown.is_empty() {
        return failure;
    }
    let mut questions = Questions::default();
    questions.add(&type_of(key));
    let mut session = client.session_for(key);
    let answers = request.control.unless_stopped(questions.ask(&mut session)).await;
    match answers.and_then(Result::ok).and_then(|answers| answers.into_iter().next()) {
        Some(answer) => match check_type(key, answer) {
            Err(error) if error.kind() == ErrorKind::WrongType => {
                WriteFailure::before_the_first(error, total)
            }
            _ => failure,
        },
        None => failure,
    }
}
