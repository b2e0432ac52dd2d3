//! Acknowledgement.

use futures_util::future::join_all;

use super::watchers::report_acknowledged;
use crate::client::{Client, Questions, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::resp::{self, Packed, RawReply};

/// The IDs in one XACK; a command of millions would keep other clients waiting.
const IDS: usize = 1_000;

/// The streams whose XACKs are sent together.
const STREAMS: usize = 500;

/// Acknowledges entries (XACK, Redis 5.0): they leave their consumer's pending list. Says how many
/// were pending. No IDs, and those of entries that are not pending, are no error.
///
/// After a lost connection the command is repeated; what the lost one acknowledged then does not
/// count.
///
/// A reader of the group in this process takes note, so that the entries which it has handed out
/// count as done with.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn ack_entries(
    client: &Client,
    stream: &[u8],
    group: &[u8],
    ids: &[EntryId],
) -> Result<u64> {
    let acknowledged = acknowledge(&mut client.session_for(stream), stream, group, ids).await;
    let acknowledged = acknowledged.map_err(|error| {
        error.with_context("stream", String::from_utf8_lossy(stream).into_owned())
    })?;
    report_acknowledged(client.options(), stream, group, ids)?;
    Ok(acknowledged.pending)
}

/// What acknowledging entries came to.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// The server has said that this number of them were pending.
    pub(super) pending: u64,
    /// This number may have been acknowledged by this client: those, and all of a command that was
    /// repeated, as an answer that was lost may have acknowledged them.
    pub(super) own: u64,
}

pub(super) async fn acknowledge(
    session: &mut Session,
    stream: &[u8],
    group: &[u8],
    ids: &[EntryId],
) -> Result<Acknowledged> {
    let mut acknowledged = Acknowledged::default();
    for (command, ids) in commands(stream, group, ids).zip(ids.chunks(IDS)) {
        let mut attempts = 0;
        let sink = || {
            attempts += 1;
            Ok(RawReply::new())
        };
        let pending = match session.request(&command, sink, RawReply::into_value).await? {
            redis::Value::Int(number) => u64::try_from(number).unwrap_or_default(),
            other => return Err(Error::protocol(format_args!("{other:?} came for XACK"))),
        };
        acknowledged.pending += pending;
        acknowledged.own += if attempts > 1 { ids.len() as u64 } else { pending };
    }
    Ok(acknowledged)
}

/// The same for entries of several streams, in few round trips; what that fails for is tried stream by
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
    /// So many were pending.
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

/// The commands that acknowledge these entries.
pub(super) fn commands<'a>(
    stream: &'a [u8],
    group: &'a [u8],
    ids: &'a [EntryId],
) -> impl ExactSizeIterator<Item = Packed> + 'a {
    ids.chunks(IDS).map(move |ids| resp::acknowledge(stream, group, ids))
}
