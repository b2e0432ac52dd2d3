//! A consumer's batches made ready to be handed out: without dead letters.

use std::sync::Arc;

use super::dead_letter::{Letter, check_slots};
use super::group::GroupReader;
use super::group_options::GroupOptions;
use super::member::Member;
use super::request::ReadRequest;
use super::stats::{Handing, Watched};
use crate::client::{Client, Session};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::IdSet;

/// Reads as a member of a group, and moves to the dead-letter stream what does not fit the schema.
pub(super) struct Worker {
    reader: GroupReader,
    session: Session,
    /// The server, where it is to be asked whether it is a cluster: the dead-letter stream is of another
    /// slot than the stream.
    asks: Option<Client>,
    /// A batch that was read and not yet handed out.
    staged: Option<Staged>,
}

struct Staged {
    batch: Batch,
    handing: Handing,
    /// What is to be moved to the dead-letter stream, with the reasons.
    letters: Vec<Letter>,
}

impl Worker {
    pub(super) fn new(
        client: &Client,
        request: ReadRequest,
        options: GroupOptions,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let dead_letter = options.dead_letter.as_ref().map(|dead| &*dead.stream);
        let in_cluster = dead_letter.map_or(Ok(()), |dead| check_slots(&request.stream, dead));
        let asks = match in_cluster {
            Err(error) if client.is_cluster() => return Err(error),
            in_cluster => in_cluster.is_err().then(|| client.clone()),
        };
        Ok(Worker {
            asks,
            session: client.session_for(&request.stream),
            reader: GroupReader::new(client, request, options, watched)?,
            staged: None,
        })
    }

    pub(super) fn member(&self) -> &Member {
        self.reader.member()
    }

    pub(super) fn reader(&mut self) -> &mut GroupReader {
        &mut self.reader
    }

    /// The next batch, never empty; `None` at the end. The one before is done with.
    pub(super) async fn next(&mut self) -> Result<Option<(Batch, Handing)>> {
        if let Some(client) = &self.asks {
            if client.looks_like_a_cluster().await? {
                let member = self.reader.member();
                check_slots(&member.stream, member.dead_letter.as_deref().unwrap_or_default())?;
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
                let letters = match self.reader.member().dead_letter {
                    Some(_) => rejected(&batch),
                    None => Vec::new(),
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
        let Some(Staged { batch, letters, .. }) = &mut self.staged else {
            return Ok(());
        };
        let Some(first) = letters.iter().map(|letter| letter.id).min() else {
            return Ok(());
        };
        // Rows that come before do not wait until the server takes a letter.
        let patient = batch.ids().iter().all(|id| *id > first);
        let member = self.reader.member();
        let (settled, moved) =
            member.move_to_dead_letter(&mut self.session, letters, patient).await;
        // They are acknowledged already, or have become another consumer's.
        self.reader.failed(&settled);
        let settled = IdSet::from(settled);
        letters.retain(|letter| !settled.contains(letter.id));
        match moved {
            // Nothing is pending in a group that is gone: the next read will say so. What could not
            // be moved comes again, should there be another group.
            Err(error) if error.kind() == ErrorKind::NoGroup => {
                let ids: Vec<EntryId> = letters.drain(..).map(|letter| letter.id).collect();
                self.reader.left(&ids);
                Ok(())
            }
            moved => moved.map(drop),
        }
    }

    /// Takes the rows before the first of the letters from the staged batch, if there are any.
    fn rows_before_letters(&mut self) -> Result<Option<(Batch, Handing)>> {
        let Some(Staged { batch, handing, letters }) = &mut self.staged else {
            return Ok(None);
        };
        let first = letters.iter().map(|letter| letter.id).min();
        let is_before = |row: &usize| batch.ids().get(*row).copied() < first;
        let (before, after): (Vec<usize>, Vec<usize>) = (0..batch.len()).partition(is_before);
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

/// The entries that did not fit the schema, with the reasons. A letter names its entry and stream in
/// fields of their own.
fn rejected(batch: &Batch) -> Vec<Letter> {
    let reason = |error: &Error| error.reason(&["entry ID", "stream"]);
    let letter = |id, error: &Error| Letter { id, reason: reason(error), deliveries: None };
    batch.rejected().iter().map(|entry| letter(entry.id, &entry.error)).collect()
}
