//! What is still to be read of which stream, and what to request next: without IO.

use std::collections::VecDeque;

use crate::entry_id::EntryId;

/// Entries of one stream that are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) struct Part {
    /// Its place in the list.
    pub(in crate::read) stream: usize,
    pub(in crate::read) first: EntryId,
    pub(in crate::read) last: EntryId,
    /// Only so many of the oldest. As many as the stream had when it was asked make the read a
    /// snapshot: whatever was added since comes after them.
    pub(in crate::read) most: u64,
    /// The newest of them when the read began, where that is known.
    pub(in crate::read) end: Option<EntryId>,
}

impl Part {
    /// All of a stream between these IDs.
    pub(in crate::read) fn of(stream: usize, (first, last): (EntryId, EntryId)) -> Self {
        Part { stream, first, last, most: u64::MAX, end: None }
    }
}

/// How far the parts have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    part: usize,
    /// From which ID on the rest of the part is, if some of it has been read; and how much that is
    /// at most.
    rest: Option<(EntryId, u64)>,
}

impl Place {
    fn of_part(part: usize) -> Self {
        Place { part, rest: None }
    }
}

/// A request for entries, which is one page of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    part: usize,
    pub(super) stream: usize,
    pub(super) first: EntryId,
    pub(super) last: EntryId,
    pub(super) count: u64,
    /// Whether the part has no more.
    is_last: bool,
}

/// Parts one after the other. As many are requested at once as a page has room for; only of the last
/// of these may there be more than was asked for.
#[derive(Debug)]
pub(super) struct Plan {
    parts: Vec<Part>,
    /// Up to where it has come, and up to where it is requested.
    come: Place,
    asked: Place,
    /// What has not been answered, and how many entries of the first have come.
    in_flight: VecDeque<Ask>,
    came: u64,
    /// The entries that are in flight at most.
    owed: u64,
}

impl Plan {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        let in_flight = VecDeque::new();
        let start = Plan::start();
        Plan { parts, come: start, asked: start, in_flight, came: 0, owed: 0 }
    }

    /// The entries that are in flight at most.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The stream whose entries come next.
    pub(super) fn stream(&self) -> Option<usize> {
        match self.in_flight.front() {
            Some(ask) => Some(ask.stream),
            None => self.parts.get(self.come.part).map(|part| part.stream),
        }
    }

    /// The stream of which the beginning has been read, and the last ID of that.
    pub(super) fn halfway(&self) -> Option<(usize, EntryId)> {
        let part = self.parts.get(self.come.part)?;
        let (next, left) = self.come.rest?;
        (left > 0).then_some((part.stream, next.predecessor()?))
    }

    /// The parts from the one on that is requested next.
    pub(super) fn unrequested(&mut self) -> &[Part] {
        let first = self.next().map(|_| self.asked.part);
        first.and_then(|first| self.parts.get(first..)).unwrap_or_default()
    }

    /// The stream that is requested next.
    pub(super) fn next_stream(&mut self) -> Option<usize> {
        self.next().map(|(part, ..)| part.stream)
    }

    /// The part that is requested next, from which ID on, and how much of it at most.
    fn next(&mut self) -> Option<(Part, EntryId, u64)> {
        if self.in_flight.back().is_some_and(|ask| !ask.is_last) {
            return None; // which tells where the next page begins
        }
        loop {
            let part = *self.parts.get(self.asked.part)?;
            let (first, left) = self.asked.rest.unwrap_or((part.first, part.most));
            if left > 0 && first <= part.last {
                return Some((part, first, left));
            }
            self.asked = Place::of_part(self.asked.part + 1);
        }
    }

    /// What to request next, where a page of that many entries has room for it and `missing` entries
    /// are all that is wanted.
    pub(super) fn ask(&mut self, page: u64, missing: u64) -> Option<Ask> {
        let (part, first, left) = self.next()?;
        let wanted = left.min(missing.saturating_sub(self.owed));
        let room = page.max(1).saturating_sub(self.owed);
        // A small page of a long stream would keep all others waiting.
        if wanted == 0 || (wanted > room && room.saturating_mul(2) < page) {
            return None;
        }
        let count = wanted.min(room);
        let ask = Ask {
            part: self.asked.part,
            stream: part.stream,
            first,
            last: part.last,
            count,
            is_last: count == left,
        };
        if ask.is_last {
            self.asked = Place::of_part(ask.part + 1);
        }
        self.in_flight.push_back(ask);
        self.owed += count;
        Some(ask)
    }

    /// Entries of the first request have come, up to this ID.
    pub(super) fn came(&mut self, entries: u64, last: Option<EntryId>) {
        let Some((ask, part, left)) = self.first() else { return };
        self.came += entries;
        self.owed = self.owed.saturating_sub(entries.min(ask.count));
        let next = last.and_then(EntryId::successor).filter(|next| *next <= part.last);
        let rest = next.map_or((EntryId::MAX, 0), |next| (next, left.saturating_sub(entries)));
        self.come = Place { part: ask.part, rest: Some(rest) };
    }

    /// The first request has been answered.
    pub(super) fn ended(&mut self) {
        let Some((ask, _, left)) = self.first() else { return };
        self.in_flight.pop_front();
        let came = std::mem::take(&mut self.came);
        self.owed = self.owed.saturating_sub(ask.count.saturating_sub(came));
        if ask.is_last || came < ask.count || left == 0 {
            self.come = Place::of_part(ask.part + 1);
        }
        if !ask.is_last {
            self.asked = self.come;
        }
    }

    /// The first request, its part, and how much of that is left.
    fn first(&self) -> Option<(Ask, Part, u64)> {
        let ask = *self.in_flight.front()?;
        let part = *self.parts.get(ask.part)?;
        let rest = self.come.rest.filter(|_| self.come.part == ask.part);
        Some((ask, part, rest.map_or(part.most, |(_, left)| left)))
    }

    /// What has not come will not.
    pub(super) fn lost(&mut self) {
        self.in_flight.clear();
        (self.came, self.owed) = (0, 0);
        self.asked = self.come;
    }

    /// The place after some rows that came from `before` on: the last of them is of this stream, the
    /// `number`th of that, and has this ID.
    pub(super) fn place_after(
        &self,
        before: Place,
        stream: usize,
        number: u64,
        last: EntryId,
    ) -> Place {
        let parts = self.parts.iter().enumerate().skip(before.part);
        let Some((index, part)) = parts.into_iter().find(|(_, part)| part.stream == stream) else {
            return before;
        };
        let left = match before.rest {
            Some((_, left)) if index == before.part => left,
            _ => part.most,
        };
        let left = left.saturating_sub(number);
        match last.successor().filter(|next| *next <= part.last && left > 0) {
            Some(next) => Place { part: index, rest: Some((next, left)) },
            None => Place::of_part(index + 1),
        }
    }

    /// The first place.
    pub(super) fn start() -> Place {
        Place::of_part(0)
    }

    /// Goes on from there.
    pub(super) fn go_back(&mut self, place: Place) {
        self.come = place;
        self.lost();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    /// Streams of that many entries each, with IDs from 1 on.
    fn parts(lengths: &[u64]) -> Vec<Part> {
        let all = |(stream, length): (usize, &u64)| Part {
            most: *length,
            ..Part::of(stream, (EntryId::MIN, EntryId::MAX))
        };
        lengths.iter().enumerate().map(all).collect()
    }

    #[test]
    fn what_has_room_is_requested_at_once_and_a_long_stream_page_by_page() {
        let mut plan = Plan::new(parts(&[3, 0, 2, 12, 1]));
        let counts = |plan: &mut Plan| -> Vec<(usize, u64)> {
            std::iter::from_fn(|| plan.ask(6, u64::MAX)).map(|a| (a.stream, a.count)).collect()
        };
        assert_eq!(counts(&mut plan), [(0, 3), (2, 2)]);
        plan.came(3, Some(id(3)));
        plan.ended();
        assert_eq!(counts(&mut plan), [(3, 4)]);
        plan.came(2, Some(id(2)));
        plan.ended();
        plan.came(4, Some(id(4)));
        assert_eq!(counts(&mut plan), []); // nobody knows yet where its next page begins
        plan.ended();
        assert_eq!(counts(&mut plan), [(3, 6)]);
        plan.came(3, Some(id(7)));
        plan.lost();
        let ask = plan.ask(6, u64::MAX).unwrap();
        assert_eq!((ask.first, ask.count), (EntryId { ms: 7, seq: 1 }, 5));
        assert_eq!(counts(&mut plan), [(4, 1)]);
    }

    proptest! {
        /// Whatever is lost, cut or gone meanwhile: each entry comes once, in order.
        #[test]
        fn every_entry_comes_once(
            lengths in prop::collection::vec(0u64..8, 0..6),
            gone in prop::collection::vec(0u64..3, 6),
            pages in prop::collection::vec(1u64..9, 1..9),
            limit in prop::option::of(0u64..30),
            chances in prop::collection::vec(0u8..12, 1..40),
        ) {
            // What a server has: fewer than were counted, where some were deleted.
            let has: Vec<u64> =
                lengths.iter().zip(&gone).map(|(length, gone)| length.saturating_sub(*gone)).collect();
            let mut expected: Vec<(usize, u64)> = Vec::new();
            for (stream, number) in has.iter().enumerate() {
                expected.extend((1..=*number).map(|ms| (stream, ms)));
            }
            expected.truncate(limit.unwrap_or(u64::MAX).min(1_000) as usize);
            let mut plan = Plan::new(parts(&lengths));
            let (mut got, mut kept): (Vec<(usize, u64)>, usize) = (Vec::new(), 0);
            let mut place = Plan::start();
            // In the end all comes, whatever the chances are.
            let mut chances = chances.iter().chain(&[4; 8]).cycle();
            let mut pages = pages.iter().cycle();
            for _ in 0..2_000 {
                let missing = limit.map_or(u64::MAX, |limit| limit - got.len() as u64);
                let page = *pages.next().unwrap();
                while plan.ask(page, missing).is_some() {}
                prop_assert!(plan.owed() <= missing);
                let Some(ask) = plan.in_flight.front().copied() else { break };
                prop_assert_eq!(plan.stream(), Some(ask.stream));
                let from = if ask.first.seq > 0 { ask.first.ms + 1 } else { ask.first.ms.max(1) };
                let until = has[ask.stream].min(from + ask.count - 1);
                let reply: Vec<u64> = (from..=until).collect();
                match *chances.next().unwrap() {
                    0 => plan.lost(),
                    chance @ 1..3 => {
                        // A part of the reply, and then nothing more.
                        let come = reply.len().min(chance as usize);
                        for ms in &reply[..come] {
                            plan.came(1, Some(id(*ms)));
                            got.push((ask.stream, *ms));
                        }
                        plan.lost();
                    }
                    3 => {
                        // What came since the last batch is read again.
                        got.truncate(kept);
                        plan.go_back(place);
                    }
                    chance => {
                        if let Some(last) = reply.last() {
                            plan.came(reply.len() as u64, Some(id(*last)));
                        }
                        got.extend(reply.iter().map(|ms| (ask.stream, *ms)));
                        plan.ended();
                        if chance == 4 && got.len() > kept {
                            let (stream, ms) = got[got.len() - 1];
                            let number = got[kept..].iter().filter(|one| one.0 == stream).count();
                            place = plan.place_after(place, stream, number as u64, id(ms));
                            kept = got.len();
                        }
                    }
                }
            }
            prop_assert_eq!(got, expected);
        }
    }
}
