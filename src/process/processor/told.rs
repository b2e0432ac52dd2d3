//! What whoever asks a processor has been told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::ErrorKind;

/// In which epoch it has been told that the lane was lost with commits: the next one to ask has it acquired
/// anew, rather than being told again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// No lane has the epoch 0.
    epoch: Arc<AtomicU64>,
}

impl Told {
    /// Somebody has an error of this kind, which is about that epoch.
    pub(crate) fn tell(&self, epoch: u64, kind: ErrorKind) {
        if kind == ErrorKind::DataLoss {
            self.epoch.store(epoch, Ordering::Release);
        }
    }

    /// The lane was acquired anew: its epoch may be one that was lost.
    pub(super) fn forget(&self) {
        self.epoch.store(0, Ordering::Release);
    }

    /// Whether it has been told of this epoch.
    pub(super) fn is_told(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch
    }
}
