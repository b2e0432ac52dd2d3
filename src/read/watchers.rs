//! The group readers of this process, for who acknowledges their entries by another way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::member::Member;
use super::stats::Watched;
use crate::client::{Address, ConnectionOptions, PerProcess};
use crate::entry_id::EntryId;
use crate::error::Result;

static WATCHERS: PerProcess<Mutex<Vec<Watcher>>> = PerProcess::new();

/// A reader of a group, as long as it is there.
struct Watcher {
    group: GroupKey,
    watched: Weak<Watched>,
}

/// A group of a server, by whichever connection.
#[derive(PartialEq, Eq)]
struct GroupKey {
    address: Address,
    database: i64,
    stream: Vec<u8>,
    group: Vec<u8>,
}

impl GroupKey {
    fn new(options: &ConnectionOptions, stream: &[u8], group: &[u8]) -> Self {
        GroupKey {
            address: options.address.clone(),
            database: options.database,
            stream: stream.to_vec(),
            group: group.to_vec(),
        }
    }
}

/// From now on a reader, by its consumers of one stream or several, is told which of its group's
/// entries [`ack_entries`](crate::ack_entries) has acknowledged in this process.
pub(super) fn watch(options: &ConnectionOptions, members: &[Member]) -> Result<()> {
    let mut watchers = watchers()?;
    watchers.retain(|watcher| watcher.watched.strong_count() > 0);
    watchers.extend(members.iter().map(|member| Watcher {
        group: GroupKey::new(options, &member.stream, &member.group),
        watched: Arc::downgrade(&member.watched),
    }));
    Ok(())
}

/// Tells the readers of a group that entries have been acknowledged.
pub(super) fn report_acknowledged(
    options: &ConnectionOptions,
    stream: &[u8],
    group: &[u8],
    ids: &[EntryId],
) -> Result<()> {
    let group = GroupKey::new(options, stream, group);
    for watcher in watchers()?.iter().filter(|watcher| watcher.group == group) {
        if let Some(watched) = watcher.watched.upgrade() {
            watched.acknowledged_elsewhere(ids);
        }
    }
    Ok(())
}

fn watchers() -> Result<MutexGuard<'static, Vec<Watcher>>> {
    let watchers = WATCHERS.get(|| Ok::<_, crate::Error>(Mutex::default()))?;
    // The list is whole whatever its holder was doing when it panicked.
    Ok(watchers.lock().unwrap_or_else(PoisonError::into_inner))
}
