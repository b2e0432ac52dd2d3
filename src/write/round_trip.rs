//! How a round trip fails.

use crate::error::Error;

/// An error during a round trip, and how many bytes of the commands were sent before it.
pub(super) struct RoundTripError {
    pub(super) error: Error,
    pub(super) sent: usize,
}
