//! Commits that count once they are somewhere else, too.

use std::time::{Duration, Instant};

use redis::Value;

use crate::client::{Client, Exclusive, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{self, Cmd};

/// Where a commit has to be before it counts. Replication is asynchronous: a commit that has reached no
/// replica is lost where the master is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// Replicas that have received it (WAIT, Redis 3.0).
    pub replicas: u32,
    /// Whether the master has written it to disk (WAITAOF, Redis 7.2).
    pub local_aof: bool,
    /// Replicas that have written it to disk (WAITAOF).
    pub replica_aof: u32,
    /// How long that may take.
    pub timeout: Duration,
}

impl Default for Durability {
    /// A commit counts once the master has it.
    fn default() -> Self {
        Durability {
            replicas: 0,
            local_aof: false,
            replica_aof: 0,
            timeout: Duration::from_secs(5),
        }
    }
}

impl Durability {
    /// How long one command waits, at most: the connection is to be heard of now and then.
    const PART: Duration = Duration::from_secs(1);

    /// Whether the server answers what is asked after each commit, so that none is written before that is
    /// known.
    pub(super) async fn check(&self, session: &mut Session) -> Result<()> {
        let mut questions: Vec<&[&[u8]]> = Vec::new();
        if self.replicas > 0 {
            questions.push(&[b"WAIT", b"0", b"1"]);
        }
        match self.local_aof {
            true => questions.push(&[b"WAITAOF", b"1", b"0", b"1"]),
            false if self.replica_aof > 0 => questions.push(&[b"WAITAOF", b"0", b"0", b"1"]),
            false => {}
        }
        for question in questions {
            let asked = session.value(&resp::command(question)).await;
            asked.map_err(|error| match error.server_code() {
                Some(code) if code.is_unknown_command() => error.with_advice(
                    "WAITAOF needs Redis 7.2 or Valkey; without it a commit can only wait for replicas",
                ),
                _ => error,
            })?;
        }
        Ok(())
    }

    /// Returns once what this connection has written is where it has to be. The error within says that it is
    /// not, of the kind [`NotDurable`](ErrorKind::NotDurable), and the connection is as good as before.
    pub(super) async fn wait(&self, connection: &mut Exclusive<'_>) -> Result<Result<()>> {
        if self.replicas > 0 {
            let wanted = [u64::from(self.replicas)];
            let reached = self.until(connection, "WAIT", &wanted, &["replicas"]).await?;
            if reached.is_err() {
                return Ok(reached);
            }
        }
        if self.local_aof || self.replica_aof > 0 {
            let wanted = [u64::from(self.local_aof), u64::from(self.replica_aof)];
            let places = ["disks of the master", "disks of replicas"];
            return self.until(connection, "WAITAOF", &wanted, &places).await;
        }
        Ok(Ok(()))
    }

    async fn until(
        &self,
        connection: &mut Exclusive<'_>,
        command: &str,
        wanted: &[u64],
        places: &[&str],
    ) -> Result<Result<()>> {
        let begun = Instant::now();
        // A connection that is silent for longer than its patience counts as lost.
        let part = Self::PART.min(connection.patience() / 2);
        loop {
            let left = self.timeout.saturating_sub(begun.elapsed());
            // 0 would wait for ever.
            let wait = u64::try_from(left.min(part).as_millis()).unwrap_or(1).max(1);
            let mut asked = Cmd::new();
            asked.arg(command);
            wanted.iter().for_each(|number| {
                asked.arg(*number);
            });
            let packed = asked.arg(wait).get_packed_command();
            let missing = || Error::protocol("WAIT was not answered");
            let answer = match connection.ask(&packed, 1).await?.pop().ok_or_else(missing)? {
                Ok(answer) => answer,
                // The commit is sent again, recognised, and waited for.
                Err(error) if error.retryable() => return Err(error),
                Err(error) => return Ok(Err(in_but(error))),
            };
            let reached: Vec<u64> = match &answer {
                Value::Array(numbers) => numbers.iter().filter_map(resp::number).collect(),
                one => resp::number(one).into_iter().collect(),
            };
            if reached.len() != wanted.len() {
                return Err(Error::protocol("what came for WAIT is not what it gives"));
            }
            let short = wanted.iter().zip(&reached).position(|(wanted, reached)| reached < wanted);
            let Some(short) = short else { return Ok(Ok(())) };
            if begun.elapsed() >= self.timeout {
                let number = |list: &[u64]| list.get(short).copied().unwrap_or_default();
                let message = format!(
                    "the commit is in, but after {:?} only {} of {} {} have it ({command})",
                    self.timeout,
                    number(&reached),
                    number(wanted),
                    places.get(short).copied().unwrap_or_default(),
                );
                return Ok(Err(Error::new(ErrorKind::NotDurable, message)));
            }
        }
    }
}

/// The error of a commit that is in, where nobody has said that it is elsewhere, too.
pub(super) fn in_but(error: Error) -> Error {
    let message = "the commit is in, but the server has not said that it is where it has to be";
    error.reframed(ErrorKind::NotDurable, message)
}

/// The server's `maxmemory-policy`, where that may evict a stream or a processor's state: keys without
/// an expiry (INFO, Redis 1.0). `None` where it may not, or the user may not ask.
///
/// # Errors
///
/// Every kind that connecting can raise.
pub async fn evicting_policy(client: &Client, stream: &[u8]) -> Result<Option<String>> {
    let asked = client.session_for(stream).value(&resp::command(&[b"INFO", b"memory"])).await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) if error.server_code().is_some() && !error.retryable() => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(resp::text(&answer).unwrap_or_default());
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let is_bounded = value("maxmemory:").is_some_and(|bytes| bytes != "0");
    let policy = value("maxmemory_policy:").filter(|policy| policy.starts_with("allkeys-"));
    Ok(policy.filter(|_| is_bounded).map(str::to_owned))
}
