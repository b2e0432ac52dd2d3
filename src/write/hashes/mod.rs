//! Rows into hashes, one each: where aggregates go.

mod commands;
mod replies;
mod request;

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::RecordBatch;
use futures_util::{StreamExt, stream};

use self::commands::{Hashes, Part};
use self::replies::{HashReplies, RowReply};
pub use self::request::{HashRequest, IfExists};
use super::control::{stopped, stopped_before_the_first, unanswered};
use super::frame::at_row;
use super::outcome::{Ids, WriteFailure, answers_lost, counted_in};
use super::preflight::{check_length, config, if_known};
use super::request::RowsBefore;
use super::round_trip::RoundTripError;
use crate::client::{About, Client, Exclusive, Questions, Session};
use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::resp::{self, command, text};

/// Writes a hash for each row (HSET, Redis 4.0), pipelined, and gives the number of rows.
///
/// A value is written as the text that a read of its type takes; a null is a field that the hash
/// lacks. Each row is written in one step: nobody sees a hash without its fields. After a lost
/// connection rows are written again, which changes nothing, but with [`IfExists::Fail`].
///
/// # Errors
///
/// Those of arguments and columns, [`WrongType`](ErrorKind::WrongType) for a key that holds something
/// else, and [`Authentication`](ErrorKind::Authentication) without permission for MULTI where rows
/// need it, before anything is written. [`Write`](ErrorKind::Write) where a row was refused; the
/// failure names the first, and rows after it may be in.
/// [`OutcomeUnknown`](ErrorKind::OutcomeUnknown) where answers were lost for good; with
/// [`IfExists::Fail`] rows are never sent again.
pub async fn write_hashes(
    client: &Client,
    batches: &[RecordBatch],
    request: &HashRequest,
) -> Result<usize, WriteFailure> {
    let nothing = |error| WriteFailure::before_the_first(error, 0);
    let mut hashes = Vec::with_capacity(batches.len());
    let mut total = 0;
    for batch in batches {
        hashes.push(Hashes::new(batch, request, total).map_err(nothing)?);
        total += batch.num_rows();
    }
    let parts = || hashes.iter().flat_map(|hashes| hashes.parts(request.batch_rows));
    let writer = Writer { client, request, rows_in: AtomicUsize::new(0), total };
    let checking = async {
        writer.check_lengths(&hashes).await?;
        if hashes.iter().any(Hashes::needs_transactions) {
            writer.check_transactions().await?;
        }
        for part in parts() {
            writer.check(&part).await?;
        }
        Ok(())
    };
    let checked = request.control.unless_stopped(checking).await;
    checked
        .unwrap_or_else(|| Err(stopped_before_the_first(total, RowsBefore::default())))
        .map_err(nothing)?;
    let mut session = client.session();
    for part in parts() {
        let written = match client.is_cluster() {
            true => writer.write_to_nodes(part, Split::ByNode).await,
            false => writer.write(&mut session, part, Some(Split::Again)).await,
        };
        written.map_err(|failed| writer.failure(failed).without_password(client))?;
    }
    Ok(total)
}

/// Which rows are sent together to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// Those that one node serves.
    ByNode,
    /// The same once more: some slots are served by others than was known.
    Again,
    /// Each on its own, because their slots are on their way to other nodes.
    ByRow,
}

struct Writer<'r> {
    client: &'r Client,
    request: &'r HashRequest,
    rows_in: AtomicUsize,
    total: usize,
}

/// A part that was not written as a whole.
struct Failed {
    error: Error,
    /// The first row that is not in.
    row: usize,
    /// The numbers of rows of which nobody knows.
    unknown: Range<usize>,
}

impl Failed {
    fn new(error: Error, row: usize, unknown: Range<usize>) -> Self {
        Failed { error, row, unknown }
    }

    /// One failure of two parts that were written at the same time: that of the first row, or one that
    /// leaves rows unknown.
    fn beside(self, other: Failed) -> Failed {
        let row = self.row.min(other.row);
        let is_worse = |one: &Failed| (one.unknown.is_empty(), one.row);
        let (worse, rest) =
            if is_worse(&self) <= is_worse(&other) { (self, other) } else { (other, self) };
        let unknown = match rest.unknown.is_empty() {
            true => worse.unknown,
            false => {
                let (one, two) = (worse.unknown, rest.unknown);
                one.start.min(two.start)..one.end.max(two.end)
            }
        };
        Failed { error: worse.error, row, unknown }
    }
}

impl Writer<'_> {
    /// Refuses a text that the server would hang up on.
    async fn check_lengths(&self, hashes: &[Hashes<'_>]) -> Result<()> {
        let longest = hashes.iter().filter_map(Hashes::longest).max_by_key(|(len, ..)| *len);
        let Some(longest) = longest else {
            return Ok(());
        };
        let mut questions = Questions::default();
        questions.add(&config(b"proto-max-bulk-len"));
        let answer = questions.ask(&mut self.client.session()).await?.pop();
        check_length(longest, answer.map_or(Ok(None), if_known)?)
    }

    /// Refuses a user who may not run transactions: without MULTI the commands within would be
    /// executed one by one. An empty transaction tells.
    async fn check_transactions(&self) -> Result<()> {
        let mut questions = Questions::default();
        questions.add(&command(&[b"MULTI"]));
        questions.add(&command(&[b"EXEC"]));
        let mut session = self.client.session();
        loop {
            let asking = async {
                let mut connection = Exclusive::take(&mut session).await?;
                let answers = connection.ask(&questions.packed, questions.count).await?;
                let is_open = answers.last().is_some_and(Result::is_err);
                if !is_open {
                    connection.release();
                }
                Ok(answers)
            };
            // An error of the login is about something else.
            let refused = match asking.await {
                Ok(answers) => answers.into_iter().find_map(Result::err),
                Err(error) => {
                    session.recover(error).await?;
                    continue;
                }
            };
            match refused {
                None => return Ok(()),
                Some(error) if error.kind() == ErrorKind::Authentication => {
                    let message = "a row takes several commands, and MULTI and EXEC have others \
                                   see all of them or none; nothing has been written";
                    return Err(error.reframed(ErrorKind::Authentication, message));
                }
                Some(error) => session.recover(error).await?,
            }
        }
    }

    /// Refuses keys that hold something else, or anything, as the request says.
    async fn check(&self, part: &Part<'_, '_>) -> Result<()> {
        let keys = part.keys();
        let about: Vec<About<'_>> =
            keys.iter().map(|key| About { key, questions: vec![resp::type_of(key)] }).collect();
        let answers = self.client.ask_about(&about).await?;
        for (row, (key, answers)) in keys.iter().zip(answers).enumerate() {
            let Some(answer) = answers.into_iter().next() else { continue };
            // Without permission to ask, the write itself reports it.
            let Some(kind) = if_known(answer)? else {
                continue;
            };
            let kind = String::from_utf8_lossy(text(&kind).unwrap_or_default()).into_owned();
            let key = String::from_utf8_lossy(key).into_owned();
            match (kind.as_str(), self.request.if_exists) {
                ("none", _) | ("hash", IfExists::Replace | IfExists::Merge) => {}
                ("hash", IfExists::Fail) => {
                    let message = "the hash exists already; nothing has been written";
                    return Err(at_row(part.number(row), message)
                        .into_kind(ErrorKind::Write)
                        .with_context("key", key));
                }
                _ => {
                    let message =
                        format!("the key holds a {kind}, not a hash; nothing has been written");
                    return Err(at_row(part.number(row), &message)
                        .into_kind(ErrorKind::WrongType)
                        .with_code("WRONGTYPE")
                        .with_context("key", key));
                }
            }
        }
        Ok(())
    }

    /// Writes the rows of a part to the nodes of a cluster, to all at the same time. All of them come to
    /// their end, whatever becomes of one.
    fn write_to_nodes<'f>(
        &'f self,
        part: Part<'f, 'f>,
        split: Split,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failed>> + Send + 'f>> {
        Box::pin(self.write_split(part, split))
    }

    async fn write_split(&self, part: Part<'_, '_>, split: Split) -> Result<(), Failed> {
        /// Nodes that are written to at the same time, and slots on their way.
        const NODES: usize = 64;
        const SLOTS: usize = 4;
        let (lists, at_once) = match split {
            Split::ByNode | Split::Again => {
                let keys = part.keys();
                let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                let splitting = self.client.split_by_node(&keys);
                let split = self.request.control.unless_stopped(splitting).await;
                let split = split.unwrap_or_else(|| Err(stopped()));
                (split.map_err(|error| Failed::new(error, part.number(0), 0..0))?, NODES)
            }
            Split::ByRow => {
                // Those of one key stay in their order.
                let mut rows: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
                for (row, key) in part.keys().into_iter().enumerate() {
                    rows.entry(key).or_default().push(row);
                }
                (rows.into_values().collect(), SLOTS)
            }
        };
        let next = match split {
            Split::ByNode => Some(Split::Again),
            Split::Again => Some(Split::ByRow),
            Split::ByRow => None,
        };
        let writing = lists.into_iter().map(|list| {
            let some = part.part(&list);
            async move {
                let key = some.keys().into_iter().next().unwrap_or_default();
                self.write(&mut self.client.session_for(&key), some, next).await
            }
        });
        let ended: Vec<_> = stream::iter(writing).buffer_unordered(at_once).collect().await;
        let failed = ended.into_iter().filter_map(Result::err).reduce(Failed::beside);
        failed.map_or(Ok(()), Err)
    }

    /// Writes the rows of a part, those of a lost connection again where that changes nothing. Rows that
    /// another node serves are split as `elsewhere` says.
    async fn write(
        &self,
        session: &mut Session,
        part: Part<'_, '_>,
        elsewhere: Option<Split>,
    ) -> Result<(), Failed> {
        let mut start = 0;
        // Rows before this one were sent on a connection that was lost: they may be in although no
        // answer says so, whatever another connection says.
        let mut sent_before = start;
        while start < part.len() {
            if self.request.control.is_stopped() {
                let unknown = part.numbers(start..sent_before.max(start));
                return Err(Failed::new(stopped(), part.number(start), unknown));
            }
            let commands = part.commands(start);
            let mut replies = HashReplies::new(commands.counts.clone());
            let lost = self.send(session, &commands.packed, &mut replies).await.err();
            let answered = start + replies.rows.len();
            if let (Some(split), None, true) = (elsewhere, &lost, sent_before <= start)
                && let Some(rest) = redirected(&replies.rows, self.request.if_exists)
            {
                self.count(replies.rows.len() - rest.len());
                let moved = replies.rows.iter().filter_map(|row| row.error.as_ref());
                moved.for_each(|error| session.learn(error));
                let rest: Vec<usize> = rest.into_iter().map(|row| start + row).collect();
                return self.write_to_nodes(part.part(&rest), split).await;
            }
            let answers = Answers::of(
                replies.rows,
                self.request.if_exists,
                sent_before.saturating_sub(start),
            );
            if let Some(lost) = &lost {
                sent_before = sent_before.max(start + commands.rows_sent(lost.sent));
            }
            let again = start + answers.refused_again.start..start + answers.refused_again.end;
            let unknown = part.numbers(match again.is_empty() {
                true => answered..sent_before.max(answered),
                false if sent_before > answered => again.start..sent_before,
                false => again,
            });
            let error = match (answers.refused, lost) {
                (None, None) => {
                    self.count(answers.accepted);
                    session.succeeded();
                    return Ok(());
                }
                (Some(refused), _)
                    if !refused.retryable() || answers.accepted > answers.leading =>
                {
                    self.count(answers.accepted);
                    let row = part.number(start + answers.leading);
                    return Err(Failed::new(refused, row, unknown));
                }
                (_, Some(lost)) => lost.error,
                (Some(refused), None) => refused,
            };
            self.count(answers.leading);
            start += answers.leading;
            let row = part.number(start);
            if self.request.if_exists == IfExists::Fail && !unknown.is_empty() {
                return Err(Failed::new(error, row, unknown));
            }
            match self.request.control.unless_stopped(session.recover(error)).await {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(Failed::new(error, row, unknown)),
                None => return Err(Failed::new(stopped(), row, unknown)),
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        session: &mut Session,
        packed: &[u8],
        replies: &mut HashReplies,
    ) -> Result<(), RoundTripError> {
        let control = &self.request.control;
        let mut sent = 0;
        let exchanged = async {
            let connecting = control.unless_stopped(Exclusive::take(session)).await;
            let mut connection = connecting.unwrap_or_else(|| Err(stopped()))?;
            let exchanging = connection.exchange(packed, &mut sent, replies);
            control.within_grace(exchanging).await.unwrap_or_else(|| Err(unanswered()))?;
            if !replies.leaves_transaction_open {
                connection.release();
            }
            Ok(())
        };
        exchanged.await.map_err(|error| RoundTripError { error, sent })
    }

    fn count(&self, rows: usize) {
        self.rows_in.fetch_add(rows, Ordering::Relaxed);
        self.request.control.add_rows(rows as u64);
    }

    /// What to say of a failure, once all parts have come to their end.
    fn failure(&self, Failed { error, row, unknown }: Failed) -> WriteFailure {
        let rows_in = self.rows_in.load(Ordering::Relaxed);
        let count = counted_in(rows_in, self.total);
        let is_typed = !matches!(error.kind(), ErrorKind::Response | ErrorKind::Write);
        let error = if !unknown.is_empty() {
            let message = format!("{}; beside them {count}", answers_lost(unknown.clone()));
            error.reframed(ErrorKind::OutcomeUnknown, &message)
        } else if is_typed && rows_in == 0 {
            error
        } else {
            let message = format!("row {row} was not written, {count}");
            error.reframed(ErrorKind::Write, &message)
        };
        let written = Ids::with_capacity(0).count(rows_in);
        WriteFailure { error, written, row: Some(row), unknown }
    }
}

/// The rows that another node serves, where nothing else has any of them refused.
fn redirected(rows: &[RowReply], if_exists: IfExists) -> Option<Vec<usize>> {
    if if_exists == IfExists::Fail && rows.iter().any(|row| row.text == b"0") {
        return None;
    }
    let refused =
        rows.iter().enumerate().filter_map(|(row, reply)| Some((row, reply.error.as_ref()?)));
    let rest: Option<Vec<usize>> =
        refused.map(|(row, error)| (error.remedy() == Remedy::Rediscover).then_some(row)).collect();
    rest.filter(|rest| !rest.is_empty())
}

/// What the answers to some rows say.
struct Answers {
    /// How many rows are in, and how many of them before the first that was refused.
    accepted: usize,
    leading: usize,
    /// Why the first was refused.
    refused: Option<Error>,
    /// From the first to the last of the refused rows that were sent before.
    refused_again: Range<usize>,
}

impl Answers {
    /// Of these rows that many were sent before, on a connection that was lost.
    fn of(rows: Vec<RowReply>, if_exists: IfExists, sent_before: usize) -> Self {
        let mut answers = Answers { accepted: 0, leading: 0, refused: None, refused_again: 0..0 };
        for (index, row) in rows.into_iter().enumerate() {
            let error = match row.error {
                None if if_exists == IfExists::Fail && row.text == b"0" => {
                    Some(Error::new(ErrorKind::Write, "the hash exists already"))
                }
                error => error,
            };
            match error {
                Some(error) => {
                    if index < sent_before {
                        let first = answers.refused.as_ref().map_or(index, |_| answers.leading);
                        answers.refused_again = first..index + 1;
                    }
                    answers.refused.get_or_insert(error);
                }
                None => {
                    answers.accepted += 1;
                    answers.leading += usize::from(answers.refused.is_none());
                }
            }
        }
        answers
    }
}
