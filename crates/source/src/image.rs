use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_oci::{
    Descriptor, ImageConfig, ImageRef, Index, Manifest, Platform, PlatformMatcher, Provider, media,
};
use rbuild_progress::{Reporter, StatusHandle};
use rbuild_registry::{Anonymous, Registry, RegistryProvider, RepoOptions, Repository};
use rbuild_session::SessionManager;
use rbuild_store::{LayerProgress, LayerSource, ProviderFactory, RecordType, Ref, Store};
use serde::Serialize;

use crate::layout::ClientLayout;
use crate::{ImageLayer, ImagePin, Pin, PinDetail, SessionCredentials, Source, SourceError, SourceRequest};

/// Space of the store's small values where manifests and configs are kept by digest: asking again costs a round trip.
const SPACE: &str = "image";
/// Larger documents are not kept there.
const MAX_KEPT: usize = 256 << 10;
/// Manifests and configs from the local image store beyond this are refused, as from a registry.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Indexes within indexes, as in registries.
const MAX_NESTING: usize = 4;

/// Scheme of images in a client's layout.
const LAYOUT: &str = "oci-layout";
/// Where layers of such images are from: nowhere, once the client is gone.
const LAYOUT_ORIGIN: &str = "oci-layout://";

/// `docker-image://`: an image from a registry, or from the daemon's own image store. `oci-layout://`: one from a
/// directory that a client shares.
#[derive(Debug)]
pub struct ImageSource {
    store: Store,
    registry: Arc<Registry>,
    sessions: Arc<SessionManager>,
}

/// Where to look for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResolveMode {
    /// The local store, then the registry: what was built here wins.
    Default,
    /// The registry only.
    Pull,
    /// The same.
    Local,
}

/// Where an image was found.
#[derive(Debug, Clone)]
enum Place {
    Registry(Repository),
    Local,
    Layout(Arc<ClientLayout>),
}

impl ImageSource {
    /// Images come from `registry`, with the credentials of sessions in `sessions`. Lazy layers of an earlier daemon
    /// are fetched without credentials, until a build asks for them with some.
    pub fn new(store: Store, registry: Arc<Registry>, sessions: Arc<SessionManager>) -> Self {
        store.set_provider_factory(Arc::new(Factory { registry: registry.clone() }));
        Self { store, registry, sessions }
    }

    fn repository(&self, name: &ImageRef, request: &SourceRequest) -> Result<Repository, SourceError> {
        request.memo.repository(&name.repository(), || {
            let credentials = SessionCredentials::new(self.sessions.clone(), request.sessions.clone());
            Ok(self.registry.repository(name, Arc::new(credentials), RepoOptions::default())?)
        })
    }

    /// What the name points to, and where. The same for all platforms and steps of one build.
    async fn root(
        &self,
        name: &ImageRef,
        mode: ResolveMode,
        request: &SourceRequest,
    ) -> Result<(Descriptor, Place), SourceError> {
        // What was built or tagged here is what is meant, unless the build asks for the registry's.
        if mode != ResolveMode::Pull
            && let Some(desc) = self.local(name)?
        {
            return Ok((desc, Place::Local));
        }
        let repository = self.repository(name, request)?;
        let asked = async { Ok(repository.resolve(name).await?) };
        let desc = request.memo.image(&name.to_string(), asked).await?;
        // The step that uses the image names it by digest; that need not be asked again.
        request.memo.know_image(&name.with_digest(desc.digest).to_string(), &desc);
        Ok((desc, Place::Registry(repository)))
    }

    /// As [`ImageSource::root`] in a client's layout, where only digests name anything.
    async fn layout_root(
        &self,
        name: &ImageRef,
        request: &SourceRequest,
    ) -> Result<(Descriptor, Place), SourceError> {
        let layout = ClientLayout::of(request, self.sessions.clone())?;
        let Some(digest) = name.digest() else {
            let reason = "an image of a client's OCI layout needs a digest".into();
            return Err(SourceError::Invalid { identifier: request.op.identifier.clone(), reason });
        };
        let desc = layout.describe(digest, MAX_DOCUMENT).await?;
        Ok((desc, Place::Layout(Arc::new(layout))))
    }

    fn local(&self, name: &ImageRef) -> Result<Option<Descriptor>, SourceError> {
        // A name with a tag and a digest is looked up by its tag: the digest decides whether it is still meant.
        let tagged = match name.tag() {
            Some(tag) => name.name_only().with_tag(tag).unwrap_or_else(|_| name.clone()),
            None => name.name_only().tag_or_latest(),
        };
        let image = self.store.image(&tagged.to_string())?;
        Ok(image
            .map(|image| image.target)
            .filter(|desc| name.digest().is_none_or(|wanted| wanted == desc.digest)))
    }

    /// A manifest, index or config by its descriptor, verified.
    async fn document(
        &self,
        place: &Place,
        desc: &Descriptor,
        is_config: bool,
    ) -> Result<Vec<u8>, SourceError> {
        let repository = match place {
            Place::Local => {
                let (content, digest) = (self.store.content().clone(), desc.digest);
                let read = tokio::task::spawn_blocking(move || {
                    content.read(&digest, MAX_DOCUMENT).map_err(io::Error::from)
                });
                let what = format!("image document {digest}");
                let read = read.await.map_err(io::Error::other).and_then(|read| read);
                return read.map_err(|error| SourceError::io(what, error));
            }
            Place::Layout(layout) => return layout.small(&desc.digest, MAX_DOCUMENT).await,
            Place::Registry(repository) => repository,
        };
        let key = desc.digest.as_bytes();
        if let Some(bytes) = self.store.kv_get(SPACE, key)?
            && Digest::of(&bytes) == desc.digest
        {
            return Ok(bytes);
        }
        let bytes = match is_config {
            true => repository.small_blob(desc, MAX_DOCUMENT).await?,
            false => repository.manifest(desc).await?,
        };
        if bytes.len() <= MAX_KEPT {
            self.store.kv_put(SPACE, key, &bytes).await?;
        }
        Ok(bytes)
    }

    /// Follows indexes down to the manifest of `platform`.
    async fn manifest(
        &self,
        name: &ImageRef,
        place: &Place,
        root: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest), SourceError> {
        let malformed = |reason: String| SourceError::Invalid { identifier: name.to_string(), reason };
        let matcher = PlatformMatcher::only(platform);
        let mut desc = root.clone();
        for _ in 0..MAX_NESTING {
            let bytes = self.document(place, &desc, false).await?;
            match media::kind(&desc.media_type) {
                media::Kind::Manifest => {
                    let manifest = Manifest::parse(&bytes).map_err(|error| malformed(error.to_string()))?;
                    return Ok((desc, manifest));
                }
                media::Kind::Index => {
                    let index = Index::parse(&bytes).map_err(|error| malformed(error.to_string()))?;
                    desc = self.choose(name, place, &index, &matcher, platform).await?;
                }
                _ => return Err(malformed(format!("unsupported media type `{}`", desc.media_type))),
            }
        }
        Err(malformed(format!("indexes are nested more than {MAX_NESTING} deep")))
    }

    async fn choose(
        &self,
        name: &ImageRef,
        place: &Place,
        index: &Index,
        matcher: &PlatformMatcher,
        platform: &Platform,
    ) -> Result<Descriptor, SourceError> {
        let images = || index.manifests.iter().filter(|entry| !entry.is_attestation());
        if let Some(best) = matcher.best(images(), |entry| entry.platform.as_ref()) {
            return Ok(best.clone());
        }
        // Entries that do not say their platform are asked for it.
        for entry in images().filter(|entry| entry.platform.is_none()) {
            if media::is_index(&entry.media_type) {
                return Ok(entry.clone());
            }
            if !media::is_manifest(&entry.media_type) {
                continue;
            }
            let Ok(manifest) = Manifest::parse(&self.document(place, entry, false).await?) else { continue };
            let Ok(config) = ImageConfig::parse(&self.document(place, &manifest.config, true).await?) else {
                continue;
            };
            if matcher.matches(&config.platform) {
                return Ok(entry.clone());
            }
        }
        let what = format!("{name}: no match for platform in manifest list: {platform}");
        Err(SourceError::NotFound { what })
    }

    async fn pin(
        &self,
        name: &ImageRef,
        mode: ResolveMode,
        limit: Option<usize>,
        request: &SourceRequest,
    ) -> Result<Pin, SourceError> {
        let platform = request.platform.clone().unwrap_or_else(Platform::host).normalize();
        let (root, place) = match request.scheme() {
            LAYOUT => self.layout_root(name, request).await?,
            _ => self.root(name, mode, request).await?,
        };
        let reference = name.with_digest(root.digest);
        let (desc, manifest) = self.manifest(&reference, &place, &root, &platform).await?;
        let bytes = self.document(&place, &manifest.config, true).await?;
        let malformed = |reason: String| SourceError::Invalid { identifier: reference.to_string(), reason };
        let config = ImageConfig::parse(&bytes).map_err(|error| malformed(error.to_string()))?;
        let mut layers = layers_of(&manifest, &config).map_err(malformed)?;
        if let Some(limit) = limit {
            if limit > layers.len() {
                let has = layers.len();
                return Err(malformed(format!(
                    "layer limit {limit} is greater than the number of layers in the image {has}"
                )));
            }
            layers.truncate(limit);
        }
        let key = chain_id(&layers).unwrap_or(manifest.config.digest).to_string();
        let alias = manifest_key(root.digest, &platform, limit);
        let provider: Arc<dyn Provider> = match &place {
            Place::Registry(repository) => Arc::new(RegistryProvider::new(repository.clone())),
            Place::Local => Arc::new(self.store.content().clone()),
            Place::Layout(layout) => layout.clone(),
        };
        self.store.offer(layers.iter().map(|layer| &layer.desc.digest), &provider);
        let image = ImagePin {
            reference,
            digest: root.digest,
            manifest: desc,
            config_digest: manifest.config.digest,
            config: bytes.into(),
            layers,
            platform: config.platform.normalize(),
            origin: match &place {
                Place::Layout(_) => LAYOUT_ORIGIN.to_owned(),
                Place::Registry(_) | Place::Local => name.repository(),
            },
            provider,
        };
        Ok(Pin { key, aliases: vec![alias], volatile: false, detail: PinDetail::Image(Arc::new(image)) })
    }
}

#[async_trait]
impl Source for ImageSource {
    fn schemes(&self) -> &'static [&'static str] {
        &["docker-image", LAYOUT]
    }

    async fn resolve(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        let invalid =
            |reason: String| SourceError::Invalid { identifier: request.op.identifier.clone(), reason };
        let name =
            ImageRef::parse(request.rest()).map_err(|error| invalid(error.to_string()))?.tag_or_latest();
        let mode = match request.attr("image.resolvemode") {
            None | Some("default") => ResolveMode::Default,
            Some("pull") => ResolveMode::Pull,
            Some("local") => ResolveMode::Local,
            Some(other) => return Err(invalid(format!("unknown resolve mode `{other}`"))),
        };
        let is_layout = request.scheme() == LAYOUT;
        let limit = match request.attr(if is_layout { "oci.layerlimit" } else { "image.layerlimit" }) {
            None => None,
            Some(text) => match text.parse() {
                Ok(limit) if limit > 0 => Some(limit),
                _ => return Err(invalid(format!("invalid layer limit {text}: expected a number above 0"))),
            },
        };
        let status = name.digest().map(|_| request.reporter.status(&format!("resolve {name}"), "resolving"));
        let platform = request.platform.as_ref().map(Platform::to_string).unwrap_or_default();
        let of = |attr| request.attr(attr).filter(|_| is_layout).unwrap_or_default();
        let whose = (of("oci.session"), of("oci.store"));
        let key = format!("image {name} {platform} {mode:?} {limit:?} {whose:?}");
        let pin = request.memo.get_or_try(&key, self.pin(&name, mode, limit, request)).await?;
        drop(status);
        if let (Some(text), PinDetail::Image(image)) = (request.attr("image.checksum"), &pin.detail) {
            let expected = Digest::parse(text).map_err(|error| invalid(error.to_string()))?;
            if expected != image.digest {
                return Err(SourceError::Digest { what: name.to_string(), expected, found: image.digest });
            }
        }
        Ok(pin)
    }

    async fn fetch(&self, request: &SourceRequest, pin: &Pin) -> Result<Ref, SourceError> {
        let PinDetail::Image(image) = &pin.detail else {
            let identifier = request.op.identifier.clone();
            return Err(SourceError::Invalid { identifier, reason: "is not an image".into() });
        };
        let record_type = match request.attr("image.recordtype") {
            Some("internal") => RecordType::Internal,
            Some("frontend") => RecordType::Frontend,
            _ => RecordType::Regular,
        };
        let progress = Arc::new(PullProgress::new(request.reporter.clone()));
        let mut parent: Option<Ref> = None;
        for layer in &image.layers {
            let source = LayerSource {
                desc: layer.desc.clone(),
                diff_id: layer.diff_id,
                provider: image.provider.clone(),
                origin: image.origin.clone(),
                created_ms: layer.created_ms,
                description: format!("pulled from {}", image.reference),
                record_type,
                progress: Some(progress.clone()),
            };
            parent = Some(self.store.layer(parent.as_ref(), source).await?);
        }
        match parent {
            Some(top) => Ok(top),
            None => Ok(self.store.scratch().await?),
        }
    }
}

/// The layers with what the config says about them.
fn layers_of(manifest: &Manifest, config: &ImageConfig) -> Result<Vec<ImageLayer>, String> {
    if let Some(odd) = manifest.layers.iter().find(|desc| media::compression_of(&desc.media_type).is_none()) {
        return Err(format!("layer {} has the unsupported media type `{}`", odd.digest, odd.media_type));
    }
    let (layers, diff_ids) = (&manifest.layers, &config.rootfs.diff_ids);
    if layers.len() != diff_ids.len() {
        return Err(format!("the manifest has {} layers, the config {}", layers.len(), diff_ids.len()));
    }
    let mut history = config.history.iter().filter(|entry| !entry.empty_layer);
    let layers = layers.iter().zip(diff_ids).map(|(desc, diff_id)| {
        let entry = history.next();
        let created = entry.and_then(|entry| entry.created.as_deref()).and_then(|text| text.parse().ok());
        ImageLayer {
            desc: desc.clone(),
            diff_id: *diff_id,
            created_by: entry.map(|entry| entry.created_by.clone()).unwrap_or_default(),
            created_ms: created.map(|time: Timestamp| time.as_millisecond()),
        }
    });
    Ok(layers.collect())
}

/// The identity of a stack of layers, as containerd names snapshots.
fn chain_id(layers: &[ImageLayer]) -> Option<Digest> {
    layers.iter().map(|layer| layer.diff_id).reduce(|below, diff_id| Digest::of(format!("{below} {diff_id}")))
}

/// The key of an image that can be had without its config.
fn manifest_key(digest: Digest, platform: &Platform, limit: Option<usize>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Key<'a> {
        digest: Digest,
        #[serde(rename = "OS")]
        os: &'a str,
        arch: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        variant: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    }
    let Platform { os, architecture, variant, .. } = platform;
    let key = Key { digest, os, arch: architecture, variant, limit };
    Digest::of(rbuild_oci::json::to_vec(&key).expect("plain fields")).to_string()
}

/// Shows layers on the vertex that asked for the image first.
#[derive(Debug)]
struct PullProgress {
    reporter: Reporter,
    shown: Mutex<Vec<(String, StatusHandle)>>,
}

impl PullProgress {
    fn new(reporter: Reporter) -> Self {
        Self { reporter, shown: Mutex::default() }
    }

    fn with(&self, id: String, name: &str, change: impl FnOnce(&StatusHandle)) {
        let mut shown = self.shown.lock();
        match shown.iter().find(|(known, _)| *known == id) {
            Some((_, handle)) => change(handle),
            None => {
                let handle = self.reporter.status(&id, name);
                change(&handle);
                shown.push((id, handle));
            }
        }
    }
}

fn extracting(layer: &Descriptor) -> String {
    format!("extracting {}", layer.digest)
}

impl LayerProgress for PullProgress {
    fn bytes(&self, layer: &Descriptor, current: u64, total: u64) {
        self.with(layer.digest.to_string(), "downloading", |handle| {
            handle.set(current, total);
            if current >= total {
                handle.done();
            }
        });
    }

    fn extracting(&self, layer: &Descriptor) {
        self.with(extracting(layer), "extract", |_| {});
    }

    fn extracted(&self, layer: &Descriptor) {
        self.with(extracting(layer), "extract", StatusHandle::done);
    }
}

/// Finds lazy layers of an earlier daemon again.
#[derive(Debug)]
struct Factory {
    registry: Arc<Registry>,
}

#[async_trait]
impl ProviderFactory for Factory {
    async fn provider(&self, origin: &str, _desc: &Descriptor) -> io::Result<Arc<dyn Provider>> {
        if origin == LAYOUT_ORIGIN {
            let text = "it came from an OCI layout of a client: build again with that layout";
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let name = ImageRef::parse(origin).map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let repository = self.registry.repository(&name, Arc::new(Anonymous), RepoOptions::default())?;
        Ok(Arc::new(RegistryProvider::new(repository)))
    }

    fn serves(&self, origin: &str) -> bool {
        ImageRef::parse(origin).is_ok()
    }
}

#[cfg(test)]
mod tests;
