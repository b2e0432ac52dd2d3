//! Where the entries of streams are cut, so that the pieces are of about equal size: without IO.

use super::survey::Profile;
use crate::entry_id::EntryId;

/// A range of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The stream's place in the list.
    pub stream: usize,
    /// The first and the last ID, both inclusive.
    pub range: (EntryId, EntryId),
}

/// What one of several readers reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Ranges of different streams, in the streams' order.
    pub pieces: Vec<Piece>,
    /// How many entries that are, about.
    pub entries: u64,
}

/// The range of one stream before it is cut.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) piece: Piece,
    pub(super) entries: f64,
    /// How they are spread, where that is known.
    pub(super) profile: Option<Profile>,
}

/// Where the entries of all are cut, laid one after the other.
fn cuts(all: &[Whole], number: usize) -> impl Iterator<Item = f64> {
    let total: f64 = all.iter().map(|whole| whole.entries).sum();
    let share = total / number.max(1) as f64;
    (1..number).map(move |cut| cut as f64 * share)
}

/// Half an entry: a cut that is no farther from a stream's end is none.
const NEAR: f64 = 0.5;

/// The streams that are cut into `number` partitions, by their places among all.
pub(super) fn cut_ones(all: &[Whole], number: usize) -> Vec<usize> {
    let mut cuts = cuts(all, number).peekable();
    let (mut before, mut places) = (0.0, Vec::new());
    for (place, whole) in all.iter().enumerate() {
        let end = before + whole.entries;
        let mut is_cut = false;
        while let Some(cut) = cuts.next_if(|cut| *cut <= end - NEAR) {
            is_cut |= cut > before + NEAR;
        }
        places.extend(is_cut.then_some(place));
        before = end;
    }
    places
}

/// The partitions, `number` of them or fewer: what lies in one piece stays so.
pub(super) fn partitions(all: &[Whole], number: usize) -> Vec<Partition> {
    let mut cuts = cuts(all, number).peekable();
    let (mut partitions, mut open) = (Vec::new(), Open::default());
    let mut before = 0.0;
    for whole in all {
        let (mut first, last) = whole.piece.range;
        let end = before + whole.entries;
        let mut from = before;
        while let Some(cut) = cuts.next_if(|cut| *cut <= end - NEAR) {
            if cut <= before + NEAR {
                partitions.extend(open.close());
                continue;
            }
            let Some(profile) = &whole.profile else { continue };
            let share = (cut - before) / whole.entries;
            let up_to = profile.cut(share * profile.total()).min(last);
            if first <= up_to && up_to < last {
                open.add(whole.piece.stream, (first, up_to), cut - from);
                (first, from) = (up_to.successor().unwrap_or(last), cut);
            }
            partitions.extend(open.close());
        }
        if first <= last {
            open.add(whole.piece.stream, (first, last), end - from);
        }
        before = end;
    }
    partitions.extend(open.close());
    partitions
}

/// A partition to which pieces are added.
#[derive(Default)]
struct Open {
    pieces: Vec<Piece>,
    entries: f64,
}

impl Open {
    fn add(&mut self, stream: usize, range: (EntryId, EntryId), entries: f64) {
        self.pieces.push(Piece { stream, range });
        self.entries += entries;
    }

    fn close(&mut self) -> Option<Partition> {
        let Open { pieces, entries } = std::mem::take(self);
        // A number of entries is far within 64 bits.
        (!pieces.is_empty()).then(|| Partition { pieces, entries: entries.round() as u64 })
    }
}
