//! What a batch takes of a reply.

use crate::client::Sink;
use crate::decode::Decoder;
use crate::error::Result;

/// A decoder that stops taking bytes once the batch has enough. They count at once: the future that
/// receives them may be dropped.
pub(super) struct Portion<'a> {
    pub(super) decoder: &'a mut Decoder,
    /// The bytes of all replies.
    pub(super) received: &'a mut u64,
    /// The batch's bytes, and how many are enough.
    pub(super) bytes: &'a mut u64,
    pub(super) limit: u64,
}

impl Sink for Portion<'_> {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let taken = self.decoder.decode(bytes)?;
        *self.received = self.received.saturating_add(taken as u64);
        *self.bytes = self.bytes.saturating_add(taken as u64);
        Ok(taken)
    }

    fn is_complete(&self) -> bool {
        self.decoder.reply_complete()
    }

    fn is_full(&self) -> bool {
        let enough = *self.bytes >= self.limit && self.decoder.rows() > 0;
        self.is_complete() || self.decoder.is_full() || enough
    }
}
