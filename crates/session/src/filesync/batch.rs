//! The batched form of the transfer: the same packets, many to a message.
//!
//! Between our own ends only; see docs/formats/batched-transfer.md. What packets mean, and everything that is checked
//! about them, is the same in both forms, but that a file ends with its last byte instead of with an empty packet.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::Status;

use super::Packet;
use super::send::Batch;
use crate::SessionError;

/// Largest batch before it is compressed, and after it is unpacked.
const MAX_BATCH: usize = 8 * 1024 * 1024;
/// The fastest that still halves source code.
const LEVEL: i32 = 1;
/// Batches that are sent as they are after one that did not get smaller.
const REST: u32 = 8;

/// How the packets of a transfer travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// One by one, as every peer takes them.
    #[default]
    Single,
    /// Many to a message.
    Batched {
        /// Where that makes them smaller.
        compress: bool,
    },
}

impl Form {
    /// Does a file end with its last byte?
    pub(super) fn ends_by_size(self) -> bool {
        self != Form::Single
    }

    pub(super) fn compresses(self) -> bool {
        self == Form::Batched { compress: true }
    }
}

/// One message of the batched form.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PacketBatch {
    #[prost(message, repeated, tag = "1")]
    pub(crate) packets: Vec<Packet>,
    /// In place of them: an encoded batch, compressed.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) zstd: Bytes,
}

/// Compresses batches as long as that is worth it.
#[derive(Debug, Default)]
pub(crate) struct Compressor {
    rest: AtomicU32,
}

impl Compressor {
    /// Blocking, for a millisecond at most.
    pub(crate) fn pack(&self, packets: Vec<Packet>) -> PacketBatch {
        let plain = |packets| PacketBatch { packets, zstd: Bytes::new() };
        let resting =
            self.rest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |rest| rest.checked_sub(1));
        if resting.is_ok() {
            return plain(packets);
        }
        let whole = plain(packets);
        let encoded = whole.encode_to_vec();
        match zstd::bulk::compress(&encoded, LEVEL) {
            Ok(small) if encoded.len() <= MAX_BATCH && small.len() < encoded.len() / 8 * 7 => {
                PacketBatch { packets: Vec::new(), zstd: small.into() }
            }
            _ => {
                self.rest.store(REST, Ordering::Relaxed);
                whole
            }
        }
    }
}

impl PacketBatch {
    /// Its packets, unpacked if need be. Errors: what is compressed is damaged or too large.
    pub(crate) fn open(self) -> crate::Result<Vec<Packet>> {
        if self.zstd.is_empty() {
            return Ok(self.packets);
        }
        let bad = |_| SessionError::violation("a damaged batch", "");
        let size = zstd::zstd_safe::get_frame_content_size(&self.zstd);
        let size = size.ok().flatten().and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size <= MAX_BATCH);
        let size = size.ok_or_else(|| SessionError::violation("a batch of unknown or excessive size", ""))?;
        let bytes = zstd::bulk::decompress(&self.zstd, size).map_err(bad)?;
        let inner =
            Self::decode(Bytes::from(bytes)).map_err(|_| SessionError::violation("a damaged batch", ""))?;
        if !inner.zstd.is_empty() {
            return Err(SessionError::violation("a batch in a batch in a batch", ""));
        }
        Ok(inner.packets)
    }
}

/// The packets of a stream of batches.
pub(crate) fn opened(
    batches: impl Stream<Item = Result<PacketBatch, Status>> + Unpin + Send,
) -> impl Stream<Item = Result<Packet, Status>> + Unpin + Send {
    batches.flat_map(|batch| match batch.and_then(|batch| batch.open().map_err(Status::from)) {
        Ok(packets) => futures::stream::iter(packets).map(Ok).left_stream(),
        Err(status) => futures::stream::iter([Err(status)]).right_stream(),
    })
}

/// The packets of what a sender puts out, one by one.
pub(crate) fn singly(batch: Batch) -> impl Stream<Item = Result<Packet, Status>> + Send {
    match batch {
        Ok(batch) => futures::stream::iter(batch.packets).map(Ok).left_stream(),
        Err(status) => futures::stream::iter([Err(status)]).right_stream(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(byte: impl Fn(usize) -> u8) -> Vec<Packet> {
        let data: Vec<u8> = (0..10_000).map(byte).collect();
        (0..5).map(|id| Packet { r#type: 2, id, data: data.clone().into(), stat: None }).collect()
    }

    #[test]
    fn what_gets_smaller_is_compressed_and_opened_again() {
        let compressor = Compressor::default();
        let text = packets(|n| b"some text "[n % 10]);
        let packed = compressor.pack(text.clone());
        assert!(packed.packets.is_empty() && packed.encoded_len() < 10_000);
        assert_eq!(packed.open().unwrap(), text);
    }

    #[test]
    fn what_does_not_get_smaller_is_sent_as_it_is_and_not_tried_for_a_while() {
        let compressor = Compressor::default();
        let mut state = 7_u64;
        let noise: Vec<Packet> = (0..5)
            .map(|id| {
                let mut next = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                };
                let data: Vec<u8> = (0..10_000).map(|_| next()).collect();
                Packet { r#type: 2, id, data: data.into(), stat: None }
            })
            .collect();
        assert_eq!(compressor.pack(noise.clone()).packets, noise);
        let text = packets(|_| b'x');
        for _ in 0..REST {
            assert!(compressor.pack(text.clone()).zstd.is_empty());
        }
        assert!(!compressor.pack(text).zstd.is_empty());
    }

    #[test]
    fn damaged_nested_and_swollen_batches_are_refused() {
        let pack = |batch: &PacketBatch| PacketBatch {
            packets: Vec::new(),
            zstd: zstd::bulk::compress(&batch.encode_to_vec(), LEVEL).unwrap().into(),
        };
        let good = pack(&PacketBatch { packets: packets(|_| b'x'), zstd: Bytes::new() });
        let nested = pack(&good);
        let bomb = PacketBatch {
            packets: Vec::new(),
            zstd: zstd::bulk::compress(&vec![0; MAX_BATCH + 1], LEVEL).unwrap().into(),
        };
        let cut = PacketBatch { packets: Vec::new(), zstd: good.zstd.slice(..good.zstd.len() - 1) };
        let junk = PacketBatch { packets: Vec::new(), zstd: Bytes::from_static(b"junk") };
        for bad in [nested, bomb, cut, junk] {
            assert!(matches!(bad.open(), Err(SessionError::Violation { .. })));
        }
        assert!(good.open().is_ok());
    }
}
