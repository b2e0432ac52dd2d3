//! Reads through a consumer group: XREADGROUP, own pending entries and acknowledgement.
//!
//! What was delivered and what is to be asked next is the [ledger](crate::ledger)'s affair; here is
//! what is sent and received for it.

mod ask;
mod begin;
mod recover;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ack;
use super::claim::Claimer;
use super::feed::Feed;
use super::group_options::{GroupOptions, OwnPending};
use super::member::Member;
use super::poll::{Collecting, Pace, Polled};
use super::request::ReadRequest;
use super::sample::infer_range;
use super::stats::{Handing, Report, Watched};
use super::watchers::watch;
use crate::client::{Client, Retry};
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::EntryId;
use crate::error::{ErrorKind, Result};
use crate::ledger::{Acknowledge, Ledger, Terms};

/// Reads as one consumer of a group, batch by batch.
///
/// What the server has sent is pending until it is acknowledged, whether or not it arrived. So a
/// request asks for no more than the batch has room for, and after a lost reply the consumer's own
/// pending entries are read first.
pub(super) struct GroupReader {
    feed: Feed,
    request: ReadRequest,
    options: GroupOptions,
    member: Member,
    ledger: Ledger,
    pace: Pace,
    claimer: Option<Claimer>,
    watched: Arc<Watched>,
    /// The range of IDs that new entries have is known.
    prepared: bool,
    /// The group is known to have been there.
    found: bool,
    /// Where the group began when this reader created or found it.
    begins_after: Option<EntryId>,
    /// When the first of the reply's entries came, those of the batch that is being collected, and
    /// those of the batch before.
    reply_came: Option<Instant>,
    rows_came: Option<Instant>,
    delivered_at: Instant,
    /// The rows of the batch that is being collected have been read again, because they were too old.
    refreshed: bool,
    /// Until when the server waits for the first entry of the reply.
    waits_until: Option<Instant>,
    /// Until when the server may go on to serve the request that was sent last.
    blocks_until: Option<Instant>,
    /// When to create a lost group again, and when to give up.
    recreations: Retry,
    /// When the request was sent that is answered next.
    sent_at: Option<Instant>,
    /// How many commands before it acknowledge what is done with.
    acknowledging: usize,
    /// One batch takes all there is, up to the newest entry at the start where it is known.
    takes_all: bool,
    end: Option<Option<EntryId>>,
    ended: bool,
}

impl GroupReader {
    pub(super) fn new(
        client: &Client,
        request: ReadRequest,
        options: GroupOptions,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let mut recreations = Retry::new(client.options());
        // It takes a connection to learn that the group is lost.
        recreations.connected();
        let claimer = options.reclaim.filter(|_| !options.noack).map(Claimer::new);
        let max_deliveries = options.max_deliveries();
        let counts = options.count_deliveries || max_deliveries.is_some() || claimer.is_some();
        let mut ledger = Ledger::new(Terms {
            acknowledge: match options.auto_ack {
                true => Acknowledge::Automatically,
                false => Acknowledge::Manually,
            },
            noack: options.noack,
            lists: counts && !options.noack,
            max_deliveries,
            recreates: options.recreates(),
        });
        ledger.was_done_up_to(options.done_up_to);
        if options.own_pending != OwnPending::Skip {
            ledger.read_own_pending();
        }
        watch(client.options(), &request.stream, &options.group, &watched)?;
        let shape = ReplyShape::Streams;
        let session = client.session_for(&request.stream);
        let mut feed = Feed::new(client, session, request.schema.clone(), shape, request.bounds)?
            .watch_fields(request.who());
        feed.keeps_replies = true;
        Ok(GroupReader {
            feed,
            member: Member {
                client: client.bounded(),
                patient: client.clone(),
                stream: request.stream.clone(),
                group: options.group.clone(),
                consumer: options.consumer.clone(),
                dead_letter: options.dead_letter.as_ref().map(|dead| dead.stream.clone()),
                reclaim_min_idle: options.reclaim.map(|reclaim| reclaim.min_idle),
                watched: Arc::clone(&watched),
            },
            ledger,
            pace: Pace::new(&request).with_longest_collecting(options.longest_wait()),
            claimer,
            watched,
            prepared: false,
            found: false,
            begins_after: None,
            reply_came: None,
            rows_came: None,
            delivered_at: Instant::now(),
            refreshed: false,
            waits_until: None,
            blocks_until: None,
            recreations,
            sent_at: None,
            acknowledging: 0,
            takes_all: false,
            end: None,
            ended: request.count == Some(0),
            request,
            options,
        })
    }

    pub(super) fn member(&self) -> &Member {
        &self.member
    }

    /// All that there is for this consumer, or the request's count of it; after waiting for the first
    /// where that is asked for. Acknowledges before it returns where that is automatic: whoever
    /// must not lose rows on the way to their user reads without, and acknowledges then.
    pub(super) async fn read_all(mut self) -> Result<Batch> {
        self.takes_all = true;
        // Otherwise the first read tells whether there is a group.
        if self.options.recreates() {
            self.start().await?;
        }
        let waits = self.request.block.is_some();
        self.pace.begin_poll();
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll(waits).await {
                Ok(Polled::More) if self.is_before_end() || self.feed.rows() == 0 => {}
                Ok(Polled::More) if self.ledger.has_work() => {}
                Ok(_) => break,
                Err(error) => self.recover(error).await?,
            }
        }
        let batch = self.feed.flush_all()?;
        let batch = self.seen_of(batch)?;
        self.ledger.handed_out(batch.ids());
        self.ledger.asked_for_more();
        match self.acknowledge().await {
            // Perhaps the server took note, and then the rows would be lost with this error.
            Err(error)
                if error.retryable()
                    || matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) => {}
            acknowledged => acknowledged?,
        }
        Ok(batch)
    }

    /// Whether there may be entries that were there at the start: what is added meanwhile would keep
    /// the read from ending.
    fn is_before_end(&self) -> bool {
        self.end.is_none_or(|end| end > self.feed.last_id())
    }

    /// The next batch; `None` at the end. The one before is done with. It has no rows where all of
    /// them were rejected.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        self.caller_asks();
        if self.feed.is_in_flight() && self.has_waited(self.reply_came, 2) {
            self.read_again()?;
        }
        self.start().await?;
        self.pace.begin_poll();
        loop {
            while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
                match self.poll(true).await {
                    Ok(polled) => match self.pace.after(polled, self.feed.rows()) {
                        Collecting::GoesOn => {}
                        Collecting::Over => break,
                        // Work that was put off is not done.
                        Collecting::Ended => match self.watched.next_return() {
                            Some(due) if polled == Polled::Nothing => self.pace.poll_until(due),
                            _ => self.ended = true,
                        },
                    },
                    Err(error) => self.recover(error).await?,
                }
            }
            // Those that no request has taken along.
            self.acknowledge().await?;
            self.note_rows();
            if !self.refreshed && self.has_waited(self.rows_came, 3) {
                self.refreshed = true;
                self.ended = false;
                self.read_again()?;
                continue;
            }
            let batch = self.feed.flush()?;
            let batch = self.seen_of(batch)?;
            if !batch.is_empty() || !batch.rejected().is_empty() {
                return Ok(Some(batch));
            }
            if self.ended || self.feed.missing(self.request.count) == 0 {
                return Ok(None);
            }
        }
    }

    /// Types the fields by what is in the stream, whoever has read it; nothing is delivered for that.
    async fn infer(&mut self) -> Result<()> {
        let Some(sample) = self.request.sample.filter(|_| self.feed.rows() == 0) else {
            return Ok(());
        };
        // The count is of what the group delivers, wherever that is in the stream.
        let request = ReadRequest { count: None, ..self.request.clone() };
        let client = &self.member.client;
        let inferring = infer_range(client, &request, sample, EntryId::MIN, EntryId::MAX);
        if let Some(schema) = inferring.await? {
            self.feed.restart(schema)?;
            self.request.sample = None;
        }
        Ok(())
    }

    /// The rows of a flushed batch that are to be seen, in order and counted.
    fn seen_of(&mut self, batch: Batch) -> Result<Batch> {
        self.delivered_at = self.rows_came.unwrap_or_else(Instant::now);
        self.batch_over();
        self.refreshed = false;
        let came = batch.len();
        let rejected: Vec<EntryId> = batch.rejected().iter().map(|entry| entry.id).collect();
        let flushed = self.ledger.flushed(batch.ids(), &rejected);
        let batch = match flushed.rows {
            Some(rows) => batch.select(&rows)?,
            None => batch,
        };
        self.feed.drop_rows(came.saturating_sub(batch.len()));
        let dropped = flushed.dropped;
        Ok(batch.with_rejected(|id| !dropped.contains(id)).with_delivery_counts(flushed.counts))
    }

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
    fn has_waited(&self, came: Option<Instant>, quarters: u32) -> bool {
        came.zip(self.old_after(quarters)).is_some_and(|(came, most)| came.elapsed() >= most)
    }

    fn old_after(&self, quarters: u32) -> Option<Duration> {
        Some(self.options.longest_wait()? / 2 * quarters)
    }

    /// The batch that was flushed last is not handed out, because others may have claimed its rows:
    /// what is still this consumer's comes again.
    pub(super) fn withdrawn(&mut self, batch: &Batch) {
        self.ended = false;
        self.feed.drop_rows(batch.len());
        self.ledger.withdrawn();
    }

    /// Others may have claimed what has come and was not handed out: what is still this consumer's
    /// is read once more, as if it had just been delivered.
    fn read_again(&mut self) -> Result<()> {
        self.note_rows();
        self.batch_over();
        self.ledger.lost(self.blocks_until);
        self.feed.discard()?;
        self.ledger.discarded();
        Ok(())
    }

    /// The rows that were collected are a batch, or are gone.
    fn batch_over(&mut self) {
        self.pace.flushed();
        self.rows_came = None;
    }

    /// The batch goes to the caller.
    pub(super) fn handed_out(&mut self, batch: &Batch) {
        self.ledger.handed_out(batch.ids());
    }

    /// Some rows of the batch go to the caller, the others later.
    pub(super) fn handed_out_first(&mut self, rows: &Batch) {
        self.ledger.handed_out_first(rows.ids());
    }

    /// The caller asks for more, and so is done with what it has where that is the policy.
    fn caller_asks(&mut self) {
        self.take_reports();
        self.ledger.asked_for_more();
        if self.options.auto_ack {
            self.watched.keeper().all_done();
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
        self.feed.drop_rows(batch.len());
        self.ledger.not_handed_out(batch.ids(), batch.delivery_counts());
    }

    /// These are in the dead letters.
    pub(super) fn failed(&mut self, ids: &[EntryId]) {
        self.ledger.failed(ids);
        self.watched.gone(ids);
    }

    /// These were not handed out, and are not done with.
    pub(super) fn left(&mut self, ids: &[EntryId]) {
        self.ledger.left(ids);
    }

    /// Acknowledges what is done with; with `success` also the batch in hand. Has the server count
    /// no delivery that nobody saw, and others wait no longer for what was given back.
    pub(super) async fn finish(&mut self, success: bool) -> Result<()> {
        self.feed.session.limit_retries();
        self.take_reports();
        match success {
            true => self.ledger.asked_for_more(),
            false => self.ledger.left_in_hand(),
        }
        self.note_rows();
        self.feed.give_up();
        self.ledger.ends();
        self.acknowledge().await?;
        match self.settle_counts().await {
            // Nothing is pending in a group that is gone.
            Err(error) if error.kind() == ErrorKind::NoGroup => {}
            settled => settled?,
        }
        self.member.hand_over(&mut self.feed.session).await;
        Ok(())
    }

    /// After an error: what was handed out stays so; the rest is pending, and comes first.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.read_again()?;
        self.feed.session.renew();
        self.recreations.succeeded();
        Ok(())
    }

    /// Tells the ledger what has come.
    fn note_rows(&mut self) {
        let came = self.feed.ids_from(self.ledger.collected());
        if !came.is_empty() {
            let reply_came = *self.reply_came.get_or_insert_with(Instant::now);
            let rows_came = *self.rows_came.get_or_insert(reply_came);
            self.pace.came(rows_came);
            self.ledger.came(came);
        }
        let deleted = self.feed.take_deleted();
        if !deleted.is_empty() {
            self.watched.update(|stats| stats.deleted += deleted.len() as u64);
            self.watched.gone(&deleted);
            self.ledger.came_deleted(deleted);
        }
    }

    /// Tells the ledger what was done to entries beside reading.
    fn take_reports(&mut self) {
        for report in self.watched.take_reports() {
            if let Report::AckedInGroup(ids) = &report {
                let own = self.ledger.own_of(ids);
                self.watched.update(|stats| {
                    stats.acknowledged += own.len() as u64;
                    stats.done_up_to = stats.done_up_to.max(own.iter().max().copied());
                });
            }
            report.tell(&mut self.ledger);
        }
    }

    /// Acknowledges what is done with, without a read.
    async fn acknowledge(&mut self) -> Result<()> {
        let (stream, group) = (&self.request.stream, &self.options.group);
        let [done, deleted] = self.ledger.acknowledgements();
        let session = &mut self.feed.session;
        let acknowledged = ack::acknowledge(session, stream, group, done).await?;
        ack::acknowledge(session, stream, group, deleted).await?;
        self.note_acknowledged(acknowledged.own);
        Ok(())
    }

    /// The server has acknowledged `number` entries of what was done with.
    fn note_acknowledged(&mut self, number: u64) {
        let number = self.ledger.acknowledged(number);
        let done_up_to = self.ledger.done_up_to();
        self.watched.update(|stats| {
            stats.acknowledged += number;
            stats.done_up_to = stats.done_up_to.max(done_up_to);
        });
    }
}
