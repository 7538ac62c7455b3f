use std::sync::Arc;

use rbuild_snapshot::{LayerForm, SnapshotId};
use rbuild_sys::{Mount, MountTree};

use crate::error::Result;
use crate::id::RefId;
use crate::refs::{ActiveSnapshot, Node, Ref, TreeGuard};
use crate::rows::{Kind, RecordType, RefRow, mark_ref, put_ref};
use crate::store::{Store, blocking};

/// What people are told about a tree in the making.
#[derive(Debug, Clone, Default)]
pub struct NewMutable {
    /// For `du`, usually the vertex's name.
    pub description: String,
    /// What it counts as.
    pub record_type: RecordType,
}

impl NewMutable {
    /// A result of a step.
    pub fn regular(description: impl Into<String>) -> Self {
        Self { description: description.into(), record_type: RecordType::Regular }
    }
}

/// A tree being written. Dropped without [`MutableRef::commit`], it is thrown away.
#[derive(Debug)]
pub struct MutableRef {
    id: RefId,
    active: ActiveSnapshot,
    parents: Vec<SnapshotId>,
    parent: Option<Arc<Node>>,
    options: NewMutable,
    store: Store,
}

impl Store {
    /// A writable tree with the files of `parent`. Fetches what is lazy in it.
    ///
    /// Cancel: safe.
    pub async fn new_mutable(&self, parent: Option<&Ref>, options: NewMutable) -> Result<MutableRef> {
        let parent = match parent {
            None => None,
            Some(parent) => {
                self.load(&parent.node, None).await?;
                self.touch(&parent.node.id);
                Some(parent.node.clone())
            }
        };
        let store = self.clone();
        blocking(move || {
            let parents = match &parent {
                None => Vec::new(),
                Some(node) => {
                    store.make_permanent(node)?;
                    store.mountable(node)?
                }
            };
            let id = RefId::fresh();
            let snapshot = SnapshotId::parse(id.as_str())?;
            let active = ActiveSnapshot::prepare(&store, snapshot, &parents)?;
            Ok(MutableRef { id, active, parents, parent, options, store })
        })
        .await
    }
}

impl MutableRef {
    /// Its name, and that of the ref it becomes.
    pub fn id(&self) -> RefId {
        self.id
    }

    /// How to mount it for writing. One mount of it at a time.
    pub fn mount(&self) -> Result<Mount> {
        Ok(self.store.inner.snaps.mount(self.active.id(), &self.parents)?)
    }

    /// Mounts it for writing by files. Drop the guard before [`MutableRef::commit`] or another mount.
    pub async fn tree(&self) -> Result<TreeGuard> {
        let mount = self.mount()?;
        let parent = self.parent.clone();
        blocking(move || TreeGuard::open(&mount, parent)).await
    }

    /// What was removed is removed by name, so that it means the same over other layers, too (merges).
    fn name_removed(&self) -> Result<()> {
        let snaps = &self.store.inner.snaps;
        if self.parents.is_empty() || snaps.form() == LayerForm::Full {
            return Ok(());
        }
        let mut view = None;
        rbuild_snapshot::name_removed(&snaps.dir(self.active.id())?, || {
            let tree = MountTree::new(&snaps.view(&self.parents)?)?;
            let root = tree.root()?;
            view = Some(tree);
            Ok(root)
        })?;
        drop(view);
        Ok(())
    }

    /// Makes it immutable. It must not be mounted any more.
    ///
    /// When this returns, a kill of the process does not lose it. Cancel: it is committed or thrown away.
    pub async fn commit(self) -> Result<Ref> {
        blocking(move || {
            let core = &self.store.inner.core;
            core.snaps.commit(self.active.id())?;
            self.name_removed()?;
            core.db.step("snapshot.committed");
            let kind = Kind::Layer { parent: self.parent.as_ref().map(|node| node.id) };
            let mut row = RefRow::new(kind, &self.options.description, self.options.record_type);
            row.snapshot = Some(self.active.id().clone());
            core.db.update(|tx| {
                tx.unsynced(&mark_ref(&self.id))?;
                put_ref(tx, &self.id, &row)
            })?;
            self.active.keep();
            let needs = self.parent.into_iter().collect();
            let node = Arc::new(Node::new(&self.store, self.id, row, needs));
            self.store.inner.live.lock().insert(&node);
            self.store.touch(&node.id);
            Ok(Ref::new(&self.store, node))
        })
        .await
    }
}
