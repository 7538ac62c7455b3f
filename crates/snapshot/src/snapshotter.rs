use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rbuild_sys::{Mount, Root};

use crate::{NativeSnapshotter, OverlaySnapshotter, Result, SharedFiles, SnapshotId, Usage};

/// What lies in a snapshot's own directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerForm {
    /// The layer alone, with overlayfs whiteouts and opaque marks.
    Overlay,
    /// The whole file system.
    Full,
}

/// Which snapshotter to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotterKind {
    /// Overlayfs where it works, else copies.
    #[default]
    Auto,
    /// Overlayfs; an error at the first mount where it does not work.
    Overlay,
    /// Full copies.
    Native,
}

/// Directories that stack up to root file systems.
///
/// Chains are lists of committed snapshots, lowest first. An *active* snapshot is one that was prepared and not yet
/// committed; only it may be written, through [`Snapshotter::mount`] or [`Snapshotter::dir`].
pub trait Snapshotter: Send + Sync + fmt::Debug {
    /// `overlayfs` or `native`, as upstream names them in worker labels.
    fn name(&self) -> &'static str;

    /// What lies in [`Snapshotter::dir`].
    fn form(&self) -> LayerForm;

    /// Makes the active snapshot `id` on top of `parents`; its root directory has the owner and mode of theirs.
    ///
    /// Errors: `EEXIST` if there is a snapshot of this id.
    fn prepare(&self, id: &SnapshotId, parents: &[SnapshotId]) -> Result<()>;

    /// How to mount the active snapshot `id` for reading and writing. One mount of it at a time.
    fn mount(&self, id: &SnapshotId, parents: &[SnapshotId]) -> Result<Mount>;

    /// How to mount `chain` for reading; an empty chain is an empty directory.
    fn view(&self, chain: &[SnapshotId]) -> Result<Mount>;

    /// The snapshot's own directory: where a layer is applied to and diffed from. See [`Snapshotter::form`].
    fn dir(&self, id: &SnapshotId) -> Result<Root>;

    /// Says that `dir(id)`, committed, is to lie over other things than it was made over, or over nothing, so that
    /// mounts must hide whiteouts of what is not there. No effect where layers hold no whiteouts.
    fn hide_whiteouts(&self, id: &SnapshotId) -> Result<()>;

    /// Makes the active snapshot immutable. It must not be mounted for writing any more. May be called again.
    fn commit(&self, id: &SnapshotId) -> Result<()>;

    /// Removes a snapshot, whatever its state; one that is not there is fine. Safe against a crash in the middle.
    fn remove(&self, id: &SnapshotId) -> Result<()>;

    /// What the snapshot takes on disk, its own directories included.
    fn usage(&self, id: &SnapshotId, shared: SharedFiles) -> Result<Usage>;

    /// All snapshots on disk, active or committed, in no order.
    fn list(&self) -> Result<Vec<SnapshotId>>;
}

/// Opens (makes) the snapshots in `dir`.
pub fn open(dir: impl AsRef<Path>, kind: SnapshotterKind) -> Result<Arc<dyn Snapshotter>> {
    let dir = dir.as_ref();
    let overlay = match kind {
        SnapshotterKind::Overlay => true,
        SnapshotterKind::Native => false,
        SnapshotterKind::Auto => {
            std::fs::create_dir_all(dir).map_err(|err| rbuild_sys::SysError::new("mkdir", dir, err))?;
            rbuild_sys::overlay_supported(dir)
        }
    };
    if overlay {
        Ok(Arc::new(OverlaySnapshotter::open(dir)?))
    } else {
        Ok(Arc::new(NativeSnapshotter::open(dir)?))
    }
}

#[cfg(test)]
mod tests {
    use rbuild_sys::MountTree;

    use super::*;
    use crate::testing::{paths, put};

    fn each(test: impl Fn(&dyn Snapshotter)) {
        for kind in [SnapshotterKind::Overlay, SnapshotterKind::Native] {
            let dir = tempfile::tempdir().unwrap();
            test(&*open(dir.path(), kind).unwrap());
        }
    }

    fn id(text: &str) -> SnapshotId {
        SnapshotId::parse(text).unwrap()
    }

    /// Makes a snapshot with one file on top of `parents`.
    fn layer(snapshots: &dyn Snapshotter, name: &str, parents: &[SnapshotId]) -> SnapshotId {
        let id = id(name);
        snapshots.prepare(&id, parents).unwrap();
        let tree = MountTree::new(&snapshots.mount(&id, parents).unwrap()).unwrap();
        put(&tree.root().unwrap(), name, b"x", 1);
        snapshots.commit(&id).unwrap();
        id
    }

    #[test]
    fn root_chains_stack_and_views_refuse_writes() {
        each(|snapshots| {
            let a = layer(snapshots, "a", &[]);
            let b = layer(snapshots, "b", std::slice::from_ref(&a));
            for (chain, expected) in
                [(vec![], vec![]), (vec![a.clone()], vec!["a"]), (vec![a, b], vec!["a", "b"])]
            {
                let tree = MountTree::new(&snapshots.view(&chain).unwrap()).unwrap();
                let root = tree.root().unwrap();
                assert_eq!(paths(&root), expected);
                let err = root.create_file("new", 0o644, true).unwrap_err();
                assert_eq!(err.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            }
        });
    }

    #[test]
    fn root_more_than_a_hundred_layers_work() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = open(dir.path(), SnapshotterKind::Overlay).unwrap();
        let mut chain = Vec::new();
        for i in 0..130 {
            let id = id(&format!("layer{i}"));
            snapshots.prepare(&id, &chain).unwrap();
            put(&snapshots.dir(&id).unwrap(), &format!("f{i}"), b"x", 1);
            snapshots.commit(&id).unwrap();
            chain.push(id);
        }
        let top = layer(&*snapshots, "top", &chain);
        chain.push(top);
        let tree = MountTree::new(&snapshots.view(&chain).unwrap()).unwrap();
        assert_eq!(paths(&tree.root().unwrap()).len(), 131);
    }

    #[test]
    fn root_the_root_directory_keeps_its_owner_and_mode() {
        each(|snapshots| {
            let a = id("a");
            snapshots.prepare(&a, &[]).unwrap();
            snapshots.dir(&a).unwrap().chmod(".", 0o711).unwrap();
            snapshots.dir(&a).unwrap().chown(".", 3, 4).unwrap();
            let b = id("b");
            snapshots.prepare(&b, std::slice::from_ref(&a)).unwrap();
            let stat = snapshots.dir(&b).unwrap().stat(".").unwrap();
            assert_eq!((stat.permissions(), stat.uid, stat.gid), (0o711, 3, 4));
        });
    }

    #[test]
    fn root_whiteouts_over_nothing_can_be_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = open(dir.path(), SnapshotterKind::Overlay).unwrap();
        let a = id("a");
        snapshots.prepare(&a, &[]).unwrap();
        let own = snapshots.dir(&a).unwrap();
        own.mknod("gone", 0o020_000, 0).unwrap();
        put(&own, "here", b"x", 1);
        snapshots.hide_whiteouts(&a).unwrap();
        let tree = MountTree::new(&snapshots.view(&[a]).unwrap()).unwrap();
        assert_eq!(paths(&tree.root().unwrap()), ["here"]);
    }

    #[test]
    fn removal_is_complete_even_after_one_that_was_cut_short() {
        each(|snapshots| {
            let a = id("a");
            for _ in 0..2 {
                snapshots.prepare(&a, &[]).unwrap();
                put(&snapshots.dir(&a).unwrap(), "x/y", b"1", 1);
                assert!(snapshots.prepare(&a, &[]).is_err(), "ids are used once");
                assert_eq!(snapshots.list().unwrap(), std::slice::from_ref(&a));
                snapshots.remove(&a).unwrap();
                assert_eq!(snapshots.list().unwrap(), []);
                assert!(snapshots.dir(&a).unwrap_err().is_not_found());
            }
            snapshots.remove(&a).unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(".rm-a/fs/x")).unwrap();
        let snapshots = open(dir.path(), SnapshotterKind::Native).unwrap();
        assert!(!dir.path().join(".rm-a").exists());
        snapshots.prepare(&id("a"), &[]).unwrap();
        std::fs::create_dir_all(dir.path().join(".rm-a/fs/x")).unwrap();
        snapshots.remove(&id("a")).unwrap();
        assert!(!dir.path().join(".rm-a").exists() && !dir.path().join("a").exists());
    }

    #[test]
    fn usage_counts_blocks_and_shared_files_once() {
        each(|snapshots| {
            let a = id("a");
            snapshots.prepare(&a, &[]).unwrap();
            let own = snapshots.dir(&a).unwrap();
            let empty = snapshots.usage(&a, SharedFiles::Found).unwrap();
            put(&own, "f", &[7; 100_000], 1);
            own.hard_link("f", "g").unwrap();
            let sparse = own.create_file("sparse", 0o644, true).unwrap();
            sparse.set_len(1 << 30).unwrap();
            let usage = snapshots.usage(&a, SharedFiles::Found).unwrap();
            assert_eq!(usage.inodes - empty.inodes, 2);
            let bytes = usage.size_bytes - empty.size_bytes;
            assert!((100_000..130_000).contains(&bytes), "{bytes}");
            assert!(usage.shared.is_empty(), "both names are inside");

            let b = id("b");
            snapshots.prepare(&b, &[]).unwrap();
            snapshots.dir(&b).unwrap().link_from(&own, "f", "f").unwrap();
            let linked = snapshots.usage(&a, SharedFiles::Found).unwrap();
            assert_eq!(linked.shared, snapshots.usage(&b, SharedFiles::Found).unwrap().shared);
            assert_eq!((linked.total_bytes(), linked.shared.len()), (usage.size_bytes, 1));
            let all = snapshots.usage(&a, SharedFiles::All).unwrap();
            assert_eq!((all.total_bytes(), all.shared.len()), (usage.size_bytes, 2));
        });
    }

    #[test]
    fn ids_that_could_act_as_paths_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-x", ".rm-a"] {
            assert!(SnapshotId::parse(bad).is_err(), "{bad}");
        }
        assert!(serde_like("a/b").is_err());
    }

    fn serde_like(text: &str) -> Result<SnapshotId> {
        SnapshotId::try_from(text.to_owned())
    }
}
