//! What a lane and its heartbeat have in common: the machine, attempts at requests, and errors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::durability::Durability;
use super::machine::{Loss, Machine, Outcome, Renewal};
use super::protocol::{Answer, Request};
use super::script::{Arguments, Caller, Script};
use crate::client::{Client, Exclusive, Session, Who};
use crate::error::{Error, ErrorKind, Result, shorten};

/// What a lane and its heartbeat have in common.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) stream: Vec<u8>,
    pub(super) name: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) lease: Duration,
    pub(super) machine: Mutex<Machine>,
    pub(super) caller: Caller,
    /// The heartbeat is to look again.
    pub(super) changed: Notify,
    pub(super) ended: AtomicBool,
}

/// One attempt at a request.
pub(super) struct Attempt<'a> {
    pub(super) request: &'a Request,
    pub(super) keys: &'a [&'a [u8]],
    pub(super) arguments: &'a Arguments,
    pub(super) durability: Option<&'a Durability>,
}

/// What is known of a request while it is sent again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The server has not got it, or has refused it.
    Nothing,
    /// It may have been executed, or may still be.
    Open,
    /// The server has said that the commit is in.
    In,
}

impl Attempt<'_> {
    /// The answer, and for a commit that is in whether it is where it has to be.
    pub(super) async fn run(
        &self,
        shared: &Shared,
        session: &mut Session,
        fate: &mut Fate,
    ) -> Result<(Answer, Result<()>)> {
        let mut connection = Exclusive::take(session).await?;
        let script = Script::of(self.request);
        let before = *fate;
        *fate = if before == Fate::In { Fate::In } else { Fate::Open };
        let calling = shared.caller.call(&mut connection, script, self.keys, self.arguments);
        let reply = calling.await?;
        let reply = match reply {
            Ok(reply) => reply,
            // A server that answers with an error has done nothing.
            Err(error) => {
                *fate = before;
                connection.release();
                return Err(error);
            }
        };
        let answer = Answer::parse(&reply)?;
        let durable = match (self.durability, &answer) {
            // Where that fails it is sent again, recognised, and waited for on the other connection.
            (Some(durability), Answer::Applied { .. }) => {
                *fate = Fate::In;
                durability.wait(&mut connection).await?
            }
            _ => Ok(()),
        };
        connection.release();
        Ok((answer, durable))
    }
}

pub(super) const UNKNOWN: &str = "nobody knows whether the commit is in; the processor goes on at its position once \
                       it has acquired the lane anew, which settles it";

impl Shared {
    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        // It is whole whatever its holder was doing when it panicked.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arguments(&self, request: &Request) -> Arguments {
        let mut arguments = Arguments::default();
        for argument in request.arguments(self.lease) {
            arguments.push(argument.as_bytes());
        }
        arguments
    }

    pub(super) async fn beat(&self) {
        while !self.ended.load(Ordering::Acquire) {
            let now = Instant::now();
            let renewal = self.machine().renewal(now);
            match renewal {
                Renewal::Never => self.changed.notified().await,
                Renewal::At(at) => {
                    let left = at.saturating_duration_since(now);
                    let _ = timeout(left, self.changed.notified()).await;
                }
                Renewal::Now(request) => {
                    let mut session = self.client.bounded().session_for(&self.stream);
                    let attempt = Attempt {
                        request: &request,
                        keys: &[&self.key],
                        arguments: &self.arguments(&request),
                        durability: None,
                    };
                    // Without an answer there is to be time for another, on another connection.
                    let limit = self.lease / Machine::PART;
                    let mut fate = Fate::Nothing;
                    let tried =
                        match timeout(limit, attempt.run(self, &mut session, &mut fate)).await {
                            Ok(Ok((answer, _))) => {
                                let outcome = self.machine().answered(&request, answer, now);
                                if let Outcome::Lost(loss) = outcome {
                                    self.tell(&self.lost(Some(loss)));
                                }
                                now
                            }
                            Ok(Err(error)) => {
                                // A node of a cluster that has moved is found by the next one.
                                session.learn(&error);
                                Instant::now()
                            }
                            Err(_) => now,
                        };
                    self.machine().renewal_tried(tried);
                }
            }
        }
    }

    /// Has the log say that the lane was lost.
    fn tell(&self, error: &Error) {
        let name = String::from_utf8_lossy(&self.name).into_owned();
        let event = Who::new(&self.stream).event("lane_lost").with("processor", name);
        event.with("error", error.to_string()).record();
    }

    pub(super) fn about(&self, error: Error) -> Error {
        error
            .with_context("stream", String::from_utf8_lossy(&self.stream))
            .with_context("processor", String::from_utf8_lossy(&self.name))
    }

    /// The error of a lane that is not held any more.
    pub(super) fn lost(&self, loss: Option<Loss>) -> Error {
        let error = match loss {
            None => Error::invalid("the lane is not held; acquire it first"),
            Some(Loss::Fenced { epoch, owner }) => {
                let by = match owner.0.as_str() {
                    "" => "another, which has left it since,".to_owned(),
                    _ => owner.to_string(),
                };
                let message = format!(
                    "{by} has acquired the lane of this processor since (epoch {epoch}), and processes all \
                     that was not committed by then; stop this one"
                );
                Error::new(ErrorKind::Fenced, message)
            }
            Some(Loss::Rewound { epoch }) => {
                let message = format!(
                    "the server has lost that this processor has acquired its lane (it is at epoch {epoch}), \
                     and commits since, as a failover to a replica that lagged does, or a restart with older \
                     data; nothing of this commit was written; start the processor again, and it goes on \
                     from there"
                );
                Error::new(ErrorKind::DataLoss, message)
            }
            Some(Loss::Conflict { expected, position }) => {
                let position = position.map_or_else(|| "nowhere".to_owned(), |id| id.to_string());
                let message = format!(
                    "the processor was at {expected}, and the server says that it is at {position}: it has \
                     lost commits, as a failover to a replica that lagged does, or somebody has written to \
                     the lane; nothing of this commit was written; start the processor again, and it goes \
                     on from there"
                );
                Error::new(ErrorKind::DataLoss, message)
            }
            Some(Loss::Gone) => {
                let message = "the lane of this processor is gone: deleted, evicted (maxmemory-policy), or \
                               lost with the server's data; start the processor again";
                Error::new(ErrorKind::DataLoss, message)
            }
            Some(Loss::Damaged { field, value }) => {
                let message = format!(
                    "the lane of this processor has the {field} {}, which no processor writes: say by \
                     reset_processor where to go on, or delete it by delete_processor; nothing was written",
                    shorten(value.as_bytes())
                );
                Error::new(ErrorKind::DataLoss, message)
            }
            Some(Loss::Unknown { to }) => {
                let message = format!("{UNKNOWN} (it went up to {to})");
                Error::new(ErrorKind::OutcomeUnknown, message)
            }
            Some(Loss::Broken { error }) => {
                let message = format!(
                    "the server has failed in the middle of a commit, which it does not roll back: {error}"
                );
                Error::new(ErrorKind::Internal, message)
            }
        };
        self.about(error)
    }
}
