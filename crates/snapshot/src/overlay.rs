use std::path::{Path, PathBuf};

use rbuild_sys::{Mount, Root};

use crate::store_dir::SnapshotDirs;
use crate::{LayerForm, Result, SharedFiles, SnapshotId, Snapshotter, Usage, disk_usage, whiteouts};

/// Empty directories to lie below those that hold whiteouts; a plain file if there are none.
const BARE: &str = "bare";

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

    /// The layers, the top one first, and below them all what their whiteouts lie over.
    fn lower(&self, chain: &[SnapshotId]) -> Result<Vec<PathBuf>> {
        let mut lower: Vec<PathBuf> = chain.iter().rev().map(|id| self.dirs.path(id, "fs")).collect();
        for id in chain {
            lower.extend(self.bare(id)?);
        }
        Ok(lower)
    }

    fn bare(&self, id: &SnapshotId) -> Result<Option<PathBuf>> {
        match self.dirs.get(id)?.stat(BARE) {
            Ok(stat) => Ok(stat.is_dir().then(|| self.dirs.path(id, BARE))),
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(err.into()),
        }
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
            lower: self.lower(parents)?,
            upper: Some(fs),
            work: Some(self.dirs.path(id, "work")),
            volatile: true,
        })
    }

    fn view(&self, chain: &[SnapshotId]) -> Result<Mount> {
        let lower = match chain {
            [] => return Ok(Mount::Bind { source: self.dirs.empty(), readonly: true }),
            [only] if self.bare(only)?.is_none() => {
                return Ok(Mount::Bind { source: self.dirs.path(only, "fs"), readonly: true });
            }
            chain => self.lower(chain)?,
        };
        Ok(Mount::Overlay { lower, upper: None, work: None, volatile: false })
    }

    fn dir(&self, id: &SnapshotId) -> Result<Root> {
        self.dirs.fs(id)
    }

    fn hide_whiteouts(&self, id: &SnapshotId) -> Result<()> {
        let dir = self.dirs.get(id)?;
        if dir.exists(BARE)? {
            return Ok(());
        }
        whiteouts::make_bare(&dir, BARE, &self.dirs.fs(id)?)
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
