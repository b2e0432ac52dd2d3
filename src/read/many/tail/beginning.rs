//! After which entries the reading begins, and where it goes on when some are lost.

use super::ManyTail;
use crate::client::Who;
use crate::decode::StreamNames;
use crate::entry_id::{EntryId, IdBound};
use crate::error::Result;
use crate::read::lost::StreamLoss;
use crate::read::many::ends::lost_since;
use crate::read::many::{Many, ask};
use crate::read::request::Resume;

impl ManyTail {
    /// The ID of each stream after which its entries come: where an earlier run had come to, if nothing
    /// after that is lost, and else where the request says.
    pub(super) async fn begin(&mut self, names: &StreamNames, many: &Many) -> Result<Vec<EntryId>> {
        let resume = self.request.resume.clone().unwrap_or_default();
        let mut positions = self.first_positions(names, many, &resume).await?;
        let keys = names.keys().iter().enumerate();
        let seen = keys.filter_map(|(stream, key)| Some((stream, *resume.after.get(key)?)));
        let seen: Vec<(usize, EntryId)> = seen.collect();
        let mut set = |stream: usize, after| {
            positions.get_mut(stream).into_iter().for_each(|position| *position = after);
        };
        seen.iter().for_each(|(stream, seen)| set(*stream, *seen));
        // Those that have come to the end are done with, whatever has become of them since.
        let to_come: Vec<(usize, EntryId)> =
            seen.into_iter().filter(|(_, seen)| *seen < self.end).collect();
        for (stream, seen, loss) in lost_since(&self.client, names, &to_come).await? {
            let after = self.go_on_after(stream, loss, seen)?;
            set(stream, after);
            if after < seen {
                self.replaced.push(stream);
            }
        }
        Ok(positions)
    }

    /// The same for a first run.
    async fn first_positions(
        &mut self,
        names: &StreamNames,
        many: &Many,
        resume: &Resume,
    ) -> Result<Vec<EntryId>> {
        if resume.has_begun {
            return Ok(vec![self.after_of_new(); names.len()]);
        }
        if names.keys().iter().all(|key| resume.after.contains_key(key)) {
            return Ok(vec![EntryId::MIN; names.len()]);
        }
        let is_newest = self.request.start == IdBound::Newest;
        let after = |(first, last): (EntryId, EntryId)| match first.predecessor() {
            // It has no entry of which the newest could be the start.
            _ if first > last && is_newest => EntryId::MIN,
            before => before.unwrap_or(EntryId::MIN),
        };
        let bounds = ask::bounds(&self.client, &self.request, many).await?;
        Ok(bounds.into_iter().map(after).collect())
    }

    /// Where a stream begins that has come since the reading began, of which all was added since.
    pub(super) fn after_of_new(&self) -> EntryId {
        match self.request.start {
            IdBound::Id(first) => first.predecessor().unwrap_or(EntryId::MIN),
            _ => EntryId::MIN,
        }
    }

    /// Where each stream has begun, before anything was read, of those that no earlier run has read.
    #[cfg(feature = "python")]
    pub(in crate::read) fn begins_after(&self) -> Vec<(usize, EntryId)> {
        let resumed = self.request.resume.as_ref().map(|resume| &resume.after);
        let all = self.streams.names.keys().iter().zip(self.streams.positions()).enumerate();
        let new = all.filter(|(_, (key, _))| !resumed.is_some_and(|seen| seen.contains_key(*key)));
        new.map(|(stream, (_, after))| (stream, *after)).collect()
    }

    /// The ID after which to go on although entries of a stream are lost.
    ///
    /// # Errors
    ///
    /// [`DataLoss`](crate::ErrorKind::DataLoss), with the stream, where that is not the policy.
    pub(super) fn go_on_after(
        &self,
        stream: usize,
        loss: StreamLoss,
        seen: EntryId,
    ) -> Result<EntryId> {
        let names = &self.streams.names;
        let who = Who::new(names.key(stream));
        let going_on = loss.go_on_after(seen, self.request.on_data_loss(), who);
        going_on.map_err(|error| error.with_context("stream", names.text(stream)))
    }

    /// A stream is read from its first entry on, where that is what follows from its loss.
    pub(super) fn go_back(&mut self, stream: usize, after: EntryId) {
        if after == EntryId::MIN {
            self.streams.begin_anew(stream);
            self.replaced.push(stream);
        }
    }

    /// The streams that were found to be others since the last call.
    #[cfg(feature = "python")]
    pub(in crate::read) fn take_replaced(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.replaced)
    }
}
