//! A reader without IO, which does what its ledger says, and its caller.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::super::{Acknowledge, Ask, Ledger, Others, Terms};
use super::Event;
use super::server::{Item, Owner, Pending, Server, id};
use crate::entry_id::EntryId;

/// A reader without IO, and its caller.
pub(super) struct Reader {
    server: Server,
    ledger: Ledger,
    policy: Acknowledge,
    lists: bool,
    max_deliveries: Option<u64>,
    room: u64,
    now: Instant,
    /// The reply that is on its way, and whether it is one of new entries.
    reply: Option<VecDeque<Item>>,
    waits: bool,
    claims_due: bool,
    rows: Vec<u64>,
    in_hand: BTreeSet<u64>,
    left: BTreeSet<u64>,
    handed_out: BTreeMap<u64, u64>,
    /// Acknowledged by the caller or by policy, and so to be acknowledged by the ledger.
    done: BTreeSet<u64>,
    seen: BTreeSet<u64>,
    /// The greatest ID that came.
    came_up_to: u64,
    rewritten: bool,
    /// The reply to a claim was lost: nobody knows what it took.
    has_lost_claim: bool,
}

impl Reader {
    pub(super) fn new(
        policy: Acknowledge,
        lists: bool,
        max_deliveries: Option<u64>,
        room: u64,
    ) -> Self {
        let terms = Terms {
            acknowledge: policy,
            noack: false,
            lists,
            max_deliveries,
            recreates: true,
            hands_over: lists,
        };
        let mut ledger = Ledger::new(terms);
        ledger.read_own_pending();
        Reader {
            server: Server::default(),
            ledger,
            policy,
            lists,
            max_deliveries,
            room,
            now: Instant::now(),
            reply: None,
            waits: false,
            claims_due: lists,
            rows: Vec::new(),
            in_hand: BTreeSet::new(),
            left: BTreeSet::new(),
            handed_out: BTreeMap::new(),
            done: BTreeSet::new(),
            seen: BTreeSet::new(),
            came_up_to: 0,
            rewritten: false,
            has_lost_claim: false,
        }
    }

    /// Takes `number` elements of the reply; it ends where none are left.
    fn receive(&mut self, number: usize) {
        let Some(mut reply) = self.reply.take() else { return };
        for _ in 0..number {
            match reply.pop_front() {
                Some(Item::Entry(number)) => {
                    self.rows.push(number);
                    self.came_up_to = self.came_up_to.max(number);
                    self.ledger.came([id(number)]);
                }
                Some(Item::Deleted(number)) => self.ledger.came_deleted(vec![id(number)]),
                None => break,
            }
        }
        if reply.is_empty() {
            self.ledger.ended();
        } else {
            self.reply = Some(reply);
        }
    }

    fn acknowledge(&mut self) {
        let ids: Vec<u64> =
            self.ledger.acknowledgements().concat().iter().map(|id| id.ms).collect();
        for number in ids {
            let is_due = self.done.contains(&number) || self.server.deleted.contains(&number);
            assert!(is_due, "{number} is acknowledged and nobody is done with it");
            self.server.acknowledge(number);
        }
    }

    /// One thing that the ledger asks for. The connection may be lost before the server has acted,
    /// or before its answer comes.
    fn step(&mut self, rows: usize, cut: Option<bool>) -> bool {
        if self.reply.is_some() {
            match cut {
                None => self.receive(rows.max(1)),
                Some(_) => self.lose(None),
            }
            return true;
        }
        let room = self.room.saturating_sub(self.rows.len() as u64).max(1);
        let ask = self.ledger.next(self.now, room, self.claims_due, Others::default());
        // Whether what a lost claim took went to a dead connection of this very reader, nobody can
        // tell.
        let is_unclear = ask == Ask::Claim && self.ledger.wakes_at().is_some();
        let cut = cut.filter(|_| !is_unclear);
        let acts = cut != Some(false);
        if self.server.group_is_gone && !matches!(ask, Ask::Flush) {
            self.create_again();
            return true;
        }
        match ask {
            Ask::Flush => self.batch(),
            Ask::Correct => {
                if acts {
                    self.correct();
                }
                if cut.is_none() {
                    self.ledger.corrected();
                }
            }
            Ask::MoveExhausted => {
                // What the server refuses, and what follows it, is asked for again.
                let mut moved = self.ledger.exhausted().to_vec();
                moved.truncate(rows.max(1));
                for (one, count) in moved.iter().filter(|_| acts) {
                    let handed_out = self.handed_out.get(&one.ms).copied().unwrap_or_default();
                    assert_eq!(Some(*count), self.max_deliveries);
                    assert_eq!(handed_out, *count, "dead letters that nobody saw: {one}");
                    let is_mine = |one: &Pending| one.owner == Owner::Me;
                    if self.server.pending.get(&one.ms).is_some_and(is_mine) {
                        self.server.pending.remove(&one.ms);
                        self.server.dead_letters.insert(one.ms);
                    }
                }
                if cut.is_none() {
                    let moved: Vec<EntryId> = moved.iter().map(|(one, _)| *one).collect();
                    self.ledger.failed(&moved);
                }
            }
            Ask::List { from, to } => {
                const PAGE: usize = 5;
                let page = self.server.list_own(from.ms, to.ms, PAGE);
                match cut {
                    None => self.ledger.listed(&page, page.len() < PAGE),
                    Some(_) => self.lose(None),
                }
            }
            Ask::Claim => {
                self.ledger.asked(ask);
                self.claims_due = false;
                let claimed = if acts { self.server.claim() } else { Vec::new() };
                // What is in hand stays there. Who does not learn of the claim of what was left waits
                // until it can be claimed again.
                for one in claimed.iter().filter(|_| cut.is_none()) {
                    self.left.remove(&one.ms);
                }
                match cut {
                    None => self.ledger.claimed(&claimed),
                    Some(_) => {
                        self.has_lost_claim = true;
                        self.lose(None);
                    }
                }
                return !claimed.is_empty();
            }
            Ask::Own { after, count } => {
                assert!(count >= 1 && count <= room);
                self.ask(ask, cut, |server| server.read_own(after.ms, count));
            }
            Ask::New { count } => {
                assert!(count >= 1 && count <= room);
                self.waits = true;
                self.claims_due = self.lists;
                let before = self.server.delivered_up_to;
                self.ask(ask, cut, |server| server.read_new(count));
                return self.server.delivered_up_to > before;
            }
        }
        true
    }

    fn correct(&mut self) {
        for (one, count) in self.ledger.corrections() {
            if let Some(pending) = self.server.pending.get_mut(&one.ms) {
                pending.count = pending.count.min(*count);
            }
        }
    }

    fn ask(
        &mut self,
        ask: Ask,
        cut: Option<bool>,
        read: impl FnOnce(&mut Server) -> VecDeque<Item>,
    ) {
        if cut == Some(false) {
            // Sent, and not known not to have arrived.
            let _ = self.ledger.acknowledgements();
            self.ledger.asked(ask);
            return self.lose(None);
        }
        self.acknowledge();
        self.ledger.asked(ask);
        let reply = read(&mut self.server);
        self.reply = Some(reply);
        if cut.is_some() {
            return self.lose(None);
        }
        self.ledger.acknowledged(0);
        if self.reply.as_ref().is_some_and(VecDeque::is_empty) {
            self.receive(0);
        }
    }

    fn lose(&mut self, blocks_until: Option<Instant>) {
        self.reply = None;
        self.ledger.lost(blocks_until);
    }

    fn half_open(&mut self, number: u64) {
        // Where deliveries count nobody waits who has something to do.
        let has_work = self.lists && self.ledger.has_work();
        if !self.waits || self.reply.is_some() || self.server.group_is_gone || has_work {
            return;
        }
        self.waits = false;
        self.ledger.asked(Ask::New { count: 10 });
        self.lose(Some(self.now + Duration::from_secs(1)));
        // The reader is quicker than what comes.
        for _ in 0..number {
            self.step(9, None);
        }
        self.server.last += number;
        if !self.server.group_is_gone && self.reply.is_none() {
            self.server.read_new(number);
        }
    }

    /// The batch goes to the caller.
    fn batch(&mut self) {
        self.batch_in(1);
    }

    /// The caller asks for more, and so is done with what came before where that is the policy.
    fn caller_asks(&mut self) {
        for number in std::mem::take(&mut self.in_hand) {
            match self.policy {
                Acknowledge::Automatically => drop(self.done.insert(number)),
                _ => drop(self.in_hand.insert(number)),
            }
        }
        self.ledger.asked_for_more();
    }

    fn batch_in(&mut self, parts: usize) {
        self.caller_asks();
        let ids: Vec<EntryId> = self.rows.drain(..).map(id).collect();
        let flushed = self.ledger.flushed(&ids, &[]);
        let handed: Vec<EntryId> = match &flushed.rows {
            Some(rows) => rows.iter().map(|row| ids[*row]).collect(),
            None => ids,
        };
        assert!(handed.is_sorted_by(|one, next| one < next), "{handed:?}");
        let first = if parts > 1 { handed.len() / parts } else { 0 };
        for (row, one) in handed.iter().enumerate() {
            if row == first && row > 0 {
                self.ledger.handed_out_first(&handed[..first]);
                self.caller_asks();
            }
            let number = one.ms;
            assert!(!self.in_hand.contains(&number), "{one} is in hand already");
            assert!(!self.done.contains(&number), "{one} was done with");
            assert!(!self.left.remove(&number), "{one} was left and not claimed");
            let times = self.handed_out.entry(number).or_default();
            *times += 1;
            if self.lists {
                let count = flushed.counts.get(row).copied().unwrap_or(1);
                assert_eq!(count, *times, "{one} is delivered for the nth time");
                if self.max_deliveries == Some(*times) {
                    assert_eq!(handed.len(), 1, "{one} is delivered for the last time");
                }
            }
            self.in_hand.insert(number);
            self.seen.insert(number);
        }
        self.ledger.handed_out(&handed[first..]);
    }

    fn create_again(&mut self) {
        self.rows.clear();
        self.reply = None;
        let after = self.ledger.group_lost().map_or(0, |after| after.ms);
        self.server.group_is_gone = false;
        self.waits = false;
        if std::mem::take(&mut self.rewritten) && self.came_up_to > 0 {
            // One that has passed this reader's position cannot be told from the one before.
            self.server.last = self.server.last.min(self.came_up_to - 1);
            assert!(self.ledger.is_another_stream(Some(id(self.server.last))));
            self.ledger.stream_replaced();
            self.server.delivered_up_to = 0;
            self.came_up_to = 0;
            self.in_hand.clear();
            self.done.clear();
            self.seen.clear();
        } else {
            assert!(!self.ledger.is_another_stream(Some(id(self.server.last))));
            self.server.delivered_up_to = after;
            // What comes again and is in hand stays so; what was left comes again, and has to.
            self.seen = &self.done | &self.in_hand;
        }
        self.left.clear();
        let done = self.done.clone();
        self.handed_out.retain(|number, _| done.contains(number));
    }

    pub(super) fn happens(&mut self, event: Event) {
        match event {
            Event::Add(number) => self.server.last += number,
            Event::Step(rows) => drop(self.step(rows, None)),
            Event::Batch => self.batch(),
            Event::TwoParts => self.batch_in(2),
            Event::Cut(acts) => drop(self.step(0, Some(acts))),
            Event::HalfOpen(number) => self.half_open(number),
            Event::Rewind => {
                self.lose(None);
                self.rows.clear();
                self.ledger.discarded();
            }
            Event::Delete(number) => {
                if number <= self.server.last {
                    self.server.deleted.insert(number);
                }
            }
            Event::Age => {
                self.now += Duration::from_secs(2);
                for one in self.server.pending.values_mut() {
                    one.is_idle = self.lists;
                }
            }
            Event::OtherClaims(number) => {
                // One that is taken between its listing and its reading makes room for an entry
                // which, if that reply is lost too, counts once too often.
                let is_free = !self.in_hand.contains(&number)
                    && !self.rows.contains(&number)
                    && !(self.lists && (self.ledger.has_work() || self.reply.is_some()))
                    // Whether one that went to a dead connection was seen, only its owner knows.
                    && !(self.lists && self.ledger.wakes_at().is_some());
                if let Some(one) = self.server.pending.get_mut(&number).filter(|_| is_free) {
                    // It takes it without having it handed out, so that counts can be compared.
                    // The reader does not learn of it.
                    *one = Pending { owner: Owner::Other, is_idle: false, ..*one };
                }
            }
            Event::OtherReads(number) => {
                if !self.server.group_is_gone {
                    for one in self.server.read_new(number) {
                        let Item::Entry(one) = one else { continue };
                        if let Some(pending) = self.server.pending.get_mut(&one) {
                            pending.owner = Owner::Other;
                        }
                        *self.handed_out.entry(one).or_default() += 1;
                        self.seen.insert(one);
                    }
                }
            }
            Event::OtherAcknowledges(number) => {
                let is_others = |one: &Pending| one.owner == Owner::Other;
                if self.server.pending.get(&number).is_some_and(is_others) {
                    self.server.acknowledge(number);
                }
            }
            Event::Ack(nth) => {
                if let Some(number) = self.nth_in_hand(nth) {
                    self.in_hand.remove(&number);
                    self.done.insert(number);
                    self.server.acknowledge(number);
                    self.ledger.acked(&[id(number)]);
                }
            }
            Event::Leave(nth) => {
                if let Some(number) = self.nth_in_hand(nth) {
                    self.in_hand.remove(&number);
                    self.left.insert(number);
                    self.ledger.left(&[id(number)]);
                }
            }
            Event::LoseGroup => {
                self.server.pending.clear();
                self.server.group_is_gone = true;
            }
            Event::Rewrite(number) => {
                self.server = Server { last: number, group_is_gone: true, ..Server::default() };
                self.rewritten = true;
            }
        }
    }

    fn nth_in_hand(&self, nth: u64) -> Option<u64> {
        self.in_hand.iter().nth(usize::try_from(nth).unwrap() % self.in_hand.len().max(1)).copied()
    }

    /// Lets the reader come to its end: nothing is lost, and nothing that is done with is pending.
    pub(super) fn drain(&mut self) {
        let mut quiet = 0;
        for turn in 0.. {
            assert!(turn < 20_000, "it never ends: {:?}", self.ledger);
            self.now += Duration::from_secs(2);
            let progress = self.step(3, None);
            if self.rows.len() as u64 >= self.room {
                self.batch();
            }
            quiet = if progress || self.ledger.has_work() { 0 } else { quiet + 1 };
            if quiet > 3 {
                break;
            }
        }
        self.batch();
        self.batch();
        self.acknowledge();
        self.ledger.acknowledged(0);
        for number in 1..=self.server.last {
            let server = &self.server;
            let is_accounted_for = self.seen.contains(&number)
                || server.deleted.contains(&number)
                || server.acknowledged.contains(&number)
                || server.pending.get(&number).is_some_and(|one| one.owner == Owner::Other);
            assert!(is_accounted_for, "{number} is lost: {:?}", server.pending.get(&number));
        }
        for (number, one) in &self.server.pending {
            let stays = one.owner == Owner::Other
                || self.in_hand.contains(number)
                || self.left.contains(number)
                || self.server.deleted.contains(number);
            assert!(stays, "{number} is still pending: {one:?}");
        }
    }

    /// The reading ends as it is, or with a batch that the caller does not take: what the server
    /// counts was handed out.
    pub(super) fn end(&mut self, takes: bool) {
        if self.server.group_is_gone {
            return;
        }
        if !takes {
            let before = self.in_hand.clone();
            self.batch();
            let taken = self.in_hand.iter().filter(|number| !before.contains(number));
            let untaken: Vec<u64> = taken.copied().collect();
            let counts: Vec<u64> = untaken.iter().map(|number| self.handed_out[number]).collect();
            let ids: Vec<EntryId> = untaken.iter().copied().map(id).collect();
            self.ledger.not_handed_out(&ids, &counts);
            for number in untaken {
                self.handed_out.entry(number).and_modify(|times| *times -= 1);
                self.in_hand.remove(&number);
            }
        }
        self.reply = None;
        self.ledger.ends();
        for turn in 0.. {
            assert!(turn < 1_000, "it never ends: {:?}", self.ledger);
            match self.ledger.at_the_end() {
                None => break,
                Some(Ask::List { from, to }) => {
                    let page = self.server.list_own(from.ms, to.ms, 5);
                    self.ledger.listed(&page, page.len() < 5);
                }
                Some(ask) => {
                    assert_eq!(ask, Ask::Correct);
                    self.correct();
                    self.ledger.corrected();
                }
            }
        }
        let own = self.server.pending.iter().filter(|(_, one)| one.owner == Owner::Me);
        for (number, one) in own.filter(|(number, _)| !self.server.deleted.contains(number)) {
            let handed_out = self.handed_out.get(number).copied().unwrap_or_default();
            assert_eq!(one.count, handed_out, "{number} is counted as often as it was handed out");
        }
        self.is_handed_over();
    }

    /// What others are to have at once is what nobody has seen.
    fn is_handed_over(&self) {
        let unseen: BTreeSet<u64> = self.ledger.unseen().iter().map(|id| id.ms).collect();
        let seen = &(&self.in_hand | &self.left) | &self.done;
        assert!(unseen.is_disjoint(&seen), "{unseen:?} are handed over, and {seen:?} were seen");
        let is_mine = |(number, one): &(&u64, &Pending)| {
            let is_spent = self.max_deliveries.is_some_and(|most| one.count >= most);
            one.owner == Owner::Me && !is_spent && !self.server.deleted.contains(number)
        };
        for (number, one) in self.server.pending.iter().filter(is_mine) {
            let is_known = unseen.contains(number) || seen.contains(number);
            assert!(is_known || self.has_lost_claim, "{number} stays: {one:?}");
        }
    }
}
