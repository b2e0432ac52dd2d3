//! The streams that are followed, and how far each has been read. No IO.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::decode::{Batch, StreamNames, ends};
use crate::entry_id::EntryId;

/// The streams that are followed, by their places in the list of names.
#[derive(Default)]
pub(super) struct Followed {
    pub(super) names: Arc<StreamNames>,
    /// The ID of each stream after which its entries come.
    positions: Vec<EntryId>,
    /// The same after the batches that were handed out.
    delivered: Vec<EntryId>,
    /// Those that do not match the pattern any more.
    gone: Vec<bool>,
    /// The last ID that is wanted, and the streams that have none up to there to come.
    end: EntryId,
    closed: Vec<bool>,
}

/// What a search for streams has changed.
pub(super) struct Changes {
    /// There are streams that were not there before.
    pub(super) are_new: bool,
    /// What was read of these says nothing any more: they are gone, or are others that have come in the
    /// place of those that were. A stream is among them at both times, because rows of the one that
    /// went may be acknowledged until the other comes.
    pub(super) replaced: Vec<usize>,
}

impl Followed {
    pub(super) fn new(names: Arc<StreamNames>, positions: Vec<EntryId>, end: EntryId) -> Self {
        let (delivered, gone) = (positions.clone(), vec![false; positions.len()]);
        let closed = vec![false; positions.len()];
        let mut all = Followed { names, positions, delivered, gone, end, closed };
        all.close_ended();
        all
    }

    /// Those that have come to the end have nothing to come.
    fn close_ended(&mut self) {
        for (closed, position) in self.closed.iter_mut().zip(&self.positions) {
            *closed = *position >= self.end;
        }
    }

    pub(super) fn position(&self, stream: usize) -> EntryId {
        self.positions.get(stream).copied().unwrap_or_default()
    }

    pub(super) fn positions(&self) -> &[EntryId] {
        &self.positions
    }

    pub(super) fn is_gone(&self, stream: usize) -> bool {
        self.gone.get(stream).copied().unwrap_or(true)
    }

    /// Nothing that is wanted can come of this stream any more.
    pub(super) fn close(&mut self, stream: usize) {
        self.closed.get_mut(stream).into_iter().for_each(|closed| *closed = true);
    }

    /// Whether a stream is to be asked for.
    pub(super) fn is_open(&self, stream: usize) -> bool {
        !self.is_gone(stream) && !self.closed.get(stream).copied().unwrap_or_default()
    }

    /// Whether there are streams, and none of them has anything to come.
    pub(super) fn are_all_closed(&self) -> bool {
        let mut there =
            (0..self.positions.len()).filter(|stream| !self.is_gone(*stream)).peekable();
        there.peek().is_some() && there.all(|stream| !self.is_open(stream))
    }

    /// What has come, by the last ID of each stream.
    pub(super) fn came(&mut self, last: &HashMap<usize, EntryId>) {
        for (stream, last) in last {
            // What was on its way when it went is of the stream before.
            if !self.is_gone(*stream)
                && let Some(position) = self.positions.get_mut(*stream)
            {
                *position = *last;
                if *last >= self.end {
                    self.close(*stream);
                }
            }
        }
    }

    /// A stream is another one than before, which is read from its first entry on.
    pub(super) fn begin_anew(&mut self, stream: usize) {
        for positions in [&mut self.positions, &mut self.delivered] {
            positions.get_mut(stream).into_iter().for_each(|seen| *seen = EntryId::MIN);
        }
        self.closed.get_mut(stream).into_iter().for_each(|closed| *closed = false);
    }

    /// A batch goes to the caller.
    pub(super) fn delivered(&mut self, batch: &Batch) {
        for (run, end) in ends(batch.runs(), batch.len()) {
            let last = end.checked_sub(1).and_then(|row| batch.ids().get(row));
            if !self.is_gone(run.stream)
                && let (Some(delivered), Some(last)) = (self.delivered.get_mut(run.stream), last)
            {
                *delivered = *last;
            }
        }
    }

    /// What came since the latest batch is read again.
    pub(super) fn rewind(&mut self) {
        self.positions.clone_from(&self.delivered);
        self.close_ended();
    }

    /// The streams that are there, as far as is known.
    pub(super) fn there(&self) -> Vec<usize> {
        (0..self.names.len()).filter(|stream| !self.is_gone(*stream)).collect()
    }

    /// These are the streams that match the pattern now. Others are not asked for any more; where one
    /// comes again it is another stream, and begins `after` that ID like those that are new.
    pub(super) fn found(&mut self, keys: Vec<Vec<u8>>, after: EntryId) -> Changes {
        let mut replaced = Vec::new();
        let mut found: HashSet<Vec<u8>> = keys.into_iter().collect();
        for (stream, key) in self.names.keys().iter().enumerate() {
            let is_gone = !found.remove(key);
            if let Some(gone) = self.gone.get_mut(stream)
                && std::mem::replace(gone, is_gone) != is_gone
            {
                replaced.push(stream);
            }
            if is_gone {
                for positions in [&mut self.positions, &mut self.delivered] {
                    positions.get_mut(stream).into_iter().for_each(|seen| *seen = after);
                }
                self.closed.get_mut(stream).into_iter().for_each(|closed| *closed = false);
            }
        }
        if found.is_empty() {
            return Changes { are_new: false, replaced };
        }
        let mut new: Vec<Vec<u8>> = found.into_iter().collect();
        new.sort_unstable();
        let number = self.names.len() + new.len();
        self.names = StreamNames::new([self.names.keys(), &new].concat()).into();
        self.positions.resize(number, after);
        self.delivered.resize(number, after);
        self.gone.resize(number, false);
        self.closed.resize(number, after >= self.end);
        Changes { are_new: true, replaced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_goes_and_one_that_comes_in_its_place_are_others() {
        let keys = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let seen = EntryId::new(5, 0);
        let names = StreamNames::new(keys(&["a", "b"]));
        let mut all = Followed::new(names.into(), vec![seen; 2], EntryId::MAX);
        for (found, are_new, replaced) in [
            (vec!["a", "b"], false, vec![]),
            (vec!["b"], false, vec![0]),
            (vec!["b", "c"], true, vec![]),
            (vec!["a", "b", "c"], false, vec![0]),
            (vec!["a", "b", "c"], false, vec![]),
        ] {
            let changes = all.found(keys(&found), EntryId::MIN);
            assert_eq!((changes.are_new, changes.replaced), (are_new, replaced), "{found:?}");
        }
        assert_eq!(all.positions(), [EntryId::MIN, seen, EntryId::MIN]);
    }
}
