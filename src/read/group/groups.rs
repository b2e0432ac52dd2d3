//! What a consumer reads: one stream, or several.

use std::sync::Arc;

use super::GroupReader;
use super::lane::ids_by_stream;
use super::parts::Parts;
use crate::client::Client;
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::group_options::GroupOptions;
use crate::read::member::Member;
use crate::read::request::ReadRequest;
use crate::read::stats::{Handing, Watched};

/// Reads as one consumer of a group, batch by batch; of one stream, or of several that have a group of
/// that name each.
pub(in crate::read) enum Groups {
    One(Box<GroupReader>),
    Several(Box<Parts>),
}

impl Groups {
    pub(in crate::read) fn new(
        client: &Client,
        request: ReadRequest,
        options: GroupOptions,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let options = Arc::new(options);
        Ok(match request.many {
            None => Groups::One(Box::new(GroupReader::new(client, request, &options, watched)?)),
            Some(_) => Groups::Several(Box::new(Parts::new(client, request, options, watched)?)),
        })
    }

    /// The consumers of all streams, by their numbers.
    pub(in crate::read) fn members(&self) -> Vec<&Member> {
        match self {
            Groups::One(reader) => reader.lanes.iter().map(|lane| &lane.member).collect(),
            Groups::Several(parts) => parts.members().iter().collect(),
        }
    }

    /// The consumer of one of the streams.
    pub(in crate::read) fn member(&self, stream: usize) -> Option<&Member> {
        match self {
            Groups::One(reader) => reader.lanes.get(stream).map(|lane| &lane.member),
            Groups::Several(parts) => parts.members().get(stream),
        }
    }

    /// Whether there may be several streams.
    pub(in crate::read) fn is_many(&self) -> bool {
        matches!(self, Groups::Several(_))
    }

    /// All that there is for this consumer, or the request's count of it; after waiting for the first
    /// where that is asked for. Acknowledges before it returns where that is automatic: whoever
    /// must not lose rows on the way to their user reads without, and acknowledges then.
    pub(in crate::read) async fn read_all(mut self) -> Result<Batch> {
        match &mut self {
            Groups::One(reader) => reader.read_all().await,
            Groups::Several(parts) => parts.read_all().await,
        }
    }

    /// Creates the groups that are missing where that is asked for, now rather than with the first
    /// batch.
    pub(in crate::read) async fn start(&mut self) -> Result<()> {
        match self {
            Groups::One(reader) => reader.start().await,
            Groups::Several(parts) => parts.start().await,
        }
    }

    /// The next batch; `None` at the end. The one before is done with. It has no rows where all of
    /// them were rejected.
    pub(in crate::read) async fn next(&mut self) -> Result<Option<Batch>> {
        match self {
            Groups::One(reader) => reader.next().await,
            Groups::Several(parts) => parts.next().await,
        }
    }

    /// What there is to know of the batch that was given last when it is handed out.
    pub(in crate::read) fn handing(&self) -> Handing {
        match self {
            Groups::One(reader) => reader.handing(),
            Groups::Several(parts) => parts.handing(),
        }
    }

    /// Those that have read what was given last.
    fn readers(&mut self) -> Vec<&mut GroupReader> {
        match self {
            Groups::One(reader) => vec![&mut **reader],
            Groups::Several(parts) => parts.given(),
        }
    }

    /// The batch goes to the caller.
    pub(in crate::read) fn handed_out(&mut self, batch: &Batch) {
        match self {
            Groups::One(reader) => reader.handed_out(batch),
            Groups::Several(parts) => {
                let mut by_stream = ids_by_stream(batch).into_iter().collect();
                parts.given().into_iter().for_each(|reader| reader.handed_out_of(&mut by_stream));
            }
        }
    }

    /// Some rows of the batch go to the caller, the others later.
    pub(in crate::read) fn handed_out_first(&mut self, rows: &Batch) {
        self.readers().into_iter().for_each(|reader| reader.handed_out_first(rows));
    }

    /// The batch that was given last is not handed out, because others may have claimed its rows: what
    /// is still this consumer's comes again.
    pub(in crate::read) fn withdrawn(&mut self, batch: &Batch) {
        self.came_to_nothing(batch);
        self.readers().into_iter().for_each(|reader| reader.withdrawn(batch));
    }

    /// The batch that went to the caller did not come into its hands: it is still pending, and comes
    /// again.
    #[cfg(feature = "python")]
    pub(in crate::read) fn not_handed_out(&mut self, batch: &Batch) {
        self.came_to_nothing(batch);
        self.readers().into_iter().for_each(|reader| reader.not_handed_out(batch));
    }

    fn came_to_nothing(&mut self, batch: &Batch) {
        if let Groups::Several(parts) = self {
            parts.came_to_nothing(batch.len());
        }
    }

    /// The rows that were handed out are done with where that is the policy, and the next are still
    /// those of the same batch.
    pub(in crate::read) async fn asked_for_more(&mut self) -> Result<()> {
        for reader in self.readers() {
            reader.asked_for_more().await?;
        }
        Ok(())
    }

    /// These of a stream are in the dead letters.
    pub(in crate::read) fn failed(&mut self, stream: usize, ids: &[EntryId]) {
        self.readers().into_iter().for_each(|reader| reader.failed(stream, ids));
    }

    /// These of a stream were not handed out, and are not done with.
    pub(in crate::read) fn left(&mut self, stream: usize, ids: &[EntryId]) {
        self.readers().into_iter().for_each(|reader| reader.left(stream, ids));
    }

    /// After an error: what was handed out stays so; the rest is pending, and comes first.
    pub(in crate::read) fn rewind(&mut self) -> Result<()> {
        match self {
            Groups::One(reader) => reader.rewind(),
            Groups::Several(parts) => parts.rewind(),
        }
    }

    /// Acknowledges what is done with; with `success` also the batch in hand. Has the server count
    /// no delivery that nobody saw, and others wait no longer for what was given back.
    pub(in crate::read) async fn finish(&mut self, success: bool) -> Result<()> {
        match self {
            Groups::One(reader) => reader.finish(success).await,
            Groups::Several(parts) => parts.finish(success).await,
        }
    }
}
