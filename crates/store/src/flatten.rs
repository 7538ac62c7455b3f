//! Snapshots that are made from other snapshots: computed diffs, stacks in full form, copies of chains that are too
//! long to be stacked.

use std::io::{self, BufWriter};
use std::sync::Arc;

use rbuild_snapshot::{Applier, Attributes, DiffOptions, Differ, LayerForm, SnapshotId};

use crate::error::{Result, StoreError};
use crate::refs::{ActiveSnapshot, MAX_STACKED, Node, TreeGuard};
use crate::rows::{Kind, mark_ref, put_ref};
use crate::store::{Store, blocking};

/// Bytes between two threads that make and unpack an archive.
const PIPE_BUFFER: usize = 128 * 1024;

impl Store {
    /// Gives a node a flat copy if there are too many layers to stack. All of them are loaded.
    pub(crate) async fn flatten_deep(&self, node: &Arc<Node>) -> Result<()> {
        if node.depth() <= MAX_STACKED || self.inner.snaps.form() == LayerForm::Full {
            return Ok(());
        }
        // Lowest first: a copy is made of what can be stacked, and the next one lies over it.
        let mut deep = vec![node.clone()];
        while let Some(next) = deep.last().and_then(|last| nth_parent(last, MAX_STACKED - 1)) {
            deep.push(next);
        }
        for node in deep.iter().rev() {
            let _busy = node.busy.lock().await;
            if node.row.lock().flat.is_some() {
                continue;
            }
            let _permit = self.pack_permit().await?;
            let (store, node) = (self.clone(), node.clone());
            blocking(move || store.make_flat(&node)).await?;
        }
        Ok(())
    }

    fn make_flat(&self, node: &Arc<Node>) -> Result<()> {
        let core = &self.inner.core;
        let active = ActiveSnapshot::prepare(self, SnapshotId::random(), &[])?;
        let view = TreeGuard::open(&self.view(node)?, Some(node.clone()))?;
        rbuild_snapshot::copy_tree(view.root(), &core.snaps.dir(active.id())?)?;
        drop(view);
        core.snaps.commit(active.id())?;
        let mut row = node.row.lock();
        if row.flat.is_some() {
            return Ok(());
        }
        let mut new = row.clone();
        new.flat = Some(active.id().clone());
        new.own_size = None;
        core.db.update(|tx| {
            tx.unsynced(&mark_ref(&node.id))?;
            put_ref(tx, &node.id, &new)
        })?;
        active.keep();
        *row = new;
        node.set_flat();
        Ok(())
    }

    /// A snapshot of the layer that turns `lower` into `upper`, both loaded.
    pub(crate) fn compute_diff(
        &self,
        lower: Option<&Arc<Node>>,
        upper: Option<&Arc<Node>>,
    ) -> Result<ActiveSnapshot> {
        let active = ActiveSnapshot::prepare(self, SnapshotId::random(), &[])?;
        self.pipe_diff(lower, upper, &active)?;
        Ok(active)
    }

    /// Full form: the own layers of a stack, applied one after the other.
    pub(crate) fn flatten(&self, node: &Arc<Node>) -> Result<ActiveSnapshot> {
        let layers = &node.needs;
        // What begins without a parent is a whole file system: begin with a copy of it.
        let whole = layers.first().filter(|layer| layer.needs.is_empty());
        let first = whole.map(|layer| self.snapshots(layer)).transpose()?.unwrap_or_default();
        let active = ActiveSnapshot::prepare(self, SnapshotId::random(), &first)?;
        for layer in &layers[usize::from(whole.is_some())..] {
            let kind = layer.row.lock().kind.clone();
            match kind {
                Kind::Diff { lower, upper } => {
                    let find = |id| layer.needs.iter().find(|need| Some(need.id) == id);
                    self.pipe_diff(find(lower), find(upper), &active)?;
                }
                _ => self.pipe_diff(layer.needs.first(), Some(layer), &active)?,
            }
        }
        Ok(active)
    }

    /// Applies what turns `lower` into `upper` to a snapshot, through a pipe.
    fn pipe_diff(
        &self,
        lower: Option<&Arc<Node>>,
        upper: Option<&Arc<Node>>,
        into: &ActiveSnapshot,
    ) -> Result<()> {
        let open = |node: Option<&Arc<Node>>| -> Result<TreeGuard> {
            let mount = match node {
                Some(node) => self.view(node)?,
                None => self.inner.snaps.view(&[])?,
            };
            TreeGuard::open(&mount, node.cloned())
        };
        let (lower, upper) = (open(lower)?, open(upper)?);
        let dest = self.inner.snaps.dir(into.id())?;
        let form = self.inner.snaps.form();
        let (read, write) =
            io::pipe().map_err(|error| StoreError::io("create", std::path::Path::new("pipe"), error))?;
        std::thread::scope(|scope| {
            let diffing = scope.spawn(move || {
                let out = BufWriter::with_capacity(PIPE_BUFFER, write);
                let options = DiffOptions { attributes: Attributes::Users, ..DiffOptions::default() };
                Differ::new(Some(lower.root()), options).diff_trees(upper.root(), out)
            });
            let applied = Applier::new(&dest, form).apply(io::BufReader::with_capacity(PIPE_BUFFER, read));
            let diffed = diffing
                .join()
                .map_err(|_| StoreError::Worker { detail: "the differ panicked".to_owned() })?;
            // If the applier stopped, the differ's broken pipe is only the consequence.
            applied.map_err(StoreError::from).and(diffed.map(drop).map_err(StoreError::from))
        })
    }
}

/// The layer `n` below a node in its own chain; `None` if there is none, or a flat copy is nearer.
fn nth_parent(node: &Arc<Node>, n: usize) -> Option<Arc<Node>> {
    let mut at = node.clone();
    for _ in 0..n {
        if at.row.lock().flat.is_some() || !matches!(at.row.lock().kind, Kind::Layer { .. }) {
            return None;
        }
        at = at.needs.first()?.clone();
    }
    Some(at)
}
