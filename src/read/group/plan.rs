//! What to do next where several streams have something to do: pure, without IO.

use crate::entry_id::EntryId;
use crate::ledger::{Apart, Ask};

/// What the ledger of a stream says is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) lane: usize,
    pub(super) ask: Ask,
    /// What it reads next makes batches of its own.
    pub(super) apart: Option<Apart>,
}

/// A read of `count` own pending entries of a stream, after this ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) lane: usize,
    pub(super) after: EntryId,
    pub(super) count: u64,
}

/// What is done next, for as many streams as can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// The batch is whole as it is.
    Flush,
    Correct(usize),
    MoveExhausted(usize),
    /// Pending entries between these IDs.
    List(Vec<(usize, EntryId, EntryId)>),
    Claim(Vec<usize>),
    /// Own pending entries of some streams, and new ones of others, of each at most `most`.
    Read {
        own: Vec<Own>,
        new: Vec<usize>,
        most: u64,
    },
}

/// What to do, where these are the streams' turns in this order. Small questions come first, asked for
/// all streams at once where that is possible. What makes batches of its own (what was claimed; an entry
/// that may be handed out once more only) takes turns with what does not, as `apart_first` says, so that
/// no stream keeps the others waiting.
pub(super) fn plan(asks: &[Asked], apart_first: &mut bool) -> Plan {
    let (mut lists, mut claims, mut new) = (Vec::new(), Vec::new(), Vec::new());
    let (mut plain, mut apart): (Vec<Own>, Vec<(Own, Apart)>) = (Vec::new(), Vec::new());
    let (mut moves, mut flushes, mut most) = (None, false, u64::MAX);
    for Asked { lane, ask, apart: is_apart } in asks.iter().copied() {
        match ask {
            Ask::Correct => return Plan::Correct(lane),
            Ask::List { from, to } => lists.push((lane, from, to)),
            Ask::MoveExhausted => moves = moves.or(Some(lane)),
            Ask::Claim => claims.push(lane),
            Ask::Flush => flushes = true,
            Ask::New { count } => {
                new.push(lane);
                most = most.min(count);
            }
            Ask::Own { after, count } => {
                let own = Own { lane, after, count };
                match is_apart {
                    Some(kind) => apart.push((own, kind)),
                    None => plain.push(own),
                }
            }
        }
    }
    if !lists.is_empty() {
        return Plan::List(lists);
    }
    if let Some(lane) = moves {
        return Plan::MoveExhausted(lane);
    }
    let others = !(plain.is_empty() && new.is_empty() && claims.is_empty());
    // A ledger says nothing else for a batch of what was claimed than to read more of it.
    if let Some((first, kind)) = apart.first().filter(|_| *apart_first || flushes || !others) {
        *apart_first = false;
        let own = match kind {
            Apart::Alone => vec![*first],
            Apart::Claimed => {
                let claimed = apart.iter().filter(|(_, kind)| *kind == Apart::Claimed);
                claimed.map(|(own, _)| *own).collect()
            }
        };
        return Plan::Read { own, new: Vec::new(), most };
    }
    *apart_first |= !apart.is_empty();
    if flushes {
        return Plan::Flush;
    }
    if !claims.is_empty() {
        return Plan::Claim(claims);
    }
    Plan::Read { own: plain, new, most }
}

/// How many entries of each stream to ask for, where `lanes` streams are asked, the batch has room for
/// `room`, and `active` of them had entries the last time: what the server sends is pending, so no
/// reply has more than a few batches' worth.
pub(super) fn share(room: u64, lanes: usize, active: usize) -> u64 {
    /// A reply has at most this many times the room, where all streams have more than was expected.
    const MOST: u64 = 4;
    let (lanes, active) = (lanes.max(1) as u64, active.max(1) as u64);
    (room / active.min(lanes)).min(room.saturating_mul(MOST) / lanes).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What a stream has to read, by kind: new entries, own pending ones, claimed ones, and some that
    /// are to be alone.
    #[derive(Debug, Clone)]
    struct Work {
        new: u64,
        own: u64,
        claimed: u64,
        alone: u64,
        claims_due: bool,
    }

    fn work() -> impl Strategy<Value = Work> {
        (0u64..9, 0u64..9, 0u64..9, 0u64..4, any::<bool>()).prop_map(
            |(new, own, claimed, alone, claims_due)| Work { new, own, claimed, alone, claims_due },
        )
    }

    /// What a ledger says of it, for a batch with rows of a kind.
    fn asked(lane: usize, work: &Work, batch: Option<Kind>) -> Asked {
        let after = EntryId::MIN;
        let own = |count, apart| Asked { lane, ask: Ask::Own { after, count }, apart };
        let flush = Asked { lane, ask: Ask::Flush, apart: None };
        let new = Asked { lane, ask: Ask::New { count: 1 }, apart: None };
        match batch {
            Some(Kind::Alone) => flush,
            Some(Kind::Claimed) if work.claimed > 0 => own(work.claimed, Some(Apart::Claimed)),
            Some(Kind::Claimed) => flush,
            Some(Kind::Plain) if work.claimed + work.alone > 0 => flush,
            None if work.alone > 0 => own(1, Some(Apart::Alone)),
            None if work.claimed > 0 => own(work.claimed, Some(Apart::Claimed)),
            None if work.own == 0 && work.claims_due => {
                Asked { lane, ask: Ask::Claim, apart: None }
            }
            _ if work.own > 0 => own(work.own, None),
            _ => new,
        }
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Plain,
        Claimed,
        Alone,
    }

    proptest! {
        /// Whatever the streams have, all of it is read, in batches that mix nothing that is to be
        /// apart with anything else; and where one has new entries without end, it keeps no other from
        /// being read.
        #[test]
        fn all_is_read_and_nothing_is_mixed(
            mut lanes in vec(work(), 1..7), room in 1u64..9, hot in any::<bool>(),
        ) {
            let (mut apart_first, mut first, mut batch) = (false, 0, None);
            let mut rows = 0;
            let most = lanes.iter().map(|w| w.new + w.own + w.claimed + w.alone + 1).sum::<u64>();
            for step in 0.. {
                let left = |work: &Work| work.new + work.own + work.claimed + work.alone;
                if lanes.iter().skip(1).chain(lanes.first()).all(|work| left(work) == 0) {
                    break;
                }
                prop_assert!(step < 20 * most, "something is not read: {:?}", lanes);
                if hot {
                    lanes[0].new = lanes[0].new.max(3);
                    if lanes.iter().skip(1).all(|work| left(work) == 0)
                        && left(&lanes[0]) == lanes[0].new
                    {
                        break;
                    }
                }
                let turns = (0..lanes.len()).map(|lane| (first + lane) % lanes.len());
                let asks: Vec<Asked> = turns.map(|lane| asked(lane, &lanes[lane], batch)).collect();
                first += 1;
                match plan(&asks, &mut apart_first) {
                    Plan::Flush => {
                        prop_assert!(batch.is_some());
                        (batch, rows) = (None, 0);
                    }
                    Plan::Claim(claims) => {
                        prop_assert!(batch.is_none());
                        claims.into_iter().for_each(|lane| lanes[lane].claims_due = false);
                    }
                    Plan::Read { own, new, .. } => {
                        prop_assert!(!(own.is_empty() && new.is_empty()));
                        for Own { lane, count, .. } in own {
                            let work = &mut lanes[lane];
                            let ask = asks.iter().find(|ask| ask.lane == lane).unwrap();
                            let (kind, left) = match ask.apart {
                                Some(Apart::Alone) => (Kind::Alone, &mut work.alone),
                                Some(Apart::Claimed) => (Kind::Claimed, &mut work.claimed),
                                None => (Kind::Plain, &mut work.own),
                            };
                            prop_assert!(batch.is_none() || batch == Some(kind) && kind != Kind::Alone);
                            batch = Some(kind);
                            *left -= count.min(room);
                            rows += count.min(room);
                        }
                        for lane in new {
                            prop_assert!(batch.is_none() || batch == Some(Kind::Plain));
                            let came = lanes[lane].new.min(share(room, lanes.len(), 1));
                            lanes[lane].new -= came;
                            rows += came;
                            batch = batch.or((came > 0).then_some(Kind::Plain));
                        }
                        if rows >= room {
                            (batch, rows) = (None, 0);
                        }
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }

        #[test]
        fn a_share_is_bounded(room in 1u64..5_000, lanes in 1usize..20_000, active in 0usize..200) {
            let share = share(room, lanes, active);
            prop_assert!(share >= 1 && share <= room);
            prop_assert!(share == 1 || share * lanes as u64 <= 4 * room);
        }
    }
}
