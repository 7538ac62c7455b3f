//! A cache under a tag of a registry.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rbuild_oci::{Descriptor, ImageRef, Provider};
use rbuild_registry::{Reference, RegistryProvider, Repository};

use super::{Address, Manifests, Place, Sent};
use crate::error::Result;

/// A tag.
#[derive(Debug)]
pub(crate) struct RegistryPlace {
    shown: String,
    name: ImageRef,
    repository: Repository,
    provider: Arc<dyn Provider>,
}

impl RegistryPlace {
    /// `shown`: the address as the user wrote it.
    pub(crate) fn new(shown: String, name: ImageRef, repository: Repository) -> Self {
        let provider = Arc::new(RegistryProvider::new(repository.clone()));
        Self { shown, name, repository, provider }
    }
}

#[async_trait]
impl Place for RegistryPlace {
    fn name(&self) -> &str {
        &self.shown
    }

    fn address(&self) -> Address<'_> {
        Address::Manifests(self)
    }

    async fn ready(&self) -> Result<()> {
        // A question that takes the right to push: what it is granted outlives the session.
        self.repository.has_blob(&Descriptor::of("application/octet-stream", b"")).await?;
        Ok(())
    }

    async fn has(&self, desc: &Descriptor) -> Result<bool> {
        Ok(self.repository.with_attempts(2).offers_blob(desc).await?)
    }

    fn provider(&self) -> Arc<dyn Provider> {
        self.provider.clone()
    }

    async fn put(&self, desc: &Descriptor, bytes: &dyn Provider, sent: Option<Sent>) -> Result<()> {
        self.repository.push_blob(desc, bytes, &[], sent).await?;
        Ok(())
    }
}

#[async_trait]
impl Manifests for RegistryPlace {
    async fn root(&self) -> Result<Descriptor> {
        // Asked once: a cache that is not there at once is not worth waiting for.
        Ok(self.repository.with_attempts(1).resolve(&self.name).await?)
    }

    async fn manifest(&self, desc: &Descriptor) -> Result<Vec<u8>> {
        Ok(self.repository.manifest(desc).await?)
    }

    async fn blob(&self, desc: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        Ok(self.repository.small_blob(desc, limit).await?)
    }

    async fn publish(&self, desc: &Descriptor, manifest: Bytes) -> Result<()> {
        let reference = match self.name.tag() {
            Some(tag) => Reference::Tag(tag),
            None => Reference::Digest,
        };
        self.repository.push_manifest(&desc.media_type, &manifest, reference).await?;
        Ok(())
    }
}
