//! Where a group's reader goes on after an error.

use std::time::{Duration, Instant};

use super::GroupReader;
use crate::admin::{PendingEntry, pending_page};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::read::bounds::if_permitted;
use crate::read::group_options::OwnPending;

impl GroupReader {
    pub(super) async fn recover(&mut self, error: Error) -> Result<()> {
        self.note_rows();
        if error.kind() == ErrorKind::NoGroup {
            if !self.found && self.options.create_at.is_some() {
                self.ledger.refused();
                return self.create().await;
            }
            if self.options.recreates() {
                let event = self.request.who().event("group_lost");
                let event = event.with("error", error.to_string());
                // Somebody may delete it again and again: with pauses, and not for ever.
                self.recreations.pause(error.with_retryable(true)).await?;
                event.record();
                return self.recreate().await;
            }
        }
        // A server that has answered serves the request no more.
        let blocks_until = self.blocks_until.filter(|_| error.server_code().is_none());
        let asked = self.sent_at.filter(|_| error.server_code().is_none());
        match asked.filter(|_| self.has_to_locate()) {
            Some(asked) => {
                self.feed.recover(error).await?;
                self.locate(asked).await?;
                self.ledger.lost(blocks_until);
                Ok(())
            }
            None => {
                self.ledger.lost(blocks_until);
                self.feed.recover(error).await
            }
        }
    }

    /// Whether new entries may have got lost before it is known where they begin.
    fn has_to_locate(&self) -> bool {
        let skips = self.options.own_pending == OwnPending::Skip && !self.options.noack;
        skips && !self.prepared && !self.ledger.has_position()
    }

    /// Finds out which of this consumer's pending entries were delivered before the time at which new
    /// ones were asked for. Those after them came in answer, to a connection that was lost. Entries
    /// that were delivered within the same round trip come again.
    async fn locate(&mut self, asked: Instant) -> Result<()> {
        /// Servers count whole milliseconds.
        const TICK: Duration = Duration::from_millis(1);
        let mut from = EntryId::MIN;
        loop {
            let member = self.member.membership();
            let listing =
                pending_page(&mut self.feed.session, member, from, EntryId::MAX, Self::LISTED);
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
                self.ledger.begins_after(last.id);
            }
            match page.last().and_then(|last| last.id.successor()) {
                Some(next) if page.len() as u64 >= Self::LISTED => from = next,
                _ => break,
            }
        }
        self.prepared = true;
        Ok(())
    }

    /// Creates the group again where this consumer was; its pending entries are no more.
    async fn recreate(&mut self) -> Result<()> {
        // What was done meanwhile counts as a position.
        self.take_reports();
        // What was collected comes again, or is before the place where the group begins.
        self.feed.discard()?;
        self.batch_over();
        let was_at = self.ledger.group_lost();
        self.create_after(was_at).await
    }
}
