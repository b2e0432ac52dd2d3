//! What the scripts do to a lane, without a server. `agreement` holds it against the scripts themselves.

use std::time::Duration;

use super::super::protocol::{Answer, Grip, Owner, Plan, Request};
use super::Flaw;
use crate::entry_id::EntryId;

/// A server's data, as far as a processor's commits go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Server<C> {
    pub(super) lane: Option<LaneState>,
    /// What the commits wrote.
    pub(super) contents: Vec<C>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LaneState {
    /// `None` after a release.
    pub(super) owner: Option<Owner>,
    pub(super) epoch: u64,
    pub(super) position: EntryId,
    pub(super) commits: u64,
    pub(super) last: Option<Grip>,
    pub(super) planned: Option<EntryId>,
}

impl LaneState {
    fn conflict(&self) -> Answer {
        Answer::Conflict { position: Some(self.position), commits: self.commits }
    }
}

impl<C> Server<C> {
    /// Runs a request; `expired` is what the server's clock says of the lease.
    pub(super) fn run(
        &mut self,
        request: &Request,
        content: Option<C>,
        expired: bool,
        flaw: Flaw,
    ) -> Answer {
        match request {
            Request::Acquire { owner, takeover, start, previous, .. } => {
                let lane = self.lane.as_ref();
                let was_theirs = previous.is_some()
                    && lane.is_some_and(|lane| lane.owner.as_ref() == previous.as_ref());
                self.acquire(owner, *takeover || expired || was_theirs, *start)
            }
            Request::Renew { grip, plan } => self.owned(grip, flaw, |lane| {
                match plan {
                    Some(Plan { end, .. }) if flaw == Flaw::PlansAnew => lane.planned = Some(*end),
                    Some(Plan { after, .. }) if *after != lane.position => return lane.conflict(),
                    Some(Plan { end, .. }) => lane.planned = lane.planned.or(Some(*end)),
                    None => {}
                }
                Answer::Renewed { planned: lane.planned }
            }),
            Request::Load { grip, .. } => {
                let flaw = if flaw == Flaw::ReadsBlindly { Flaw::NoEpoch } else { flaw };
                self.owned(grip, flaw, |_| Answer::Loaded { cursor: 0, fields: Vec::new() })
            }
            Request::Release { grip } => self.owned(grip, flaw, |lane| {
                lane.owner = None;
                Answer::Released
            }),
            Request::Commit { grip, commits, from, to } => {
                if let Some(lane) = &self.lane
                    && lane.commits == commits + 1
                    && lane.last.as_ref() == Some(grip)
                {
                    return Answer::Applied { again: true };
                }
                let answer = self.owned(grip, flaw, |lane| {
                    let is_here = lane.commits == *commits && lane.position == *from;
                    if !is_here && flaw != Flaw::NoSequence {
                        return lane.conflict();
                    }
                    lane.commits += 1;
                    lane.position = *to;
                    lane.last = Some(grip.clone());
                    lane.planned = None;
                    Answer::Applied { again: false }
                });
                if answer == (Answer::Applied { again: false }) {
                    self.contents.extend(content);
                }
                answer
            }
        }
    }

    fn acquire(&mut self, owner: &Owner, may_take: bool, start: EntryId) -> Answer {
        let lane = self.lane.get_or_insert(LaneState {
            owner: None,
            epoch: 0,
            position: start,
            commits: 0,
            last: None,
            planned: None,
        });
        match &lane.owner {
            Some(other) if other != owner && !may_take => {
                let (owner, epoch) = (other.clone(), lane.epoch);
                return Answer::Busy { left: Duration::ZERO, owner, epoch };
            }
            Some(same) if same == owner => {}
            _ => lane.epoch += 1,
        }
        lane.owner = Some(owner.clone());
        let LaneState { epoch, position, commits, planned, .. } = *lane;
        Answer::Held { epoch, position, commits, planned }
    }

    fn owned(
        &mut self,
        grip: &Grip,
        flaw: Flaw,
        what: impl FnOnce(&mut LaneState) -> Answer,
    ) -> Answer {
        let Some(lane) = &mut self.lane else { return Answer::Gone };
        let is_owner = match flaw {
            Flaw::NoEpoch => true,
            _ => lane.owner.as_ref() == Some(&grip.owner) && lane.epoch == grip.epoch,
        };
        match is_owner {
            true => what(lane),
            false => {
                let owner = lane.owner.clone().unwrap_or_else(|| Owner(String::new()));
                Answer::Fenced { epoch: lane.epoch, owner }
            }
        }
    }
}
