//! Where a group's reader goes on after an error.

use super::{AskedFor, GroupReader};
use crate::admin::create_group_in;
use crate::entry_id::{EntryId, GroupStart};
use crate::error::{Error, ErrorKind, Result};
use crate::read::bounds::last_generated;
use crate::read::group_options::OnGroupLost;

impl GroupReader {
    pub(super) async fn recover(&mut self, error: Error) -> Result<()> {
        if let (AskedFor::Claims { .. }, Some(claimer)) = (&self.asked_for, &mut self.claimer)
            && claimer.fall_back(&error)
        {
            return Ok(());
        }
        if error.kind() == ErrorKind::NoGroup && self.options.on_lost == OnGroupLost::Recreate {
            // Somebody may delete it again and again: with pauses, and not for ever.
            self.recreations.pause(error.with_retryable(true)).await?;
            return self.recreate().await;
        }
        self.feed.recover(error).await?;
        self.read_own_pending()
    }

    /// Creates the group again where this consumer stood; its pending entries are no more.
    async fn recreate(&mut self) -> Result<()> {
        // What has been processed is done, though nobody takes its acknowledgement any more.
        let done = self.done.iter().max().copied();
        self.watched.update(|stats| stats.done_up_to = stats.done_up_to.max(done));
        let start = self.stood_at().await?;
        let (stream, group) = (&self.request.stream, &self.options.group);
        create_group_in(&mut self.feed.session, stream, group, start, true).await?;
        if start == GroupStart::Behind(EntryId::MIN) {
            // What was done says nothing of the entries that come now.
            self.watched.update(|stats| stats.done_up_to = None);
            self.options.done_up_to = None;
        }
        self.done.clear();
        self.gone.clear();
        self.returning.clear();
        self.sent = (0, 0);
        self.seen = EntryId::MIN;
        self.handed_out = EntryId::MIN;
        self.pending_after = None;
        Ok(())
    }

    /// Where a group begins that takes the place of a lost one.
    pub(super) async fn stood_at(&mut self) -> Result<GroupStart> {
        let done = self.watched.snapshot().done_up_to.max(self.options.done_up_to);
        let Some(done) = done else {
            return Ok(self.options.create_at.unwrap_or(GroupStart::Behind(EntryId::MIN)));
        };
        let newest = last_generated(&mut self.feed.session, &self.request.stream).await?;
        // In a stream begun anew this consumer has been nowhere yet.
        let at = newest.filter(|newest| done <= *newest).map_or(EntryId::MIN, |_| done);
        Ok(GroupStart::Behind(at))
    }

    /// What a lost reply held is this consumer's, and has to be read from its pending list.
    pub(super) fn read_own_pending(&mut self) -> Result<()> {
        self.note_rows();
        let after = match self.asked_for {
            _ if self.options.noack => return Ok(()),
            AskedFor::OwnPending { after } => after,
            // Where all that was handed out is acknowledged, nothing but what was claimed is
            // pending. Elsewhere it is claimed again once it has been idle for long enough.
            AskedFor::Claims { .. } if self.options.auto_ack => {
                self.feed.discard()?;
                EntryId::MIN
            }
            // They are asked for again by their IDs.
            AskedFor::Returns => {
                self.feed.discard()?;
                return Ok(());
            }
            AskedFor::Claims { .. } | AskedFor::New => self.seen,
        };
        self.pending_after = Some(after);
        Ok(())
    }
}
