//! The directory of snapshots, which both snapshotters lay out in the same way.

use std::path::{Path, PathBuf};

use rbuild_sys::{Root, SysError};

use crate::{Result, SnapshotId};

/// Mode of a root file system's `/` when no parent says otherwise, as every distribution has it.
const ROOT_MODE: u32 = 0o755;
/// Prefix of directories on their way out; no snapshot id begins with a dot.
const REMOVED: &str = ".rm-";
/// The directory that is mounted where there is nothing.
const EMPTY: &str = ".empty";

#[derive(Debug)]
pub(crate) struct SnapshotDirs {
    path: PathBuf,
    root: Root,
}

impl SnapshotDirs {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|err| SysError::new("mkdir", path, err))?;
        // Mounts name paths, also from other mount namespaces and working directories.
        let path = path.canonicalize().map_err(|err| SysError::new("realpath", path, err))?;
        let root = Root::open(&path)?;
        // Others may pass through to nothing: what is below has the modes of images, set-uid programs among them.
        root.chmod(".", 0o700)?;
        if !root.exists(EMPTY)? {
            root.mkdir(EMPTY, ROOT_MODE)?;
        }
        let dirs = Self { path, root };
        dirs.sweep()?;
        Ok(dirs)
    }

    fn sweep(&self) -> Result<()> {
        for entry in self.root.read_dir()? {
            if entry.name.to_string_lossy().starts_with(REMOVED) {
                self.root.remove_all(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Makes `<id>/fs`.
    pub(crate) fn create(&self, id: &SnapshotId) -> Result<Root> {
        self.root.mkdir(id.as_str(), 0o700)?;
        let dir = self.get(id)?;
        dir.mkdir("fs", ROOT_MODE)?;
        Ok(dir)
    }

    pub(crate) fn get(&self, id: &SnapshotId) -> Result<Root> {
        Ok(self.root.open_dir_nofollow(id.as_str())?)
    }

    pub(crate) fn fs(&self, id: &SnapshotId) -> Result<Root> {
        Ok(self.get(id)?.open_dir_nofollow("fs")?)
    }

    pub(crate) fn path(&self, id: &SnapshotId, name: &str) -> PathBuf {
        self.path.join(id.as_str()).join(name)
    }

    pub(crate) fn empty(&self) -> PathBuf {
        self.path.join(EMPTY)
    }

    /// Owner and mode of `/`: an overlay shows those of its uppermost layer.
    pub(crate) fn copy_root_attrs(&self, parent: &SnapshotId, dir: &Root) -> Result<()> {
        let stat = self.fs(parent)?.stat(".")?;
        dir.chown("fs", stat.uid, stat.gid)?;
        if stat.permissions() != ROOT_MODE {
            dir.chmod("fs", stat.permissions())?;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, id: &SnapshotId) -> Result<()> {
        let name = format!("{REMOVED}{id}");
        match self.root.rename(id.as_str(), &self.root, &name) {
            Ok(()) => {}
            Err(err) if err.is_not_found() => {}
            // An earlier removal of the same id was cut short.
            Err(err) if matches!(err.errno(), EEXIST | ENOTEMPTY) => {
                self.root.remove_all(&name)?;
                self.root.rename(id.as_str(), &self.root, &name)?;
            }
            Err(err) => return Err(err.into()),
        }
        Ok(self.root.remove_all(&name)?)
    }

    pub(crate) fn list(&self) -> Result<Vec<SnapshotId>> {
        let entries = self.root.read_dir()?;
        let ids = entries.iter().filter_map(|entry| SnapshotId::parse(entry.name.to_str()?).ok());
        Ok(ids.collect())
    }
}

const EEXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();
const ENOTEMPTY: i32 = rustix::io::Errno::NOTEMPTY.raw_os_error();
