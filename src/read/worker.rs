//! A consumer's batches made ready to be handed out: counted, in order, and without dead letters.

use std::collections::HashMap;
use std::sync::Arc;

use super::claim::pending;
use super::group::GroupReader;
use super::group_options::GroupOptions;
use super::member::Member;
use super::request::ReadRequest;
use super::stats::Watched;
use crate::client::{Client, Session};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::Result;

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

#[derive(Clone)]
struct Staged {
    batch: Batch,
    /// Some of its entries were delivered before.
    again: bool,
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
                self.staged = Some(Staged { batch, again: self.reader.came_again() });
            }
            let Some(Staged { batch, again }) = self.staged.clone() else {
                return Ok(None);
            };
            // A batch whose dead letters cannot be written is tried again by the next call.
            let (batch, letters) = self.make_ready(batch, again).await?;
            if !letters.is_empty() {
                self.member.move_to_dead_letter(&mut self.session, &letters).await?;
            }
            self.staged = None;
            if !batch.is_empty() {
                self.member.watched.hand_out(&batch, self.reader.received());
                return Ok(Some(batch));
            }
        }
    }

    /// What is to be handed out of a batch, and what is not, with the reasons.
    async fn make_ready(
        &mut self,
        batch: Batch,
        again: bool,
    ) -> Result<(Batch, Vec<(EntryId, String)>)> {
        let mut letters = Vec::new();
        if self.member.dead_letter.is_some() {
            let rejected = batch.rejected().iter();
            letters.extend(rejected.map(|entry| (entry.id, entry.error.to_string())));
        }
        if !again {
            return Ok((batch, letters));
        }
        let counts = match self.count_deliveries {
            true => self.delivery_counts(batch.ids()).await?,
            false => HashMap::new(),
        };
        let count = |id: &EntryId| counts.get(id).copied().unwrap_or(1);
        let mut rows: Vec<(EntryId, usize)> =
            batch.ids().iter().enumerate().map(|(row, id)| (*id, row)).collect();
        // Claims come in the order of how long they were idle.
        rows.sort_unstable();
        if let Some(most) = self.max_deliveries {
            rows.retain(|(id, _)| {
                let delivered = count(id);
                if delivered > most {
                    let times = delivered - 1;
                    letters.push((*id, format!("delivered {times} times, of at most {most}")));
                }
                delivered <= most
            });
        }
        let rows: Vec<usize> = rows.into_iter().map(|(_, row)| row).collect();
        let batch = batch.select(&rows)?;
        let counts = match self.count_deliveries {
            true => batch.ids().iter().map(count).collect(),
            false => Vec::new(),
        };
        Ok((batch.with_delivery_counts(counts), letters))
    }

    /// How often entries have been delivered, as the server knows it.
    async fn delivery_counts(&mut self, ids: &[EntryId]) -> Result<HashMap<EntryId, u64>> {
        const PAGE: u64 = 10_000;
        let (mut at, last) = match (ids.iter().min(), ids.iter().max()) {
            (Some(first), Some(last)) => (*first, *last),
            _ => return Ok(HashMap::new()),
        };
        let mut counts = HashMap::new();
        loop {
            let consumer = Some(self.member.consumer.as_slice());
            let member = self.member.membership();
            let page = pending(&mut self.session, member, (at, last), PAGE, consumer).await?;
            counts.extend(page.iter().map(|entry| (entry.id, entry.deliveries)));
            match page.last().and_then(|entry| entry.id.successor()) {
                Some(next) if page.len() as u64 >= PAGE => at = next,
                _ => return Ok(counts),
            }
        }
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
