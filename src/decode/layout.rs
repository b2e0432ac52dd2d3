//! Which names come in which place, and where their values go.
//!
//! Most entries of a stream have the same fields in the same order, and most documents the same
//! keys: so the next one is nearly always found by one comparison.

use super::tape::Target;

#[derive(Debug, Default)]
pub(super) struct Layout(Vec<(Vec<u8>, Target)>);

impl Layout {
    /// The places that are remembered, and the bytes of their names that are kept.
    const PLACES: usize = 1024;
    const NAMES: usize = 256 * 1024;

    /// The target of the name, if it was the latest in this place.
    #[inline(always)]
    pub(super) fn get(&self, place: usize, name: &[u8]) -> Option<Target> {
        match self.0.get(place) {
            Some((seen, target)) if seen == name => Some(*target),
            _ => None,
        }
    }

    #[inline(always)]
    pub(super) fn remember(&mut self, place: usize, name: &[u8], target: Target) {
        let known = self.0.len();
        match self.0.get_mut(place) {
            Some((seen, old)) => {
                seen.clear();
                seen.extend_from_slice(name);
                *old = target;
            }
            None if known == place && place < Self::PLACES => {
                self.0.push((name.to_vec(), target));
            }
            None => {}
        }
    }

    /// The names in the first places.
    pub(super) fn names(&self, places: usize) -> impl Iterator<Item = &[u8]> {
        self.0.iter().take(places).map(|(name, _)| name.as_slice())
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives the memory back where the names have become many.
    pub(super) fn bound(&mut self) {
        if self.0.iter().map(|(name, _)| name.capacity()).sum::<usize>() > Self::NAMES {
            self.0 = Vec::new();
        }
    }
}
