//! Small questions about a stream that a read asks before and between its pages.

use std::time::{Duration, Instant};

use arrow_schema::Field;

use crate::client::Session;
use crate::decode::{Decoder, Reply, ReplyShape};
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, ErrorKind, Result, ServerCode, shorten};
use crate::resp::{self, Info, Outline};
use crate::schema::StreamSchema;

/// The first ID that a read may give, as things are now; `None` where there can be none.
pub(super) async fn first_id(
    session: &mut Session,
    stream: &[u8],
    start: IdBound,
) -> Result<Option<EntryId>> {
    match start {
        IdBound::Id(id) => Ok(Some(id)),
        IdBound::Newest => newest(session, stream).await,
        IdBound::AfterNewest => Ok(newest(session, stream).await?.unwrap_or_default().successor()),
        IdBound::Nothing => Ok(None),
    }
}

/// The last ID that a bounded read may give: an open end is pinned to the newest entry.
pub(super) async fn last_id(
    session: &mut Session,
    stream: &[u8],
    end: IdBound,
) -> Result<Option<EntryId>> {
    match end {
        IdBound::Id(id) => Ok(Some(id)),
        IdBound::Newest | IdBound::AfterNewest => newest(session, stream).await,
        IdBound::Nothing => Ok(None),
    }
}

/// Makes sure that there is a stream.
///
/// # Errors
///
/// [`NoStream`](ErrorKind::NoStream) where there is none, and every kind that connecting or the
/// server can raise.
pub(super) async fn check_exists(session: &mut Session, stream: &[u8]) -> Result<()> {
    let kind = session.value(&resp::type_of(stream)).await?;
    match resp::text(&kind) {
        Some(b"none") => Err(no_stream()),
        // What is no stream the read itself refuses.
        _ => Ok(()),
    }
}

/// The error of a read whose stream is missing.
pub(super) fn no_stream() -> Error {
    Error::new(
        ErrorKind::NoStream,
        "the stream does not exist, and must_exist=True says that it must; is its name right, and \
         the database's number?",
    )
}

/// The error where no stream matches a pattern, and one must.
pub(crate) fn no_match(pattern: &[u8]) -> Error {
    let message = format!("no stream matches the pattern {}", shorten(pattern));
    Error::new(ErrorKind::NoStream, message + ", and must_exist=True says that one must")
}

/// The ID of the newest entry.
pub(super) async fn newest(session: &mut Session, stream: &[u8]) -> Result<Option<EntryId>> {
    let command = resp::newest(stream);
    session.request(&command, || ids_only(ReplyShape::Entries), last_decoded).await
}

/// The ID of the newest entry that is no newer than `last`.
pub(crate) async fn newest_up_to(
    session: &mut Session,
    stream: &[u8],
    last: EntryId,
) -> Result<Option<EntryId>> {
    let command = resp::range_backwards(stream, last, EntryId::MIN, 1);
    session.request(&command, || ids_only(ReplyShape::Entries), last_decoded).await
}

/// Whether an entry can still be added up to `end`: IDs only grow.
pub(super) async fn can_come(session: &mut Session, stream: &[u8], end: EntryId) -> Result<bool> {
    Ok(stream_end(session, stream).await?.is_none_or(|reached| reached < end))
}

/// The greatest ID that the stream ever had, as far as the user may ask; `None` where there is no
/// stream. Entries at the end may have come and gone, which only the server's own record tells.
pub(super) async fn stream_end(session: &mut Session, stream: &[u8]) -> Result<Option<EntryId>> {
    match last_generated(session, stream).await? {
        None => newest(session, stream).await,
        end => Ok(end),
    }
}

/// The greatest ID that the stream ever had, as the server remembers it; `None` where there is no
/// stream, or the user lacks the permission.
pub(super) async fn last_generated(
    session: &mut Session,
    stream: &[u8],
) -> Result<Option<EntryId>> {
    Ok(recorded_end(session, stream).await?.flatten())
}

/// The same; `None` where the user lacks the permission, and `None` within where there is no stream.
/// XINFO STREAM (Redis 5.0), whose reply may be of any size: it has the first and the last entry.
pub(super) async fn recorded_end(
    session: &mut Session,
    stream: &[u8],
) -> Result<Option<Option<EntryId>>> {
    let command = resp::stream_info(stream);
    let asking = session.request(&command, || Ok(Outline::new()), Outline::into_value);
    match asking.await {
        Err(error) if error.server_code() == Some(ServerCode::NoKey) => Ok(Some(None)),
        answer => {
            let end = if_permitted(answer)?.and_then(|info| Info(&info).id("last-generated-id"));
            Ok(end.map(Some))
        }
    }
}

/// The greatest ID of a stream for a reader that asks again and again while nothing comes, at a cost
/// that does not grow with the size of the entries.
#[derive(Debug, Default)]
pub(super) struct LastIdWatch {
    /// The user may not run a script, which alone gives the ID without the entries.
    script_refused: bool,
    /// Not to be asked before.
    due: Option<Instant>,
    /// What was answered last.
    latest: Option<EntryId>,
}

impl LastIdWatch {
    /// How often at most the stream is asked for it.
    const INTERVAL: Duration = Duration::from_secs(1);
    /// The traffic that it may cause on the average, in bytes a second.
    const TRAFFIC: u64 = 1_000_000;
    /// Asking may take this part of the time: 1 / SHARE. A script has the server format the entries.
    const SHARE: u32 = 50;

    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    /// What was known may have changed: the server was restarted, say.
    pub(super) fn hurry(&mut self) {
        self.due = None;
    }

    /// The answer to the latest question.
    pub(super) fn latest(&self) -> Option<EntryId> {
        self.latest
    }

    /// As [`last_generated`].
    pub(super) async fn fetch(
        &mut self,
        session: &mut Session,
        stream: &[u8],
    ) -> Result<Option<EntryId>> {
        let started = Instant::now();
        let (last, bytes) = match self.by_script(session, stream).await? {
            Some(last) => (last, 0),
            None => {
                let command = resp::stream_info(stream);
                let with_size = |outline: Outline| {
                    let bytes = outline.bytes();
                    outline.into_value().map(|info| (info, bytes))
                };
                let asking = session.request(&command, || Ok(Outline::new()), with_size);
                let (info, bytes) = if_permitted(asking.await)?.unzip();
                let last = info.and_then(|info| Info(&info).id("last-generated-id"));
                (last, bytes.unwrap_or_default())
            }
        };
        let pause = Duration::from_millis(bytes.saturating_mul(1_000) / Self::TRAFFIC)
            .max(started.elapsed().saturating_mul(Self::SHARE))
            .max(Self::INTERVAL);
        self.due = Instant::now().checked_add(pause);
        self.latest = last;
        Ok(last)
    }

    /// The ID, or `None` within where there is no stream; `None` where the script cannot be run.
    async fn by_script(
        &mut self,
        session: &mut Session,
        stream: &[u8],
    ) -> Result<Option<Option<EntryId>>> {
        if self.script_refused {
            return Ok(None);
        }
        match session.value(&resp::last_generated(stream)).await {
            Ok(last) => Ok(Some(resp::id(&last))),
            Err(error) if is_refusal(&error) => {
                let no_key = error.server_code() == Some(ServerCode::NoKey);
                self.script_refused = !no_key;
                Ok(no_key.then_some(None))
            }
            Err(error) => Err(error),
        }
    }
}

/// The reply; `None` for "no such key", or NOPERM.
pub(super) fn if_permitted<T>(reply: Result<T>) -> Result<Option<T>> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_refusal(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Response | ErrorKind::Authentication) && !error.retryable()
}

/// A decoder that looks at nothing but IDs.
pub(crate) fn ids_only(shape: ReplyShape) -> Result<Decoder> {
    Decoder::new(no_columns(), shape)
}

/// The schema of a read that is after IDs alone, which a batch has beside its columns.
pub(super) fn no_columns() -> StreamSchema {
    StreamSchema::closed(Vec::<Field>::new()).with_id_column(None).with_timestamp_column(None)
}

/// The last ID of the one reply that a decoder has read.
pub(crate) fn last_decoded(mut decoder: Decoder) -> Result<Option<EntryId>> {
    match decoder.take_reply() {
        Some(Reply::Error(error)) => Err(error),
        _ => Ok(decoder.last_id()),
    }
}

/// The first ID within these bounds.
pub(super) async fn id_of_first(
    session: &mut Session,
    stream: &[u8],
    first: EntryId,
    last: EntryId,
) -> Result<Option<EntryId>> {
    let command = resp::range(stream, first, last, 1);
    session.request(&command, || ids_only(ReplyShape::Entries), last_decoded).await
}
