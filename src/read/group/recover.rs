//! Where a group's reader goes on after an error.

use std::time::{Duration, Instant};

use super::GroupReader;
use super::lane::Lane;
use super::small::LISTED;
use crate::admin::{PendingEntry, pending_page};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::read::bounds::if_permitted;
use crate::read::group_options::OwnPending;

impl GroupReader {
    /// The error with the stream's name, where there is no other.
    pub(super) fn about(&self, error: Error) -> Error {
        let is_named = error.context().iter().any(|(what, _)| *what == "stream");
        match self.lanes.as_slice() {
            [lane] if !is_named => lane.member.about(error),
            _ => error,
        }
    }

    pub(super) async fn recover(&mut self, error: Error) -> Result<()> {
        self.note_rows();
        if self.is_many() {
            return Box::pin(self.recover_many(error)).await;
        }
        if error.kind() == ErrorKind::NoGroup {
            let GroupReader { lanes, feed, .. } = self;
            let Some(lane) = lanes.first_mut() else { return Err(error) };
            if !lane.found && lane.create_at.is_some() {
                lane.ledger.refused();
                return lane.create(&mut feed.session).await;
            }
            if self.options.recreates() {
                tokio::time::sleep(lane.is_lost(error)?).await;
                return self.recreate(0).await;
            }
        }
        // A server that has answered serves the request no more.
        let blocks_until = self.blocks_until.filter(|_| error.server_code().is_none());
        let asked = self.sent_at.filter(|_| error.server_code().is_none());
        match asked.filter(|_| self.has_to_locate()) {
            Some(asked) => {
                self.feed.recover(error).await?;
                self.locate(asked).await?;
                self.lost(blocks_until);
                Ok(())
            }
            None => {
                self.lost(blocks_until);
                self.feed.recover(error).await
            }
        }
    }

    /// What is on its way will not come.
    pub(super) fn lost(&mut self, blocks_until: Option<Instant>) {
        self.flights.clear();
        self.lanes.iter_mut().for_each(|lane| lane.ledger.lost(blocks_until));
    }

    /// Whether new entries may have got lost before it is known where they begin.
    fn has_to_locate(&self) -> bool {
        let skips = self.options.own_pending == OwnPending::Skip && !self.options.noack;
        let is_unknown = |lane: &Lane| !lane.prepared && !lane.ledger.has_position();
        skips && !self.is_many() && self.lanes.iter().any(is_unknown)
    }

    /// Finds out which of this consumer's pending entries were delivered before the time at which new
    /// ones were asked for. Those after them came in answer, to a connection that was lost. Entries
    /// that were delivered within the same round trip come again.
    async fn locate(&mut self, asked: Instant) -> Result<()> {
        /// Servers count whole milliseconds.
        const TICK: Duration = Duration::from_millis(1);
        let Some(lane) = self.lanes.first_mut() else { return Ok(()) };
        let mut from = EntryId::MIN;
        loop {
            let member = lane.member.membership();
            let listing = pending_page(&mut self.feed.session, member, from, EntryId::MAX, LISTED);
            let page = match listing.await {
                // Nothing is pending, which the next read will find out.
                Err(error) if error.kind() == ErrorKind::NoGroup => break,
                listed => match if_permitted(listed)? {
                    Some(page) => page,
                    // All of them come, as where it cannot be asked how far the group is.
                    None => break,
                },
            };
            let since = asked.elapsed().saturating_add(TICK);
            let is_older = |one: &&PendingEntry| {
                one.delivery_count > 1 || one.idle.is_none_or(|idle| idle > since)
            };
            if let Some(last) = page.iter().rev().find(is_older) {
                lane.ledger.begins_after(last.id);
            }
            match page.last().and_then(|last| last.id.successor()) {
                Some(next) if page.len() as u64 >= LISTED => from = next,
                _ => break,
            }
        }
        lane.prepared = true;
        Ok(())
    }

    /// Creates a stream's group again where this consumer was; its pending entries are no more.
    pub(super) async fn recreate(&mut self, stream: usize) -> Result<()> {
        // What was collected comes again, or is before the place where the group begins.
        self.flights.clear();
        self.feed.discard()?;
        self.batch_over();
        for (other, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.gone) {
            // What was done meanwhile counts as a position.
            lane.take_reports();
            if other != stream {
                lane.ledger.lost(None);
                lane.ledger.discarded();
            }
        }
        let Some(lane) = self.lanes.get_mut(stream) else { return Ok(()) };
        let was_at = lane.ledger.group_lost();
        lane.create_after(&mut self.feed.session, was_at).await
    }
}

impl Lane {
    /// The group is gone, and is to be created again after a pause.
    pub(super) fn is_lost(&mut self, error: Error) -> Result<Duration> {
        let event = self.member.who().event("group_lost");
        let event = event.with("error", error.to_string());
        // Somebody may delete it again and again: with pauses, and not for ever.
        let pause = self.recreations.next_pause(error.with_retryable(true))?;
        event.record();
        Ok(pause)
    }
}
