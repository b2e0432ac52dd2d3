//! Pages that are read while the one before is processed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::task::AbortHandle;

use super::rest::Rest;
use crate::client::{panicked, spawn};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::process::page::{Page, PageReader};

/// The rows of a page at least: small batches are parts of one.
const ROWS: usize = 1_000;

/// Reads pages in the background, one ahead, and hands them out as batches.
pub(super) struct Ahead {
    reader: Arc<Mutex<PageReader>>,
    /// What a batch and a page have at most.
    rows: usize,
    page_rows: usize,
    rest: Option<Rest>,
    coming: Option<Coming>,
    /// The latest page was all that there was.
    is_drained: bool,
    /// A position that nobody has read up to.
    begins: Option<EntryId>,
}

/// A page that is being read. It is given up with this.
struct Coming {
    after: EntryId,
    is_planned: bool,
    read: oneshot::Receiver<Result<Option<Page>>>,
    task: AbortHandle,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    /// How many rows a page has where batches have so many.
    pub(super) fn page_rows(rows: usize) -> usize {
        let rows = rows.max(1);
        rows.saturating_mul(ROWS.div_ceil(rows))
    }

    /// The reader is one for pages of that size.
    pub(super) fn new(reader: PageReader, rows: usize) -> Self {
        Ahead {
            reader: Arc::new(Mutex::new(reader)),
            rows,
            page_rows: Self::page_rows(rows),
            rest: None,
            coming: None,
            is_drained: false,
            begins: None,
        }
    }

    /// Forgets what was read; nobody has read up to that position, where one is given.
    pub(super) fn begin(&mut self, begins: Option<EntryId>) {
        self.clear();
        self.begins = begins;
    }

    /// The batch that comes after this position, and where it ends, if it has been read.
    pub(super) fn batch(&self, position: EntryId) -> Option<(Batch, EntryId)> {
        let rest = self.rest.as_ref().filter(|rest| rest.from() == position)?;
        Some(rest.batch(self.rows))
    }

    /// The page that is being handed out, and its first row that was not.
    pub(super) fn page(&self) -> Option<(&Arc<Batch>, usize)> {
        self.rest.as_ref().map(Rest::page)
    }

    /// Reads what comes after this position, up to `planned`, where that is known; says whether there is
    /// something. It waits that long for an entry. May be dropped at any time.
    pub(super) async fn read(
        &mut self,
        position: EntryId,
        planned: Option<EntryId>,
        wait: Duration,
    ) -> Result<bool> {
        self.rest = None;
        let is_it =
            |coming: &Coming| coming.after == position && coming.is_planned == planned.is_some();
        if !self.coming.as_ref().is_some_and(is_it) {
            let wait = if planned.is_some() { Duration::ZERO } else { wait };
            self.coming = Some(self.start(position, planned, wait)?);
        }
        let read = match &mut self.coming {
            Some(coming) => (&mut coming.read).await.unwrap_or_else(|_| Err(panicked())),
            None => return Ok(false),
        };
        self.coming = None;
        let page = read.inspect_err(|_| self.is_drained = false)?;
        let Some(page) = page else {
            self.is_drained = true;
            return Ok(false);
        };
        self.is_drained =
            planned.is_none() && page.batch.len() + page.batch.rejected().len() < self.page_rows;
        let rest = Rest::of(page, position, planned.is_some());
        if !self.is_drained && planned.is_none() {
            self.coming = Some(self.start(rest.last(), None, Duration::ZERO)?);
        }
        self.rest = Some(rest);
        Ok(true)
    }

    /// A commit is in up to there.
    pub(super) fn committed(&mut self, to: EntryId) {
        self.rest = self.rest.take().and_then(|rest| rest.after(to));
    }

    /// Forgets what was read.
    pub(super) fn clear(&mut self) {
        (self.rest, self.coming, self.is_drained) = (None, None, false);
    }

    /// Reads on the process's runtime: it goes on while nobody waits for it.
    fn start(&self, after: EntryId, until: Option<EntryId>, wait: Duration) -> Result<Coming> {
        let reader = Arc::clone(&self.reader);
        let begins = self.begins;
        let waits_first = self.is_drained && until.is_none();
        let (sender, read) = oneshot::channel();
        let task = spawn(async move {
            let mut reader = reader.lock().await;
            reader.set_begins(begins);
            let reading = async {
                if waits_first && !wait.is_zero() {
                    reader.wait(after, wait).await?;
                    return reader.read(after, until).await;
                }
                match reader.read(after, until).await? {
                    None if !wait.is_zero() && reader.wait(after, wait).await? => {
                        reader.read(after, until).await
                    }
                    page => Ok(page),
                }
            };
            // Nobody waits for it any more, then.
            let _ = sender.send(reading.await);
        })?;
        Ok(Coming { after, is_planned: until.is_some(), read, task })
    }
}
