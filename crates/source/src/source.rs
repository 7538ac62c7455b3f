use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_llb::SourceOp;
use rbuild_oci::{Descriptor, ImageRef, Platform, Provider};
use rbuild_progress::Reporter;
use rbuild_registry::Repository;
use rbuild_session::SessionGroup;
use rbuild_store::Ref;
use tokio::sync::OnceCell;

use crate::SourceError;

/// One kind of source.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// The schemes of identifiers that this source takes (`docker-image`).
    fn schemes(&self) -> &'static [&'static str];

    /// What the source is right now. Cheap: no layers, no file contents where digests can be had otherwise.
    ///
    /// Within one build (one [`Memo`]) the answer for the same question is the same.
    async fn resolve(&self, request: &SourceRequest) -> Result<Pin, SourceError>;

    /// The files of `pin`, which [`Source::resolve`] gave for the same request.
    async fn fetch(&self, request: &SourceRequest, pin: &Pin) -> Result<Ref, SourceError>;
}

/// A question to a source, and in whose name it is asked.
#[derive(Debug, Clone)]
pub struct SourceRequest {
    /// Identifier and attributes.
    pub op: SourceOp,
    /// Which platform of an image; `None` is the daemon's own.
    pub platform: Option<Platform>,
    /// Whose files and credentials may be used.
    pub sessions: SessionGroup,
    /// The vertex that asks.
    pub reporter: Reporter,
    /// The vertex's name, for `du`.
    pub description: String,
    /// What the build has resolved already.
    pub memo: Memo,
}

impl SourceRequest {
    /// The attribute `name` if it is there and not empty.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.op.attrs.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The identifier's scheme, `docker-image` of `docker-image://…`.
    pub fn scheme(&self) -> &str {
        self.op.identifier.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// What follows the scheme.
    pub fn rest(&self) -> &str {
        self.op.identifier.split_once("://").map_or(&self.op.identifier, |(_, rest)| rest)
    }
}

/// What a source was when it was resolved.
#[derive(Debug, Clone)]
pub struct Pin {
    /// Identifies the content: equal keys, equal files.
    pub key: String,
    /// Further keys that mean the same, cheaper or older (an image's manifest digest with its platform).
    pub aliases: Vec<String>,
    /// The key identifies nothing beyond this build (local directories): steps above hit by content only.
    pub volatile: bool,
    /// What else is known.
    pub detail: PinDetail,
}

impl Pin {
    /// Upstream's digest of a source operation: over `buildkit.source.v0:` and the key.
    pub fn cache_digest(&self) -> Digest {
        Self::digest_of(&self.key)
    }

    /// [`Pin::cache_digest`] of any key.
    pub fn digest_of(key: &str) -> Digest {
        Digest::of(format!("buildkit.source.v0:{key}"))
    }
}

/// What a pin knows beyond its key.
#[derive(Debug, Clone)]
pub enum PinDetail {
    /// `docker-image://`, `oci-layout://`.
    Image(Arc<ImagePin>),
    /// `http://`, `https://`.
    Http(HttpPin),
    /// `git://` and friends.
    Git(GitPin),
    /// `local://`.
    Local,
}

/// An image of one platform.
#[derive(Debug, Clone)]
pub struct ImagePin {
    /// Its name with the digest of what the name points to.
    pub reference: ImageRef,
    /// Digest of what the name points to: an index or a manifest.
    pub digest: Digest,
    /// The manifest of the platform.
    pub manifest: Descriptor,
    /// The config's blob.
    pub config_digest: Digest,
    /// The config's JSON, as it came.
    pub config: Arc<[u8]>,
    /// Layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// The platform that was chosen.
    pub platform: Platform,
    /// The repository where they can be found again later.
    pub origin: String,
    /// Where the layers come from.
    pub provider: Arc<dyn Provider>,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub struct ImageLayer {
    /// The blob.
    pub desc: Descriptor,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The instruction that made it, if the config tells.
    pub created_by: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: Option<i64>,
}

/// A file behind a URL.
#[derive(Debug, Clone)]
pub struct HttpPin {
    /// Digest of the content.
    pub digest: Digest,
    /// The file's name in the ref.
    pub filename: String,
    /// Unix seconds.
    pub last_modified_s: Option<i64>,
    /// The server's version mark.
    pub etag: Option<String>,
    /// The file, if it had to be fetched (or was here already) to know its digest.
    pub content: Option<Ref>,
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitPin {
    /// Full commit id.
    pub commit: String,
    /// The full ref that led to it, empty if it was named by id.
    pub reference: String,
    /// The tag object that was named, if it was an annotated tag.
    pub tag: Option<String>,
}

impl GitPin {
    /// What was named: the object of an annotated tag, else the commit.
    pub fn object(&self) -> &str {
        self.tag.as_ref().unwrap_or(&self.commit)
    }
}

/// What one build has resolved: the same name means the same thing from its first step to its last. A cheap handle;
/// the build makes one and drops it at its end, so nothing goes stale in a long-lived daemon.
#[derive(Clone, Default)]
pub struct Memo {
    entries: Arc<Mutex<HashMap<String, Arc<OnceCell<Pin>>>>>,
    images: Arc<Mutex<HashMap<String, Arc<OnceCell<Descriptor>>>>>,
    repositories: Arc<Mutex<HashMap<String, Repository>>>,
}

impl Memo {
    /// What an image name points to: for all platforms of one build the same.
    pub(crate) async fn image<F>(&self, key: &str, make: F) -> Result<Descriptor, SourceError>
    where
        F: Future<Output = Result<Descriptor, SourceError>>,
    {
        let cell = self.images.lock().entry(key.to_owned()).or_default().clone();
        cell.get_or_try_init(|| make).await.cloned()
    }

    /// The same thing under another name.
    pub(crate) fn know_image(&self, key: &str, desc: &Descriptor) {
        let cell = self.images.lock().entry(key.to_owned()).or_default().clone();
        if cell.set(desc.clone()).is_err() {
            tracing::trace!(image = key, "resolved already");
        }
    }

    /// A repository with the tokens that the build has got for it.
    pub(crate) fn repository(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Repository, SourceError>,
    ) -> Result<Repository, SourceError> {
        let mut repositories = self.repositories.lock();
        if let Some(found) = repositories.get(name) {
            return Ok(found.clone());
        }
        let made = make()?;
        repositories.insert(name.to_owned(), made.clone());
        Ok(made)
    }

    /// The pin under `key`; `make` runs once at a time, and again after an error.
    pub async fn get_or_try<F>(&self, key: &str, make: F) -> Result<Pin, SourceError>
    where
        F: Future<Output = Result<Pin, SourceError>>,
    {
        let cell = self.entries.lock().entry(key.to_owned()).or_default().clone();
        cell.get_or_try_init(|| make).await.cloned()
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("entries", &self.entries.lock().len()).finish()
    }
}
