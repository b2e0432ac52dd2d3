//! Connections to a server: opened, pooled, and replaced when they break.

mod clients;
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
mod secret;
mod sentinel;
mod session;
mod tls;
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use clients::shared_client;
pub(crate) use connection::{Connection, Sink};
pub use credentials::{Credentials, CredentialsFuture, CredentialsProvider};
pub(crate) use exclusive::Exclusive;
pub(crate) use options::Address;
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
pub(crate) use runtime::{panicked, spawn};
pub(crate) use secret::Secret;
use sentinel::{Found, Search, Sentinels};
pub(crate) use session::Session;
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
}

impl Inner {
    fn new(options: ConnectionOptions, tls: Option<Arc<TlsFiles>>) -> Arc<Self> {
        let lacks_max_size = AtomicBool::new(false);
        Arc::new(Inner { options, tls, pool: PerProcess::new(), lacks_max_size })
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

    /// A sequence of requests that survives the loss of its connection.
    pub(crate) fn session(&self) -> Session {
        Session::new(self.clone())
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
        let limit = limit.saturating_sub(begun.elapsed());
        let options = self.options();
        let (connection, address) = match options.sentinels() {
            None => {
                let opening = Connection::open(options, &credentials, tls, generation, limit);
                (opening.await?, options.address.to_string())
            }
            Some(sentinels) => {
                let first = self.pool().first_sentinel();
                let credentials = &credentials;
                let search = Search { sentinels, options, credentials, tls, generation, first };
                self.joined(search.run(limit).await?, sentinels)
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
    fn keep(&self, connection: Connection) {
        self.pool().put(connection);
    }

    /// Closes connections that have been idle since then.
    fn close_idle(&self, then: Instant) {
        self.pool().expire(then);
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
        of_sentinels.into_iter().fold(error, Error::without)
    }

    fn pool(&self) -> &Pool {
        match self.inner.pool.get(|| Ok::<_, std::convert::Infallible>(Pool::default())) {
            Ok(pool) => pool,
        }
    }
}
