//! Payloads that are compressed: what they were before, within bounds, and back.

use std::io::{Read, Write};
use std::str::FromStr;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use ruzstd::encoding::{CompressionLevel, compress};

use crate::error::{Error, Result};

/// How the payload of each entry is compressed, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayloadCompression {
    /// Zstandard, without a dictionary.
    Zstd,
    /// Gzip.
    Gzip,
}

impl FromStr for PayloadCompression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "zstd" => Ok(PayloadCompression::Zstd),
            "gzip" => Ok(PayloadCompression::Gzip),
            other => Err(Error::invalid(format!(
                "payload_compression must be \"zstd\" or \"gzip\", not {other:?}"
            ))),
        }
    }
}

impl PayloadCompression {
    /// Appends what bytes are when they are compressed.
    pub(crate) fn compress(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            PayloadCompression::Zstd => compress(bytes, out, CompressionLevel::Fastest),
            PayloadCompression::Gzip => {
                let mut encoder = GzEncoder::new(out, flate2::Compression::default());
                // A write into memory does not fail.
                let _ = encoder.write_all(bytes).and_then(|()| encoder.try_finish());
            }
        }
    }

    /// What that many bytes take at most: what cannot be compressed is stored in blocks.
    pub(crate) fn at_most(bytes: usize) -> usize {
        bytes.saturating_add(bytes / 1_024).saturating_add(64)
    }
}

/// Why a payload cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotInflated {
    Malformed,
    TooLarge,
}

/// Decompresses payloads, one after the other.
pub(crate) struct Inflater {
    compression: PayloadCompression,
    /// What a payload may become.
    most: usize,
    /// Kept, with its buffers.
    zstd: FrameDecoder,
}

impl Inflater {
    /// What the standard asks each decoder to support.
    const LEAST_WINDOW: usize = 8 * 1024 * 1024;

    pub(crate) fn new(compression: PayloadCompression, most: usize) -> Self {
        let mut zstd = FrameDecoder::new();
        // It is allocated before its first byte is there.
        zstd.set_max_window_size(most.max(Self::LEAST_WINDOW) as u64);
        Inflater { compression, most, zstd }
    }

    pub(crate) fn compression(&self) -> PayloadCompression {
        self.compression
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Replaces what `out` has by what the payload was before it was compressed.
    pub(crate) fn inflate(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), NotInflated> {
        out.clear();
        match self.compression {
            PayloadCompression::Gzip => read_up_to(MultiGzDecoder::new(payload), self.most, out),
            PayloadCompression::Zstd => self.inflate_frames(payload, out),
        }
    }

    /// One frame after the other, as the standard has it.
    fn inflate_frames(&mut self, mut rest: &[u8], out: &mut Vec<u8>) -> Result<(), NotInflated> {
        loop {
            match StreamingDecoder::new_with_decoder(&mut rest, &mut self.zstd) {
                Ok(frame) => read_up_to(frame, self.most, out)?,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => rest = rest.get(length as usize..).ok_or(NotInflated::Malformed)?,
                Err(FrameDecoderError::WindowSizeTooBig { .. }) => {
                    return Err(NotInflated::TooLarge);
                }
                Err(_) => return Err(NotInflated::Malformed),
            }
            let checksum = self.zstd.get_checksum_from_data();
            if checksum.is_some() && checksum != self.zstd.get_calculated_checksum() {
                return Err(NotInflated::Malformed);
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Inflater").field(&self.compression).field(&self.most).finish()
    }
}

/// Appends all that there is to read, unless that makes more than `most` bytes.
fn read_up_to(source: impl Read, most: usize, out: &mut Vec<u8>) -> Result<(), NotInflated> {
    // One byte more tells that there are more.
    let room = most.saturating_sub(out.len()).saturating_add(1);
    let read = source.take(room as u64).read_to_end(out);
    match (out.len() > most, read) {
        (true, _) => Err(NotInflated::TooLarge),
        (false, Ok(_)) => Ok(()),
        (false, Err(_)) => Err(NotInflated::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [PayloadCompression; 2] = [PayloadCompression::Zstd, PayloadCompression::Gzip];

    fn compressed(compression: PayloadCompression, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compression.compress(bytes, &mut out);
        assert!(out.len() <= PayloadCompression::at_most(bytes.len()), "{compression:?}");
        out
    }

    #[test]
    fn a_payload_may_become_so_large_and_no_larger() {
        for compression in ALL {
            let bomb = compressed(compression, &vec![0; 50_000_000]);
            assert!(bomb.len() < 100_000, "{compression:?}");
            let mut out = Vec::new();
            for most in [0, 1_000, 9_000_000, 49_999_999] {
                let inflated = Inflater::new(compression, most).inflate(&bomb, &mut out);
                assert_eq!(inflated, Err(NotInflated::TooLarge), "{compression:?} {most}");
                assert!(out.capacity() <= 2 * most + 1_000_000, "{}", out.capacity());
            }
            let inflated = Inflater::new(compression, 50_000_000).inflate(&bomb, &mut out);
            assert_eq!((inflated, out.len()), (Ok(()), 50_000_000));
        }
    }

    #[test]
    fn a_window_is_not_believed() {
        // A frame whose one segment claims to be of 2 GiB.
        let claim = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &0x8000_0000u32.to_le_bytes()].concat();
        let mut inflater = Inflater::new(PayloadCompression::Zstd, 1_000);
        assert_eq!(inflater.inflate(&claim, &mut Vec::new()), Err(NotInflated::TooLarge));
    }

    #[test]
    fn several_frames_are_one_payload_and_nothing_else_follows() {
        for compression in ALL {
            let both = [compressed(compression, b"one "), compressed(compression, b"two")].concat();
            let mut inflater = Inflater::new(compression, 7);
            let mut out = Vec::new();
            assert_eq!(inflater.inflate(&both, &mut out), Ok(()));
            assert_eq!(out, b"one two");
            for end in 1..both.len() {
                let cut = inflater.inflate(&both[..end], &mut out);
                let is_whole = end == compressed(compression, b"one ").len();
                assert_eq!(cut.is_ok(), is_whole, "{compression:?} {end}");
            }
            assert!(inflater.inflate(b"{}", &mut out).is_err());
        }
        let skipped = [&b"\x50\x2a\x4d\x18\x02\0\0\0xx"[..]].concat();
        let framed = [skipped, compressed(PayloadCompression::Zstd, b"a")].concat();
        let mut out = Vec::new();
        let inflated = Inflater::new(PayloadCompression::Zstd, 9).inflate(&framed, &mut out);
        assert_eq!((inflated, out.as_slice()), (Ok(()), &b"a"[..]));
    }

    proptest! {
        #[test]
        fn payloads_come_back(bytes in prop::collection::vec(any::<u8>(), 0..2_000), place in 0..99usize, byte: u8) {
            for compression in ALL {
                let mut packed = compressed(compression, &bytes);
                let mut inflater = Inflater::new(compression, 10_000);
                let mut out = Vec::new();
                prop_assert_eq!(inflater.inflate(&packed, &mut out), Ok(()));
                prop_assert_eq!(&out, &bytes);
                // A changed byte harms nothing.
                if let Some(old) = packed.get_mut(place) {
                    *old = byte;
                }
                let _ = inflater.inflate(&packed, &mut out);
                prop_assert!(out.len() <= 10_001);
            }
        }
    }
}
