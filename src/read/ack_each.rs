//! Acknowledgement of entries of several streams.

use futures_util::future::join_all;

use super::ack::{Acknowledged, IDS, acknowledge, commands};
use crate::client::{Client, Questions};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::resp;

/// The streams whose XACKs are sent together.
const STREAMS: usize = 500;

/// Acknowledges entries of several streams in few round trips; what that fails for is tried stream by
/// stream.
pub(super) async fn acknowledge_each(
    client: &Client,
    group: &[u8],
    all: &[(&[u8], &[EntryId])],
) -> Vec<Result<Acknowledged>> {
    let keys: Vec<&[u8]> = all.iter().map(|(stream, _)| *stream).collect();
    // Where the nodes cannot be asked, each will say so.
    let lists = client.split_by_node(&keys).await.unwrap_or_default();
    let asking = lists.iter().map(|list| acknowledge_on(client, group, all, list));
    let mut told: Vec<Told> = all.iter().map(|_| Told::Nothing).collect();
    for (at, one) in lists.iter().flatten().zip(join_all(asking).await.into_iter().flatten()) {
        if let Some(told) = told.get_mut(*at) {
            *told = one;
        }
    }
    let mut acknowledged = Vec::with_capacity(all.len());
    for ((stream, ids), told) in all.iter().zip(told) {
        let repeated = match told {
            Told::Number(pending) => {
                acknowledged.push(Ok(Acknowledged { pending, own: pending }));
                continue;
            }
            told => matches!(told, Told::Lost),
        };
        let again = acknowledge(&mut client.session_for(stream), stream, group, ids).await;
        acknowledged.push(again.map(|again| Acknowledged {
            own: if repeated { ids.len() as u64 } else { again.own },
            ..again
        }));
    }
    acknowledged
}

/// What a node has said.
#[derive(Clone, Copy)]
enum Told {
    /// This number of them were pending.
    Number(u64),
    /// It has done nothing.
    Nothing,
    /// Perhaps it has.
    Lost,
}

/// Acknowledges those entries that one node serves, once.
async fn acknowledge_on(
    client: &Client,
    group: &[u8],
    all: &[(&[u8], &[EntryId])],
    list: &[usize],
) -> Vec<Told> {
    let own: Vec<(&[u8], &[EntryId])> =
        list.iter().filter_map(|at| all.get(*at).copied()).collect();
    let mut told = Vec::with_capacity(own.len());
    let Some((first, _)) = own.first() else { return told };
    let mut session = client.session_for(first);
    for own in own.chunks(STREAMS) {
        let mut questions = Questions::default();
        for (stream, ids) in own {
            commands(stream, group, ids).for_each(|command| questions.add(&command));
        }
        let Ok(answers) = questions.ask_once(&mut session).await else {
            told.extend(own.iter().map(|_| Told::Lost));
            continue;
        };
        let mut answers = answers.into_iter();
        for (_, ids) in own {
            let numbers: Vec<Option<u64>> = answers
                .by_ref()
                .take(ids.len().div_ceil(IDS))
                .map(|answer| answer.ok().as_ref().and_then(resp::number))
                .collect();
            let any = numbers.iter().any(Option::is_some);
            told.push(match numbers.into_iter().sum::<Option<u64>>() {
                Some(number) => Told::Number(number),
                None if any => Told::Lost,
                None => Told::Nothing,
            });
        }
    }
    told
}
