//! [`Ref`], [`MutableRef`] and what keeps them together in memory.

mod create;
mod live;
mod mutable;
mod node;
mod provider;
mod tree;

pub use create::LayerSource;
pub(crate) use create::chain_id;
pub(crate) use live::Live;
pub use mutable::{MutableRef, NewMutable};
pub(crate) use node::{ActiveSnapshot, MAX_STACKED, Node};
pub use provider::ProviderFactory;
pub(crate) use provider::{KeyedLocks, Providers};
pub use tree::TreeGuard;

use std::sync::Arc;

use rbuild_sys::Mount;

use crate::error::Result;
use crate::id::RefId;
use crate::progress::LayerProgress;
use crate::rows::{Kind, RecordType};
use crate::store::{Store, blocking};

/// An immutable file tree. It stays on disk at least as long as a value of it lives.
#[derive(Clone)]
pub struct Ref {
    pub(crate) node: Arc<Node>,
    pub(crate) store: Store,
}

impl std::fmt::Debug for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ref").field(&self.node.id).finish()
    }
}

impl PartialEq for Ref {
    fn eq(&self, other: &Self) -> bool {
        self.node.id == other.node.id
    }
}

impl Eq for Ref {}

impl Ref {
    pub(crate) fn new(store: &Store, node: Arc<Node>) -> Self {
        Self { node, store: store.clone() }
    }

    /// Its name.
    pub fn id(&self) -> RefId {
        self.node.id
    }

    /// The store that has it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it is a layer over, if it is one over something.
    pub fn parent(&self) -> Option<Ref> {
        let is_layer = matches!(self.node.row.lock().kind, Kind::Layer { .. });
        let parent = is_layer.then(|| self.node.needs.first().cloned()).flatten();
        parent.map(|node| Ref::new(&self.store, node))
    }

    /// The layers it shows, lowest first. Only the own layer of each counts, not what is below it elsewhere.
    pub fn chain(&self) -> Vec<Ref> {
        Node::layers(&self.node).into_iter().map(|node| Ref::new(&self.store, node)).collect()
    }

    /// What people are told about it.
    pub fn description(&self) -> String {
        self.node.row.lock().description.clone()
    }

    /// Milliseconds since 1970.
    pub fn created_ms(&self) -> i64 {
        self.node.row.lock().created_ms
    }

    /// Whether what is made of it may take its files as its own: plain files in one directory, whose inodes are replaced
    /// but never changed. So are what a client sent and what git checked out.
    pub fn lends_files(&self) -> bool {
        self.node.row.lock().lends_files()
    }

    /// Whether some layer of it still has to be fetched, unpacked or computed.
    pub fn is_lazy(&self) -> bool {
        !self.store.is_loaded(&self.node)
    }

    /// Whether it can be mounted: everything is here, or where to get it is known.
    ///
    /// A lazy ref of an earlier daemon is not loadable unless its source has been asked for again
    /// ([`Store::layer`]) or a [`ProviderFactory`] is there.
    pub fn is_loadable(&self) -> bool {
        self.store.is_loadable(&self.node)
    }

    /// Notes that it was used now, for `du` and the order of removal.
    pub fn mark_used(&self) {
        self.store.touch(&self.node.id);
    }

    /// Fetches, unpacks and computes what is missing. `progress` is told besides the sources' own.
    ///
    /// Cancel: safe; what has been fetched is kept.
    pub async fn unlazy(&self, progress: Option<Arc<dyn LayerProgress>>) -> Result<()> {
        self.store.load(&self.node, progress.as_ref()).await
    }

    /// How to mount it for reading. Fetches what is lazy. Keep the ref as long as it is mounted.
    pub async fn mount(&self) -> Result<Mount> {
        self.unlazy(None).await?;
        self.store.touch(&self.node.id);
        let this = self.clone();
        blocking(move || this.store.view(&this.node)).await
    }

    /// Its files, for reading. Fetches what is lazy; a single layer is read where it lies.
    pub async fn tree(&self) -> Result<TreeGuard> {
        let mount = self.mount().await?;
        let this = self.clone();
        blocking(move || TreeGuard::open(&mount, Some(this.node))).await
    }

    /// Bytes that its own layer takes on disk, blobs included.
    pub async fn size(&self) -> Result<u64> {
        let this = self.clone();
        blocking(move || {
            let row = this.node.row.lock().clone();
            Ok(crate::footprint::of_ref(&this.store.inner.core, &this.node.id, &row)?.total())
        })
        .await
    }

    /// Changes what people are told about it.
    pub async fn set_description(&self, text: &str) -> Result<()> {
        let text = text.to_owned();
        self.change(move |row| row.description = text).await
    }

    /// Changes what it counts as.
    pub async fn set_record_type(&self, kind: RecordType) -> Result<()> {
        self.change(move |row| row.record_type = kind).await
    }

    async fn change(&self, f: impl FnOnce(&mut crate::rows::RefRow) + Send + 'static) -> Result<()> {
        let this = self.clone();
        blocking(move || this.node.change(&this.store.inner.core, f)).await
    }
}
