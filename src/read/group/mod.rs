//! Reads through a consumer group: XREADGROUP, own pending entries and acknowledgement.
//!
//! What was delivered and what is to be asked next is the [ledger](crate::ledger)'s affair; here is
//! what is sent and received for it. A reader has a lane for each of its streams, and one connection, one
//! batch and one clock for all of them.

mod alone;
mod ask;
mod begin;
mod came;
mod division;
mod groups;
mod handing;
mod joint;
mod lane;
mod mingle;
mod part;
mod parts;
mod placing;
mod plan;
mod recover;
mod rest;
mod small;
mod streams;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout;

use self::ask::Flight;
pub(super) use self::groups::Groups;
use self::joint::{Inbox, Joint};
use self::lane::Lane;
use self::mingle::Kind;
use self::streams::Streams;
use super::ack;
use super::feed::Feed;
use super::group_options::GroupOptions;
use super::many::Side;
use super::member::HANDING_OVER;
use super::poll::{Collecting, Pace, Polled};
use super::request::ReadRequest;
use super::sample::infer_range;
use super::stats::Watched;
use super::watchers::watch;
use crate::client::{Client, Questions, Session};
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::EntryId;
use crate::error::{ErrorKind, Result};
use crate::ledger::Others;
use crate::resp;

/// Reads as one consumer of a group, batch by batch; of one stream, or of several that have a group of
/// that name each.
///
/// What the server has sent is pending until it is acknowledged, whether or not it arrived. So a
/// request asks for no more than the batch has room for, and after a lost reply the consumer's own
/// pending entries are read first.
pub(super) struct GroupReader {
    client: Client,
    feed: Feed,
    request: ReadRequest,
    options: Arc<GroupOptions>,
    /// The streams, by their numbers.
    lanes: Vec<Lane>,
    /// Where there may be several, or others later.
    streams: Option<Streams>,
    pace: Pace,
    watched: Arc<Watched>,
    /// The requests that are on their way, in order.
    flights: VecDeque<Flight>,
    /// Whose turn it is to be first, and whether what makes batches of its own is.
    first: usize,
    apart_first: bool,
    /// The rows of the batch that the ledgers have been told of.
    noted: usize,
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
    /// When the request was sent that is answered next.
    sent_at: Option<Instant>,
    /// The commands before it that acknowledge: of which stream, how many those of what is done with,
    /// and how many those of deleted entries.
    acknowledging: Vec<(usize, usize, usize)>,
    /// One batch takes all there is, up to the newest entry at the start where it is known.
    takes_all: bool,
    end: Option<Option<EntryId>>,
    ended: bool,
    /// What the batch that was flushed last is made of.
    kind: Kind,
}

impl GroupReader {
    /// Of one stream.
    fn new(
        client: &Client,
        request: ReadRequest,
        options: &Arc<GroupOptions>,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let stream = request.stream.clone();
        let mut lane = Lane::new(client, stream, options, Arc::clone(&watched));
        lane.must_exist = request.must_exist;
        watch(client.options(), std::slice::from_ref(&lane.member))?;
        let session = client.session_for(&request.stream);
        let mut reader = GroupReader::over(client, session, request, options, watched)?;
        reader.lanes.push(lane);
        Ok(reader)
    }

    /// Of streams that one server, or one slot of a cluster, has: those of the inbox, of which this is
    /// one.
    fn of_part(
        client: &Client,
        key: &[u8],
        request: ReadRequest,
        options: &Arc<GroupOptions>,
        watched: Arc<Watched>,
        (joint, inbox, side): (&Arc<Joint>, &Arc<Inbox>, Side),
    ) -> Result<Self> {
        // What one server says is no word on the others.
        let client = &client.of_one_server();
        let session = client.session_for(key);
        let mut reader = GroupReader::over(client, session, request, options, watched)?;
        reader.pace = reader.pace.with_others(Arc::clone(&joint.first_came));
        reader.streams = Some(Streams::new(Arc::clone(joint), Arc::clone(inbox), side));
        Ok(reader)
    }

    fn over(
        client: &Client,
        session: Session,
        request: ReadRequest,
        options: &Arc<GroupOptions>,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let shape = ReplyShape::Streams;
        let mut feed = Feed::new(client, session, request.schema.clone(), shape, request.bounds)?
            .watch_fields(request.who());
        feed.keeps_replies = true;
        Ok(GroupReader {
            client: client.clone(),
            feed,
            lanes: Vec::new(),
            streams: None,
            pace: Pace::new(&request).with_longest_collecting(options.longest_wait()),
            watched,
            flights: VecDeque::new(),
            first: 0,
            apart_first: true,
            noted: 0,
            reply_came: None,
            rows_came: None,
            delivered_at: Instant::now(),
            refreshed: false,
            waits_until: None,
            blocks_until: None,
            sent_at: None,
            acknowledging: Vec::new(),
            takes_all: false,
            end: None,
            ended: request.count == Some(0),
            kind: Kind::New,
            request,
            options: Arc::clone(options),
        })
    }

    /// Whether there may be several streams.
    fn is_many(&self) -> bool {
        self.streams.is_some()
    }

    /// What comes next is at most so much, whatever came before.
    fn limit(&mut self, budget: Option<u64>) {
        self.ended = budget == Some(0);
        self.request.count = budget.map(|budget| self.feed.delivered_rows().saturating_add(budget));
    }

    /// All that there is for this consumer, or the request's count of it; after waiting for the first
    /// where that is asked for. Acknowledges before it returns where that is automatic: whoever
    /// must not lose rows on the way to their user reads without, and acknowledges then.
    async fn read_all(&mut self) -> Result<Batch> {
        let waits = self.request.block.is_some();
        let batch = self.gather(waits).await?;
        self.handed_out(&batch);
        self.settle().await?;
        Ok(batch)
    }

    /// The rows of [`read_all`](Self::read_all), which are not handed out yet.
    async fn gather(&mut self, waits: bool) -> Result<Batch> {
        self.takes_all = true;
        // Otherwise the first read tells whether there is a group.
        if self.options.recreates() || self.is_many() {
            Box::pin(self.start()).await?;
        }
        self.pace.begin_poll();
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll(waits).await {
                Ok(Polled::More) if self.is_before_end() || self.feed.rows() == 0 => {}
                Ok(Polled::More) if self.lanes.iter().any(|lane| lane.ledger.has_work()) => {}
                Ok(_) => break,
                Err(error) => self.recover(error).await?,
            }
        }
        let batch = self.feed.flush_all()?;
        let batch = self.seen_of(batch)?;
        Ok(self.renumbered(batch))
    }

    /// Acknowledges what was handed out of a read of all there is, where that is automatic.
    async fn settle(&mut self) -> Result<()> {
        self.lanes.iter_mut().for_each(|lane| lane.ledger.asked_for_more());
        match self.acknowledge().await {
            // Perhaps the server took note, and then the rows would be lost with this error.
            Err(error)
                if error.retryable()
                    || matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) =>
            {
                Ok(())
            }
            acknowledged => acknowledged,
        }
    }

    /// Whether there may be entries that were there at the start: what is added meanwhile would keep
    /// the read from ending.
    fn is_before_end(&self) -> bool {
        match self.is_many() {
            false => self.end.is_none_or(|end| end > self.feed.last_id()),
            true => self.lanes.iter().any(|lane| !lane.is_at_end),
        }
    }

    /// The next batch; `None` at the end. The one before is done with. It has no rows where all of
    /// them were rejected.
    async fn next(&mut self) -> Result<Option<Batch>> {
        self.streams.iter_mut().for_each(|streams| streams.rests = false);
        self.caller_asks();
        if self.feed.is_in_flight() && self.has_waited(self.reply_came, 2) {
            self.read_again()?;
        }
        Box::pin(self.start()).await?;
        self.pace.begin_poll();
        loop {
            while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
                match self.poll(true).await {
                    Ok(polled) => match self.pace.after(polled, self.feed.rows()) {
                        Collecting::GoesOn if self.comes_to_rest() => return Ok(None),
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
            if let Some(batch) = self.flush()? {
                return Ok(Some(batch));
            }
            if self.ended || self.feed.missing(self.request.count) == 0 {
                return Ok(None);
            }
        }
    }

    /// What is there now, without waiting for more; `None` where that is nothing. The batch before is
    /// done with.
    async fn pass(&mut self) -> Result<Option<Batch>> {
        self.caller_asks();
        if self.feed.is_in_flight() && self.has_waited(self.reply_came, 2) {
            self.read_again()?;
        }
        Box::pin(self.start()).await?;
        self.pace.begin_poll();
        while !self.ended && !self.feed.is_full() && self.feed.missing(self.request.count) > 0 {
            match self.poll(false).await {
                Ok(Polled::More) => {}
                Ok(_) => break,
                Err(error) => self.recover(error).await?,
            }
        }
        self.acknowledge().await?;
        self.note_rows();
        self.flush()
    }

    /// The batch that was collected; `None` where nobody is to see any of it.
    fn flush(&mut self) -> Result<Option<Batch>> {
        let mut of_batch = Others::default();
        self.lanes.iter().for_each(|lane| of_batch.add(lane.ledger.has_of_batch()));
        let is_own = self.lanes.iter().any(|lane| lane.ledger.has_own_rows());
        self.kind = Kind::of(of_batch, is_own);
        let batch = self.feed.flush()?;
        let batch = self.seen_of(batch)?;
        let is_some = !batch.is_empty() || !batch.rejected().is_empty();
        Ok(is_some.then(|| self.renumbered(batch)))
    }

    /// Types the fields by what is in the stream, whoever has read it; nothing is delivered for that.
    async fn infer(&mut self) -> Result<()> {
        let Some(sample) = self.request.sample.filter(|_| self.feed.rows() == 0) else {
            return Ok(());
        };
        // The count is of what the group delivers, wherever that is in the stream.
        let request = ReadRequest { count: None, ..self.request.clone() };
        let client = self.client.bounded();
        if self.is_many() {
            return self.infer_many(&client, &request).await;
        }
        let inferring = infer_range(&client, &request, sample, EntryId::MIN, EntryId::MAX);
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
        let seen = match self.is_many() {
            true => self.seen_of_many(batch)?,
            false => {
                let Some(lane) = self.lanes.first_mut() else { return Ok(batch) };
                let rejected: Vec<EntryId> =
                    batch.rejected().iter().map(|entry| entry.id).collect();
                let flushed = lane.ledger.flushed(batch.ids(), &rejected);
                let batch = match flushed.rows {
                    Some(rows) => batch.select(&rows)?,
                    None => batch,
                };
                let dropped = flushed.dropped;
                batch
                    .with_rejected(|entry| !dropped.contains(entry.id))
                    .with_delivery_counts(flushed.counts)
            }
        };
        self.feed.drop_rows(came.saturating_sub(seen.len()));
        Ok(seen)
    }

    /// Others may have claimed what has come and was not handed out: what is still this consumer's
    /// is read once more, as if it had just been delivered.
    fn read_again(&mut self) -> Result<()> {
        self.note_rows();
        self.batch_over();
        self.flights.clear();
        self.feed.discard()?;
        for lane in &mut self.lanes {
            lane.ledger.lost(self.blocks_until);
            lane.ledger.discarded();
        }
        Ok(())
    }

    /// The rows that were collected are a batch, or are gone.
    fn batch_over(&mut self) {
        self.pace.flushed();
        self.rows_came = None;
        self.noted = 0;
        self.streams.iter_mut().for_each(Streams::batch_over);
    }

    /// Acknowledges what is done with; with `success` also the batch in hand. Has the server count
    /// no delivery that nobody saw, and others wait no longer for what was given back.
    async fn finish(&mut self, success: bool) -> Result<()> {
        self.feed.session.limit_retries();
        for lane in &mut self.lanes {
            lane.take_reports();
            match success {
                true => lane.ledger.asked_for_more(),
                false => lane.ledger.left_in_hand(),
            }
        }
        self.note_rows();
        self.feed.give_up();
        self.flights.clear();
        self.lanes.iter_mut().for_each(|lane| lane.ledger.ends());
        self.acknowledge().await?;
        let settles = self.options.max_deliveries().is_some();
        let settling = self.settle_counts();
        let settled = match settles {
            true => settling.await,
            // They are looked up for the sake of what is handed over alone.
            false => {
                drop(timeout(HANDING_OVER, settling).await);
                Ok(())
            }
        };
        match settled {
            // Nothing is pending in a group that is gone, nor where there is no stream any more.
            Err(error) if matches!(error.kind(), ErrorKind::NoGroup | ErrorKind::WrongType) => {}
            settled => settled?,
        }
        let handing_over = async {
            for lane in &self.lanes {
                lane.member.hand_over(&mut self.feed.session, &lane.ledger.unseen()).await;
            }
        };
        drop(timeout(HANDING_OVER, handing_over).await);
        Ok(())
    }

    /// After an error: what was handed out stays so; the rest is pending, and comes first.
    fn rewind(&mut self) -> Result<()> {
        self.read_again()?;
        self.feed.session.renew();
        self.lanes.iter_mut().for_each(|lane| lane.recreations.succeeded());
        Ok(())
    }

    /// Tells the ledgers what has come.
    fn note_rows(&mut self) {
        let runs = self.feed.runs_from(self.noted);
        if !runs.is_empty() {
            let reply_came = *self.reply_came.get_or_insert_with(Instant::now);
            let rows_came = *self.rows_came.get_or_insert(reply_came);
            self.pace.came(rows_came);
        }
        for (stream, ids) in runs {
            self.noted += ids.len();
            if let Some(lane) = self.lanes.get_mut(stream) {
                lane.came += ids.len() as u64;
                lane.ledger.came(ids);
            }
        }
        let mut deleted: HashMap<usize, Vec<EntryId>> = HashMap::new();
        for (stream, id) in self.feed.take_deleted() {
            deleted.entry(stream).or_default().push(id);
        }
        for (stream, deleted) in deleted {
            if let Some(lane) = self.lanes.get_mut(stream) {
                lane.watched().update(|stats| stats.deleted += deleted.len() as u64);
                lane.watched().gone(&deleted);
                lane.ledger.came_deleted(deleted);
            }
        }
    }

    /// Acknowledges what is done with, without a read.
    async fn acknowledge(&mut self) -> Result<()> {
        let session = &mut self.feed.session;
        if let ([lane], None) = (self.lanes.as_mut_slice(), &self.streams) {
            let (stream, group) = (&lane.member.stream, &lane.member.group);
            let [done, deleted] = lane.ledger.acknowledgements();
            let acknowledged = ack::acknowledge(session, stream, group, done).await?;
            ack::acknowledge(session, stream, group, deleted).await?;
            lane.note_acknowledged(acknowledged.own);
            return Ok(());
        }
        // Of all streams in few round trips.
        let mut rest = self.lanes.as_mut_slice();
        while !rest.is_empty() {
            let (lanes, others) = rest.split_at_mut(rest.len().min(begin::AT_ONCE));
            rest = others;
            let mut questions = Questions::default();
            let mut commands = Vec::with_capacity(lanes.len());
            for lane in lanes.iter_mut() {
                let (stream, group) = (&lane.member.stream, &lane.member.group);
                let [done, deleted] = lane.ledger.acknowledgements();
                let ids = done.len() as u64;
                let (done, deleted) =
                    (ack::commands(stream, group, done), ack::commands(stream, group, deleted));
                commands.push((done.len(), deleted.len(), ids));
                done.chain(deleted).for_each(|command| questions.add(&command));
            }
            let (answers, is_repeated) = match questions.count {
                0 => (Vec::new(), false),
                _ => questions.ask_telling(session).await?,
            };
            let mut answers = answers.into_iter();
            for (lane, (done, deleted, ids)) in lanes.iter_mut().zip(commands) {
                if done + deleted == 0 {
                    continue;
                }
                let mut acknowledged = 0;
                for number in 0..done + deleted {
                    let answer = answers.next().unwrap_or(Ok(redis::Value::Nil));
                    let answer = lane.acknowledgement(answer)?;
                    // Those of deleted entries are not counted.
                    if number < done {
                        acknowledged += resp::number(&answer).unwrap_or_default();
                    }
                }
                // What is not pending any more an answer that was lost may have acknowledged.
                lane.note_acknowledged(if is_repeated { ids } else { acknowledged });
            }
        }
        Ok(())
    }
}
