//! Places where caches are kept. A [`Place`] is one address, for reading and for writing.

mod client;
mod connected;
mod gha;
pub(crate) mod http;
mod registry;
mod s3;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, Provider};

pub(crate) use client::ClientDir;
pub(crate) use connected::WhileConnected;
pub(crate) use gha::{GhaOptions, GhaPlace};
pub(crate) use registry::RegistryPlace;
pub(crate) use s3::{S3Options, S3Place};

use crate::error::{CacheError, Result};

/// A place that keeps records of a cache that daemons share, by key. See docs/formats/tier.md.
#[async_trait]
pub(crate) trait Records: Place {
    /// The record under a key, of at most `limit` bytes, as it was written or not.
    async fn record(&self, key: &Digest, limit: u64) -> Result<Option<Vec<u8>>>;

    /// Whether there is one; if it is old, it is made new, where that keeps it.
    async fn has_record(&self, key: &Digest) -> Result<bool>;

    /// Writes a record that names these blobs. They are there.
    async fn put_record(&self, key: &Digest, record: &Bytes, blobs: &[Descriptor]) -> Result<()>;
}

/// Told how many bytes of a blob have been sent.
pub(crate) type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// Where a cache is read from and written to. Blobs go by digest; what names them all is behind [`Place::address`].
#[async_trait]
pub(crate) trait Place: Send + Sync + std::fmt::Debug {
    /// How people know it, for instance `docker.io/library/app:cache`.
    fn name(&self) -> &str;

    /// What leads to the blobs.
    fn address(&self) -> Address<'_>;

    /// Makes sure that it can be written to after its user has gone.
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// Whether a blob is there.
    async fn has(&self, desc: &Descriptor) -> Result<bool>;

    /// The blobs.
    fn provider(&self) -> Arc<dyn Provider>;

    /// Puts a blob there; one that is there is not sent again.
    async fn put(&self, desc: &Descriptor, bytes: &dyn Provider, sent: Option<Sent>) -> Result<()>;
}

/// How a place names its blobs.
pub(crate) enum Address<'a> {
    /// By a manifest whose config is the cache document.
    Manifests(&'a dyn Manifests),
    /// By the cache document itself, which says of each layer what a manifest would.
    Documents(&'a dyn Documents),
}

/// An address that leads to a manifest.
#[async_trait]
pub(crate) trait Manifests: Send + Sync {
    /// What the address leads to.
    async fn root(&self) -> Result<Descriptor>;

    /// A manifest or index, verified.
    async fn manifest(&self, desc: &Descriptor) -> Result<Vec<u8>>;

    /// A blob of at most `limit` bytes, verified.
    async fn blob(&self, desc: &Descriptor, limit: u64) -> Result<Vec<u8>>;

    /// Puts the manifest and lets the address lead to it.
    async fn publish(&self, desc: &Descriptor, manifest: Bytes) -> Result<()>;
}

/// An address that leads to cache documents.
#[async_trait]
pub(crate) trait Documents: Send + Sync {
    /// How long reading may take, if its user said so.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// All that are there, each of at most `limit` bytes.
    async fn read(&self, limit: u64) -> Result<Vec<Vec<u8>>>;

    /// Lets the address lead to `document`.
    async fn write(&self, document: Bytes) -> Result<()>;
}

/// A blob of at most `limit` bytes, verified.
pub(crate) async fn read_blob(from: &dyn Provider, desc: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    let digest = desc.digest;
    let damaged = |reason: String| CacheError::Damaged { digest, reason };
    if desc.size > limit {
        return Err(damaged(format!("{} bytes are more than the {limit} that are read", desc.size)));
    }
    let mut stream = from.open(desc, 0).await.map_err(|source| CacheError::Read { digest, source })?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|source| CacheError::Read { digest, source })?;
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > desc.size {
            return Err(damaged(format!("it is longer than {} bytes", desc.size)));
        }
    }
    match Digest::of(&bytes) {
        found if found == digest => Ok(bytes),
        found => Err(damaged(format!("its digest is {found}"))),
    }
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
