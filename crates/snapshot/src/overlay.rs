use std::path::Path;

use rbuild_sys::{Mount, Root};

use crate::store_dir::SnapshotDirs;
use crate::{LayerForm, Result, SharedFiles, SnapshotId, Snapshotter, Usage, disk_usage};

/// Marks a snapshot whose whiteouts must be hidden when it is viewed alone.
const MARK_WHITEOUTS: &str = "whiteouts";

/// Snapshots as layers of overlayfs.
#[derive(Debug)]
pub struct OverlaySnapshotter {
    dirs: SnapshotDirs,
}

impl OverlaySnapshotter {
    /// Opens (makes) the snapshots in `dir`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { dirs: SnapshotDirs::open(dir.as_ref())? })
    }

    fn lower(&self, chain: &[SnapshotId]) -> Vec<std::path::PathBuf> {
        chain.iter().rev().map(|id| self.dirs.path(id, "fs")).collect()
    }
}

impl Snapshotter for OverlaySnapshotter {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn form(&self) -> LayerForm {
        LayerForm::Overlay
    }

    fn prepare(&self, id: &SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        let dir = self.dirs.create(id)?;
        if let Some(parent) = parents.last() {
            dir.mkdir("work", 0o711)?;
            self.dirs.copy_root_attrs(parent, &dir)?;
        }
        Ok(())
    }

    fn mount(&self, id: &SnapshotId, parents: &[SnapshotId]) -> Result<Mount> {
        self.dirs.get(id)?;
        let fs = self.dirs.path(id, "fs");
        if parents.is_empty() {
            return Ok(Mount::Bind { source: fs, readonly: false });
        }
        Ok(Mount::Overlay {
            lower: self.lower(parents),
            upper: Some(fs),
            work: Some(self.dirs.path(id, "work")),
            volatile: true,
        })
    }

    fn view(&self, chain: &[SnapshotId]) -> Result<Mount> {
        let lower = match chain {
            [] => return Ok(Mount::Bind { source: self.dirs.empty(), readonly: true }),
            [only] if self.dirs.get(only)?.exists(MARK_WHITEOUTS)? => {
                vec![self.dirs.path(only, "fs"), self.dirs.empty()]
            }
            [only] => return Ok(Mount::Bind { source: self.dirs.path(only, "fs"), readonly: true }),
            chain => self.lower(chain),
        };
        Ok(Mount::Overlay { lower, upper: None, work: None, volatile: false })
    }

    fn dir(&self, id: &SnapshotId) -> Result<Root> {
        self.dirs.fs(id)
    }

    fn hide_whiteouts(&self, id: &SnapshotId) -> Result<()> {
        self.dirs.get(id)?.create_file(MARK_WHITEOUTS, 0o600, false)?;
        Ok(())
    }

    fn commit(&self, id: &SnapshotId) -> Result<()> {
        Ok(self.dirs.get(id)?.remove_all("work")?)
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
