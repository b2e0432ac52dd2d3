//! Connections to a server: opened, pooled, and replaced when they break.

mod address;
mod address_map;
mod clients;
mod cluster;
mod connection;
mod credentials;
mod exclusive;
mod hosts;
mod options;
#[cfg(feature = "python")]
mod own_runtime;
mod patience;
mod per_process;
mod pool;
mod questions;
mod retry;
mod runtime;
mod scatter;
mod secret;
mod sentinel;
mod session;
mod sink;
mod socket;
mod tls;
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use address::Address;
pub use address_map::{AddressFuture, AddressMapper};
pub use clients::shared_client;
pub use cluster::ReadFrom;
use cluster::{Cluster, Known, Route};
pub(crate) use cluster::{slot_of, tagged};
pub(crate) use connection::Connection;
pub use credentials::{Credentials, CredentialsFuture, CredentialsProvider};
pub(crate) use exclusive::Exclusive;
pub use options::{ConnectionOptions, TlsOptions};
#[cfg(feature = "python")]
pub(crate) use own_runtime::{LentRuntime, OwnRuntime};
use patience::Patience;
pub(crate) use patience::Who;
pub(crate) use per_process::PerProcess;
use pool::{Master, Pool};
pub(crate) use questions::Questions;
pub(crate) use retry::Retry;
pub use runtime::block_on;
#[cfg(feature = "python")]
pub(crate) use runtime::no_runtime;
pub(crate) use runtime::{panicked, spawn};
pub(crate) use scatter::About;
pub(crate) use secret::Secret;
use sentinel::{Found, Search, Sentinels};
pub(crate) use session::Session;
pub(crate) use sink::Sink;
use tls::TlsFiles;
#[cfg(feature = "python")]
pub(crate) use users::User;
pub(crate) use users::Users;

use crate::error::{Error, Result};
use crate::events::Event;

/// A server, and the connections to it that wait to be used again. Clones share them.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// Where requests are tried again without limit.
    patience: Option<Arc<Patience>>,
}

struct Inner {
    options: ConnectionOptions,
    tls: Option<Arc<TlsFiles>>,
    /// A forked child has one of its own: it must neither use its parent's connections nor wait
    /// for a lock that a thread of its parent held.
    pool: PerProcess<Pool>,
    /// The server is known not to have MAXSIZE: it is older than Redis 8.10.
    lacks_max_size: AtomicBool,
    /// The server is known to be a node of a cluster.
    is_cluster: AtomicBool,
    /// It has said that it is not.
    is_alone: AtomicBool,
    /// What is known of the cluster, if it is one.
    cluster: PerProcess<Cluster>,
}

impl Inner {
    fn new(options: ConnectionOptions, tls: Option<Arc<TlsFiles>>) -> Arc<Self> {
        Arc::new(Inner {
            is_cluster: AtomicBool::new(options.cluster.seeds.is_some()),
            options,
            tls,
            pool: PerProcess::new(),
            lacks_max_size: AtomicBool::new(false),
            is_alone: AtomicBool::new(false),
            cluster: PerProcess::new(),
        })
    }
}

impl Client {
    /// A client of the server; connects when it is first used.
    pub fn new(options: ConnectionOptions) -> Self {
        let tls = options.tls.clone().map(|options| Arc::new(TlsFiles::new(options)));
        Client { inner: Inner::new(options, tls), patience: None }
    }

    /// A client of the same server that shares no connection with this one.
    #[cfg(feature = "python")]
    pub(crate) fn apart(&self) -> Self {
        let (options, tls) = (self.options().clone(), self.inner.tls.clone());
        Client { inner: Inner::new(options, tls), patience: None }
    }

    /// The same client for what keeps trying through an outage, unless the options set a limit.
    pub(crate) fn keep_trying(&self, who: Who) -> Self {
        let options = self.options();
        let keeps_trying = options.max_retries.is_none();
        let patience = || Arc::new(Patience::new(who, options.address.to_string()));
        Client { inner: Arc::clone(&self.inner), patience: keeps_trying.then(patience) }
    }

    /// The same client, as patient as that one: for its other requests.
    pub(crate) fn as_patient_as(&self, other: &Client) -> Self {
        Client { inner: Arc::clone(&self.inner), patience: other.patience.clone() }
    }

    /// The same client for one of several servers, whose outages are its own.
    pub(crate) fn of_one_server(&self) -> Self {
        let patience = self.patience.as_ref().map(|patience| Arc::new(patience.of_one()));
        Client { inner: Arc::clone(&self.inner), patience }
    }

    /// Whether it keeps trying through an outage.
    #[cfg(feature = "python")]
    pub(crate) fn keeps_trying(&self) -> bool {
        self.patience.is_some()
    }

    /// The same client for what ends soon.
    pub(crate) fn bounded(&self) -> Self {
        Client { inner: Arc::clone(&self.inner), patience: None }
    }

    /// Whether reads may be sent with MAXSIZE: as long as no server has refused it.
    pub(crate) fn has_max_size(&self) -> bool {
        !self.inner.lacks_max_size.load(Ordering::Relaxed)
    }

    /// The server has refused MAXSIZE.
    pub(crate) fn refused_max_size(&self) {
        self.inner.lacks_max_size.store(true, Ordering::Relaxed);
    }

    /// How the server is reached.
    pub fn options(&self) -> &ConnectionOptions {
        &self.inner.options
    }

    /// A sequence of requests that survives the loss of its connection, for questions that are about
    /// no key.
    pub(crate) fn session(&self) -> Session {
        Session::new(self.clone(), Route::Any)
    }

    /// A sequence of requests about this key, or others of its slot: in a cluster to the master that
    /// serves it, wherever that moves.
    pub(crate) fn session_for(&self, key: &[u8]) -> Session {
        Session::new(self.clone(), self.route(key, false))
    }

    /// The same for reads that change nothing, which may come from a replica where the options say so.
    pub(crate) fn reading_session(&self, key: &[u8]) -> Session {
        Session::new(self.clone(), self.route(key, true))
    }

    /// Where requests about a key go, or reads of it that change nothing.
    fn route(&self, key: &[u8], is_read: bool) -> Route {
        let slot = slot_of(key);
        match self.options().cluster.read_from {
            ReadFrom::Replica if is_read => Route::Replica(slot),
            _ => Route::Slot(slot),
        }
    }

    /// Whether such reads come from replicas.
    pub(crate) fn reads_from_replicas(&self) -> bool {
        self.options().cluster.read_from == ReadFrom::Replica
    }

    /// Whether the server is known to be a node of a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.inner.is_cluster.load(Ordering::Relaxed)
    }

    /// Asks whether the server is a node of a cluster (INFO, Redis 1.0), once. As long as a command
    /// with a key comes first, nobody has to: the answer tells where the key is served.
    pub(crate) async fn looks_like_a_cluster(&self) -> Result<bool> {
        if self.is_cluster() {
            return Ok(true);
        }
        if self.inner.is_alone.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut questions = Questions::default();
        questions.add(&crate::resp::command(&[b"INFO", b"cluster"]));
        let answer = questions.ask(&mut self.session()).await?.pop();
        let answer = answer.and_then(Result::ok);
        let text = answer.as_ref().and_then(crate::resp::text).unwrap_or_default();
        match text.windows(17).any(|part| part == b"cluster_enabled:1") {
            true => self.is_a_cluster(),
            // A user who may not ask is told by the commands themselves.
            false => self.inner.is_alone.store(true, Ordering::Relaxed),
        }
        Ok(self.is_cluster())
    }

    /// A node of a cluster has answered.
    fn is_a_cluster(&self) {
        self.inner.is_cluster.store(true, Ordering::Relaxed);
    }

    /// What is known of the cluster.
    fn cluster(&self) -> &Cluster {
        match self.inner.cluster.get(|| Ok::<_, std::convert::Infallible>(Cluster::default())) {
            Ok(cluster) => cluster,
        }
    }

    /// A client of one node of the cluster.
    fn of_node(&self, address: Address, known: Known) -> Self {
        let cluster = self.options().cluster.of_node(known);
        let options = ConnectionOptions { address, cluster, ..self.options().clone() };
        Client { inner: Inner::new(options, self.inner.tls.clone()), patience: None }
    }

    /// A connection from the pool, or a new one within `limit`.
    async fn connect(&self, limit: Duration) -> Result<Connection> {
        if !self.pool().is_empty() {
            // The runtime of a thread that waits has looked at no socket since that did so last.
            // Now it does, and tells of those that the server has closed.
            tokio::task::yield_now().await;
            if let Some(connection) = self.pool().take() {
                return Ok(connection);
            }
        }
        // In a box, because what it takes to log in is large, and seldom needed.
        Box::pin(self.open(limit)).await
    }

    async fn open(&self, limit: Duration) -> Result<Connection> {
        let tls = self.inner.tls.as_ref().map(|files| files.config()).transpose()?;
        let generation = self.pool().generation();
        let begun = Instant::now();
        let credentials = self.options().current_credentials(limit).await?;
        self.pool().logs_in_with(&credentials);
        let left = || limit.saturating_sub(begun.elapsed());
        let mut options = self.options();
        let mapped;
        if options.cluster.is_announced {
            let address = options.cluster.address_map.mapped(&options.address, left()).await?;
            mapped = ConnectionOptions { address, ..options.clone() };
            options = &mapped;
        }
        let (connection, address) = match options.sentinels() {
            None => {
                let opening = Connection::open(options, &credentials, tls, generation, left());
                (opening.await?, options.address.to_string())
            }
            Some(sentinels) => {
                let first = self.pool().first_sentinel();
                let credentials = &credentials;
                let search = Search { sentinels, options, credentials, tls, generation, first };
                self.joined(search.run(left()).await?, sentinels)
            }
        };
        let event = Event::new("connected").with("address", address);
        event.with("seconds", begun.elapsed()).record();
        Ok(connection)
    }

    /// The connection to the master, and its address. Where the master is another one than before,
    /// it is the first of a new generation.
    fn joined(&self, found: Found, sentinels: &Sentinels) -> (Connection, String) {
        let Found { mut connection, master, sentinel } = found;
        let address = master.to_string();
        if let Some((former, generation)) =
            self.pool().found_master(Master { address: master, sentinel })
        {
            connection.belongs_to(generation);
            Event::new("master_changed")
                .with("master", sentinels.master.clone())
                .with("address", address.clone())
                .with("former", former.to_string())
                .record();
        }
        (connection, address)
    }

    /// Keeps a connection for others.
    fn keep(&self, mut connection: Connection) {
        if connection.stop_asking() {
            self.pool().put(connection);
        }
    }

    /// Closes connections that have been idle since then.
    fn close_idle(&self, then: Instant) {
        self.pool().expire(then);
        if self.is_cluster() {
            self.cluster().close_idle(then);
        }
    }

    /// Whether others have it as well.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    #[cfg(test)]
    fn is_the_same_as(&self, other: &Client) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The error without the password, which a server or something between may quote.
    pub(crate) fn without_password(&self, error: Error) -> Error {
        let error = self.pool().password().iter().fold(error, Error::without);
        let of_sentinels = self.options().sentinels().and_then(Sentinels::password);
        let error = of_sentinels.into_iter().fold(error, Error::without);
        if !self.is_cluster() {
            return error;
        }
        let nodes = self.cluster().clients();
        let passwords = nodes.iter().filter_map(|node| node.pool().password());
        passwords.fold(error, |error, password| error.without(&password))
    }

    fn pool(&self) -> &Pool {
        match self.inner.pool.get(|| Ok::<_, std::convert::Infallible>(Pool::default())) {
            Ok(pool) => pool,
        }
    }
}
