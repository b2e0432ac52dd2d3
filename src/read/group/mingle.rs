//! What several parts have read as one batch.

use std::collections::HashSet;
use std::sync::Arc;

use super::GroupReader;
use super::streams::Streams;
use crate::decode::Batch;
use crate::error::Result;
use crate::ledger::Others;
use crate::read::many::Columns;
use crate::read::stats::Handing;
use crate::schema::StreamSchema;

/// What the rows of a batch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    New,
    /// Some had been pending for this consumer.
    Own,
    /// They make a batch of their own: they were claimed, or may be handed out once more only.
    Apart,
}

impl Kind {
    pub(super) fn of(batch: Others, is_own: bool) -> Self {
        match (batch.claimed || batch.sealed, is_own) {
            (true, _) => Kind::Apart,
            (false, true) => Kind::Own,
            (false, false) => Kind::New,
        }
    }

    /// Whether rows of both may be in one batch, which is `collected` or given as soon as possible.
    pub(super) fn joins(self, other: Kind, collected: bool) -> bool {
        match (self, other) {
            (Kind::Apart, _) | (_, Kind::Apart) => false,
            (one, other) => collected || one == other,
        }
    }
}

/// A batch of one part.
pub(super) struct Given {
    pub(super) batch: Batch,
    pub(super) kind: Kind,
    pub(super) handing: Handing,
    /// Which streams had new entries, of each reply.
    pub(super) replies: Vec<HashSet<usize>>,
}

impl Given {
    /// What the reader has flushed last.
    pub(super) fn of(reader: &mut GroupReader, batch: Batch) -> Self {
        let is_alone = reader.options.max_deliveries() == Some(1);
        let kind = if is_alone { Kind::Apart } else { reader.kind };
        let replies = reader.streams.as_mut().map(Streams::take_replies).unwrap_or_default();
        Given { batch, kind, handing: reader.handing(), replies }
    }
}

/// Makes one batch of those of several parts, each of which may have found other columns.
pub(super) struct Mingle(Columns);

impl Mingle {
    pub(super) fn new(schema: &Arc<StreamSchema>) -> Self {
        Mingle(Columns::new(schema))
    }

    /// A batch is given as it is: later ones have its columns as well.
    pub(super) fn look(&mut self, batch: &Batch) -> Result<()> {
        self.0.look_at_rest(batch.records())
    }

    /// The rows of one batch after the other.
    pub(super) fn join(&mut self, batches: Vec<Batch>) -> Result<Batch> {
        let mut slices = Vec::with_capacity(batches.len());
        for (number, batch) in batches.iter().enumerate() {
            self.look(batch)?;
            slices.push((number, 0..batch.len()));
        }
        let page_of = |number: usize| batches.get(number).map(Batch::records);
        let records = self.0.gather(page_of, &slices)?;
        Ok(Batch::of_rows(batches, records))
    }
}
