//! A batch, and what its commit is to write.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use super::idle::Turn;
use super::rest::part;
use crate::client::Session;
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::process::commit::Commit;
use crate::read::bounded_reason;
use crate::resp::{self, RawReply};

/// The fields that a dead letter has beside those of its entry.
const STORY: usize = 7;

/// A batch of a [processor](crate::Processor), and what its commit is to write beside the position.
#[derive(Debug, Clone)]
pub struct Transaction {
    batch: Batch,
    commit: Commit,
    /// The lane's when the batch was handed out.
    epoch: u64,
    after: EntryId,
    last: EntryId,
    /// When it was handed out.
    since: Instant,
    /// The page that its rows are a part of, and the first of them there.
    page: Option<(Arc<Batch>, usize)>,
    /// It is one without entries, on a quiet stream.
    turn: Option<Turn>,
    /// Entries for the dead letters, why, and how often they were tried.
    failed: HashMap<EntryId, (String, u64)>,
}

impl Transaction {
    pub(super) fn new(
        batch: Batch,
        (after, last): (EntryId, EntryId),
        commit: Commit,
        epoch: u64,
    ) -> Self {
        let (since, failed) = (Instant::now(), HashMap::new());
        Transaction { batch, commit, epoch, after, last, since, page: None, turn: None, failed }
    }

    /// The same as one without entries, on a quiet stream.
    pub(super) fn of_turn(self, turn: Option<Turn>) -> Self {
        Transaction { turn, ..self }
    }

    /// What is known of the time, where it has no entries because none has come.
    pub(crate) fn turn(&self) -> Option<Turn> {
        self.turn
    }

    /// The same as one of several of a page.
    pub(super) fn of_page(mut self, page: Option<(&Arc<Batch>, usize)>) -> Self {
        let page = page.filter(|(page, _)| page.len() > self.batch.len());
        self.page = page.map(|(page, row)| (Arc::clone(page), row));
        self
    }

    /// The page that its rows are a part of, and where they begin there. Of a small batch its neighbours are
    /// parts of the same one, so what is made of that serves all of them.
    pub fn page(&self) -> Option<(&Arc<Batch>, usize)> {
        self.page.as_ref().map(|(page, row)| (page, *row))
    }

    /// The rows.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The position before it, and the one after it. Of a group's consumer: the ID before that of the first
    /// row, and that of the last, between which others may have entries.
    pub fn range(&self) -> (EntryId, EntryId) {
        (self.after, self.last)
    }

    /// How many entries it goes past, those that do not fit the schema among them.
    pub(super) fn entries(&self) -> usize {
        self.batch.len() + self.batch.rejected().len()
    }

    /// How long it has been in hand.
    pub(super) fn took(&self) -> Duration {
        self.since.elapsed()
    }

    /// The lane's epoch: with another one state and tables have to be loaded again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What is to be written.
    pub fn commit(&mut self) -> &mut Commit {
        &mut self.commit
    }

    /// Has entries of this batch go to the dead letters in the same commit: why, and how often they were
    /// tried.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for an entry that is not of this batch.
    pub fn fail(&mut self, ids: &[EntryId], reason: &str, deliveries: u64) -> Result<()> {
        let own = self.batch.ids();
        // In the order of the stream, unless that was created again and holds others.
        let stranger = ids.iter().find(|id| own.binary_search(id).is_err());
        if let Some(id) = stranger {
            return Err(Error::invalid(format!("{id} is no entry of this batch")));
        }
        let reason = bounded_reason(reason);
        self.failed.extend(ids.iter().map(|id| (*id, (reason.clone(), deliveries))));
        Ok(())
    }

    /// Some of the rows, with nothing to write so far.
    #[must_use]
    pub fn part(&self, rows: Range<usize>) -> Transaction {
        let ids = self.batch.ids();
        let before = rows.start.checked_sub(1).and_then(|row| ids.get(row));
        let after = before.copied().unwrap_or(self.after);
        let (batch, last) = part(&self.batch, rows, self.last);
        let commit = match self.commit.range() {
            Some(_) => Commit::between(after, last),
            None => Commit::acknowledging(batch.ids().to_vec()),
        };
        let commit = commit.bounded_as(&self.commit);
        Transaction::new(batch, (after, last), commit, self.epoch).of_turn(self.turn)
    }

    /// Which entries go to the dead letters, why, and how often they were tried: those that do not fit the
    /// schema, and those that [failed](Transaction::fail). A group knows how often it has delivered them.
    fn letters(&self) -> Vec<(EntryId, String, u64)> {
        let rejected = self.batch.rejected().iter();
        let mut all: Vec<_> = rejected
            .map(|entry| (entry.id, bounded_reason(&entry.error.to_string()), 1))
            .chain(self.failed.iter().map(|(id, (reason, tried))| {
                (*id, reason.clone(), self.delivered(*id).unwrap_or(*tried))
            }))
            .collect();
        all.sort_unstable_by_key(|(id, ..)| *id);
        all
    }

    /// How often a group has delivered a row, this time included.
    fn delivered(&self, id: EntryId) -> Option<u64> {
        if self.commit.range().is_some() {
            return None;
        }
        let row = self.batch.ids().binary_search(&id).ok()?;
        Some(self.batch.delivery_counts().get(row).copied().unwrap_or(1))
    }

    /// Adds the dead letters, whose entries are read for that; says how many, and what is said of the first.
    pub(super) async fn add_letters(
        &mut self,
        session: &mut Session,
        stream: &[u8],
        dead_letter: Option<&[u8]>,
        (group, consumer): (&[u8], &[u8]),
    ) -> Result<Option<(u64, EntryId, String)>> {
        let letters = self.letters();
        let Some((first, reason, _)) = letters.first().cloned() else { return Ok(None) };
        let Some(dead_letter) = dead_letter else {
            let message = "there is no dead-letter stream; name one: dead_letter=...";
            return Err(Error::invalid(message));
        };
        let time = server_time(session).await?.to_string();
        let mut number = 0;
        for (id, reason, tried) in letters {
            let command = resp::range(stream, id, id, 1);
            let sink = || Ok(RawReply::of_any_size());
            let entry = session.request(&command, sink, RawReply::into_value).await?;
            // One that was deleted meanwhile leaves nothing to keep.
            let Some(fields) = fields_of(&entry) else { continue };
            let (id, tried) = (id.to_string(), tried.to_string());
            // An entry that no commit can move must not stop the processor.
            let room = STORY * 64 + stream.len() + group.len() + consumer.len() + reason.len();
            let bytes =
                fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
            let (fields, reason) = match self.commit.may_have(fields.len() + STORY, bytes + room) {
                true => (fields, reason),
                false => {
                    let note = format!(
                        " (its {} fields are more than a commit can move: they stay in the stream alone)",
                        fields.len()
                    );
                    (Vec::new(), reason + &note)
                }
            };
            let story: [(&[u8], &[u8]); STORY] = [
                (b"_dead_stream", stream),
                (b"_dead_id", id.as_bytes()),
                (b"_dead_group", group),
                (b"_dead_consumer", consumer),
                (b"_dead_deliveries", tried.as_bytes()),
                (b"_dead_reason", reason.as_bytes()),
                (b"_dead_time", time.as_bytes()),
            ];
            let named = |error: Error| error.with_context("entry_id", id.clone());
            self.commit.add(dead_letter, fields.into_iter().chain(story)).map_err(named)?;
            number += 1;
        }
        Ok((number > 0).then_some((number, first, reason)))
    }
}

/// The names and values of the only entry of a reply.
fn fields_of(reply: &Value) -> Option<Vec<(&[u8], &[u8])>> {
    let entry = reply.as_sequence()?.first()?.as_sequence()?;
    let parts: Option<Vec<&[u8]>> = entry.get(1)?.as_sequence()?.iter().map(resp::text).collect();
    let pairs = parts?;
    Some(pairs.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect())
}

/// The server's time, in milliseconds.
pub(super) async fn server_time(session: &mut Session) -> Result<i64> {
    let time = session.value(&resp::command(&[b"TIME"])).await?;
    millis(&time).ok_or_else(|| Error::protocol("what came for TIME is no time"))
}

/// A reply to TIME, in milliseconds.
fn millis(reply: &Value) -> Option<i64> {
    let number = |part: &Value| std::str::from_utf8(resp::text(part)?).ok()?.parse::<i64>().ok();
    let parts = reply.as_sequence()?;
    let (seconds, micros) = (number(parts.first()?)?, number(parts.get(1)?)?);
    seconds.checked_mul(1_000)?.checked_add(micros / 1_000)
}
