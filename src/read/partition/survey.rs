//! How the entries between two IDs are spread, by a sample of them: without IO.
//!
//! Redis has no index by rank. A page of XRANGE around an ID tells exactly which entries are there; what
//! lies in the gaps between pages is estimated by how dense the pages beside them are, and the widest of
//! the guesses is looked into next. Where the number of entries in all is known, and the estimates do
//! not come to it, the sample has missed something, and all entries are counted instead.

use super::super::pages::From;
use crate::entry_id::EntryId;

/// A page to ask for: which of a range, from which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) from: From,
    pub(super) first: EntryId,
    pub(super) last: EntryId,
    pub(super) count: u64,
}

/// What is known of a part of the range. Parts follow each other without overlap.
#[derive(Debug, Clone)]
enum Span {
    /// All entries of the part.
    Known(Vec<EntryId>),
    /// The part between these IDs, both inclusive, whose entries are not known.
    Gap(u128, u128),
}

/// What is asked about a gap in this round.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// Both ends of the whole range.
    Ends,
    /// The entries on both sides of an ID, which is the first of the right side; the gap's place.
    Around(usize, u128),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask for these pages, and then [`Survey::observe`] what they hold.
    Probe(Vec<Probe>),
    /// Count all entries.
    Count,
    Done,
}

/// The sample of one range.
#[derive(Debug)]
pub(super) struct Survey {
    first: EntryId,
    last: EntryId,
    /// The number of entries, where it is known; and the most that there can be.
    total: Option<u64>,
    most: u64,
    /// In how many pieces the range is to be cut.
    pieces: u64,
    spans: Vec<Span>,
    asked: Vec<Asked>,
    /// The gaps that were looked into.
    looks: u64,
    per_page: u64,
}

impl Survey {
    /// Streams of no more entries than this are counted at once: that takes a few milliseconds.
    const SMALL: u64 = 10_000;
    /// Streams of more entries than this are not counted, but for what the sample says.
    pub(super) const MOST_COUNTED: u64 = 1_000_000;
    /// A gap is looked into until its entries are that part of a piece.
    const FINENESS: u64 = 16;
    /// The gaps that are looked into at most, for each piece.
    const LOOKS: u64 = 32;
    /// The gaps that are looked into in one round trip.
    const AT_ONCE: usize = 16;
    /// The sample's share of the entries is one of this; and the most that it may become.
    const SHARE: u64 = 50;
    const MOST_SHARE: u64 = 4;
    /// Pages become so many times as large where they are found to say too little.
    const GROWTH: u64 = 8;

    /// Of a range that has `total` entries, or `most` at most where that is not known.
    pub(super) fn new(
        (first, last): (EntryId, EntryId),
        total: Option<u64>,
        most: u64,
        pieces: usize,
    ) -> Self {
        let pieces = (pieces as u64).max(1);
        let per_page = most / Self::SHARE / (Self::LOOKS.saturating_mul(pieces)) / 2;
        let spans = vec![Span::Gap(number(first), number(last))];
        let per_page = per_page.clamp(16, 1_000);
        Survey { first, last, total, most, pieces, spans, asked: Vec::new(), looks: 0, per_page }
    }

    /// What to do next, where no page should have more than `page` entries.
    pub(super) fn next(&mut self, page: u64) -> Next {
        if self.total.is_some_and(|total| total <= Self::SMALL) || self.most_looks() == 0 {
            return Next::Count;
        }
        let count = self.per_page.min(page).max(2);
        if self.looks == 0 {
            self.asked = vec![Asked::Ends];
        } else {
            self.choose();
        }
        let mut probes = Vec::with_capacity(self.asked.len() * 2);
        for asked in &self.asked {
            let (left, right) = match *asked {
                Asked::Ends => ((self.first, self.last), (self.first, self.last)),
                Asked::Around(at, middle) => match self.spans.get(at) {
                    Some(Span::Gap(from, to)) => {
                        ((id(*from), id(middle - 1)), (id(middle), id(*to)))
                    }
                    _ => continue,
                },
            };
            let probe = |from, (first, last)| Probe { from, first, last, count };
            probes.push(probe(From::Newest, left));
            probes.push(probe(From::Oldest, right));
        }
        self.looks += self.asked.len() as u64;
        match probes.is_empty() {
            true if self.misses_something() => {
                // Runs of entries may be longer than pages.
                let (first, last) = (number(self.first), number(self.last));
                self.spans = vec![Span::Gap(first, last)];
                self.per_page = self.per_page.saturating_mul(Self::GROWTH);
                self.looks = 0;
                self.next(page)
            }
            true => Next::Done,
            false => Next::Probe(probes),
        }
    }

    /// How many gaps may be looked into; none where to count all entries costs little more.
    fn most_looks(&self) -> u64 {
        let most = Self::LOOKS.saturating_mul(self.pieces);
        let Some(total) = self.total.filter(|total| *total <= Self::MOST_COUNTED) else {
            return most;
        };
        let fitting = total / Self::MOST_SHARE / self.per_page / 2;
        match fitting < Self::LOOKS.saturating_mul(self.pieces) / Self::GROWTH {
            true => 0,
            false => most.min(fitting),
        }
    }

    /// Takes what the probes have found, each in the order of its reply.
    pub(super) fn observe(&mut self, found: Vec<Vec<EntryId>>, page: u64) {
        let count = usize::try_from(self.per_page.min(page).max(2)).unwrap_or(usize::MAX);
        let mut found = found.into_iter();
        let asked = std::mem::take(&mut self.asked);
        // From the last on, so that places stay what they are.
        let mut answers: Vec<_> = asked
            .into_iter()
            .map(|asked| {
                let mut before = found.next().unwrap_or_default();
                before.reverse();
                (asked, before, found.next().unwrap_or_default())
            })
            .collect();
        answers.sort_unstable_by_key(|(asked, ..)| match asked {
            Asked::Ends => 0,
            Asked::Around(at, _) => usize::MAX - at,
        });
        for (asked, before, after) in answers {
            match asked {
                Asked::Ends => self.spans = self.ends(before, after, count),
                Asked::Around(at, _) => self.fill(at, before, after, count),
            }
        }
    }

    /// The newest entries of the range and the oldest.
    fn ends(&self, newest: Vec<EntryId>, oldest: Vec<EntryId>, count: usize) -> Vec<Span> {
        let gap = oldest.last().zip(newest.first());
        match gap.map(|(oldest, newest)| (number(*oldest), number(*newest))) {
            Some((before, after)) if oldest.len() >= count && before < after => {
                let mut spans = vec![Span::Known(oldest)];
                if before + 1 < after {
                    spans.push(Span::Gap(before + 1, after - 1));
                }
                spans.push(Span::Known(newest));
                spans
            }
            _ => {
                let mut all = oldest;
                all.extend(newest);
                all.sort_unstable();
                all.dedup();
                vec![Span::Known(all)]
            }
        }
    }

    /// Puts the entries on both sides of its middle in the place of a gap.
    fn fill(&mut self, at: usize, before: Vec<EntryId>, after: Vec<EntryId>, count: usize) {
        let Some(Span::Gap(from, to)) = self.spans.get(at) else { return };
        let (from, to) = (*from, *to);
        // Where a page is not full, nothing else is between the middle and the gap's end.
        let left = before.first().filter(|_| before.len() >= count).map(|id| number(*id));
        let right = after.last().filter(|_| after.len() >= count).map(|id| number(*id));
        let mut known = before;
        known.extend(after);
        let mut new = Vec::with_capacity(3);
        new.extend(left.filter(|left| from < *left).map(|left| Span::Gap(from, left - 1)));
        new.push(Span::Known(known));
        new.extend(right.filter(|right| *right < to).map(|right| Span::Gap(right + 1, to)));
        self.spans.splice(at..=at, new);
    }

    /// Chooses the gaps that may hold the most entries.
    fn choose(&mut self) {
        let weights = self.weights();
        let whole: f64 =
            self.known() as f64 + weights.iter().map(|(_, weight)| weight).sum::<f64>();
        let least = whole / (self.pieces * Self::FINENESS) as f64;
        let mut gaps: Vec<(usize, f64)> =
            weights.into_iter().filter(|(_, weight)| *weight > least).collect();
        gaps.sort_unstable_by(|one, other| other.1.total_cmp(&one.1));
        let left =
            usize::try_from(self.most_looks().saturating_sub(self.looks)).unwrap_or(usize::MAX);
        gaps.truncate(Self::AT_ONCE.min(left));
        let around = |(at, _): (usize, f64)| match self.spans.get(at) {
            Some(Span::Gap(from, to)) if from < to => {
                Some(Asked::Around(at, from + (to - from).div_ceil(2)))
            }
            _ => None,
        };
        self.asked = gaps.into_iter().filter_map(around).collect();
    }

    /// How many entries are known.
    fn known(&self) -> u64 {
        let known = |span: &Span| match span {
            Span::Known(ids) => ids.len() as u64,
            Span::Gap(..) => 0,
        };
        self.spans.iter().map(known).sum()
    }

    /// What the gaps are guessed to hold, with their places, by the sparser of the pages beside each: a
    /// page within a burst says nothing of what is beyond it.
    fn guesses(&self) -> Vec<(usize, f64)> {
        let density = |at: Option<usize>| match self.spans.get(at?) {
            Some(Span::Known(ids)) => density(ids),
            _ => None,
        };
        let rest = self.most.saturating_sub(self.known()) as f64;
        let gaps = self.spans.iter().enumerate().filter_map(|(at, span)| match span {
            Span::Gap(from, to) => Some((at, (to - from) as f64 + 1.0)),
            Span::Known(_) => None,
        });
        gaps.map(|(at, width)| {
            let beside = [density(at.checked_sub(1)), density(Some(at + 1))];
            let sparser = beside.into_iter().flatten().min_by(f64::total_cmp);
            (at, (width * sparser.unwrap_or(PER_MILLISECOND)).min(width).min(rest))
        })
        .collect()
    }

    /// The same, such that they come to the number of entries where that is known.
    fn weights(&self) -> Vec<(usize, f64)> {
        let mut guesses = self.guesses();
        let sum: f64 = guesses.iter().map(|(_, guess)| guess).sum();
        let known = self.known();
        let rest = match self.total {
            Some(total) => total.saturating_sub(known) as f64,
            None => sum.min(self.most.saturating_sub(known) as f64),
        };
        if sum > 0.0 {
            guesses.iter_mut().for_each(|(_, guess)| *guess *= rest / sum);
        }
        guesses
    }

    /// Whether the guesses are so far from the number of entries that a piece may be much larger than
    /// the others, and counting is worth it.
    fn misses_something(&self) -> bool {
        let Some(total) = self.total.filter(|total| *total <= Self::MOST_COUNTED) else {
            return false;
        };
        let guessed: f64 = self.guesses().iter().map(|(_, guess)| guess).sum();
        let missed = total.saturating_sub(self.known()) as f64 - guessed;
        missed.abs() > total as f64 / (2 * self.pieces) as f64
    }

    /// What the sample has found.
    pub(super) fn profile(&self) -> Profile {
        let mut weights = self.weights().into_iter();
        let mut profile = Profile::from(self.first);
        for span in &self.spans {
            match span {
                Span::Known(ids) => ids.iter().for_each(|id| profile.push(*id, 1.0)),
                Span::Gap(_, to) => {
                    profile.push(id(*to), weights.next().map_or(0.0, |(_, weight)| weight));
                }
            }
        }
        profile
    }
}

/// One entry in a millisecond.
const PER_MILLISECOND: f64 = 1.0 / (1_u128 << 64) as f64;

/// How many entries there are for each possible ID.
fn density(ids: &[EntryId]) -> Option<f64> {
    match ids {
        [first, .., last] => {
            Some(ids.len() as f64 / (number(*last).saturating_sub(number(*first)) as f64 + 1.0))
        }
        _ => None,
    }
}

/// An ID as a number, so that there are some between two.
fn number(id: EntryId) -> u128 {
    u128::from(id.ms) << 64 | u128::from(id.seq)
}

fn id(number: u128) -> EntryId {
    let (ms, seq) = (number >> 64, number & u128::from(u64::MAX));
    EntryId {
        ms: u64::try_from(ms).unwrap_or(u64::MAX),
        seq: u64::try_from(seq).unwrap_or(u64::MAX),
    }
}

/// Which part of a range's entries is up to which ID.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    first: EntryId,
    /// IDs, and how many entries are up to each.
    marks: Vec<(EntryId, f64)>,
}

impl Profile {
    /// Of no entries, which are to be pushed, from this ID on.
    pub(super) fn from(first: EntryId) -> Self {
        Profile { first, marks: Vec::new() }
    }

    /// There are so many entries up to this ID, after those that were pushed before.
    pub(super) fn push(&mut self, id: EntryId, entries: f64) {
        let before = self.total();
        self.marks.push((id, before + entries));
    }

    /// The number of entries.
    pub(super) fn total(&self) -> f64 {
        self.marks.last().map_or(0.0, |(_, total)| *total)
    }

    /// The ID up to which there are so many entries.
    pub(super) fn cut(&self, entries: f64) -> EntryId {
        let at = self.marks.partition_point(|(_, up_to)| *up_to < entries);
        let (before, start) = match at.checked_sub(1).and_then(|at| self.marks.get(at)) {
            Some((before, start)) => (*before, *start),
            None => (self.first, 0.0),
        };
        let Some((last, end)) = self.marks.get(at) else { return before };
        if end - start <= 1.0 {
            return *last;
        }
        let width = number(*last).saturating_sub(number(before));
        let share = ((entries - start) / (end - start)).clamp(0.0, 1.0);
        // As a float of 53 bits it may be off, but not beyond.
        id(number(before) + ((width as f64 * share) as u128).min(width))
    }
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
