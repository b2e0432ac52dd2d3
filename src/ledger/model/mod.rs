//! Random histories of a ledger against a plain model of a Redis group.

mod reader;
mod server;

use proptest::collection::vec;
use proptest::prelude::*;

use reader::Reader;

use super::Acknowledge;

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Event {
    Add(u64),
    /// The reader does its next thing; of a reply that is on its way that many rows come.
    Step(usize),
    /// The batch is closed, by its bytes or the time, and goes to the caller.
    Batch,
    /// So does it, in two parts: a dead letter between them cannot be written at first.
    TwoParts,
    /// The connection is lost with what is on its way; the request got through to the server, or
    /// not.
    Cut(bool),
    /// A server that has not noticed goes on to serve a request that waits.
    HalfOpen(u64),
    /// The caller had an error: what was collected is given up.
    Rewind,
    Delete(u64),
    /// Time passes, and what is pending can be claimed.
    Age,
    OtherClaims(u64),
    /// Another consumer has that many new entries handed out.
    OtherReads(u64),
    OtherAcknowledges(u64),
    /// The caller acknowledges, or leaves, an entry in hand.
    Ack(u64),
    Leave(u64),
    LoseGroup,
    /// The stream is deleted with its groups, and written again with that many entries.
    Rewrite(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1u64..8).prop_map(Event::Add),
        14 => (0usize..6).prop_map(Event::Step),
        4 => Just(Event::Batch),
        1 => Just(Event::TwoParts),
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

/// A group gets lost, by itself or with its stream.
fn loss() -> impl Strategy<Value = Event> {
    prop_oneof![2 => Just(Event::LoseGroup), 1 => (0u64..40).prop_map(Event::Rewrite)]
}

fn policies() -> impl Strategy<Value = Acknowledge> {
    prop_oneof![Just(Acknowledge::Automatically), Just(Acknowledge::Manually)]
}

/// A claim whose reply is lost brings entries that another consumer has been given, after all that this
/// one has seen. Then a read of new entries is lost, which nobody may have seen: those were.
#[test]
fn what_was_listed_is_not_taken_for_unseen() {
    use Event::{Ack, Add, Age, Batch, Cut, OtherAcknowledges, OtherReads, Rewind, Step};
    let steps = |number: usize| [Step(0)].repeat(number);
    let events = [
        [vec![Add(8)], steps(4), vec![Step(2), Step(4)], steps(2), vec![Add(2)], steps(1)].concat(),
        [vec![Add(5)], steps(1), vec![Cut(true), OtherReads(1)], steps(1), vec![Rewind]].concat(),
        [steps(7), vec![Batch], steps(2), vec![OtherReads(3)], steps(1), vec![Age]].concat(),
        [steps(1), vec![Batch, Step(2), Cut(true), OtherAcknowledges(1)], steps(1)].concat(),
        [vec![Rewind], steps(1), vec![OtherAcknowledges(15)], steps(1)].concat(),
        [vec![OtherAcknowledges(1)], steps(3), vec![Step(3)], steps(1), vec![Step(2)]].concat(),
        [vec![Batch, Cut(true), Ack(0)], steps(6), vec![Step(2)], steps(2)].concat(),
        vec![Cut(false)],
    ]
    .concat();
    for takes in [true, false] {
        let mut reader = Reader::new(Acknowledge::Manually, true, Some(3), 7);
        events.iter().for_each(|event| reader.happens(*event));
        reader.end(takes);
    }
}

fn play(mut reader: Reader, events: Vec<Event>) {
    for event in events {
        reader.happens(event);
    }
    reader.drain();
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(600)))]

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
        most in prop_oneof![1 => Just(None), 3 => (1u64..4).prop_map(Some)],
        room in 1u64..12,
        takes in any::<bool>(),
        events in events(),
    ) {
        let mut reader = Reader::new(policy, true, most, room);
        events.into_iter().for_each(|event| reader.happens(event));
        reader.end(takes);
    }

    /// What others had pending is lost with a group, and how often anything was delivered.
    #[test]
    fn a_lost_group_begins_before_what_is_not_done_with(
        policy in policies(),
        room in 1u64..12,
        histories in vec((events(), loss()), 1..4),
        after in events(),
    ) {
        let is_alone = |event: &Event| {
            !matches!(event, Event::OtherClaims(_) | Event::OtherReads(_) | Event::Rewind | Event::HalfOpen(_))
        };
        let mut reader = Reader::new(policy, false, None, room);
        for (before, loss) in histories {
            before.into_iter().filter(is_alone).for_each(|event| reader.happens(event));
            reader.happens(loss);
        }
        play(reader, after.into_iter().filter(is_alone).collect());
    }
}
