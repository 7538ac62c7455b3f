//! From an address to an [`Index`]: what a manifest names, whichever kind of manifest it is.
//!
//! - an image manifest whose config is a cache document: a cache; its layers are the cache's blobs;
//! - an index one of whose entries is a cache document: a cache in its older form; the other entries are the blobs;
//! - an image, or an index of images: the documents in their configs, about their own layers.

use std::time::Duration;

use rbuild_oci::{Descriptor, ImageConfig, Index as ManifestIndex, Manifest, media};
use serde::Deserialize;

use crate::backend::{Address, Documents, Manifests, Place};
use crate::error::{CacheError, Result};
use crate::format::{INLINE_KEY, Part};
use crate::index::Index;

/// The address has to lead somewhere within this time. Source: the time-out for connections to registries; a cache
/// that is slower than that costs more than it brings.
const ROOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest cache document: about half a million records. It is parsed in memory.
const MAX_DOCUMENT: u64 = 128 << 20;
/// Largest config of an image with a cache in it.
const MAX_CONFIG: u64 = 32 << 20;
/// Images of one index that are looked at.
const MAX_IMAGES: usize = 64;

/// Fetches and reads all documents that the address of `place` leads to.
pub(crate) async fn load(place: &dyn Place) -> Result<Index> {
    let parts = match place.address() {
        Address::Manifests(manifests) => of_root(place, manifests).await?,
        Address::Documents(documents) => of_documents(place, documents).await?,
    };
    if parts.is_empty() {
        return Err(CacheError::NoCache { what: place.name().to_owned() });
    }
    let index = tokio::task::spawn_blocking(move || {
        let mut index = Index::default();
        parts.iter().for_each(|part| index.add(part));
        index
    });
    index.await.map_err(|_| CacheError::Interrupted)
}

async fn of_root(place: &dyn Place, manifests: &dyn Manifests) -> Result<Vec<Part>> {
    let root = tokio::time::timeout(ROOT_TIMEOUT, manifests.root()).await;
    let root = root.map_err(|_| slow(place, ROOT_TIMEOUT))??;
    let bytes = manifests.manifest(&root).await?;
    match media::is_index(&root.media_type) {
        true => of_index(manifests, &root, &bytes).await,
        false => Ok(of_manifest(manifests, &root, &bytes).await?.into_iter().collect()),
    }
}

/// Documents that say themselves what a manifest would.
async fn of_documents(place: &dyn Place, documents: &dyn Documents) -> Result<Vec<Part>> {
    let limit = documents.patience().unwrap_or(ROOT_TIMEOUT);
    let read = tokio::time::timeout(limit, documents.read(MAX_DOCUMENT)).await;
    let read = read.map_err(|_| slow(place, limit))??;
    let parse = move || {
        let parts = read.iter().map(|document| serde_json::from_slice(document));
        parts.map(|config| config.map(|config| Part { config, ..Part::default() })).collect::<Result<_, _>>()
    };
    let parts = tokio::task::spawn_blocking(parse).await.map_err(|_| CacheError::Interrupted)?;
    parts.map_err(|error: serde_json::Error| CacheError::Document(error))
}

fn slow(place: &dyn Place, limit: Duration) -> CacheError {
    CacheError::Slow { what: place.name().to_owned(), seconds: limit.as_secs() }
}

fn damaged(desc: &Descriptor) -> impl Fn(String) -> CacheError {
    let digest = desc.digest;
    move |reason| CacheError::Damaged { digest, reason }
}

async fn of_index(place: &dyn Manifests, root: &Descriptor, bytes: &[u8]) -> Result<Vec<Part>> {
    let index = ManifestIndex::parse(bytes).map_err(|error| damaged(root)(error.to_string()))?;
    let document = index.manifests.iter().find(|entry| entry.media_type == media::BUILDKIT_CACHE_CONFIG);
    if let Some(document) = document {
        let blobs = index.manifests.iter().filter(|entry| media::is_layer(&entry.media_type));
        return Ok(vec![whole(place, document, blobs).await?]);
    }
    let mut parts = Vec::new();
    let images = index.manifests.iter().filter(|entry| media::is_manifest(&entry.media_type));
    for image in images.filter(|entry| !entry.is_attestation()).take(MAX_IMAGES) {
        let bytes = place.manifest(image).await?;
        parts.extend(of_manifest(place, image, &bytes).await?);
    }
    Ok(parts)
}

async fn of_manifest(place: &dyn Manifests, desc: &Descriptor, bytes: &[u8]) -> Result<Option<Part>> {
    let manifest = Manifest::parse(bytes).map_err(|error| damaged(desc)(error.to_string()))?;
    if manifest.config.media_type == media::BUILDKIT_CACHE_CONFIG {
        return Ok(Some(whole(place, &manifest.config, manifest.layers.iter()).await?));
    }
    inline(place, &manifest).await
}

/// A document of its own.
async fn whole(
    place: &dyn Manifests,
    document: &Descriptor,
    blobs: impl Iterator<Item = &Descriptor>,
) -> Result<Part> {
    let blobs = blobs.map(|blob| (blob.digest, blob.clone())).collect();
    let bytes = place.blob(document, MAX_DOCUMENT).await?;
    let digest = document.digest;
    let parsed = tokio::task::spawn_blocking(move || serde_json::from_slice(&bytes)).await;
    let config = parsed.map_err(|_| CacheError::Interrupted)?;
    let config = config
        .map_err(|error: serde_json::Error| CacheError::Damaged { digest, reason: error.to_string() })?;
    Ok(Part { config, blobs })
}

/// The document in an image's config, if there is one.
async fn inline(place: &dyn Manifests, manifest: &Manifest) -> Result<Option<Part>> {
    #[derive(Deserialize)]
    struct Inline {
        #[serde(rename = "moby.buildkit.cache.v0")]
        document: Option<String>,
    }
    debug_assert_eq!(INLINE_KEY, "moby.buildkit.cache.v0", "the field is renamed to it");
    let damaged = damaged(&manifest.config);
    let bytes = place.blob(&manifest.config, MAX_CONFIG).await?;
    let config: Inline = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let Some(document) = config.document else { return Ok(None) };
    let image = ImageConfig::parse(&bytes).map_err(|error| damaged(error.to_string()))?;
    use base64::Engine as _;
    let document = base64::engine::general_purpose::STANDARD.decode(document);
    let document = document.map_err(|error| damaged(error.to_string()))?;
    if image.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(damaged(format!(
            "{} diff ids for {} layers",
            image.rootfs.diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let mut times = image.history.iter().filter(|entry| !entry.empty_layer).map(|entry| &entry.created);
    let layers = manifest.layers.iter().zip(&image.rootfs.diff_ids).map(|(layer, diff_id)| {
        let time = times.next().and_then(Clone::clone).unwrap_or_default();
        let desc = Descriptor::new(layer.media_type.clone(), layer.digest, layer.size);
        let desc = desc.with_annotation(media::ANNOTATION_UNCOMPRESSED, diff_id.to_string());
        desc.with_annotation(media::ANNOTATION_CREATED_AT, time)
    });
    let layers: Vec<Descriptor> = layers.collect();
    Part::inline(&document, &layers).map(Some).map_err(|error| damaged(error.to_string()))
}
