//! A plain model of a stream and its group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::entry_id::EntryId;

pub(super) fn id(number: u64) -> EntryId {
    EntryId::new(number, 0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Me,
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) owner: Owner,
    pub(super) count: u64,
    pub(super) is_idle: bool,
}

/// A stream and its group.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) last: u64,
    pub(super) deleted: BTreeSet<u64>,
    pub(super) delivered_up_to: u64,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) acknowledged: BTreeSet<u64>,
    pub(super) dead_letters: BTreeSet<u64>,
    pub(super) group_is_gone: bool,
}

/// An element of a reply: an entry, or one that was deleted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    Entry(u64),
    Deleted(u64),
}

impl Server {
    pub(super) fn read_new(&mut self, count: u64) -> VecDeque<Item> {
        let fresh = self.delivered_up_to + 1..=self.last;
        let fresh: Vec<u64> = fresh.filter(|n| !self.deleted.contains(n)).collect();
        let fresh: Vec<u64> = fresh.into_iter().take(count as usize).collect();
        for number in &fresh {
            self.delivered_up_to = *number;
            self.pending.insert(*number, Pending { owner: Owner::Me, count: 1, is_idle: false });
        }
        fresh.into_iter().map(Item::Entry).collect()
    }

    pub(super) fn read_own(&mut self, after: u64, count: u64) -> VecDeque<Item> {
        let own = self.pending.range_mut(after + 1..).filter(|(_, one)| one.owner == Owner::Me);
        let mut reply = VecDeque::new();
        for (number, pending) in own.take(count as usize) {
            if self.deleted.contains(number) {
                reply.push_back(Item::Deleted(*number));
                continue;
            }
            pending.count += 1;
            pending.is_idle = false;
            reply.push_back(Item::Entry(*number));
        }
        reply
    }

    pub(super) fn list_own(&self, from: u64, to: u64, count: usize) -> Vec<(EntryId, u64)> {
        let own = self.pending.range(from..=to).filter(|(_, one)| one.owner == Owner::Me);
        own.take(count).map(|(number, one)| (id(*number), one.count)).collect()
    }

    /// As Redis 7.0: what was deleted leaves the list.
    pub(super) fn claim(&mut self) -> Vec<EntryId> {
        self.pending.retain(|number, _| !self.deleted.contains(number));
        let idle = self.pending.iter_mut().filter(|(_, one)| one.is_idle);
        idle.map(|(number, one)| {
            *one = Pending { owner: Owner::Me, is_idle: false, ..*one };
            id(*number)
        })
        .collect()
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        if self.pending.remove(&number).is_some() {
            self.acknowledged.insert(number);
        }
    }
}
