//! Which nodes serve a slot, as a node of the cluster says it. No IO.

use std::sync::Arc;

use redis::Value;

use super::slots::SLOTS;
use crate::client::address::Address;
use crate::error::{Error, Result};
use crate::resp::{Info, number, text};

/// The nodes that serve each slot.
#[derive(Debug, Clone)]
pub(super) struct SlotMap {
    shards: Vec<Arc<Shard>>,
    /// The index of each slot's shard.
    of_slots: Box<[u16]>,
}

/// The nodes that hold the same slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) master: Address,
    pub(super) replicas: Vec<Address>,
}

/// The slots of a shard, both ends inclusive.
type Ranges = Vec<(u16, u16)>;

impl SlotMap {
    const NOBODY: u16 = u16::MAX;
    /// The most shards: Redis advises a thousand masters at most. Looking among more of them would
    /// take the time of a thread that no timeout ends.
    const MOST: usize = 4_096;

    /// A map in which nobody serves a slot.
    pub(super) fn empty() -> Self {
        let of_slots = vec![Self::NOBODY; usize::from(SLOTS)].into_boxed_slice();
        SlotMap { shards: Vec::new(), of_slots }
    }

    /// What a reply to CLUSTER SHARDS (Redis 7.0) says. `asked` is the node that gave it: one that
    /// announces no name of itself may be reached by the name that we know.
    pub(super) fn of_shards(reply: &Value, asked: &Address, tls: bool) -> Result<Self> {
        let mut map = SlotMap::empty();
        check_size(reply)?;
        for shard in Info::each(reply) {
            let slots = shard.get("slots").and_then(Value::as_sequence).unwrap_or_default();
            let slots: Vec<u16> = slots.iter().map(slot).collect::<Option<_>>().ok_or_else(odd)?;
            let ranges = slots.chunks_exact(2).filter_map(|pair| match pair {
                [from, to] => Some((*from, *to)),
                _ => None,
            });
            let (mut masters, mut replicas) = (Vec::new(), Vec::new());
            let nodes = shard.get("nodes").ok_or_else(odd)?;
            for node in Info::each(nodes) {
                let role = node.text("role").ok_or_else(odd)?;
                // One that loads says so when it is asked, and until it has been sent something to
                // replicate a node counts as loading, too.
                let has_failed = node.text("health") == Some(b"fail");
                let Some(address) = address_of_node(node, asked, tls) else { continue };
                match role {
                    b"master" => masters.push((has_failed, address)),
                    _ if !has_failed => replicas.push(address),
                    _ => {}
                }
            }
            // A master that failed may still be listed beside the one that took its place.
            masters.sort_by_key(|(has_failed, _)| *has_failed);
            if let Some((_, master)) = masters.into_iter().next() {
                map.add(Shard { master, replicas }, ranges.collect())?;
            }
        }
        map.checked()
    }

    /// What a reply to CLUSTER SLOTS (Redis 3.0) says.
    pub(super) fn of_slots(reply: &Value, asked: &Address) -> Result<Self> {
        let mut map = SlotMap::empty();
        check_size(reply)?;
        for range in reply.as_sequence().unwrap_or_default() {
            let [from, to, master, replicas @ ..] = range.as_sequence().unwrap_or_default() else {
                return Err(odd());
            };
            let ranges = vec![slot(from).zip(slot(to)).ok_or_else(odd)?];
            let address = |node: &Value| {
                let [host, port, ..] = node.as_sequence()? else { return None };
                let port = u16::try_from(number(port)?).ok()?;
                announced(text(host), port, asked)
            };
            if let Some(master) = address(master) {
                let replicas = replicas.iter().filter_map(address).collect();
                map.add(Shard { master, replicas }, ranges)?;
            }
        }
        map.checked()
    }

    /// A reply that names no slot at all is that of a node which knows no cluster yet.
    fn checked(self) -> Result<Self> {
        match self.shards.is_empty() {
            true => Err(Error::from_server(b"CLUSTERDOWN The node knows of no slots")),
            false => Ok(self),
        }
    }

    fn add(&mut self, shard: Shard, ranges: Ranges) -> Result<()> {
        let index = self.index_of(shard)?;
        for (from, to) in ranges {
            for slot in self.of_slots.iter_mut().take(usize::from(to) + 1).skip(from.into()) {
                *slot = index;
            }
        }
        Ok(())
    }

    fn index_of(&mut self, shard: Shard) -> Result<u16> {
        let known = self.shards.iter().position(|known| **known == shard);
        let index = match known {
            Some(index) => index,
            None if self.shards.len() >= Self::MOST => return Err(odd()),
            None => {
                self.shards.push(Arc::new(shard));
                self.shards.len() - 1
            }
        };
        u16::try_from(index).map_err(|_| odd())
    }

    /// The nodes that serve a slot, if somebody does.
    pub(super) fn shard(&self, slot: u16) -> Option<&Arc<Shard>> {
        let index = *self.of_slots.get(usize::from(slot))?;
        self.shards.get(usize::from(index))
    }

    /// A node has said that another serves the slot now.
    pub(super) fn moved(&mut self, slot: u16, master: Address) {
        let known = self.shards.iter().find(|shard| shard.master == master);
        let shard = known
            .map_or_else(|| Shard { master, replicas: Vec::new() }, |shard| Shard::clone(shard));
        // Beyond the most shards the node is asked again, and says it again.
        let _ = self.add(shard, vec![(slot, slot)]);
    }

    /// The masters, each once, in the order of their first slots.
    pub(super) fn masters(&self) -> Vec<Address> {
        self.first_slots().into_iter().map(|(_, master)| master.clone()).collect()
    }

    /// The first slot of each master.
    pub(super) fn slots_of_masters(&self) -> Vec<u16> {
        self.first_slots().into_iter().map(|(slot, _)| slot).collect()
    }

    fn first_slots(&self) -> Vec<(u16, &Address)> {
        let mut found: Vec<(u16, &Address)> = Vec::new();
        let mut before = None;
        for (slot, index) in (0..SLOTS).zip(&self.of_slots) {
            if before.replace(*index) == Some(*index) {
                continue;
            }
            if let Some(shard) = self.shards.get(usize::from(*index))
                && !found.iter().any(|(_, master)| **master == shard.master)
            {
                found.push((slot, &shard.master));
            }
        }
        found
    }

    /// Whether every slot is served by somebody.
    #[cfg(test)]
    fn is_whole(&self) -> bool {
        self.of_slots.iter().all(|index| *index != Self::NOBODY)
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Address> {
        self.shards.iter().flat_map(|shard| std::iter::once(&shard.master).chain(&shard.replicas))
    }
}

fn slot(value: &Value) -> Option<u16> {
    u16::try_from(number(value)?).ok().filter(|slot| *slot < SLOTS)
}

/// No cluster has more shards or ranges than slots.
fn check_size(reply: &Value) -> Result<()> {
    match reply.as_sequence().is_some_and(|parts| parts.len() > usize::from(SLOTS)) {
        true => Err(odd()),
        false => Ok(()),
    }
}

fn odd() -> Error {
    Error::protocol("what came for a question about the cluster is not what it gives")
}

fn address_of_node(node: Info<'_>, asked: &Address, tls: bool) -> Option<Address> {
    let port = |name| node.number(name).and_then(|port| u16::try_from(port).ok());
    // One that is not there is not listed, or zero.
    let port = if tls { port("tls-port") } else { port("port") }.filter(|port| *port > 0)?;
    let name = |name: &str| node.get(name).and_then(text);
    announced(name("endpoint").or_else(|| name("ip")), port, asked)
}

/// The address that a node announces. Without a host it is that of the node which was asked.
fn announced(host: Option<&[u8]>, port: u16, asked: &Address) -> Option<Address> {
    match host {
        // "?" stands for a name that the node was told to announce and does not have.
        None | Some(b"" | b"?") => match asked {
            Address::Tcp { host, .. } => Some(Address::Tcp { host: host.clone(), port }),
            Address::Unix(_) | Address::Sentinel(_) => None,
        },
        Some(host) => {
            let host = std::str::from_utf8(host).ok()?.to_owned();
            Some(Address::Tcp { host, port })
        }
    }
}

/// The address in a redirection: `host:port`, where the host may be missing and may have colons.
pub(super) fn redirected_to(text: &str, asked: &Address) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    announced(Some(host.as_bytes()), port.parse().ok()?, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn pairs(pairs: &[(&str, Value)]) -> Value {
        Value::Array(pairs.iter().flat_map(|(name, value)| [bulk(name), value.clone()]).collect())
    }

    fn slots(numbers: &[i64]) -> Value {
        Value::Array(numbers.iter().copied().map(Value::Int).collect())
    }

    #[test]
    fn shards_say_who_serves_what() -> Result<()> {
        let node = |port: i64, role: &str, endpoint: Value, health: &str| {
            pairs(&[
                ("id", bulk("x")),
                ("port", Value::Int(port)),
                ("tls-port", Value::Int(port + 100)),
                ("ip", bulk("10.0.0.9")),
                ("endpoint", endpoint),
                ("role", bulk(role)),
                ("health", bulk(health)),
            ])
        };
        let reply = Value::Array(vec![
            pairs(&[
                ("slots", slots(&[0, 99, 200, 16_383])),
                (
                    "nodes",
                    Value::Array(vec![
                        node(3, "master", bulk("gone"), "fail"),
                        node(2, "replica", bulk("b"), "online"),
                        node(1, "master", bulk("a"), "online"),
                        node(4, "replica", bulk("d"), "loading"),
                        node(7, "replica", bulk("e"), "fail"),
                    ]),
                ),
            ]),
            pairs(&[
                ("slots", slots(&[100, 199])),
                ("nodes", Value::Array(vec![node(5, "master", Value::Nil, "online")])),
            ]),
            // A master without slots.
            pairs(&[
                ("slots", slots(&[])),
                ("nodes", Value::Array(vec![node(6, "master", bulk("c"), "online")])),
            ]),
        ]);
        let asked = at("known", 1);
        let map = SlotMap::of_shards(&reply, &asked, false)?;
        let first = Shard { master: at("a", 1), replicas: vec![at("b", 2), at("d", 4)] };
        for slot in [0, 99, 200, 16_383] {
            assert_eq!(map.shard(slot).map(|shard| &**shard), Some(&first), "{slot}");
        }
        // Nothing is announced, but by a number.
        assert_eq!(map.shard(100).map(|shard| &shard.master), Some(&at("10.0.0.9", 5)));
        assert!(map.is_whole());
        assert_eq!(map.masters(), [at("a", 1), at("10.0.0.9", 5)]);
        assert_eq!(map.nodes().count(), 5);
        let map = SlotMap::of_shards(&reply, &asked, true)?;
        assert_eq!(map.shard(0).map(|shard| &shard.master), Some(&at("a", 101)));
        Ok(())
    }

    #[test]
    fn more_than_a_cluster_can_have_is_refused_at_once() {
        let node = |port| Value::Array(vec![bulk("a"), Value::Int(port)]);
        let range = |port| Value::Array(vec![Value::Int(0), Value::Int(1), node(port)]);
        let reply = |ranges| Value::Array((1..=ranges).map(range).collect());
        let asked = at("known", 9);
        assert!(SlotMap::of_slots(&reply(4_096), &asked).is_ok());
        assert!(SlotMap::of_slots(&reply(4_097), &asked).is_err());
        let begun = std::time::Instant::now();
        let many = Value::Array(vec![range(1); 1_000_000]);
        assert!(SlotMap::of_slots(&many, &asked).is_err());
        assert!(SlotMap::of_shards(&many, &asked, false).is_err());
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn slots_say_the_same() -> Result<()> {
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), bulk("id")]);
        let range = |from, to, nodes: &[Value]| {
            Value::Array([&[Value::Int(from), Value::Int(to)], nodes].concat())
        };
        let reply = Value::Array(vec![
            range(0, 9, &[node(bulk("a"), 1), node(bulk("b"), 2)]),
            range(10, 19, &[node(Value::Nil, 3)]),
            range(20, 29, &[node(bulk(""), 4)]),
            range(30, 39, &[node(bulk("?"), 5)]),
            range(40, 49, &[node(bulk("a"), 1), node(bulk("b"), 2)]),
        ]);
        let mut map = SlotMap::of_slots(&reply, &at("known", 9))?;
        let master = |map: &SlotMap, slot| map.shard(slot).map(|shard| shard.master.clone());
        for (slot, address) in [
            (9, Some(at("a", 1))),
            (10, Some(at("known", 3))),
            (29, Some(at("known", 4))),
            (30, Some(at("known", 5))),
            (40, Some(at("a", 1))),
            (50, None),
        ] {
            assert_eq!(master(&map, slot), address, "{slot}");
        }
        assert!(!map.is_whole());
        assert_eq!(map.masters().len(), 4);
        map.moved(9, at("known", 3));
        map.moved(50, at("new", 6));
        assert_eq!(master(&map, 9), Some(at("known", 3)));
        assert_eq!(master(&map, 8), Some(at("a", 1)));
        assert_eq!(master(&map, 50), Some(at("new", 6)));
        Ok(())
    }

    #[test]
    fn a_node_that_knows_no_cluster_yet_is_asked_again() {
        let error = SlotMap::of_slots(&Value::Array(Vec::new()), &at("h", 1)).unwrap_err();
        assert!(error.retryable(), "{error}");
    }

    #[test]
    fn hostile_answers_are_refused() {
        for reply in [
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
            Value::Array(vec![Value::Array(vec![
                Value::Int(0),
                Value::Int(20_000),
                Value::Array(vec![bulk("a"), Value::Int(1)]),
            ])]),
            Value::Array(vec![Value::Array(vec![Value::Int(-1), Value::Int(1), Value::Nil])]),
        ] {
            assert!(SlotMap::of_slots(&reply, &at("h", 1)).is_err(), "{reply:?}");
        }
        let reply = Value::Array(vec![pairs(&[("slots", slots(&[0, 99_999]))])]);
        assert!(SlotMap::of_shards(&reply, &at("h", 1), false).is_err());
    }

    #[test]
    fn a_redirection_names_a_node() {
        let asked = at("known", 1);
        for (text, address) in [
            ("10.0.0.1:7001", Some(at("10.0.0.1", 7001))),
            ("::1:7001", Some(at("::1", 7001))),
            ("[::1]:7001", Some(at("::1", 7001))),
            (":7001", Some(at("known", 7001))),
            ("?:7001", Some(at("known", 7001))),
            ("h", None),
            ("h:x", None),
        ] {
            assert_eq!(redirected_to(text, &asked), address, "{text}");
        }
    }
}
