//! A processor's next batch: the lane is acquired, and pages are read.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::Schema;

use super::idle::{Alarms, Turn};
use super::source::Source;
use super::transaction::server_time;
use super::{Processor, Transaction};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::process::commit::Commit;
use crate::process::lane::Held;

/// A wait for entries is cut into parts of this length at most, between which the lane is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What comes next.
pub(crate) enum Came {
    /// The lane was acquired, in this epoch: state and tables are to be loaded.
    Lane(u64),
    Batch(Box<Transaction>),
    /// It was stopped or, where the request says so, a wait found nothing.
    End,
}

impl Came {
    fn of(next: Option<Transaction>) -> Self {
        next.map_or(Came::End, |transaction| Came::Batch(Box::new(transaction)))
    }
}

impl Processor {
    /// The next batch: that which begins at the lane's position, the same one again if it was not
    /// committed. Waits until the lane is this processor's, and until there are entries. `None` once it is
    /// stopped or, where the request says so, a wait found nothing. Its future may be dropped at any time.
    ///
    /// Another [epoch](Transaction::epoch) than before says that the lane was acquired: the first time, or
    /// anew, because nobody knew whether a commit is in or the server had lost some and the
    /// policy is to go on. State and tables are to be loaded again then.
    ///
    /// # Errors
    ///
    /// [`Fenced`](crate::ErrorKind::Fenced) where another has acquired the lane since, from then on always;
    /// [`DataLoss`](crate::ErrorKind::DataLoss) where entries were trimmed before they were read, or the server has
    /// lost commits or the lane, and the policy is not to go on; as [`Lane::acquire`](crate::Lane::acquire) and
    /// [`read`](crate::read).
    pub async fn next(&mut self) -> Result<Option<Transaction>> {
        let (mut known, alarms) = (self.begun, Alarms::default());
        loop {
            let next = self.next_in(known, &alarms);
            match next.await.inspect_err(|error| self.given(error))? {
                Came::Lane(epoch) => known = Some(epoch),
                Came::Batch(transaction) => return Ok(Some(*transaction)),
                Came::End => return Ok(None),
            }
        }
    }

    /// The same for a caller that loads state and tables first: a batch comes only in the epoch that the caller
    /// knows. What cannot be loaded ends no entry, so before that none is noted as tried. The loss of a lane
    /// counts as told once somebody has the error; see [`giving`](Self::giving). With alarms a batch may be one
    /// without entries.
    pub(crate) async fn next_in(&mut self, known: Option<u64>, alarms: &Alarms) -> Result<Came> {
        self.giving = None;
        let mut waiting: Option<Instant> = None;
        while !self.stopper.is_stopped() {
            let Some(held) = self.held() else {
                if !self.acquire().await? {
                    return Ok(Came::End);
                }
                continue;
            };
            if known != Some(held.epoch) {
                return Ok(Came::Lane(held.epoch));
            }
            let ahead = match &mut self.source {
                Source::Pages(ahead) => ahead,
                Source::Group(_) => match self.next_of_group(held).await? {
                    ControlFlow::Break(next) => return Ok(Came::of(next)),
                    ControlFlow::Continue(()) => continue,
                },
            };
            if let Some((batch, last)) = ahead.batch(held.position) {
                match self.hand_out(held, batch, last).await? {
                    Some(transaction) => return Ok(Came::of(Some(transaction))),
                    None => continue,
                }
            }
            let block = self.request.block_time();
            let left = block.map(|block| {
                block.saturating_sub(waiting.map_or(Duration::ZERO, |since| since.elapsed()))
            });
            let wait = self.quiet.wait(left.unwrap_or(LOOK).min(LOOK), alarms);
            let since = *waiting.get_or_insert_with(Instant::now);
            let stopper = self.stopper.clone();
            let reading = ahead.read(held.position, held.planned, wait);
            match stopper.or(reading).await {
                None => return Ok(Came::End),
                Some(read) => {
                    if read? {
                        waiting = None;
                        continue;
                    } else if let Some(planned) = held.planned {
                        self.skip(held, planned).await?;
                        continue;
                    }
                    let is_over = block.is_some_and(|block| since.elapsed() >= block);
                    let ends = is_over && self.request.stops_idle();
                    if let Some(turn) = self.turn(held, alarms, ends).await? {
                        return Ok(Came::of(Some(turn)));
                    } else if ends {
                        return Ok(Came::End);
                    } else if is_over {
                        waiting = None;
                    }
                }
            }
        }
        Ok(Came::End)
    }

    /// Waits until the lane is this processor's, as [`next`](Self::next) does first: for whoever has something
    /// to settle before there is a batch. Says whether it is, and not that the loop was stopped. Its future
    /// may be dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub async fn hold(&mut self) -> Result<bool> {
        self.hold_untold().await.inspect_err(|error| self.given(error))
    }

    /// The same for a caller who may be gone when it ends, as [`next_in`](Self::next_in).
    pub(crate) async fn hold_untold(&mut self) -> Result<bool> {
        self.giving = None;
        while self.held().is_none() {
            if self.stopper.is_stopped() || !self.acquire().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is to be done without entries, on a stream where there is none after the position.
    async fn turn(
        &mut self,
        held: Held,
        alarms: &Alarms,
        ends: bool,
    ) -> Result<Option<Transaction>> {
        if alarms.is_empty() || (alarms.quiet.is_empty() && !ends) {
            return Ok(None);
        }
        let stopper = self.stopper.clone();
        let Some(now) = stopper.or(server_time(&mut self.session)).await else { return Ok(None) };
        let now = now.map_err(|error| self.request.about(error))?;
        let turn = self.quiet.looked(now, alarms, held.position, ends);
        turn.map(|turn| self.transaction_of(held, turn)).transpose()
    }

    /// A transaction without entries, at the position where the lane is.
    fn transaction_of(&self, held: Held, turn: Turn) -> Result<Transaction> {
        let rows = RecordBatch::new_empty(self.request.schema().arrow()?);
        let batch = Batch::new(rows, Vec::new(), Vec::new());
        let range = (held.position, held.position);
        let commit = self.empty_commit(held.position, held.position);
        Ok(Transaction::new(batch, range, commit, held.epoch).of_turn(Some(turn)))
    }

    /// Moves the position to the end of a batch of which no entry is left.
    async fn skip(&mut self, held: Held, planned: EntryId) -> Result<()> {
        let commit = self.empty_commit(held.position, planned);
        let rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let batch = Batch::new(rows, Vec::new(), Vec::new());
        let range = (held.position, planned);
        self.commit_unseen(Transaction::new(batch, range, commit, held.epoch)).await
    }

    /// Commits what nobody has had in hand, unless the loop is stopped first: then it may be in or not.
    pub(super) async fn commit_unseen(&mut self, transaction: Transaction) -> Result<()> {
        let stopper = self.stopper.clone();
        let epoch = transaction.epoch();
        match stopper.or(self.commit_untold(transaction)).await {
            Some(Err(error)) => self.settled_in(epoch, error),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    pub(super) fn empty_commit(&self, after: EntryId, to: EntryId) -> Commit {
        self.bounded(Commit::between(after, to))
    }

    /// Where the lane is, once it is held and known what was noted in it.
    pub(super) fn held(&self) -> Option<Held> {
        self.lane.held().filter(|held| self.begun == Some(held.epoch))
    }
}
