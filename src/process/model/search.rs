//! Everything that can be reached, shortest histories first.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::time::{Duration, Instant};

/// A system that is explored.
pub(super) trait Explore {
    type World: Hash + std::fmt::Debug;

    /// Whether all is as it has to be.
    fn check(&mut self, world: &Self::World) -> Result<(), &'static str>;

    /// All that may become of it in one step.
    fn next(&mut self, world: &Self::World) -> Vec<Self::World>;
}

/// How much was explored.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Extent {
    pub(super) worlds: usize,
    /// Nothing within the bounds was left out for lack of time.
    pub(super) whole: bool,
}

/// Explores for so long at most; gives the first world in which something is wrong, if any.
pub(super) fn explore<S: Explore>(
    system: &mut S,
    world: S::World,
    limit: Duration,
) -> Result<Extent, String> {
    let begun = Instant::now();
    let mut extent = Extent::default();
    // A hash of 64 bits stands for a world. That two of a million share one is a chance in ten million.
    let mut known = HashSet::from([print(&world)]);
    let mut open = VecDeque::from([world]);
    while let Some(world) = open.pop_front() {
        if begun.elapsed() > limit {
            return Ok(extent);
        }
        extent.worlds += 1;
        system.check(&world).map_err(|error| format!("{error}: {world:#?}"))?;
        for next in system.next(&world) {
            if known.insert(print(&next)) {
                open.push_back(next);
            }
        }
    }
    extent.whole = true;
    Ok(extent)
}

/// The same number for the same thing.
pub(super) fn print(of: &impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(of)
}
