//! Bounded reads cut into parts that several readers share: `survey` finds out how the entries are spread,
//! `plan` says where they are cut; both are pure.

mod plan;
mod survey;

use futures_util::future::try_join_all;

pub use self::plan::{Partition, Piece};
use self::plan::{Whole, cut_ones, partitions};
use self::survey::{Next, Probe, Profile, Survey};
use super::bounds::no_columns;
use super::feed::Feed;
use super::many::{Many, Part, parts};
use super::page_request::PageRequest;
use super::pages::{From, take};
use super::request::{BatchBounds, ReadRequest};
use crate::client::Client;
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::resp::{self, PageLimit};

/// Streams whose entries are sampled at the same time.
const AT_ONCE: usize = 8;

/// Cuts what a request of several streams reads, up to the newest entries now, into `number` partitions
/// of about equal size, or fewer: disjoint, and complete. XLEN and XREVRANGE tell what there is; a sample
/// of XRANGE and XREVRANGE pages (Redis 5.0) how it is spread, at most a few percent of the entries of
/// those streams that are cut, or all where the stream has no more than a million and that is not enough.
///
/// # Errors
///
/// As [`read`](crate::read).
pub async fn split(
    client: &Client,
    request: &ReadRequest,
    number: usize,
) -> Result<Vec<Partition>> {
    let Some(many) = &request.many else { return Ok(Vec::new()) };
    let splitting = async {
        let parts = parts(client, request, many).await?;
        let parts: Vec<Range> = parts.iter().filter_map(Range::of).collect();
        let mut all: Vec<Whole> = parts.iter().map(Range::whole).collect();
        // No more partitions than entries, whatever was asked for: each is thought of.
        let entries = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.most));
        let number = number.min(usize::try_from(entries).unwrap_or(usize::MAX)).max(1);
        if number > 1 {
            // Of a part of a stream XLEN does not tell the number of entries.
            let bounded = (0..).zip(&parts).filter(|(_, part)| part.total.is_none());
            let bounded = bounded.map(|(at, _)| at).collect();
            survey(client, many, &parts, &mut all, bounded, number).await?;
            let mut cut = cut_ones(&all, number);
            cut.retain(|at| all.get(*at).is_some_and(|whole| whole.profile.is_none()));
            survey(client, many, &parts, &mut all, cut, number).await?;
        }
        Ok(partitions(&all, number))
    };
    splitting.await.map_err(|error| request.about(error))
}

/// What there is of one stream.
struct Range {
    stream: usize,
    first: EntryId,
    last: EntryId,
    /// The entries of the stream, and those of the range where all of these are in it.
    most: u64,
    total: Option<u64>,
}

impl Range {
    /// Up to the newest entry, if there is one.
    fn of(part: &Part) -> Option<Self> {
        let is_whole = part.first <= EntryId::new(0, 1) && part.last == EntryId::MAX;
        Some(Range {
            stream: part.stream,
            first: part.first,
            last: part.end?,
            most: part.most,
            total: is_whole.then_some(part.most),
        })
    }

    fn whole(&self) -> Whole {
        let piece = Piece { stream: self.stream, range: (self.first, self.last) };
        Whole { piece, entries: self.most as f64, profile: None }
    }
}

/// Finds out how the entries of some of the parts are spread.
async fn survey(
    client: &Client,
    many: &Many,
    parts: &[Range],
    all: &mut [Whole],
    places: Vec<usize>,
    number: usize,
) -> Result<()> {
    for places in places.chunks(AT_ONCE) {
        let surveying = places.iter().filter_map(|at| parts.get(*at)).map(|part| {
            let stream = many.names.key(part.stream);
            async move {
                let surveyed = Box::pin(profile(client, stream, part, number)).await;
                surveyed.map_err(|error| error.with_context("stream", many.names.text(part.stream)))
            }
        });
        for (at, profile) in places.iter().zip(try_join_all(surveying).await?) {
            if let Some(whole) = all.get_mut(*at) {
                whole.entries = profile.total();
                whole.profile = Some(profile);
            }
        }
    }
    Ok(())
}

/// How the entries of a part are spread.
async fn profile(client: &Client, stream: &[u8], part: &Range, number: usize) -> Result<Profile> {
    let session = client.reading_session(stream);
    let (shape, bounds) = (ReplyShape::Entries, BatchBounds::NONE);
    let mut feed = Feed::new(client, session, no_columns(), shape, bounds)?;
    let mut survey = Survey::new((part.first, part.last), part.total, part.most, number);
    loop {
        let page = feed.page();
        match survey.next(page) {
            Next::Probe(probes) => {
                let found = loop {
                    match probe(&mut feed, stream, &probes).await {
                        Ok(found) => break found,
                        Err(error) => feed.recover(error).await?,
                    }
                    feed.discard()?;
                };
                survey.observe(found, page);
                feed.discard()?;
            }
            Next::Count => return count(&mut feed, stream, part).await,
            Next::Done => return Ok(survey.profile()),
        }
    }
}

/// Asks for some pages in one round trip; their IDs, each in the order of its reply.
async fn probe(feed: &mut Feed, stream: &[u8], probes: &[Probe]) -> Result<Vec<Vec<EntryId>>> {
    let requests = probes.iter().map(|probe| {
        let (first, last, count) = (probe.first, probe.last, probe.count);
        let command = match probe.from {
            From::Oldest => resp::range(stream, first, last, count),
            From::Newest => resp::range_backwards(stream, last, first, count),
        };
        PageRequest::new(command, PageLimit::of_count(count))
    });
    feed.send_more(requests.collect()).await?;
    let mut found = Vec::with_capacity(probes.len());
    for _ in probes {
        let before = feed.rows();
        feed.receive().await?;
        found.push(feed.ids_from(before));
    }
    Ok(found)
}

/// Counts all entries of a part, of which every hundredth ID is kept, or so.
async fn count(feed: &mut Feed, stream: &[u8], part: &Range) -> Result<Profile> {
    /// Entries whose IDs are in memory at the same time.
    const PORTION: u64 = 50_000;
    /// IDs that are kept at most, about.
    const KEPT: u64 = 100_000;
    let step = (part.most.min(Survey::MOST_COUNTED) / KEPT).max(1);
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let (mut profile, mut first) = (Profile::from(part.first), part.first);
    loop {
        let ids = portion(feed, stream, (first, part.last), PORTION).await?;
        for some in ids.chunks(step) {
            some.last().into_iter().for_each(|last| profile.push(*last, some.len() as f64));
        }
        match ids.last().and_then(|last| last.successor()) {
            // A server that gives the same again and again is not asked for ever.
            Some(next) if ids.len() as u64 == PORTION && next <= part.last && next > first => {
                first = next
            }
            _ => return Ok(profile),
        }
    }
}

/// The IDs of up to `count` entries, the oldest of a range, whose fields come and are skipped.
pub(super) async fn portion(
    feed: &mut Feed,
    stream: &[u8],
    range: (EntryId, EntryId),
    count: u64,
) -> Result<Vec<EntryId>> {
    take(feed, stream, From::Oldest, range, count).await?;
    let ids = feed.flush_all()?.ids().to_vec();
    feed.discard()?;
    Ok(ids)
}
