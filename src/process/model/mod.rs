//! All that can become of two processors of one name, explored exhaustively: the machine that runs in
//! production, against a model of the scripts, over a network that loses, delays and repeats what is
//! sent at any time, through crashes, leases that expire whenever the clocks like, and a failover to a
//! replica that lags.
//!
//! The inputs are the numbers 1, 2, 3. A processor's state is their sum, and of each it writes the
//! number and the sum up to it: so what is written shows whether its state was the right one.

mod agreement;
mod groups;
mod search;
mod server;
mod tests;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::machine::{Loss, Machine, Outcome};
use super::protocol::{Answer, Owner, Request};
use crate::entry_id::EntryId;
use search::{Explore, Extent, explore, print};
use server::Server;

/// Something that the protocol needs is left out, which the explorer must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Flaw {
    None,
    /// Scripts do not look who the owner is.
    NoEpoch,
    /// They do not look where the commit begins.
    NoSequence,
    /// After a commit that was given up, another of its number is sent.
    GoesOn,
    /// State is read before the lane is acquired.
    ReadsEarly,
    /// It is read after that, without looking whether the lane is still the reader's.
    ReadsBlindly,
    /// An end is planned whatever batch it is of, and whether or not one was.
    PlansAnew,
    /// Entries are acknowledged whether or not they are pending.
    NoPending,
    /// They are acknowledged where they are pending to another consumer as well.
    PendingToAnybody,
    /// A commit that was refused is not fenced, although a copy of it may still be on its way.
    TrustsRefusals,
}

/// How far is explored.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How often a lane is asked for, by anybody.
    acquisitions: usize,
    inputs: u64,
    crashes: usize,
    failovers: usize,
    releases: usize,
    /// Heartbeats that are sent.
    renewals: usize,
    /// Ends of batches that are planned; where there are any, no other batch is handed out.
    plans: usize,
    /// Commits without an input.
    idles: usize,
}

/// What a commit writes: the sum, and a row for each input; or, without one, a number that it counts up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Content {
    sum: u64,
    rows: Vec<(u64, u64)>,
    idles: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sent {
    request: Request,
    content: Option<Content>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    machine: Machine,
    /// The sum that it has read, or made.
    sum: Option<u64>,
    /// How many commits without an input there were, read with the sum.
    idles: u64,
    /// What it waits for, and the answer once that is on its way.
    waits: Option<(Rc<Sent>, Option<Answer>)>,
    /// The same of its heartbeat, which goes its own way.
    beats: Option<(Rc<Sent>, Option<Answer>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    server: Server<Content>,
    replica: Option<Server<Content>>,
    processes: [Process; 2],
    /// All that was ever sent: it may arrive at any time, and more than once.
    network: Vec<Rc<Sent>>,
    acquisitions: usize,
    crashes: usize,
    failovers: usize,
    releases: usize,
    renewals: usize,
    plans: usize,
    idles: usize,
    /// After which input a batch that was handed out begins, and with which it ends.
    handed_out: BTreeSet<(u64, u64)>,
}

/// What was seen on the way, so that a test can tell that the worst was.
#[derive(Debug, Default)]
struct Seen {
    answers: BTreeSet<&'static str>,
    losses: BTreeSet<&'static str>,
    finished: bool,
    /// There was a commit without an input.
    idle: bool,
    extent: Extent,
}

const LEASE: Duration = Duration::from_secs(3);

fn id(number: u64) -> EntryId {
    EntryId::new(number, 0)
}

fn sum_to(number: u64) -> u64 {
    (1..=number).sum()
}

impl Process {
    fn new() -> Self {
        Process { machine: Machine::new(LEASE), sum: None, idles: 0, waits: None, beats: None }
    }
}

impl World {
    /// The same as one that differs in nothing that matters: in the order of what was sent, in which
    /// processor is the first, or in why it has lost its lane.
    fn simplify(&mut self) {
        for process in &mut self.processes {
            let Process { machine, waits, beats, .. } = process;
            if waits.is_none() && beats.is_none() && machine.held().is_none() {
                *process = Process::new();
            }
        }
        self.network.sort_by_cached_key(print);
        self.processes.sort_by_cached_key(print);
    }
}

struct Explorer {
    bounds: Bounds,
    flaw: Flaw,
    now: Instant,
    seen: Seen,
}

impl Explorer {
    /// Everything that can be reached; the first world in which something is wrong, if any.
    fn explore(bounds: Bounds, flaw: Flaw) -> Result<Seen, String> {
        Explorer::explore_for(bounds, flaw, Duration::MAX)
    }

    /// The same for so long at most: first what takes the fewest steps.
    fn explore_for(bounds: Bounds, flaw: Flaw, limit: Duration) -> Result<Seen, String> {
        let world = World {
            server: Server { lane: None, contents: Vec::new() },
            replica: None,
            processes: [Process::new(), Process::new()],
            network: Vec::new(),
            acquisitions: 0,
            crashes: 0,
            failovers: 0,
            releases: 0,
            renewals: 0,
            plans: 0,
            idles: 0,
            handed_out: BTreeSet::new(),
        };
        let mut explorer = Explorer { bounds, flaw, now: Instant::now(), seen: Seen::default() };
        explorer.seen.extent = explore(&mut explorer, world, limit)?;
        Ok(explorer.seen)
    }
}

impl Explore for Explorer {
    type World = World;

    /// Whether each batch that was handed out again was the same, and what the server has equals what one
    /// undisturbed processor would have written.
    fn check(&mut self, world: &World) -> Result<(), &'static str> {
        let begins: BTreeSet<u64> = world.handed_out.iter().map(|(after, _)| *after).collect();
        if begins.len() < world.handed_out.len() {
            return Err("a batch was handed out again, and ended elsewhere");
        }
        let Some(lane) = &world.server.lane else { return Ok(()) };
        let at = lane.position.ms;
        let rows = world.server.contents.iter().flat_map(|content| content.rows.iter().copied());
        if !rows.eq((1..=at).map(|number| (number, sum_to(number)))) {
            return Err("the outputs are not those of a serial run");
        }
        if world.server.contents.last().map_or(0, |content| content.sum) != sum_to(at) {
            return Err("the state is not that of a serial run");
        }
        let idles = world.server.contents.iter().filter(|content| content.rows.is_empty());
        if !idles.map(|content| content.idles).eq(1..=last_idles(&world.server)) {
            return Err("commits without an input are not those of a serial run");
        }
        self.seen.idle |= last_idles(&world.server) > 0;
        self.seen.finished |= at == self.bounds.inputs;
        for process in &world.processes {
            let Some(hold) = process.machine.held() else { continue };
            let is_owner =
                lane.owner.as_ref() == Some(&hold.grip.owner) && lane.epoch == hold.grip.epoch;
            if is_owner && world.failovers == 0 && lane.position != hold.position {
                return Err("the owner is wrong about the position");
            }
        }
        Ok(())
    }

    fn next(&mut self, world: &World) -> Vec<World> {
        let mut all = Vec::new();
        for index in 0..world.processes.len() {
            self.steps(world, index, &mut all);
        }
        // A copy of an acquisition may arrive again and again, and each time be a new epoch: once more than
        // there are acquisitions, here.
        let epoch = world.server.lane.as_ref().map_or(0, |lane| lane.epoch);
        let may_take = epoch <= u64::try_from(self.bounds.acquisitions).unwrap();
        for sent in &world.network {
            for expired in [false, true] {
                if expired && !(may_take && matches!(sent.request, Request::Acquire { .. })) {
                    continue;
                }
                self.deliver(world, sent, expired, &mut all);
            }
        }
        if world.failovers < self.bounds.failovers {
            let mut next = world.clone();
            match &world.replica {
                None => next.replica = Some(world.server.clone()),
                Some(replica) => {
                    next.server = replica.clone();
                    next.replica = None;
                    next.failovers += 1;
                }
            }
            all.push(next);
        }
        all.iter_mut().for_each(World::simplify);
        all
    }
}

impl Explorer {
    /// What is sent arrives, and its answer comes back, or not.
    fn deliver(&mut self, world: &World, sent: &Rc<Sent>, expired: bool, all: &mut Vec<World>) {
        let mut next = world.clone();
        let (request, content) = (&sent.request, sent.content.clone());
        let answer = next.server.run(request, content, expired, self.flaw);
        self.seen.answers.insert(match &answer {
            Answer::Held { .. } => "held",
            Answer::Busy { .. } => "busy",
            Answer::Applied { again: true } => "again",
            Answer::Applied { again: false } => "applied",
            Answer::Fenced { .. } => "fenced",
            Answer::Conflict { .. } => "conflict",
            _ => "other",
        });
        all.push(next.clone());
        for index in 0..next.processes.len() {
            let mut heard = next.clone();
            let process = &mut heard.processes[index];
            let slot = match (&mut process.waits, &mut process.beats) {
                (Some((waited, slot @ None)), _) | (_, Some((waited, slot @ None)))
                    if waited == sent =>
                {
                    slot
                }
                _ => continue,
            };
            *slot = Some(answer.clone());
            all.push(heard);
        }
    }

    /// What a processor may do.
    fn steps(&mut self, world: &World, index: usize, all: &mut Vec<World>) {
        let process = &world.processes[index];
        let with = |change: &mut dyn FnMut(&mut World, &mut Process)| {
            let mut next = world.clone();
            let mut process = process.clone();
            change(&mut next, &mut process);
            next.processes[index] = process;
            next
        };
        if world.crashes < self.bounds.crashes && *process != Process::new() {
            all.push(with(&mut |world, process| {
                world.crashes += 1;
                *process = Process::new();
            }));
        }
        match &process.beats {
            Some((sent, Some(answer))) => all.push(with(&mut |_, process| {
                let request = &sent.request;
                let outcome = process.machine.answered(request, answer.clone(), self.now);
                self.note(&outcome);
                process.beats = None;
            })),
            Some((_, None)) => all.push(with(&mut |_, process| process.beats = None)),
            None if world.renewals < self.bounds.renewals => {
                let later = self.now + LEASE;
                if let super::machine::Renewal::Now(request) = process.machine.renewal(later) {
                    all.push(with(&mut |world, process| {
                        world.renewals += 1;
                        let sent = Rc::new(Sent { request: request.clone(), content: None });
                        send(world, &sent);
                        process.beats = Some((sent, None));
                    }));
                }
            }
            None => {}
        }
        match &process.waits {
            Some((sent, Some(answer))) => all.push(with(&mut |_, process| {
                self.hear(process, sent, answer.clone());
            })),
            // The reply is lost, and it is not sent again. That it is sent again, the network shows.
            Some((sent, None)) => all.push(with(&mut |_, process| {
                process.waits = None;
                match self.flaw {
                    Flaw::GoesOn => process.machine.refused(&sent.request),
                    _ => process.machine.gave_up(&sent.request),
                }
            })),
            None => self.idle(world, index, all),
        }
    }

    fn hear(&mut self, process: &mut Process, sent: &Sent, answer: Answer) {
        process.waits = None;
        let outcome = process.machine.answered(&sent.request, answer, self.now);
        self.note(&outcome);
        match (outcome, &sent.content) {
            (Outcome::Done, Some(content)) => {
                (process.sum, process.idles) = (Some(content.sum), content.idles);
            }
            // The lane is asked for again later, as another owner.
            (Outcome::Wait(_), _) => process.machine.gave_up(&sent.request),
            _ => {}
        }
    }

    fn note(&mut self, outcome: &Outcome) {
        if let Outcome::Lost(loss) = outcome {
            self.seen.losses.insert(match loss {
                Loss::Fenced { .. } => "fenced",
                Loss::Rewound { .. } => "rewound",
                Loss::Conflict { .. } => "conflict",
                Loss::Gone => "gone",
                Loss::Unknown { .. } => "unknown",
                Loss::Broken { .. } => "broken",
                Loss::Damaged { .. } => "damaged",
            });
        }
    }

    /// What a processor may do that waits for nothing.
    fn idle(&mut self, world: &World, index: usize, all: &mut Vec<World>) {
        let process = &world.processes[index];
        let stored = || world.server.contents.last().map_or(0, |content| content.sum);
        let Some(hold) = process.machine.held() else {
            if world.acquisitions < self.bounds.acquisitions {
                // That it may take over is to the server as if the lease had expired.
                let mut next = world.clone();
                next.acquisitions += 1;
                let owner = Owner(next.acquisitions.to_string());
                let process = &mut next.processes[index];
                process.sum = (self.flaw == Flaw::ReadsEarly).then(stored);
                process.idles = last_idles(&world.server);
                let request = process.machine.acquire(owner, false, EntryId::MIN);
                let sent = Rc::new(Sent { request, content: None });
                process.waits = Some((Rc::clone(&sent), None));
                send(&mut next, &sent);
                all.push(next);
            }
            return;
        };
        let Some(sum) = process.sum else {
            // One script; that its reply may be late changes nothing, since nobody else waits for it.
            let mut next = world.clone();
            let process = &mut next.processes[index];
            let request = process.machine.load(0).unwrap();
            let answer = next.server.run(&request, None, false, self.flaw);
            let outcome = process.machine.answered(&request, answer, self.now);
            self.note(&outcome);
            match outcome {
                Outcome::Done => {
                    process.sum = Some(stored());
                    process.idles = last_idles(&world.server);
                }
                Outcome::Lost(_) => {}
                outcome => panic!("a load was answered, and what came of it is {outcome:?}"),
            }
            all.push(next);
            return;
        };
        let from = hold.position.ms;
        let mut ends = from + 1..=self.bounds.inputs.min(from + 2);
        if self.bounds.plans > 0 {
            let Some(planned) = hold.planned else {
                if world.plans < self.bounds.plans {
                    all.extend(ends.map(|end| {
                        let mut next = world.clone();
                        next.plans += 1;
                        let process = &mut next.processes[index];
                        let request = process.machine.plan(id(end)).unwrap();
                        let sent = Rc::new(Sent { request, content: None });
                        process.waits = Some((Rc::clone(&sent), None));
                        send(&mut next, &sent);
                        next
                    }));
                }
                return;
            };
            ends = planned.ms..=planned.ms;
        }
        for to in ends {
            let mut next = world.clone();
            if self.bounds.plans > 0 {
                next.handed_out.insert((from, to));
            }
            let process = &mut next.processes[index];
            let mut rows = Vec::new();
            let mut total = sum;
            for number in from + 1..=to {
                total += number;
                rows.push((number, total));
            }
            let idles = process.idles;
            let Ok(request) = process.machine.commit(id(to)) else { continue };
            let content = Some(Content { sum: total, rows, idles });
            let sent = Rc::new(Sent { request, content });
            process.waits = Some((Rc::clone(&sent), None));
            send(&mut next, &sent);
            all.push(next);
        }
        if world.idles < self.bounds.idles {
            let mut next = world.clone();
            next.idles += 1;
            let process = &mut next.processes[index];
            let content = Content { sum, rows: Vec::new(), idles: process.idles + 1 };
            if let Ok(request) = process.machine.commit(id(from)) {
                let sent = Rc::new(Sent { request, content: Some(content) });
                process.waits = Some((Rc::clone(&sent), None));
                send(&mut next, &sent);
                all.push(next);
            }
        }
        if world.releases < self.bounds.releases {
            let mut next = world.clone();
            next.releases += 1;
            let process = &mut next.processes[index];
            process.sum = None;
            if let Some(request) = process.machine.release() {
                send(&mut next, &Rc::new(Sent { request, content: None }));
            }
            all.push(next);
        }
    }
}

fn last_idles(server: &Server<Content>) -> u64 {
    server.contents.last().map_or(0, |content| content.idles)
}

/// Puts it on the network, where it stays.
fn send(world: &mut World, sent: &Rc<Sent>) {
    if !world.network.contains(sent) {
        world.network.push(Rc::clone(sent));
    }
}

/// How long a test may take that explores as far as it comes.
fn torture() -> Duration {
    let seconds = std::env::var("REDFLOE_TORTURE_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(120))
}
