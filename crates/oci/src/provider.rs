use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::Descriptor;

/// The bytes of a blob in pieces, in order.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Where the bytes of blobs come from: a registry, a content store, a client's session.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// The bytes of `desc` from `offset` on.
    ///
    /// The stream is not verified: whoever keeps the bytes checks digest and size. A provider may reconnect in the
    /// middle, and the stream then goes on where it stood.
    /// Errors: `NotFound` if the place does not have the blob, others as the transport says.
    /// Cancel: drop the future or the stream.
    async fn open(&self, desc: &Descriptor, offset: u64) -> io::Result<ByteStream>;

    /// Whether it can still be asked: not if it goes through a client that has gone.
    fn is_open(&self) -> bool {
        true
    }
}
