//! A group that got lost, and where the one that takes its place begins.

use std::borrow::Cow;

use super::done::Acknowledgements;
use super::{InFlight, Ledger};
use crate::entry_id::EntryId;

impl Ledger {
    /// The smallest ID that was delivered to this consumer and is not done with.
    pub(super) fn first_undone(&self) -> Option<EntryId> {
        let collected = self.collected_ids.first();
        let staged = self.staged.iter().map(|row| row.id).min();
        let sets = [self.in_hand.first(), self.left.first(), collected, staged, self.forgotten];
        sets.into_iter().flatten().chain(self.own.first()).min()
    }

    /// The stream has had an entry of this ID, or a greater one.
    pub(crate) fn stream_had(&mut self, id: EntryId) {
        self.stream_had = self.stream_had.max(Some(id));
    }

    /// Whether a stream that ends with this ID (`None` where there is none) is another than the one of
    /// which entries have come: it was deleted, and perhaps written again.
    pub(crate) fn is_another_stream(&self, end: Option<EntryId>) -> bool {
        end < self.stream_had
    }

    /// The greatest ID that the stream is known to have had.
    pub(crate) fn had(&self) -> Option<EntryId> {
        self.stream_had
    }

    /// The group is gone, with all that was pending, and the collected rows are discarded: they come
    /// again. Returns the ID after which a group that takes its place has to begin; `None` where this
    /// consumer has not been anywhere.
    pub(crate) fn group_lost(&mut self) -> Option<EntryId> {
        // Nobody takes these acknowledgements any more.
        let done = self.done.take();
        self.note_finished(&done);
        let position = match self.first_undone() {
            Some(undone) => undone.predecessor(),
            None => self.done_up_to,
        };
        // What an earlier group took with it is not lost with the one that was to bring it.
        let after = match self.brings_again_after.filter(|_| self.newest < self.known_up_to) {
            Some(after) => {
                let brought_up_to = after.max(self.newest);
                Some(position.map_or(brought_up_to, |position| position.min(brought_up_to)))
            }
            None => position,
        };
        self.collected.clear();
        self.staged.clear();
        self.forget_collected();
        self.own.clear();
        self.left.clear();
        self.deleted = Acknowledgements::default();
        self.stranded = None;
        self.others_first = false;
        self.in_flight = InFlight::Nothing;
        self.newest = EntryId::MIN;
        self.known_up_to = self.stream_had.unwrap_or(EntryId::MIN);
        self.brings_again_after = after;
        after
    }

    /// Those that the stream can have had. Who is late to say what became of entries may speak of
    /// those of a stream that has been replaced, which had greater IDs.
    pub(super) fn of_this_stream<'a>(&self, ids: &'a [EntryId]) -> Cow<'a, [EntryId]> {
        match self.replaced {
            false => Cow::Borrowed(ids),
            true => ids.iter().copied().filter(|id| self.stream_had >= Some(*id)).collect(),
        }
    }

    /// The stream is another one, of which nothing is known.
    pub(crate) fn stream_replaced(&mut self) {
        self.replaced = true;
        self.in_hand.clear();
        self.left.clear();
        self.forgotten = None;
        self.finished.clear();
        self.done_up_to = None;
        self.position = None;
        self.stream_had = None;
        self.known_up_to = EntryId::MIN;
        self.brings_again_after = None;
    }
}
