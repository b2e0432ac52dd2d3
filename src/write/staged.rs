//! Rows that were written aside by several, and come to a stream once: a commit moves them in chunks,
//! behind a marker that says how far it is. Whoever repeats the commit of a batch, with the same rows
//! written aside again or others in their place, finds it done, or finishes it with the rows of the first.

use redis::Value;

use crate::client::{Client, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::resp;

const PREPARE: &str = include_str!("lua/staged_prepare.lua");
const BEGIN: &str = include_str!("lua/staged_begin.lua");
const MOVE: &str = include_str!("lua/staged_move.lua");

/// Entries, and bytes, that one script moves: it holds up all other clients of the server meanwhile.
const CHUNK: u64 = 1_000;
const CHUNK_BYTES: u64 = 1_000_000;

/// A stream, the key that says which batches are in it, and a batch.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    pub(crate) stream: Vec<u8>,
    pub(crate) marker: Vec<u8>,
    pub(crate) batch: u64,
    /// Where its rows are, each written by one, and how many.
    pub(crate) keys: Vec<(Vec<u8>, u64)>,
    /// Whether nobody will ask for it again: the marker goes, too.
    pub(crate) is_last: bool,
}

/// Makes a stream for rows that are written aside, which goes away by itself after that many
/// milliseconds.
pub(crate) async fn prepare_staging(client: &Client, key: &[u8], expiry_ms: u64) -> Result<()> {
    let arguments = [expiry_ms.to_string().into_bytes()];
    let command = resp::script(PREPARE, &[key], &arguments);
    client.session_for(key).value(&command).await.map(drop)
}

/// Moves the rows of a batch to the stream, where that was not done before; says how many the batch has.
///
/// Each script looks at the marker first, so that it may be sent again after a lost reply.
pub(crate) async fn commit_staged(
    client: &Client,
    staged: &Staged,
    chunks: Option<u64>,
) -> Result<u64> {
    let mut session = client.session_for(&staged.stream).of_several();
    let committing = async {
        let mut left = chunks.unwrap_or(u64::MAX);
        loop {
            let at = begin(&mut session, staged).await?;
            if at.is_done && at.batch >= staged.batch {
                if staged.is_last {
                    session.value(&resp::delete(&staged.marker)).await?;
                }
                return Ok(at.rows);
            }
            if at.key.is_empty() {
                return Err(unexpected());
            }
            if left == 0 {
                return Ok(at.rows);
            }
            left -= 1;
            let keys: [&[u8]; 3] = [&staged.marker, &staged.stream, &at.key];
            let arguments = [
                at.batch.to_string().into_bytes(),
                at.part,
                at.after,
                CHUNK.to_string().into_bytes(),
                CHUNK_BYTES.to_string().into_bytes(),
            ];
            session.value(&resp::script(MOVE, &keys, &arguments)).await?;
        }
    };
    let name = || String::from_utf8_lossy(&staged.stream).into_owned();
    let committed: Result<u64> = committing.await;
    committed.map_err(|error| error.with_context("stream", name()))
}

/// How far the commit of a batch is.
struct Progress {
    batch: u64,
    is_done: bool,
    rows: u64,
    part: Vec<u8>,
    after: Vec<u8>,
    key: Vec<u8>,
}

async fn begin(session: &mut Session, staged: &Staged) -> Result<Progress> {
    let mut keys: Vec<&[u8]> = vec![&staged.marker, &staged.stream];
    keys.extend(staged.keys.iter().map(|(key, _)| key.as_slice()));
    let rows = staged.keys.iter().map(|&(_, rows)| rows);
    let arguments =
        [staged.batch].into_iter().chain(rows).map(|number| number.to_string().into_bytes());
    let arguments: Vec<Vec<u8>> = arguments.collect();
    let told = session.value(&resp::script(BEGIN, &keys, &arguments)).await?;
    progress(&told).ok_or_else(unexpected)
}

fn progress(told: &Value) -> Option<Progress> {
    let [batch, done, rows, part, after, key] = told.as_sequence()? else { return None };
    Some(Progress {
        batch: number(batch)?,
        is_done: resp::text(done)? == b"1",
        rows: number(rows)?,
        part: resp::text(part)?.to_vec(),
        after: resp::text(after)?.to_vec(),
        key: resp::text(key)?.to_vec(),
    })
}

fn number(text: &Value) -> Option<u64> {
    std::str::from_utf8(resp::text(text)?).ok()?.parse().ok()
}

fn unexpected() -> Error {
    let message = "the marker of a sink says what nobody has written there; please report this";
    Error::new(ErrorKind::Internal, message)
}
