//! How a batch that was read becomes a transaction.

use super::poison::Step;
use super::rest::part;
use super::source::Source;
use super::{Processor, Transaction};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::process::lane::Held;

impl Processor {
    /// The next batch, where nobody has to be asked or waited for: one of a page that was read with the batch
    /// before. `None` says that [`next`](Processor::next) knows more.
    pub fn at_hand(&mut self) -> Option<Transaction> {
        let held = self.held().filter(|_| !self.stopper.is_stopped())?;
        let Source::Pages(ahead) = &self.source else { return None };
        let (batch, last) = ahead.batch(held.position)?;
        if batch.is_empty() {
            return None;
        }
        if let Some(suspects) = self.suspects.as_ref().filter(|_| held.planned.is_none()) {
            match suspects.next(held.position, batch.len(), last) {
                Step::HandOut { rows, note: None } if rows == batch.len() => {}
                _ => return None,
            }
        }
        Some(self.transaction(held, batch, last))
    }

    /// A transaction of a batch, or of its first rows where the others are suspected. Without a row, and
    /// where its entry is to be put aside, it is committed here: nobody has to see that.
    pub(super) async fn hand_out(
        &mut self,
        held: Held,
        batch: Batch,
        last: EntryId,
    ) -> Result<Option<Transaction>> {
        let (mut batch, mut last, mut tried) = (batch, last, None);
        // A batch that was planned stays whole.
        if let Some(suspects) = self.suspects.as_mut().filter(|_| held.planned.is_none())
            && !batch.is_empty()
        {
            let rows = match suspects.next(held.position, batch.len(), last) {
                Step::HandOut { rows, note } => {
                    if let Some(attempt) = note {
                        let note = attempt.to_string();
                        let noting = self.lane.note_tried(&note);
                        let Some(noted) = self.stopper.or(noting).await else { return Ok(None) };
                        if let Err(error) = noted {
                            return self.settled(error).map(|()| None);
                        }
                        suspects.noted(attempt);
                    }
                    rows
                }
                Step::PutAside { times } => {
                    tried = Some(times);
                    1
                }
            };
            if rows < batch.len() {
                (batch, last) = part(&batch, 0..rows, last);
            }
        }
        let mut transaction = self.transaction(held, batch, last);
        if let Some(times) = tried {
            let ids = transaction.batch().ids().to_vec();
            let reason = format!(
                "it was handed out alone {times} times (max_deliveries), and never committed: it ends \
                 whoever processes it"
            );
            transaction.fail(&ids, &reason, times)?;
        } else if !transaction.batch().is_empty() {
            return Ok(Some(transaction));
        }
        self.commit_unseen(transaction).await.map(|()| None)
    }

    /// A transaction of the next rows of what was read.
    fn transaction(&self, held: Held, batch: Batch, last: EntryId) -> Transaction {
        let commit = self.empty_commit(held.position, last);
        let transaction = Transaction::new(batch, (held.position, last), commit, held.epoch);
        match &self.source {
            Source::Pages(ahead) => transaction.of_page(ahead.page()),
            Source::Group(_) => transaction,
        }
    }
}
