//! What servers know of processors: their lanes, who has them, and how far behind they are.

use std::time::Duration;

use redis::Value;

use super::keys::LaneName;
use super::protocol::Owner;
use crate::admin::{
    AT_ONCE, clock, find_keys, find_keys_of_node, first_entry, first_undelivered, groups_of,
    if_there,
};
use crate::client::{About, Client};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::glob;
use crate::resp::{self, text};

/// A lane of a processor: what it has for one input stream, or for a consumer of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneInfo {
    /// The input stream.
    pub stream: Vec<u8>,
    /// The processor's name.
    pub name: Vec<u8>,
    /// The group and the consumer, where entries are acknowledged instead of a position moved.
    pub group: Option<(Vec<u8>, Vec<u8>)>,
    /// Who has it, or had it last without leaving it; `None` where it was left.
    pub owner: Option<String>,
    /// How often it was acquired.
    pub epoch: u64,
    /// How long the lease lasts without a word of its owner; `None` where nobody has one.
    pub lease_left: Option<Duration>,
    /// Up to where all is committed; `None` for a group's consumer.
    pub position: Option<EntryId>,
    /// Where the next batch ends, where that was planned.
    pub planned: Option<EntryId>,
    /// How many entries wait: after the position, or to be delivered to the group. `None` where that would
    /// take long to count, or the server cannot tell.
    pub lag: Option<u64>,
    /// The oldest of them.
    pub next_entry_id: Option<EntryId>,
    /// How long it has been waiting: since the time in its ID, by the server's clock.
    pub lag_time: Duration,
    /// How many commits there were.
    pub commits: u64,
    /// How many entries they had, as far as the processor has said so.
    pub entries: Option<u64>,
    /// The number of entries of the last batch.
    pub batch_entries: Option<u64>,
    /// How long the last batch took, from the first look at it to its commit.
    pub batch_time: Option<Duration>,
    /// When it was acquired, in milliseconds since 1970 by the server's clock.
    pub acquired_ms: Option<u64>,
    /// When the last commit was.
    pub committed_ms: Option<u64>,
}

/// Which lanes to list; all of them by default.
#[derive(Debug, Clone, Default)]
pub struct LaneFilter {
    /// Only those on this stream.
    pub stream: Option<Vec<u8>>,
    /// Only those on streams that match this pattern.
    pub pattern: Option<Vec<u8>>,
    /// Only those of the processor of this name.
    pub name: Option<Vec<u8>>,
}

impl LaneFilter {
    fn matches(&self, lane: &LaneName) -> bool {
        self.stream.as_ref().is_none_or(|stream| *stream == lane.stream)
            && self.name.as_ref().is_none_or(|name| *name == lane.name)
            && self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, &lane.stream))
    }
}

/// Lists lanes of processors (SCAN TYPE, Redis 6.0; HMGET, TIME), in the order of their streams and names, with
/// what waits for them (XRANGE COUNT 1, XINFO GROUPS). In a cluster all masters are asked at the same time, or
/// the one that serves the stream.
///
/// How many entries wait is exact where there are none, or up to ten thousand on one side of the position:
/// scripts (EVAL of XRANGE and XLEN) count them, a thousand at a time.
///
/// # Errors
///
/// Every kind that connecting or the server can raise.
pub async fn processor_info(client: &Client, filter: &LaneFilter) -> Result<Vec<LaneInfo>> {
    const HASHES: &[u8] = b"hash";
    let pattern = LaneName::pattern(filter.stream.as_deref());
    let keys = match &filter.stream {
        Some(stream) => {
            find_keys_of_node(&mut client.session_for(stream), &pattern, HASHES).await?
        }
        None => find_keys(client, &pattern, HASHES).await?,
    };
    let found = keys.iter().filter_map(|key| LaneName::parse(key));
    let mut names: Vec<LaneName> = found.filter(|lane| filter.matches(lane)).collect();
    names.sort();
    let mut infos = Vec::with_capacity(names.len());
    for names in names.chunks(AT_ONCE) {
        let mut lanes = lanes_of(client, names).await?;
        find_waiting(client, &mut lanes).await?;
        count_waiting(client, &mut lanes).await?;
        infos.extend(lanes.into_iter().map(|lane| lane.info));
    }
    Ok(infos)
}

/// A lane, while more is asked about it.
struct Looked {
    info: LaneInfo,
    /// The server's clock.
    now: u64,
}

/// Asks for the lanes' hashes; what is gone meanwhile is left out.
async fn lanes_of(client: &Client, names: &[LaneName]) -> Result<Vec<Looked>> {
    const FIELDS: [&[u8]; 12] = [
        b"epoch",
        b"owner",
        b"until",
        b"lease",
        b"position",
        b"planned",
        b"commits",
        b"entries",
        b"batch",
        b"took",
        b"acquired",
        b"committed",
    ];
    let keys: Vec<Vec<u8>> = names.iter().map(LaneName::key).collect();
    let about: Vec<About<'_>> = keys
        .iter()
        .map(|key| {
            let fields = [&[b"HMGET", &key[..]], &FIELDS[..]].concat();
            About { key, questions: vec![resp::command(&fields), resp::time()] }
        })
        .collect();
    let mut lanes = Vec::with_capacity(names.len());
    for ((name, key), answers) in names.iter().zip(&keys).zip(client.ask_about(&about).await?) {
        let mut answers = answers.into_iter();
        let fields = answers.next().map_or(Ok(None), |answer| if_there(answer, key))?;
        let now = clock(answers.next())?;
        let fields = fields.as_ref().and_then(Value::as_sequence).unwrap_or_default();
        lanes.extend(lane_of(name, fields, now).map(|info| Looked { info, now }));
    }
    Ok(lanes)
}

fn lane_of(name: &LaneName, fields: &[Value], now: u64) -> Option<LaneInfo> {
    let [
        epoch,
        owner,
        until,
        lease,
        position,
        planned,
        commits,
        entries,
        batch,
        took,
        acquired,
        committed,
    ] = fields
    else {
        return None;
    };
    let parsed = |value| std::str::from_utf8(text(value)?).ok()?.parse::<u64>().ok();
    let owner = text(owner).filter(|owner| !owner.is_empty());
    // As those see it who would acquire it.
    let left = parsed(until).zip(parsed(lease)).and_then(|(until, lease)| {
        let left = until.saturating_sub(now);
        (left > 0 && left <= lease.saturating_mul(2)).then_some(Duration::from_millis(left))
    });
    Some(LaneInfo {
        stream: name.stream.clone(),
        name: name.name.clone(),
        group: name.group.clone(),
        // Without one it is no lane, or not any more.
        epoch: parsed(epoch)?,
        lease_left: left.filter(|_| owner.is_some()),
        owner: owner.map(|owner| Owner(String::from_utf8_lossy(owner).into_owned()).to_string()),
        position: resp::id(position).filter(|_| name.group.is_none()),
        planned: resp::id(planned),
        lag: None,
        next_entry_id: None,
        lag_time: Duration::ZERO,
        commits: parsed(commits).unwrap_or_default(),
        entries: parsed(entries),
        batch_entries: parsed(batch),
        batch_time: parsed(took).map(Duration::from_millis),
        acquired_ms: parsed(acquired),
        committed_ms: parsed(committed),
    })
}

/// Asks for the oldest entry that waits for each lane.
async fn find_waiting(client: &Client, lanes: &mut [Looked]) -> Result<()> {
    // Where that is, of a group's consumer, the group says.
    let of_groups = lanes.iter_mut().filter_map(|lane| {
        let group = lane.info.group.as_ref()?.0.clone();
        Some((lane, group))
    });
    let mut of_groups: Vec<(&mut Looked, Vec<u8>)> = of_groups.collect();
    let streams: Vec<Vec<u8>> =
        of_groups.iter().map(|(lane, _)| lane.info.stream.clone()).collect();
    let about: Vec<About<'_>> = streams
        .iter()
        .map(|stream| About { key: stream, questions: vec![resp::groups_info(stream)] })
        .collect();
    let answers = client.ask_about(&about).await?;
    for (((lane, group), stream), answers) in of_groups.iter_mut().zip(&streams).zip(answers) {
        let Some(answer) = answers.into_iter().next() else { continue };
        let groups = if_there(answer, stream)?.map_or_else(Vec::new, |reply| groups_of(&reply));
        if let Some(found) = groups.into_iter().find(|found| found.name == *group) {
            lane.info.lag = found.lag;
            lane.info.next_entry_id = first_undelivered(&found);
        }
    }
    for lane in lanes.iter_mut().filter(|lane| lane.info.group.is_none()) {
        lane.info.next_entry_id = lane.info.position.and_then(EntryId::successor);
    }
    let about: Vec<About<'_>> = lanes
        .iter()
        .map(|Looked { info, .. }| {
            let first =
                info.next_entry_id.map(|first| resp::range(&info.stream, first, EntryId::MAX, 1));
            About { key: &info.stream, questions: first.into_iter().collect() }
        })
        .collect();
    let answers = client.ask_about(&about).await?;
    for (Looked { info, now }, answers) in lanes.iter_mut().zip(answers) {
        info.next_entry_id = first_entry(answers.into_iter().next(), &info.stream)?;
        if let Some(id) = info.next_entry_id {
            info.lag_time = Duration::from_millis(now.saturating_sub(id.ms));
        } else {
            info.lag = Some(0);
        }
    }
    Ok(())
}

/// Counts entries from an ID on, and back from another one, some at a time: large ones are not taken
/// together. Gives the stream's length, and for each side how many there were and the last ID, or '' where
/// there are no more.
const COUNT: &str = r"
local stream, most = KEYS[1], tonumber(ARGV[3])
local function side(command, from, to)
  local count, page = 0, 1
  while from ~= '' and count < most do
    local part = redis.call(command, stream, from, to, 'COUNT', page)
    count = count + #part
    if #part < page then
      return tostring(count), ''
    end
    local bytes = 1
    for _, text in ipairs(part[#part][2] or {}) do
      bytes = bytes + #text
    end
    from = '(' .. part[#part][1]
    if from == '(18446744073709551615-18446744073709551615' then
      return tostring(count), '' -- nothing comes after the last of all IDs
    end
    page = math.max(1, math.min(200, most - count, math.floor(100000 / bytes)))
  end
  return tostring(count), from
end
local after, next = side('XRANGE', ARGV[1], '+')
local before, last = side('XREVRANGE', ARGV[2], '-')
return {tostring(redis.call('XLEN', stream)), after, next, before, last}
";

/// How far the counting of one lane has come.
struct Counting<'l> {
    info: &'l mut LaneInfo,
    /// The bound from which each side goes on, and how many it has had.
    sides: [(Vec<u8>, u64); 2],
}

/// Counts what waits, as long as that does not take long.
async fn count_waiting(client: &Client, lanes: &mut [Looked]) -> Result<()> {
    const ROUNDS: usize = 10;
    const PART: &[u8] = b"1000";
    let waiting = lanes.iter_mut().map(|lane| &mut lane.info);
    let waiting = waiting.filter(|info| info.lag.is_none() && info.group.is_none());
    let mut counting: Vec<Counting<'_>> = waiting
        .filter_map(|info| {
            let position = info.position?.to_string().into_bytes();
            let from = [b"(", &position[..]].concat();
            Some(Counting { info, sides: [(from, 0), (position, 0)] })
        })
        .collect();
    for _ in 0..ROUNDS {
        let streams: Vec<Vec<u8>> = counting.iter().map(|one| one.info.stream.clone()).collect();
        let about: Vec<About<'_>> = counting
            .iter()
            .zip(&streams)
            .map(|(Counting { sides: [(after, _), (before, _)], .. }, stream)| {
                let arguments = [after.clone(), before.clone(), PART.to_vec()];
                About { key: stream, questions: vec![resp::script(COUNT, &[stream], &arguments)] }
            })
            .collect();
        if about.is_empty() {
            break;
        }
        let answers = client.ask_about(&about).await?;
        let mut open = Vec::new();
        for (mut one, answers) in counting.into_iter().zip(answers) {
            // A user may not run scripts, or the key is no stream any more.
            let Some(Ok(counted)) = answers.into_iter().next() else { continue };
            if !one.take(&counted) {
                open.push(one);
            }
        }
        counting = open;
    }
    Ok(())
}

impl Counting<'_> {
    /// Adds what a script has counted, and says whether that is all.
    fn take(&mut self, counted: &Value) -> bool {
        let parts: Vec<&[u8]> =
            counted.as_sequence().unwrap_or_default().iter().filter_map(text).collect();
        let [length, after, next, before, last] = parts[..] else { return true };
        let parsed = |text| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
        let (Some(length), Some(after), Some(before)) =
            (parsed(length), parsed(after), parsed(before))
        else {
            return true;
        };
        for ((from, sum), (bound, count)) in
            self.sides.iter_mut().zip([(next, after), (last, before)])
        {
            *sum += count;
            *from = bound.to_vec();
        }
        let [(next, after), (last, before)] = &self.sides;
        self.info.lag = match (next.is_empty(), last.is_empty()) {
            (true, _) => Some(*after),
            (false, true) => Some(length.saturating_sub(*before)),
            (false, false) => return false,
        };
        true
    }
}
