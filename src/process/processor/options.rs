//! How a processor works, and what it has done.

use std::time::Duration;

use crate::entry_id::EntryId;
use crate::process::commit::Commit;
use crate::process::lane::LaneOptions;
use crate::read::OnDataLoss;

/// How a processor acquires its lane, reads and commits, beside what its request says.
#[derive(Debug, Clone)]
pub struct ProcessorOptions {
    /// How the lane is acquired and kept. Where it begins is the request's start.
    pub lane: LaneOptions,
    /// What to do where entries were trimmed before they were read, or commits were lost.
    pub on_data_loss: OnDataLoss,
    /// The size that a commit may have: it keeps the server busy.
    pub max_commit_bytes: usize,
    /// The stream for entries that cannot be processed.
    pub dead_letter: Option<Vec<u8>>,
    /// How often an entry is handed out alone, and not committed, before it becomes a dead letter: one that
    /// ends the process, say. Batches that were handed out before are halved until such an entry is alone.
    /// `None`: without end.
    pub max_deliveries: Option<u64>,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        ProcessorOptions {
            lane: LaneOptions::default(),
            on_data_loss: OnDataLoss::default(),
            max_commit_bytes: Commit::MAX_BYTES,
            dead_letter: None,
            max_deliveries: None,
        }
    }
}

/// What a processor has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessorStats {
    /// Commits that are in.
    pub commits: u64,
    /// Entries up to which all is committed, rows and those that were put aside, in these commits.
    pub entries: u64,
    /// Entries moved to the dead letters.
    pub dead_lettered: u64,
    /// Bytes that were written by commits.
    pub bytes: u64,
    /// The lane's epoch, once it was acquired.
    pub epoch: Option<u64>,
    /// Up to where all is committed.
    pub position: Option<EntryId>,
    /// How long these commits took, from the request to the answer.
    pub commit_time: Duration,
    /// How long the latest one took.
    pub last_commit: Option<Duration>,
}
