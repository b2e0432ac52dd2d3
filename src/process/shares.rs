//! Who of several processors should have how many lanes. No IO, no clock.
//!
//! Each knows who else is there and how many lanes each of them has, and decides for itself. What two of
//! them decide may collide; the lanes' leases say who has one, so that costs a round and nothing else.

use std::collections::BTreeMap;

/// The members, by their names, each with the number of lanes that it has.
pub(super) type Members = BTreeMap<Vec<u8>, usize>;

/// What a member is to do about its lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Stay,
    /// Leave that many of them to others.
    GiveUp(usize),
    /// Acquire that many, at most, of those that nobody has.
    Take(usize),
}

/// The step of the member `own`, so that in the end all lanes are held and no two members' numbers of them
/// differ by more than one.
pub(super) fn step(lanes: usize, own: &[u8], members: &Members) -> Step {
    let Some(held) = members.get(own).copied() else { return Step::Stay };
    let count = members.len().max(1);
    let (least, most) = (lanes / count, lanes.div_ceil(count));
    if held > most {
        return Step::GiveUp(held - most);
    }
    if held < least {
        return Step::Take(least - held);
    }
    let missing: usize = members.values().map(|held| least.saturating_sub(*held)).sum();
    let surplus: usize = members.values().map(|held| held.saturating_sub(most)).sum();
    let all: usize = members.values().sum();
    // Lanes that nobody has, now or once those who have too many give them up.
    let free = lanes.saturating_sub(all) + surplus;
    if held > least && missing > free {
        // Somebody has too few, and none are left: those who have one more than the least give it up, as
        // many as it takes, in the order of their names.
        let mut above = members.iter().filter(|(_, held)| **held > least && **held <= most);
        let place = above.position(|(name, _)| name == own).unwrap_or(usize::MAX);
        return if place < missing - free { Step::GiveUp(1) } else { Step::Stay };
    }
    if held < most && free > missing {
        // Some are over, once all have the least: one each, in the order of names.
        let mut below = members.iter().filter(|(_, held)| **held == least);
        let place = below.position(|(name, _)| name == own).unwrap_or(usize::MAX);
        return if place < free - missing { Step::Take(1) } else { Step::Stay };
    }
    Step::Stay
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(held: &[usize]) -> Members {
        held.iter()
            .enumerate()
            .map(|(name, held)| (vec![u8::try_from(name).unwrap()], *held))
            .collect()
    }

    fn step_of(lanes: usize, held: &[usize], own: u8) -> Step {
        step(lanes, &[own], &members(held))
    }

    #[test]
    fn a_newcomer_gets_its_part() {
        assert_eq!(step_of(8, &[8], 0), Step::Stay);
        assert_eq!(step_of(8, &[8, 0], 0), Step::GiveUp(4));
        assert_eq!(step_of(8, &[8, 0], 1), Step::Take(4));
        // Nobody has more than two, and the fifth has none.
        assert_eq!(step_of(8, &[2, 2, 2, 2, 0], 0), Step::GiveUp(1));
        assert_eq!(step_of(8, &[2, 2, 2, 2, 0], 1), Step::Stay);
        assert_eq!(step_of(8, &[1, 2, 2, 2, 0], 1), Step::Stay);
        assert_eq!(step_of(8, &[1, 2, 2, 2, 0], 4), Step::Take(1));
    }

    #[test]
    fn what_a_dead_one_had_is_shared() {
        assert_eq!(step_of(8, &[3, 3], 0), Step::Take(1));
        assert_eq!(step_of(7, &[3, 3], 0), Step::Take(1));
        assert_eq!(step_of(7, &[3, 3], 1), Step::Stay);
        assert_eq!(step_of(2, &[1, 1, 0], 2), Step::Stay);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Members come, go and look in any order, also at numbers that are old; once nobody comes or goes
        /// any more all lanes are held, evenly, and stay where they are.
        #[test]
        fn in_the_end_lanes_are_held_evenly(
            lanes in 1_usize..40,
            history in prop::collection::vec((0_u8..9, 0_u8..4), 0..60),
            order in prop::collection::vec(0_usize..9, 1..20),
        ) {
            let mut all = Members::new();
            all.insert(vec![0], 0);
            let mut old = all.clone();
            for (name, act) in history {
                match act {
                    0 => { all.entry(vec![name]).or_insert(0); }
                    1 if all.len() > 1 => { all.remove(&vec![name]); }
                    2 => old = all.clone(),
                    _ => {
                        let seen = Members::from_iter(
                            old.iter().filter(|(name, _)| all.contains_key(*name)).map(|(n, h)| (n.clone(), *h)));
                        apply(lanes, &vec![name], &seen, &mut all);
                    }
                }
                prop_assert!(all.values().sum::<usize>() <= lanes);
            }
            let names: Vec<Vec<u8>> = all.keys().cloned().collect();
            for _ in 0..4 * (lanes + names.len()) {
                for place in &order {
                    let name = &names[place % names.len()];
                    apply(lanes, name, &all.clone(), &mut all);
                }
                for name in &names {
                    apply(lanes, name, &all.clone(), &mut all);
                }
            }
            prop_assert_eq!(all.values().sum::<usize>(), lanes);
            let (least, most) = (all.values().min().unwrap(), all.values().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", all);
            for name in &names {
                prop_assert_eq!(step(lanes, name, &all), Step::Stay);
            }
        }
    }

    /// What becomes of a step: nobody takes what others have.
    fn apply(lanes: usize, name: &Vec<u8>, seen: &Members, all: &mut Members) {
        let free = lanes - all.values().sum::<usize>();
        let Some(held) = all.get_mut(name) else { return };
        match step(lanes, name, seen) {
            Step::Stay => {}
            Step::GiveUp(number) => *held -= number.min(*held),
            Step::Take(number) => *held += number.min(free),
        }
    }
}
