use futures::StreamExt as _;
use futures::TryStreamExt as _;
use rbuild_oci::{Descriptor, ImageRef, media};
use rbuild_registry::{MountFrom, Reference, RegistryProvider, Repository};

use super::{Content, Image, Registries, failed};
use crate::errors::CommandError;

/// Blobs on their way at once: few connections, for registries that count them.
const AT_ONCE: usize = 4;
/// Indexes within indexes.
const MAX_NESTING: usize = 4;

/// A manifest or index, and the image through which it was found.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) desc: Descriptor,
    pub(super) from: ImageRef,
}

/// Puts a manifest and all that it needs into a repository: nothing if it is there. Blobs are mounted where both
/// repositories are of one registry, and streamed otherwise.
pub(super) async fn manifest(
    registries: &Registries,
    blob: &Blob,
    to: &ImageRef,
) -> Result<(), CommandError> {
    if blob.from.name_only() == *to {
        return Ok(());
    }
    let target = registries.repository(to)?;
    // The last to be put is the first in `order`: what a manifest names must be there before it.
    let mut order =
        vec![Image::fetch_at(registries, blob.from.with_digest(blob.desc.digest), blob.desc.clone()).await?];
    let mut level = 0..1;
    for _ in 0..MAX_NESTING {
        let mut next = Vec::new();
        for image in &order[level.clone()] {
            let Content::Index(index) = &image.content else { continue };
            for desc in &index.manifests {
                let name = blob.from.with_digest(desc.digest);
                next.push(Image::fetch_at(registries, name, desc.clone()).await?);
            }
        }
        level = order.len()..order.len() + next.len();
        order.extend(next);
    }
    if order[level].iter().any(|image| matches!(image.content, Content::Index(_))) {
        return Err(super::registries::malformed(&blob.from, "indexes are nested too deep"));
    }
    let source = registries.repository(&blob.from)?;
    for image in order.iter().rev() {
        if target.has_manifest(&image.desc).await.map_err(|error| failed(&error))? {
            continue;
        }
        blobs(&source, &target, image).await?;
        let put = target.push_manifest(&image.desc.media_type, &image.bytes, Reference::Digest).await;
        put.map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// The config and the layers of a manifest.
async fn blobs(source: &Repository, target: &Repository, image: &Image) -> Result<(), CommandError> {
    let Content::Manifest(manifest) = &image.content else { return Ok(()) };
    let mounts = [MountFrom(source.name().clone())];
    let provider = RegistryProvider::new(source.clone());
    let pushes = manifest.layers.iter().chain([&manifest.config]);
    let pushes = pushes.filter(|desc| !media::is_nondistributable(&desc.media_type));
    futures::stream::iter(pushes.map(|desc| target.push_blob(desc, &provider, &mounts, None)))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| futures::future::ready(Ok(())))
        .await
        .map_err(|error| failed(&error))
}
