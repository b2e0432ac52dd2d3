//! What becomes of a batch once it is flushed: it is handed out, or not, and its rows are done with.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::GroupReader;
use super::lane::{Lane, ids_by_stream};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::stats::Handing;

impl GroupReader {
    /// What there is to know of the batch that was given last when it is handed out.
    pub(super) fn handing(&self) -> Handing {
        let longest = self.old_after(3);
        Handing {
            received: self.feed.received(),
            delivered: Some(self.delivered_at),
            old_at: longest.and_then(|longest| self.delivered_at.checked_add(longest)),
        }
    }

    /// Whether what came at that time has waited for that many quarters of the time after which others
    /// claim it. Half of it is left for the work on it, where that is possible.
    pub(super) fn has_waited(&self, came: Option<Instant>, quarters: u32) -> bool {
        came.zip(self.old_after(quarters)).is_some_and(|(came, most)| came.elapsed() >= most)
    }

    fn old_after(&self, quarters: u32) -> Option<Duration> {
        Some(self.options.longest_wait()? / 2 * quarters)
    }

    /// The batch that was flushed last is not handed out, because others may have claimed its rows:
    /// what is still this consumer's comes again.
    pub(super) fn withdrawn(&mut self, batch: &Batch) {
        self.ended = false;
        self.drop_rows(batch);
        self.lanes.iter_mut().for_each(|lane| lane.ledger.withdrawn());
    }

    /// The rows of a batch that are of this reader's streams do not count.
    fn drop_rows(&mut self, batch: &Batch) {
        let all = batch.rows_by_stream().into_iter();
        let own = all.filter(|(stream, _)| self.lane_of(*stream).is_some());
        let rows = own.map(|(_, rows)| rows.len()).sum();
        self.feed.drop_rows(rows);
    }

    /// The batch goes to the caller.
    pub(super) fn handed_out(&mut self, batch: &Batch) {
        if let ([lane], None) = (self.lanes.as_mut_slice(), &self.streams) {
            return lane.ledger.handed_out(batch.ids());
        }
        self.handed_out_of(&mut ids_by_stream(batch).into_iter().collect());
    }

    /// The same of a batch of several readers by stream, of which it takes those that are its own.
    pub(super) fn handed_out_of(&mut self, by_stream: &mut HashMap<usize, Vec<EntryId>>) {
        for lane in &mut self.lanes {
            lane.ledger.handed_out(&by_stream.remove(&lane.number).unwrap_or_default());
        }
    }

    /// Nothing is asked for now: the connection is left to other readers.
    pub(super) fn leave_connection(&mut self) {
        self.feed.session.release();
    }

    /// Some rows of the batch go to the caller, the others later.
    pub(super) fn handed_out_first(&mut self, rows: &Batch) {
        self.each_of(rows, |lane, ids| lane.ledger.handed_out_first(ids));
    }

    /// Does something for each stream of a batch that has rows in it.
    fn each_of(&mut self, batch: &Batch, act: impl Fn(&mut Lane, &[EntryId])) {
        for (stream, ids) in ids_by_stream(batch) {
            self.lane_of(stream).into_iter().for_each(|lane| act(lane, &ids));
        }
    }

    /// The caller asks for more, and so is done with what it has where that is the policy.
    pub(super) fn caller_asks(&mut self) {
        for lane in &mut self.lanes {
            lane.take_reports();
            lane.ledger.asked_for_more();
            if self.options.auto_ack {
                lane.watched().keeper().all_done();
            }
        }
    }

    /// The rows that were handed out are done with where that is the policy, and the next are still
    /// those of the same batch.
    pub(super) async fn asked_for_more(&mut self) -> Result<()> {
        self.caller_asks();
        self.acknowledge().await
    }

    /// The batch that went to the caller did not come into its hands: it is still pending, and comes
    /// again.
    #[cfg(feature = "python")]
    pub(super) fn not_handed_out(&mut self, batch: &Batch) {
        self.ended = false;
        self.drop_rows(batch);
        for (stream, rows) in batch.rows_by_stream() {
            let counts = rows.iter().filter_map(|row| batch.delivery_counts().get(*row).copied());
            if let Some(lane) = self.lane_of(stream) {
                lane.ledger.not_handed_out(&batch.ids_of(&rows), &counts.collect::<Vec<u64>>());
            }
        }
    }

    /// These of a stream are in the dead letters.
    pub(super) fn failed(&mut self, stream: usize, ids: &[EntryId]) {
        self.lane_of(stream).into_iter().for_each(|lane| lane.failed(ids));
    }

    /// These of a stream were not handed out, and are not done with.
    pub(super) fn left(&mut self, stream: usize, ids: &[EntryId]) {
        self.lane_of(stream).into_iter().for_each(|lane| lane.ledger.left(ids));
    }
}
