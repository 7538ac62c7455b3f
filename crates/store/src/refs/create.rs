use std::collections::HashSet;
use std::sync::Arc;

use rbuild_digest::{Digest, Hasher};
use rbuild_oci::{Descriptor, Provider};
use rbuild_snapshot::SnapshotId;

use crate::db::Table;
use crate::error::Result;
use crate::id::RefId;
use crate::progress::LayerProgress;
use crate::refs::{ActiveSnapshot, Node, Ref};
use crate::rows::{BlobRow, Kind, RecordType, RefRow, mark_ref, put_ref};
use crate::store::{Store, blocking};

/// Name under which the empty tree is found again.
const SCRATCH: &[u8] = b"scratch";

/// A layer of an image that is fetched when it is needed.
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// Its blob.
    pub desc: Descriptor,
    /// Digest of the uncompressed archive, as the image's config has it. Checked when it is unpacked.
    pub diff_id: Digest,
    /// Where the bytes come from.
    pub provider: Arc<dyn Provider>,
    /// Kept with the layer: what a [`crate::ProviderFactory`] needs to make a provider after a restart.
    pub origin: String,
    /// When the layer was made, milliseconds since 1970.
    pub created_ms: Option<i64>,
    /// For `du`.
    pub description: String,
    /// What it counts as.
    pub record_type: RecordType,
    /// Told when the layer is fetched and unpacked, whoever needs it.
    pub progress: Option<Arc<dyn LayerProgress>>,
}

impl Store {
    /// The layer of an image over `parent`. Nothing is fetched; the same layer over the same parent is the same ref.
    pub async fn layer(&self, parent: Option<&Ref>, source: LayerSource) -> Result<Ref> {
        let (store, parent) = (self.clone(), parent.cloned());
        blocking(move || store.layer_now(parent, source)).await
    }

    fn layer_now(&self, parent: Option<Ref>, source: LayerSource) -> Result<Ref> {
        if let Some(parent) = &parent {
            self.make_permanent(&parent.node)?;
        }
        let below = parent.as_ref().map(|parent| {
            let chain = parent.node.row.lock().chain;
            chain.unwrap_or_else(|| Digest::of(format!("ref {}", parent.node.id)))
        });
        let chain = chain_id(below, source.diff_id);
        self.inner.providers.lock().put(source.desc.digest, source.provider.clone());
        let parent = parent.map(|parent| parent.node);
        let node = loop {
            if let Some(found) = self.by_chain(&chain)? {
                break found;
            }
            let kind = Kind::Layer { parent: parent.as_ref().map(|node| node.id) };
            let mut row = RefRow::new(kind, &source.description, source.record_type);
            row.diff_id = Some(source.diff_id);
            row.chain = Some(chain);
            row.blobs = vec![BlobRow { desc: source.desc.clone(), remote: true }];
            row.origin = Some(source.origin.clone());
            row.created_ms = source.created_ms.unwrap_or(row.created_ms);
            let needs = parent.iter().cloned().collect();
            if let Some(node) = self.insert(RefId::fresh(), row, needs, Some(&chain))? {
                break node;
            }
        };
        // The same layer may come in another compression or from another place: remember the newest way to it.
        let known = node.row.lock().blobs.iter().any(|blob| blob.desc.digest == source.desc.digest);
        if !known && node.snapshot().is_none() {
            let (desc, origin) = (source.desc.clone(), source.origin.clone());
            node.change(&self.inner.core, |row| {
                row.blobs.insert(0, BlobRow { desc, remote: true });
                row.origin = Some(origin);
            })?;
        }
        if let Some(progress) = source.progress {
            *node.progress.lock() = Some(progress);
        }
        self.touch(&node.id);
        Ok(Ref::new(self, node))
    }

    /// Where these blobs may be had from now on: refs found in the cache keep working when the place that they came
    /// from first is gone.
    pub fn offer<'a>(&self, blobs: impl IntoIterator<Item = &'a Digest>, provider: &Arc<dyn Provider>) {
        let mut providers = self.inner.providers.lock();
        for digest in blobs {
            providers.put(*digest, provider.clone());
        }
    }

    fn by_chain(&self, chain: &Digest) -> Result<Option<Arc<Node>>> {
        let Some(id) = self.inner.db.get(Table::Chains, chain.as_bytes())? else { return Ok(None) };
        let Some(id) = RefId::from_bytes(&id) else { return Ok(None) };
        Ok(self.get(&id)?.map(|found| found.node))
    }

    /// Writes a new ref. `None` if another one was found under `unless` meanwhile. Blocking.
    pub(crate) fn insert(
        &self,
        id: RefId,
        row: RefRow,
        needs: Vec<Arc<Node>>,
        unless: Option<&Digest>,
    ) -> Result<Option<Arc<Node>>> {
        let written = self.inner.db.update(|tx| {
            if let Some(chain) = unless
                && let Some(other) = tx.get(Table::Chains, chain.as_bytes())?
            {
                let is_there = tx.get(Table::Refs, &other)?.is_some();
                let other = RefId::from_bytes(&other);
                if is_there && other.is_some_and(|other| self.inner.live.lock().may_live(&other)) {
                    return Ok(false);
                }
                tx.delete(Table::Chains, chain.as_bytes())?;
            }
            tx.unsynced(&mark_ref(&id))?;
            put_ref(tx, &id, &row)?;
            Ok(true)
        })?;
        if !written {
            return Ok(None);
        }
        let node = Arc::new(Node::new(self, id, row, needs));
        self.inner.live.lock().insert(&node);
        Ok(Some(node))
    }

    /// The layers of all `inputs` on top of each other, the first one lowest. Nothing is fetched or copied.
    pub async fn merge(&self, inputs: &[Ref], description: &str) -> Result<Ref> {
        let (store, inputs, description) = (self.clone(), inputs.to_vec(), description.to_owned());
        blocking(move || {
            let mut layers = Vec::new();
            for input in &inputs {
                store.make_permanent(&input.node)?;
                layers.extend(Node::layers(&input.node));
            }
            store.stack(layers, &description)
        })
        .await
    }

    /// A ref that shows the own layers of `layers`.
    fn stack(&self, layers: Vec<Arc<Node>>, description: &str) -> Result<Ref> {
        // Of a layer that occurs twice the last place counts, see `Node::layers`.
        let mut seen = HashSet::new();
        let mut layers: Vec<_> = layers.into_iter().rev().filter(|layer| seen.insert(layer.id)).collect();
        layers.reverse();
        let kind = Kind::Stack { layers: layers.iter().map(|layer| layer.id).collect() };
        let row = RefRow::new(kind, description, RecordType::Regular);
        let node = self.insert(RefId::fresh(), row, layers, None)?;
        Ok(Ref::new(self, node.expect("nothing was asked for")))
    }

    /// What turns `lower` into `upper` (`None` is the empty tree). Lazy; where `lower` is an ancestor of `upper` it
    /// is the layers in between, as they are.
    pub async fn diff(&self, lower: Option<&Ref>, upper: Option<&Ref>, description: &str) -> Result<Ref> {
        let (store, description) = (self.clone(), description.to_owned());
        let (lower, upper) = (lower.cloned(), upper.cloned());
        blocking(move || {
            for end in lower.iter().chain(&upper) {
                store.make_permanent(&end.node)?;
            }
            let layers =
                |end: &Option<Ref>| end.as_ref().map_or_else(Vec::new, |end| Node::layers(&end.node));
            let (below, all) = (layers(&lower), layers(&upper));
            let is_ancestor = all.len() >= below.len() && below.iter().zip(&all).all(|(a, b)| a.id == b.id);
            if is_ancestor {
                return store.stack(all[below.len()..].to_vec(), &description);
            }
            let id = |end: &Option<Ref>| end.as_ref().map(|end| end.node.id);
            let row = RefRow::new(
                Kind::Diff { lower: id(&lower), upper: id(&upper) },
                &description,
                RecordType::Regular,
            );
            let needs = lower.into_iter().chain(upper).map(|end| end.node).collect();
            let node = store.insert(RefId::fresh(), row, needs, None)?;
            Ok(Ref::new(&store, node.expect("nothing was asked for")))
        })
        .await
    }

    /// The empty tree.
    pub async fn scratch(&self) -> Result<Ref> {
        let store = self.clone();
        blocking(move || {
            let chain = Digest::of(SCRATCH);
            loop {
                if let Some(node) = store.by_chain(&chain)? {
                    return Ok(Ref::new(&store, node));
                }
                let id = RefId::fresh();
                let active = ActiveSnapshot::prepare(&store, SnapshotId::parse(id.as_str())?, &[])?;
                store.inner.snaps.commit(active.id())?;
                let mut row =
                    RefRow::new(Kind::Layer { parent: None }, "the empty tree", RecordType::Internal);
                row.snapshot = Some(active.id().clone());
                row.chain = Some(chain);
                if let Some(node) = store.insert(id, row, Vec::new(), Some(&chain))? {
                    active.keep();
                    return Ok(Ref::new(&store, node));
                }
            }
        })
        .await
    }
}

/// Identity of a layer over another, as OCI images have it.
pub(crate) fn chain_id(below: Option<Digest>, diff_id: Digest) -> Digest {
    match below {
        None => diff_id,
        Some(below) => {
            let mut hash = Hasher::new();
            hash.update(format!("{below} {diff_id}"));
            hash.finish()
        }
    }
}
