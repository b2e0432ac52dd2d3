use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<EntryId> {
    numbers.into_iter().map(|number| EntryId::new(number, 0)).collect()
}

fn leases() -> Leases {
    Leases::new(LeaseTerms { min_idle: ms(300), most: Some(ms(1_000)) })
}

#[test]
fn entries_are_kept_until_they_have_been_in_hand_for_so_long() {
    let start = Instant::now();
    let mut leases = leases();
    assert_eq!(leases.next(start), Keep::At(start + ms(100)));
    assert!(!leases.handed_out(&ids(1..=2), start, start));
    let mut kept = Vec::new();
    for at in (0..3_000).step_by(10) {
        let now = start + ms(at);
        if let Keep::Now { lease, ids: due } = leases.next(now) {
            assert_eq!(due, ids(1..=2));
            leases.kept(lease, &[], now);
            kept.push(at);
        }
    }
    // Others may claim them at 1,000.
    assert_eq!(kept, [100, 200, 300, 400, 500, 600, 700]);
}

#[test]
fn what_was_delivered_long_ago_is_kept_at_once() {
    let start = Instant::now();
    let now = start + ms(250);
    let mut leases = leases();
    assert_eq!(leases.next(now), Keep::At(now + ms(100)));
    assert!(leases.handed_out(&ids([1]), start, now));
    assert!(matches!(leases.next(now), Keep::Now { .. }));
}

#[test]
fn what_is_done_with_is_kept_no_more() {
    let start = Instant::now();
    let mut leases = leases();
    let _ = leases.handed_out(&ids(1..=250), start, start);
    leases.done(&ids((1..=250).filter(|number| number % 10 != 0)));
    let mut kept = Vec::new();
    while let Keep::Now { lease, ids } = leases.next(start + ms(100)) {
        kept.extend(ids);
        leases.kept(lease, &[], start + ms(100));
    }
    assert_eq!(kept, ids((10..=250).step_by(10)));
    leases.all_done();
    assert_eq!(leases.next(start + ms(500)), Keep::At(start + ms(600)));
}

#[test]
fn what_another_has_claimed_is_kept_no_more() {
    let start = Instant::now();
    let mut leases = leases();
    let _ = leases.handed_out(&ids(1..=3), start, start);
    let Keep::Now { lease, .. } = leases.next(start + ms(100)) else { panic!() };
    // What is done with meanwhile stays so.
    leases.done(&ids([1]));
    leases.kept(lease, &ids([2]), start + ms(100));
    let next = leases.next(start + ms(200));
    assert_eq!(next, Keep::Now { lease, ids: ids([3]) });
}

#[test]
fn whoever_says_so_goes_on_for_as_long_again() {
    let start = Instant::now();
    let mut leases = leases();
    let _ = leases.handed_out(&ids(1..=3), start, start);
    leases.done(&ids([3]));
    assert!(matches!(leases.next(start + ms(900)), Keep::Now { lease, .. } if {
        leases.kept(lease, &[], start + ms(900));
        true
    }));
    // Its time is over; 3 is nobody's business any more.
    let now = start + ms(1_500);
    assert!(matches!(leases.next(now), Keep::Slow(InHand { entries: 2, .. })));
    assert!(matches!(leases.next(now), Keep::Expired(InHand { entries: 2, .. })));
    assert_eq!(leases.next(now), Keep::At(start + ms(1_600)));
    assert!(!leases.renewed(&ids(2..=3), start + ms(1_500)));
    let next = leases.next(start + ms(1_600));
    assert!(matches!(next, Keep::Now { ids: kept, .. } if kept == ids([2])));
}

#[test]
fn a_failure_is_tried_again_after_a_while() {
    let start = Instant::now();
    let mut leases = leases();
    let _ = leases.handed_out(&ids([1]), start, start);
    assert!(matches!(leases.next(start + ms(100)), Keep::Now { .. }));
    leases.failed(start + ms(100));
    assert_eq!(leases.next(start + ms(110)), Keep::At(start + ms(125)));
    assert!(matches!(leases.next(start + ms(125)), Keep::Now { .. }));
}

#[test]
fn nothing_is_done_more_often_than_a_hundred_times_a_second() {
    let start = Instant::now();
    let terms = LeaseTerms { min_idle: ms(1), most: Some(ms(60_000)) };
    let mut leases = Leases::new(terms);
    let _ = leases.handed_out(&ids([1]), start, start);
    let mut times = 0;
    for at in 0..1_000 {
        let now = start + ms(at);
        while let next @ (Keep::Now { .. } | Keep::Slow(_)) = leases.next(now) {
            match next {
                Keep::Now { lease, .. } if times % 2 == 0 => leases.kept(lease, &[], now),
                Keep::Now { .. } => leases.failed(now),
                _ => continue,
            }
            times += 1;
        }
    }
    assert_eq!(times, 99);
}

#[test]
fn what_takes_long_is_told_once_for_each_batch() {
    let start = Instant::now();
    let mut leases = leases();
    let _ = leases.handed_out(&ids(1..=250), start, start);
    let _ = leases.handed_out(&ids(251..=260), start, start + ms(100));
    leases.done(&ids(1..=100));
    let mut told = Vec::new();
    for at in (0..3_000).step_by(10) {
        let now = start + ms(at);
        loop {
            match leases.next(now) {
                Keep::Now { lease, .. } => leases.kept(lease, &[], now),
                Keep::Slow(InHand { entries, since }) => {
                    told.push((at, "slow", entries, since));
                }
                Keep::Expired(InHand { entries, since }) => {
                    told.push((at, "expired", entries, since));
                }
                Keep::At(_) => break,
            }
        }
        if at == 900 {
            // The work on it goes on, for as long again.
            let _ = leases.renewed(&ids(251..=255), now);
        }
    }
    let first = start;
    let second = start + ms(100);
    let expected = [
        (300, "slow", 150, first),
        (400, "slow", 10, second),
        (1_000, "expired", 150, first),
        (1_100, "expired", 5, second),
        (1_900, "expired", 5, second),
    ];
    assert_eq!(told, expected);
}

#[test]
fn who_may_not_keep_anything_is_told_what_takes_long() {
    let start = Instant::now();
    let mut leases = leases();
    let _ = leases.handed_out(&ids([1]), start, start);
    assert!(matches!(leases.next(start + ms(100)), Keep::Now { .. }));
    leases.refused();
    assert!(matches!(leases.next(start + ms(200)), Keep::At(_)));
    let in_hand = InHand { entries: 1, since: start };
    assert_eq!(leases.next(start + ms(300)), Keep::Slow(in_hand));
    assert_eq!(leases.next(start + ms(2_000)), Keep::At(start + ms(2_100)));
}

#[derive(Debug, Clone)]
enum Event {
    HandOut(u64),
    Done(Vec<usize>),
    AllDone,
    Fails,
    Claimed(usize),
}

proptest! {
    /// A keeper that follows `next` keeps each entry from being idle for too long while it is in
    /// hand and may be, and touches nothing else.
    #[test]
    fn nothing_in_hand_is_idle_for_too_long(
        events in vec((0u64..80, prop_oneof![
            4 => (1u64..250).prop_map(Event::HandOut),
            4 => vec(0usize..500, 0..40).prop_map(Event::Done),
            1 => Just(Event::AllDone),
            1 => Just(Event::Fails),
            1 => (0usize..500).prop_map(Event::Claimed),
        ]), 0..40),
    ) {
        let terms = LeaseTerms { min_idle: ms(300), most: Some(ms(1_000)) };
        let mut leases = Leases::new(terms);
        let start = Instant::now();
        let (mut now, mut last) = (start, 0);
        // When each was handed out and kept, and which another has claimed.
        let mut held: BTreeMap<u64, (Instant, Instant)> = BTreeMap::new();
        let mut claimed: Vec<u64> = Vec::new();
        let mut fails = false;
        for (pause, event) in events {
            let end = now + ms(pause);
            // The keeper wakes when it said that it would.
            loop {
                match leases.next(now) {
                    Keep::At(at) if at > end => break,
                    Keep::At(at) => now = at,
                    // Each batch once: there is an end to it.
                    Keep::Slow(slow) => prop_assert!(slow.since + ms(300) <= now),
                    Keep::Expired(expired) => {
                        prop_assert!(expired.since + ms(1_000) <= now);
                    }
                    Keep::Now { .. } if fails => {
                        fails = false;
                        leases.failed(now);
                    }
                    Keep::Now { lease, ids: due } => {
                        let mut lost = Vec::new();
                        for id in due {
                            prop_assert!(held.contains_key(&id.ms));
                            if claimed.contains(&id.ms) {
                                lost.push(id);
                                held.remove(&id.ms);
                            } else if let Some((since, kept)) = held.get_mut(&id.ms) {
                                prop_assert!(now <= *since + ms(700 + 125));
                                *kept = now;
                            }
                        }
                        leases.kept(lease, &lost, now);
                    }
                }
                for (number, (since, kept)) in &held {
                    let over = now >= *since + ms(1_000) || claimed.contains(number);
                    prop_assert!(over || now < *kept + ms(300), "{number} is idle");
                }
            }
            now = end;
            match event {
                Event::HandOut(rows) => {
                    let numbers = last + 1..=last + rows;
                    last += rows;
                    let _ = leases.handed_out(&ids(numbers.clone()), now, now);
                    held.extend(numbers.map(|number| (number, (now, now))));
                }
                Event::Done(which) => {
                    let all: Vec<u64> = held.keys().copied().collect();
                    let numbers: Vec<u64> =
                        which.iter().filter_map(|at| all.get(*at).copied()).collect();
                    leases.done(&ids(numbers.iter().copied()));
                    held.retain(|number, _| !numbers.contains(number));
                }
                Event::AllDone => {
                    leases.all_done();
                    held.clear();
                }
                Event::Fails => fails = true,
                Event::Claimed(at) => claimed.extend(held.keys().nth(at)),
            }
        }
    }
}
