//! Acknowledgement of entries of several streams.

use futures_util::future::join_all;

use super::ack::{Acknowledged, IDS, acknowledge, commands};
use super::watchers::report_acknowledged;
use crate::client::{Client, Questions, slot_of};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::resp;

/// The XACKs that are sent together.
const COMMANDS: usize = 500;

/// Entries of a stream.
type Entries<'a> = (&'a [u8], &'a [EntryId]);

/// As [`ack_entries`](super::ack_entries), of several streams: in few round trips. An error of one does
/// not keep the others from it.
pub(crate) async fn ack_entries_each(
    client: &Client,
    group: &[u8],
    all: &[Entries<'_>],
) -> Vec<Result<u64>> {
    let acknowledged = acknowledge_each(client, group, all).await;
    let told = all.iter().zip(acknowledged).map(|((stream, ids), acknowledged)| {
        let acknowledged = acknowledged.map_err(|error| {
            error.with_context("stream", String::from_utf8_lossy(stream).into_owned())
        })?;
        report_acknowledged(client.options(), stream, group, ids)?;
        Ok(acknowledged.pending)
    });
    told.collect()
}

/// Acknowledges entries of several streams in few round trips; what that fails for is tried stream by
/// stream. Where a node does not answer, that is the answer for all of its streams.
pub(super) async fn acknowledge_each(
    client: &Client,
    group: &[u8],
    all: &[Entries<'_>],
) -> Vec<Result<Acknowledged>> {
    let keys: Vec<&[u8]> = all.iter().map(|(stream, _)| *stream).collect();
    let splitting = async {
        // A client that has not met a cluster yet would ask one node for all of them, and then each in
        // turn; one that hangs would keep those after it from the others.
        let slot = keys.first().map(|key| slot_of(key));
        if keys.iter().any(|key| Some(slot_of(key)) != slot) {
            client.looks_like_a_cluster().await?;
        }
        client.split_by_node(&keys).await
    };
    let lists = match splitting.await {
        Ok(lists) => lists,
        Err(error) => return all.iter().map(|_| Err(error.again())).collect(),
    };
    let asking = lists.iter().map(|list| {
        let own: Vec<Entries<'_>> = list.iter().filter_map(|at| all.get(*at).copied()).collect();
        async move { acknowledge_on(client, group, &own).await }
    });
    let answers = join_all(asking).await.into_iter().flatten();
    let mut answers: Vec<(usize, Result<Acknowledged>)> =
        lists.iter().flatten().copied().zip(answers).collect();
    answers.sort_unstable_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
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

/// Acknowledges entries of streams that one node serves.
async fn acknowledge_on(
    client: &Client,
    group: &[u8],
    all: &[Entries<'_>],
) -> Vec<Result<Acknowledged>> {
    let told = acknowledge_once(client, group, all).await;
    let mut silent: Option<Error> = None;
    let mut acknowledged = Vec::with_capacity(all.len());
    for ((stream, ids), told) in all.iter().zip(told) {
        let is_repeated = match (told, &silent) {
            (Told::Number(pending), _) => {
                acknowledged.push(Ok(Acknowledged { pending, own: pending }));
                continue;
            }
            // Each would wait as long again for the same node.
            (_, Some(error)) => {
                acknowledged.push(Err(error.again()));
                continue;
            }
            (told, None) => matches!(told, Told::Lost),
        };
        let again = acknowledge(&mut client.session_for(stream), stream, group, ids).await;
        silent = again.as_ref().err().filter(|error| is_silence(error)).map(Error::again);
        acknowledged.push(again.map(|again| Acknowledged {
            own: if is_repeated { ids.len() as u64 } else { again.own },
            ..again
        }));
    }
    acknowledged
}

/// Whether the server has not answered, rather than refused.
fn is_silence(error: &Error) -> bool {
    error.server_code().is_none()
        && matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout)
}

/// Sends what acknowledges entries of streams that one node serves, once.
async fn acknowledge_once(client: &Client, group: &[u8], all: &[Entries<'_>]) -> Vec<Told> {
    let mut told = Vec::with_capacity(all.len());
    let Some((first, _)) = all.first() else { return told };
    let mut session = client.session_for(first);
    let mut rest = all;
    while !rest.is_empty() {
        let (own, others) = rest.split_at(portion(rest));
        rest = others;
        let mut questions = Questions::default();
        for (stream, ids) in own {
            commands(stream, group, ids).for_each(|command| questions.add(&command));
        }
        let Ok(answers) = questions.ask_once(&mut session).await else {
            told.extend(own.iter().map(|_| Told::Lost));
            told.extend(rest.iter().map(|_| Told::Nothing));
            break;
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

/// How many of these streams have their XACKs sent together.
fn portion(all: &[Entries<'_>]) -> usize {
    let mut commands = 0;
    let fits = |(_, ids): &&Entries<'_>| {
        commands += ids.len().div_ceil(IDS);
        commands <= COMMANDS
    };
    all.iter().take_while(fits).count().max(1)
}
