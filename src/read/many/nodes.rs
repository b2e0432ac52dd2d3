//! Streams that several nodes of a cluster serve: a reader for each node, all at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::AbortHandle;

use super::columns::{Columns, with_columns_of_last};
use super::mismatch::FieldSets;
use super::parts::Part;
use super::weave::{Next, Weave};
use super::{Many, OnSchemaMismatch, OneReader, StreamOrder, ask};
use crate::client::{Client, panicked, spawn};
use crate::decode::{Batch, Presence, StreamNames, ends};
use crate::error::{Error, Result};
use crate::read::intake::record_missing;
use crate::read::request::{BatchBounds, ReadRequest};

/// Reads streams of several nodes as one, in the order of the request.
pub(super) struct Nodes {
    client: Client,
    request: ReadRequest,
    /// What was not handed out, by stream.
    rest: BTreeMap<usize, Part>,
    /// How many entries are wanted still, where that is limited.
    left: Option<u64>,
    running: Option<Running>,
    /// The columns of what was handed out before an error.
    columns: Option<Columns>,
    fields: Option<FieldSets>,
    /// What of the schema had come before an error.
    presence: Option<Presence>,
    /// Whether it is settled which of the schema's fields are missing.
    is_judged: bool,
}

/// The readers of the nodes, and what has come of them.
struct Running {
    weave: Weave,
    sources: Vec<Source>,
    process: u32,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.rewind();
    }
}

/// A reader, which is a task of its own, and stops when nobody takes what it has read.
struct Source {
    pieces: Receiver<Piece>,
    failure: Option<Error>,
    /// What of the schema has come, and whether nothing more will.
    presence: Option<Box<Presence>>,
    is_over: bool,
    _task: Task,
}

/// Ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Piece {
    /// Rows, the bytes that they took in replies, and what of the schema has come so far.
    Rows(Batch, u64, Option<Box<Presence>>),
    /// Why it ended, and the stream that it was reading where that is known.
    Failed(Error, Option<usize>),
    End,
}

/// What a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Portion {
    /// As the request has it. Nodes are ahead of what was handed out by some pages.
    Batch,
    /// All that there is, so that nodes may be ahead as far as they like.
    Whole,
}

impl Nodes {
    /// The rows and the bytes of a page, which a node's reader is ahead by.
    const ROWS: usize = 20_000;
    const BYTES: u64 = 2 * 1024 * 1024;
    /// The pages that wait to be taken, beside the one that is being read.
    const AHEAD: usize = 1;
    /// The rows of a piece of a whole read by ID.
    const PIECE: usize = 256 * 1024;

    pub(super) fn new(client: &Client, request: ReadRequest, parts: Vec<Part>) -> Self {
        Nodes {
            client: client.clone(),
            rest: parts.into_iter().map(|part| (part.stream, part)).collect(),
            left: request.count,
            running: None,
            columns: None,
            fields: FieldSets::of(&request),
            presence: None,
            // What is inferred is there.
            is_judged: request.sample.is_some(),
            request,
        }
    }

    /// In pieces: one piece would be a copy of all.
    pub(super) async fn read_all(&mut self) -> Result<Vec<Batch>> {
        self.start(Portion::Whole).await?;
        let rows = match self.request.many.as_ref().map(|many| many.order) {
            // Their rows are copied anyway, which is done while more come.
            Some(StreamOrder::ById) => Self::PIECE,
            _ => usize::MAX,
        };
        let bounds = BatchBounds { rows, ..BatchBounds::NONE };
        let mut pieces = Vec::new();
        loop {
            let is_end = self.collect(bounds, Portion::Whole).await?;
            pieces.extend(self.take(is_end, Portion::Whole)?);
            if is_end {
                return with_columns_of_last(pieces);
            }
        }
    }

    /// The next batch, or `None` where there is no more.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        self.start(Portion::Batch).await?;
        let is_end = self.collect(self.request.bounds, Portion::Batch).await?;
        let batch = Batch::joined(self.take(is_end, Portion::Batch)?)?;
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// After an error: what was handed out stays so, the rest is read again.
    pub(super) fn rewind(&mut self) {
        if let Some(Running { weave, sources, process }) = self.running.take() {
            let of_sources = sources.iter().filter_map(|source| source.presence.as_deref());
            self.presence = merged(self.presence.iter().chain(of_sources));
            if process != std::process::id() {
                // The tasks are those of the process that this one was forked from.
                std::mem::forget(sources);
            }
            self.columns = Some(weave.into_columns());
        }
    }

    /// Has the nodes read, unless they do already.
    async fn start(&mut self, portion: Portion) -> Result<()> {
        if self.running.as_ref().is_some_and(|running| running.process != std::process::id()) {
            self.rewind();
        }
        let (None, Some(many)) = (&self.running, &self.request.many) else { return Ok(()) };
        let parts: Vec<Part> = self.rest.values().copied().collect();
        let lists = ask::split(&self.client, &many.names, &parts).await?;
        let request = ReadRequest {
            count: self.left,
            bounds: match (portion, many.order) {
                (Portion::Whole, StreamOrder::ByStream) => BatchBounds::NONE,
                // All of them are needed at any time, so none is ahead of the others.
                _ => BatchBounds {
                    rows: self.request.bounds.rows.min(Self::ROWS),
                    bytes: self.request.bounds.bytes.min(Self::BYTES),
                },
            },
            many: Some(Arc::new(Many {
                // Who has all of them compares.
                on_mismatch: OnSchemaMismatch::Union,
                ..Many::clone(many)
            })),
            ..self.request.clone()
        };
        let source = |list: Vec<usize>| {
            let parts = list.into_iter().filter_map(|at| parts.get(at).copied()).collect();
            let reader = OneReader::new(&self.client, request.clone(), parts)?;
            let (sender, pieces) = channel(Self::AHEAD);
            let task = Task(spawn(run(reader.one_of_several(), sender))?);
            Ok(Source { pieces, failure: None, presence: None, is_over: false, _task: task })
        };
        let sources = lists.into_iter().map(source).collect::<Result<Vec<_>>>()?;
        let columns = self.columns.take().unwrap_or_else(|| Columns::new(&self.request.schema));
        let weave = Weave::new(many.order, sources.len(), columns);
        self.running = Some(Running { weave, sources, process: std::process::id() });
        Ok(())
    }

    /// Collects what a batch has room for; says whether that is all.
    async fn collect(&mut self, bounds: BatchBounds, portion: Portion) -> Result<bool> {
        let (Some(running), Some(many)) = (&mut self.running, &self.request.many) else {
            return Ok(true);
        };
        loop {
            let (rows, bytes) = running.weave.collected();
            let left = self.left.and_then(|left| usize::try_from(left).ok());
            let room = bounds.rows.min(left.unwrap_or(usize::MAX)).saturating_sub(rows);
            if left.is_some_and(|left| rows >= left) {
                return Ok(true);
            }
            if room == 0 || bytes >= bounds.bytes {
                return Ok(false);
            }
            match running.weave.take_next(room)? {
                Next::Rows(_) => {}
                Next::Dry(source) => running.receive(source, &many.names).await?,
                // What comes before it is a batch.
                Next::Failure(_) if portion == Portion::Batch && rows > 0 => return Ok(false),
                Next::Failure(source) => return Err(running.failure(source)),
                Next::End => return Ok(true),
            }
        }
    }

    /// Hands out what was collected.
    fn take(&mut self, is_end: bool, portion: Portion) -> Result<Vec<Batch>> {
        let Some(running) = &mut self.running else { return Err(panicked()) };
        let batches = match portion {
            Portion::Batch => vec![running.weave.take()?],
            Portion::Whole => running.weave.take_pieces()?,
        };
        if let Some(fields) = &mut self.fields {
            batches.iter().for_each(|batch| fields.look(batch));
            if is_end {
                fields.check()?;
            }
        }
        batches.iter().for_each(|batch| self.handed_out(batch));
        self.judge();
        Ok(batches)
    }

    /// Reports fields of the schema that none of the nodes has, once each has read enough to say so.
    fn judge(&mut self) {
        let Some(running) = self.running.as_ref().filter(|_| !self.is_judged) else { return };
        let has_said = |source: &Source| {
            source.is_over || source.presence.as_deref().is_some_and(Presence::has_enough)
        };
        if !running.sources.iter().all(has_said) {
            return;
        }
        let of_sources = running.sources.iter().filter_map(|source| source.presence.as_deref());
        let all = merged(self.presence.iter().chain(of_sources));
        let verdict = all.and_then(|all| all.verdict(&self.request.schema));
        self.is_judged = verdict.is_some();
        if let Some(missing) = verdict.flatten() {
            record_missing(missing, &self.request.who());
        }
    }

    /// Takes out of the rest what was handed out.
    fn handed_out(&mut self, batch: &Batch) {
        let is_by_stream =
            self.request.many.as_ref().is_some_and(|many| many.order == StreamOrder::ByStream);
        if let (true, Some(run)) = (is_by_stream, batch.runs().last()) {
            // Of those before it there is no more.
            self.rest = self.rest.split_off(&run.stream);
        }
        for (run, end) in ends(batch.runs(), batch.len()) {
            let Some(last) = end.checked_sub(1).and_then(|row| batch.ids().get(row)) else {
                continue;
            };
            let rest = self.rest.remove(&run.stream).and_then(|part| {
                let most = part.most.saturating_sub((end - run.row) as u64);
                let rest = Part { first: last.successor()?, most, ..part };
                (rest.first <= rest.last && rest.most > 0).then_some(rest)
            });
            self.rest.extend(rest.map(|rest| (rest.stream, rest)));
        }
        self.left = self.left.map(|left| left.saturating_sub(batch.len() as u64));
    }
}

impl Running {
    /// Waits for what comes next of a source.
    async fn receive(&mut self, index: usize, names: &StreamNames) -> Result<()> {
        let Some(source) = self.sources.get_mut(index) else { return Err(panicked()) };
        match source.pieces.recv().await {
            Some(Piece::Rows(batch, bytes, presence)) => {
                source.presence = presence;
                self.weave.add(index, batch, bytes);
            }
            Some(Piece::Failed(error, reading)) => {
                // A text that does not fit is met when columns are built.
                let named = error.context().iter().find(|(what, _)| *what == "stream");
                let stream = named.and_then(|(_, name)| names.find_text(name)).or(reading);
                source.failure = Some(error);
                self.weave.fail(index, stream);
            }
            Some(Piece::End) => {
                source.is_over = true;
                self.weave.end(index);
            }
            None => return Err(panicked()),
        }
        Ok(())
    }

    fn failure(&mut self, index: usize) -> Error {
        let source = self.sources.get_mut(index);
        source.and_then(|source| source.failure.take()).unwrap_or_else(panicked)
    }
}

/// What any of them has met.
fn merged<'p>(mut all: impl Iterator<Item = &'p Presence>) -> Option<Presence> {
    let mut merged = all.next()?.clone();
    all.for_each(|other| merged.merge(other));
    Some(merged)
}

/// Reads what one node has, until nobody wants it.
async fn run(mut reader: OneReader, pieces: Sender<Piece>) {
    loop {
        let piece = match reader.next().await {
            Ok(Some(batch)) => {
                Piece::Rows(batch, reader.taken(), reader.presence().cloned().map(Box::new))
            }
            Ok(None) => Piece::End,
            Err(error) => Piece::Failed(error, reader.stream()),
        };
        let is_over = !matches!(piece, Piece::Rows(..));
        if pieces.send(piece).await.is_err() || is_over {
            return;
        }
    }
}
