//! Caches elsewhere, by type and attributes: [`Caches`], [`CacheExporter`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use rbuild_digest::Digest;
use rbuild_oci::{CompressionOptions, Descriptor, ImageRef, Index, Manifest, media};
use rbuild_progress::Reporter;
use rbuild_registry::{Credentials, Registry, RepoOptions};
use rbuild_session::{Session, SessionGroup, SessionManager};
use rbuild_store::{LayerBlob, LayerProgress, Ref, Store};

use crate::attrs::Attrs;
use crate::backend::{ClientDir, InMemory, Place, RegistryPlace};
use crate::error::{CacheError, Result};
use crate::export::{self, Collected, Known, Mode};
use crate::progress::LayerStatus;
use crate::remote::RemoteCache;

/// Blobs on their way at once.
const PARALLEL: usize = 4;
/// How long an export waits for the client that is to take it. Source: protocol notes, "The session".
const SESSION_WAIT: Duration = Duration::from_secs(5);
/// What a build's answer calls the descriptor of an exported cache.
const MANIFEST_KEY: &str = "cache.manifest";

/// What caches elsewhere need from the daemon.
#[derive(Debug, Clone)]
pub struct Caches {
    /// Where refs are made and layers come from.
    pub store: Store,
    /// Registries.
    pub registry: Arc<Registry>,
    /// Clients.
    pub sessions: Arc<SessionManager>,
}

/// On whose behalf a cache is read or written.
#[derive(Debug, Clone)]
pub struct Client {
    /// Where the client can be reached.
    pub sessions: SessionGroup,
    /// Its credentials for registries.
    pub credentials: Arc<dyn Credentials>,
}

/// A cache to import from, whose attributes make sense.
#[derive(Debug)]
pub struct CacheImport {
    from: Source,
}

#[derive(Debug)]
enum Source {
    Registry { shown: String, name: ImageRef, insecure: bool },
    Local { store: String, digest: Digest },
}

impl CacheImport {
    /// Errors: unknown types and attributes, values that make no sense.
    pub fn parse(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Self, CacheError> {
        let mut attrs = Attrs::new(kind, attrs);
        attrs.drop_export_attributes();
        let from = match kind {
            "registry" => {
                let insecure = attrs.flag("registry.insecure", false)?;
                let (shown, name) = attrs.reference()?;
                Source::Registry { shown, name, insecure }
            }
            "local" => {
                let src = attrs.take("src").ok_or(CacheError::Missing { kind: "local", name: "src" })?;
                attrs.take("tag");
                let digest = attrs.digest()?.ok_or(CacheError::Missing { kind: "local", name: "digest" })?;
                Source::Local { store: format!("local:{src}"), digest }
            }
            other => {
                return Err(CacheError::UnknownType { direction: "importer", kind: other.to_owned() });
            }
        };
        attrs.finish()?;
        Ok(Self { from })
    }

    /// What the import's step is called.
    pub fn step_name(&self) -> String {
        let name = match &self.from {
            Source::Registry { shown, .. } => shown.clone(),
            Source::Local { digest, .. } => format!("local:{}", digest.short()),
        };
        format!("importing cache manifest from {name}")
    }
}

/// The step of an import that cannot even be begun.
pub fn import_step_name(kind: &str, attrs: &BTreeMap<String, String>) -> String {
    let what = attrs.get("ref").map_or(kind, String::as_str);
    format!("importing cache manifest from {what}")
}

impl Caches {
    /// Starts importing, beside the build. A failure is told by the step and means an empty cache.
    pub fn import(&self, import: CacheImport, client: &Client, reporter: Reporter) -> Arc<RemoteCache> {
        let (caches, client) = (self.clone(), client.clone());
        let place = async move {
            match import.from {
                Source::Registry { shown, name, insecure } => caches.registry(&client, shown, name, insecure),
                Source::Local { store, digest } => {
                    let session = caches.session(&client, rbuild_session::names::CONTENT_READ).await?;
                    let place: Arc<dyn Place> =
                        Arc::new(ClientDir::new(store.clone(), session, store, Some(digest)));
                    Ok(place)
                }
            }
        };
        RemoteCache::start(self.store.clone(), place, reporter)
    }

    fn registry(
        &self,
        client: &Client,
        shown: String,
        name: ImageRef,
        insecure: bool,
    ) -> Result<Arc<dyn Place>> {
        let options = RepoOptions { insecure };
        let repository = self.registry.repository(&name, client.credentials.clone(), options)?;
        let sessions = (self.sessions.clone(), client.sessions.clone());
        Ok(Arc::new(RegistryPlace::new(shown, name, repository, sessions)))
    }

    async fn session(&self, client: &Client, method: &'static str) -> Result<Session> {
        let any = self.sessions.any_with(&client.sessions, method);
        match tokio::time::timeout(SESSION_WAIT, any).await {
            Ok(session) => Ok(session?),
            Err(_) => {
                Err(CacheError::Slow { what: "the client's session".into(), seconds: SESSION_WAIT.as_secs() })
            }
        }
    }
}

/// A cache to export to, whose attributes make sense.
#[derive(Debug)]
pub struct CacheExport {
    to: To,
    mode: Mode,
    compression: CompressionOptions,
    force: bool,
    oci_types: bool,
    as_image: bool,
    ignore_error: bool,
}

#[derive(Debug)]
enum To {
    Registry { shown: String, name: ImageRef, insecure: bool },
    Local { store: String },
    Inline,
}

impl CacheExport {
    /// Errors: unknown types and attributes, values that make no sense.
    pub fn parse(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Self, CacheError> {
        let mut attrs = Attrs::new(kind, attrs);
        let to = match kind {
            "registry" => {
                let insecure = attrs.flag("registry.insecure", false)?;
                let (shown, name) = attrs.reference()?;
                To::Registry { shown, name, insecure }
            }
            "local" => {
                let dest = attrs.take("dest").ok_or(CacheError::Missing { kind: "local", name: "dest" })?;
                // The client's own: which tag its index gets.
                attrs.take("tag");
                To::Local { store: format!("local:{dest}") }
            }
            "inline" => To::Inline,
            other => {
                return Err(CacheError::UnknownType { direction: "exporter", kind: other.to_owned() });
            }
        };
        let oci_types = attrs.flag("oci-mediatypes", true)?;
        let as_image = attrs.flag("image-manifest", oci_types)?;
        if as_image && !oci_types {
            let expected = "an image manifest has OCI media types";
            return Err(attrs.bad("image-manifest", "true", expected));
        }
        let (compression, force) = attrs.compression()?;
        let mode = attrs.mode()?;
        let ignore_error = attrs.flag("ignore-error", false)?;
        attrs.finish()?;
        Ok(Self { to, mode, compression, force, oci_types, as_image, ignore_error })
    }

    /// Whether the cache goes into the exported image.
    pub fn is_inline(&self) -> bool {
        matches!(self.to, To::Inline)
    }

    /// Whether a failure is not the build's.
    pub fn ignores_errors(&self) -> bool {
        self.ignore_error
    }

    /// What the export's step is called.
    pub fn step_name(&self) -> &'static str {
        match self.to {
            To::Registry { .. } => "exporting cache to registry",
            To::Local { .. } => "exporting cache to client directory",
            To::Inline => "preparing layers for inline cache",
        }
    }

    /// Exports what is known of a build. Gives back what the client is told.
    ///
    /// Blobs that the target has are not sent again. Cancel: by drop; what was sent stays, and the address goes on leading
    /// to what it did.
    pub async fn run(
        &self,
        caches: &Caches,
        client: &Client,
        known: &Known,
        reporter: &Reporter,
    ) -> Result<BTreeMap<String, String>, CacheError> {
        let place: Arc<dyn Place> = match &self.to {
            To::Inline => return Ok(BTreeMap::new()),
            To::Registry { shown, name, insecure } => {
                caches.registry(client, shown.clone(), name.clone(), *insecure)?
            }
            To::Local { store } => {
                let session = caches.session(client, rbuild_session::names::CONTENT_WRITE).await?;
                Arc::new(ClientDir::new(store.clone(), session, store.clone(), None))
            }
        };
        let preparing = reporter.status("preparing build cache for export", "");
        let progress: Arc<dyn LayerProgress> = Arc::new(LayerStatus::new(reporter.clone()));
        let compression = (&self.compression, self.force);
        let collected = export::collect(known, self.mode, compression, Some(progress)).await?;
        preparing.done();
        let sending = reporter.status("sending cache export", "");
        let desc = self.send(caches, &*place, &collected, reporter).await?;
        sending.done();
        let text = serde_json::to_string(&desc)?;
        Ok(BTreeMap::from([(MANIFEST_KEY.to_owned(), text)]))
    }

    async fn send(
        &self,
        caches: &Caches,
        place: &dyn Place,
        collected: &Collected,
        reporter: &Reporter,
    ) -> Result<Descriptor> {
        let mut blobs: Vec<&(LayerBlob, Ref)> = collected.blobs.iter().collect();
        let mut seen = std::collections::HashSet::new();
        blobs.retain(|(blob, _)| seen.insert(blob.desc.digest));
        let sends = blobs.iter().map(|(blob, reference)| send_blob(caches, place, blob, reference, reporter));
        let sends: Vec<_> = sends.collect();
        let mut sends = futures::stream::iter(sends).buffer_unordered(PARALLEL);
        while let Some(sent) = sends.next().await {
            sent?;
        }
        drop(sends);
        let config = Bytes::from(serde_json::to_vec(&collected.config)?);
        let config_desc = Descriptor::of(media::BUILDKIT_CACHE_CONFIG, &config);
        let status = reporter.status(&format!("writing config {}", config_desc.digest), "");
        place.put(&config_desc, &InMemory(config), None).await?;
        status.done();
        let layers = blobs.iter().map(|(blob, _)| {
            let mut desc = blob.desc.clone();
            desc.media_type = match self.oci_types {
                true => media::to_oci(&desc.media_type).to_owned(),
                false => media::to_docker(&desc.media_type).to_owned(),
            };
            desc
        });
        let (manifest, media_type) = self.manifest(layers.collect(), config_desc)?;
        let manifest = Bytes::from(manifest);
        let desc = Descriptor::of(media_type, &manifest);
        let kind = if self.as_image { "cache image manifest" } else { "cache manifest" };
        let status = reporter.status(&format!("writing {kind} {}", desc.digest), "");
        place.publish(&desc, manifest).await?;
        status.done();
        Ok(desc)
    }

    fn manifest(&self, mut layers: Vec<Descriptor>, config: Descriptor) -> Result<(Vec<u8>, &'static str)> {
        if self.as_image {
            let manifest = Manifest {
                schema_version: 2,
                media_type: media::OCI_MANIFEST.into(),
                artifact_type: None,
                config,
                layers,
                subject: None,
                annotations: BTreeMap::new(),
            };
            return Ok((rbuild_oci::json::to_vec(&manifest)?, media::OCI_MANIFEST));
        }
        let media_type = if self.oci_types { media::OCI_INDEX } else { media::DOCKER_INDEX };
        layers.push(config);
        let index = Index {
            schema_version: 2,
            media_type: media_type.into(),
            artifact_type: None,
            manifests: layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        Ok((rbuild_oci::json::to_vec(&index)?, media_type))
    }
}

async fn send_blob(
    caches: &Caches,
    place: &dyn Place,
    blob: &LayerBlob,
    reference: &Ref,
    reporter: &Reporter,
) -> Result<()> {
    let status = Arc::new(reporter.status(&format!("writing layer {}", blob.desc.digest), ""));
    if !blob.is_local {
        // Where it came from may be where it goes.
        if place.has(&blob.desc).await? {
            return Ok(());
        }
        reference.fetch_blob(blob, None).await?;
    }
    let (counter, total) = (status.clone(), blob.desc.size);
    let sent = Arc::new(move |bytes| counter.set(bytes, total));
    place.put(&blob.desc, caches.store.content(), Some(sent)).await?;
    status.done();
    Ok(())
}

/// The value of [`crate::INLINE_KEY`] in the config of an image whose layers are `layers`, before it is encoded.
pub async fn inline(known: &Known, reference: &Ref, layers: &[LayerBlob]) -> Result<Vec<u8>, CacheError> {
    export::inline(known, reference, layers).await
}
