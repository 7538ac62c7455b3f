use std::path::Path;

use rbuild_sys::{Mount, Root};

use crate::store_dir::SnapshotDirs;
use crate::{LayerForm, Result, SharedFiles, SnapshotId, Snapshotter, Usage, copy_tree, disk_usage};

/// Snapshots as full copies (reflinks where the file system has them), for hosts without overlayfs.
#[derive(Debug)]
pub struct NativeSnapshotter {
    dirs: SnapshotDirs,
}

impl NativeSnapshotter {
    /// Opens (makes) the snapshots in `dir`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { dirs: SnapshotDirs::open(dir.as_ref())? })
    }
}

impl Snapshotter for NativeSnapshotter {
    fn name(&self) -> &'static str {
        "native"
    }

    fn form(&self) -> LayerForm {
        LayerForm::Full
    }

    fn prepare(&self, id: &SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        let dir = self.dirs.create(id)?;
        if let Some(parent) = parents.last() {
            copy_tree(&self.dirs.fs(parent)?, &dir.open_dir("fs")?)?;
        }
        Ok(())
    }

    fn mount(&self, id: &SnapshotId, _parents: &[SnapshotId]) -> Result<Mount> {
        self.dirs.get(id)?;
        Ok(Mount::Bind { source: self.dirs.path(id, "fs"), readonly: false })
    }

    fn view(&self, chain: &[SnapshotId]) -> Result<Mount> {
        let source = chain.last().map_or_else(|| self.dirs.empty(), |top| self.dirs.path(top, "fs"));
        Ok(Mount::Bind { source, readonly: true })
    }

    fn dir(&self, id: &SnapshotId) -> Result<Root> {
        self.dirs.fs(id)
    }

    fn hide_whiteouts(&self, _id: &SnapshotId) -> Result<()> {
        Ok(())
    }

    fn commit(&self, id: &SnapshotId) -> Result<()> {
        self.dirs.get(id).map(drop)
    }

    fn remove(&self, id: &SnapshotId) -> Result<()> {
        self.dirs.remove(id)
    }

    fn usage(&self, id: &SnapshotId, shared: SharedFiles) -> Result<Usage> {
        disk_usage(&self.dirs.get(id)?, shared)
    }

    fn list(&self) -> Result<Vec<SnapshotId>> {
        self.dirs.list()
    }
}
