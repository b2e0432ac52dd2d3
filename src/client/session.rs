//! One call's requests, over as many connections as it takes.

use std::time::Duration;

use super::Client;
use super::connection::{Connection, Sink};
use super::retry::{Planned, Retry};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::resp::RawReply;

/// One call's requests, over as many connections as it takes.
pub(crate) struct Session {
    client: Client,
    connection: Option<Connection>,
    retry: Retry,
}

impl Session {
    pub(super) fn new(client: Client) -> Self {
        Session { retry: retry_of(&client), client, connection: None }
    }

    /// The connection, opened where there is none.
    ///
    /// The caller owns it until [`Session::put_back`], so that a future which is dropped half way
    /// closes the connection that owes an answer.
    pub(crate) async fn take_connection(&mut self) -> Result<Connection> {
        self.learn_of_answers();
        let held = self.connection.take().filter(|held| !held.is_superseded());
        let mut connection = match held {
            Some(connection) => connection,
            None => self.client.connect(self.retry.time_to_connect()).await?,
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
        self.retry.succeeded();
        if let Some(patience) = &self.client.patience {
            patience.succeeded();
        }
    }

    /// Waits before the next attempt, or gives the error back. The connection stays, unless the
    /// error says that it is of no more use; then those in the pool are not used again either.
    pub(crate) async fn recover(&mut self, error: Error) -> Result<()> {
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

    async fn exchange<S: Sink, T>(
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
        if let Some(connection) = self.connection.take() {
            self.client.keep(connection);
        }
    }
}
