//! Finding the master: sentinels are asked one after the other, and the server that one names is
//! used if it says itself that it is the master.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use rustls::ClientConfig;
use tokio::time::timeout;

use super::Sentinels;
use super::answers::{check_role, explained, master_address, unknown_master};
use super::failures::Failures;
use crate::client::address::Address;
use crate::client::connection::Connection;
use crate::client::credentials::Credentials;
use crate::client::options::ConnectionOptions;
use crate::client::pool::Generation;
use crate::error::{Error, ErrorKind, Remedy, Result, ServerCode};
use crate::resp::{RawReply, cmd};

/// How long a sentinel, or the server that it named, has before the next sentinel is asked as well.
/// One that hangs, or names a server that is not there any more, holds up nobody for longer.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long those have that have said nothing, when all others have failed. The next attempt may find
/// another master, which is sooner than that one which hangs answers.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// What it takes to open a connection to the master.
pub(in crate::client) struct Search<'a> {
    pub(in crate::client) sentinels: &'a Sentinels,
    pub(in crate::client) options: &'a ConnectionOptions,
    pub(in crate::client) credentials: &'a Credentials,
    pub(in crate::client) tls: Option<Arc<ClientConfig>>,
    pub(in crate::client) generation: Generation,
    /// The number of the sentinel that is asked first.
    pub(in crate::client) first: usize,
}

/// A connection to the master.
pub(in crate::client) struct Found {
    pub(in crate::client) connection: Connection,
    pub(in crate::client) master: Address,
    /// The number of the sentinel that named it.
    pub(in crate::client) sentinel: usize,
}

/// What one step has come to.
enum Step {
    /// What a sentinel said.
    Named(usize, Result<Address>),
    /// What became of the connection to the server that it named.
    Opened(usize, Address, Result<Connection>),
}

type Steps<'s> = FuturesUnordered<Pin<Box<dyn Future<Output = Step> + Send + 's>>>;

impl Search<'_> {
    /// A connection to the master, within `limit`.
    pub(in crate::client) async fn run(&self, limit: Duration) -> Result<Found> {
        let mut failures = Failures::default();
        match timeout(limit, self.search(&mut failures, limit)).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(failures.into_error(self.sentinels)),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "no connection to the master within {:?} (connect_timeout)",
                    self.options.connect_timeout
                ),
            )
            .with_context("sentinels", self.sentinels.to_string())
            // The sentinels may soon name another than the server that hangs.
            .with_remedy(Remedy::Reconnect)),
        }
    }

    /// `None` where all have failed.
    async fn search(&self, failures: &mut Failures, limit: Duration) -> Option<Found> {
        let nodes = &self.sentinels.nodes;
        let first = self.first % nodes.len().max(1);
        let mut ahead: VecDeque<usize> = (0..nodes.len()).collect();
        ahead.rotate_left(first);
        let mut steps: Steps<'_> = FuturesUnordered::new();
        let mut named: Vec<Address> = Vec::new();
        let mut opening = 0_usize;
        loop {
            if steps.is_empty() {
                let sentinel = ahead.pop_front()?;
                steps.push(Box::pin(self.ask(sentinel, limit)));
            }
            let most = match (ahead.is_empty(), opening) {
                (false, _) => Some(HEAD_START),
                (true, 0) if !failures.is_empty() => Some(LAST_CHANCE),
                (true, _) => None,
            };
            match next_step(&mut steps, most).await {
                None => {
                    let sentinel = ahead.pop_front()?;
                    steps.push(Box::pin(self.ask(sentinel, limit)));
                }
                // A server that failed a moment ago is not tried twice.
                Some(Step::Named(_, Ok(address))) if named.contains(&address) => {}
                Some(Step::Named(sentinel, Ok(address))) => {
                    named.push(address.clone());
                    opening += 1;
                    steps.push(Box::pin(self.open(sentinel, address, limit)));
                }
                Some(Step::Named(sentinel, Err(error))) => {
                    if let Some(node) = nodes.get(sentinel) {
                        failures.of_sentinel(node, error);
                    }
                }
                Some(Step::Opened(sentinel, master, Ok(connection))) => {
                    return Some(Found { connection, master, sentinel });
                }
                Some(Step::Opened(_, _, Err(error))) => {
                    opening = opening.saturating_sub(1);
                    failures.of_master(error);
                }
            }
        }
    }

    async fn ask(&self, sentinel: usize, limit: Duration) -> Step {
        let named = match self.sentinels.nodes.get(sentinel) {
            Some(node) => self.name(node, limit).await,
            None => Err(Error::new(ErrorKind::Internal, "there is no such sentinel")),
        };
        Step::Named(sentinel, named)
    }

    /// The master's address by a sentinel's account.
    async fn name(&self, node: &Address, limit: Duration) -> Result<Address> {
        let options = ConnectionOptions {
            address: node.clone(),
            database: 0,
            resp3: false,
            ..self.options.clone()
        };
        let login = &self.sentinels.login;
        let asking = async {
            let mut connection =
                Connection::open(&options, login, self.tls.clone(), Generation::default(), limit)
                    .await?;
            let mut command = cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.sentinels.master);
            answer(&mut connection, &command.get_packed_command()).await
        };
        let answer = asking.await.map_err(|error| {
            let error = login.password.iter().fold(error, Error::without);
            explained(error.with_context("address", node.to_string()))
        })?;
        master_address(&answer)?.ok_or_else(|| unknown_master(&self.sentinels.master))
    }

    async fn open(&self, sentinel: usize, master: Address, limit: Duration) -> Step {
        let opened = self.open_verified(&master, limit).await;
        let opened = opened.map_err(|error| error.with_context("address", master.to_string()));
        Step::Opened(sentinel, master, opened)
    }

    async fn open_verified(&self, master: &Address, limit: Duration) -> Result<Connection> {
        let address = self.options.cluster.address_map.mapped(master, limit).await?;
        let options = ConnectionOptions { address, ..self.options.clone() };
        let (tls, generation) = (self.tls.clone(), self.generation.clone());
        let mut connection =
            Connection::open(&options, self.credentials, tls, generation, limit).await?;
        let mut role = answer(&mut connection, &cmd("ROLE").get_packed_command()).await;
        if is_withheld(&role) {
            // A user who may run few commands may run this one, most likely.
            role = answer(&mut connection, &cmd("HELLO").get_packed_command()).await;
        }
        if !is_withheld(&role) {
            check_role(&role?)?;
        }
        Ok(connection)
    }
}

/// The next step that comes to its end; `None` where that takes longer than `most`.
async fn next_step(steps: &mut Steps<'_>, most: Option<Duration>) -> Option<Step> {
    match most {
        None => steps.next().await,
        Some(most) => timeout(most, steps.next()).await.ok().flatten(),
    }
}

async fn answer(connection: &mut Connection, packed: &[u8]) -> Result<Value> {
    connection.send(packed).await?;
    let mut reply = RawReply::new();
    connection.receive(&mut reply, Some(Duration::ZERO)).await?;
    reply.into_value()
}

/// Whether the user may not ask, or the server does not know the question.
fn is_withheld(answer: &Result<Value>) -> bool {
    let code = answer.as_ref().err().and_then(Error::server_code);
    code.is_some_and(ServerCode::is_withheld)
}
