//! How far streams have come, and whether what was to be read of them is lost.

use std::collections::HashMap;

use redis::Value;

use super::ask::{ask_each, ask_nodes, newest};
use super::parts::Part;
use crate::client::{Client, Session};
use crate::decode::StreamNames;
use crate::entry_id::EntryId;
use crate::error::{Result, ServerCode};
use crate::read::bounds::{id_of_first, if_permitted};
use crate::read::lost::{Asked, StreamLoss, is_certain, lost_ends};
use crate::resp::{self, Info};

/// The greatest ID that each of some streams ever had, of those that exist, as far as the user may
/// ask.
pub(in crate::read) async fn last_generated(
    session: &mut Session,
    names: &StreamNames,
    streams: &[usize],
) -> Result<Vec<(usize, EntryId)>> {
    let answers = ask_each(session, names, streams, resp::last_generated).await?;
    let (mut all, refused) = last_ids(answers);
    // A user who may not run a script may perhaps ask otherwise, which has the server send entries.
    let answers = ask_each(session, names, &refused, resp::stream_info).await?;
    all.extend(last_ids_of_infos(answers)?);
    Ok(all)
}

/// The same wherever they are served.
async fn last_generated_everywhere(
    client: &Client,
    names: &StreamNames,
    streams: &[usize],
) -> Result<Vec<(usize, EntryId)>> {
    let by = Client::session_for;
    let answers = ask_nodes(client, by, names, streams, resp::last_generated).await?;
    let (mut all, refused) = last_ids(answers);
    let answers = ask_nodes(client, by, names, &refused, resp::stream_info).await?;
    all.extend(last_ids_of_infos(answers)?);
    Ok(all)
}

/// The answers of the script, and the streams that it was refused for.
fn last_ids(answers: Vec<(usize, Result<Value>)>) -> (Vec<(usize, EntryId)>, Vec<usize>) {
    let (mut all, mut refused) = (Vec::new(), Vec::new());
    for (stream, answer) in answers {
        match answer {
            Err(error) if error.server_code() != Some(ServerCode::NoKey) => refused.push(stream),
            Err(_) => {}
            Ok(last) => all.extend(resp::id(&last).map(|last| (stream, last))),
        }
    }
    (all, refused)
}

fn last_ids_of_infos(answers: Vec<(usize, Result<Value>)>) -> Result<Vec<(usize, EntryId)>> {
    let mut all = Vec::new();
    for (stream, answer) in answers {
        let last = if_permitted(answer)?.and_then(|info| Info(&info).id("last-generated-id"));
        all.extend(last.map(|last| (stream, last)));
    }
    Ok(all)
}

/// Of streams that were read up to these IDs: those of which entries after that may have been lost
/// since. As [`lost_since`](crate::read::lost::lost_since), for many streams in few round trips.
pub(in crate::read) async fn lost_since(
    client: &Client,
    names: &StreamNames,
    seen: &[(usize, EntryId)],
) -> Result<Vec<(usize, EntryId, StreamLoss)>> {
    let seen = seen.iter().copied().filter(|(_, seen)| *seen > EntryId::MIN);
    let seen: Vec<(usize, EntryId)> = seen.collect();
    let streams: Vec<usize> = seen.iter().map(|(stream, _)| *stream).collect();
    let mut ends: HashMap<usize, EntryId> =
        last_generated_everywhere(client, names, &streams).await?.into_iter().collect();
    let whole = |stream| Part { most: 1, ..Part::of(stream, (EntryId::MIN, EntryId::MAX)) };
    let unknown = streams.into_iter().filter(|stream| !ends.contains_key(stream));
    let unknown: Vec<Part> = unknown.map(whole).collect();
    let newest_of_unknown = newest(client, names, &unknown, |_| 1).await?;
    for (part, newest) in unknown.iter().zip(newest_of_unknown) {
        ends.extend(newest.first().map(|newest| (part.stream, *newest)));
    }
    let (mut lost, mut later) = (Vec::new(), Vec::new());
    for (stream, seen) in seen {
        match ends.get(&stream).copied() {
            // As one that was deleted.
            Some(EntryId::MIN) => {}
            Some(newest) if newest < seen => {
                lost.push((stream, seen, StreamLoss::BegunAnew { newest }));
            }
            Some(newest) if newest > seen => later.push((stream, seen, newest)),
            _ => {}
        }
    }
    // Up to the one that was read: is there anything?
    let before = later.iter().map(|(stream, seen, _)| Part { last: *seen, ..whole(*stream) });
    let before = newest(client, names, &before.collect::<Vec<_>>(), |_| 1).await?;
    let mut there = Vec::new();
    for ((stream, seen, newest), before) in later.into_iter().zip(before) {
        // Where it has the one that was read, nothing after that is lost.
        match before.first() {
            Some(last) if *last == seen => continue,
            Some(_) => there.push((stream, seen)),
            None => {
                let key = names.key(stream);
                let oldest =
                    id_of_first(&mut client.session_for(key), key, seen, EntryId::MAX).await?;
                lost.push((stream, seen, StreamLoss::Trimmed { oldest, newest }));
            }
        }
    }
    lost.extend(ends_lost(Asked::Anywhere(client), names, &there).await?);
    Ok(lost)
}

/// Of streams that were read up to these IDs: those whose end the server has lost.
pub(super) async fn ends_lost(
    asked: Asked<'_>,
    names: &StreamNames,
    seen: &[(usize, EntryId)],
) -> Result<Vec<(usize, EntryId, StreamLoss)>> {
    let keys: Vec<_> = seen.iter().map(|(stream, seen)| (names.key(*stream), *seen)).collect();
    let lost = lost_ends(asked, &keys).await?.into_iter().filter(|(_, loss)| is_certain(loss));
    let named =
        |(at, loss): (usize, StreamLoss)| seen.get(at).map(|(stream, seen)| (*stream, *seen, loss));
    Ok(lost.filter_map(named).collect())
}
