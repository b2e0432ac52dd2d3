//! Stream after stream: what is requested ahead is bounded, and answered in order.

use std::collections::HashSet;
use std::sync::Arc;

use super::mismatch::FieldSets;
use super::parts::{Ask, Part, Place, Plan};
use crate::client::Client;
use crate::decode::{Batch, Presence, ReplyShape, StreamNames, ends};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::read::feed::{Feed, Received};
use crate::read::lost::{Asked, lost_ends};
use crate::read::page_request::PageRequest;
use crate::read::request::ReadRequest;
use crate::resp::{self, PageLimit};

/// Reads parts of streams, one after the other, in batches. In a cluster it follows them from node to
/// node.
pub(super) struct PartsReader {
    client: Client,
    feed: Feed,
    /// They come from replicas, where the options say so.
    from_replicas: bool,
    names: Arc<StreamNames>,
    plan: Plan,
    /// The stream that is being read.
    stream: Option<usize>,
    /// The rows of the batch so far that the plan knows of.
    told: usize,
    /// The rows that have come since columns were built last.
    unbuilt: u64,
    /// The place after the batches that were handed out.
    delivered: Place,
    received: u64,
    /// How many entries are wanted in all.
    count: Option<u64>,
    /// Something was requested.
    is_begun: bool,
    /// The connection is another one than before, perhaps to a server that lacks the ends of streams. Of
    /// these it is known by now.
    looked_at: Option<HashSet<usize>>,
}

impl PartsReader {
    /// The most bytes of commands that are sent at once: few enough for any socket to take, whose other
    /// side may want to be read from first.
    const SENT: usize = 16 * 1024;

    pub(super) fn new(client: &Client, request: &ReadRequest) -> Result<Self> {
        let schema = request.schema.clone();
        let names = request.schema.sources.clone().unwrap_or_default();
        let first = names.keys().first().map(Vec::as_slice).unwrap_or_default();
        let session = client.reading_session(first);
        let feed = Feed::new(client, session, schema, ReplyShape::Entries, request.bounds)?;
        Ok(PartsReader {
            client: client.clone(),
            // Those that are inferred are there.
            feed: if request.sample.is_none() { feed.watch_fields(request.who()) } else { feed },
            from_replicas: client.reads_from_replicas(),
            names,
            plan: Plan::new(Vec::new()),
            stream: None,
            told: 0,
            unbuilt: 0,
            delivered: Plan::start(),
            received: 0,
            count: request.count,
            is_begun: false,
            looked_at: None,
        })
    }

    /// Which fields are missing is judged by who has several of them.
    pub(super) fn is_one_of_several(&mut self) {
        self.feed.is_one_of_several();
    }

    /// From now on what is read comes over other connections than before.
    fn doubt(&mut self) {
        self.looked_at = Some(HashSet::new());
    }

    /// What of the schema has come so far, while that is watched.
    pub(super) fn presence(&self) -> Option<&Presence> {
        self.feed.presence()
    }

    /// Other parts come after those that have been read, or in place of them.
    pub(super) fn begin(&mut self, parts: Vec<Part>) {
        self.plan = Plan::new(parts);
        self.delivered = Plan::start();
    }

    /// The stream that is being read.
    pub(super) fn stream(&self) -> Option<usize> {
        self.stream
    }

    /// How many entries a page should have.
    pub(super) fn page(&mut self) -> u64 {
        self.feed.page()
    }

    /// The bytes of replies since the last call.
    pub(super) fn take_received(&mut self) -> u64 {
        let received = self.feed.received();
        received - std::mem::replace(&mut self.received, received)
    }

    /// Whether the batch takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.feed.is_full()
    }

    /// Reads until the batch is full or nothing is left, which it says.
    pub(super) async fn collect(&mut self) -> Result<bool> {
        while !self.feed.is_full() {
            match self.advance().await {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(error) => {
                    let error = self.about(error);
                    self.feed.recover(error).await?;
                    self.doubt();
                }
            }
        }
        Ok(false)
    }

    /// What the server says is of the stream that it was asked for.
    fn about(&self, error: Error) -> Error {
        match (error.server_code(), self.stream) {
            (Some(_), Some(stream)) => error.with_context("stream", self.names.text(stream)),
            _ => error,
        }
    }

    /// Requests what there is room for, and takes what comes; says whether there may be more.
    async fn advance(&mut self) -> Result<bool> {
        self.tell();
        if !self.feed.is_in_flight() {
            self.plan.lost();
            if let Some(stream) = self.plan.next_stream() {
                self.feed.session.aim(self.names.key(stream), self.from_replicas);
            }
            self.check_ends().await?;
        }
        self.request_ahead().await?;
        if !self.plan.is_waiting() {
            return Ok(false);
        }
        self.stream = self.plan.stream();
        let received = self.feed.receive().await;
        self.tell();
        if let Received::End { entries, .. } = received? {
            self.plan.ended();
            self.unbuilt += entries;
            if self.feed.is_in_flight() || self.serves_next() {
                self.request_ahead().await?;
            }
            // The server works on what comes next while the columns of this are built.
            if self.unbuilt >= self.feed.page() {
                self.unbuilt = 0;
                self.feed.build()?;
            }
        }
        Ok(true)
    }

    /// Before more comes on another connection: the server may have lost what was read, or the ends that
    /// the streams had when the read began.
    async fn check_ends(&mut self) -> Result<()> {
        /// Streams that are looked at together.
        const AT_ONCE: usize = 500;
        if self.is_begun && !self.feed.session.is_connected() {
            // In a cluster, where that may only be another node, what fails says more.
            if !self.client.is_cluster() {
                self.looked_at = None;
            }
            self.looked_at.get_or_insert_default();
        }
        let Some(looked_at) = &mut self.looked_at else { return Ok(()) };
        let halfway = self.plan.halfway();
        let parts = self.plan.unrequested();
        let Some(first) = parts.first() else { return Ok(()) };
        if looked_at.contains(&first.stream) {
            return Ok(());
        }
        if std::mem::take(&mut self.from_replicas) {
            // They may be behind. What the streams had when the read began their master has.
            self.feed.session = self.client.session_for(self.names.key(first.stream));
        }
        let session = &mut self.feed.session;
        let is_near = |part: &&Part| {
            part.stream == first.stream || session.serves(self.names.key(part.stream))
        };
        let (mut streams, mut seen) = (Vec::new(), Vec::new());
        for part in parts.iter().take(AT_ONCE).take_while(is_near) {
            let read = halfway.filter(|(stream, _)| *stream == part.stream).map(|(_, read)| read);
            if looked_at.insert(part.stream)
                && let Some(end) = read.max(part.end)
            {
                streams.push(part.stream);
                seen.push((self.names.key(part.stream), end));
            }
        }
        let asked = match self.client.is_cluster() {
            true => Asked::Anywhere(&self.client),
            false => Asked::By(session),
        };
        let looking = lost_ends(asked, &seen).await;
        let lost = looking.inspect_err(|_| looked_at.clear())?;
        let Some((at, loss)) = lost.first() else { return Ok(()) };
        let end = seen.get(*at).map_or(EntryId::MIN, |(_, end)| *end);
        let stream = streams.get(*at).map_or("", |stream| self.names.text(*stream));
        looked_at.clear();
        Err(loss.error_of_bounded(end).with_context("stream", stream.to_owned()))
    }

    /// Tells the plan what has come, also where nobody waited for the rest.
    fn tell(&mut self) {
        let rows = self.feed.rows();
        if rows > self.told {
            self.plan.came((rows - self.told) as u64, self.feed.last_id());
            self.told = rows;
        }
    }

    /// Keeps between half a page and a page in flight.
    async fn request_ahead(&mut self) -> Result<()> {
        let page = self.feed.page();
        let missing = self.feed.missing(self.count);
        if self.plan.owed().saturating_mul(2) > page {
            return Ok(());
        }
        let (mut requests, mut size) = (Vec::new(), 0);
        // The first is of the stream that the session is aimed at.
        let mut is_first = !self.feed.is_in_flight();
        while size < Self::SENT
            && (std::mem::take(&mut is_first) || self.serves_next())
            && let Some(ask) = self.plan.ask(page, missing)
        {
            let request = self.page_of(&ask);
            size += request.command.len();
            requests.push(request);
        }
        self.is_begun |= !requests.is_empty();
        match requests.is_empty() {
            true => Ok(()),
            false => self.feed.send_more(requests).await,
        }
    }

    /// Whether the stream that is requested next can be on this connection, and it is known what has
    /// become of it.
    fn serves_next(&mut self) -> bool {
        let next = self.plan.next_stream();
        next.is_some_and(|stream| {
            self.looked_at.as_ref().is_none_or(|looked_at| looked_at.contains(&stream))
                && self.feed.session.serves(self.names.key(stream))
        })
    }

    fn page_of(&self, ask: &Ask) -> PageRequest {
        let stream = self.names.key(ask.stream);
        let command = resp::range(stream, ask.first, ask.last, ask.count);
        let limit = PageLimit::of_count(ask.count);
        PageRequest { stream: ask.stream, ..PageRequest::new(command, limit) }
    }

    /// All rows; an error where one of the entries cannot be read.
    fn flush_all(&mut self) -> Result<Batch> {
        self.tell();
        (self.told, self.unbuilt) = (0, 0);
        self.feed.flush_all()
    }

    /// The batch so far. It ends before an entry that cannot be read, and only the next says why.
    pub(super) fn flush(&mut self) -> Result<Batch> {
        self.tell();
        (self.told, self.unbuilt) = (0, 0);
        let batch = self.feed.flush()?;
        if let (Some((run, end)), Some(last)) =
            (ends(batch.runs(), batch.len()).last(), batch.ids().last())
        {
            let number = (end - run.row) as u64;
            self.delivered = self.plan.place_after(self.delivered, run.stream, number, *last);
        }
        Ok(batch)
    }

    /// After an error: what was handed out stays so, the rest is read again.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.plan.go_back(self.delivered);
        (self.told, self.unbuilt) = (0, 0);
        self.feed.rewind()
    }
}

/// Reads several streams one after the other.
pub(super) struct ByStream {
    pub(super) reader: PartsReader,
    fields: Option<FieldSets>,
}

impl ByStream {
    pub(super) fn new(client: &Client, request: &ReadRequest, parts: Vec<Part>) -> Result<Self> {
        let mut reader = PartsReader::new(client, request)?;
        reader.begin(parts);
        Ok(ByStream { reader, fields: FieldSets::of(request) })
    }

    pub(super) async fn read_all(&mut self) -> Result<Vec<Batch>> {
        self.reader.collect().await?;
        let batch = self.reader.flush_all()?;
        self.compare(&batch, true)?;
        Ok(vec![batch])
    }

    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        let is_end = self.reader.collect().await?;
        let batch = self.reader.flush()?;
        self.compare(&batch, is_end)?;
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Compares the streams' fields, where they must be the same.
    fn compare(&mut self, batch: &Batch, is_end: bool) -> Result<()> {
        let Some(fields) = &mut self.fields else { return Ok(()) };
        fields.look(batch);
        if is_end { fields.check() } else { Ok(()) }
    }
}
