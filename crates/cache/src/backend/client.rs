//! A cache in a directory of the client's, through its content service.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use rbuild_digest::Digest;
use rbuild_oci::{ByteStream, Descriptor, Provider, media};
use rbuild_session::{BlobTarget, Session};

use super::{Address, InMemory, Manifests, Place, Sent, read_blob};
use crate::error::{CacheError, Result};

/// Largest manifest that is read: as for registries.
const MAX_MANIFEST: u64 = 8 << 20;

/// A directory.
#[derive(Debug, Clone)]
pub(crate) struct ClientDir {
    shown: String,
    session: Session,
    /// Its name in the client's content service.
    store: String,
    /// Digest of the manifest, which the client knows; `None` for writing.
    root: Option<Digest>,
}

impl ClientDir {
    pub(crate) fn new(shown: String, session: Session, store: String, root: Option<Digest>) -> Self {
        Self { shown, session, store, root }
    }
}

#[async_trait]
impl Place for ClientDir {
    fn name(&self) -> &str {
        &self.shown
    }

    fn address(&self) -> Address<'_> {
        Address::Manifests(self)
    }

    async fn has(&self, desc: &Descriptor) -> Result<bool> {
        Ok(self.session.blob_size(&self.store, &desc.digest.to_string()).await?.is_some())
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(self.clone())
    }

    async fn put(&self, desc: &Descriptor, bytes: &dyn Provider, sent: Option<Sent>) -> Result<()> {
        let digest = desc.digest.to_string();
        let target = BlobTarget { store: &self.store, digest: &digest, size: desc.size };
        let stream = bytes.open(desc, 0).await;
        let stream = stream.map_err(|source| CacheError::Read { digest: desc.digest, source })?;
        let mut total = 0;
        let counted = stream.inspect(move |piece| {
            if let (Ok(piece), Some(sent)) = (piece, &sent) {
                total += piece.len() as u64;
                sent(total);
            }
        });
        Ok(self.session.put_blob(target, counted).await?)
    }
}

#[async_trait]
impl Manifests for ClientDir {
    async fn root(&self) -> Result<Descriptor> {
        let nothing = || CacheError::NoCache { what: self.shown.clone() };
        let digest = self.root.ok_or_else(nothing)?;
        let size = self.session.blob_size(&self.store, &digest.to_string()).await?.ok_or_else(nothing)?;
        // The document itself says what it is.
        let bytes = self.blob(&Descriptor::new(media::OCI_MANIFEST, digest, size), MAX_MANIFEST).await?;
        let typed: Typed = serde_json::from_slice(&bytes)
            .map_err(|error| CacheError::Damaged { digest, reason: error.to_string() })?;
        Ok(Descriptor::new(typed.media_type, digest, size))
    }

    async fn manifest(&self, desc: &Descriptor) -> Result<Vec<u8>> {
        self.blob(desc, MAX_MANIFEST).await
    }

    async fn blob(&self, desc: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        read_blob(self, desc, limit).await
    }

    async fn publish(&self, desc: &Descriptor, manifest: Bytes) -> Result<()> {
        // The client writes the index of its directory itself, from the descriptor in the build's answer.
        self.put(desc, &InMemory(manifest), None).await
    }
}

#[async_trait]
impl Provider for ClientDir {
    async fn open(&self, desc: &Descriptor, offset: u64) -> std::io::Result<ByteStream> {
        let stream = self.session.read_blob(&self.store, &desc.digest.to_string(), offset).await;
        Ok(Box::pin(stream.map_err(std::io::Error::other)?))
    }

    fn is_open(&self) -> bool {
        !self.session.is_closed()
    }
}

/// The field by which a manifest says what it is.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    #[serde(default)]
    media_type: String,
}
