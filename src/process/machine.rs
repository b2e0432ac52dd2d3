//! What a processor knows of its lane, and what it may ask next: a state machine without IO and clock.
//! Replies and times come in, requests go out. `model` explores what becomes of it whatever fails.

use std::time::{Duration, Instant};

use super::protocol::{Answer, Grip, Owner, Plan, Request};
use crate::entry_id::EntryId;

/// One processor's side of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Machine {
    lease: Duration,
    phase: Phase,
    /// As whom it has asked for the lane last. Where the lane is his still, nobody else has it.
    previous: Option<Owner>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Not the owner, and not asking to be.
    Out(Option<Loss>),
    Acquiring(Request),
    Held(Hold),
}

/// Why the lane is not this processor's any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    Fenced {
        epoch: u64,
        owner: Owner,
    },
    /// The server knows only earlier acquisitions: it has lost this one.
    Rewound {
        epoch: u64,
    },
    /// The lane is at another place: the server has lost commits, or somebody has written to it.
    Conflict {
        expected: EntryId,
        position: Option<EntryId>,
    },
    Gone,
    /// Nobody knows whether the commit up to there is in, or will be.
    Unknown {
        to: EntryId,
    },
    /// A commit is in, but not all that it was to write.
    Broken {
        error: String,
    },
    /// Somebody has written to the lane what no processor writes.
    Damaged {
        field: String,
        value: String,
    },
}

/// What is known of a lane that is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Hold {
    pub(super) grip: Grip,
    /// Up to where all is committed.
    pub(super) position: EntryId,
    /// How many commits there were.
    pub(super) commits: u64,
    /// Where the next batch must end, because an earlier owner may have given it to a sink outside.
    pub(super) planned: Option<EntryId>,
    /// A commit up to there was sent, and not answered.
    committing: Option<EntryId>,
    /// When the latest request was sent that extended the lease.
    renewed: Instant,
}

/// What comes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Another has the lane: it is to be asked again then, or once whoever has it leaves.
    Wait(Duration),
    /// Nothing was written, and the lane is held as before.
    Refused(Answer),
    /// The lane is to be acquired anew, and its state read again, before anything else.
    Lost(Loss),
    /// It answers what nobody waits for any more.
    Stale,
}

/// When the lease is to be extended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Renewal {
    Now(Request),
    At(Instant),
    /// Nothing is held.
    Never,
}

impl Machine {
    /// The part of a lease after which it is extended: so one attempt may fail.
    pub(super) const PART: u32 = 3;

    pub(super) fn new(lease: Duration) -> Self {
        Machine { lease, phase: Phase::Out(None), previous: None }
    }

    /// Asks for the lane as `owner`, which nobody has been before. What was held is given up.
    pub(super) fn acquire(&mut self, owner: Owner, takeover: bool, start: EntryId) -> Request {
        self.acquire_as(owner, takeover, start, false)
    }

    /// The same for a caller that changes the lane, and mends it.
    pub(super) fn acquire_to_mend(&mut self, owner: Owner, takeover: bool) -> Request {
        self.acquire_as(owner, takeover, EntryId::MIN, true)
    }

    fn acquire_as(&mut self, owner: Owner, takeover: bool, start: EntryId, mends: bool) -> Request {
        let previous = self.previous.replace(owner.clone());
        let request = Request::Acquire { owner, takeover, start, previous, mends };
        self.phase = Phase::Acquiring(request.clone());
        request
    }

    /// What is known of the lane, while it is held and nothing is open about it.
    pub(super) fn held(&self) -> Option<&Hold> {
        match &self.phase {
            Phase::Held(hold) if hold.committing.is_none() => Some(hold),
            _ => None,
        }
    }

    /// Why it is not.
    pub(super) fn loss(&self) -> Option<Loss> {
        match &self.phase {
            Phase::Out(loss) => loss.clone(),
            Phase::Held(Hold { committing: Some(to), .. }) => Some(Loss::Unknown { to: *to }),
            Phase::Acquiring(_) | Phase::Held(_) => None,
        }
    }

    /// Commits what came of the entries up to `to`. An earlier commit that was given up before its
    /// answer came makes it impossible: the lane has to be acquired anew, which fences that commit.
    pub(super) fn commit(&mut self, to: EntryId) -> Result<Request, Option<Loss>> {
        let loss = self.loss();
        match &mut self.phase {
            Phase::Held(hold) if hold.committing.is_none() => {
                hold.committing = Some(to);
                let Hold { grip, commits, position, .. } = hold;
                let (grip, commits, from) = (grip.clone(), *commits, *position);
                Ok(Request::Commit { grip, commits, from, to })
            }
            _ => Err(self.lose(loss)),
        }
    }

    /// Leaves the lane to others. Nothing is committed from now on.
    pub(super) fn release(&mut self) -> Option<Request> {
        let request = match &self.phase {
            Phase::Held(hold) => Some(Request::Release { grip: hold.grip.clone() }),
            Phase::Out(_) | Phase::Acquiring(_) => None,
        };
        self.phase = Phase::Out(None);
        request
    }

    /// Has the next batch end at `end`, whoever is going to process it, unless another end was planned.
    pub(super) fn plan(&self, end: EntryId) -> Option<Request> {
        let hold = self.held()?;
        let plan = Plan { after: hold.position, end };
        Some(Request::Renew { grip: hold.grip.clone(), plan: Some(plan) })
    }

    /// Reads a page of one of the processor's hashes. Its state is to be read like this after acquiring, and
    /// not otherwise: one that was superseded could see what its successor has written, and go on from that
    /// after a failover that has lost it.
    pub(super) fn load(&self, cursor: u64) -> Option<Request> {
        let hold = self.held()?;
        Some(Request::Load { grip: hold.grip.clone(), cursor })
    }

    /// Whether the lease is to be extended. It is while a commit is open, too.
    pub(super) fn renewal(&self, now: Instant) -> Renewal {
        let Phase::Held(hold) = &self.phase else { return Renewal::Never };
        match hold.renewed + self.lease / Self::PART {
            at if at > now => Renewal::At(at),
            _ => Renewal::Now(Request::Renew { grip: hold.grip.clone(), plan: None }),
        }
    }

    /// An attempt to extend the lease has ended, however it did: the next one is due after a while.
    pub(super) fn renewal_tried(&mut self, now: Instant) {
        if let Phase::Held(hold) = &mut self.phase {
            hold.renewed = hold.renewed.max(now);
        }
    }

    /// A lane answers a request that was sent at that time.
    pub(super) fn answered(&mut self, request: &Request, answer: Answer, sent: Instant) -> Outcome {
        match &mut self.phase {
            Phase::Acquiring(asked) if asked == request => {}
            Phase::Held(hold) if hold.grip.owner == *request.owner() => match request {
                // Commits without entries end where the one before has ended.
                Request::Commit { to, commits, .. }
                    if hold.committing == Some(*to) && hold.commits == *commits => {}
                // While a commit is open its own answer says how it ended.
                Request::Renew { .. } if matches!(answer, Answer::Renewed { .. }) => {}
                Request::Renew { plan: None, .. } | Request::Load { .. }
                    if hold.committing.is_none() => {}
                Request::Renew { plan: Some(plan), .. }
                    if hold.committing.is_none() && hold.position == plan.after => {}
                _ => return Outcome::Stale,
            },
            _ => return Outcome::Stale,
        }
        match answer {
            Answer::Held { epoch, position, commits, planned } => {
                let grip = Grip { owner: request.owner().clone(), epoch };
                let planned = planned.filter(|planned| *planned > position);
                let hold =
                    Hold { grip, position, commits, planned, committing: None, renewed: sent };
                self.phase = Phase::Held(hold);
                Outcome::Done
            }
            Answer::Busy { left, .. } => Outcome::Wait(left),
            Answer::Renewed { planned } => {
                if let (Phase::Held(hold), Request::Renew { plan, .. }) = (&mut self.phase, request)
                {
                    hold.renewed = hold.renewed.max(sent);
                    if plan.is_some_and(|plan| plan.after == hold.position) {
                        hold.planned = planned;
                    }
                }
                Outcome::Done
            }
            Answer::Released | Answer::Loaded { .. } => Outcome::Done,
            Answer::Applied { .. } => {
                if let (Phase::Held(hold), Request::Commit { to, .. }) = (&mut self.phase, request)
                {
                    hold.position = *to;
                    hold.commits += 1;
                    hold.planned = None;
                    hold.committing = None;
                    hold.renewed = hold.renewed.max(sent);
                }
                Outcome::Done
            }
            Answer::Fenced { epoch, owner } => {
                let loss = self.fenced(epoch, owner);
                self.lost(loss)
            }
            Answer::Gone => self.lost(Loss::Gone),
            Answer::Broken { error } => self.lost(Loss::Broken { error }),
            Answer::Damaged { field, value } => self.lost(Loss::Damaged { field, value }),
            Answer::Conflict { position, .. } => {
                let expected = match &self.phase {
                    Phase::Held(hold) => hold.position,
                    Phase::Out(_) | Phase::Acquiring(_) => EntryId::MIN,
                };
                self.lost(Loss::Conflict { expected, position })
            }
            Answer::WrongType { .. } | Answer::NotPending { .. } => {
                if let Phase::Held(hold) = &mut self.phase {
                    hold.committing = None;
                } else {
                    self.phase = Phase::Out(None);
                }
                Outcome::Refused(answer)
            }
        }
    }

    /// The server has refused a request before it did anything, and no earlier attempt at it is open.
    pub(super) fn refused(&mut self, request: &Request) {
        match (&mut self.phase, request) {
            (Phase::Held(hold), Request::Commit { .. }) if hold.grip.owner == *request.owner() => {
                hold.committing = None;
            }
            (Phase::Acquiring(asked), _) if asked == request => self.phase = Phase::Out(None),
            _ => {}
        }
    }

    /// A request is not sent again, and nobody knows what has become of it, or will. A commit that is
    /// still on its way can be applied as long as the epoch is this one; so there is to be no other
    /// of its number.
    pub(super) fn gave_up(&mut self, request: &Request) {
        match (&self.phase, request) {
            (Phase::Held(hold), Request::Commit { to, .. })
                if hold.grip.owner == *request.owner() =>
            {
                self.lost(Loss::Unknown { to: *to });
            }
            (Phase::Acquiring(asked), _) if asked == request => self.phase = Phase::Out(None),
            _ => {}
        }
    }

    /// Why a lane that is another's is not this processor's any more.
    pub(super) fn fenced(&self, epoch: u64, owner: Owner) -> Loss {
        match &self.phase {
            Phase::Held(hold) if epoch < hold.grip.epoch => Loss::Rewound { epoch },
            _ => Loss::Fenced { epoch, owner },
        }
    }

    /// The lane is not held any more.
    pub(super) fn lost(&mut self, loss: Loss) -> Outcome {
        self.lose(Some(loss.clone()));
        Outcome::Lost(loss)
    }

    fn lose(&mut self, loss: Option<Loss>) -> Option<Loss> {
        self.phase = Phase::Out(loss.clone());
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its answer counts for nothing while a commit is open, and it is not asked for again at once.
    #[test]
    fn a_renewal_that_is_fenced_beside_a_commit_is_not_repeated_without_a_pause() {
        let (lease, now) = (Duration::from_secs(3), Instant::now());
        let mut machine = Machine::new(lease);
        let asked = machine.acquire(Owner::new("one"), false, EntryId::MIN);
        let (position, commits, planned) = (EntryId::MIN, 0, None);
        let held = Answer::Held { epoch: 1, position, commits, planned };
        assert_eq!(machine.answered(&asked, held, now), Outcome::Done);
        assert!(machine.commit(EntryId::MAX).is_ok());
        let due = now + lease;
        let Renewal::Now(renewal) = machine.renewal(due) else { panic!("it is due") };
        let fenced = Answer::Fenced { epoch: 2, owner: Owner::new("two") };
        assert_eq!(machine.answered(&renewal, fenced, due), Outcome::Stale);
        machine.renewal_tried(due);
        assert_eq!(machine.renewal(due), Renewal::At(due + lease / Machine::PART));
        // An attempt that ends late says nothing of what came after it.
        machine.renewal_tried(now);
        assert_eq!(machine.renewal(due), Renewal::At(due + lease / Machine::PART));
    }
}
