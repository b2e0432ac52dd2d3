//! Whether entries of streams that are being read got lost: after a failover to a replica that lagged, a
//! restart with older data, or because they were trimmed.

use redis::Value;

use super::bounds::{id_of_first, if_permitted, stream_end};
use super::request::OnDataLoss;
use crate::client::{About, Client, Questions, Session, Who};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::resp::{self, Info, Outline, Packed};

/// How entries that were still to be read got lost.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StreamLoss {
    /// The stream is not the one that was read before.
    BegunAnew { newest: EntryId },
    /// The entry that was read last is not in the stream, and was neither deleted nor trimmed.
    Diverged { newest: EntryId },
    /// There is no stream any more, or only one that has never had an entry.
    Gone,
    /// The oldest entry that is there comes later; or none is, and there was one after it.
    Trimmed { oldest: Option<EntryId>, newest: EntryId },
}

impl StreamLoss {
    /// The error for who has read up to `seen`.
    pub(crate) fn error(self, seen: EntryId) -> Error {
        let message = match self {
            StreamLoss::BegunAnew { newest } => format!(
                "the stream was deleted and created again, or the server lost its end: it is at \
                 {newest} now, but {seen} has been read already; start a new read at the ID from \
                 which on its entries are wanted, such as start_id=\"-\""
            ),
            StreamLoss::Diverged { newest } => format!(
                "the server lost the end of the stream, and has gone on without it: {seen} has been \
                 read and is gone, though nobody has deleted it, and the stream is at {newest} now; \
                 a failover to a replica that lagged does this; start a new read at the ID from \
                 which on its entries are wanted, such as start_id=\"-\""
            ),
            StreamLoss::Gone => format!(
                "the stream does not exist any more, and {seen} has been read already: it was \
                 deleted, or the server lost it"
            ),
            StreamLoss::Trimmed { oldest: Some(oldest), .. } => format!(
                "the stream was trimmed past {seen}, up to which it had been read: it begins at \
                 {oldest} now, and what was between them, if anything, is lost; to go on with what \
                 is there pass on_data_loss=\"continue\""
            ),
            StreamLoss::Trimmed { oldest: None, newest } => format!(
                "the stream was trimmed past {seen}, up to which it had been read: it is empty now, \
                 and what came after that, up to {newest}, is lost; to go on with what is added \
                 pass on_data_loss=\"continue\""
            ),
        };
        Error::new(ErrorKind::DataLoss, message)
    }

    /// The error of a bounded read of a stream that had come up to `end` when it was looked at before.
    pub(super) fn error_of_bounded(self, end: EntryId) -> Error {
        let what = match self {
            StreamLoss::BegunAnew { newest } => format!(
                "lost the end of the stream, or it was deleted and created again: it is at \
                 {newest} now"
            ),
            StreamLoss::Diverged { newest } => format!(
                "lost the end of the stream, and has gone on without it: nobody has deleted that, and \
                 the stream is at {newest} now"
            ),
            StreamLoss::Gone => {
                "lost the stream, or it was deleted: it does not exist any more".to_owned()
            }
            StreamLoss::Trimmed { .. } => return self.error(end),
        };
        let message = format!(
            "the server {what}, though {end} was there while it was being read; a failover to a \
             replica that lagged does this; start a new read to have what is left"
        );
        Error::new(ErrorKind::DataLoss, message)
    }

    /// The ID after which who has read up to `seen` goes on, where that is the policy.
    ///
    /// # Errors
    ///
    /// [`DataLoss`](ErrorKind::DataLoss) where it is not.
    pub(super) fn go_on_after(
        self,
        seen: EntryId,
        on_data_loss: OnDataLoss,
        who: Who,
    ) -> Result<EntryId> {
        let error = self.error(seen);
        if on_data_loss != OnDataLoss::Continue {
            return Err(error);
        }
        who.event("data_lost").with("error", error.message().to_owned()).record();
        Ok(match self {
            StreamLoss::BegunAnew { .. } | StreamLoss::Gone => EntryId::MIN,
            StreamLoss::Trimmed { .. } | StreamLoss::Diverged { .. } => seen,
        })
    }
}

/// Where streams are asked about.
pub(crate) enum Asked<'a> {
    /// At the server that this session leads to, which has all of them.
    By(&'a mut Session),
    /// Wherever they are served.
    Anywhere(&'a Client),
}

impl Asked<'_> {
    /// The answer to a question about each key, many in a round trip.
    async fn each(
        &mut self,
        keys: &[(usize, &[u8])],
        question: impl Fn(usize, &[u8]) -> Packed,
    ) -> Result<Vec<Result<Value>>> {
        /// More would keep other clients waiting.
        const AT_ONCE: usize = 500;
        let mut all = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            match self {
                Asked::By(session) => {
                    let mut questions = Questions::default();
                    keys.iter().for_each(|(at, key)| questions.add(&question(*at, key)));
                    all.extend(questions.ask(session).await?);
                }
                Asked::Anywhere(client) => {
                    let about = |(at, key): &(usize, &'_ [u8])| question(*at, key);
                    let about: Vec<About<'_>> = keys
                        .iter()
                        .map(|one| About { key: one.1, questions: vec![about(one)] })
                        .collect();
                    all.extend(client.ask_about(&about).await?.into_iter().flatten());
                }
            }
        }
        Ok(all)
    }
}

/// Whether the server has lost the end of a stream that had come up to `seen`: after a failover to a
/// replica that lagged, or a restart with older data. As [`lost_ends`].
pub(crate) async fn lost_end(
    session: &mut Session,
    stream: &[u8],
    seen: EntryId,
) -> Result<Option<StreamLoss>> {
    // Where nothing was added that is all that there is to ask.
    let command = resp::stream_info(stream);
    let asking = session.request(&command, || Ok(Outline::new()), Outline::into_value);
    let info = if_permitted(asking.await)?;
    if info.and_then(|info| Info(&info).id("last-generated-id")) == Some(seen) {
        return Ok(None);
    }
    Ok(lost_ends(Asked::By(session), &[(stream, seen)]).await?.pop().map(|(_, loss)| loss))
}

/// Of streams that had come up to these IDs: the places of those whose end the server has lost. Where all
/// is well that takes one question for each, whether the entry is there (XRANGE, Redis 5.0); for others
/// XINFO STREAM (5.0). That the server has gone on without an entry can be told since 7.0, which remembers
/// the greatest ID that was deleted. What the user may not ask is no loss.
pub(crate) async fn lost_ends(
    mut asked: Asked<'_>,
    seen: &[(&[u8], EntryId)],
) -> Result<Vec<(usize, StreamLoss)>> {
    let of = |at: usize| seen.get(at).map_or(EntryId::MIN, |(_, seen)| *seen);
    let key = |at: usize| (at, seen.get(at).map_or(&[][..], |(key, _)| *key));
    let exact = |at: usize, key: &[u8]| resp::range(key, of(at), of(at), 1);
    let all: Vec<_> = (0..seen.len()).map(key).collect();
    let found = asked.each(&all, exact).await?;
    let is_there = |found: &Result<Value>| Some(!found.as_ref().ok()?.as_sequence()?.is_empty());
    let found = all.into_iter().zip(found.iter().map(is_there));
    let (missing, is_unknown): (Vec<_>, Vec<bool>) = found
        .filter(|(_, is_there)| *is_there != Some(true))
        .map(|(one, is_there)| (one, is_there.is_none()))
        .unzip();
    // Asked only now: whatever has deleted or trimmed it by then shows.
    let infos = asked.each(&missing, |_, key| resp::stream_info(key)).await?;
    let (mut lost, mut doubtful) = (Vec::new(), Vec::new());
    for ((one, is_unknown), info) in missing.into_iter().zip(is_unknown).zip(infos) {
        let (at, seen) = (one.0, of(one.0));
        match Known::of(info) {
            Some(Known { newest: EntryId::MIN, .. }) => lost.push((at, StreamLoss::Gone)),
            Some(Known { newest, .. }) if newest < seen => {
                lost.push((at, StreamLoss::BegunAnew { newest }));
            }
            Some(known)
                if !is_unknown
                    && known.newest > seen
                    && known.deleted.is_some_and(|deleted| deleted < seen) =>
            {
                doubtful.push((one, known));
            }
            _ => {}
        }
    }
    // It was not trimmed where the one before it, or an older one, is there.
    let keys: Vec<_> = doubtful.iter().map(|(one, _)| *one).collect();
    let oldest =
        asked.each(&keys, |_, key| resp::range(key, EntryId::MIN, EntryId::MAX, 1)).await?;
    doubtful = doubtful
        .into_iter()
        .zip(oldest)
        .filter(|((one, _), oldest)| first_of(oldest).is_some_and(|oldest| oldest < of(one.0)))
        .map(|(doubtful, _)| doubtful)
        .collect();
    // Unless trimming spares what is pending.
    let grouped = doubtful.iter().find(|(_, known)| known.groups > 0).map(|(one, _)| *one);
    let spares_pending = match grouped {
        Some(one) => {
            spares_pending(asked.each(&[one], |_, _| resp::command_info(b"XACKDEL")).await?)
        }
        None => false,
    };
    let diverged = doubtful.into_iter().filter(|(_, known)| known.groups == 0 || !spares_pending);
    lost.extend(
        diverged.map(|((at, _), known)| (at, StreamLoss::Diverged { newest: known.newest })),
    );
    lost.sort_unstable_by_key(|(at, _)| *at);
    Ok(lost)
}

/// What the server knows of a stream (XINFO STREAM, Redis 5.0).
struct Known {
    /// The latest ID that it has had; the least of all where there is no stream.
    newest: EntryId,
    /// The greatest ID that was deleted; Redis 7.0.
    deleted: Option<EntryId>,
    groups: u64,
}

impl Known {
    /// `None` where the user may not ask.
    fn of(info: Result<Value>) -> Option<Self> {
        match info {
            Ok(info) => {
                let info = Info(&info);
                Some(Known {
                    newest: info.id("last-generated-id")?,
                    deleted: info.id("max-deleted-entry-id"),
                    groups: info.number("groups").unwrap_or_default(),
                })
            }
            Err(error) if error.server_code() == Some(ServerCode::NoKey) => {
                Some(Known { newest: EntryId::MIN, deleted: None, groups: 0 })
            }
            Err(_) => None,
        }
    }
}

/// The ID of the first of some entries.
pub(super) fn first_of(entries: &Result<Value>) -> Option<EntryId> {
    resp::id(entries.as_ref().ok()?.as_sequence()?.first()?.as_sequence()?.first()?)
}

/// Whether trimming may remove entries and leave older ones that are pending (ACKED), which came with
/// XACKDEL, Redis 8.2. It may, where the user may not ask.
fn spares_pending(told: Vec<Result<Value>>) -> bool {
    let is_known = |told: &Value| {
        told.as_sequence().is_some_and(|told| told.iter().any(|one| *one != Value::Nil))
    };
    told.first().and_then(|told| told.as_ref().ok()).is_none_or(is_known)
}

/// Whether entries behind `seen` may have been lost since it was read.
///
/// A server does not say what it has trimmed. Where `seen` is there, nothing behind it is; where it
/// is not, and the stream begins later, entries between the two may have been.
pub(crate) async fn lost_behind(
    session: &mut Session,
    stream: &[u8],
    seen: EntryId,
) -> Result<Option<StreamLoss>> {
    if seen == EntryId::MIN {
        return Ok(None); // nothing was
    }
    // One that has never had an entry is like one that was deleted, which users do.
    let end = stream_end(session, stream).await?;
    let Some(newest) = end.filter(|newest| *newest != seen && *newest > EntryId::MIN) else {
        return Ok(None);
    };
    if newest < seen {
        return Ok(Some(StreamLoss::BegunAnew { newest }));
    }
    // Up to the one that was read: is there anything?
    if id_of_first(session, stream, EntryId::MIN, seen).await?.is_some() {
        return Ok(None);
    }
    let oldest = id_of_first(session, stream, seen, EntryId::MAX).await?;
    Ok(Some(StreamLoss::Trimmed { oldest, newest }))
}

/// The same for who has read the entry `seen`: that the server lost it, and has gone on without it, shows
/// as well.
pub(super) async fn lost_since(
    session: &mut Session,
    stream: &[u8],
    seen: EntryId,
) -> Result<Option<StreamLoss>> {
    match lost_behind(session, stream, seen).await? {
        None if seen > EntryId::MIN => {
            Ok(lost_end(session, stream, seen).await?.filter(is_certain))
        }
        lost => Ok(lost),
    }
}

/// Whether it is no deletion by a user, as which that of a whole stream counts for those that follow it:
/// no entry that is there is unread.
pub(super) fn is_certain(loss: &StreamLoss) -> bool {
    !matches!(loss, StreamLoss::Gone)
}
