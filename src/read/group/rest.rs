//! A reader comes to rest, so that its streams may become another's.

use super::GroupReader;
use super::lane::Lane;
use super::streams::Streams;

impl GroupReader {
    /// Whether it has nothing in hand, and is called so that streams may change parts.
    pub(super) fn comes_to_rest(&mut self) -> bool {
        let rests = self.streams.as_ref().is_some_and(Streams::is_called) && self.is_at_rest();
        self.streams.iter_mut().for_each(|streams| streams.rests = rests);
        rests
    }

    /// Whether it gave nothing because of that, the last time.
    pub(super) fn has_come_to_rest(&self) -> bool {
        self.streams.as_ref().is_some_and(|streams| streams.rests)
    }

    /// Whether nothing is under way, so that its lanes may become another's.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.feed.is_in_flight()
            && self.feed.rows() == 0
            && !self.lanes.iter().any(|lane| lane.ledger.is_waiting())
    }

    /// Gives its lanes away, at rest.
    pub(super) fn give_lanes(&mut self) -> Vec<Lane> {
        std::mem::take(&mut self.lanes)
    }

    /// Has these lanes from now on, which are `started` or not.
    pub(super) fn set_lanes(&mut self, lanes: Vec<Lane>, started: bool) {
        let Some(streams) = &mut self.streams else { return };
        streams.set_lanes(&lanes, started);
        self.feed.set_streams(streams.names());
        if lanes.len() > 1 {
            self.feed.session.are_of_several();
        }
        self.lanes = lanes;
        self.first = 0;
        self.acknowledging.clear();
    }

    pub(super) fn is_started(&self) -> bool {
        self.streams.as_ref().is_some_and(Streams::is_started)
    }
}
