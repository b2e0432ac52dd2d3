//! What there is of several streams, in few round trips.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::Many;
use super::last::last_of;
use super::parts::Part;
use crate::client::{About, Client, Questions, Session, slot_of};
use crate::decode::{Decoder, Reply, ReplyShape, StreamNames};
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, Result, ServerCode};
use crate::read::bounds::{ids_only, no_columns, no_stream};
use crate::read::deadline::{Deadline, block_ms};
use crate::read::feed::Feed;
use crate::read::lost::first_of;
use crate::read::page_request::PageRequest;
use crate::read::pages::{From, take};
use crate::read::poll::Pace;
use crate::read::request::{BatchBounds, ReadRequest};
use crate::resp::{self, PageLimit};

/// Streams that are asked for together: more would keep other clients waiting.
const AT_ONCE: usize = 500;

/// The bounds of a stream without entries.
const NOTHING: (EntryId, EntryId) = (EntryId::MAX, EntryId::MIN);

/// Makes sure that all streams exist (TYPE, Redis 1.0).
///
/// # Errors
///
/// [`NoStream`](crate::ErrorKind::NoStream) where one does not, and every kind that connecting or the
/// server can raise.
pub(in crate::read) async fn check_exist(client: &Client, streams: &[Vec<u8>]) -> Result<()> {
    let names = StreamNames::new(streams.to_vec());
    let all: Vec<usize> = (0..names.len()).collect();
    let session_for = Client::session_for;
    for (stream, kind) in ask_nodes(client, session_for, &names, &all, resp::type_of).await? {
        // What is no stream the read itself refuses.
        if resp::text(&kind?) == Some(b"none") {
            return Err(about(no_stream(), &names, stream));
        }
    }
    Ok(())
}

/// Which of these streams there are. SCAN may miss one whose slot moves while it goes through the nodes.
pub(super) async fn existing(
    client: &Client,
    names: &StreamNames,
    streams: &[usize],
) -> Result<Vec<Vec<u8>>> {
    let kinds = ask_nodes(client, Client::session_for, names, streams, resp::type_of).await?;
    // Who may not ask has what SCAN says.
    let is_stream =
        |kind: Result<redis::Value>| kind.is_ok_and(|kind| resp::text(&kind) == Some(b"stream"));
    let there = kinds.into_iter().filter_map(|(at, kind)| is_stream(kind).then_some(at));
    Ok(there.map(|stream| names.key(stream).to_vec()).collect())
}

/// Two of the keys that have different slots in a cluster.
fn of_several_slots(keys: &[Vec<u8>]) -> Option<(&[u8], &[u8])> {
    let first = keys.first()?;
    let other = keys.iter().find(|key| slot_of(key) != slot_of(first))?;
    Some((first, other))
}

/// Whether streams are of several slots of a cluster.
pub(in crate::read) async fn are_apart(client: &Client, names: &StreamNames) -> Result<bool> {
    Ok(of_several_slots(names.keys()).is_some() && client.looks_like_a_cluster().await?)
}

/// A small question about each of some streams; the answers with their streams.
pub(super) async fn ask_each(
    session: &mut Session,
    names: &StreamNames,
    streams: &[usize],
    question: impl Fn(&[u8]) -> resp::Packed,
) -> Result<Vec<(usize, Result<redis::Value>)>> {
    let mut all = Vec::with_capacity(streams.len());
    for streams in streams.chunks(AT_ONCE) {
        let mut questions = Questions::default();
        streams.iter().for_each(|stream| questions.add(&question(names.key(*stream))));
        let answers = questions.ask(session).await?;
        let about = |(stream, answer): (&usize, Result<redis::Value>)| {
            (*stream, answer.map_err(|error| about(error, names, *stream)))
        };
        all.extend(streams.iter().zip(answers).map(about));
    }
    Ok(all)
}

/// The same, each where the stream is served, by sessions of this kind.
pub(super) async fn ask_nodes(
    client: &Client,
    session_for: fn(&Client, &[u8]) -> Session,
    names: &StreamNames,
    streams: &[usize],
    question: impl Fn(&[u8]) -> resp::Packed,
) -> Result<Vec<(usize, Result<redis::Value>)>> {
    let all = streams.iter().map(|stream| (*stream, vec![question(names.key(*stream))]));
    let answers = ask_nodes_more(client, session_for, names, all.collect()).await?;
    Ok(answers.into_iter().filter_map(|(stream, mut all)| Some((stream, all.pop()?))).collect())
}

/// The same, with several questions about each stream.
async fn ask_nodes_more(
    client: &Client,
    session_for: fn(&Client, &[u8]) -> Session,
    names: &StreamNames,
    mut questions: Vec<(usize, Vec<resp::Packed>)>,
) -> Result<Vec<(usize, Vec<Result<redis::Value>>)>> {
    let mut all = Vec::with_capacity(questions.len());
    for some in questions.chunks_mut(AT_ONCE) {
        let asked: Vec<About<'_>> = some
            .iter_mut()
            .map(|(stream, questions)| About {
                key: names.key(*stream),
                questions: std::mem::take(questions),
            })
            .collect();
        let answers = client.ask_about_by(session_for, &asked).await?;
        all.extend(some.iter().zip(answers).map(|((stream, _), answers)| {
            let named =
                |answer: Result<redis::Value>| answer.map_err(|error| about(error, names, *stream));
            (*stream, answers.into_iter().map(named).collect())
        }));
    }
    Ok(all)
}

fn about(error: Error, names: &StreamNames, stream: usize) -> Error {
    error.with_context("stream", names.text(stream))
}

/// What a request wants of its streams, as things are now: up to their newest entries, of which the
/// number of entries tells where the end is left open.
pub(in crate::read) async fn parts(
    client: &Client,
    request: &ReadRequest,
    many: &Many,
) -> Result<Vec<Part>> {
    let names = &many.names;
    if request.must_exist {
        check_exist(client, names.keys()).await?;
    }
    if request.count == Some(0) || request.last == Some(0) {
        return Ok(Vec::new());
    }
    let bounds = bounds(client, request, many).await?;
    let all = (0..).zip(bounds);
    let all = all.map(|(stream, range)| Part::of(stream, range));
    let mut parts: Vec<Part> = all.filter(|part| part.first <= part.last).collect();
    count(client, names, &mut parts).await?;
    if let Some(wanted) = request.last {
        parts = last_of(client, many, &parts, wanted).await?;
    }
    Ok(parts)
}

/// The first and the last ID of each stream that are wanted, where an open end is the last of all IDs.
pub(super) async fn bounds(
    client: &Client,
    request: &ReadRequest,
    many: &Many,
) -> Result<Vec<(EntryId, EntryId)>> {
    if let Some(ranges) = &many.ranges {
        return Ok(ranges.clone());
    }
    let last = match request.end {
        IdBound::Id(id) => id,
        IdBound::Newest | IdBound::AfterNewest => EntryId::MAX,
        IdBound::Nothing => EntryId::MIN,
    };
    let bounded = |first: Option<EntryId>| match (first, request.end) {
        (_, IdBound::Nothing) | (None, _) => NOTHING,
        (Some(first), _) => (first, last),
    };
    let number = many.names.len();
    let is_after = match request.start {
        IdBound::Id(id) => return Ok(vec![bounded(Some(id)); number]),
        IdBound::Nothing => return Ok(vec![NOTHING; number]),
        IdBound::Newest => false,
        IdBound::AfterNewest => true,
    };
    let (first, last) = (EntryId::MIN, EntryId::MAX);
    let all: Vec<Part> = (0..number).map(|stream| Part::of(stream, (first, last))).collect();
    let newest = newest(client, &many.names, &all, |_| 1).await?;
    let newest = newest.iter().map(|newest| newest.first().copied());
    Ok(newest
        .map(|newest| match is_after {
            true => bounded(newest.unwrap_or_default().successor()),
            false => bounded(newest),
        })
        .collect())
}

/// The request with the bounds of each stream, so that a start such as `$` is what it is now.
pub(super) async fn with_bounds(client: &Client, request: ReadRequest) -> Result<ReadRequest> {
    let Some(many) = &request.many else { return Ok(request) };
    let bounds = bounds(client, &request, many).await?;
    Ok(request.with_ranges(Some(bounds)))
}

/// The same parts with how many entries they have at most; those without any are left out.
pub(super) async fn counted(
    client: &Client,
    names: &StreamNames,
    mut parts: Vec<Part>,
) -> Result<Vec<Part>> {
    count(client, names, &mut parts).await?;
    Ok(parts)
}

/// The error that a key is no stream, with the key, which an XREAD of several does not say.
pub(in crate::read) async fn about_type(
    client: &Client,
    names: &StreamNames,
    error: Error,
) -> Error {
    if error.server_code() != Some(ServerCode::WrongType) {
        return error;
    }
    let all: Vec<usize> = (0..names.len()).collect();
    let kinds = ask_nodes(client, Client::session_for, names, &all, resp::type_of).await;
    let is_other = |(_, kind): &(usize, Result<redis::Value>)| {
        let kind = kind.as_ref().ok().and_then(resp::text);
        kind.is_some_and(|kind| kind != b"stream" && kind != b"none")
    };
    match kinds.unwrap_or_default().iter().find(|kind| is_other(kind)) {
        Some((stream, _)) => about(error, names, *stream),
        None => error,
    }
}

/// Sets how many entries the parts have at most, by the length of their streams (XLEN, Redis 5.0), and
/// which is the newest of them (XREVRANGE, Redis 5.0); those without any are left out. Where the user may
/// not ask for the length, the newest entry is the end.
async fn count(client: &Client, names: &StreamNames, parts: &mut Vec<Part>) -> Result<()> {
    let about = parts.iter().map(|part| {
        let key = names.key(part.stream);
        let newest = resp::range_backwards(key, part.last, part.first, 1);
        (part.stream, vec![resp::length(key), newest])
    });
    let about = about.collect();
    let answers = ask_nodes_more(client, Client::reading_session, names, about).await?;
    for (part, (_, answers)) in parts.iter_mut().zip(answers) {
        let mut answers = answers.into_iter();
        let (length, newest) = (answers.next(), answers.next());
        part.end = newest.as_ref().and_then(first_of);
        match length {
            Some(Ok(length)) => part.most = resp::number(&length).unwrap_or_default(),
            Some(Err(error)) if error.server_code().is_some_and(|code| code.is_no_permission()) => {
                newest.transpose()?;
                part.last = part.end.unwrap_or(EntryId::MIN);
            }
            Some(Err(error)) => return Err(error),
            None => part.most = 0,
        }
    }
    parts.retain(|part| part.most > 0 && part.first <= part.last);
    Ok(())
}

/// The first and the last ID of each stream's entries.
pub(super) async fn pinned(
    client: &Client,
    request: &ReadRequest,
    many: &Many,
) -> Result<Vec<(EntryId, EntryId)>> {
    let mut ranges = vec![NOTHING; many.names.len()];
    let parts = parts(client, request, many).await?;
    let newest = newest(client, &many.names, &parts, |_| 1).await?;
    for (part, newest) in parts.iter().zip(newest) {
        if let (Some(range), Some(newest)) = (ranges.get_mut(part.stream), newest.first()) {
            *range = (part.first, *newest);
        }
    }
    Ok(ranges)
}

/// The newest IDs of each part, the newest first (XREVRANGE, Redis 5.0), as many as `number` says.
pub(in crate::read) async fn newest(
    client: &Client,
    names: &StreamNames,
    parts: &[Part],
    number: impl Fn(&Part) -> u64,
) -> Result<Vec<Vec<EntryId>>> {
    let lists = split(client, names, parts).await?;
    let of_node =
        |list: &Vec<usize>| list.iter().filter_map(|at| parts.get(*at).copied()).collect();
    let of_nodes: Vec<Vec<Part>> = lists.iter().map(of_node).collect();
    let asking = of_nodes.iter().map(|parts| newest_of_node(client, names, parts, &number));
    let found = try_join_all(asking).await?;
    let mut all = vec![Vec::new(); parts.len()];
    for (place, ids) in lists.into_iter().flatten().zip(found.into_iter().flatten()) {
        if let Some(slot) = all.get_mut(place) {
            *slot = ids;
        }
    }
    Ok(all)
}

/// Splits parts by the nodes of a cluster that serve them: lists of indexes, each in order.
pub(super) async fn split(
    client: &Client,
    names: &StreamNames,
    parts: &[Part],
) -> Result<Vec<Vec<usize>>> {
    let keys: Vec<&[u8]> = parts.iter().map(|part| names.key(part.stream)).collect();
    client.split_by_node(&keys).await
}

/// The same of parts that one node serves.
async fn newest_of_node(
    client: &Client,
    names: &StreamNames,
    parts: &[Part],
    number: impl Fn(&Part) -> u64,
) -> Result<Vec<Vec<EntryId>>> {
    /// Entries that are asked for together, whose fields come as well.
    const MOST: u64 = 10_000;
    let mut all = Vec::with_capacity(parts.len());
    let mut rest = parts;
    let Some(first) = parts.first() else { return Ok(all) };
    let session = client.reading_session(names.key(first.stream)).of_several();
    let shape = ReplyShape::Entries;
    let mut feed = Feed::new(client, session, no_columns(), shape, BatchBounds::NONE)?;
    while let Some(part) = rest.first() {
        let mut sum = 0_u64;
        let fits = rest.iter().take(AT_ONCE).take_while(|part| {
            sum = sum.saturating_add(number(part));
            sum <= MOST
        });
        let answered = match rest.get(..fits.count()).unwrap_or_default() {
            [] => {
                let (range, stream) = ((part.first, part.last), names.key(part.stream));
                let taking = take(&mut feed, stream, From::Newest, range, number(part));
                taking.await.map_err(|error| about(error, names, part.stream))?;
                all.push(feed.flush_all()?.ids().to_vec());
                1
            }
            some => match ask_newest(&mut feed, names, some, &number, &mut all).await {
                Ok(answered) => answered,
                Err(error) => {
                    feed.recover(error).await?;
                    0
                }
            },
        };
        rest = rest.get(answered..).unwrap_or_default();
        // The rows are told apart no more.
        feed.discard()?;
    }
    Ok(all)
}

/// Asks for the newest IDs of some parts in one round trip; says how many were answered, which is all
/// of them unless the connection was lost after one or more.
async fn ask_newest(
    feed: &mut Feed,
    names: &StreamNames,
    parts: &[Part],
    number: &impl Fn(&Part) -> u64,
    all: &mut Vec<Vec<EntryId>>,
) -> Result<usize> {
    let requests = parts.iter().map(|part| {
        let (stream, number) = (names.key(part.stream), number(part));
        let command = resp::range_backwards(stream, part.last, part.first, number);
        PageRequest::new(command, PageLimit::of_count(number))
    });
    feed.send_more(requests.collect()).await?;
    for (answered, part) in parts.iter().enumerate() {
        let before = feed.rows();
        match feed.receive().await {
            Ok(_) => all.push(feed.ids_from(before)),
            // Others were answered, which is enough of a success for now.
            Err(_) if answered > 0 => {
                feed.give_up();
                return Ok(answered);
            }
            Err(error) => return Err(about(error, names, part.stream)),
        }
    }
    Ok(parts.len())
}

/// Waits until one of the streams has an entry from its bounds' first ID on; says whether one has.
pub(super) async fn wait(
    client: &Client,
    request: &ReadRequest,
    deadline: &Deadline,
) -> Result<bool> {
    let Some(many) = &request.many else { return Ok(false) };
    let ranges = many.ranges.as_deref().unwrap_or_default();
    if are_apart(client, &many.names).await? {
        return wait_for_nodes(client, many, ranges, deadline).await;
    }
    let wanted = many.names.keys().iter().zip(ranges).filter(|(_, (first, last))| first <= last);
    let after = |first: EntryId| first.predecessor().unwrap_or(EntryId::MIN);
    let streams: Vec<_> = wanted.map(|(key, (first, _))| (key.as_slice(), after(*first))).collect();
    if streams.is_empty() {
        return Ok(false);
    }
    let is_wanted = |id: &EntryId| match request.end {
        IdBound::Id(end) => *id <= end,
        _ => true,
    };
    let first = many.names.keys().first().map_or(&[][..], Vec::as_slice);
    let mut session = client.session_for(first);
    loop {
        let left = deadline.left();
        let block = Some(left.map_or(0, block_ms));
        let command = resp::read_many_after(&streams, PageLimit::of_count(1), block);
        match wait_once(&mut session, &command, left).await {
            Ok(come) if come.iter().any(is_wanted) => return Ok(true),
            // What is there after the end comes at once, again and again.
            Ok(_) => {
                let pause = deadline.left_up_to(Pace::PAUSE);
                if pause.is_zero() {
                    return Ok(false);
                }
                tokio::time::sleep(pause).await;
            }
            // After a lost connection only the rest of the time is waited for.
            Err(error) => session.recover(error).await?,
        }
    }
}

/// The same in a cluster, where one XREAD reaches no more than one slot: the nodes are asked again and
/// again.
async fn wait_for_nodes(
    client: &Client,
    many: &Many,
    ranges: &[(EntryId, EntryId)],
    deadline: &Deadline,
) -> Result<bool> {
    /// Asking takes this part of the time at most: 1 / SHARE.
    const SHARE: u32 = 10;
    const LONGEST: Duration = Duration::from_millis(100);
    let all = (0..).zip(ranges);
    let parts = all.map(|(stream, range)| Part { most: 1, ..Part::of(stream, *range) });
    let parts: Vec<Part> = parts.filter(|part| part.first <= part.last).collect();
    if parts.is_empty() {
        return Ok(false);
    }
    let mut pause = Duration::from_millis(5);
    loop {
        let left = deadline.left_up_to(LONGEST.max(pause));
        if left.is_zero() {
            return Ok(false);
        }
        tokio::time::sleep(left.min(pause)).await;
        let asked = Instant::now();
        let newest = newest(client, &many.names, &parts, |_| 1).await?;
        if newest.iter().any(|newest| !newest.is_empty()) {
            return Ok(true);
        }
        pause = pause.saturating_mul(2).min(LONGEST).max(asked.elapsed().saturating_mul(SHARE));
    }
}

/// Sends an XREAD that waits, once, and gives the IDs that have come.
pub(super) async fn wait_once(
    session: &mut Session,
    command: &[u8],
    wait: Option<Duration>,
) -> Result<Vec<EntryId>> {
    let decoder = ids_only(ReplyShape::Streams)?;
    session.attempt(command, wait, decoder, all_decoded).await
}

/// The IDs of the one reply that a decoder has read.
fn all_decoded(mut decoder: Decoder) -> Result<Vec<EntryId>> {
    match decoder.take_reply() {
        Some(Reply::Error(error)) => Err(error),
        _ => Ok(decoder.ids_from(0)),
    }
}
