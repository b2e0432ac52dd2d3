//! Idle connections of one client.
//!
//! A connection is used on the runtime only that it was opened on: no other is told what its socket
//! has to say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::{Handle, Id};

use super::address::Address;
use super::connection::Connection;
use super::credentials::Credentials;
use super::secret::Secret;

/// Connections that wait to be used again, the latest last.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    /// Of the latest login, for errors that quote it.
    password: Option<Secret>,
    generation: Generation,
    /// What sentinels said last.
    master: Option<Master>,
}

/// The master that a sentinel has named.
pub(super) struct Master {
    pub(super) address: Address,
    /// The sentinel's number.
    pub(super) sentinel: usize,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// Connections that were opened since the last failure. Once one of them fails the others are not
/// used again: after a failover, or when a router has forgotten them, all lead nowhere.
#[derive(Clone, Default)]
pub(super) struct Generation {
    marks: Arc<Marks>,
}

#[derive(Default)]
struct Marks {
    retired: AtomicBool,
    superseded: AtomicBool,
}

impl Generation {
    pub(super) fn retire(&self) {
        self.marks.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.marks.retired.load(Ordering::Relaxed)
    }

    /// There is another master: who holds one of these connections gives it up when nothing is owed
    /// on it.
    fn supersede(&self) {
        self.marks.superseded.store(true, Ordering::Relaxed);
        self.retire();
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.marks.superseded.load(Ordering::Relaxed)
    }
}

/// The runtime of the future that asks.
pub(super) fn home() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

impl State {
    /// Gives the connections of the generation before, to be closed.
    fn begin_generation(&mut self) -> Vec<Idle> {
        self.generation = Generation::default();
        std::mem::take(&mut self.idle)
    }
}

impl Pool {
    /// Connections beyond this number are closed.
    const MAX_IDLE: usize = 8;

    fn state(&self) -> MutexGuard<'_, State> {
        // A list of sockets is whole whatever its holder was doing when it panicked.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.generation.is_retired() {
            state.begin_generation();
        }
        state
    }

    /// The generation that new connections belong to.
    pub(super) fn generation(&self) -> Generation {
        self.state().generation.clone()
    }

    /// The number of the sentinel that named the master last: the first to be asked.
    pub(super) fn first_sentinel(&self) -> usize {
        self.state().master.as_ref().map_or(0, |master| master.sentinel)
    }

    /// A sentinel has named the master. Where it is another one than before, no connection to that is
    /// used again; gives the address of the former, and the generation of connections to the new.
    pub(super) fn found_master(&self, master: Master) -> Option<(Address, Generation)> {
        let mut state = self.state();
        let former = state.master.replace(master)?.address;
        if state.master.as_ref().is_some_and(|master| master.address == former) {
            return None;
        }
        state.generation.supersede();
        let idle = state.begin_generation();
        let generation = state.generation.clone();
        drop(state);
        drop(idle);
        Some((former, generation))
    }

    /// These are the latest credentials.
    pub(super) fn logs_in_with(&self, credentials: &Credentials) {
        self.state().password.clone_from(&credentials.password);
    }

    /// The password of the latest login.
    pub(super) fn password(&self) -> Option<Secret> {
        self.state().password.clone()
    }

    /// Whether no connection waits here, of whichever runtime.
    pub(super) fn is_empty(&self) -> bool {
        self.state().idle.is_empty()
    }

    /// A connection that can be used again on this runtime.
    pub(super) fn take(&self) -> Option<Connection> {
        let home = home();
        loop {
            let mut state = self.state();
            let latest = state.idle.iter().rposition(|idle| idle.connection.home == home)?;
            let mut connection = state.idle.remove(latest).connection;
            drop(state);
            if connection.is_reusable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for others, unless it cannot be used again. Of too many the oldest goes.
    pub(super) fn put(&self, mut connection: Connection) {
        if connection.is_reusable() {
            let mut state = self.state();
            let surplus = (state.idle.len() >= Self::MAX_IDLE).then(|| state.idle.remove(0));
            state.idle.push(Idle { connection, since: Instant::now() });
            drop(state);
            drop(surplus);
        }
    }

    /// Closes connections that have been idle since then or longer.
    pub(super) fn expire(&self, then: Instant) {
        self.state().idle.retain(|idle| idle.since > then);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::client::ConnectionOptions;
    use crate::error::{Error, Result};

    /// Connections that need no login, and so no server that answers.
    async fn open(listener: &TcpListener, pool: &Pool, number: usize) -> Result<Vec<Connection>> {
        let port = listener.local_addr().map_err(Error::protocol)?.port();
        let options = ConnectionOptions::parse(&format!("redis://127.0.0.1:{port}"))?;
        let mut opened = Vec::new();
        for _ in 0..number {
            let limit = Duration::from_secs(5);
            opened.push(
                Connection::open(&options, &Credentials::default(), None, pool.generation(), limit)
                    .await?,
            );
        }
        Ok(opened)
    }

    async fn listener() -> Result<TcpListener> {
        TcpListener::bind("127.0.0.1:0").await.map_err(Error::protocol)
    }

    fn taken(pool: &Pool) -> usize {
        std::iter::from_fn(|| pool.take()).count()
    }

    #[tokio::test]
    async fn a_few_are_kept_and_those_that_are_idle_for_long_closed() -> Result<()> {
        let (listener, pool) = (listener().await?, Pool::default());
        open(&listener, &pool, 10).await?.into_iter().for_each(|one| pool.put(one));
        assert_eq!(taken(&pool), 8);
        open(&listener, &pool, 2).await?.into_iter().for_each(|one| pool.put(one));
        let then = Instant::now();
        pool.expire(then - Duration::from_secs(1));
        open(&listener, &pool, 1).await?.into_iter().for_each(|one| pool.put(one));
        pool.expire(then);
        assert_eq!(taken(&pool), 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_connection_is_used_on_its_own_runtime_only() -> Result<()> {
        let (listener, pool) = (listener().await?, Pool::default());
        let mut opened = open(&listener, &pool, 3).await?;
        let elsewhere = tokio::task::spawn_blocking(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.ok().map(|runtime| runtime.handle().id())
        });
        let elsewhere = elsewhere.await.map_err(Error::protocol)?;
        assert!(elsewhere.is_some());
        if let Some(last) = opened.last_mut() {
            last.home = elsewhere;
        }
        opened.into_iter().for_each(|one| pool.put(one));
        assert_eq!(taken(&pool), 2);
        assert!(!pool.is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn of_too_many_the_oldest_go() -> Result<()> {
        let (listener, pool) = (listener().await?, Pool::default());
        let mut opened = open(&listener, &pool, 9).await?;
        for (index, one) in opened.iter_mut().enumerate() {
            one.home = one.home.filter(|_| index > 0);
        }
        opened.into_iter().for_each(|one| pool.put(one));
        // The one without a home is closed, though it cannot be taken.
        assert_eq!(taken(&pool), 8);
        assert!(pool.is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn a_failure_retires_all_that_were_opened_before_it() -> Result<()> {
        let (listener, pool) = (listener().await?, Pool::default());
        let mut opened = open(&listener, &pool, 4).await?;
        let (used, failing) = (opened.pop(), opened.pop());
        opened.into_iter().for_each(|one| pool.put(one));
        failing.iter().for_each(Connection::retire);
        let newer = open(&listener, &pool, 2).await?;
        used.into_iter().chain(newer).for_each(|one| pool.put(one));
        assert_eq!(taken(&pool), 2);
        Ok(())
    }
}
