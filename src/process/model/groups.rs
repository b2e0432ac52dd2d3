//! All that can become of two consumers of one group, explored exhaustively as [the processors of a stream
//! without one](super): an incarnation of a consumer is an epoch of its lane, and what it reads is not fenced,
//! but what it commits is. Entries are delivered, delivered again, and claimed by the other consumer at any time.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::machine::{Machine, Outcome};
use super::super::protocol::{Answer, Owner, Request};
use super::search::{Explore, Extent, explore, print};
use super::server::Server;
use super::{Flaw, LEASE, id};
use crate::entry_id::EntryId;

/// How far is explored.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How often each consumer's lane is asked for.
    acquisitions: [usize; 2],
    entries: usize,
    /// The entries of a batch at most.
    batch: usize,
    /// How often a consumer claims an entry of the other's.
    claims: usize,
    crashes: usize,
    failovers: usize,
    releases: usize,
}

/// What the group knows of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    New,
    PendingTo(usize),
    Acknowledged,
}

/// The server: a lane for each consumer, the group, and what commits have written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Redis {
    lanes: [Server<()>; 2],
    entries: Vec<State>,
    outputs: Vec<usize>,
}

/// A request about a consumer's lane; of a commit the entries that it has outputs for, and acknowledges.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sent {
    consumer: usize,
    request: Request,
    rows: Vec<usize>,
    /// The process sends it once, so it arrives once or not at all, and what comes of it is final.
    once: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    consumer: usize,
    machine: Machine,
    /// What is in hand.
    batch: Vec<usize>,
    /// What it waits for, and the answer once that is on its way.
    waits: Option<(Rc<Sent>, Option<Answer>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    server: Redis,
    replica: Option<Redis>,
    /// Two of the first consumer, as after a crash that was none, and one of the second.
    processes: [Process; 3],
    /// All that was ever sent: it may arrive at any time, and mostly more than once.
    network: Vec<Rc<Sent>>,
    acquisitions: [usize; 2],
    claims: usize,
    crashes: usize,
    failovers: usize,
    releases: usize,
    /// What was wrong with a step.
    fault: Option<&'static str>,
}

/// What was seen on the way.
#[derive(Debug, Default)]
struct Seen {
    answers: BTreeSet<&'static str>,
    finished: bool,
    extent: Extent,
}

impl Redis {
    /// Runs a request, and says what is wrong with what it did.
    fn run(&mut self, sent: &Sent, expired: bool, flaw: Flaw) -> (Answer, Option<&'static str>) {
        let Sent { consumer, request, rows, .. } = sent;
        let before = &self.lanes[*consumer];
        let mut lane = before.clone();
        let answer = lane.run(request, None, expired, flaw);
        let mut fault = None;
        if let (Request::Commit { grip, .. }, Answer::Applied { again: false }) = (request, &answer)
        {
            let is_owner = before.lane.as_ref().is_some_and(|lane| {
                lane.owner.as_ref() == Some(&grip.owner) && lane.epoch == grip.epoch
            });
            if !is_owner {
                fault = Some("one that was superseded has written");
            }
            let is_theirs = |row: &&usize| self.entries[**row] == State::PendingTo(*consumer);
            let mut missing = rows.iter().filter(|row| match flaw {
                Flaw::NoPending => false,
                Flaw::PendingToAnybody => !matches!(self.entries[**row], State::PendingTo(_)),
                _ => !is_theirs(row),
            });
            if let Some(first) = missing.next() {
                let (first, missing) = (id(*first as u64), 1 + missing.count() as u64);
                return (Answer::NotPending { missing, first }, None);
            }
            if !rows.iter().all(|row| is_theirs(&row)) {
                fault = Some("an entry was written by one to whom it is not pending");
            }
            for row in rows {
                self.outputs.push(*row);
                self.entries[*row] = State::Acknowledged;
            }
        }
        self.lanes[*consumer] = lane;
        (answer, fault)
    }
}

impl Process {
    fn new(consumer: usize) -> Self {
        Process { consumer, machine: Machine::new(LEASE), batch: Vec::new(), waits: None }
    }
}

impl World {
    /// The same as one that differs in nothing that matters.
    fn simplify(&mut self) {
        for process in &mut self.processes {
            if process.waits.is_none() && process.machine.held().is_none() {
                *process = Process::new(process.consumer);
            }
        }
        self.server.outputs.sort_unstable();
        self.network.sort_by_cached_key(print);
        self.processes.sort_by_cached_key(|process| (process.consumer, print(process)));
    }
}

struct Explorer {
    bounds: Bounds,
    flaw: Flaw,
    now: Instant,
    seen: Seen,
}

impl Explorer {
    fn explore(bounds: Bounds, flaw: Flaw, limit: Duration) -> Result<Seen, String> {
        let server = Redis {
            lanes: [Server::default(), Server::default()],
            entries: vec![State::New; bounds.entries],
            outputs: Vec::new(),
        };
        let world = World {
            server,
            replica: None,
            processes: [Process::new(0), Process::new(0), Process::new(1)],
            network: Vec::new(),
            acquisitions: [0, 0],
            claims: 0,
            crashes: 0,
            failovers: 0,
            releases: 0,
            fault: None,
        };
        let mut explorer = Explorer { bounds, flaw, now: Instant::now(), seen: Seen::default() };
        explorer.seen.extent = explore(&mut explorer, world, limit)?;
        Ok(explorer.seen)
    }

    /// What is sent arrives, and its answer comes back, or not.
    fn deliver(&mut self, world: &World, sent: &Rc<Sent>, expired: bool, all: &mut Vec<World>) {
        let mut next = world.clone();
        let (answer, fault) = next.server.run(sent, expired, self.flaw);
        next.fault = fault;
        next.network.retain(|other| !sent.once || other != sent);
        self.seen.answers.insert(match &answer {
            Answer::Applied { again: true } => "again",
            Answer::Applied { again: false } => "applied",
            Answer::Fenced { .. } => "fenced",
            Answer::NotPending { .. } => "claimed",
            _ => "other",
        });
        for index in 0..next.processes.len() {
            if let Some((waited, slot @ None)) = &mut next.processes[index].waits
                && waited == sent
            {
                *slot = Some(answer.clone());
                all.push(next.clone());
                next.processes[index].waits = Some((Rc::clone(sent), None));
            }
        }
        all.push(next);
    }

    /// What a process may do.
    fn steps(&mut self, world: &World, index: usize, all: &mut Vec<World>) {
        let process = &world.processes[index];
        if world.crashes < self.bounds.crashes && *process != Process::new(process.consumer) {
            let mut next = world.clone();
            next.crashes += 1;
            next.processes[index] = Process::new(process.consumer);
            all.push(next);
        }
        match &process.waits {
            Some((sent, Some(answer))) => all.push(self.hear(world, index, sent, answer)),
            // The reply is lost, and it is not sent again. That it is sent again, the network shows.
            Some((sent, None)) => {
                let mut next = world.clone();
                let process = &mut next.processes[index];
                (process.waits, process.batch) = (None, Vec::new());
                match self.flaw {
                    Flaw::GoesOn => process.machine.refused(&sent.request),
                    _ => process.machine.gave_up(&sent.request),
                }
                all.push(next);
            }
            None if process.machine.held().is_none() => self.acquire(world, index, all),
            None if process.batch.is_empty() => self.read(world, index, all),
            None => {
                let mut next = world.clone();
                let process = &mut next.processes[index];
                let (position, rows) = (process.machine.held().unwrap().position, &process.batch);
                let rows = rows.clone();
                let request = process.machine.commit(position).unwrap();
                for once in [true, false] {
                    let (request, rows) = (request.clone(), rows.clone());
                    all.push(send(next.clone(), index, request, rows, once));
                }
                // Its handler has failed, say: its entries stay pending.
                let mut next = world.clone();
                next.processes[index].batch.clear();
                all.push(next);
            }
        }
    }

    fn hear(&mut self, world: &World, index: usize, sent: &Sent, answer: &Answer) -> World {
        let mut next = world.clone();
        let process = &mut next.processes[index];
        process.waits = None;
        match process.machine.answered(&sent.request, answer.clone(), self.now) {
            // The lane is asked for again later, as another owner.
            Outcome::Wait(_) => process.machine.gave_up(&sent.request),
            // Another copy may still come, and not be refused then.
            Outcome::Refused(_) if !sent.once && self.flaw != Flaw::TrustsRefusals => {
                process.machine.gave_up(&sent.request);
                process.batch.clear();
            }
            _ => process.batch.clear(),
        }
        let is_in = sent.rows.iter().all(|row| next.server.outputs.contains(row));
        if matches!(answer, Answer::Applied { .. }) && !is_in && next.failovers == 0 {
            next.fault = Some("a commit is said to be in, and is not");
        }
        next
    }

    fn acquire(&mut self, world: &World, index: usize, all: &mut Vec<World>) {
        let mut next = world.clone();
        let process = &mut next.processes[index];
        let asked = &mut next.acquisitions[process.consumer];
        if *asked < self.bounds.acquisitions[process.consumer] {
            *asked += 1;
            let owner = Owner(format!("{}:{asked}", process.consumer));
            let request = process.machine.acquire(owner, false, EntryId::MIN);
            all.push(send(next, index, request, Vec::new(), false));
        }
    }

    /// Through the group, which knows nothing of lanes: what is pending to the consumer, what is new, or what is
    /// pending to the other. Or the lane is left.
    fn read(&mut self, world: &World, index: usize, all: &mut Vec<World>) {
        let consumer = world.processes[index].consumer;
        let entries = &world.server.entries;
        let are = |state| (0..entries.len()).filter(move |entry| entries[*entry] == state);
        let mut give = |batch: &[usize], claims: usize| {
            let mut next = world.clone();
            for entry in batch {
                next.server.entries[*entry] = State::PendingTo(consumer);
            }
            next.claims += claims;
            // The reply is lost.
            all.push(next.clone());
            next.processes[index].batch = batch.to_vec();
            all.push(next);
        };
        let own: Vec<usize> = are(State::PendingTo(consumer)).collect();
        for start in 0..own.len() {
            for end in start + 1..=own.len().min(start + self.bounds.batch) {
                give(&own[start..end], 0);
            }
        }
        let new: Vec<usize> = are(State::New).take(self.bounds.batch).collect();
        for end in 1..=new.len() {
            give(&new[..end], 0);
        }
        if world.claims < self.bounds.claims {
            for entry in are(State::PendingTo(1 - consumer)) {
                give(&[entry], 1);
            }
        }
        if world.releases < self.bounds.releases {
            let mut next = world.clone();
            next.releases += 1;
            let request = next.processes[index].machine.release();
            if let Some(request) = request {
                all.push(send(next, index, request, Vec::new(), false));
            }
        }
    }
}

impl Explore for Explorer {
    type World = World;

    /// Whether each entry has its outputs once, and is acknowledged if and only if it has them.
    fn check(&mut self, world: &World) -> Result<(), &'static str> {
        if let Some(fault) = world.fault {
            return Err(fault);
        }
        for (entry, state) in world.server.entries.iter().enumerate() {
            match world.server.outputs.iter().filter(|output| **output == entry).count() {
                0 if *state == State::Acknowledged => return Err("an entry is lost"),
                1 if *state != State::Acknowledged => return Err("an entry will come again"),
                0 | 1 => {}
                _ => return Err("an entry was applied twice"),
            }
        }
        self.seen.finished |= world.server.outputs.len() == self.bounds.entries;
        Ok(())
    }

    fn next(&mut self, world: &World) -> Vec<World> {
        let mut all = Vec::new();
        for index in 0..world.processes.len() {
            self.steps(world, index, &mut all);
        }
        for sent in &world.network {
            // A copy of an acquisition may arrive again and again, and each time be a new epoch.
            let epoch =
                world.server.lanes[sent.consumer].lane.as_ref().map_or(0, |lane| lane.epoch);
            let most = self.bounds.acquisitions[sent.consumer] as u64;
            let may_expire = epoch <= most && matches!(sent.request, Request::Acquire { .. });
            self.deliver(world, sent, false, &mut all);
            if may_expire {
                self.deliver(world, sent, true, &mut all);
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

/// Puts it on the network, where it stays.
fn send(mut world: World, index: usize, request: Request, rows: Vec<usize>, once: bool) -> World {
    let process = &mut world.processes[index];
    let is_waited_for = !matches!(request, Request::Release { .. });
    let sent = Rc::new(Sent { consumer: process.consumer, request, rows, once });
    process.waits = is_waited_for.then(|| (Rc::clone(&sent), None));
    if !world.network.contains(&sent) {
        world.network.push(sent);
    }
    world
}

/// Nothing but losing and repeating what is sent, leases that expire, and an entry that the other claims.
const QUIET: Bounds = Bounds {
    acquisitions: [1, 1],
    entries: 2,
    batch: 2,
    claims: 1,
    crashes: 0,
    failovers: 0,
    releases: 0,
};
/// Two incarnations, of which one does not know that it was superseded.
const ZOMBIE: Bounds = Bounds { acquisitions: [2, 0], entries: 1, claims: 0, ..QUIET };
/// An entry that is claimed, and claimed back.
const BACK: Bounds = Bounds { claims: 2, ..QUIET };

fn holds(bounds: Bounds, answers: &[&str]) {
    let seen = Explorer::explore(bounds, Flaw::None, Duration::MAX).unwrap();
    assert!(seen.finished, "{seen:?}");
    for answer in answers {
        assert!(seen.answers.contains(answer), "{answer} was not seen: {seen:?}");
    }
}

#[test]
fn each_entry_is_applied_once_whoever_claims_it_and_crashes() {
    holds(Bounds { crashes: 1, ..QUIET }, &["applied", "again", "claimed"]);
}

#[test]
fn each_entry_is_applied_once_by_the_latest_incarnation() {
    holds(Bounds { crashes: 1, ..ZOMBIE }, &["applied", "again", "fenced"]);
}

#[test]
fn each_entry_is_applied_once_through_a_failover_that_loses_commits() {
    let bounds = Bounds { entries: 1, claims: 0, failovers: 1, ..QUIET };
    holds(bounds, &["applied", "again"]);
}

/// As far as it comes in its time: what was explored says how far that was.
#[test]
#[ignore = "takes REDFLOE_TORTURE_SECONDS: make torture"]
fn each_entry_of_a_group_is_applied_once_through_everything() {
    let both = Bounds { acquisitions: [2, 1], claims: 1, ..ZOMBIE };
    let all = [
        BACK,
        Bounds { crashes: 1, ..both },
        Bounds { failovers: 1, ..both },
        Bounds { entries: 2, crashes: 1, ..ZOMBIE },
        Bounds { claims: 3, entries: 3, ..QUIET },
        Bounds { acquisitions: [2, 2], claims: 2, releases: 1, ..ZOMBIE },
        Bounds { entries: 2, claims: 2, ..both },
    ];
    for bounds in all {
        let limit = super::torture() / u32::try_from(all.len()).unwrap();
        let seen = Explorer::explore(bounds, Flaw::None, limit).unwrap();
        println!("{bounds:?}: {seen:?}");
        assert!(seen.finished && seen.answers.contains("again"));
    }
}

/// What the protocol has is needed: without any of it the explorer finds a history that goes wrong.
#[test]
fn each_flaw_of_a_group_is_found() {
    for (flaw, bounds, wrong) in [
        (Flaw::NoPending, QUIET, "an entry was"),
        (Flaw::PendingToAnybody, QUIET, "an entry was written by one to whom it is not pending"),
        (Flaw::NoEpoch, ZOMBIE, "one that was superseded has written"),
        (Flaw::GoesOn, QUIET, "a commit is said to be in, and is not"),
        (
            Flaw::TrustsRefusals,
            Bounds { batch: 1, ..BACK },
            "a commit is said to be in, and is not",
        ),
    ] {
        let found = Explorer::explore(bounds, flaw, Duration::MAX);
        let error = found.expect_err(&format!("{flaw:?} was not found"));
        assert!(error.starts_with(wrong), "{flaw:?}: {error}");
    }
}
