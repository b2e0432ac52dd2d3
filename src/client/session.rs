//! One call's requests, over as many connections as it takes.

use std::time::{Duration, Instant};

use super::address::Address;
use super::connection::Connection;
use super::retry::{Planned, Retry};
use super::sink::Sink;
use super::{Client, Route, slot_of};
use crate::error::{Error, ErrorKind, Remedy, Result, ServerCode};
use crate::events::Event;
use crate::resp::RawReply;

/// One call's requests, over as many connections as it takes.
pub(crate) struct Session {
    client: Client,
    route: Route,
    /// The node of the cluster that the connection leads to, or led to.
    node: Option<Client>,
    connection: Option<Connection>,
    /// The connection is one for this answer of a node only, which began then.
    asks_since: Option<Instant>,
    /// Where a node has said that the next connection is to lead, and whether ASKING comes first.
    redirected: Option<(Address, bool)>,
    /// How often that was, since something was achieved.
    redirects: u32,
    /// Requests are about several keys of a slot at once.
    is_of_several: bool,
    retry: Retry,
}

impl Session {
    /// Redirections that are followed at once. More of them one after the other are a dispute between
    /// nodes, which takes time.
    const REDIRECTS: u32 = 5;
    /// How long a node that takes over a slot is asked without asking the slot's own node again.
    const ASKING: Duration = Duration::from_secs(1);

    pub(super) fn new(client: Client, route: Route) -> Self {
        Session {
            retry: retry_of(&client),
            client,
            route,
            node: None,
            connection: None,
            asks_since: None,
            redirected: None,
            redirects: 0,
            is_of_several: false,
        }
    }

    /// The same for requests about several keys of the slot at once: while some of them have moved and
    /// others have not, they are waited for, as after TRYAGAIN.
    pub(crate) fn of_several(mut self) -> Self {
        self.are_of_several();
        self
    }

    /// From now on requests are about several keys of the slot at once.
    pub(crate) fn are_of_several(&mut self) {
        self.is_of_several = true;
    }

    /// The connection, opened where there is none.
    ///
    /// The caller owns it until [`Session::put_back`], so that a future which is dropped half way
    /// closes the connection that owes an answer.
    pub(crate) async fn take_connection(&mut self) -> Result<Connection> {
        self.learn_of_answers();
        if self.asks_since.is_some_and(|since| since.elapsed() >= Self::ASKING) {
            self.release();
        }
        let held = self.connection.take().filter(|held| !held.is_superseded());
        let mut connection = match held {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        if let Some(patience) = &self.client.patience
            && !patience.was_answered()
        {
            if !connection.was_answered() {
                let options = self.client.options();
                connection.ping(options, self.retry.time_to_connect()).await?;
            }
            patience.answered();
        }
        self.retry.connected();
        Ok(connection)
    }

    /// Whether the next request goes over the connection that the latest did. Another may lead to
    /// another server, or to one that has lost its latest data.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|held| !held.is_superseded())
    }

    async fn connect(&mut self) -> Result<Connection> {
        match self.client.is_cluster() {
            false => self.client.connect(self.retry.time_to_connect()).await,
            // In a box, because it is large.
            true => Box::pin(self.connect_to_node()).await,
        }
    }

    async fn connect_to_node(&mut self) -> Result<Connection> {
        // What fails before it is known which node serves the key is not the fault of the latest.
        self.node = None;
        self.learn_of_nodes();
        let limit = self.retry.time_to_connect();
        let (begun, cluster) = (Instant::now(), self.client.cluster());
        let (node, asks) = match self.redirected.take() {
            Some((address, asks)) => (cluster.at(&self.client, &address), asks),
            None => (cluster.route(&self.client, self.route, limit).await?, false),
        };
        let limit = match self.retry.was_connected() {
            // To find the node was a request of its own.
            true => limit,
            false => limit.saturating_sub(begun.elapsed()),
        };
        let mut connection = self.node.insert(node).connect(limit).await?;
        self.asks_since = asks.then(Instant::now);
        if asks {
            connection.ask();
        }
        Ok(connection)
    }

    /// Returns once it is known which node of the cluster serves what.
    pub(super) async fn learn_map(&mut self) -> Result<()> {
        loop {
            self.learn_of_nodes();
            let limit = self.retry.time_to_connect();
            match self.client.cluster().refresh(&self.client, limit).await {
                Ok(()) => return Ok(()),
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// Takes note of a redirection that is about something else than what is asked for next.
    pub(crate) fn learn(&mut self, error: &Error) {
        self.follow(error);
        self.redirected = None;
    }

    /// The next request is about this key. A connection to a node that does not serve it is left to
    /// others, as far as is known which node does.
    pub(crate) fn aim(&mut self, key: &[u8], is_read: bool) {
        let stays = match self.connection {
            Some(_) => self.serves(key),
            None => self.is_aimed_at(slot_of(key)),
        };
        if !stays {
            self.release();
            self.redirected = None;
            self.route = self.client.route(key, is_read);
        }
    }

    /// Whether a request about this key goes where the latest went, as far as is known.
    pub(crate) fn serves(&self, key: &[u8]) -> bool {
        if !self.client.is_cluster() {
            return true;
        }
        if self.asks_since.is_some() {
            // The node answers for a key of the slot that it does not have yet as if there were none:
            // only the slot's own node can say which of them have moved.
            return false;
        }
        let slot = slot_of(key);
        if self.is_aimed_at(slot) {
            return true;
        }
        let cluster = self.client.cluster();
        match (&self.node, self.route) {
            (Some(node), _) => cluster.is_served(slot, &node.options().address),
            (None, Route::Slot(aimed) | Route::Replica(aimed)) => {
                cluster.master(slot) == cluster.master(aimed)
            }
            (None, Route::Any) => false,
        }
    }

    fn is_aimed_at(&self, slot: u16) -> bool {
        matches!(self.route, Route::Slot(aimed) | Route::Replica(aimed) if aimed == slot)
    }

    /// Leaves the connection to others.
    pub(crate) fn release(&mut self) {
        self.asks_since = None;
        if let Some(connection) = self.connection.take() {
            self.node.as_ref().unwrap_or(&self.client).keep(connection);
        }
    }

    /// Follows a node that says that another serves the key; says whether that is to be done at once.
    fn follow(&mut self, error: &Error) -> bool {
        let Some(redirect) = error.redirect().filter(|_| error.remedy() == Remedy::Rediscover)
        else {
            return false;
        };
        self.client.is_a_cluster();
        if redirect.asks && self.is_of_several {
            return false;
        }
        self.release();
        let asked = &self.node.as_ref().unwrap_or(&self.client).options().address;
        let address = self.client.cluster().redirected(redirect, asked);
        self.redirected = address.map(|address| (address, redirect.asks));
        // It was about another key than the one before, or of none that anybody knew.
        self.route = match self.route {
            Route::Replica(slot) if slot == redirect.slot => self.route,
            _ => Route::Slot(redirect.slot),
        };
        self.redirects += 1;
        self.redirects <= Self::REDIRECTS
    }

    /// Has the nodes of a cluster asked who serves the key, after an error that may be due to a change.
    fn doubt(&self, error: &Error) {
        if !self.client.is_cluster() || error.remedy() == Remedy::Rediscover {
            return;
        }
        if matches!(self.route, Route::Replica(_))
            && error.server_code().is_some()
            && error.retryable()
        {
            // A replica that loads, or has lost its master: the others serve as well.
            self.client.cluster().failed(self.node.as_ref());
            return;
        }
        match (error.server_code(), error.kind()) {
            (None, ErrorKind::Connection | ErrorKind::Timeout) => {
                self.client.cluster().failed(self.node.as_ref());
            }
            (Some(code), _)
                if code == ServerCode::ClusterDown || error.remedy().needs_connection() =>
            {
                self.client.cluster().failed(None);
            }
            _ => {}
        }
    }

    /// A node of the cluster may have answered before, so that this is not the first connection, whoever
    /// else does not answer: the number of retries decides, as after any other.
    fn learn_of_nodes(&mut self) {
        if self.client.cluster().is_known() {
            self.retry.connected();
        }
    }

    /// The error with the node that it is of, where the server is a cluster.
    pub(crate) fn about_node(&self, error: Error) -> Error {
        match &self.node {
            Some(node) if error.context().iter().all(|(what, _)| *what != "address") => {
                error.with_context("address", node.options().address.to_string())
            }
            _ => error,
        }
    }

    /// The slot whose master it leads to.
    pub(crate) fn slot(&self) -> Option<u16> {
        match self.route {
            Route::Slot(slot) => Some(slot),
            Route::Replica(_) | Route::Any => None,
        }
    }

    /// Another session of the same reader may have been answered since this one was made.
    fn learn_of_answers(&mut self) {
        if self.client.patience.as_ref().is_some_and(|patience| patience.was_answered()) {
            self.retry.connected();
        }
    }

    /// Keeps a connection that nothing is owed to for the next request.
    pub(crate) fn put_back(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// Another call begins: it has all its retries, and its own time to connect.
    pub(crate) fn renew(&mut self) {
        self.retry = retry_of(&self.client);
    }

    /// From now on gives up after a number of retries: somebody waits for the end.
    pub(crate) fn limit_retries(&mut self) {
        if self.client.patience.is_some() {
            self.client = self.client.bounded();
            self.renew();
        }
    }

    /// Something was achieved: retries start over.
    pub(crate) fn succeeded(&mut self) {
        self.redirects = 0;
        self.retry.succeeded();
        if let Some(patience) = &self.client.patience {
            patience.succeeded();
        }
    }

    /// Waits before the next attempt, or gives the error back. The connection stays, unless the
    /// error says that it is of no more use; then those in the pool are not used again either.
    ///
    /// A node of a cluster that names another is followed at once.
    pub(crate) async fn recover(&mut self, error: Error) -> Result<()> {
        if self.follow(&error) {
            return Ok(());
        }
        self.doubt(&error);
        if error.remedy().needs_connection()
            && let Some(connection) = self.connection.take()
        {
            connection.retire();
        }
        self.learn_of_answers();
        let planned = self.retry.plan(self.client.without_password(error))?;
        if let Some(patience) = &self.client.patience {
            patience.failed(&planned.error);
        }
        self.note(&planned);
        tokio::time::sleep(planned.pause).await;
        // The server may have hung up meanwhile.
        if self.connection.as_mut().is_some_and(|connection| !connection.is_reusable()) {
            self.connection = None;
        }
        if self.client.is_cluster() {
            // Another node may serve the key by now.
            self.release();
        }
        Ok(())
    }

    /// Whether the last thing that was achieved is followed by failures.
    pub(crate) fn is_failing(&self) -> bool {
        self.retry.is_failing()
    }

    /// Logs that another attempt is to be made.
    fn note(&self, planned: &Planned) {
        Event::new("retry")
            .with("address", self.client.options().address.to_string())
            .with("error", planned.error.to_string())
            .with("retry", u64::from(planned.retry))
            .with("seconds", planned.pause)
            .record();
    }

    /// Sends a request that may be repeated, as often as it takes, and gives its reply. Each attempt
    /// has a `sink` of its own.
    pub(crate) async fn request<S: Sink, T>(
        &mut self,
        packed: &[u8],
        mut sink: impl FnMut() -> Result<S>,
        finish: impl Fn(S) -> Result<T>,
    ) -> Result<T> {
        let mut has_failed = false;
        loop {
            match self.exchange(packed, Some(Duration::ZERO), sink()?, &finish).await {
                Ok(value) => {
                    // A small question that succeeds says nothing of a read that has failed before.
                    if has_failed {
                        self.succeeded();
                    }
                    return Ok(value);
                }
                Err(error) => {
                    has_failed = true;
                    self.recover(error).await?;
                }
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
        sink: S,
        finish: impl Fn(S) -> Result<T>,
    ) -> Result<T> {
        let value = self.exchange(packed, wait, sink, finish).await?;
        self.succeeded();
        Ok(value)
    }

    /// The same where the reply alone is no progress, which has retries start over.
    pub(crate) async fn exchange<S: Sink, T>(
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
        finish(sink)
    }
}

/// The retries of what this client is for.
fn retry_of(client: &Client) -> Retry {
    let Some(patience) = &client.patience else {
        return Retry::new(client.options());
    };
    let mut retry = Retry::without_limit(client.options());
    if patience.was_answered() {
        retry.connected();
    }
    retry
}

impl Drop for Session {
    /// A connection that nothing is owed to goes back to the pool; any other is closed.
    fn drop(&mut self) {
        self.release();
    }
}
