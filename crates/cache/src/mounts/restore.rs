use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use parking_lot::Mutex;
use rbuild_oci::{Descriptor, Provider};
use rbuild_progress::{Progress, VertexInfo};
use rbuild_store::{Ref, RefId, Store};
use tokio::sync::{OnceCell, mpsc};

use super::cut::MAX_BYTES;
use super::{MANIFEST_TYPE, MAX_MANIFEST, MountEntry, MountManifest, PIECE_TYPE, platform};
use crate::backend::read_blob;
use crate::error::{CacheError, Result};
use crate::remote::RemoteCache;

/// Name and base.
type MountKey = (String, Option<RefId>);

/// Pieces fetched ahead of the one that is unpacked.
const AHEAD: usize = 4;

/// Fills the cache mounts that a build's imports were asked for, each before the first step takes it. A mount that is here
/// already stays as it is.
#[derive(Debug)]
pub struct MountCaches {
    store: Store,
    progress: Progress,
    imported: Vec<Arc<RemoteCache>>,
    filled: Mutex<HashMap<MountKey, Arc<OnceCell<()>>>>,
}

impl MountCaches {
    /// `None` if no import was asked for any.
    pub fn new(store: Store, imported: &[Arc<RemoteCache>], progress: Progress) -> Option<Self> {
        let imported: Vec<_> = imported.iter().filter(|cache| cache.has_mounts()).cloned().collect();
        (!imported.is_empty()).then(|| Self { store, progress, imported, filled: Mutex::default() })
    }

    /// Returns when the mount is filled, or when nobody has it. A failure is a step that failed, and an empty mount.
    pub async fn prepare(&self, id: &str, base: Option<&Ref>) {
        if !self.imported.iter().any(|cache| cache.wants_mount(id)) {
            return;
        }
        let key = (id.to_owned(), base.map(Ref::id));
        let cell = self.filled.lock().entry(key).or_default().clone();
        cell.get_or_init(|| self.look(id, base)).await;
    }

    async fn look(&self, id: &str, base: Option<&Ref>) {
        if self.store.has_cache_mount(id, base) {
            return;
        }
        let mut best: Option<(MountEntry, Arc<dyn Provider>)> = None;
        for cache in self.imported.iter().filter(|cache| cache.wants_mount(id)) {
            let found = cache.mount(id, &platform(), base.is_some()).await;
            let newest = best.as_ref().map(|(entry, _)| entry.created_at.clone());
            best = found.filter(|(entry, _)| newest.is_none_or(|newest| entry.created_at > newest)).or(best);
        }
        let Some((entry, provider)) = best else { return };
        let step = self.progress.vertex(VertexInfo::synthetic(format!("importing cache mount {id}")));
        step.started();
        let status = step.status("unpacking", "");
        let done = self.fill(&entry, base, provider, &status).await;
        if done.is_ok() {
            status.done();
        }
        step.completed(done.err().map(|error| format!("the mount begins empty: {error}")));
    }

    async fn fill(
        &self,
        entry: &MountEntry,
        base: Option<&Ref>,
        provider: Arc<dyn Provider>,
        status: &rbuild_progress::StatusHandle,
    ) -> Result<()> {
        let manifest = Descriptor::new(MANIFEST_TYPE, entry.manifest.digest, entry.manifest.size);
        let bytes = read_blob(&*provider, &manifest, MAX_MANIFEST).await?;
        let MountManifest { pieces } = serde_json::from_slice(&bytes)?;
        let total: u64 = pieces.iter().map(|piece| piece.size).sum();
        let fetches = pieces.iter().map(|piece| {
            let desc = Descriptor::new(PIECE_TYPE, piece.digest, piece.size);
            let provider = provider.clone();
            async move { (desc.size, piece_of(&*provider, &desc).await) }
        });
        let fetches: Vec<_> = fetches.collect();
        let mut fetched = futures::stream::iter(fetches).buffered(AHEAD);
        let (sender, receiver) = mpsc::channel(1);
        let archive = Pieces { receiver, piece: Bytes::new(), ended: false };
        let feed = async move {
            let mut at = 0;
            while let Some((size, piece)) = fetched.next().await {
                // Gone: the reader failed, and says why.
                if sender.send(Some(piece?)).await.is_err() {
                    return Ok(());
                }
                at += size;
                status.set(at, total);
            }
            // Without this mark the reader takes the end for a break.
            let _gone_or_done = sender.send(None).await;
            Ok::<_, CacheError>(())
        };
        let description = format!("cached mount {} from an imported cache", entry.id);
        let fill = self.store.fill_cache_mount(&entry.id, base, &description, archive);
        let (fed, filled) = futures::join!(feed, fill);
        fed.and(filled.map_err(CacheError::from))
    }
}

/// A piece, verified and unpacked.
async fn piece_of(provider: &dyn Provider, desc: &Descriptor) -> Result<Bytes> {
    let packed = read_blob(provider, desc, MAX_BYTES as u64 * 2).await?;
    let digest = desc.digest;
    let unpacked = tokio::task::spawn_blocking(move || zstd::bulk::decompress(&packed, MAX_BYTES)).await;
    let unpacked = unpacked.map_err(|_| CacheError::Interrupted)?;
    unpacked.map(Bytes::from).map_err(|error| CacheError::Damaged { digest, reason: error.to_string() })
}

/// The pieces as one stream. It fails at an end that nobody announced.
struct Pieces {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early")),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
