use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use rbuild_digest::Digest;
use rbuild_oci::Descriptor;
use rbuild_progress::{Reporter, Warning};
use rbuild_store::{FoundMount, Store};
use tokio::sync::mpsc;

use super::cut::Cutter;
use super::{Blob, MANIFEST_TYPE, MAX_MANIFEST, MountEntry, MountManifest, PIECE_TYPE, names, platform};
use crate::backend::{InMemory, Place, read_blob};
use crate::error::{CacheError, Result};
use crate::export::Known;
use crate::format::time_text;

/// Pieces between the one who cuts and those who send: memory.
const QUEUE: usize = 4;
/// Pieces on their way at once.
const PARALLEL: usize = 4;
/// As quick as the disk; layers have about the same.
const LEVEL: i32 = 3;

/// What was sent of a mount.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) entry: MountEntry,
    /// Everything that it needs.
    pub(crate) blobs: Vec<Descriptor>,
}

/// Sends the mounts of these names to `place`. One that is not here is taken over from an imported cache; one that cannot
/// be had is a warning, since a cache of packages must not cost a build.
pub(crate) async fn export(
    store: &Store,
    place: &dyn Place,
    (known, ids): (&Known, &[String]),
    reporter: &Reporter,
) -> Result<Vec<Sent>> {
    let mut all = Vec::new();
    for id in ids {
        let status = reporter.status(&format!("writing cache mount {id}"), "");
        let before = all.len();
        for name in names(id) {
            let here = all.len();
            for FoundMount { mount, over_base } in store.find_cache_mounts(&name).await? {
                match send(place, mount).await {
                    Ok((manifest, blobs)) => {
                        all.push(Sent { entry: entry(&name, over_base, manifest), blobs });
                    }
                    Err(Failed::Mount(error)) => {
                        warn(reporter, format!("cache mount `{id}` is left out: {error}"));
                    }
                    Err(Failed::Place(error)) => return Err(error),
                }
            }
            if all.len() == here {
                all.extend(take_over(place, known, &name).await?);
            }
        }
        if all.len() == before {
            warn(reporter, format!("there is no cache mount `{id}` to export"));
        }
        status.done();
    }
    Ok(all)
}

fn warn(reporter: &Reporter, short: String) {
    tracing::debug!(warning = short, "exporting cache mounts");
    reporter.warn(Warning { level: 1, short, ..Default::default() });
}

fn entry(id: &str, over_base: bool, manifest: Blob) -> MountEntry {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let created_at = time_text(i64::try_from(now.as_millis()).unwrap_or_default());
    MountEntry { id: id.to_owned(), platform: platform(), over_base, created_at, manifest }
}

/// Whose fault it was.
enum Failed {
    Mount(String),
    Place(CacheError),
}

impl From<CacheError> for Failed {
    fn from(error: CacheError) -> Self {
        Self::Place(error)
    }
}

async fn send(place: &dyn Place, mount: rbuild_store::CacheMount) -> Result<(Blob, Vec<Descriptor>), Failed> {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    // The receiver going away ends it: the next piece has nowhere to go.
    let cutting = tokio::task::spawn_blocking(move || -> Result<(), String> {
        let mut cutter = Cutter::new(|piece: Vec<u8>| {
            let packed = zstd::bulk::compress(&piece, LEVEL)?;
            sender.blocking_send(packed.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
        });
        mount.archive(&mut cutter).map_err(|error| error.to_string())?;
        cutter.finish().map_err(|error| error.to_string())
    });
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let sends = pieces.map(|piece| put(place, PIECE_TYPE, piece)).buffered(PARALLEL);
    let mut sends = std::pin::pin!(sends);
    let mut blobs = Vec::new();
    while let Some(sent) = sends.next().await {
        blobs.push(sent?);
    }
    cutting.await.map_err(|_| CacheError::Interrupted)?.map_err(Failed::Mount)?;
    let pieces = blobs.iter().map(|desc| Blob { digest: desc.digest, size: desc.size }).collect();
    let manifest = serde_json::to_vec(&MountManifest { pieces }).map_err(CacheError::from)?;
    let desc = put(place, MANIFEST_TYPE, manifest.into()).await?;
    let blob = Blob { digest: desc.digest, size: desc.size };
    blobs.push(desc);
    // A piece may stand in it twice.
    let mut seen = std::collections::HashSet::<Digest>::new();
    blobs.retain(|desc| seen.insert(desc.digest));
    Ok((blob, blobs))
}

async fn put(place: &dyn Place, media_type: &'static str, bytes: Bytes) -> Result<Descriptor> {
    let desc = Descriptor::of(media_type, &bytes);
    place.put(&desc, &InMemory(bytes), None).await?;
    Ok(desc)
}

/// What an imported cache has of this name: a build that needed no step of it exports no less than the one before.
async fn take_over(place: &dyn Place, known: &Known, id: &str) -> Result<Vec<Sent>> {
    let mut all = Vec::new();
    for over_base in [false, true] {
        let found = known.imported.iter().filter_map(|cache| cache.mount_now(id, &platform(), over_base));
        let Some((entry, provider)) = found.max_by(|a, b| a.0.created_at.cmp(&b.0.created_at)) else {
            continue;
        };
        let manifest = Descriptor::new(MANIFEST_TYPE, entry.manifest.digest, entry.manifest.size);
        let bytes = read_blob(&*provider, &manifest, MAX_MANIFEST).await?;
        let parsed: MountManifest = serde_json::from_slice(&bytes)?;
        let mut blobs: Vec<Descriptor> =
            parsed.pieces.iter().map(|piece| Descriptor::new(PIECE_TYPE, piece.digest, piece.size)).collect();
        blobs.push(manifest);
        let sends = blobs.iter().map(|desc| {
            let provider: Arc<_> = provider.clone();
            async move { place.put(desc, &*provider, None).await }
        });
        let sends: Vec<_> = sends.collect();
        let mut sends = futures::stream::iter(sends).buffer_unordered(PARALLEL);
        while let Some(sent) = sends.next().await {
            sent?;
        }
        drop(sends);
        all.push(Sent { entry, blobs });
    }
    Ok(all)
}
