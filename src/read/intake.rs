//! Replies into a decoder, taken in pieces as batches have room.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::{InFlight, Owed};
use super::page::PageSize;
use super::page_request::PageRequest;
use super::portion::Portion;
use super::request::BatchBounds;
use crate::client::{Client, Session, Who};
use crate::decode::{Batch, Decoder, Missing, Presence, Reply, ReplyShape, Run, StreamNames, ends};
use crate::entry_id::EntryId;
use crate::error::{Error, Result, ServerCode};
use crate::resp::PageLimit;
use crate::schema::StreamSchema;

/// Makes batches of what comes, whichever session it comes by: one reply after the other.
pub(super) struct Intake {
    client: Client,
    decoder: Decoder,
    shape: ReplyShape,
    bounds: BatchBounds,
    /// The bytes of reply that the batch's entries took so far.
    bytes: u64,
    page: PageSize,
    /// What a reply still holds when a batch is full is always wanted, however much it is: it is
    /// pending already.
    pub(super) keeps_replies: bool,
    /// A reply has come in part: the decoder may have half an entry.
    is_halfway: bool,
    /// The bytes of all replies so far.
    received: u64,
    /// Who is told where the schema's fields do not occur.
    watched_by: Option<Who>,
    /// Entries after it are no rows.
    last_wanted: EntryId,
    /// The last ID of the batches that were handed out, and their rows.
    delivered: Option<EntryId>,
    delivered_rows: u64,
}

pub(super) enum Received {
    /// The batch is full; the reply may go on.
    Full,
    /// The reply to this request has come to its end, with this number of entries.
    End { request: PageRequest, entries: u64 },
    /// The server does not know MAXSIZE: the next request goes without.
    Refused,
}

impl Intake {
    /// A reply is taken to its end where that is this number of batches away at most.
    const KEPT: u64 = 4;

    pub(super) fn new(
        client: &Client,
        schema: impl Into<Arc<StreamSchema>>,
        shape: ReplyShape,
        bounds: BatchBounds,
    ) -> Result<Self> {
        Ok(Intake {
            client: client.clone(),
            decoder: make_decoder(schema, shape, bounds)?,
            shape,
            bounds,
            bytes: 0,
            page: PageSize::within(bounds.bytes),
            keeps_replies: false,
            is_halfway: false,
            received: 0,
            watched_by: None,
            last_wanted: EntryId::MAX,
            delivered: None,
            delivered_rows: 0,
        })
    }

    /// Has an event recorded where the schema's fields do not occur.
    pub(super) fn watch_fields(mut self, who: Who) -> Self {
        self.decoder.watch_fields();
        self.watched_by = Some(who);
        self
    }

    /// Passes over entries after this ID.
    pub(super) fn up_to(mut self, last: EntryId) -> Self {
        self.last_wanted = last;
        self.decoder.set_last_wanted(last);
        self
    }

    /// Takes the streams of which entries were passed over.
    pub(super) fn take_beyond(&mut self) -> Vec<usize> {
        self.decoder.take_beyond()
    }

    /// Leaves it to who has several of them to judge which fields are missing, by what each has met.
    pub(super) fn is_one_of_several(&mut self) {
        self.decoder.is_one_of_several();
    }

    /// What of the schema has come so far, while that is watched.
    pub(super) fn presence(&self) -> Option<&Presence> {
        self.decoder.presence()
    }

    fn record_missing(&mut self) {
        if let (Some(missing), Some(who)) = (self.decoder.take_missing(), &self.watched_by) {
            record_missing(missing, who);
        }
    }

    /// Forgets the rows that came since the last batch.
    pub(super) fn discard(&mut self) -> Result<()> {
        self.decoder.restart()?;
        self.begin_anew();
        Ok(())
    }

    /// Begins anew behind the last batch, with other columns.
    pub(super) fn restart(&mut self, schema: impl Into<Arc<StreamSchema>>) -> Result<()> {
        self.decoder = make_decoder(schema, self.shape, self.bounds)?;
        self.begin_anew();
        Ok(())
    }

    /// The decoder has forgotten what it was told.
    fn begin_anew(&mut self) {
        self.decoder.set_last_wanted(self.last_wanted);
        self.is_halfway = false;
        self.bytes = 0;
    }

    /// The last ID that came.
    pub(super) fn last_id(&self) -> Option<EntryId> {
        self.decoder.last_id().or(self.delivered)
    }

    /// What comes next may have smaller IDs: those of another stream. The rows that came since the
    /// last batch are forgotten.
    pub(super) fn forget_position(&mut self) -> Result<()> {
        self.discard()?;
        self.decoder.forget_last_id();
        self.delivered = None;
        Ok(())
    }

    /// The rows of the batch so far.
    pub(super) fn rows(&self) -> usize {
        self.decoder.rows()
    }

    /// The rows of all batches that were handed out.
    pub(super) fn delivered_rows(&self) -> u64 {
        self.delivered_rows
    }

    /// How many of `count` entries in all have not come yet.
    pub(super) fn missing(&self, count: Option<u64>) -> u64 {
        let come = self.delivered_rows.saturating_add(self.decoder.rows() as u64);
        count.map_or(u64::MAX, |count| count.saturating_sub(come))
    }

    /// How many entries the next request of this session should ask for.
    pub(super) fn page_of(&mut self, in_flight: &mut InFlight) -> u64 {
        in_flight.shrink(&mut self.page);
        self.page.count().min(self.rows_of_whole_batches())
    }

    /// What a request for this number of entries is limited to: where servers can, to the bytes that
    /// the batch has room for. The entry that reaches them comes whole.
    pub(super) fn limit(&self, count: u64) -> PageLimit {
        let room = match self.is_full() {
            // It is the next batch's page.
            true => self.bounds.bytes,
            false => self.bounds.bytes.saturating_sub(self.bytes).max(1),
        };
        let is_bounded = self.bounds.bytes != u64::MAX && count > 1 && self.client.has_max_size();
        // Servers take a signed number.
        let max_bytes = is_bounded.then(|| room.min(i64::MAX as u64));
        PageLimit { count, max_bytes }
    }

    /// The rows that complete the batch, or a few small batches. A page that ends with a batch is
    /// the better one: the next is asked for before the batch is handed out, and so the server
    /// works while the caller does.
    fn rows_of_whole_batches(&self) -> u64 {
        /// The rows that are worth a round trip.
        const ENOUGH: u64 = 1_000;
        let batch = self.bounds.rows as u64;
        let room = match batch.saturating_sub(self.decoder.rows() as u64) {
            0 => batch,
            room => room,
        };
        let more = ENOUGH.saturating_sub(room).div_ceil(batch).saturating_mul(batch);
        room.saturating_add(more)
    }

    pub(super) fn is_full(&self) -> bool {
        self.decoder.is_full() || (self.bytes >= self.bounds.bytes && self.decoder.rows() > 0)
    }

    /// The rows that the batch has room for.
    pub(super) fn room(&self) -> u64 {
        (self.bounds.rows as u64).saturating_sub(self.decoder.rows() as u64)
    }

    /// Takes the IDs of entries that came without fields, because they were deleted, each with which
    /// of the streams it is of.
    pub(super) fn take_deleted(&mut self) -> Vec<(usize, EntryId)> {
        self.decoder.take_deleted()
    }

    /// The IDs of the batch so far, from this row on.
    pub(super) fn ids_from(&self, row: usize) -> Vec<EntryId> {
        self.decoder.ids_from(row)
    }

    /// The IDs of the batch so far, from this row on: those of one stream after the other, which may
    /// come more than once.
    pub(super) fn runs_from(&self, row: usize) -> Vec<(usize, Vec<EntryId>)> {
        let mut ids = self.decoder.ids_from(row);
        let runs = self.decoder.runs();
        if ids.is_empty() || runs.len() < 2 {
            let stream = runs.first().map_or(0, |run| run.stream);
            return if ids.is_empty() { Vec::new() } else { vec![(stream, ids)] };
        }
        let mut all = Vec::new();
        for (run, end) in ends(runs, self.decoder.rows()).filter(|(_, end)| *end > row) {
            let rest = ids.split_off((end - run.row.max(row)).min(ids.len()));
            all.push((run.stream, std::mem::replace(&mut ids, rest)));
        }
        all
    }

    /// There are other streams as well, after those that there were.
    pub(super) fn set_streams(&mut self, names: &Arc<StreamNames>) {
        self.decoder.set_streams(names);
    }

    /// The last ID of each of several streams in the batch so far, of those with entries from this
    /// row on.
    pub(super) fn last_ids(&self, row: usize) -> HashMap<usize, EntryId> {
        let ids = self.decoder.ids_from(row);
        let of_run = |(run, end): (Run, usize)| {
            let last = ids.get(end.checked_sub(row + 1)?)?;
            Some((run.stream, *last))
        };
        ends(self.decoder.runs(), self.decoder.rows()).filter_map(of_run).collect()
    }

    /// This number of rows of the latest batch is not handed out.
    pub(super) fn drop_rows(&mut self, rows: usize) {
        self.delivered_rows = self.delivered_rows.saturating_sub(rows as u64);
    }

    /// The bytes of all replies with entries.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Takes what comes until the reply ends or the batch is full. The rest of a reply that has come in
    /// part comes before any other.
    pub(super) async fn receive_from(
        &mut self,
        session: &mut Session,
        in_flight: &mut InFlight,
    ) -> Result<Received> {
        in_flight.listen().await?;
        let Some(mut reply) = in_flight.owed.take() else {
            return Err(Error::protocol("no request was sent"));
        };
        if reply.bytes == 0 {
            if std::mem::take(&mut self.is_halfway) {
                // Nobody waited for the end of the one before.
                self.decoder.abandon_reply();
            }
            self.decoder.begin_stream(reply.request.stream);
        }
        let (before, last) = (self.decoder.rows(), self.decoder.last_id());
        let received_before = self.received;
        self.is_halfway = true;
        let mut sink = Portion {
            decoder: &mut self.decoder,
            received: &mut self.received,
            bytes: &mut self.bytes,
            limit: self.bounds.bytes,
        };
        let received = reply.connection.receive(&mut sink, Some(Duration::ZERO)).await;
        let bytes = self.received.saturating_sub(received_before);
        reply.bytes = reply.bytes.saturating_add(bytes);
        let came = (self.decoder.rows() - before) as u64;
        reply.entries += came;
        if came > 0 && self.decoder.last_id() > last {
            // They are there to stay, whatever becomes of the rest. A server that sends the same ones
            // again and again gets no further.
            session.succeeded();
        }
        if let Err(error) = received {
            return Err(in_flight.or_what_was_said(error));
        }
        let Some(end) = self.decoder.take_reply() else {
            // By what came last: giants may follow small entries.
            let per_entry = bytes / came.max(1);
            let missing = reply.request.limit.count.saturating_sub(reply.entries);
            let rest = match reply.request.limit.max_bytes {
                Some(max_bytes) => per_entry.saturating_mul(missing).min(max_bytes),
                None => per_entry.saturating_mul(missing),
            };
            if self.keeps_replies || rest <= self.bounds.bytes.saturating_mul(Self::KEPT) {
                in_flight.owed = Some(reply);
            } else {
                // The server lets go of a reply that nobody waits for; the next page is smaller.
                self.page.observe(came.max(1), bytes);
            }
            return Ok(Received::Full);
        };
        self.is_halfway = false;
        in_flight.unfinished = false;
        let Owed { connection, request, mut queue, entries, bytes } = reply;
        let is_error = matches!(end, Reply::Error(_));
        match queue.pop_front() {
            None => session.put_back(connection),
            // The others may fail as well, and are asked for again.
            Some(_) if is_error => {}
            Some(request) => {
                in_flight.owed = Some(Owed { connection, request, queue, entries: 0, bytes: 0 });
            }
        }
        if let Reply::Error(error) = end {
            let is_limited = request.limit.max_bytes.is_some();
            if is_limited && error.server_code() == Some(ServerCode::SyntaxError) {
                self.client.refused_max_size();
                return Ok(Received::Refused);
            }
            return Err(error);
        }
        session.succeeded();
        self.page.observe(entries, bytes);
        Ok(Received::End { request, entries })
    }

    /// Has the next page be no larger than what can be sent, after a request of this session has failed.
    pub(super) fn failed(&mut self, in_flight: &mut InFlight, error: &Error) {
        in_flight.lost(&mut self.page, error);
    }

    /// Builds the columns of what has come.
    pub(super) fn build(&mut self) -> Result<()> {
        self.decoder.build();
        Ok(())
    }

    /// All rows; an error where one of the entries cannot be read.
    pub(super) fn flush_all(&mut self) -> Result<Batch> {
        let batch = self.decoder.flush()?;
        self.record_missing();
        self.delivered_rows = self.delivered_rows.saturating_add(batch.len() as u64);
        Ok(batch)
    }

    /// The batch, perhaps without rows. It ends before an entry that cannot be read, and only the
    /// next says why.
    pub(super) fn flush(&mut self) -> Result<Batch> {
        let batch = self.decoder.flush_up_to_error()?;
        self.record_missing();
        self.bytes = 0;
        self.delivered = self.decoder.last_id().or(self.delivered);
        self.delivered_rows = self.delivered_rows.saturating_add(batch.len() as u64);
        Ok(batch)
    }
}

pub(super) fn record_missing(missing: Missing, who: &Who) {
    who.event("fields_missing")
        .with("missing", missing.names)
        .with("present", missing.present)
        .with("payload", missing.payload)
        .with("entries", missing.entries)
        .record();
}

fn make_decoder(
    schema: impl Into<Arc<StreamSchema>>,
    shape: ReplyShape,
    bounds: BatchBounds,
) -> Result<Decoder> {
    let decoder = Decoder::new(schema, shape)?;
    Ok(decoder.with_row_limit(bounds.rows).with_cell_bytes(bounds.bytes))
}
