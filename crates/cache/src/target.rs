//! A cache to be written: [`CacheExport`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use rbuild_oci::{CompressionOptions, Descriptor, Index, Manifest, media};
use rbuild_progress::Reporter;
use rbuild_store::{LayerBlob, LayerProgress, Ref};

use crate::attrs::Attrs;
use crate::backend::{Address, ClientDir, GhaOptions, InMemory, Manifests, Place, S3Options};
use crate::caches::{Caches, Client, RegistryAddress};
use crate::error::{CacheError, Result};
use crate::export::{self, Collected, Known, Mode};
use crate::format::{Annotations, Config};
use crate::mounts;
use crate::progress::LayerStatus;

/// Blobs on their way at once, where nobody says otherwise.
const PARALLEL: usize = 4;
/// What a build's answer calls the descriptor of an exported cache.
const MANIFEST_KEY: &str = "cache.manifest";

/// A cache to export to, whose attributes make sense.
#[derive(Debug)]
pub struct CacheExport {
    to: To,
    mode: Mode,
    mounts: Vec<String>,
    compression: CompressionOptions,
    force: bool,
    oci_types: bool,
    as_image: bool,
    ignore_error: bool,
    background: bool,
}

/// Where an export goes, ready to be written to.
#[derive(Debug)]
pub struct Target(Option<Arc<dyn Place>>);

#[derive(Debug)]
enum To {
    Registry(RegistryAddress),
    Local { store: String },
    S3(Box<S3Options>),
    Gha(Box<GhaOptions>),
    Inline,
}

impl CacheExport {
    /// Errors: unknown types and attributes, values that make no sense.
    pub fn parse(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Self, CacheError> {
        let mut attrs = Attrs::new(kind, attrs);
        let to = match kind {
            "registry" => To::Registry(RegistryAddress::take(&mut attrs)?),
            "gha" => To::Gha(Box::new(GhaOptions::take(&mut attrs)?)),
            "s3" => To::S3(Box::new(S3Options::take(&mut attrs)?)),
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
        // Elsewhere there is no manifest that could have another form.
        let has_manifest = !matches!(to, To::S3(_) | To::Gha(_));
        let oci_types = !has_manifest || attrs.flag("oci-mediatypes", true)?;
        let as_image = has_manifest && attrs.flag("image-manifest", oci_types)?;
        if as_image && !oci_types {
            let expected = "an image manifest has OCI media types";
            return Err(attrs.bad("image-manifest", "true", expected));
        }
        let (compression, force) = attrs.compression()?;
        let mode = attrs.mode()?;
        let mounts = attrs.mounts();
        if matches!(to, To::Inline) && !mounts.is_empty() {
            return Err(attrs.bad(
                "cache-mounts",
                &mounts.join(";"),
                "an image has no place for cache mounts",
            ));
        }
        let ignore_error = attrs.flag("ignore-error", false)?;
        let background = attrs.flag("background", false)?;
        if background && matches!(to, To::Inline | To::Local { .. }) {
            return Err(attrs.bad(
                "background",
                "true",
                "what goes to the client cannot be sent when it has gone",
            ));
        }
        attrs.finish()?;
        Ok(Self { to, mode, mounts, compression, force, oci_types, as_image, ignore_error, background })
    }

    /// Whether the cache goes into the exported image.
    pub fn is_inline(&self) -> bool {
        matches!(self.to, To::Inline)
    }

    /// Whether a failure is not the build's.
    pub fn ignores_errors(&self) -> bool {
        self.ignore_error
    }

    /// Whether the build's result does not wait for it.
    pub fn is_background(&self) -> bool {
        self.background
    }

    /// What the export's step is called.
    pub fn step_name(&self) -> &'static str {
        match self.to {
            To::Registry(_) => "exporting cache to registry",
            To::Local { .. } => "exporting cache to client directory",
            To::S3(_) => "exporting cache to Amazon S3",
            To::Gha(_) => "exporting to GitHub Actions Cache",
            To::Inline => "preparing layers for inline cache",
        }
    }

    /// Opens where it goes, while the client is there.
    pub async fn open(&self, caches: &Caches, client: &Client) -> Result<Target, CacheError> {
        let place: Arc<dyn Place> = match &self.to {
            To::Inline => return Ok(Target(None)),
            To::Registry(address) => caches.registry(client, address)?,
            To::S3(options) => caches.s3((**options).clone()),
            To::Gha(options) => caches.gha((**options).clone()),
            To::Local { store } => {
                let session = caches.session(client, rbuild_session::names::CONTENT_WRITE).await?;
                Arc::new(ClientDir::new(store.clone(), session, store.clone(), None))
            }
        };
        if self.background {
            place.ready().await?;
        }
        Ok(Target(Some(place)))
    }

    /// Exports what is known of a build. Gives back what the client is told.
    ///
    /// Blobs that the target has are not sent again. Cancel: by drop; what was sent stays, and the address goes on leading
    /// to what it did.
    pub async fn run(
        &self,
        caches: &Caches,
        target: &Target,
        known: &Known,
        reporter: &Reporter,
    ) -> Result<BTreeMap<String, String>, CacheError> {
        let Some(place) = &target.0 else { return Ok(BTreeMap::new()) };
        let preparing = reporter.status("preparing build cache for export", "");
        let progress: Arc<dyn LayerProgress> = Arc::new(LayerStatus::new(reporter.clone()));
        let compression = (&self.compression, self.force);
        let collected = export::collect(known, self.mode, compression, Some(progress)).await?;
        preparing.done();
        let sending = reporter.status("sending cache export", "");
        let mounts = mounts::export(&caches.store, &**place, (known, &self.mounts), reporter).await?;
        let desc = self.send(caches, &**place, (collected, mounts), reporter).await?;
        sending.done();
        let Some(desc) = desc else { return Ok(BTreeMap::new()) };
        Ok(BTreeMap::from([(MANIFEST_KEY.to_owned(), serde_json::to_string(&desc)?)]))
    }

    /// Sends the blobs, then what names them. Gives back the manifest, where there is one.
    async fn send(
        &self,
        caches: &Caches,
        place: &dyn Place,
        (mut collected, mounts): (Collected, Vec<mounts::Sent>),
        reporter: &Reporter,
    ) -> Result<Option<Descriptor>> {
        let mut blobs: Vec<&(LayerBlob, Ref)> = collected.blobs.iter().collect();
        let mut seen = std::collections::HashSet::new();
        blobs.retain(|(blob, _)| seen.insert(blob.desc.digest));
        let sends = blobs.iter().map(|(blob, reference)| send_blob(caches, place, blob, reference, reporter));
        let sends: Vec<_> = sends.collect();
        let mut sends = futures::stream::iter(sends).buffer_unordered(self.parallelism());
        while let Some(sent) = sends.next().await {
            sent?;
        }
        drop(sends);
        let layers = blobs.iter().map(|(blob, _)| {
            let mut desc = blob.desc.clone();
            desc.media_type = match self.oci_types {
                true => media::to_oci(&desc.media_type).to_owned(),
                false => media::to_docker(&desc.media_type).to_owned(),
            };
            desc
        });
        let mut layers: Vec<Descriptor> = layers.collect();
        // Named by the manifest too, so that registries keep them.
        layers.extend(mounts.iter().flat_map(|mount| mount.blobs.clone()));
        collected.config.mounts = mounts.into_iter().map(|mount| mount.entry).collect();
        match place.address() {
            Address::Manifests(manifests) => {
                self.publish(place, manifests, (&collected.config, layers), reporter).await.map(Some)
            }
            Address::Documents(documents) => {
                let document = Bytes::from(serde_json::to_vec(&annotated(collected.config, &layers))?);
                documents.write(document).await?;
                Ok(None)
            }
        }
    }

    fn parallelism(&self) -> usize {
        match &self.to {
            To::S3(options) => options.parallelism,
            _ => PARALLEL,
        }
    }

    async fn publish(
        &self,
        place: &dyn Place,
        manifests: &dyn Manifests,
        (config, layers): (&Config, Vec<Descriptor>),
        reporter: &Reporter,
    ) -> Result<Descriptor> {
        let config = Bytes::from(serde_json::to_vec(config)?);
        let config_desc = Descriptor::of(media::BUILDKIT_CACHE_CONFIG, &config);
        let status = reporter.status(&format!("writing config {}", config_desc.digest), "");
        place.put(&config_desc, &InMemory(config), None).await?;
        status.done();
        let (manifest, media_type) = self.manifest(layers, config_desc)?;
        let manifest = Bytes::from(manifest);
        let desc = Descriptor::of(media_type, &manifest);
        let kind = if self.as_image { "cache image manifest" } else { "cache manifest" };
        let status = reporter.status(&format!("writing {kind} {}", desc.digest), "");
        manifests.publish(&desc, manifest).await?;
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

/// The document with what a manifest would say of each layer.
fn annotated(mut config: Config, layers: &[Descriptor]) -> Config {
    let layers: HashMap<_, _> = layers.iter().map(|desc| (desc.digest, desc)).collect();
    for layer in &mut config.layers {
        layer.annotations = layers.get(&layer.blob).map(|desc| Annotations {
            media_type: desc.media_type.clone(),
            diff_id: desc.diff_id(),
            size: desc.size,
            created_at: desc.annotations.get(media::ANNOTATION_CREATED_AT).cloned().unwrap_or_default(),
        });
    }
    config
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
