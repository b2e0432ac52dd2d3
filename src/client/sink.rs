//! What takes replies off a connection.

use crate::decode::Decoder;
use crate::error::Result;
use crate::resp::{Outline, Outlines, RawReply};

/// What reads one reply.
pub(crate) trait Sink {
    /// Takes bytes off the front of `bytes`, up to the reply's end at most; says how many.
    fn decode(&mut self, bytes: &[u8]) -> Result<usize>;
    fn is_complete(&self) -> bool;
    /// Whether it takes no more bytes for now, though the reply may go on.
    fn is_full(&self) -> bool {
        self.is_complete()
    }
}

impl Sink for Decoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        Decoder::decode(self, bytes)
    }

    fn is_complete(&self) -> bool {
        self.reply_complete()
    }
}

impl Sink for RawReply {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        RawReply::decode(self, bytes)
    }

    fn is_complete(&self) -> bool {
        RawReply::is_complete(self)
    }
}

impl Sink for Outline {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        Outline::decode(self, bytes)
    }

    fn is_complete(&self) -> bool {
        Outline::is_complete(self)
    }
}

impl Sink for Outlines {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        Outlines::decode(self, bytes)
    }

    fn is_complete(&self) -> bool {
        Outlines::is_complete(self)
    }
}
