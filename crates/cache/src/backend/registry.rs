//! A cache under a tag of a registry, and records under tags of a repository.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, ImageRef, Manifest, Provider, media};
use rbuild_registry::{Reference, RegistryError, RegistryProvider, Repository};

use super::{Address, InMemory, Manifests, Place, Records, Sent};
use crate::error::{CacheError, Result};

/// What a manifest that holds a record is. The record is its annotation, so that it is had with one question.
const RECORD_TYPE: &str = "application/vnd.rbuild.cache.record.v1+json";
const RECORD_ANNOTATION: &str = "rbuild.cache.record";
/// What stands where an artifact has nothing to say. Source: the OCI image-spec, "Guidance for an Empty Descriptor".
const EMPTY: &[u8] = b"{}";

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

fn record_tag(key: &Digest) -> String {
    format!("keys-v1-{}", key.hex())
}

/// A manifest that holds a record and keeps its blobs from being collected.
fn record_manifest(record: &Bytes, blobs: &[Descriptor]) -> Result<Vec<u8>> {
    let empty = Descriptor::of(media::OCI_EMPTY, EMPTY);
    let mut layers = blobs.to_vec();
    let mut seen = std::collections::HashSet::new();
    layers.retain(|layer| seen.insert(layer.digest));
    // Some registries want at least one.
    if layers.is_empty() {
        layers.push(empty.clone());
    }
    let record = String::from_utf8_lossy(record).into_owned();
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: Some(RECORD_TYPE.to_owned()),
        config: empty,
        layers,
        subject: None,
        annotations: BTreeMap::from([(RECORD_ANNOTATION.to_owned(), record)]),
    };
    Ok(rbuild_oci::json::to_vec(&manifest)?)
}

#[async_trait]
impl Records for RegistryPlace {
    async fn record(&self, key: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let bytes = match self.repository.with_attempts(1).tagged(&record_tag(key)).await {
            Ok((_, bytes)) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            // Damaged there: a miss, not a registry that fails.
            Err(error @ (RegistryError::Malformed { .. } | RegistryError::Digest { .. })) => {
                tracing::warn!(%error, "a record of the shared cache is damaged");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let manifest = Manifest::parse(&bytes).ok();
        let record = manifest.and_then(|mut manifest| manifest.annotations.remove(RECORD_ANNOTATION));
        Ok(record.filter(|record| record.len() as u64 <= limit).map(String::into_bytes))
    }

    async fn has_record(&self, key: &Digest) -> Result<bool> {
        let name = self.repository.name().with_tag(&record_tag(key)).map_err(|error| {
            let (host, reason) = (self.repository.name().domain().to_owned(), error.to_string());
            RegistryError::Config { host, reason }
        })?;
        match self.repository.with_attempts(2).resolve(&name).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn put_record(&self, key: &Digest, record: &Bytes, blobs: &[Descriptor]) -> Result<()> {
        let manifest = record_manifest(record, blobs)?;
        let empty = Descriptor::of(media::OCI_EMPTY, EMPTY);
        self.put(&empty, &InMemory(Bytes::from_static(EMPTY)), None).await?;
        let tag = record_tag(key);
        match self.repository.push_manifest(media::OCI_MANIFEST, &manifest, Reference::Tag(&tag)).await {
            Ok(_) => Ok(()),
            // It was there, but the registry has collected it since.
            Err(
                RegistryError::NotFound { detail, .. } | RegistryError::Status { status: 400, detail, .. },
            ) => Err(CacheError::Refused { what: self.shown.clone(), reason: detail }),
            Err(error) => Err(error.into()),
        }
    }
}
