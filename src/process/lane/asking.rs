//! A lane's requests: each is sent as often as it takes, and what comes of it is told.

use std::collections::HashSet;
use std::time::Instant;

use super::super::commit::Commit;
use super::super::durability::in_but;
use super::super::machine::{Loss, Outcome};
use super::super::protocol::{Answer, Request};
use super::super::shared::{Attempt, Fate, Shared, UNKNOWN};
use super::{Lane, LaneOptions};
use crate::client::Session;
use crate::error::{Error, ErrorKind, Result, ServerCode, shorten};

/// What a request is about, beside the lane.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    Lane,
    Hash(&'a [u8]),
    Commit(&'a Commit),
}

impl Lane {
    /// Sends a request, over the lane's own connection.
    pub(super) async fn ask(
        &mut self,
        request: &Request,
        what: What<'_>,
    ) -> Result<(Answer, Outcome)> {
        let Lane { shared, session, options, checked, .. } = self;
        send(shared, session, options, checked, request, what).await
    }

    /// The error of an answer that is not what was asked for.
    pub(super) fn failed(&self, answer: Answer, outcome: Outcome, what: What<'_>) -> Error {
        let written = match (&outcome, &answer) {
            (
                Outcome::Lost(Loss::Unknown { .. }),
                Answer::WrongType { .. } | Answer::NotPending { .. },
            ) => {
                "an attempt before this one was not answered, and may still be taken: the lane is acquired \
                 anew, which settles it"
            }
            _ => "nothing has been written",
        };
        let error = match (outcome, answer) {
            (_, Answer::WrongType { key, found }) => {
                let (name, kind) = match (what, key) {
                    (What::Commit(commit), 3..) => commit.kind_of(key - 3),
                    (What::Hash(hash), 2) => Some((hash, "hash")),
                    _ => None,
                }
                .unwrap_or((&self.shared.key, "hash"));
                let message = format!(
                    "the key {} holds a {found}, and a processor needs a {kind} there; {written}",
                    shorten(name)
                );
                let error = Error::new(ErrorKind::WrongType, message);
                match (kind, found.as_str()) {
                    ("stream", "hash") => error.with_advice(
                        "if it is the name of a sharded stream, name one of its shards, such as \"events:{0-dnh}\"",
                    ),
                    _ => error,
                }
            }
            (_, Answer::NotPending { missing, first }) => {
                let message = format!(
                    "{missing} of the entries to acknowledge, {first} among them, are not pending to this \
                     consumer any more: another has claimed them, or they were acknowledged; {written}"
                );
                Error::new(ErrorKind::Claimed, message)
            }
            (Outcome::Lost(loss), _) => return self.shared.lost(Some(loss)),
            // The heartbeat has noticed it meanwhile.
            (Outcome::Stale, _) if self.lost().is_some() => {
                return self.shared.lost(self.shared.machine().loss());
            }
            (_, Answer::Fenced { epoch, owner }) => {
                return self.shared.lost(Some(Loss::Fenced { epoch, owner }));
            }
            (outcome, answer) => {
                let message = format!("a lane answered {answer:?}, which made {outcome:?}");
                Error::new(ErrorKind::Internal, message)
            }
        };
        self.shared.about(error)
    }
}

/// Sends a request as often as it takes.
pub(super) async fn send(
    shared: &Shared,
    session: &mut Session,
    options: &LaneOptions,
    checked: &HashSet<Vec<u8>>,
    request: &Request,
    what: What<'_>,
) -> Result<(Answer, Outcome)> {
    let mut arguments = shared.arguments(request);
    let mut keys: Vec<&[u8]> = vec![&shared.key];
    if let What::Commit(commit) = what {
        let group = options.group.as_ref().map(|(group, consumer)| (&group[..], &consumer[..]));
        arguments.append(&commit.arguments(group, checked));
        keys.push(&shared.stream);
        keys.extend(commit.keys());
    }
    let mut fate = Fate::Nothing;
    let durability = matches!(what, What::Commit(_)).then_some(&options.durability);
    loop {
        let sent = Instant::now();
        let attempt = Attempt { request, keys: &keys, arguments: &arguments, durability };
        let may_be_open = fate == Fate::Open;
        let error = match attempt.run(shared, session, &mut fate).await {
            Ok((answer, durable)) => {
                session.succeeded();
                let mut machine = shared.machine();
                let mut outcome = machine.answered(request, answer.clone(), sent);
                // An earlier attempt may still come, and be taken then: in place of the next commit.
                if may_be_open && matches!(outcome, Outcome::Refused(_)) {
                    machine.gave_up(request);
                    outcome = machine.loss().map_or(Outcome::Stale, Outcome::Lost);
                }
                drop(machine);
                durable.map_err(|error| shared.about(error))?;
                return Ok((answer, outcome));
            }
            Err(error) => error,
        };
        if let Err(error) = session.recover(error).await {
            let error = shared.about(error);
            let mut machine = shared.machine();
            return Err(match (fate, what) {
                (Fate::Nothing, _) => {
                    machine.refused(request);
                    explained(shared, what, error)
                }
                // Where it is lost since, the next commit is refused.
                (Fate::In, _) => {
                    machine.answered(request, Answer::Applied { again: true }, sent);
                    in_but(error)
                }
                (Fate::Open, What::Commit(_)) => {
                    machine.gave_up(request);
                    error.reframed(ErrorKind::OutcomeUnknown, UNKNOWN)
                }
                (Fate::Open, _) => {
                    machine.gave_up(request);
                    error
                }
            });
        }
    }
}

/// A server that nobody knew to be a node of a cluster refuses keys of several slots, and does not name them.
fn explained(shared: &Shared, what: What<'_>, error: Error) -> Error {
    match what {
        What::Commit(commit) if error.server_code() == Some(ServerCode::CrossSlot) => {
            commit.check_slots(&shared.stream).map_or_else(|named| shared.about(named), |()| error)
        }
        _ => error,
    }
}
