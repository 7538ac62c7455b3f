use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_snapshot::SnapshotId;
use rbuild_sys::{Mount, MountTree, Root};

use crate::context::Hold;
use crate::error::Result;
use crate::refs::{Node, Ref};
use crate::rows::{NamedKind, NamedRow};
use crate::store::{Store, blocking};

/// Who else may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Anybody.
    #[default]
    Shared,
    /// Nobody: a second user gets a directory of its own.
    Private,
    /// Nobody: a second user waits.
    Locked,
}

/// Whom a cache mount is for. Those of one kind never meet those of another, whatever they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CachePurpose {
    /// Steps, which write what they like into it.
    #[default]
    Steps,
    /// The daemon's own repositories, which steps must not reach.
    GitRepository,
}

impl CachePurpose {
    pub(crate) fn kind(self) -> NamedKind {
        match self {
            Self::Steps => NamedKind::CacheMount,
            Self::GitRepository => NamedKind::GitRepository,
        }
    }
}

/// Which cache mount.
#[derive(Debug, Clone)]
pub struct CacheMountOptions {
    /// Its name.
    pub id: String,
    /// Whom it is for.
    pub purpose: CachePurpose,
    /// Who else may use it.
    pub sharing: Sharing,
    /// What is in it when it is new. The same name over another base is another mount.
    pub base: Option<Ref>,
    /// For `du`.
    pub description: String,
}

/// A directory that outlives the step, in use. Dropped, it is free for the next one.
#[derive(Debug)]
pub struct CacheMount {
    hold: Hold,
    snapshot: SnapshotId,
    base: Option<Arc<Node>>,
    tree: Option<Arc<MountTree>>,
    store: Store,
}

impl Store {
    /// Takes a cache mount; waits for it if it is locked.
    ///
    /// Cancel: safe.
    pub async fn cache_mount(&self, options: CacheMountOptions) -> Result<CacheMount> {
        let base = options.base.as_ref().map(|base| base.node.clone());
        if let Some(base) = &base {
            self.load(base, None).await?;
        }
        let key = crate::mount_archive::key(&options.id, base.as_ref());
        let kind = options.purpose.kind();
        loop {
            let freed = self.inner.names.freed.notified();
            tokio::pin!(freed);
            // Heard from here on, also between the look and the wait.
            freed.as_mut().enable();
            let making = self.inner.names.making.lock().await;
            if let Some((hold, row)) = self.find_mount(kind, &key, options.sharing) {
                drop(making);
                return self.open_mount(hold, row, base).await;
            }
            let is_taken = self
                .inner
                .names
                .all
                .lock()
                .values()
                .any(|named| named.row.kind == kind && named.row.key == key);
            if options.sharing == Sharing::Locked && is_taken {
                drop(making);
                freed.await;
                continue;
            }
            let (store, base_node, options) = (self.clone(), base.clone(), options.clone());
            let exclusive = options.sharing != Sharing::Shared;
            // To its end even if this future is dropped: what was made is then released by `open_mount`'s guard.
            let made = blocking(move || {
                if let Some(base) = &base_node {
                    store.make_permanent(base)?;
                }
                let (hold, row) =
                    store.make_named(kind, &key, base_node.as_ref(), &options.description, exclusive)?;
                Ok((Releasing { hold: Some(hold), store }, row))
            });
            let (mut releasing, row) = made.await?;
            drop(making);
            let hold = releasing.hold.take().expect("set above");
            return self.open_mount(hold, row, base).await;
        }
    }

    /// One that can be used now, taken.
    fn find_mount(&self, kind: NamedKind, key: &str, sharing: Sharing) -> Option<(Hold, NamedRow)> {
        let names = &self.inner.names;
        if sharing == Sharing::Shared {
            let mut all = names.all.lock();
            let shared = all.iter_mut().find(|(_, named)| {
                named.row.kind == kind && named.row.key == key && named.holders > 0 && !named.exclusive
            });
            if let Some((id, named)) = shared {
                named.holders += 1;
                return Some((Hold { id: *id }, named.row.clone()));
            }
        }
        names.take_free(kind, key, sharing != Sharing::Shared)
    }

    pub(crate) async fn open_mount(
        &self,
        hold: Hold,
        row: NamedRow,
        base: Option<Arc<Node>>,
    ) -> Result<CacheMount> {
        // From here on a drop releases it.
        let mut mount = CacheMount { hold, snapshot: row.snapshot, base, tree: None, store: self.clone() };
        self.touch(&hold.id);
        if mount.base.is_some() {
            blocking(move || {
                mount.tree = mount.shared_tree()?;
                Ok(mount)
            })
            .await
        } else {
            Ok(mount)
        }
    }
}

/// Releases what was made for somebody who went away meanwhile.
struct Releasing {
    hold: Option<Hold>,
    store: Store,
}

impl Drop for Releasing {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.store.inner.names.release(&hold);
        }
    }
}

impl CacheMount {
    fn plain(&self) -> Result<Mount> {
        let parents = self.base.as_ref().map(|node| self.store.mountable(node)).transpose()?;
        Ok(self.store.inner.snaps.mount(&self.snapshot, &parents.unwrap_or_default())?)
    }

    /// Over a base it is an overlay, which may be mounted once only: all users share the mount.
    fn shared_tree(&self) -> Result<Option<Arc<MountTree>>> {
        let mount = self.plain()?;
        if matches!(mount, Mount::Bind { .. }) {
            return Ok(None);
        }
        let mut all = self.store.inner.names.all.lock();
        let named = all.get_mut(&self.hold.id);
        if let Some(tree) = named.as_ref().and_then(|named| named.mount.clone()) {
            return Ok(Some(tree));
        }
        let tree = Arc::new(MountTree::new(&mount)?);
        if let Some(named) = named {
            named.mount = Some(tree.clone());
        }
        Ok(Some(tree))
    }

    /// The directory, for reading and writing. Mount it by this descriptor.
    pub fn root(&self) -> Result<Root> {
        match (&self.tree, self.plain()?) {
            (Some(tree), _) => Ok(tree.root()?),
            (None, Mount::Bind { source, .. }) => Ok(Root::open(source)?),
            (None, mount) => Ok(MountTree::new(&mount)?.root()?),
        }
    }

    /// How to mount it for reading and writing. If it has a base, the source is a descriptor of this process,
    /// valid while this lives.
    pub fn mount(&self) -> Result<Mount> {
        match &self.tree {
            None => self.plain(),
            Some(tree) => {
                let fd = std::os::fd::AsFd::as_fd(&**tree).as_raw_fd();
                let source = PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id()));
                Ok(Mount::Bind { source, readonly: false })
            }
        }
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        self.tree = None;
        self.store.inner.names.release(&self.hold);
    }
}
