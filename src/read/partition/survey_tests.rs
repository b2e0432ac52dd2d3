use proptest::prelude::*;

use super::super::plan::{Partition, Piece, Whole, partitions};
use super::*;

/// A stream, and how often it was asked.
struct Stream {
    ids: Vec<EntryId>,
    sent: usize,
    counted: bool,
}

impl Stream {
    fn of(mut ids: Vec<EntryId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Stream { ids, sent: 0, counted: false }
    }

    fn range(&self, first: EntryId, last: EntryId) -> &[EntryId] {
        let from = self.ids.partition_point(|id| *id < first);
        let to = self.ids.partition_point(|id| *id <= last);
        self.ids.get(from..to.max(from)).unwrap_or_default()
    }

    fn answer(&mut self, probe: &Probe) -> Vec<EntryId> {
        let range = self.range(probe.first, probe.last).iter();
        let count = usize::try_from(probe.count).unwrap_or(usize::MAX);
        let page: Vec<EntryId> = match probe.from {
            From::Oldest => range.take(count).copied().collect(),
            From::Newest => range.rev().take(count).copied().collect(),
        };
        self.sent += page.len();
        page
    }

    fn profile(&mut self, mut survey: Survey, page: u64) -> Profile {
        let (first, last) = (survey.first, survey.last);
        loop {
            match survey.next(page) {
                Next::Probe(probes) => {
                    let found = probes.iter().map(|probe| self.answer(probe)).collect();
                    survey.observe(found, page);
                }
                Next::Count => {
                    self.counted = true;
                    let mut profile = Profile::from(first);
                    self.range(first, last).iter().for_each(|id| profile.push(*id, 1.0));
                    return profile;
                }
                Next::Done => return survey.profile(),
            }
        }
    }

    fn split(&mut self, number: usize, total: Option<u64>, page: u64) -> Vec<Partition> {
        let first = EntryId::MIN;
        let Some(last) = self.ids.last().copied() else { return Vec::new() };
        let most = self.ids.len() as u64;
        let survey = Survey::new((first, last), total, most, number);
        let profile = self.profile(survey, page);
        let piece = Piece { stream: 0, range: (first, last) };
        let whole = Whole { piece, entries: profile.total(), profile: Some(profile) };
        partitions(&[whole], number)
    }

    /// How many entries each partition has, which must be all, in order.
    fn sizes(&self, partitions: &[Partition]) -> Vec<usize> {
        let pieces: Vec<_> = partitions.iter().flat_map(|one| &one.pieces).collect();
        for pair in pieces.windows(2) {
            if let [one, other] = pair {
                assert_eq!(one.range.1.successor(), Some(other.range.0), "{partitions:?}");
            }
        }
        assert_eq!(pieces.first().map(|piece| piece.range.0), Some(EntryId::MIN));
        assert_eq!(pieces.last().map(|piece| piece.range.1), self.ids.last().copied());
        let of = |piece: &&Piece| self.range(piece.range.0, piece.range.1).len();
        pieces.iter().map(of).collect()
    }
}

/// Runs of entries: pauses of all lengths, then as many in a millisecond, or one in each.
fn ids() -> impl Strategy<Value = Vec<EntryId>> {
    let run = (0..40_u32, 1..400_u64, any::<bool>(), 1..4_u64);
    proptest::collection::vec(run, 1..60).prop_map(|runs| {
        let (mut ms, mut all) = (1_700_000_000_000_u64, Vec::new());
        for (pause, number, is_burst, step) in runs {
            ms += 1 << pause;
            for at in 0..number {
                match is_burst {
                    true => all.push(EntryId::new(ms, at * step)),
                    false => all.push(EntryId::new(ms + at * step, 0)),
                }
            }
            ms += if is_burst { 1 } else { number * step };
        }
        all
    })
}

/// The largest partition may be as many times as large as it would be if all were the same.
fn assert_balanced(sizes: &[usize], number: usize, times: f64) {
    let total: usize = sizes.iter().sum();
    let most = sizes.iter().copied().max().unwrap_or_default();
    let fair = (total as f64 / number as f64).max(1.0);
    assert!(most as f64 <= fair * times + 1.0, "{most} of {total} in {number}: {sizes:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn partitions_are_disjoint_complete_and_balanced(ids in ids(), number in 1..12_usize) {
        let mut stream = Stream::of(ids);
        let total = stream.ids.len() as u64;
        let partitions = stream.split(number, Some(total), 1_000);
        prop_assert!(partitions.len() <= number);
        assert_balanced(&stream.sizes(&partitions), number, 1.1);
    }

    #[test]
    fn of_a_part_of_a_stream_as_well(ids in ids(), number in 1..12_usize, page in 1..1_000_u64) {
        let mut stream = Stream::of(ids);
        let partitions = stream.split(number, None, page);
        prop_assert!(partitions.len() <= number);
        stream.sizes(&partitions);
    }
}

/// A stream that is too large to be counted at once.
fn assert_sampled(ids: Vec<EntryId>, times: f64) {
    let mut stream = Stream::of(ids);
    let total = stream.ids.len();
    for number in [2, 4, 8] {
        for known in [Some(total as u64), None] {
            (stream.sent, stream.counted) = (0, false);
            let partitions = stream.split(number, known, 1_000);
            let sizes = stream.sizes(&partitions);
            assert_balanced(&sizes, number, times);
            assert!(!stream.counted, "{number} of {total}, {known:?}");
            assert!(stream.sent < total / 3, "{} of {total}", stream.sent);
        }
    }
}

fn at(ms: u64, seq: u64) -> EntryId {
    EntryId::new(1_700_000_000_000 + ms, seq)
}

#[test]
fn an_even_stream_needs_a_sample() {
    assert_sampled((0..400_000).map(|entry| at(entry * 10, 0)).collect(), 1.1);
    // Several in each millisecond.
    assert_sampled((0..400_000).map(|entry| at(entry / 50, entry % 50)).collect(), 1.2);
    // All in one.
    assert_sampled((0..400_000).map(|entry| at(0, entry)).collect(), 1.1);
}

#[test]
fn pipelined_writes_need_a_sample() {
    // A hundred entries at a time, once a second.
    assert_sampled((0..400_000).map(|entry| at(entry / 100 * 1_000, entry % 100)).collect(), 1.2);
}

#[test]
fn days_and_nights_need_a_sample() {
    let mut ms = 0;
    let ids = (0..400_000_u64).map(|entry| {
        ms += if entry / 50_000 % 2 == 0 { 1 } else { 300 };
        at(ms, 0)
    });
    assert_sampled(ids.collect(), 1.6);
}

#[test]
fn what_a_sample_misses_is_counted() {
    // A burst in one millisecond in the middle of a year.
    let sparse = (0..100_000).map(|entry| at(entry * 315_360, 0));
    let burst = (0..300_000).map(|entry| at(12_345_678_901, entry));
    let mut stream = Stream::of(sparse.chain(burst).collect());
    let partitions = stream.split(8, Some(400_000), 1_000);
    assert_balanced(&stream.sizes(&partitions), 8, 1.2);
    assert!(stream.counted);
}

#[test]
fn several_streams_are_laid_one_after_the_other() {
    let whole = |stream, entries: usize| {
        let ids: Vec<EntryId> = (1..=entries as u64).map(|ms| EntryId::new(ms, 0)).collect();
        let mut profile = Profile::from(EntryId::MIN);
        ids.iter().for_each(|id| profile.push(*id, 1.0));
        let range = (EntryId::MIN, ids.last().copied().unwrap_or_default());
        Whole { piece: Piece { stream, range }, entries: entries as f64, profile: Some(profile) }
    };
    let all = [whole(0, 10), whole(1, 10), whole(2, 60), whole(3, 1), whole(4, 19)];
    let planned = partitions(&all, 4);
    let entries: Vec<u64> = planned.iter().map(|one| one.entries).collect();
    assert_eq!(entries, [25, 25, 25, 25]);
    let streams: Vec<Vec<usize>> =
        planned.iter().map(|one| one.pieces.iter().map(|piece| piece.stream).collect()).collect();
    assert_eq!(streams, [vec![0, 1, 2], vec![2], vec![2], vec![2, 3, 4]]);
    assert_eq!(super::super::plan::cut_ones(&all, 4), [2]);
    // No stream is cut where there are as many as partitions, of the same size.
    let all = [whole(0, 5), whole(1, 5), whole(2, 5)];
    assert_eq!(super::super::plan::cut_ones(&all, 3), Vec::<usize>::new());
    assert_eq!(partitions(&all, 3).len(), 3);
    // More partitions than entries.
    assert_eq!(partitions(&[whole(0, 2)], 10).len(), 2);
    assert_eq!(partitions(&[], 10), []);
}
