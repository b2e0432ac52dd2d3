//! A processor that begins anew elsewhere, or is deleted: its lane is acquired like by any owner, so whoever
//! had it writes nothing from then on.

use std::pin::pin;

use futures_util::future::{Either, FutureExt, join_all, pending, select};
use redis::Value;

use super::super::keys::{LaneName, state_key, table_name, tables_pattern};
use super::super::machine::Loss;
use super::super::protocol::{Answer, Owner};
use super::super::script::{Arguments, RESET};
use super::{Lane, LaneOptions, What};
use crate::admin::find_keys_of_node;
use crate::client::{Client, Exclusive};
use crate::entry_id::{EntryId, GroupStart};
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::resp;

/// What a reset did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessorReset {
    /// Up to where all was committed.
    pub previous: EntryId,
    /// After which entry the processor goes on.
    pub position: EntryId,
    /// The lane's epoch: everybody with a lower one is fenced.
    pub epoch: u64,
    /// How many fields of the state were dropped.
    pub state: u64,
    /// The tables that were dropped, and how many rows each had.
    pub tables: Vec<(Vec<u8>, u64)>,
}

/// Has a processor go on elsewhere: after an ID, or with what comes from now on. With `drop_state` its state
/// and its tables are deleted in the same step, else they stay.
///
/// The lane is acquired before, like by any owner: so whoever had it is fenced, and writes nothing from then
/// on. Tables are found by SCAN TYPE (Redis 6.0) on the node that serves them; then a script of HLEN, UNLINK
/// and HSET does everything at once.
///
/// # Errors
///
/// [`NoProcessor`](ErrorKind::NoProcessor) where there is none of that name on the stream,
/// [`ProcessorRunning`](ErrorKind::ProcessorRunning) where somebody has the lane, unless `takeover`,
/// [`Fenced`](ErrorKind::Fenced) where another takes the lane over meanwhile: then nothing is changed.
/// [`WrongType`](ErrorKind::WrongType) where a key holds something else, and every kind that connecting and
/// the server can raise.
pub async fn reset_processor(
    client: &Client,
    stream: &[u8],
    name: &[u8],
    to: GroupStart,
    drop_state: bool,
    takeover: bool,
) -> Result<ProcessorReset> {
    let mut lanes = vec![lane_for_change(client, stream, name, None, takeover)?];
    while_held(&mut lanes, async |lanes| {
        let Some(lane) = lanes.first_mut() else {
            return Err(Error::new(ErrorKind::Internal, "there is no lane"));
        };
        if !lane.is_there().await? {
            let message = "there is no processor of that name on the stream: it has neither a position nor \
                           state; nothing was changed";
            return Err(lane.shared.about(Error::new(ErrorKind::NoProcessor, message)));
        }
        lane.acquire_for_change().await?;
        let tables = if drop_state { lane.tables().await? } else { Vec::new() };
        let state = state_key(stream, name);
        let mut hashes: Vec<&[u8]> = if drop_state { vec![&state] } else { Vec::new() };
        hashes.extend(tables.iter().map(Vec::as_slice));
        let previous = lane.held().map(|held| held.position).unwrap_or_default();
        let epoch = lane.held().map(|held| held.epoch).unwrap_or_default();
        let answer = lane.change(&hashes, &to.to_string()).await?;
        let Some((position, mut counts)) = answer else {
            return Err(lane.shared.lost(Some(Loss::Gone)));
        };
        let state = if drop_state { counts.remove(0) } else { 0 };
        let names = tables.iter().filter_map(|key| table_name(stream, name, key));
        lane.release().await?;
        Ok(ProcessorReset { previous, position, epoch, state, tables: names.zip(counts).collect() })
    })
    .await
}

/// Deletes a processor: its lanes, its state and its tables; with a group only the lanes of that group's
/// consumers, or of one of them. Says whether there was anything. Whoever had a lane is fenced.
///
/// Each lane is acquired before, and deleted by a script of UNLINK; the keys are found by SCAN TYPE (Redis
/// 6.0).
///
/// # Errors
///
/// As [`reset_processor`], but a processor that is not there is none.
pub async fn delete_processor(
    client: &Client,
    stream: &[u8],
    name: &[u8],
    group: Option<(&[u8], Option<&[u8]>)>,
    takeover: bool,
) -> Result<bool> {
    let mut session = client.session_for(stream);
    let found = find_keys_of_node(&mut session, &LaneName::pattern(Some(stream)), b"hash").await?;
    let lanes = found.iter().filter_map(|key| LaneName::parse(key)).filter(|lane| {
        lane.name == name
            && lane.stream == stream
            && group.is_none_or(|(group, consumer)| {
                lane.group.as_ref().is_some_and(|(own, member)| {
                    own == group && consumer.is_none_or(|consumer| consumer == member)
                })
            })
    });
    let mut groups: Vec<_> = lanes.map(|lane| lane.group).collect();
    // What a lane has left that is gone: its state, or a table.
    let has_state = found.contains(&state_key(stream, name))
        || found.iter().any(|key| table_name(stream, name, key).is_some());
    if group.is_none() && has_state && !groups.contains(&None) {
        groups.push(None);
    }
    let lanes = groups.into_iter();
    let lanes = lanes.map(|group| lane_for_change(client, stream, name, group, takeover));
    let mut lanes = lanes.collect::<Result<Vec<_>>>()?;
    while_held(&mut lanes, async |lanes| {
        // All of them are held before the first is deleted.
        for lane in lanes.iter_mut() {
            lane.acquire_for_change().await?;
            // A group may have had any number of consumers: a connection for each would be too many.
            lane.session.release();
        }
        for lane in lanes.iter_mut() {
            let mut hashes = Vec::new();
            if lane.options.group.is_none() {
                hashes = lane.tables().await?;
                hashes.push(state_key(stream, name));
            }
            let hashes: Vec<&[u8]> = hashes.iter().map(Vec::as_slice).collect();
            // Of one whose reply was lost the lane is gone when it is sent again.
            lane.change(&hashes, "").await?;
            lane.session.release();
        }
        Ok(!lanes.is_empty())
    })
    .await
}

/// A lane whose requests give up as bounded calls do.
fn lane_for_change(
    client: &Client,
    stream: &[u8],
    name: &[u8],
    group: Option<(Vec<u8>, Vec<u8>)>,
    takeover: bool,
) -> Result<Lane> {
    let options =
        LaneOptions { takeover, group, label: "reset".to_owned(), ..LaneOptions::default() };
    let mut lane = Lane::new(client, stream, name, options)?;
    lane.session = client.bounded().session_for(stream).of_several();
    Ok(lane)
}

/// Does something with lanes whose leases are extended meanwhile, and which are left to others if that fails.
async fn while_held<T>(
    lanes: &mut [Lane],
    act: impl AsyncFnOnce(&mut [Lane]) -> Result<T>,
) -> Result<T> {
    let beats = join_all(lanes.iter().map(Lane::heartbeat));
    let acted = {
        let acting = pin!(act(lanes));
        match select(acting, pin!(beats.then(|_| pending::<()>()))).await {
            Either::Left((acted, _)) => acted,
            // They end with the lanes, and after them is nothing.
            Either::Right(((), _)) => {
                Err(Error::new(ErrorKind::Internal, "the heartbeats of lanes have ended"))
            }
        }
    };
    if acted.is_err() {
        for lane in lanes {
            // The first error says more; the lease expires by itself.
            let _ = lane.release().await;
        }
    }
    acted
}

impl Lane {
    /// Whether the server has anything of the processor.
    async fn is_there(&mut self) -> Result<bool> {
        let state = state_key(&self.shared.stream, &self.shared.name);
        let asked =
            self.session.value(&resp::command(&[b"EXISTS", &self.shared.key, &state])).await;
        let number = asked.map_err(|error| self.shared.about(error))?;
        // What a lane leaves that was deleted; one that is there has no text to give.
        let left = resp::command(&[b"GETRANGE", &self.shared.key, b"0", b"15"]);
        let left = self.session.value(&left).await;
        let is_left = left.is_ok_and(|left| resp::text(&left) == Some(b"deleted in epoch"));
        Ok(resp::number(&number) != Some(u64::from(is_left)) || !self.tables().await?.is_empty())
    }

    /// The keys of the processor's tables.
    async fn tables(&mut self) -> Result<Vec<Vec<u8>>> {
        let (stream, name) = (&self.shared.stream, &self.shared.name);
        let pattern = tables_pattern(stream, name);
        let finding = find_keys_of_node(&mut self.session, &pattern, b"hash").await;
        let mut found = finding.map_err(|error| self.shared.about(error))?;
        found.retain(|key| table_name(stream, name, key).is_some());
        Ok(found)
    }

    /// Acquires the lane, unless somebody has it.
    async fn acquire_for_change(&mut self) -> Result<()> {
        let owner = Owner::new(&self.options.label);
        let request = self.shared.machine().acquire_to_mend(owner, self.options.takeover);
        let (answer, outcome) = self.ask(&request, What::Lane).await?;
        match answer {
            Answer::Held { .. } => Ok(()),
            Answer::Busy { left, owner, epoch } => {
                self.shared.machine().gave_up(&request);
                let message = format!(
                    "the processor is running: {owner} has its lane (epoch {epoch}), for {} ms at least; stop \
                     it first, or set takeover, which fences it; nothing was changed",
                    left.as_millis()
                );
                Err(self.shared.about(Error::new(ErrorKind::ProcessorRunning, message)))
            }
            answer => Err(self.failed(answer, outcome, What::Lane)),
        }
    }

    /// Drops hashes and moves the lane, or deletes it: gives its position and how many fields each hash had.
    /// `None` where there is no lane.
    async fn change(&mut self, hashes: &[&[u8]], to: &str) -> Result<Option<(EntryId, Vec<u64>)>> {
        let shared = self.shared.clone();
        let grip = shared.machine().held().map(|hold| hold.grip.clone());
        let Some(grip) = grip else { return Err(shared.lost(shared.machine().loss())) };
        let mut arguments = Arguments::default();
        for argument in [&grip.owner.0, &grip.epoch.to_string(), to] {
            arguments.push(argument.as_bytes());
        }
        let keys = [&[&shared.key[..], &shared.stream], hashes].concat();
        let answer = loop {
            let called = async {
                let mut connection = Exclusive::take(&mut self.session).await?;
                let calling = shared.caller.call(&mut connection, &RESET, &keys, &arguments);
                let reply = calling.await?;
                connection.release();
                reply
            };
            match called.await {
                Ok(answer) => break answer,
                Err(error) => {
                    let recovered = self.session.recover(error).await;
                    recovered.map_err(|error| shared.about(error))?;
                }
            }
        };
        self.session.succeeded();
        if let Some(done) = read(&answer) {
            return Ok(Some(done));
        }
        Err(match Answer::parse(&answer)? {
            Answer::Gone if to.is_empty() => return Ok(None),
            // It is this one that has deleted it: the reply was lost.
            Answer::Fenced { epoch, .. } if to.is_empty() && epoch == grip.epoch => {
                return Ok(None);
            }
            Answer::WrongType { key, found } => {
                let key = keys.get(key.saturating_sub(1)).copied().unwrap_or_default();
                let message = format!(
                    "the key {} holds a {found}, which is nothing of a processor's; nothing was changed",
                    shorten(key)
                );
                shared.about(Error::new(ErrorKind::WrongType, message))
            }
            Answer::Fenced { epoch, owner } => shared.lost(Some(Loss::Fenced { epoch, owner })),
            Answer::Gone => shared.lost(Some(Loss::Gone)),
            answer => {
                let message = format!("a lane answered {answer:?}");
                shared.about(Error::new(ErrorKind::Internal, message))
            }
        })
    }
}

/// What the script gives where it has done everything.
fn read(answer: &Value) -> Option<(EntryId, Vec<u64>)> {
    let (word, rest) = answer.as_sequence()?.split_first()?;
    let (position, counts) = rest.split_first()?;
    if resp::text(word) != Some(b"reset") {
        return None;
    }
    let number = |count| std::str::from_utf8(resp::text(count)?).ok()?.parse().ok();
    // A lane that was deleted has none.
    let position = resp::id(position).unwrap_or_default();
    Some((position, counts.iter().map(number).collect::<Option<_>>()?))
}
