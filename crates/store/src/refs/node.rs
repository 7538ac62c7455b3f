use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rbuild_snapshot::{LayerForm, SnapshotId};
use rbuild_sys::Mount;

use crate::checksum::SharedTree;
use crate::context::Hold;
use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::progress::LayerProgress;
use crate::rows::{Kind, RefRow, put_ref};
use crate::store::{Core, Garbage, Inner, Store};

/// Layers stacked at once. The kernel takes 500; what is deeper lies over a flat copy of what is below.
pub(crate) const MAX_STACKED: usize = 400;

/// A ref in memory. As long as a node lives, its row, its files and the nodes it needs do.
pub(crate) struct Node {
    pub(crate) id: RefId,
    pub(crate) row: Mutex<RefRow>,
    /// As [`RefRow::needs`] has them.
    pub(crate) needs: Vec<Arc<Node>>,
    /// Held by whoever fetches, unpacks or computes the own layer.
    pub(crate) busy: tokio::sync::Mutex<()>,
    /// Held by whoever makes an archive of it.
    pub(crate) packing: tokio::sync::Mutex<()>,
    /// Set while this is the view of a local context that may still change later.
    pub(crate) hold: Mutex<Option<Hold>>,
    /// Content digests of a local context, known from its transfer.
    pub(crate) tree: Mutex<Option<SharedTree>>,
    /// Who wants to see the layer arrive.
    pub(crate) progress: Mutex<Option<Arc<dyn LayerProgress>>>,
    /// Snapshots that have to be stacked to show it.
    depth: AtomicUsize,
    /// It and all it needs have snapshots. Never becomes false again while the node lives.
    complete: AtomicBool,
    inner: Weak<Inner>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.id).finish()
    }
}

impl Node {
    pub(crate) fn new(store: &Store, id: RefId, row: RefRow, needs: Vec<Arc<Node>>) -> Self {
        let complete = row.snapshot.is_some() && needs.iter().all(|need| need.is_complete());
        let below = needs.first().map_or(0, |parent| parent.depth());
        let depth = match &row.kind {
            Kind::Layer { .. } if row.flat.is_some() => 1,
            Kind::Layer { .. } => below + 1,
            Kind::Stack { layers } => layers.len(),
            Kind::Diff { .. } => 1,
        };
        Self {
            id,
            depth: AtomicUsize::new(depth),
            complete: AtomicBool::new(complete),
            row: Mutex::new(row),
            needs,
            busy: tokio::sync::Mutex::default(),
            packing: tokio::sync::Mutex::default(),
            hold: Mutex::default(),
            tree: Mutex::default(),
            progress: Mutex::default(),
            inner: store.downgrade(),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// A flat copy of it exists now.
    pub(crate) fn set_flat(&self) {
        self.depth.store(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Option<SnapshotId> {
        self.row.lock().snapshot.clone()
    }

    /// The nodes whose own layers it shows, lowest first. A layer that occurs twice counts where it occurs last:
    /// applied again, it hides all that its first application did.
    pub(crate) fn layers(this: &Arc<Node>) -> Vec<Arc<Node>> {
        Self::walk(this, false).0
    }

    /// As [`Node::layers`], down to a flat copy if there is one below all others.
    fn walk(this: &Arc<Node>, to_flat: bool) -> (Vec<Arc<Node>>, Option<SnapshotId>) {
        let mut found = Vec::new();
        let mut flat = None;
        let mut seen = HashSet::new();
        let mut todo = vec![(this.clone(), true)];
        while let Some((node, with_parents)) = todo.pop() {
            let stack = matches!(node.row.lock().kind, Kind::Stack { .. });
            if stack {
                // The last one pushed, the top, is looked at first.
                todo.extend(node.needs.iter().map(|layer| (layer.clone(), false)));
                continue;
            }
            if to_flat && with_parents && todo.is_empty() {
                flat = node.row.lock().flat.clone();
                if flat.is_some() {
                    break;
                }
            }
            if with_parents && matches!(node.row.lock().kind, Kind::Layer { .. }) {
                todo.extend(node.needs.first().map(|parent| (parent.clone(), true)));
            }
            if seen.insert(node.id) {
                found.push(node);
            }
        }
        found.reverse();
        (found, flat)
    }

    fn is_diff(&self) -> bool {
        matches!(self.row.lock().kind, Kind::Diff { .. })
    }

    /// The layer that its own layer was made over.
    fn parent_layer(&self) -> Option<RefId> {
        if !matches!(self.row.lock().kind, Kind::Layer { .. }) {
            return None;
        }
        let mut top = self.needs.first()?;
        while matches!(top.row.lock().kind, Kind::Stack { .. }) {
            top = top.needs.last()?;
        }
        Some(top.id)
    }

    /// Changes the row here and in the database. Blocking.
    pub(crate) fn change(&self, core: &Core, f: impl FnOnce(&mut RefRow)) -> Result<()> {
        // Locked in this order everywhere: `make_permanent` needs both, too.
        let hold = self.hold.lock();
        let mut row = self.row.lock();
        let mut new = row.clone();
        f(&mut new);
        if hold.is_none() {
            core.db.update(|tx| put_ref(tx, &self.id, &new))?;
        }
        *row = new;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A long chain would recurse as deep as it is long.
        let mut todo = std::mem::take(&mut self.needs);
        while let Some(node) = todo.pop() {
            if let Some(mut last) = Arc::into_inner(node) {
                todo.append(&mut last.needs);
            }
        }
        if let Some(inner) = self.inner.upgrade() {
            inner.live.lock().forget(&self.id);
            if let Some(hold) = self.hold.get_mut().take() {
                inner.names.release(&hold);
            }
        }
    }
}

impl Store {
    /// The snapshots that have to be stacked to show a node.
    pub(crate) fn snapshots(&self, node: &Arc<Node>) -> Result<Vec<SnapshotId>> {
        let own = |node: &Node| node.snapshot().ok_or(StoreError::Missing { id: node.id });
        match self.inner.snaps.form() {
            LayerForm::Full => Ok(vec![own(node)?]),
            LayerForm::Overlay => {
                let (layers, flat) = Node::walk(node, true);
                flat.map(Ok).into_iter().chain(layers.iter().map(|layer| own(layer))).collect()
            }
        }
    }

    /// How to mount a loaded node. Blocking.
    pub(crate) fn view(&self, node: &Arc<Node>) -> Result<Mount> {
        Ok(self.inner.snaps.view(&self.mountable(node)?)?)
    }

    /// As [`Store::snapshots`], fit to be mounted: layers that lie over others than they were made over show no
    /// whiteouts of what is not there. Blocking.
    pub(crate) fn mountable(&self, node: &Arc<Node>) -> Result<Vec<SnapshotId>> {
        let chain = self.snapshots(node)?;
        if self.inner.snaps.form() == LayerForm::Overlay {
            let (layers, flat) = Node::walk(node, true);
            // What lies over a flat copy of its parent is at home.
            let mut below = None;
            let mut at_home = true;
            for (index, layer) in layers.iter().enumerate() {
                let parent = layer.parent_layer();
                at_home &= (index == 0 && flat.is_some()) || parent == below;
                if (!at_home && parent.is_some()) || layer.is_diff() {
                    let own = layer.snapshot().ok_or(StoreError::Missing { id: layer.id })?;
                    self.inner.snaps.hide_whiteouts(&own)?;
                }
                // A layer without a parent begins a file system of its own.
                at_home |= parent.is_none();
                below = Some(layer.id);
            }
        }
        Ok(chain)
    }

    pub(crate) fn is_loaded(&self, node: &Arc<Node>) -> bool {
        if node.is_complete() {
            return true;
        }
        let has_snapshot = |node: &Node| node.row.lock().snapshot.is_some();
        let loaded = match self.inner.snaps.form() {
            LayerForm::Full => has_snapshot(node),
            LayerForm::Overlay => Node::layers(node).iter().all(|layer| has_snapshot(layer)),
        };
        if loaded && has_snapshot(node) && node.needs.iter().all(|need| need.is_complete()) {
            node.complete.store(true, Ordering::Relaxed);
        }
        loaded
    }
}

/// A snapshot that no row names yet: removed unless it is kept.
#[derive(Debug)]
pub(crate) struct ActiveSnapshot {
    id: Option<SnapshotId>,
    store: Store,
}

impl ActiveSnapshot {
    /// Prepares a snapshot on top of `parents`. Blocking.
    pub(crate) fn prepare(store: &Store, id: SnapshotId, parents: &[SnapshotId]) -> Result<Self> {
        // Before the call: what it left half done is removed too.
        let active = Self { id: Some(id), store: store.clone() };
        store.inner.snaps.prepare(active.id(), parents)?;
        Ok(active)
    }

    pub(crate) fn id(&self) -> &SnapshotId {
        self.id.as_ref().expect("set until it is kept")
    }

    /// A row names it now, or is about to.
    pub(crate) fn keep(mut self) -> SnapshotId {
        self.id.take().expect("set until it is kept")
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let garbage = Garbage { snapshots: vec![id], ..Garbage::default() };
            self.store.inner.janitor.discard(garbage);
        }
    }
}
