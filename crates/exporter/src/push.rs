//! An image goes to a registry: what it has is not sent again, layers go side by side.

use std::sync::Arc;

use futures::StreamExt as _;
use rbuild_oci::{Descriptor, ImageRef, media};
use rbuild_registry::{MountFrom, Reference, RepoOptions, Repository};
use rbuild_store::Ref;

use crate::assemble::Assembled;
use crate::request::{ExportRequest, Exporters};
use crate::{ExportError, Result};

/// Blobs on their way at once, as upstream has it for layers.
const PARALLEL: usize = 4;
/// Repositories that are asked for each layer; a build on more bases sends what the first ones do not have.
const MAX_MOUNTS: usize = 8;
/// Largest manifest that is read into memory.
const MAX_MANIFEST: u64 = 8 << 20;

/// How an image is pushed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PushOptions {
    /// Without a tag.
    pub(crate) by_digest: bool,
    /// Any certificate will do, and plain http.
    pub(crate) insecure: bool,
}

/// Pushes under one name.
pub(crate) async fn push(
    daemon: &Exporters,
    request: &ExportRequest,
    image: &Assembled,
    name: &ImageRef,
    options: &PushOptions,
) -> Result<()> {
    let settings = RepoOptions { insecure: options.insecure };
    let repository = daemon.registry.repository(name, request.credentials.clone(), settings)?;
    let status = request.reporter.status("pushing layers", "");
    let mut blobs: Vec<(Descriptor, Option<Ref>, bool)> = Vec::new();
    for part in &image.images {
        let layers =
            part.layers.iter().map(|layer| (layer.desc.clone(), part.reference.clone(), layer.is_local));
        blobs.extend(layers.chain([(part.config.clone(), None, true)]));
    }
    for said in &image.attestations {
        blobs.extend(said.layers.iter().chain([&said.config]).map(|blob| (blob.clone(), None, true)));
    }
    blobs.dedup_by(|a, b| a.0.digest == b.0.digest);
    let mut pushes_todo = Vec::with_capacity(blobs.len());
    for (blob, reference, is_local) in blobs {
        pushes_todo.push(push_blob(daemon, request, &repository, image, blob, reference, is_local));
    }
    let mut pushes = futures::stream::iter(pushes_todo).buffer_unordered(PARALLEL);
    while let Some(pushed) = pushes.next().await {
        pushed?;
    }
    status.done();
    let shown = request.reporter.status(&format!("pushing manifest for {name}@{}", image.target.digest), "");
    let has_index = media::is_index(&image.target.media_type);
    let images = image.images.iter().filter(|_| has_index).map(|part| &part.manifest);
    for manifest in images.chain(image.attestations.iter().map(|said| &said.manifest)) {
        push_manifest(daemon, &repository, manifest, Reference::Digest).await?;
    }
    let reference = match name.tag() {
        Some(tag) if !options.by_digest => Reference::Tag(tag),
        _ => Reference::Digest,
    };
    push_manifest(daemon, &repository, &image.target, reference).await?;
    shown.done();
    Ok(())
}

async fn push_blob(
    daemon: &Exporters,
    request: &ExportRequest,
    repository: &Repository,
    image: &Assembled,
    blob: Descriptor,
    reference: Option<Ref>,
    is_local: bool,
) -> Result<()> {
    // What is in the store is pushed straight away: the push itself asks whether the registry has it.
    if let (Some(reference), false) = (reference, is_local) {
        if repository.has_blob(&blob).await? || repository.mount_blob(&blob, &mounts(request)).await? {
            return Ok(());
        }
        let parts = image.images.iter().flat_map(|part| &part.layers);
        if let Some(layer) = parts.into_iter().find(|layer| layer.desc.digest == blob.digest) {
            reference.fetch_blob(layer, None).await?;
        }
    }
    let status = Arc::new(request.reporter.status(&format!("pushing {}", blob.digest), ""));
    let total = blob.size;
    let counter = status.clone();
    let progress = Arc::new(move |bytes| counter.set(bytes, total));
    repository.push_blob(&blob, daemon.store.content(), &mounts(request), Some(progress)).await?;
    status.done();
    Ok(())
}

/// Repositories that may have the layers of base images already.
fn mounts(request: &ExportRequest) -> Vec<MountFrom> {
    request.bases.iter().take(MAX_MOUNTS).cloned().map(MountFrom).collect()
}

async fn push_manifest(
    daemon: &Exporters,
    repository: &Repository,
    manifest: &Descriptor,
    reference: Reference<'_>,
) -> Result<()> {
    let content = daemon.store.content().clone();
    let digest = manifest.digest;
    let bytes = tokio::task::spawn_blocking(move || content.read(&digest, MAX_MANIFEST)).await;
    let bytes = bytes
        .map_err(|error| ExportError::Internal(error.to_string()))?
        .map_err(|error| ExportError::Content(error.to_string()))?;
    repository.push_manifest(&manifest.media_type, &bytes, reference).await?;
    Ok(())
}
