//! Where a group's reader goes on after an error.

use super::GroupReader;
use crate::error::{Error, ErrorKind, Result};

impl GroupReader {
    pub(super) async fn recover(&mut self, error: Error) -> Result<()> {
        self.note_rows();
        if error.kind() == ErrorKind::NoGroup {
            if !self.found && self.options.create_at.is_some() {
                return self.create().await;
            }
            if self.options.recreates() {
                // Somebody may delete it again and again: with pauses, and not for ever.
                self.recreations.pause(error.with_retryable(true)).await?;
                return self.recreate().await;
            }
        }
        // A server that has answered serves the request no more.
        let blocks_until = self.blocks_until.filter(|_| error.server_code().is_none());
        self.ledger.lost(blocks_until);
        self.feed.recover(error).await
    }

    /// Creates the group again where this consumer was; its pending entries are no more.
    async fn recreate(&mut self) -> Result<()> {
        // What was done meanwhile counts as a position.
        self.take_reports();
        // What was collected comes again, or is before the place where the group begins.
        self.feed.discard()?;
        self.pace.flushed();
        let was_at = self.ledger.group_lost();
        self.create_after(was_at).await
    }
}
