//! Puts images together: layers from the store, config, manifest, index.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, Index, Manifest, Platform, json, media};
use rbuild_store::{LayerBlob, LayerProgress, Lease, Ref, Store};

use crate::annotations::Place;
use crate::attest::{self, AttestationImage};
use crate::attrs::ImageOptions;
use crate::config;
use crate::estargz::{TOC_DIGEST, UNCOMPRESSED_SIZE};
use crate::history::LayerFacts;
use crate::progress::LayerStatus;
use crate::request::{ExportRef, ExportRequest};
use crate::rewrite::{REWRITTEN, Rewriting, rewrite};
use crate::{ExportError, Result};

/// An image whose manifests and configs are in the content store. Its lease keeps all blobs until it is dropped.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// What the image's name points to: a manifest or an index.
    pub(crate) target: Descriptor,
    /// The config of the only, or the first, platform.
    pub(crate) config: Descriptor,
    /// Per platform.
    pub(crate) images: Vec<PlatformImage>,
    /// What is said about them; each is an entry of the index.
    pub(crate) attestations: Vec<AttestationImage>,
    pub(crate) _lease: Lease,
}

/// The image of one platform.
#[derive(Debug)]
pub(crate) struct PlatformImage {
    pub(crate) manifest: Descriptor,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<LayerBlob>,
    pub(crate) reference: Option<Ref>,
}

impl Assembled {
    /// Every blob, children before those that name them.
    pub(crate) fn blobs(&self) -> Vec<Descriptor> {
        let mut blobs = Vec::new();
        for image in &self.images {
            blobs.extend(image.layers.iter().map(|layer| layer.desc.clone()));
            blobs.extend([image.config.clone(), image.manifest.clone()]);
        }
        for of_image in &self.attestations {
            blobs.extend(of_image.layers.iter().cloned());
            blobs.extend([of_image.config.clone(), of_image.manifest.clone()]);
        }
        if self.target.digest != self.images[0].manifest.digest {
            blobs.push(self.target.clone());
        }
        blobs
    }

    /// What the client is told.
    pub(crate) fn response(&self) -> BTreeMap<String, String> {
        let descriptor = json::to_vec(&self.target).unwrap_or_default();
        let mut response = BTreeMap::from([
            ("containerimage.digest".to_owned(), self.target.digest.to_string()),
            (
                "containerimage.descriptor".to_owned(),
                base64::engine::general_purpose::STANDARD.encode(descriptor),
            ),
        ]);
        if !media::is_index(&self.target.media_type) {
            response.insert("containerimage.config.digest".to_owned(), self.config.digest.to_string());
        }
        response
    }
}

/// Makes what is missing of the image of `request`. `index`: several platforms get an index.
pub(crate) async fn assemble(
    store: &Store,
    options: &ImageOptions,
    request: &ExportRequest,
) -> Result<Assembled> {
    let annotations = options.annotations.over(&request.annotations)?;
    let options = &ImageOptions { annotations, ..options.clone() };
    let form = options.attestations;
    let is_attested = request.refs.iter().flat_map(|part| &part.attestations).any(|said| form.wants(said));
    if is_attested && !options.oci_types {
        return Err(ExportError::Result("cannot export attestations with \"oci-mediatypes=false\"".into()));
    }
    let has_index = request.is_multi_platform() || is_attested;
    options.annotations.check(has_index)?;
    let lease = store.lease();
    let exporting = request.reporter.status("exporting layers", "exporting layers");
    let progress: Arc<dyn LayerProgress> = Arc::new(LayerStatus::new(request.reporter.clone()));
    let layers = request.refs.iter().map(|part| layers_of(part, options, &progress));
    let layers = futures::future::try_join_all(layers).await?;
    exporting.done();
    let mut images = Vec::new();
    for (part, mut layers) in request.refs.iter().zip(layers) {
        let epoch = options.epoch.or(request.epoch).filter(|_| options.rewrite_times);
        if epoch.is_some() || options.estargz {
            let (compression, estargz, force) = (&options.compression, options.estargz, options.force);
            let how = Rewriting { compression, epoch, estargz, force };
            rewrite(store, request, part, &mut layers, how, &lease).await?;
        }
        images.push(platform_image(store, options, request, part, layers, &lease).await?);
    }
    let config =
        images.first().ok_or_else(|| ExportError::Result("the result is empty".into()))?.config.clone();
    let attestations = attest(store, options, request, &images, &lease).await?;
    let target = match has_index {
        false => images[0].manifest.clone(),
        true => {
            let manifests = images.iter().map(|image| &image.manifest);
            let manifests =
                manifests.chain(attestations.iter().map(|said| &said.manifest)).cloned().collect();
            index(store, options, request, manifests, &lease).await?
        }
    };
    Ok(Assembled { target, config, images, attestations, _lease: lease })
}

/// Makes the manifests of attestations, one for each image about which anything is said.
async fn attest(
    store: &Store,
    options: &ImageOptions,
    request: &ExportRequest,
    images: &[PlatformImage],
    lease: &Lease,
) -> Result<Vec<AttestationImage>> {
    let mut made = Vec::new();
    for (part, image) in request.refs.iter().zip(images) {
        let wanted: Vec<_> =
            part.attestations.iter().filter(|said| options.attestations.wants(said)).collect();
        if wanted.is_empty() {
            continue;
        }
        let platform = image.manifest.platform.clone().unwrap_or_default();
        let own = attest::image_subjects(&options.names, &platform, &image.manifest.digest)?;
        let mut statements = Vec::with_capacity(wanted.len());
        for said in wanted {
            statements
                .push((said.predicate_type.clone(), attest::statement(said, &own, Some(&image.layers))?));
        }
        let manifest =
            attest::manifest(store, lease, options.attestations, &image.manifest, statements).await?;
        let shown = format!("exporting attestation manifest {}", manifest.manifest.digest);
        request.reporter.status(&shown, "").done();
        made.push(manifest);
    }
    Ok(made)
}

async fn layers_of(
    part: &ExportRef,
    options: &ImageOptions,
    progress: &Arc<dyn LayerProgress>,
) -> Result<Vec<LayerBlob>> {
    match &part.reference {
        None => Ok(Vec::new()),
        Some(reference) => {
            Ok(reference.layers(&options.compression, options.force, Some(progress.clone())).await?)
        }
    }
}

async fn inline_cache(
    request: &ExportRequest,
    part: &ExportRef,
    layers: &[LayerBlob],
) -> Result<Option<(String, String)>> {
    let (Some(cache), Some(reference)) = (&request.inline_cache, &part.reference) else { return Ok(None) };
    let status = request.reporter.status("preparing layers for inline cache", "");
    let field = cache.field(reference, layers).await?;
    status.done();
    Ok(Some(field))
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

/// Layer descriptors in the media types asked for; of the annotations only those of rewritten times and of tables
/// of contents are for the public, as with upstream.
fn public(layers: &[LayerBlob], oci: bool) -> Vec<Descriptor> {
    let convert = |layer: &LayerBlob| {
        let media_type = match oci {
            true => media::to_oci(&layer.desc.media_type),
            false => media::to_docker(&layer.desc.media_type),
        };
        let mut public = Descriptor::new(media_type, layer.desc.digest, layer.desc.size);
        let told = [REWRITTEN, TOC_DIGEST, UNCOMPRESSED_SIZE];
        let told = told.into_iter().filter_map(|name| layer.desc.annotations.get_key_value(name));
        public.annotations.extend(told.map(owned));
        public
    };
    layers.iter().map(convert).collect()
}

async fn platform_image(
    store: &Store,
    options: &ImageOptions,
    request: &ExportRequest,
    part: &ExportRef,
    mut layers: Vec<LayerBlob>,
    lease: &Lease,
) -> Result<PlatformImage> {
    let inline_cache = inline_cache(request, part, &layers).await?;
    let parts = config::Parts {
        given: part.config.as_deref(),
        base: part.base.as_deref(),
        platform: part.platform.as_ref(),
        diff_ids: layers.iter().map(|layer| layer.diff_id).collect(),
        layers: layers.iter().map(|layer| LayerFacts::new(layer.created_ms, &layer.description)).collect(),
        epoch: options.epoch.or(request.epoch),
        inline_cache,
    };
    let config = config::finish(parts)?;
    let descriptors = public(&layers, options.oci_types);
    for (layer, public) in layers.iter_mut().zip(&descriptors) {
        lease.blob(layer.desc.digest);
        layer.desc = public.clone();
    }
    let (config_type, manifest_type) = match options.oci_types {
        true => (media::OCI_CONFIG, media::OCI_MANIFEST),
        false => (media::DOCKER_CONFIG, media::DOCKER_MANIFEST),
    };
    let platform = platform_of(&config, part)?;
    // Annotations for one platform are for a result that names its platforms.
    let named = part.id.as_ref().map(|_| &platform);
    let config = put(store, lease, config_type, config).await?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: manifest_type.into(),
        artifact_type: None,
        config: config.clone(),
        layers: descriptors,
        subject: None,
        annotations: options.annotations.of(Place::Manifest, named),
    };
    let bytes = pretty(&manifest)?;
    let mut manifest = Descriptor::of(manifest_type, &bytes);
    let status = request.reporter.status(&format!("exporting manifest {}", manifest.digest), "");
    put(store, lease, manifest_type, bytes).await?;
    status.done();
    request.reporter.status(&format!("exporting config {}", config.digest), "").done();
    manifest.annotations = options.annotations.of(Place::ManifestDescriptor, named);
    manifest.platform = Some(platform);
    Ok(PlatformImage { manifest, config, layers, reference: part.reference.clone() })
}

fn platform_of(config: &[u8], part: &ExportRef) -> Result<Platform> {
    let config = rbuild_oci::ImageConfig::parse(config)
        .map_err(|error| ExportError::Result(format!("the image config: {error}")))?;
    Ok(part.platform.clone().unwrap_or(config.platform))
}

async fn index(
    store: &Store,
    options: &ImageOptions,
    request: &ExportRequest,
    manifests: Vec<Descriptor>,
    lease: &Lease,
) -> Result<Descriptor> {
    let media_type = if options.oci_types { media::OCI_INDEX } else { media::DOCKER_INDEX };
    let index = Index {
        schema_version: 2,
        media_type: media_type.into(),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: options.annotations.of(Place::Index, None),
    };
    let bytes = pretty(&index)?;
    let digest = Digest::of(&bytes);
    let status = request.reporter.status(&format!("exporting manifest list {digest}"), "");
    let mut descriptor = put(store, lease, media_type, bytes).await?;
    descriptor.annotations = options.annotations.of(Place::IndexDescriptor, None);
    status.done();
    Ok(descriptor)
}

/// Manifests are written with two spaces of indent, as upstream writes them.
pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    json::to_vec_indent(value).map_err(|error| ExportError::Internal(error.to_string()))
}

/// Puts a small blob into the content store.
pub(crate) async fn put(
    store: &Store,
    lease: &Lease,
    media_type: &str,
    bytes: Vec<u8>,
) -> Result<Descriptor> {
    let descriptor = Descriptor::of(media_type, &bytes);
    lease.blob(descriptor.digest);
    let content = store.content().clone();
    let put = tokio::task::spawn_blocking(move || content.put(&bytes)).await;
    put.map_err(|error| ExportError::Internal(error.to_string()))?
        .map_err(|error| ExportError::Content(error.to_string()))?;
    Ok(descriptor)
}
