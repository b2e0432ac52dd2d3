//! Whether there are other streams, and whether those that are followed are what they were.

use std::sync::Arc;
use std::time::Instant;

use super::{ManyTail, until};
use crate::admin::find_streams;
use crate::entry_id::{EntryId, IdBound};
use crate::error::Result;
use crate::read::bounds::id_of_first;
use crate::read::lost::StreamLoss;
use crate::read::many::Pattern;
use crate::read::many::discover::{LOOKING, discover};
use crate::read::many::ends::last_generated;
use crate::read::many::follower::Lost;

impl ManyTail {
    /// How many streams are asked together for what they have come to, and the part of the time that
    /// may take: 1 / SHARE.
    const LOOKED_AT: usize = 500;
    const SHARE: u32 = 400;

    /// The streams that match the pattern now; at the start those of all nodes of a cluster.
    pub(super) async fn found(&mut self, pattern: &Pattern) -> Result<Vec<Vec<u8>>> {
        /// Looking takes this part of the time at most: 1 / SHARE.
        const SHARE: u32 = 20;
        let started = Instant::now();
        let keys = match self.started {
            false => find_streams(&self.client, &pattern.text).await?,
            true => {
                let there = self.streams.there();
                discover(&self.client, pattern, &self.streams.names, &there).await?
            }
        };
        let pause = started.elapsed().saturating_mul(SHARE).max(pattern.every);
        self.discover_due = Instant::now().checked_add(pause);
        Ok(keys)
    }

    /// Looks for streams that have come, or gone, where it is time for that.
    pub(super) async fn discover(&mut self) -> Result<()> {
        let is_due = self.discover_due.is_some_and(|due| due <= Instant::now());
        let Some(pattern) = self.pattern().filter(|_| is_due) else { return Ok(()) };
        if self.placed < self.streams.names.len() {
            // That was given up, or has failed.
            self.place().await?;
        }
        let found = self.found(&pattern).await?;
        let after = self.after_of_new();
        let changes = self.streams.found(found, after);
        self.replaced.extend(changes.replaced);
        if changes.are_new {
            let names = Arc::clone(&self.streams.names);
            self.name(&names);
            self.place().await?;
        }
        Ok(())
    }

    /// Makes sure that some streams of a place have not been created again with smaller IDs, which no read
    /// after the last one would ever see.
    pub(super) async fn look_after(&mut self, number: usize) -> Result<()> {
        let are_others = self.places.len() > 1;
        let (Some(follower), Some(place)) =
            (self.followers.get_mut(number), self.places.get_mut(number / 2))
        else {
            return Ok(());
        };
        let started = Instant::now();
        let all = place.split.all().iter().copied();
        let has_end = self.end < EntryId::MAX;
        // Those that have come to the end are done with, whatever has become of them since.
        let read = all.filter(|stream| {
            self.streams.is_open(*stream)
                && (has_end || self.streams.position(*stream) > EntryId::MIN)
        });
        let read: Vec<usize> = read.skip(place.look_from).take(Self::LOOKED_AT).collect();
        let is_last = read.len() < Self::LOOKED_AT;
        place.look_from = if is_last { 0 } else { place.look_from + read.len() };
        let looking = last_generated(follower.session(), &self.streams.names, &read);
        let reached = match are_others {
            false => looking.await?,
            // A node that fails does not keep those of others waiting; it is looked at again.
            true => match tokio::time::timeout(LOOKING, looking).await {
                Ok(reached) => reached?,
                Err(_) => Vec::new(),
            },
        };
        let pause = started.elapsed().saturating_mul(Self::SHARE).max(Self::INTERVAL);
        place.look_due = Instant::now().checked_add(pause);
        if has_end {
            self.close(number, &reached).await?;
        }
        for (stream, newest) in reached {
            let seen = self.streams.position(stream);
            // One that has never had an entry is like one that was deleted.
            if newest < seen && newest > EntryId::MIN && !is_to_come(self.request.start, seen) {
                let after = self.go_on_after(stream, StreamLoss::BegunAnew { newest }, seen)?;
                self.go_back(stream, after);
            }
        }
        Ok(())
    }

    /// Closes the streams that have come to the end, or beyond, and have nothing up to there that was not
    /// read: what was there has been deleted, and nothing can be added.
    async fn close(&mut self, number: usize, reached: &[(usize, EntryId)]) -> Result<()> {
        let Some(follower) = self.followers.get_mut(number) else { return Ok(()) };
        for (stream, newest) in reached.iter().copied() {
            if newest < self.end || !self.streams.is_open(stream) {
                continue;
            }
            let key = self.streams.names.key(stream);
            let is_read = match self.streams.position(stream).successor() {
                Some(first) => {
                    id_of_first(follower.session(), key, first, self.end).await?.is_none()
                }
                None => true,
            };
            if is_read {
                self.streams.close(stream);
            }
        }
        Ok(())
    }

    pub(super) fn is_look_due(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(|place| until(place.look_due).is_zero())
    }

    /// Goes on with streams of which the server has lost the ends, where that is the policy.
    pub(super) fn went_on_without(&mut self, lost: Vec<Lost>) -> Result<()> {
        for (stream, seen, loss) in lost {
            let after = self.go_on_after(stream, loss, seen)?;
            self.go_back(stream, after);
        }
        Ok(())
    }
}

/// Whether a position is where the caller wants to begin, and not that of an entry.
pub(super) fn is_to_come(start: IdBound, seen: EntryId) -> bool {
    matches!(start, IdBound::Id(start) if start.predecessor() == Some(seen))
}
