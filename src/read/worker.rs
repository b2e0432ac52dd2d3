//! A consumer's batches made ready to be handed out: without dead letters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::dead_letter::{Letter, check_slots};
use super::group::Groups;
use super::group_options::GroupOptions;
use super::member::Member;
use super::request::ReadRequest;
use super::stats::{Handing, Watched};
use crate::client::{Client, Session};
use crate::decode::{Batch, stream_at};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::IdSet;

/// Reads as a member of a group, and moves to the dead-letter stream what does not fit the schema.
pub(super) struct Worker {
    reader: Groups,
    session: Session,
    /// The server, where it is to be asked whether it is a cluster: the dead-letter stream is of another
    /// slot than the stream.
    asks: Option<Client>,
    has_dead_letter: bool,
    /// A batch that was read and not yet handed out.
    staged: Option<Staged>,
}

struct Staged {
    batch: Batch,
    handing: Handing,
    /// What is to be moved to the dead-letter stream, with the reasons, by stream.
    letters: Vec<(usize, Vec<Letter>)>,
}

impl Worker {
    pub(super) fn new(
        client: &Client,
        request: ReadRequest,
        options: GroupOptions,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let first = request.many.as_ref().and_then(|many| many.names.keys().first());
        let stream = first.unwrap_or(&request.stream);
        let dead_letter = options.dead_letter_of(stream);
        let has_dead_letter = dead_letter.is_some();
        let in_cluster = match (dead_letter, &request.many) {
            // Which streams there are is not known yet.
            (Some(_), Some(many)) if many.pattern.is_some() => Ok(()),
            (Some(dead), _) => check_slots(stream, &dead),
            (None, _) => Ok(()),
        };
        let asks = match in_cluster {
            Err(error) if client.is_cluster() => return Err(error),
            in_cluster => in_cluster.is_err().then(|| client.clone()),
        };
        Ok(Worker {
            asks,
            has_dead_letter,
            session: client.session_for(stream),
            reader: Groups::new(client, request, options, watched)?,
            staged: None,
        })
    }

    /// The consumers of all streams.
    pub(super) fn members(&self) -> Vec<&Member> {
        self.reader.members()
    }

    pub(super) fn reader(&mut self) -> &mut Groups {
        &mut self.reader
    }

    /// The next batch, never empty; `None` at the end. The one before is done with.
    pub(super) async fn next(&mut self) -> Result<Option<(Batch, Handing)>> {
        if let Some(client) = &self.asks {
            if client.looks_like_a_cluster().await? {
                for member in self.reader.members() {
                    check_slots(&member.stream, member.dead_letter.as_deref().unwrap_or_default())?;
                }
            }
            self.asks = None;
        }
        if let Some(staged) = self.staged.take_if(|staged| staged.handing.is_old()) {
            self.reader.withdrawn(&staged.batch);
        }
        if self.staged.is_some() {
            self.reader.asked_for_more().await?;
        }
        loop {
            if self.staged.is_none() {
                let Some(batch) = self.reader.next().await? else {
                    return Ok(None);
                };
                let letters = match self.has_dead_letter {
                    true => rejected(&batch),
                    false => Vec::new(),
                };
                let handing = self.reader.handing();
                self.staged = Some(Staged { batch, handing, letters });
            }
            // What fails, or is given up half way, is tried again by the next call.
            if let Err(error) = self.move_letters().await {
                // The rows before the entry do not wait for a server that refuses it. After a lost
                // reply they stay staged: the next call may find the letter written.
                if error.server_code().is_some()
                    && let Some((rows, handing)) = self.rows_before_letters()?
                {
                    self.reader.handed_out_first(&rows);
                    return Ok(Some((rows, handing)));
                }
                return Err(error);
            }
            let Some(Staged { batch, handing, .. }) = self.staged.take() else {
                return Ok(None);
            };
            self.reader.handed_out(&batch);
            if !batch.is_empty() {
                return Ok(Some((batch, handing)));
            }
        }
    }

    /// Moves the staged dead letters.
    async fn move_letters(&mut self) -> Result<()> {
        if self.staged.as_ref().is_none_or(|staged| staged.letters.is_empty()) {
            return Ok(());
        }
        // Rows that come before do not wait until the server takes a letter.
        let patient = self.rows_by_letters().is_none_or(|(before, _)| before.is_empty());
        let Worker { reader, session, staged: Some(Staged { letters, .. }), .. } = self else {
            return Ok(());
        };
        for (stream, letters) in letters.iter_mut() {
            let Some(member) = reader.member(*stream) else { continue };
            let (settled, moved) = member.move_to_dead_letter(session, letters, patient).await;
            let moved = moved.map_err(|error| member.about(error));
            // They are acknowledged already, or have become another consumer's.
            reader.failed(*stream, &settled);
            let settled = IdSet::from(settled);
            letters.retain(|letter| !settled.contains(letter.id));
            match moved {
                // Nothing is pending in a group that is gone: the next read will say so. What could
                // not be moved comes again, should there be another group.
                Err(error) if error.kind() == ErrorKind::NoGroup => {
                    let ids: Vec<EntryId> = letters.drain(..).map(|letter| letter.id).collect();
                    reader.left(*stream, &ids);
                }
                moved => drop(moved?),
            }
        }
        letters.retain(|(_, letters)| !letters.is_empty());
        Ok(())
    }

    /// The rows of the staged batch that come before the first of the letters of their stream, if there
    /// are any, and the others.
    fn rows_by_letters(&self) -> Option<(Vec<usize>, Vec<usize>)> {
        let Some(Staged { batch, letters, .. }) = &self.staged else {
            return None;
        };
        let first = |(stream, letters): &(usize, Vec<Letter>)| {
            Some((*stream, letters.iter().map(|letter| letter.id).min()?))
        };
        let firsts: HashMap<usize, EntryId> = letters.iter().filter_map(first).collect();
        let is_before = |row: &usize| {
            let first = firsts.get(&stream_at(batch.runs(), *row));
            first.is_none_or(|first| batch.ids().get(*row) < Some(first))
        };
        Some((0..batch.len()).partition(is_before))
    }

    /// Takes the rows before the first of the letters from the staged batch, if there are any.
    fn rows_before_letters(&mut self) -> Result<Option<(Batch, Handing)>> {
        let rows = self.rows_by_letters();
        let (Some((before, after)), Some(Staged { batch, handing, .. })) = (rows, &mut self.staged)
        else {
            return Ok(None);
        };
        if before.is_empty() {
            return Ok(None);
        }
        let rows = batch.clone().select(&before)?;
        *batch = batch.clone().select(&after)?;
        Ok(Some((rows, *handing)))
    }

    /// After an error: what was handed out stays so; the rest is pending, and comes first.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.session.renew();
        match self.staged {
            Some(_) => Ok(()),
            None => self.reader.rewind(),
        }
    }

    /// Acknowledges what is done with; with `success` also the batch in hand.
    pub(super) async fn finish(&mut self, success: bool) -> Result<()> {
        self.reader.finish(success).await
    }
}

/// The entries that did not fit the schema, with the reasons, by stream. A letter names its entry and
/// stream in fields of their own.
fn rejected(batch: &Batch) -> Vec<(usize, Vec<Letter>)> {
    let reason = |error: &Error| error.reason(&["entry ID", "stream"]);
    let mut all: BTreeMap<usize, Vec<Letter>> = BTreeMap::new();
    for entry in batch.rejected() {
        let letter = Letter { id: entry.id, reason: reason(&entry.error), deliveries: None };
        all.entry(entry.stream).or_default().push(letter);
    }
    all.into_iter().collect()
}
