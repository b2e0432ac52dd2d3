//! What a processor has for one input stream: acquired, kept, committed to and released.

mod asking;
mod notes;
mod reset;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::asking::{What, send};
pub(super) use self::notes::Notes;
pub use self::reset::{ProcessorReset, delete_processor, reset_processor};
use super::commit::Commit;
use super::durability::Durability;
use super::keys::lane_key;
use super::machine::{Machine, Outcome};
use super::protocol::{Answer, Owner, Request};
use super::script::Caller;
use super::shared::{Attempt, Fate, Shared};
use crate::client::{Client, Session, Who};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};

/// How a lane is acquired and kept.
#[derive(Debug, Clone)]
pub struct LaneOptions {
    /// How long a lane stays its owner's without a word of it. Commits and the heartbeat extend it.
    pub lease: Duration,
    /// Takes the lane from whoever has it, who is fenced.
    pub takeover: bool,
    /// Where a new lane begins: after this entry.
    pub start: EntryId,
    /// The consumer group and the consumer, where entries are acknowledged instead of a position moved. The
    /// lane is the consumer's in that group.
    pub group: Option<(Vec<u8>, Vec<u8>)>,
    /// Where a commit has to be before it counts.
    pub durability: Durability,
    /// What the lane says of its owner, to people: a host's name, say.
    pub label: String,
}

impl Default for LaneOptions {
    fn default() -> Self {
        LaneOptions {
            lease: Duration::from_secs(3),
            takeover: false,
            start: EntryId::MIN,
            group: None,
            durability: Durability::default(),
            label: String::new(),
        }
    }
}

/// What a processor has for one input stream.
///
/// ```no_run
/// use redfloe::{Client, Commit, ConnectionOptions, EntryId, Lane, LaneOptions, state_key};
///
/// # async fn example() -> redfloe::Result<()> {
/// let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
/// let mut lane = Lane::new(&client, b"sales", b"inventory", LaneOptions::default())?;
/// tokio::spawn(lane.heartbeat());
/// let held = lane.acquire().await?;
/// let state = lane.load(&state_key(b"sales", b"inventory")).await?;
/// println!("epoch {}, after {}: {state:?}", held.epoch, held.position);
/// let mut commit = Commit::between(held.position, EntryId::new(5, 0));
/// commit.set(&state_key(b"sales", b"inventory"), b"seen", b"5")?;
/// lane.commit(&commit).await?;
/// lane.release().await
/// # }
/// ```
pub struct Lane {
    shared: Arc<Shared>,
    session: Session,
    options: LaneOptions,
    /// Keys of which it is known that the user may write to them.
    checked: HashSet<Vec<u8>>,
    /// The server is known to answer what the durability asks.
    is_durability_checked: bool,
    /// The process that made it: a forked child must not commit as its parent.
    process: u32,
}

/// A lane that was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How often the lane has been acquired.
    pub epoch: u64,
    /// Up to where all is committed.
    pub position: EntryId,
    /// How many commits there were.
    pub commits: u64,
    /// Where the first batch must end, because [`Lane::plan`] was told so of it.
    pub planned: Option<EntryId>,
}

/// A commit that is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// How many commits there are by now.
    pub commits: u64,
    /// It was found to be in when it was sent again.
    pub again: bool,
}

impl Lane {
    /// How long a standby waits before it looks again, at most.
    const LOOK: Duration = Duration::from_millis(500);

    /// The lane of the processor `name` on a stream; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a lease of less than 10 milliseconds, or an empty
    /// name.
    pub fn new(client: &Client, stream: &[u8], name: &[u8], options: LaneOptions) -> Result<Lane> {
        if options.lease < Duration::from_millis(10) {
            return Err(Error::invalid("a lease is of 10 milliseconds at least (lease_ms)"));
        }
        if name.is_empty() {
            return Err(Error::invalid("a processor has a name, and this one is empty"));
        }
        let group = options.group.as_ref().map(|(group, consumer)| (group.as_slice(), consumer));
        let who = match group {
            Some((group, consumer)) => Who::new(stream).with_group(group, consumer),
            None => Who::new(stream),
        };
        let client = client.keep_trying(who);
        // Other keys of a commit may have moved to another node of a cluster before those of the lane.
        let session = client.session_for(stream).of_several();
        let shared = Arc::new(Shared {
            key: lane_key(
                stream,
                name,
                group.map(|(group, consumer)| (group, consumer.as_slice())),
            ),
            stream: stream.to_vec(),
            name: name.to_vec(),
            lease: options.lease,
            machine: Mutex::new(Machine::new(options.lease)),
            caller: Caller::default(),
            changed: Notify::new(),
            ended: AtomicBool::new(false),
            client,
        });
        let process = std::process::id();
        let checked = HashSet::new();
        Ok(Lane { shared, session, options, checked, is_durability_checked: false, process })
    }

    /// Acquires the lane: at once where it is free, was released, or its lease has expired by the server's
    /// clock; else waits as a standby until it does, or takes it over where the options say so. Fences
    /// everybody who had it before, an earlier acquisition of this object among them, for whose lease nobody
    /// waits.
    ///
    /// A script (EVALSHA) of TYPE, TIME, HMGET and HSET. The first time WAIT and WAITAOF follow, where
    /// [`Durability`] wants them after each commit. Its future may be dropped at any time.
    ///
    /// # Errors
    ///
    /// [`WrongType`](ErrorKind::WrongType) where the lane's key holds something else;
    /// [`Response`](ErrorKind::Response) where the server has no WAITAOF, or no file to wait for; and every
    /// kind that connecting and the server can raise.
    pub async fn acquire(&mut self) -> Result<Held> {
        loop {
            match self.try_acquire().await? {
                Ok(held) => return Ok(held),
                Err(left) => {
                    tokio::time::sleep(left.clamp(Duration::from_millis(1), Self::LOOK)).await
                }
            }
        }
    }

    /// The same without waiting: how long the lease of whoever has the lane lasts, where somebody does.
    ///
    /// # Errors
    ///
    /// As [`Lane::acquire`].
    pub async fn try_acquire(&mut self) -> Result<Result<Held, Duration>> {
        self.check_process()?;
        self.checked.clear();
        let owner = Owner::new(&self.options.label);
        let LaneOptions { takeover, start, .. } = self.options;
        let request = self.shared.machine().acquire(owner, takeover, start);
        let (answer, outcome) = self.ask(&request, What::Lane).await?;
        match (answer, outcome) {
            (Answer::Held { epoch, position, commits, planned }, Outcome::Done) => {
                self.shared.changed.notify_one();
                self.check_durability().await?;
                Ok(Ok(Held {
                    epoch,
                    position,
                    commits,
                    planned: planned.filter(|id| *id > position),
                }))
            }
            (_, Outcome::Wait(left)) => {
                self.shared.machine().gave_up(&request);
                Ok(Err(left))
            }
            (answer, outcome) => Err(self.failed(answer, outcome, What::Lane)),
        }
    }

    /// Writes a commit, once: all of it or, with most errors, nothing. One whose reply is lost is sent again
    /// and recognised.
    ///
    /// A script (EVALSHA) of TYPE, TIME, HMGET and HSET of the lane, and of what the commit writes. Where its
    /// future is dropped before it ends, nobody knows whether the commit is in: the lane has to be acquired
    /// anew, which settles it.
    ///
    /// # Errors
    ///
    /// [`Fenced`](ErrorKind::Fenced) where another has acquired the lane, [`DataLoss`](ErrorKind::DataLoss)
    /// where the server has lost commits or the lane, and [`OutcomeUnknown`](ErrorKind::OutcomeUnknown) where
    /// the server could not be reached until the end: then the lane has to be acquired anew, and
    /// [`Lane::lost`] says why.
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) where the commit does not begin at the lane's position
    /// or, in a cluster, writes to keys of another slot: then nothing is sent.
    /// [`WrongType`](ErrorKind::WrongType) where a key holds something else, [`Claimed`](ErrorKind::Claimed)
    /// where entries to acknowledge are not pending to the consumer any more, [`NoGroup`](ErrorKind::NoGroup)
    /// where there is no such group, and what the server refuses: then nothing is written, and the lane is
    /// held as before.
    ///
    /// [`NotDurable`](ErrorKind::NotDurable) where the commit is in, and the lane at its end, but it is not
    /// known to be [everywhere](Durability) where it has to be.
    pub async fn commit(&mut self, commit: &Commit) -> Result<Committed> {
        self.check_process()?;
        self.check(commit)?;
        // Nobody knows yet where the future of `acquire` was dropped.
        if self.held().is_some() {
            self.check_durability().await?;
        }
        let position = self.held().map(|held| held.position);
        let to = match (commit.range(), position) {
            (Some((after, _)), Some(position)) if after != position => {
                let message = format!(
                    "this commit begins after {after}, and the lane is at {position}: what was read before \
                     the lane was acquired again, or a batch was committed, does not count any more; \
                     nothing has been sent"
                );
                return Err(self.shared.about(Error::invalid(message)));
            }
            (Some((_, to)), _) => to,
            (None, position) => position.unwrap_or_default(),
        };
        let begun = self.shared.machine().commit(to);
        let request = begun.map_err(|loss| self.shared.lost(loss))?;
        let (answer, outcome) = self.ask(&request, What::Commit(commit)).await?;
        match answer {
            // Also where the lane was lost meanwhile: this much is in.
            Answer::Applied { again } => {
                self.checked.extend(commit.keys().map(<[u8]>::to_vec));
                let Request::Commit { commits, .. } = request else {
                    return Err(Error::new(ErrorKind::Internal, "a commit is not one"));
                };
                Ok(Committed { commits: commits + 1, again })
            }
            answer => Err(self.failed(answer, outcome, What::Commit(commit))),
        }
    }

    /// Has the next batch end at `end`, also if another processes it: for a sink outside of Redis, which
    /// recognises a batch by where it begins and ends. Gives where it ends: an end that was planned before,
    /// perhaps by a call that was not answered, stays until something is committed. A script of HMGET and
    /// HSET.
    ///
    /// # Errors
    ///
    /// As [`Lane::commit`]; [`InvalidArgument`](ErrorKind::InvalidArgument) for an end that is not after the
    /// lane's position.
    pub async fn plan(&mut self, end: EntryId) -> Result<EntryId> {
        self.check_process()?;
        if let Some(held) = self.held().filter(|held| end <= held.position) {
            let message = format!(
                "a batch after {} does not end at {end}; nothing has been sent",
                held.position
            );
            return Err(self.shared.about(Error::invalid(message)));
        }
        let planned = self.shared.machine().plan(end);
        let Some(request) = planned else {
            let loss = self.shared.machine().loss();
            return Err(self.shared.lost(loss));
        };
        match self.ask(&request, What::Lane).await? {
            (Answer::Renewed { planned: Some(planned) }, _) => Ok(planned),
            (answer, outcome) => Err(self.failed(answer, outcome, What::Lane)),
        }
    }

    /// The fields and values of one of the processor's hashes, [its state](crate::state_key) or
    /// [a table](crate::table_key); a script of HSCAN for every ten thousand. A processor reads them like
    /// this once it has acquired the lane, and knows what it commits from then on: what this gives was
    /// written before it acquired the lane, which is looked at in the same step.
    ///
    /// # Errors
    ///
    /// As [`Lane::commit`]; [`WrongType`](ErrorKind::WrongType) where the key holds something else.
    pub async fn load(&mut self, hash: &[u8]) -> Result<HashMap<Vec<u8>, Vec<u8>>> {
        let take = |all: &mut HashMap<_, _>, field: &[u8], value: &[u8]| {
            all.insert(field.to_vec(), value.to_vec());
            Ok(())
        };
        self.load_with(hash, || Ok(HashMap::new()), take).await
    }

    /// The same for what makes something of its own of fields and values, where a field may come twice.
    ///
    /// A cursor is of the server that gave it. Another one, after a failover or a restart, would leave fields
    /// out without a word: so with another connection all is read anew, into what `begin` gives.
    pub(crate) async fn load_with<T>(
        &mut self,
        hash: &[u8],
        begin: impl Fn() -> Result<T>,
        mut take: impl FnMut(&mut T, &[u8], &[u8]) -> Result<()>,
    ) -> Result<T> {
        self.check_process()?;
        let (mut all, mut cursor) = (begin()?, 0);
        loop {
            if cursor != 0 && !self.session.is_connected() {
                (all, cursor) = (begin()?, 0);
            }
            let asked = self.shared.machine().load(cursor);
            let Some(request) = asked else {
                let loss = self.shared.machine().loss();
                return Err(self.shared.lost(loss));
            };
            let attempt = Attempt {
                request: &request,
                keys: &[&self.shared.key, hash],
                arguments: &self.shared.arguments(&request),
                durability: None,
            };
            let sent = Instant::now();
            match attempt.run(&self.shared, &mut self.session, &mut Fate::Nothing).await {
                Ok((Answer::Loaded { cursor: next, fields }, _)) => {
                    for pair in fields.chunks_exact(2) {
                        if let [field, value] = pair {
                            take(&mut all, field, value)?;
                        }
                    }
                    if next == 0 {
                        // A page alone is no progress: the next failure may have it read again.
                        self.session.succeeded();
                        return Ok(all);
                    }
                    cursor = next;
                }
                Ok((answer, _)) => {
                    let outcome = self.shared.machine().answered(&request, answer.clone(), sent);
                    return Err(self.failed(answer, outcome, What::Hash(hash)));
                }
                Err(error) => {
                    let recovered = self.session.recover(error).await;
                    recovered.map_err(|error| self.shared.about(error))?;
                }
            }
        }
    }

    /// Leaves the lane to others, at once. Whatever was left open about a commit is settled: it is in by now,
    /// or will never be. A script of HMGET and HSET.
    ///
    /// # Errors
    ///
    /// Every kind that connecting and the server can raise; the lease expires by itself then. None where the
    /// lane was lost before.
    pub async fn release(&mut self) -> Result<()> {
        self.check_process()?;
        let request = self.shared.machine().release();
        let Some(request) = request else { return Ok(()) };
        // Somebody waits for the end of this one.
        let Lane { shared, options, checked, .. } = self;
        let mut session = shared.client.bounded().session_for(&shared.stream);
        send(shared, &mut session, options, checked, &request, What::Lane).await.map(|_| ())
    }

    /// Where it begins, if it is new: after this entry.
    pub(super) fn set_start(&mut self, start: EntryId) {
        self.options.start = start;
    }

    /// From now on it is not taken from others.
    pub(super) fn waits(&mut self) {
        self.options.takeover = false;
    }

    /// Where the lane is, as long as it is held.
    pub fn held(&self) -> Option<Held> {
        let machine = self.shared.machine();
        let hold = machine.held()?;
        let (epoch, position, commits) = (hold.grip.epoch, hold.position, hold.commits);
        Some(Held { epoch, position, commits, planned: hold.planned })
    }

    /// What says from anywhere whether the lane is held.
    pub(super) fn watch(&self) -> impl Fn() -> bool + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.machine().held().is_some()
    }

    /// Why the lane was lost, once it is known: by the heartbeat, say.
    pub fn lost(&self) -> Option<Error> {
        let loss = self.shared.machine().loss();
        loss.map(|loss| self.shared.lost(Some(loss)))
    }

    /// Extends the lease as long as the lane is held, by a script of HMGET and HSET, three times a lease at
    /// most; for a task beside. Ends when the lane is dropped.
    pub fn heartbeat(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move { shared.beat().await }
    }

    /// What the commit writes is in the slot of the stream. Without a cluster slots do not matter.
    fn check(&self, commit: &Commit) -> Result<()> {
        let stream = &self.shared.stream;
        let is_of_group = self.options.group.is_some();
        if commit.range().is_some() == is_of_group {
            return Err(Error::invalid(match is_of_group {
                true => "a lane of a group's consumer acknowledges entries, and has no position",
                false => "only a lane of a group's consumer acknowledges entries",
            }));
        }
        match self.shared.client.is_cluster() {
            true => commit.check_slots(stream),
            false => Ok(()),
        }
    }

    /// Whether commits can become as durable as they have to is asked before the first one.
    async fn check_durability(&mut self) -> Result<()> {
        if !self.is_durability_checked {
            if let Err(error) = self.options.durability.check(&mut self.session).await {
                // Of the two errors the first one says what to do; the lease expires by itself.
                let _ = self.release().await;
                return Err(self.shared.about(error));
            }
            self.is_durability_checked = true;
        }
        Ok(())
    }

    fn check_process(&self) -> Result<()> {
        if self.process == std::process::id() {
            return Ok(());
        }
        let message = "this processor was made before the process forked, and belongs to the parent; \
                       make one in the child";
        Err(Error::new(ErrorKind::Fenced, message))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.changed.notify_one();
    }
}
