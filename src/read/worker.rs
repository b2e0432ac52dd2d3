//! A consumer's batches made ready to be handed out: counted, in order, and without dead letters.

use std::collections::HashMap;
use std::sync::Arc;

use super::dead_letter::Letter;
use super::group::GroupReader;
use super::group_options::GroupOptions;
use super::member::Member;
use super::request::ReadRequest;
use super::stats::Watched;
use crate::admin::{PendingFilter, pending_entries_in};
use crate::client::{Client, Session};
use crate::decode::Batch;
use crate::entry_id::{EntryId, IdBound};
use crate::error::{Error, ErrorKind, Result};

/// Reads as a member of a group, and moves to the dead-letter stream what cannot be processed.
pub(super) struct Worker {
    reader: GroupReader,
    member: Member,
    session: Session,
    max_deliveries: Option<u64>,
    count_deliveries: bool,
    /// A batch that was read and not yet handed out.
    staged: Option<Staged>,
}

struct Staged {
    batch: Batch,
    /// Some of its entries were delivered before, and have not been counted.
    uncounted: bool,
    /// What is to be moved to the dead-letter stream.
    letters: Vec<Letter>,
}

impl Worker {
    pub(super) fn new(
        client: &Client,
        request: ReadRequest,
        options: GroupOptions,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let max_deliveries = options.max_deliveries();
        let member = Member {
            client: client.clone(),
            stream: request.stream.clone(),
            group: options.group.clone(),
            consumer: options.consumer.clone(),
            dead_letter: options.dead_letter.as_ref().map(|dead| dead.stream.clone()),
            reclaim_min_idle: options.reclaim.map(|reclaim| reclaim.min_idle),
            watched: Arc::clone(&watched),
        };
        Ok(Worker {
            session: client.session(),
            count_deliveries: options.count_deliveries || max_deliveries.is_some(),
            max_deliveries,
            reader: GroupReader::new(client, request, options, watched)?,
            member,
            staged: None,
        })
    }

    pub(super) fn member(&self) -> &Member {
        &self.member
    }

    pub(super) fn reader(&mut self) -> &mut GroupReader {
        &mut self.reader
    }

    /// The next batch, never empty; `None` at the end. The one before is done with.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            if self.staged.is_none() {
                let Some(batch) = self.reader.next().await? else {
                    return Ok(None);
                };
                let uncounted = self.reader.came_again();
                let letters = match self.member.dead_letter {
                    Some(_) => rejected(&batch),
                    None => Vec::new(),
                };
                self.staged = Some(Staged { batch, uncounted, letters });
            }
            // What fails, or is given up half way, is tried again by the next call.
            self.count().await?;
            self.move_letters().await?;
            let Some(Staged { batch, .. }) = self.staged.take() else {
                return Ok(None);
            };
            if !batch.is_empty() {
                let again = batch.delivery_counts().iter().filter(|count| **count > 1).count();
                self.member.watched.update(|stats| stats.reclaimed += again as u64);
                self.member.watched.hand_out(&batch, self.reader.received());
                return Ok(Some(batch));
            }
        }
    }

    /// Counts the deliveries of the staged batch, and takes those entries out that have had too
    /// many. Once only: an entry that was moved has no count any more.
    async fn count(&mut self) -> Result<()> {
        let Some(Staged { batch, uncounted: true, .. }) = &self.staged else {
            return Ok(());
        };
        let ids = batch.ids().to_vec();
        let counts = match self.count_deliveries {
            true => self.delivery_counts(&ids).await?,
            false => HashMap::new(),
        };
        let Some(staged) = &mut self.staged else {
            return Ok(());
        };
        let count = |id: &EntryId| counts.get(id).copied().unwrap_or(1);
        let mut rows: Vec<(EntryId, usize)> =
            ids.iter().enumerate().map(|(row, id)| (*id, row)).collect();
        // Claims come in the order of how long they were idle.
        rows.sort_unstable();
        let mut letters = Vec::new();
        if let Some(most) = self.max_deliveries {
            rows.retain(|(id, _)| {
                let delivered = count(id);
                if delivered > most {
                    let times = delivered - 1;
                    let reason = format!("delivered {times} times, of at most {most}");
                    letters.push(Letter { id: *id, reason, deliveries: Some(times) });
                }
                delivered <= most
            });
        }
        let rows: Vec<usize> = rows.into_iter().map(|(_, row)| row).collect();
        let batch = staged.batch.clone().select(&rows)?;
        let counts = match self.count_deliveries {
            true => batch.ids().iter().map(count).collect(),
            false => Vec::new(),
        };
        staged.batch = batch.with_delivery_counts(counts);
        staged.letters.extend(letters);
        staged.uncounted = false;
        Ok(())
    }

    /// Moves the staged dead letters.
    async fn move_letters(&mut self) -> Result<()> {
        let letters = match &self.staged {
            Some(staged) if !staged.letters.is_empty() => &staged.letters,
            _ => return Ok(()),
        };
        match self.member.move_to_dead_letter(&mut self.session, letters).await {
            // Nothing is pending in a group that is gone: the next read will say so.
            Err(error) if error.kind() == ErrorKind::NoGroup => {}
            moved => drop(moved?),
        }
        // They are acknowledged already, or have become another consumer's.
        let ids: Vec<EntryId> = letters.iter().map(|letter| letter.id).collect();
        self.member.leave_pending(&ids);
        Ok(())
    }

    /// How often entries have been delivered, as the server knows it.
    async fn delivery_counts(&mut self, ids: &[EntryId]) -> Result<HashMap<EntryId, u64>> {
        let (first, last) = match (ids.iter().min(), ids.iter().max()) {
            (Some(first), Some(last)) => (*first, *last),
            _ => return Ok(HashMap::new()),
        };
        let Member { stream, group, consumer, .. } = &self.member;
        let filter = PendingFilter {
            consumer: Some(consumer.clone()),
            start: IdBound::Id(first),
            end: IdBound::Id(last),
            ..PendingFilter::default()
        };
        let pending = match pending_entries_in(&mut self.session, stream, group, &filter).await {
            // What came is handed out: the next read will say that the group is gone.
            Err(error) if error.kind() == ErrorKind::NoGroup => Vec::new(),
            pending => pending?,
        };
        Ok(pending.into_iter().map(|entry| (entry.id, entry.delivery_count)).collect())
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
        self.reader.finish(success && self.staged.is_none()).await
    }
}

/// The entries that did not fit the schema, with the reasons.
fn rejected(batch: &Batch) -> Vec<Letter> {
    let letter = |id, error: &Error| Letter { id, reason: error.to_string(), deliveries: None };
    batch.rejected().iter().map(|entry| letter(entry.id, &entry.error)).collect()
}
