//! Bounded reads of several streams as one.
//!
//! `ask` finds out what there is, in few round trips; `parts` says what to request next, and
//! `by_stream` does it; `by_id` merges what comes by the order of IDs, as `merge` says. `nodes` has a
//! reader for each node of a cluster, whose rows `weave` puts into one order.

mod ask;
mod by_id;
mod by_stream;
mod columns;
mod discover;
mod ends;
mod followed;
mod follower;
mod last;
mod merge;
mod mismatch;
mod nodes;
mod parts;
mod sample;
mod split;
mod tail;
mod weave;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::ask::{about_type, are_apart, check_exist, newest as newest_of_parts, parts};
use self::by_id::ById;
use self::by_stream::ByStream;
pub(super) use self::columns::Columns;
pub(super) use self::discover::discover;
pub(super) use self::ends::last_generated;
pub(super) use self::ends::lost_since;
use self::nodes::Nodes;
pub(super) use self::parts::Part;
use self::sample::with_inferred;
pub(super) use self::sample::{infer, infer_now};
pub(super) use self::split::{Side, Split};
pub(super) use self::tail::{MOST_PLACES, ManyTail, too_many_slots};
use super::deadline::Deadline;
use super::request::{BatchBounds, ReadRequest};
use crate::client::{Client, panicked};
use crate::decode::{Batch, Presence, StreamNames};
use crate::entry_id::EntryId;
use crate::error::{Result, counted};

/// In which order the rows of several streams come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StreamOrder {
    /// Stream after stream, as they are listed.
    #[default]
    ByStream,
    /// By entry ID; those of one ID as their streams are listed.
    ById,
}

/// What to do where several streams do not have the same fields, and no schema says which to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnSchemaMismatch {
    /// There is a column for each field of any of them, null where a stream lacks it.
    #[default]
    Union,
    /// The read fails with [`Schema`](crate::ErrorKind::Schema).
    Raise,
}

/// Several streams, and how they become one result.
#[derive(Debug, Clone)]
pub(crate) struct Many {
    pub(super) names: Arc<StreamNames>,
    pub(super) order: StreamOrder,
    pub(super) on_mismatch: OnSchemaMismatch,
    /// Whether a sample's dtypes must be the same, beside its fields.
    pub(super) compares_dtypes: bool,
    /// The streams are those that match, also later on; for those that follow them.
    pub(super) pattern: Option<Pattern>,
    /// The first and the last ID of each, where that is known.
    pub(super) ranges: Option<Vec<(EntryId, EntryId)>>,
}

/// What the keys of streams match, and how often to look for others that do.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(super) text: Vec<u8>,
    pub(super) every: Duration,
}

impl Many {
    pub(super) fn new(names: Arc<StreamNames>) -> Self {
        let (order, on_mismatch) = (StreamOrder::default(), OnSchemaMismatch::default());
        Many { names, order, on_mismatch, compares_dtypes: true, pattern: None, ranges: None }
    }
}

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pattern) = &self.pattern {
            return f.write_str(&String::from_utf8_lossy(&pattern.text));
        }
        match self.names.len() {
            0 => f.write_str("none"),
            1 => f.write_str(self.names.text(0)),
            number => {
                write!(f, "{} and {}", self.names.text(0), counted(number - 1, "other", "others"))
            }
        }
    }
}

/// The bounds of each stream's entries, as things are now; the first is greater than the last where
/// there are none. A request with these [ranges](ReadRequest::with_ranges) gives the same entries
/// however often it is read. XREVRANGE (Redis 5.0), for many streams in one round trip.
///
/// # Errors
///
/// As [`read`](crate::read).
pub async fn pin_streams(
    client: &Client,
    request: &ReadRequest,
) -> Result<Vec<(EntryId, EntryId)>> {
    let Some(many) = &request.many else { return Ok(Vec::new()) };
    let pinning = Box::pin(ask::pinned(client, request, many));
    pinning.await.map_err(|error| request.about(error))
}

/// All entries, in pieces, after waiting for the first where that is asked for.
pub(super) async fn read_all(client: &Client, request: ReadRequest) -> Result<Vec<Batch>> {
    let deadline = request.block.map(Deadline::of_block);
    let mut request = ReadRequest { bounds: BatchBounds::NONE, ..request };
    if deadline.is_some() {
        request = Box::pin(ask::with_bounds(client, request)).await?;
    }
    loop {
        let mut reader = ManyReader::new(client, request.clone());
        let pieces = reader.read_all().await?;
        if pieces.iter().any(|piece| !piece.is_empty()) || request.count == Some(0) {
            return Ok(pieces);
        }
        let Some(deadline) = &deadline else { return Ok(pieces) };
        if !ask::wait(client, &request, deadline).await? {
            return Ok(pieces);
        }
    }
}

/// Reads several streams, batch by batch.
pub(super) struct ManyReader {
    client: Client,
    request: ReadRequest,
    /// `None` before it is known what there is.
    planned: Option<Planned>,
}

enum Planned {
    One(OneReader),
    Nodes(Box<Nodes>),
}

impl Planned {
    /// Of what the streams have now.
    async fn of(client: &Client, mut request: ReadRequest) -> Result<Self> {
        let parts = match &request.many {
            Some(many) => ask::parts(client, &request, many).await?,
            None => Vec::new(),
        };
        if let Some(schema) = with_inferred(client, &request, &parts).await? {
            request.schema = schema.into();
        }
        Planned::new(client, request, parts).await
    }

    /// Of these parts, wherever they are served.
    async fn new(client: &Client, request: ReadRequest, parts: Vec<Part>) -> Result<Self> {
        let names = request.many.as_ref().map(|many| Arc::clone(&many.names)).unwrap_or_default();
        Ok(match ask::split(client, &names, &parts).await?.len() {
            0 | 1 => Planned::One(OneReader::new(client, request, parts)?),
            _ => Planned::Nodes(Box::new(Nodes::new(client, request, parts))),
        })
    }

    async fn read_all(&mut self) -> Result<Vec<Batch>> {
        match self {
            Planned::One(reader) => reader.read_all().await,
            Planned::Nodes(nodes) => nodes.read_all().await,
        }
    }
}

impl ManyReader {
    pub(super) fn new(client: &Client, request: ReadRequest) -> Self {
        ManyReader { client: client.clone(), request, planned: None }
    }

    async fn planned(&mut self) -> Result<&mut Planned> {
        if self.planned.is_none() {
            let planning = Box::pin(Planned::of(&self.client, self.request.clone()));
            self.planned = Some(planning.await?);
        }
        self.planned.as_mut().ok_or_else(panicked)
    }

    async fn read_all(&mut self) -> Result<Vec<Batch>> {
        self.planned().await?.read_all().await
    }

    /// The next batch, or `None` where there is no more.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        match self.planned().await? {
            Planned::One(reader) => reader.next().await,
            Planned::Nodes(nodes) => nodes.next().await,
        }
    }

    /// After an error: what was handed out stays so, the rest is read again.
    pub(super) fn rewind(&mut self) -> Result<()> {
        match &mut self.planned {
            Some(Planned::One(reader)) => reader.rewind(),
            Some(Planned::Nodes(nodes)) => {
                nodes.rewind();
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Reads what one server or node has.
enum OneReader {
    ByStream(Box<ByStream>),
    ById(Box<ById>),
}

impl OneReader {
    fn new(client: &Client, request: ReadRequest, parts: Vec<Part>) -> Result<Self> {
        Ok(match request.many.as_ref().map(|many| many.order) {
            Some(StreamOrder::ById) => {
                OneReader::ById(Box::new(ById::new(client, request, parts)?))
            }
            _ => OneReader::ByStream(Box::new(ByStream::new(client, &request, parts)?)),
        })
    }

    /// The same as one of several: its batches say which streams their rows are of, and what its entries
    /// lack is for others to judge.
    fn one_of_several(self) -> Self {
        match self {
            OneReader::ById(reader) => {
                let mut reader = reader.with_runs();
                reader.reader.is_one_of_several();
                OneReader::ById(Box::new(reader))
            }
            // Its batches do so anyway.
            OneReader::ByStream(mut reader) => {
                reader.reader.is_one_of_several();
                OneReader::ByStream(reader)
            }
        }
    }

    /// What of the schema has come so far, while that is watched.
    fn presence(&self) -> Option<&Presence> {
        match self {
            OneReader::ByStream(reader) => reader.reader.presence(),
            OneReader::ById(reader) => reader.reader.presence(),
        }
    }

    async fn read_all(&mut self) -> Result<Vec<Batch>> {
        match self {
            OneReader::ByStream(reader) => reader.read_all().await,
            OneReader::ById(reader) => reader.read_all().await,
        }
    }

    async fn next(&mut self) -> Result<Option<Batch>> {
        match self {
            OneReader::ByStream(reader) => reader.next().await,
            OneReader::ById(reader) => reader.next().await,
        }
    }

    fn rewind(&mut self) -> Result<()> {
        match self {
            OneReader::ByStream(reader) => reader.reader.rewind(),
            OneReader::ById(reader) => reader.reader.rewind(),
        }
    }

    /// The bytes of replies that the latest batch took.
    fn taken(&mut self) -> u64 {
        match self {
            OneReader::ByStream(reader) => reader.reader.take_received(),
            OneReader::ById(reader) => reader.taken,
        }
    }

    /// The stream that is being read, where the others are read before or after it.
    fn stream(&self) -> Option<usize> {
        match self {
            OneReader::ByStream(reader) => reader.reader.stream(),
            OneReader::ById(_) => None,
        }
    }
}

/// Reads all entries of some parts, stream by stream, whatever the request says of its order.
async fn read_parts(client: &Client, request: &ReadRequest, parts: Vec<Part>) -> Result<Batch> {
    let request = ReadRequest { bounds: BatchBounds::NONE, ..request.clone() };
    let request = request.with_order(StreamOrder::ByStream);
    Batch::joined(Planned::new(client, request, parts).await?.read_all().await?)
}
