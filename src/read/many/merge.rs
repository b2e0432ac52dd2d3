//! Rows of several streams in the order of their IDs, a few of each at a time: without IO.
//!
//! What is buffered of a stream is the beginning of what it has left. So the least ID of all that is
//! buffered comes next, as long as no stream that has more has run dry.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::ops::Range;

use super::parts::Part;
use crate::decode::{Run, ends};
use crate::entry_id::EntryId;

/// A row of a page.
pub(super) type Row = (usize, usize);

#[derive(Debug)]
pub(super) struct Merge {
    /// By their places in the list.
    streams: Vec<Stream>,
    /// The next ID of each stream that has one.
    heads: BinaryHeap<Reverse<(EntryId, usize)>>,
    pages: BTreeMap<usize, Page>,
    next_page: usize,
    /// How many streams have more, and nothing buffered.
    dry: usize,
    /// The rows that are buffered.
    buffered: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// What has not been asked for.
    rest: Option<Part>,
    segments: VecDeque<(usize, Range<usize>)>,
    buffered: u64,
    /// How many entries to ask for: more of a stream that others wait for.
    page: u64,
    /// What has come since it was asked, and the last ID of it.
    came: u64,
    last: Option<EntryId>,
    /// The last ID that is buffered.
    end: EntryId,
}

/// Rows that came together.
#[derive(Debug)]
struct Page {
    ids: Vec<EntryId>,
    /// How many have not been taken.
    left: usize,
}

impl Merge {
    /// So many streams are asked together, if not so many have run dry: those that will next.
    const AHEAD: usize = 64;
    /// So many entries are asked of a stream that has run dry, however full it is: with one of each, all would
    /// run dry one after the other.
    const FEW: u64 = 2;

    /// Of `streams` streams, of which these parts are to be read.
    pub(super) fn new(streams: usize, parts: Vec<Part>) -> Self {
        let mut merge = Merge {
            streams: (0..streams).map(|_| Stream::default()).collect(),
            heads: BinaryHeap::new(),
            pages: BTreeMap::new(),
            next_page: 0,
            dry: 0,
            buffered: 0,
        };
        for part in parts {
            if let Some(stream) = merge.streams.get_mut(part.stream) {
                stream.rest = Some(part);
                merge.dry += 1;
            }
        }
        merge
    }

    /// Whether nothing can be taken before more has come.
    pub(super) fn is_dry(&self) -> bool {
        self.dry > 0
    }

    /// What to ask for, where about `budget` rows may be buffered, and a few of each stream at least: of
    /// the streams that have run dry, and of those that soon will. One that others wait for, because it has
    /// most of the entries, gets a large part of the room.
    pub(super) fn refill(&mut self, budget: u64) -> Vec<Part> {
        let active = self.streams.iter().filter(|stream| stream.rest.is_some()).count() as u64;
        let fair = (budget / 2).checked_div(active).unwrap_or_default().max(Self::FEW);
        let room = budget.saturating_sub(self.buffered);
        let is_low = |stream: &Stream| stream.buffered * 2 <= stream.page.max(fair);
        let asked = |(index, stream): (usize, &Stream)| {
            (stream.rest.is_some() && is_low(stream)).then_some(index)
        };
        let mut wanting: Vec<usize> = self.streams.iter().enumerate().filter_map(asked).collect();
        if room < fair.saturating_mul(wanting.len() as u64) {
            // What is buffered of others waits for those that have run dry, and for nothing else.
            let is_dry = |index: &usize| self.streams.get(*index).is_some_and(|s| s.buffered == 0);
            wanting.retain(is_dry);
        }
        let share = (room / 4).checked_div(wanting.len() as u64).unwrap_or_default();
        for index in &wanting {
            let Some(stream) = self.streams.get_mut(*index) else { continue };
            let grown = match stream.buffered {
                0 => stream.page.saturating_mul(2).max(share),
                _ => stream.page,
            };
            stream.page = grown.min(budget).max(fair);
        }
        if wanting.len() < Self::AHEAD && self.buffered < budget / 4 * 3 {
            let enough = (room / 4 / Self::AHEAD as u64).max(fair);
            let next = self.next_to_run_dry(Self::AHEAD - wanting.len());
            for index in next {
                if let Some(stream) = self.streams.get_mut(index) {
                    stream.page = stream.page.max(enough);
                    wanting.push(index);
                }
            }
            wanting.sort_unstable();
            wanting.dedup();
        }
        let most = room.checked_div(wanting.len() as u64).unwrap_or_default().max(Self::FEW);
        let part = |index: usize| {
            let stream = self.streams.get(index)?;
            let rest = stream.rest?;
            Some(Part { most: rest.most.min(stream.page).min(most), ..rest })
        };
        wanting.into_iter().filter_map(part).collect()
    }

    /// The streams whose last row that is buffered is to come first: which these are is known, whatever
    /// they have after it.
    fn next_to_run_dry(&self, number: usize) -> Vec<usize> {
        let streams = self.streams.iter().enumerate();
        let has_more = streams.filter(|(_, stream)| stream.rest.is_some() && stream.buffered > 0);
        let mut next: Vec<_> = has_more.map(|(index, stream)| (stream.end, index)).collect();
        if next.len() > number {
            next.select_nth_unstable(number);
            next.truncate(number);
        }
        next.into_iter().map(|(_, index)| index).collect()
    }

    /// A page of rows has come, of the streams that its runs tell; gives its number.
    pub(super) fn add(&mut self, ids: &[EntryId], runs: &[Run]) -> usize {
        let number = self.next_page;
        self.next_page += 1;
        for (run, end) in ends(runs, ids.len()) {
            let (Some(stream), Some(first), Some(last)) =
                (self.streams.get_mut(run.stream), ids.get(run.row), ids.get(end - 1))
            else {
                continue;
            };
            let rows = (end - run.row) as u64;
            if stream.buffered == 0 {
                self.heads.push(Reverse((*first, run.stream)));
                self.dry = self.dry.saturating_sub(1);
            }
            stream.segments.push_back((number, run.row..end));
            stream.buffered += rows;
            stream.came += rows;
            stream.last = Some(*last);
            stream.end = *last;
            self.buffered += rows;
        }
        self.pages.insert(number, Page { ids: ids.to_vec(), left: ids.len() });
        number
    }

    /// All that was asked for has come: of a stream that gave less there is no more.
    pub(super) fn settle(&mut self, asked: &[Part]) {
        for part in asked {
            let Some(stream) = self.streams.get_mut(part.stream) else { continue };
            let (came, last) = (std::mem::take(&mut stream.came), stream.last.take());
            let next = last.and_then(EntryId::successor).filter(|_| came >= part.most);
            stream.rest = stream.rest.zip(next).and_then(|(rest, first)| {
                let rest = Part { first, most: rest.most.saturating_sub(came), ..rest };
                (rest.most > 0 && rest.first <= rest.last).then_some(rest)
            });
            // It counts as dry, whether or not what has come was taken meanwhile.
            if stream.rest.is_none() && stream.buffered == 0 {
                self.dry = self.dry.saturating_sub(1);
            }
        }
    }

    /// Takes the next row, if it is known which one that is; gives its ID and stream as well.
    pub(super) fn pop(&mut self) -> Option<(Row, EntryId, usize)> {
        if self.dry > 0 {
            return None;
        }
        let mut head = self.heads.peek_mut()?;
        let Reverse((id, index)) = *head;
        let stream = self.streams.get_mut(index)?;
        let (number, rows) = stream.segments.front_mut()?;
        let (number, row) = (*number, rows.start);
        rows.start += 1;
        if rows.start >= rows.end {
            stream.segments.pop_front();
        }
        stream.buffered -= 1;
        self.buffered -= 1;
        let next = stream
            .segments
            .front()
            .and_then(|(number, rows)| self.pages.get(number)?.ids.get(rows.start).copied());
        match next {
            Some(next) => *head = Reverse((next, index)),
            None => {
                PeekMut::pop(head);
                self.dry += usize::from(stream.rest.is_some());
            }
        }
        if let Some(page) = self.pages.get_mut(&number) {
            page.left -= 1;
        }
        Some(((number, row), id, index))
    }

    /// Forgets the pages that have no rows left, and gives their numbers.
    pub(super) fn take_empty(&mut self) -> Vec<usize> {
        let is_empty = |(number, page): (&usize, &Page)| (page.left == 0).then_some(*number);
        let empty: Vec<usize> = self.pages.iter().filter_map(is_empty).collect();
        self.pages.retain(|_, page| page.left > 0);
        empty
    }

    /// The rows of all pages, of which many may have been taken, and those that are buffered.
    pub(super) fn held(&self) -> (u64, u64) {
        (self.pages.values().map(|page| page.ids.len() as u64).sum(), self.buffered)
    }

    /// Puts all that is buffered into one page: gives its number, and its rows.
    pub(super) fn compact(&mut self) -> (usize, Vec<Row>) {
        let (number, mut rows, mut ids) = (self.next_page, Vec::new(), Vec::new());
        self.next_page += 1;
        for stream in &mut self.streams {
            let start = rows.len();
            for (page, segment) in std::mem::take(&mut stream.segments) {
                let known = self.pages.get(&page).and_then(|page| page.ids.get(segment.clone()));
                ids.extend_from_slice(known.unwrap_or_default());
                rows.extend(segment.map(|row| (page, row)));
            }
            if start < rows.len() {
                stream.segments.push_back((number, start..rows.len()));
            }
        }
        self.pages = BTreeMap::from([(number, Page { left: ids.len(), ids })]);
        (number, rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a sort of all rows; with no more rows buffered than the budget, or one of each stream.
        #[test]
        fn rows_come_sorted_in_bounded_memory(
            streams in prop::collection::vec(prop::collection::btree_set(0u64..60, 0..40), 0..8),
            most in prop::collection::vec(1u64..50, 8),
            budget in 1u64..40,
            compacts in prop::collection::vec(any::<bool>(), 1..7),
        ) {
            let mut expected: Vec<(u64, usize)> = Vec::new();
            for (stream, ids) in streams.iter().enumerate() {
                let ids = ids.iter().take(most[stream] as usize);
                expected.extend(ids.map(|ms| (*ms, stream)));
            }
            expected.sort_unstable();
            let parts: Vec<Part> = (0..streams.len()).map(|stream| Part {
                most: most[stream],
                ..Part::of(stream, (EntryId::MIN, EntryId::MAX))
            }).collect();
            let mut merge = Merge::new(streams.len(), parts);
            let mut pages: BTreeMap<usize, Vec<(u64, usize)>> = BTreeMap::new();
            let (mut got, mut refills) = (Vec::new(), 0);
            let mut compacts = compacts.iter().cycle();
            loop {
                while let Some(((page, row), id, _)) = merge.pop() {
                    prop_assert_eq!(pages[&page][row].0, id.ms);
                    got.push(pages[&page][row]);
                }
                for page in merge.take_empty() {
                    pages.remove(&page);
                }
                if *compacts.next().unwrap() {
                    let (number, rows) = merge.compact();
                    let page = rows.iter().map(|(page, row)| pages[page][*row]).collect();
                    pages = BTreeMap::from([(number, page)]);
                }
                if !merge.is_dry() {
                    break;
                }
                let asked = merge.refill(budget);
                refills += 1;
                prop_assert!(!asked.is_empty() && refills < 1_000);
                // A reply for each, in two pages.
                let mut rows: Vec<(u64, usize)> = Vec::new();
                for part in &asked {
                    let from = if part.first.seq > 0 { part.first.ms + 1 } else { part.first.ms };
                    let ids = streams[part.stream].range(from..).take(part.most as usize);
                    rows.extend(ids.map(|ms| (*ms, part.stream)));
                }
                let half = rows.len() / 2;
                for rows in [&rows[..half], &rows[half..]] {
                    let ids: Vec<_> = rows.iter().map(|(ms, _)| EntryId { ms: *ms, seq: 0 }).collect();
                    let mut runs: Vec<Run> = Vec::new();
                    for (row, (_, stream)) in rows.iter().enumerate() {
                        runs.push(Run { row, stream: *stream });
                    }
                    let number = merge.add(&ids, &runs);
                    pages.insert(number, rows.to_vec());
                    // What has come is taken, also where the rest is lost and asked for again.
                    if *compacts.next().unwrap() {
                        while let Some(((page, row), ..)) = merge.pop() {
                            got.push(pages[&page][row]);
                        }
                    }
                }
                merge.settle(&asked);
                prop_assert!(merge.held().1 <= budget + 4 * streams.len() as u64);
            }
            prop_assert_eq!(got, expected);
        }

        /// One stream that has most of the entries does not take a round trip for each.
        #[test]
        fn a_hot_stream_takes_few_round_trips(quiet in 1u64..2_000) {
            // The second entry of each quiet stream comes after all of the hot one.
            let id = |stream: usize, number: u64| match (stream, number) {
                (0, _) => number,
                (_, 0) => 0,
                _ => 1_000_000,
            };
            let mut lengths = vec![2; quiet as usize + 1];
            lengths[0] = 10_000;
            let refills = refills(&lengths, 8_000, id);
            prop_assert!(refills < 60, "{}", refills);
        }
    }

    /// In how many round trips streams are merged that have so many entries, of these IDs.
    fn refills(lengths: &[u64], budget: u64, id: impl Fn(usize, u64) -> u64) -> usize {
        let part = |(stream, most): (usize, &u64)| Part {
            most: *most,
            ..Part::of(stream, (EntryId::MIN, EntryId::MAX))
        };
        let parts: Vec<Part> = lengths.iter().enumerate().map(part).collect();
        let mut come = vec![0; lengths.len()];
        let mut merge = Merge::new(lengths.len(), parts);
        let (mut rows, mut refills, mut latest) = (0, 0, EntryId::MIN);
        loop {
            while let Some((_, id, _)) = merge.pop() {
                assert!(id >= latest);
                (latest, rows) = (id, rows + 1);
            }
            if !merge.is_dry() {
                assert_eq!(rows, lengths.iter().sum::<u64>());
                return refills;
            }
            refills += 1;
            let asked = merge.refill(budget);
            for part in &asked {
                let first = come[part.stream];
                come[part.stream] += part.most;
                let ids = first..come[part.stream];
                let ids: Vec<_> =
                    ids.map(|number| EntryId { ms: id(part.stream, number), seq: 0 }).collect();
                merge.add(&ids, &[Run { row: 0, stream: part.stream }]);
            }
            merge.settle(&asked);
            assert!(merge.held().1 <= budget + 4 * lengths.len() as u64);
        }
    }

    #[test]
    fn streams_of_one_time_each_and_of_the_same_time_take_few_round_trips() {
        let lengths = vec![100; 2_000];
        let one_after_the_other = refills(&lengths, 16_000, |stream, n| stream as u64 * 100 + n);
        assert!(one_after_the_other < 400, "{one_after_the_other}");
        let backwards = refills(&lengths, 16_000, |stream, n| (2_000 - stream as u64) * 100 + n);
        assert!(backwards < 400, "{backwards}");
        let all_at_once = refills(&lengths, 16_000, |_, n| n);
        assert!(all_at_once < 60, "{all_at_once}");
    }
}
