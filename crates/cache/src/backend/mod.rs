//! Places where caches are kept. A [`Place`] is one address, for reading and for writing.

mod client;
mod registry;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rbuild_oci::{Descriptor, Provider};

pub(crate) use client::ClientDir;
pub(crate) use registry::RegistryPlace;

use crate::error::Result;

/// Told how many bytes of a blob have been sent.
pub(crate) type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// Where a cache is read from and written to. Blobs go by digest; one manifest names them all.
#[async_trait]
pub(crate) trait Place: Send + Sync + std::fmt::Debug {
    /// How people know it, for instance `docker.io/library/app:cache`.
    fn name(&self) -> &str;

    /// What the address leads to.
    async fn root(&self) -> Result<Descriptor>;

    /// A manifest or index, verified.
    async fn manifest(&self, desc: &Descriptor) -> Result<Vec<u8>>;

    /// A blob of at most `limit` bytes, verified.
    async fn blob(&self, desc: &Descriptor, limit: u64) -> Result<Vec<u8>>;

    /// Whether a blob is there.
    async fn has(&self, desc: &Descriptor) -> Result<bool>;

    /// The blobs, for as long as the build's client is there.
    fn provider(&self) -> Arc<dyn Provider>;

    /// Puts a blob there; one that is there is not sent again.
    async fn put(&self, desc: &Descriptor, bytes: &dyn Provider, sent: Option<Sent>) -> Result<()>;

    /// Puts the manifest and lets the address lead to it.
    async fn publish(&self, desc: &Descriptor, manifest: Bytes) -> Result<()>;
}

/// A small blob in memory.
#[derive(Debug)]
pub(crate) struct InMemory(pub(crate) Bytes);

#[async_trait]
impl Provider for InMemory {
    async fn open(&self, _desc: &Descriptor, offset: u64) -> std::io::Result<rbuild_oci::ByteStream> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let rest = self.0.slice(offset..);
        Ok(Box::pin(futures::stream::once(async move { Ok(rest) })))
    }
}
