//! The nodes of a cluster, as far as a client knows them, each with its pool of connections.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::Value;

use super::Route;
use super::slot_map::{SlotMap, redirected_to};
use crate::client::address::Address;
use crate::client::{Client, Connection};
use crate::error::{Error, ErrorKind, Redirect, Result, ServerCode};
use crate::events::Event;
use crate::resp::{Packed, RawReply, command};

/// What a client knows of the cluster that it serves. Each process has its own.
pub(in crate::client) struct Cluster {
    state: Mutex<State>,
    /// Held by the one who asks the nodes; others wait a while for what they say.
    refreshing: tokio::sync::Mutex<()>,
}

struct State {
    map: SlotMap,
    /// A node has given the map, and when.
    loaded: Option<Instant>,
    /// Something has failed since, so that the map is not to be trusted.
    is_doubtful: bool,
    /// Slots have moved since.
    has_moved: bool,
    nodes: HashMap<(Address, Known), Node>,
    /// Counts the reads that go to replicas, which take turns.
    turn: usize,
}

/// What a node's address is known by, and what the node is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::client) enum Known {
    /// The user has given it, so that it is used as it is.
    Given,
    /// A node announces it.
    Announced,
    /// The same of one that is read from as a replica.
    Replica,
}

struct Node {
    client: Client,
    /// When it last failed, so that others are asked first.
    failed: Option<Instant>,
}

impl Default for Cluster {
    fn default() -> Self {
        let state = State {
            map: SlotMap::empty(),
            loaded: None,
            is_doubtful: false,
            has_moved: false,
            nodes: HashMap::new(),
            turn: 0,
        };
        Cluster { state: Mutex::new(state), refreshing: tokio::sync::Mutex::default() }
    }
}

impl State {
    /// How long a map stays as it is, so that nodes are not asked by every request that fails.
    const SOON: Duration = Duration::from_millis(50);
    /// How long a map of which slots have moved, which is no hurry: those slots are known.
    const LATER: Duration = Duration::from_secs(1);

    /// Whether nodes are to be asked before the map is used.
    fn is_due(&self) -> bool {
        self.loaded.is_none_or(|loaded| {
            let age = loaded.elapsed();
            (self.is_doubtful && age >= Self::SOON) || (self.has_moved && age >= Self::LATER)
        })
    }
}

impl Cluster {
    /// How long one node may take to say what it knows, so that one that hangs holds up little.
    const ASKED: Duration = Duration::from_secs(1);

    /// How long after a failure of a master nodes are asked whether another has taken its place.
    const REPLACED: Duration = Duration::from_secs(5);

    fn state(&self) -> MutexGuard<'_, State> {
        // What it says is whole whatever its holder was doing when it panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node for a route, after asking the nodes within `limit` where that has to be.
    pub(in crate::client) async fn route(
        &self,
        client: &Client,
        route: Route,
        limit: Duration,
    ) -> Result<Client> {
        self.refresh(client, limit).await?;
        let slot = match route {
            Route::Any => return Ok(self.any(client)),
            Route::Slot(slot) | Route::Replica(slot) => slot,
        };
        let mut state = self.state();
        let Some(shard) = state.map.shard(slot).cloned() else {
            state.is_doubtful = true;
            let line = format!("CLUSTERDOWN Hash slot not served (slot {slot})");
            return Err(Error::from_server(line.as_bytes()));
        };
        let replicas = if let Route::Replica(_) = route { shard.replicas.len() } else { 0 };
        state.turn = state.turn.wrapping_add(1);
        // One that failed a moment ago is left out; the master serves as well.
        let replica = (0..replicas).find_map(|step| {
            let index = state.turn.wrapping_add(step) % replicas;
            let address = shard.replicas.get(index)?;
            let node = state.nodes.get(&(address.clone(), Known::Replica));
            let is_well = node
                .and_then(|node| node.failed)
                .is_none_or(|failed| failed.elapsed() > Self::ASKED);
            is_well.then_some(address)
        });
        Ok(match replica {
            Some(replica) => state.node(client, replica, Known::Replica),
            None => state.node(client, &shard.master, Known::Announced),
        })
    }

    /// A master that has not failed, if there is one: for questions that any answers.
    fn any(&self, client: &Client) -> Client {
        let mut state = self.state();
        let mut masters = state.map.masters();
        masters.sort_by_key(|address| state.failed(address));
        match masters.into_iter().next() {
            Some(first) => state.node(client, &first, Known::Announced),
            None => state.node(client, &client.options().address, Known::Given),
        }
    }

    /// The node that a redirection names.
    pub(in crate::client) fn at(&self, client: &Client, address: &Address) -> Client {
        self.state().node(client, address, Known::Announced)
    }

    /// A slot of each master.
    pub(in crate::client) fn slots_of_masters(&self) -> Vec<u16> {
        self.state().map.slots_of_masters()
    }

    /// The address of the master of a slot, as far as it is known.
    pub(in crate::client) fn master(&self, slot: u16) -> Option<Address> {
        self.state().map.shard(slot).map(|shard| shard.master.clone())
    }

    /// Whether a node serves a slot, as its master or a replica, as far as is known.
    pub(in crate::client) fn is_served(&self, slot: u16, node: &Address) -> bool {
        let state = self.state();
        let shard = state.map.shard(slot);
        shard.is_some_and(|shard| shard.master == *node || shard.replicas.contains(node))
    }

    /// Takes note of a redirection; says where it leads. `asked` is the node that gave it.
    pub(in crate::client) fn redirected(
        &self,
        redirect: &Redirect,
        asked: &Address,
    ) -> Option<Address> {
        let address = redirected_to(&redirect.address, asked)?;
        if !redirect.asks {
            let mut state = self.state();
            state.map.moved(redirect.slot, address.clone());
            state.has_moved = true;
        }
        Some(address)
    }

    /// A request to this node has failed: it may be gone, and another in its place.
    pub(in crate::client) fn failed(&self, node: Option<&Client>) {
        let mut state = self.state();
        state.is_doubtful = true;
        let failed = state.nodes.values_mut().filter(|known| {
            node.is_some_and(|node| node.options().address == known.client.options().address)
        });
        failed.for_each(|node| node.failed = Some(Instant::now()));
    }

    /// Whether a node has said who serves what.
    pub(in crate::client) fn is_known(&self) -> bool {
        self.state().loaded.is_some()
    }

    /// Asks nodes who serves what, where the map is not to be trusted: the first time within the limit of
    /// a connection, later within that of an answer.
    pub(in crate::client) async fn refresh(&self, client: &Client, limit: Duration) -> Result<()> {
        if !self.state().is_due() {
            return Ok(());
        }
        let limit = match self.is_known() {
            true => client.options().response_timeout,
            false => limit,
        };
        let begun = Instant::now();
        // Not for long: who asks them may be a future that nobody goes on with now.
        let waiting = (limit / 2).min(Self::ASKED * 2);
        let _refreshing = tokio::time::timeout(waiting, self.refreshing.lock()).await.ok();
        // Somebody else may have asked meanwhile.
        if !self.state().is_due() {
            return Ok(());
        }
        let mut latest = None;
        for node in self.candidates(client) {
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let within = left.min(Self::ASKED);
            let asking = tokio::time::timeout(within, ask(&node, within));
            match asking.await.unwrap_or_else(|_| Err(no_answer(within))) {
                Ok(map) => {
                    self.learn(map);
                    return Ok(());
                }
                Err(error) if is_no_cluster(&error) => return Err(not_clustered(error)),
                // The login is the same everywhere.
                Err(error) if error.kind() == ErrorKind::Authentication => return Err(error),
                Err(error) => {
                    let mut state = self.state();
                    let asked = &node.options().address;
                    let known = state.nodes.iter_mut().filter(|((address, known), _)| {
                        address == asked && *known != Known::Replica
                    });
                    known.for_each(|(_, node)| node.failed = Some(Instant::now()));
                    latest = Some(error);
                }
            }
        }
        let error = latest.unwrap_or_else(|| no_answer(limit));
        let message = format!("no node of the cluster says who serves what: {}", error.message());
        // One that is silent may be the only one that hangs.
        Err(error.with_message(message).with_retryable(true))
    }

    fn learn(&self, map: SlotMap) {
        let mut state = self.state();
        let masters = map.masters();
        if state.map.masters() != masters {
            let masters: Vec<String> = masters.iter().map(ToString::to_string).collect();
            Event::new("cluster_changed").with("masters", masters).record();
        }
        // Connections to nodes that are gone are closed with them.
        let known: Vec<Address> = map.nodes().cloned().collect();
        state.nodes.retain(|(address, _), _| known.contains(address));
        state.map = map;
        state.loaded = Some(Instant::now());
        // A master that failed is likely to be replaced, of which the others do not know yet.
        state.is_doubtful = state.map.masters().iter().any(|master| {
            state.failed(master).is_some_and(|failed| failed.elapsed() < Self::REPLACED)
        });
        state.has_moved = false;
    }

    /// The nodes to ask, those that failed last: what is known of the cluster, and the URL's.
    fn candidates(&self, client: &Client) -> Vec<Client> {
        let mut state = self.state();
        let announced = state.map.nodes().cloned();
        let mut addresses: Vec<(Address, Known)> =
            announced.map(|address| (address, Known::Announced)).collect();
        let options = client.options();
        let seeds = options.cluster.seeds.iter().flatten();
        for address in std::iter::once(&options.address).chain(seeds) {
            if !addresses.iter().any(|(other, _)| other == address) {
                addresses.push((address.clone(), Known::Given));
            }
        }
        // Not always the same first: its view may be an old one.
        state.turn = state.turn.wrapping_add(1);
        let turn = state.turn.checked_rem(addresses.len()).unwrap_or_default();
        addresses.rotate_left(turn);
        addresses.sort_by_key(|(address, _)| state.failed(address));
        addresses.iter().map(|(address, known)| state.node(client, address, *known)).collect()
    }

    /// Closes connections that have been idle since then.
    pub(in crate::client) fn close_idle(&self, then: Instant) {
        self.clients().iter().for_each(|client| client.close_idle(then));
    }

    /// The clients of the nodes.
    pub(in crate::client) fn clients(&self) -> Vec<Client> {
        self.state().nodes.values().map(|node| node.client.clone()).collect()
    }
}

impl State {
    fn node(&mut self, client: &Client, address: &Address, known: Known) -> Client {
        let key = (address.clone(), known);
        let make = || Node { client: client.of_node(address.clone(), known), failed: None };
        self.nodes.entry(key).or_insert_with(make).client.clone()
    }

    fn failed(&self, address: &Address) -> Option<Instant> {
        let latest = |known| self.nodes.get(&(address.clone(), known)).and_then(|node| node.failed);
        latest(Known::Announced).max(latest(Known::Given))
    }
}

/// Asks one node. CLUSTER SHARDS needs Redis 7.0, CLUSTER SLOTS is older.
async fn ask(node: &Client, limit: Duration) -> Result<SlotMap> {
    let mut connection = node.connect(limit).await?;
    let (asked, tls) = (&node.options().address, node.options().tls.is_some());
    let map = match value(&mut connection, &command(&[b"CLUSTER", b"SHARDS"])).await {
        Ok(reply) => SlotMap::of_shards(&reply, asked, tls)?,
        Err(error) if error.server_code().is_some() && !is_no_cluster(&error) => {
            let slots = command(&[b"CLUSTER", b"SLOTS"]);
            SlotMap::of_slots(&value(&mut connection, &slots).await?, asked)?
        }
        Err(error) => return Err(error),
    };
    node.keep(connection);
    Ok(map)
}

async fn value(connection: &mut Connection, packed: &Packed) -> Result<Value> {
    let mut reply = RawReply::new();
    connection.send(packed).await?;
    connection.receive(&mut reply, Some(Duration::ZERO)).await?;
    reply.into_value()
}

fn is_no_cluster(error: &Error) -> bool {
    error.server_code() == Some(ServerCode::ClusterDisabled)
}

fn not_clustered(error: Error) -> Error {
    error.with_advice("this server is no cluster: its URL begins with redis:// or rediss://")
}

fn no_answer(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no node has answered within {limit:?}"))
}
