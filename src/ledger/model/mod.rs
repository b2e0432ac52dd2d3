//! Random histories of a ledger against a plain model of a Redis group.

mod reader;
mod server;

use proptest::collection::vec;
use proptest::prelude::*;

use reader::{Event, Reader};

use super::Acknowledge;

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1u64..8).prop_map(Event::Add),
        14 => (0usize..6).prop_map(Event::Step),
        5 => Just(Event::Batch),
        2 => any::<bool>().prop_map(Event::Cut),
        1 => (0u64..3).prop_map(Event::HalfOpen),
        1 => Just(Event::Rewind),
        1 => (1u64..60).prop_map(Event::Delete),
        1 => Just(Event::Age),
        1 => (1u64..60).prop_map(Event::OtherClaims),
        1 => (1u64..4).prop_map(Event::OtherReads),
        1 => (1u64..60).prop_map(Event::OtherAcknowledges),
        2 => (0u64..60).prop_map(Event::Ack),
        1 => (0u64..60).prop_map(Event::Leave),
    ];
    vec(event, 0..150)
}

fn policies() -> impl Strategy<Value = Acknowledge> {
    prop_oneof![Just(Acknowledge::Automatically), Just(Acknowledge::Manually)]
}

fn play(mut reader: Reader, events: Vec<Event>) {
    for event in events {
        reader.happens(event);
    }
    reader.drain();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Own pending entries are read as they come: nothing is known of their deliveries.
    #[test]
    fn without_a_list_nothing_is_lost_or_comes_twice(
        policy in policies(), room in 1u64..12, events in events(),
    ) {
        play(Reader::new(policy, false, None, room), events);
    }

    #[test]
    fn with_a_list_every_delivery_is_counted(
        policy in policies(),
        most in prop_oneof![Just(None), (1u64..4).prop_map(Some)],
        room in 1u64..12,
        events in events(),
    ) {
        play(Reader::new(policy, true, most, room), events);
    }

    #[test]
    fn at_a_clean_end_the_server_counts_what_was_handed_out(
        policy in policies(),
        most in 1u64..4,
        room in 1u64..12,
        takes in any::<bool>(),
        events in events(),
    ) {
        let mut reader = Reader::new(policy, true, Some(most), room);
        events.into_iter().for_each(|event| reader.happens(event));
        reader.end(takes);
    }

    /// What others had pending is lost with a group, and how often anything was delivered.
    #[test]
    fn a_lost_group_begins_before_what_is_not_done_with(
        policy in policies(),
        room in 1u64..12,
        before in events(),
        after in events(),
    ) {
        let is_alone = |event: &Event| {
            !matches!(event, Event::OtherClaims(_) | Event::OtherReads(_) | Event::Rewind | Event::HalfOpen(_))
        };
        let mut reader = Reader::new(policy, false, None, room);
        before.into_iter().filter(is_alone).for_each(|event| reader.happens(event));
        reader.happens(Event::LoseGroup);
        play(reader, after.into_iter().filter(is_alone).collect());
    }
}
