//! The streams that match a pattern, for readers that follow them.

use std::collections::HashSet;
use std::time::Duration;

use super::Pattern;
use super::ask::existing;
use crate::admin::find_streams_unless_silent;
use crate::client::Client;
use crate::decode::StreamNames;
use crate::error::Result;

/// How long a node of a cluster may say nothing where others have streams, too.
pub(super) const LOOKING: Duration = Duration::from_millis(500);

/// The streams that match now, with those of `followed` that nothing is known against: the node of a
/// cluster that has them does not answer, or SCAN has missed them because their slots move.
pub(in crate::read) async fn discover(
    client: &Client,
    pattern: &Pattern,
    names: &StreamNames,
    followed: &[usize],
) -> Result<Vec<Vec<u8>>> {
    let found = find_streams_unless_silent(client, &pattern.text, LOOKING).await?;
    let mut keys = found.keys;
    let known: HashSet<&Vec<u8>> = keys.iter().collect();
    let missed = followed.iter().copied();
    let missed =
        missed.filter(|stream| !names.keys().get(*stream).is_some_and(|key| known.contains(key)));
    let is_silent = |stream: &usize| {
        found.silent.iter().any(|slot| client.serves_with(*slot, names.key(*stream)))
    };
    let (unknown, missed): (Vec<usize>, Vec<usize>) = missed.partition(is_silent);
    let asking = existing(client, names, &missed);
    let there = match client.is_cluster() {
        false => Some(asking.await?),
        true => tokio::time::timeout(LOOKING, asking).await.ok().transpose()?,
    };
    let all = |streams: &[usize]| -> Vec<Vec<u8>> {
        streams.iter().map(|stream| names.key(*stream).to_vec()).collect()
    };
    keys.extend(there.unwrap_or_else(|| all(&missed)));
    keys.extend(all(&unknown));
    Ok(keys)
}
