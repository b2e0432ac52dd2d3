//! What a processor reads: the entries after its position, and whether some of them are gone.

use std::time::{Duration, Instant};

use crate::client::{Client, Session};
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::{EntryId, IdBound};
use crate::error::Result;
use crate::read::{
    OnDataLoss, ReadRequest, StreamLoss, batches, ids_only, last_decoded, lost_behind,
};
use crate::resp::{self, PageLimit};

/// Reads what comes after a position, as batches.
pub struct PageReader {
    client: Client,
    request: ReadRequest,
    rows: usize,
    on_data_loss: OnDataLoss,
    session: Session,
    stream: Vec<u8>,
    /// A position that nobody has read up to.
    begins: Option<EntryId>,
    /// Behind which entry the log has said that some are lost.
    told: Option<EntryId>,
}

/// Entries that follow one another.
#[derive(Debug)]
pub struct Page {
    /// The rows; entries that were rejected are listed beside them.
    pub batch: Batch,
    /// After which entry they begin: the position that was asked for, unless entries after that are lost
    /// and the reader goes on all the same.
    pub after: EntryId,
    /// Where they end: `until` where that was given, and otherwise the last entry, be it a row or rejected.
    pub last: EntryId,
}

impl PageReader {
    /// One of the request's stream and schema, whose pages have `rows` rows at most, unless they are told where
    /// to end. The request's range of IDs does not matter.
    pub fn new(
        client: &Client,
        request: ReadRequest,
        rows: usize,
        on_data_loss: OnDataLoss,
    ) -> Self {
        let stream = request.stream().to_vec();
        let request = request.with_batch_size(rows);
        let client = client.keep_trying(request.who());
        let session = client.session_for(&stream);
        PageReader {
            client,
            request,
            rows,
            on_data_loss,
            session,
            stream,
            begins: None,
            told: None,
        }
    }

    /// A position that nobody has read up to, such as a date: that there is no entry, and none before it, is
    /// no loss.
    pub(super) fn set_begins(&mut self, position: Option<EntryId>) {
        self.begins = position;
    }

    /// The next entries after that one; `None` where there are none. With `until` all entries up to that one,
    /// whatever their number: a batch that was [planned](crate::Lane::plan) has the same ones again, also for
    /// a processor of smaller batches. Where none of them is left, the position is to be moved to `until` all
    /// the same, by a [commit](crate::Commit::between) that writes nothing.
    ///
    /// XRANGE (Redis 5.0). Then, unless the position is `0-0`, whether the entry at the position is still
    /// there: if so, none of those after it was trimmed before it was read.
    ///
    /// # Errors
    ///
    /// [`DataLoss`](crate::ErrorKind::DataLoss) where entries may have been trimmed before they were read,
    /// or the stream was created again; and as [`read`](crate::read).
    pub async fn read(&mut self, after: EntryId, until: Option<EntryId>) -> Result<Option<Page>> {
        let page = self.page(after, until).await?;
        if after == EntryId::MIN || self.begins == Some(after) || self.is_there(after).await? {
            return Ok(page);
        }
        let lost = lost_behind(&mut self.session, &self.stream, after).await;
        let Some(lost) = lost.map_err(|error| self.request.about(error))? else {
            return Ok(page);
        };
        match self.on_data_loss {
            OnDataLoss::Raise => Err(self.request.about(lost.error(after))),
            OnDataLoss::Continue => {
                if self.told.replace(after) != Some(after) {
                    let event = self.request.who().event("data_lost");
                    event.with("error", lost.error(after).message().to_owned()).record();
                }
                match lost {
                    // Its entries begin before the position.
                    StreamLoss::BegunAnew { .. } | StreamLoss::Gone => {
                        self.page(EntryId::MIN, None).await
                    }
                    StreamLoss::Diverged { .. } | StreamLoss::Trimmed { .. } => Ok(page),
                }
            }
        }
    }

    /// Waits for an entry after that one (XREAD BLOCK, Redis 5.0), as long as `wait` at most; says
    /// whether there is one.
    ///
    /// # Errors
    ///
    /// Every kind that connecting and the server can raise.
    pub async fn wait(&mut self, after: EntryId, wait: Duration) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let left = wait.saturating_sub(begun.elapsed());
            let block = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
            let limit = PageLimit::of_count(1);
            let command = resp::read_after(&self.stream, after, limit, Some(block));
            let decoder = ids_only(ReplyShape::Streams)?;
            match self.session.attempt(&command, Some(left), decoder, last_decoded).await {
                Ok(last) => return Ok(last.is_some()),
                Err(error) => {
                    let recovered = self.session.recover(error).await;
                    recovered.map_err(|error| self.request.about(error))?;
                }
            }
        }
    }

    /// The next page, whatever was lost.
    async fn page(&mut self, after: EntryId, until: Option<EntryId>) -> Result<Option<Page>> {
        let Some(first) = after.successor() else { return Ok(None) };
        let end = until.map_or(IdBound::Newest, IdBound::Id);
        let request = self.request.clone().with_range(IdBound::Id(first), end);
        let request = match until {
            Some(_) => request.with_batch_size(usize::MAX).with_batch_bytes(u64::MAX),
            // Beyond that nothing is asked for, so that the connection serves the next page, too.
            None => request.with_count(Some(u64::try_from(self.rows).unwrap_or(u64::MAX))),
        };
        let mut batches = batches(&self.client, request)?.of_one_key();
        let Some(batch) = batches.next().await? else { return Ok(None) };
        let rejected = batch.rejected().iter().map(|rejected| rejected.id);
        let last = batch.ids().last().copied().into_iter().chain(rejected).max();
        Ok(last.map(|last| Page { batch, after, last: until.unwrap_or(last) }))
    }

    /// Whether that entry is there.
    async fn is_there(&mut self, id: EntryId) -> Result<bool> {
        let command = resp::range(&self.stream, id, id, 1);
        let asking = self.session.request(&command, || ids_only(ReplyShape::Entries), last_decoded);
        let found = asking.await.map_err(|error| self.request.about(error))?;
        Ok(found.is_some())
    }
}

impl std::fmt::Debug for PageReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageReader").field("request", &self.request).finish_non_exhaustive()
    }
}
