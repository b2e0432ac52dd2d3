//! Connections to a server: opened, pooled, and replaced when they break.

mod connection;
mod options;
mod per_process;
mod retry;
mod runtime;
mod tls;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;

pub(crate) use connection::{Connection, Sink};
pub use options::{ConnectionOptions, TlsOptions};
pub(crate) use retry::Retry;
#[cfg(feature = "python")]
pub(crate) use runtime::{OwnRuntime, panicked, spawn};
pub use runtime::{block_on, shared_client};

use crate::error::{Error, Result};
use crate::resp::RawReply;

/// A server, and the connections to it that wait to be used again. Clones share them.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    options: ConnectionOptions,
    tls: OnceLock<Arc<ClientConfig>>,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    /// Connections beyond this number are closed when they come back.
    const MAX_IDLE: usize = 8;

    /// A client of the server; connects when it is first used.
    pub fn new(options: ConnectionOptions) -> Self {
        Client {
            shared: Arc::new(Shared {
                options,
                tls: OnceLock::new(),
                idle: Mutex::new(Vec::new()),
            }),
        }
    }

    /// A client of the same server that shares no connection with this one.
    #[cfg(feature = "python")]
    pub(crate) fn apart(&self) -> Self {
        let (options, tls) = (self.options().clone(), self.shared.tls.clone());
        Client { shared: Arc::new(Shared { options, tls, idle: Mutex::new(Vec::new()) }) }
    }

    /// How the server is reached.
    pub fn options(&self) -> &ConnectionOptions {
        &self.shared.options
    }

    /// A sequence of requests that survives the loss of its connection.
    pub(crate) fn session(&self) -> Session {
        Session { client: self.clone(), connection: None, retry: Retry::new(self.options()) }
    }

    /// A connection from the pool, or a new one within `limit`.
    async fn connect(&self, limit: Duration) -> Result<Connection> {
        while let Some(mut connection) = self.idle().pop() {
            if connection.is_reusable() {
                return Ok(connection);
            }
        }
        let tls = match &self.options().tls {
            None => None,
            Some(options) => Some(match self.shared.tls.get() {
                Some(config) => Arc::clone(config),
                None => {
                    let config = tls::configure(options)?;
                    Arc::clone(self.shared.tls.get_or_init(|| config))
                }
            }),
        };
        Connection::open(self.options(), tls, limit).await
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A list of sockets is whole whatever its holder was doing when it panicked.
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call's requests, over as many connections as it takes.
pub(crate) struct Session {
    client: Client,
    connection: Option<Connection>,
    retry: Retry,
}

impl Session {
    /// The connection, opened where there is none.
    ///
    /// The caller owns it until [`Session::put_back`], so that a future which is dropped half way
    /// closes the connection that owes an answer.
    pub(crate) async fn take_connection(&mut self) -> Result<Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.connect(self.retry.time_to_connect()).await?,
        };
        self.retry.connected();
        Ok(connection)
    }

    /// Keeps a connection that nothing is owed to for the next request.
    pub(crate) fn put_back(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// Another call begins: it has all its retries, and its own time to connect.
    pub(crate) fn renew(&mut self) {
        self.retry = Retry::new(self.client.options());
    }

    /// Something was achieved: retries start over.
    pub(crate) fn succeeded(&mut self) {
        self.retry.succeeded();
    }

    /// Waits before the next attempt, or gives the error back. The connection stays, unless the
    /// error says that it is of no more use.
    pub(crate) async fn recover(&mut self, error: Error) -> Result<()> {
        if error.remedy().needs_connection() {
            self.connection = None;
        }
        self.retry.pause(error).await?;
        // The server may have hung up meanwhile.
        if self.connection.as_mut().is_some_and(|connection| !connection.is_reusable()) {
            self.connection = None;
        }
        Ok(())
    }

    /// Sends a request that may be repeated, as often as it takes, and gives its reply.
    pub(crate) async fn request<S: Sink, T>(
        &mut self,
        packed: &[u8],
        sink: impl Fn() -> Result<S>,
        finish: impl Fn(S) -> Result<T>,
    ) -> Result<T> {
        loop {
            match self.attempt(packed, Some(Duration::ZERO), sink()?, &finish).await {
                Ok(value) => return Ok(value),
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// Sends a request that may be repeated, and gives its small reply.
    pub(crate) async fn value(&mut self, packed: &[u8]) -> Result<redis::Value> {
        self.request(packed, || Ok(RawReply::new()), RawReply::into_value).await
    }

    /// Sends a request once and reads its reply into `sink`; the server may think for `wait`.
    pub(crate) async fn attempt<S: Sink, T>(
        &mut self,
        packed: &[u8],
        wait: Option<Duration>,
        mut sink: S,
        finish: impl Fn(S) -> Result<T>,
    ) -> Result<T> {
        let mut connection = self.take_connection().await?;
        connection.send(packed).await?;
        connection.receive(&mut sink, wait).await?;
        self.put_back(connection);
        let value = finish(sink)?;
        self.succeeded();
        Ok(value)
    }
}

impl Drop for Session {
    /// A connection that nothing is owed to goes back to the pool; any other is closed.
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && connection.is_reusable()
        {
            let mut idle = self.client.idle();
            if idle.len() < Client::MAX_IDLE {
                idle.push(connection);
            }
        }
    }
}
