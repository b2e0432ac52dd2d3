//! What is asked of a lane, and what it answers: the arguments and replies of the scripts.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use redis::Value;

use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::resp;

/// Who acquires a lane, this once. Of two acquisitions no two have the same, so that a lane whose last
/// acquisition the server has lost in a failover is never taken for that of another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner(pub(super) String);

impl Owner {
    /// One that there has not been. What the label says is for people.
    pub(super) fn new(label: &str) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        let what = (process, COUNTER.fetch_add(1, Ordering::Relaxed), SystemTime::now());
        let random = [RandomState::new().hash_one(what), RandomState::new().hash_one(what)];
        Owner(format!("{label}:{process}:{:016x}{:016x}", random[0], random[1]))
    }
}

/// What a lane's owner shows for each request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Grip {
    pub(super) owner: Owner,
    pub(super) epoch: u64,
}

/// Where a batch begins, after that entry, and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub(super) after: EntryId,
    pub(super) end: EntryId,
}

/// What a lane is asked. Each may be sent again, however often: what has been done is not done twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Request {
    /// Take it: it is free, its lease has expired, it is still that of whom the asker was before, or
    /// `takeover`. A new one begins after `start`. It `mends` what no processor has written there.
    Acquire { owner: Owner, takeover: bool, start: EntryId, previous: Option<Owner>, mends: bool },
    /// Extend the lease; say where the next batch is going to end.
    Renew { grip: Grip, plan: Option<Plan> },
    /// Read some of a hash's fields, if the lane is the asker's still.
    Load { grip: Grip, cursor: u64 },
    /// Leave it to others.
    Release { grip: Grip },
    /// Write what came of the entries after `from` and up to `to`, after that many commits.
    Commit { grip: Grip, commits: u64, from: EntryId, to: EntryId },
}

impl Request {
    /// Who asks.
    pub(super) fn owner(&self) -> &Owner {
        match self {
            Request::Acquire { owner, .. } => owner,
            Request::Renew { grip, .. }
            | Request::Load { grip, .. }
            | Request::Release { grip }
            | Request::Commit { grip, .. } => &grip.owner,
        }
    }

    /// The arguments of its script that come first.
    pub(super) fn arguments(&self, lease: Duration) -> Vec<String> {
        let lease = lease.as_millis().max(1).to_string();
        match self {
            Request::Acquire { owner, takeover, start, previous, mends } => {
                let mut arguments = vec![
                    owner.0.clone(),
                    lease,
                    u8::from(*takeover).to_string(),
                    start.to_string(),
                    previous.as_ref().map(|previous| previous.0.clone()).unwrap_or_default(),
                ];
                arguments.extend(mends.then(|| "1".to_owned()));
                arguments
            }
            Request::Renew { grip: Grip { owner, epoch }, plan } => {
                let text = |id: Option<EntryId>| id.map(|id| id.to_string()).unwrap_or_default();
                let (end, after) = (plan.map(|plan| plan.end), plan.map(|plan| plan.after));
                vec![owner.0.clone(), epoch.to_string(), lease, text(end), text(after)]
            }
            Request::Load { grip: Grip { owner, epoch }, cursor } => {
                /// In one reply, which keeps the server busy for a few milliseconds.
                const FIELDS: u32 = 10_000;
                vec![owner.0.clone(), epoch.to_string(), cursor.to_string(), FIELDS.to_string()]
            }
            Request::Release { grip: Grip { owner, epoch } } => {
                vec![owner.0.clone(), epoch.to_string()]
            }
            Request::Commit { grip: Grip { owner, epoch }, commits, from, to } => vec![
                owner.0.clone(),
                epoch.to_string(),
                commits.to_string(),
                commits.saturating_add(1).to_string(),
                from.to_string(),
                to.to_string(),
                lease,
            ],
        }
    }
}

/// What a lane answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    /// The lane is the asker's.
    Held {
        epoch: u64,
        position: EntryId,
        commits: u64,
        planned: Option<EntryId>,
    },
    /// Another has it, for so long at least.
    Busy {
        left: Duration,
        owner: Owner,
        epoch: u64,
    },
    Renewed {
        planned: Option<EntryId>,
    },
    Released,
    /// Fields and values of a hash, and where its next ones begin; there are none from 0 on.
    Loaded {
        cursor: u64,
        fields: Vec<Vec<u8>>,
    },
    /// The commit is in: now, or since it was sent before.
    Applied {
        again: bool,
    },
    /// Another has acquired the lane. Nothing is written.
    Fenced {
        epoch: u64,
        owner: Owner,
    },
    /// The lane is at another place than this commit begins at. Nothing is written.
    Conflict {
        position: Option<EntryId>,
        commits: u64,
    },
    /// There is no lane any more. Nothing is written.
    Gone,
    /// The key of that number, from 1, is of another type than it should be. Nothing is written.
    WrongType {
        key: usize,
        found: String,
    },
    /// So many of the entries to acknowledge, this one among them, are not pending to this consumer.
    /// Nothing is written.
    NotPending {
        missing: u64,
        first: EntryId,
    },
    /// The server has failed in the middle of it.
    Broken {
        error: String,
    },
    /// A field of the lane has what no processor writes. Nothing is written.
    Damaged {
        field: String,
        value: String,
    },
}

impl Answer {
    pub(super) fn parse(reply: &Value) -> Result<Answer> {
        Answer::read(reply)
            .ok_or_else(|| Error::protocol("what came for a script is not what it gives"))
    }

    fn read(reply: &Value) -> Option<Answer> {
        if let Some([word, cursor, fields]) = reply.as_sequence()
            && resp::text(word) == Some(b"loaded")
        {
            let cursor = std::str::from_utf8(resp::text(cursor)?).ok()?.parse().ok()?;
            let fields = fields.as_sequence()?.iter();
            let fields = fields.map(|field| resp::text(field).map(<[u8]>::to_vec));
            return Some(Answer::Loaded { cursor, fields: fields.collect::<Option<_>>()? });
        }
        let texts: Vec<_> = reply
            .as_sequence()?
            .iter()
            .map(|part| resp::text(part).map(String::from_utf8_lossy))
            .collect::<Option<_>>()?;
        let parts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let id = |text: &str| EntryId::from_bytes(text.as_bytes());
        let owner = |text: &str| Owner(text.to_owned());
        Some(match *parts.as_slice() {
            ["held", epoch, position, commits, planned] => Answer::Held {
                epoch: epoch.parse().ok()?,
                position: id(position)?,
                commits: commits.parse().ok()?,
                planned: id(planned),
            },
            ["busy", left, name, epoch] => Answer::Busy {
                left: Duration::from_millis(left.parse().ok()?),
                owner: owner(name),
                epoch: epoch.parse().ok()?,
            },
            ["renewed", planned] => Answer::Renewed { planned: id(planned) },
            ["released"] => Answer::Released,
            ["applied", how] => Answer::Applied { again: how == "again" },
            ["fenced", epoch, name] => {
                Answer::Fenced { epoch: epoch.parse().ok()?, owner: owner(name) }
            }
            ["conflict", position, commits] => {
                Answer::Conflict { position: id(position), commits: commits.parse().ok()? }
            }
            ["gone"] => Answer::Gone,
            ["type", key, found] => {
                Answer::WrongType { key: key.parse().ok()?, found: found.to_owned() }
            }
            ["pending", missing, first] => {
                Answer::NotPending { missing: missing.parse().ok()?, first: id(first)? }
            }
            ["broken", error] => Answer::Broken { error: error.to_owned() },
            ["damaged", field, value] => {
                Answer::Damaged { field: field.to_owned(), value: value.to_owned() }
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Owner {
    /// Without what is random about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.rsplit_once(':').map_or(&self.0, |(known, _)| known))
    }
}
