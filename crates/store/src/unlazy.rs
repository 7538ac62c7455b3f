//! Blob → snapshot: fetches, unpacks and computes what is missing of a ref.
//!
//! In overlay form every layer is a directory of its own, so all layers of an image are fetched and unpacked at
//! once; what a layer needs from those below (attributes of directories that its archive does not hold) is copied
//! at the end, or, rarely, the layer is unpacked again on top of them. In full form a layer is unpacked into a copy
//! of its parent, lowest first, after all blobs were fetched in parallel.
//!
//! Whoever works on a layer holds its `busy` lock; locks are only ever taken from a layer towards those below it.
//! Permits are held around work, never while waiting for another layer.

use std::io::{self, Read};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use rbuild_content::ContentError;
use rbuild_digest::{Digest, Hasher};
use rbuild_oci::{Descriptor, Provider};
use rbuild_snapshot::{Applier, LayerForm, SnapshotId};

use crate::error::{Result, StoreError};
use crate::progress::LayerProgress;
use crate::refs::{ActiveSnapshot, Node, TreeGuard};
use crate::rows::{BlobRow, Kind, mark_ref, put_ref};
use crate::store::{Store, blocking};

/// Mode of a root directory that no entry of the archive has set. No archive has this one. Not with the setgid bit:
/// what is made in the directory would inherit it.
const NO_ROOT_ENTRY: u32 = 0o1731;
/// Mode of the root directory of a lowest layer without an entry for it.
const DEFAULT_ROOT: u32 = 0o755;

type Progress = Arc<dyn LayerProgress>;

impl Store {
    /// Makes sure that a node can be mounted.
    pub(crate) fn load<'a>(
        &'a self,
        node: &'a Arc<Node>,
        progress: Option<&'a Progress>,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            if self.is_loaded(node) {
                return self.flatten_deep(node).await;
            }
            match self.inner.snaps.form() {
                LayerForm::Overlay => {
                    let layers = Node::layers(node);
                    let missing = layers.iter().filter(|layer| layer.snapshot().is_none());
                    try_join_all(missing.map(|layer| self.load_layer(layer, progress))).await?;
                    self.flatten_deep(node).await?;
                }
                LayerForm::Full => {
                    let order = missing_below(node);
                    try_join_all(order.iter().map(|node| self.fetch_layer(node, progress))).await?;
                    for node in &order {
                        self.load_layer(node, progress).await?;
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    pub(crate) fn is_loadable(&self, node: &Arc<Node>) -> bool {
        if node.is_complete() {
            return true;
        }
        let factory = self.inner.factory.read().clone();
        missing_below(node).iter().all(|node| {
            let (blobs, origin) = {
                let row = node.row.lock();
                (row.blobs.clone(), row.origin.clone().unwrap_or_default())
            };
            // A diff or a stack is computed from what it needs, which is looked at too.
            blobs.is_empty()
                || factory.as_ref().is_some_and(|factory| factory.serves(&origin))
                || blobs.iter().any(|blob| {
                    let digest = &blob.desc.digest;
                    matches!(self.inner.content.has(digest), Ok(true))
                        || self.inner.providers.lock().get(digest).is_some()
                })
        })
    }

    /// Gives one node a snapshot of its own. The parent is loaded already where that matters (full form).
    async fn load_layer(&self, node: &Arc<Node>, progress: Option<&Progress>) -> Result<()> {
        let _busy = node.busy.lock().await;
        if node.snapshot().is_some() {
            return Ok(());
        }
        let kind = node.row.lock().kind.clone();
        let active = match kind {
            Kind::Layer { .. } => self.unpack(node, progress).await?,
            Kind::Diff { lower, upper } => {
                let find = |id| node.needs.iter().find(|need| Some(need.id) == id).cloned();
                let (lower, upper) = (find(lower), find(upper));
                for end in lower.iter().chain(&upper) {
                    self.load(end, progress).await?;
                }
                let _permit = self.pack_permit().await?;
                let store = self.clone();
                blocking(move || store.compute_diff(lower.as_ref(), upper.as_ref())).await?
            }
            Kind::Stack { .. } => {
                let _permit = self.pack_permit().await?;
                let (store, node) = (self.clone(), node.clone());
                blocking(move || store.flatten(&node)).await?
            }
        };
        let (store, node) = (self.clone(), node.clone());
        blocking(move || store.name_snapshot(&node, active)).await
    }

    /// Writes the row that names a finished snapshot.
    fn name_snapshot(&self, node: &Node, active: ActiveSnapshot) -> Result<()> {
        let core = &self.inner.core;
        core.snaps.commit(active.id())?;
        core.db.step("layer.unpacked");
        let mut row = node.row.lock();
        if row.snapshot.is_some() {
            // Somebody who gave up waiting left this running, and another one was faster.
            return Ok(());
        }
        let mut new = row.clone();
        new.snapshot = Some(active.id().clone());
        core.db.update(|tx| {
            tx.unsynced(&mark_ref(&node.id))?;
            put_ref(tx, &node.id, &new)
        })?;
        active.keep();
        *row = new;
        Ok(())
    }

    pub(crate) async fn pack_permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.inner
            .pack_permits
            .acquire()
            .await
            .map_err(|error| StoreError::Worker { detail: error.to_string() })
    }

    /// Fetches and unpacks the blob of a layer.
    async fn unpack(&self, node: &Arc<Node>, progress: Option<&Progress>) -> Result<ActiveSnapshot> {
        let desc = self.fetch_layer(node, progress).await?.ok_or(StoreError::Missing { id: node.id })?;
        let told = Told::new(node, progress);
        told.each(|progress| progress.extracting(&desc));
        let parent = node.needs.first().cloned();
        let below = match self.inner.snaps.form() {
            LayerForm::Overlay => None,
            LayerForm::Full => parent.clone(),
        };
        let first = self.apply(node, &desc, below).await;
        let active = match (first, parent, self.inner.snaps.form()) {
            (Ok((active, 0)), Some(parent), LayerForm::Overlay) => {
                self.load(&parent, progress).await?;
                let store = self.clone();
                blocking(move || store.inherit_root(&active, &parent).map(|()| active)).await?
            }
            // Directories that the archive implies have the attributes of those below, and a link into a lower layer
            // needs the file: again, with the layers below in view.
            (Ok(_), Some(parent), LayerForm::Overlay) => {
                self.load(&parent, progress).await?;
                self.apply(node, &desc, Some(parent)).await?.0
            }
            (Err(StoreError::Snapshot(error)), Some(parent), LayerForm::Overlay) => {
                tracing::debug!(%error, layer = %desc.digest, "unpacked again over its parents");
                self.load(&parent, progress).await?;
                self.apply(node, &desc, Some(parent)).await?.0
            }
            (first, _, _) => first?.0,
        };
        told.each(|progress| progress.extracted(&desc));
        Ok(active)
    }

    /// Unpacks a blob that is here; gives back how many directories the archive implied but did not hold.
    async fn apply(
        &self,
        node: &Arc<Node>,
        desc: &Descriptor,
        below: Option<Arc<Node>>,
    ) -> Result<(ActiveSnapshot, u64)> {
        let _permit = self.pack_permit().await?;
        let (store, desc) = (self.clone(), desc.clone());
        let (diff_id, has_parent) = (node.row.lock().diff_id, !node.needs.is_empty());
        blocking(move || store.apply_now(&desc, diff_id, below.as_ref(), has_parent)).await
    }

    fn apply_now(
        &self,
        desc: &Descriptor,
        diff_id: Option<Digest>,
        below: Option<&Arc<Node>>,
        has_parent: bool,
    ) -> Result<(ActiveSnapshot, u64)> {
        let core = &self.inner.core;
        let (parents, view) = match below {
            None => (Vec::new(), None),
            Some(node) => {
                (self.snapshots(node)?, Some(TreeGuard::open(&self.view(node)?, Some(node.clone()))?))
            }
        };
        let active = ActiveSnapshot::prepare(self, SnapshotId::random(), &parents)?;
        let dest = core.snaps.dir(active.id())?;
        let form = core.snaps.form();
        if form == LayerForm::Overlay && below.is_none() {
            dest.chmod(".", NO_ROOT_ENTRY)?;
        }
        let mut applier = Applier::new(&dest, form);
        if let (LayerForm::Overlay, Some(view)) = (form, &view) {
            applier = applier.with_parents(view.root());
        }
        let blob = core.content.open_blob(&desc.digest)?;
        let plain = rbuild_oci::decompress(Box::new(blob)).map_err(|source| compress_error(desc, source))?;
        let mut reader = Hashing { inner: plain, hash: Hasher::new() };
        let stats = applier.apply(&mut reader)?;
        // Padding after the end of the archive belongs to the digest too.
        io::copy(&mut reader, &mut io::sink())
            .map_err(|error| StoreError::io("read", &core.content.path(&desc.digest), error))?;
        let found = reader.hash.finish();
        match diff_id {
            Some(expected) if expected != found => {
                Err(StoreError::DiffId { blob: desc.digest, expected, found })
            }
            _ => {
                if below.is_none() && !has_parent && dest.stat(".")?.permissions() == NO_ROOT_ENTRY {
                    dest.chmod(".", DEFAULT_ROOT)?;
                }
                Ok((active, stats.implied_parents))
            }
        }
    }

    /// If the archive had no entry for the root directory, it is as it is in the layers below.
    fn inherit_root(&self, active: &ActiveSnapshot, parent: &Arc<Node>) -> Result<()> {
        let dir = self.inner.snaps.dir(active.id())?;
        if dir.stat(".")?.permissions() != NO_ROOT_ENTRY {
            return Ok(());
        }
        if let Some(below) = self.snapshots(parent)?.last() {
            let stat = self.inner.snaps.dir(below)?.stat(".")?;
            dir.chown(".", stat.uid, stat.gid)?;
            dir.chmod(".", stat.permissions())?;
        }
        Ok(())
    }

    /// Makes sure that some blob of a layer is here, if it has blobs and no snapshot; gives back which.
    pub(crate) async fn fetch_layer(
        &self,
        node: &Arc<Node>,
        progress: Option<&Progress>,
    ) -> Result<Option<Descriptor>> {
        let (blobs, origin) = {
            let row = node.row.lock();
            (row.blobs.clone(), row.origin.clone().unwrap_or_default())
        };
        let is_here = |blob: &&BlobRow| matches!(self.inner.content.has(&blob.desc.digest), Ok(true));
        if let Some(blob) = blobs.iter().find(is_here) {
            return Ok(Some(blob.desc.clone()));
        }
        let Some(blob) = blobs.iter().find(|blob| blob.remote) else { return Ok(None) };
        self.fetch(&blob.desc, &origin, &Told::new(node, progress)).await?;
        Ok(Some(blob.desc.clone()))
    }

    /// Makes sure that this blob of a layer is here.
    pub(crate) async fn fetch_blob(
        &self,
        node: &Arc<Node>,
        desc: &Descriptor,
        progress: Option<&Progress>,
    ) -> Result<()> {
        let origin = node.row.lock().origin.clone().unwrap_or_default();
        self.fetch(desc, &origin, &Told::new(node, progress)).await
    }

    async fn fetch(&self, desc: &Descriptor, origin: &str, told: &Told) -> Result<()> {
        let _one = self.inner.blob_locks.lock(desc.digest).await;
        if self.inner.content.has(&desc.digest)? {
            told.each(|progress| progress.bytes(desc, desc.size, desc.size));
            return Ok(());
        }
        let _permit = self
            .inner
            .fetch_permits
            .acquire()
            .await
            .map_err(|error| StoreError::Worker { detail: error.to_string() })?;
        let remembered = self.inner.providers.lock().get(&desc.digest);
        match remembered {
            Some(provider) => match self.fetch_from(desc, origin, &*provider, told).await {
                // The session or the token it used may be gone: a fresh one may do.
                Err(error @ StoreError::Fetch { .. }) => match self.make_provider(desc, origin).await? {
                    Some(fresh) => self.fetch_from(desc, origin, &*fresh, told).await,
                    None => Err(error),
                },
                other => other,
            },
            None => match self.make_provider(desc, origin).await? {
                Some(fresh) => self.fetch_from(desc, origin, &*fresh, told).await,
                None => Err(StoreError::SourceGone { digest: desc.digest, origin: origin.to_owned() }),
            },
        }
    }

    async fn fetch_from(
        &self,
        desc: &Descriptor,
        origin: &str,
        provider: &dyn Provider,
        told: &Told,
    ) -> Result<()> {
        let on_bytes = |current| told.each(|progress| progress.bytes(desc, current, desc.size));
        let fetched = self.inner.content.fetch(desc, provider, on_bytes).await;
        fetched.map_err(|error| match error {
            ContentError::Source { source, .. } => {
                StoreError::Fetch { digest: desc.digest, origin: origin.to_owned(), source: Arc::new(source) }
            }
            error => error.into(),
        })
    }

    async fn make_provider(&self, desc: &Descriptor, origin: &str) -> Result<Option<Arc<dyn Provider>>> {
        let factory = self.inner.factory.read().clone();
        let Some(factory) = factory.filter(|factory| factory.serves(origin)) else { return Ok(None) };
        let provider = factory.provider(origin, desc).await.map_err(|source| StoreError::Fetch {
            digest: desc.digest,
            origin: origin.to_owned(),
            source: Arc::new(source),
        })?;
        self.inner.providers.lock().put(desc.digest, provider.clone());
        Ok(Some(provider))
    }
}

/// The node and what it needs, as far as it has no snapshot, what is needed first. Without recursion.
fn missing_below(node: &Arc<Node>) -> Vec<Arc<Node>> {
    let mut order: Vec<Arc<Node>> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut todo = vec![(node.clone(), false)];
    while let Some((node, ready)) = todo.pop() {
        if ready {
            order.push(node);
        } else if node.is_complete() {
            continue;
        } else if node.snapshot().is_none() && seen.insert(node.id) {
            let needs: Vec<_> = node.needs.iter().map(|need| (need.clone(), false)).collect();
            todo.push((node, true));
            todo.extend(needs);
        } else if node.snapshot().is_some() && seen.insert(node.id) {
            // It is here, but what it lies over may not be (overlay form).
            todo.extend(node.needs.iter().map(|need| (need.clone(), false)));
        }
    }
    order
}

/// Everybody who wants to know about a layer.
pub(crate) struct Told(Vec<Progress>);

impl Told {
    pub(crate) fn new(node: &Node, extra: Option<&Progress>) -> Self {
        Self(node.progress.lock().iter().chain(extra).cloned().collect())
    }

    pub(crate) fn each(&self, f: impl Fn(&dyn LayerProgress)) {
        self.0.iter().for_each(|progress| f(&**progress));
    }
}

/// Hashes what is read through it.
pub(crate) struct Hashing<R> {
    pub(crate) inner: R,
    pub(crate) hash: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.hash.update(&buf[..count]);
        Ok(count)
    }
}

pub(crate) fn compress_error(desc: &Descriptor, source: rbuild_oci::CompressError) -> StoreError {
    StoreError::compress(desc.digest, source)
}
