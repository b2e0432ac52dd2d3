//! What random histories hardly come upon.

use super::{Acknowledge, Ask, Ledger, Terms};
use crate::entry_id::EntryId;

fn id(number: u64) -> EntryId {
    EntryId::new(number, 0)
}

/// A ledger of entries that its caller has in hand.
fn with_in_hand(acknowledge: Acknowledge, numbers: impl IntoIterator<Item = u64>) -> Ledger {
    let mut ledger = Ledger::new(Terms {
        acknowledge,
        noack: false,
        lists: false,
        max_deliveries: None,
        recreates: true,
        hands_over: false,
    });
    hand_out(&mut ledger, numbers);
    ledger
}

fn hand_out(ledger: &mut Ledger, numbers: impl IntoIterator<Item = u64>) {
    let ids: Vec<EntryId> = numbers.into_iter().map(id).collect();
    ledger.asked(Ask::New { count: 10 });
    ledger.came(ids.iter().copied());
    ledger.ended();
    ledger.flushed(&ids, &[]);
    ledger.handed_out(&ids);
}

#[test]
fn what_a_lost_answer_acknowledged_is_not_taken_for_others() {
    let mut ledger = with_in_hand(Acknowledge::Automatically, 1..=3);
    ledger.asked_for_more();
    assert_eq!(ledger.acknowledgements()[0].len(), 3);
    // No answer comes. They are sent again, and none is pending any more.
    assert_eq!(ledger.acknowledgements()[0].len(), 3);
    assert_eq!(ledger.acknowledged(0), 3);

    // Of two more that go along with them the first time others have acknowledged one.
    hand_out(&mut ledger, 4..=6);
    ledger.asked_for_more();
    ledger.acknowledgements();
    hand_out(&mut ledger, 7..=8);
    ledger.asked_for_more();
    assert_eq!(ledger.acknowledgements()[0].len(), 5);
    assert_eq!(ledger.acknowledged(1), 4);

    // An answer says how many others had acknowledged.
    hand_out(&mut ledger, 9..=11);
    ledger.asked_for_more();
    ledger.acknowledgements();
    assert_eq!(ledger.acknowledged(1), 1);
}

/// A batch of a stream that was replaced is acknowledged late, or left, or becomes a dead letter.
#[test]
fn entries_of_a_replaced_stream_are_no_position_in_the_new_one() {
    for tell in [Ledger::acked, Ledger::failed, Ledger::left] {
        let mut ledger = with_in_hand(Acknowledge::Manually, 1..=9);
        assert_eq!(ledger.group_lost(), Some(id(1)).and_then(EntryId::predecessor));
        assert!(ledger.is_another_stream(Some(id(2))));
        ledger.stream_replaced();
        hand_out(&mut ledger, 1..=2);
        ledger.acked(&[id(1), id(2)]);
        let of_the_old: Vec<EntryId> = (3..=9).map(id).collect();
        tell(&mut ledger, &of_the_old);
        assert_eq!(ledger.group_lost(), Some(id(2)));
        // Those of the new stream are other entries, whatever their IDs, also while they arrive.
        ledger.asked(Ask::New { count: 10 });
        tell(&mut ledger, &of_the_old);
        ledger.came([id(3), id(4)]);
        ledger.ended();
        assert!(ledger.flushed(&[id(3), id(4)], &[]).dropped.is_empty());
    }
}
