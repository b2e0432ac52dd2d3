//! Where a processor's batches come from: pages after its position, or a group that its consumer is of.

use std::ops::ControlFlow;

use super::ahead::Ahead;
use super::group::{GroupSource, Next, refused};
use super::{Processor, ProcessorOptions, Transaction};
use crate::client::Client;
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, ErrorKind, Result};
use crate::process::commit::Commit;
use crate::process::lane::Held;
use crate::process::page::PageReader;
use crate::read::{ReadRequest, infer_schema, newest_up_to};

/// Where batches come from.
pub(super) enum Source {
    Pages(Box<Ahead>),
    Group(Box<GroupSource>),
}

impl Source {
    /// As the request says. The lane and the dead letters of a group's consumer are those of its group.
    pub(super) fn new(
        client: &Client,
        request: &ReadRequest,
        options: &mut ProcessorOptions,
    ) -> Result<Self> {
        let Some(group) = request.group() else {
            return match &options.lane.group {
                Some(_) => Err(Error::invalid("the group of a processor is that of its request")),
                None => Ok(Source::Pages(pages(client, request, options))),
            };
        };
        let (name, consumer) = group.names();
        options.lane.group = Some((name.to_vec(), consumer.to_vec()));
        let dead_letter = options.dead_letter.as_deref();
        let source = GroupSource::new(request, group.clone(), dead_letter)?;
        options.dead_letter = source.dead_letter().map(<[u8]>::to_vec);
        Ok(Source::Group(Box::new(source)))
    }

    /// The rows of a batch are committed, which ends there.
    pub(super) fn committed(&mut self, to: EntryId, rows: &[EntryId]) {
        match self {
            Source::Pages(ahead) => ahead.committed(to),
            Source::Group(group) => group.committed(rows),
        }
    }

    /// Forgets what was read.
    pub(super) fn clear(&mut self) {
        match self {
            Source::Pages(ahead) => ahead.clear(),
            Source::Group(group) => group.clear(),
        }
    }

    /// Forgets what was read; nobody has read up to that position, where one is given.
    pub(super) fn begin(&mut self, begins: Option<EntryId>) {
        match self {
            Source::Pages(ahead) => ahead.begin(begins),
            Source::Group(group) => group.clear(),
        }
    }

    /// A position is no word on what other consumers of a group have had.
    pub(super) fn position(&self, position: EntryId) -> Option<EntryId> {
        matches!(self, Source::Pages(_)).then_some(position)
    }
}

/// Pages after a position.
fn pages(client: &Client, request: &ReadRequest, options: &ProcessorOptions) -> Box<Ahead> {
    let rows = request.batch_rows();
    let page_rows = Ahead::page_rows(rows);
    let reader = PageReader::new(client, request.clone(), page_rows, options.on_data_loss);
    Box::new(Ahead::new(reader, rows))
}

/// A group that is not there although there were commits is not created again.
fn missing(error: Error, commits: u64) -> Error {
    match error.kind() {
        ErrorKind::NoGroup if commits > 0 => error.with_advice(
            "there was a group when this consumer committed last, and it alone knew which entries are \
             committed, so it is not created again; create it (create_group) after the last of them",
        ),
        _ => error,
    }
}

impl Processor {
    /// Where a new lane begins, and which dtypes the fields have. A group has a start of its own.
    pub(super) async fn prepare_pages(&mut self) -> Result<()> {
        if !self.is_start_known {
            let start = match self.request.start() {
                IdBound::Id(id) => id.predecessor().unwrap_or_default(),
                IdBound::Newest | IdBound::AfterNewest => {
                    let stream = self.request.stream().to_vec();
                    let newest = newest_up_to(&mut self.session, &stream, EntryId::MAX).await;
                    newest.map_err(|error| self.request.about(error))?.unwrap_or_default()
                }
                IdBound::Nothing => EntryId::MAX,
            };
            self.lane.set_start(start);
            self.is_start_known = true;
        }
        if let Some(sample) = self.request.sample_size() {
            let asked = self.request.clone().with_inference(None);
            let fields = infer_schema(&self.client, asked.clone(), sample).await?;
            // An empty stream says nothing: each page is typed by itself then.
            if !fields.is_empty() {
                self.request = asked.with_schema(self.request.schema().with_fields_of(fields));
                self.source = Source::Pages(pages(&self.client, &self.request, &self.options));
            }
        }
        Ok(())
    }

    /// The next batch of a group's consumer, or the end; or else the lane is to be looked at.
    pub(super) async fn next_of_group(
        &mut self,
        held: Held,
    ) -> Result<ControlFlow<Option<Transaction>>> {
        let is_held = self.lane.watch();
        let Processor { client, request, source, stopper, .. } = self;
        let Source::Group(group) = source else { return Ok(ControlFlow::Continue(())) };
        let reading = group.next(client, request, held.commits == 0, is_held);
        let read = stopper.or(reading).await;
        let moved = group.dead_lettered();
        super::lock(&self.stats).dead_lettered = moved + self.letters;
        let read = read.transpose().map_err(|error| missing(error, held.commits));
        Ok(match read? {
            None | Some(Next::End) => ControlFlow::Break(None),
            Some(Next::Lost) => ControlFlow::Continue(()),
            Some(Next::Batch(batch)) => {
                let ids = batch.ids();
                let last = ids.last().copied().unwrap_or_default();
                let first = ids.first().and_then(|first| first.predecessor()).unwrap_or_default();
                let commit = self.bounded(Commit::acknowledging(ids.to_vec()));
                let transaction = Transaction::new(batch, (first, last), commit, held.epoch);
                ControlFlow::Break(Some(transaction))
            }
        })
    }

    /// A commit within the bounds of this processor.
    pub(super) fn bounded(&self, commit: Commit) -> Commit {
        let commit = commit.with_max_bytes(self.options.max_commit_bytes);
        match self.client.is_cluster() {
            true => commit.beside(self.request.stream()),
            false => commit,
        }
    }

    /// Leaves the rows of a transaction pending, instead of a commit: they come again, to this consumer or
    /// another, once they have been pending for long enough. Without a group it does nothing: they come
    /// again as the next batch.
    pub fn leave(&mut self, transaction: &Transaction) {
        if let Source::Group(group) = &mut self.source {
            group.leave(transaction.batch().ids());
        }
    }

    /// Whether it is the consumer of a group, and so has no state.
    #[cfg(feature = "python")]
    pub(crate) fn is_of_group(&self) -> bool {
        matches!(self.source, Source::Group(_))
    }

    /// Refuses what needs that nobody else processes the stream at the same time.
    pub(super) fn refuse_of_group(&self, what: &str) -> Result<()> {
        match &self.options.lane.group {
            None => Ok(()),
            Some((group, _)) => Err(self.request.about(refused(what, group))),
        }
    }

    /// Says what became of a batch of which another consumer has something by now.
    pub(super) fn tell_if_claimed(&self, error: &Error, entries: usize) {
        if error.kind() == ErrorKind::Claimed {
            let event = self.request.who().event("batch_claimed");
            let event = event.with("processor", self.shown_name()).with("entries", entries as u64);
            event.with("error", error.message().to_owned()).record();
        }
    }
}
