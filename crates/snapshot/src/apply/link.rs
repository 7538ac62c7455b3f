//! Hard links.

use std::path::Path;

use rbuild_sys::Root;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{Run, split};
use crate::error::OnEntry;
use crate::{LayerForm, Result, SnapshotError, copy};

impl Run<'_> {
    /// Gives the file at `target` (from the root) the name `path`.
    pub(super) fn hard_link(&mut self, target: &Path, path: &Path) -> Result<()> {
        if target == path {
            return Err(SnapshotError::invalid(path, "is a hard link to itself"));
        }
        let Some((from, from_name)) = split(target) else {
            return Err(SnapshotError::invalid(path, "is a hard link to the root"));
        };
        let Some((to, to_name)) = split(path) else { return Ok(()) };
        let to_dir = self.dir(to)?.try_clone()?;
        let from_dir = self.link_source(from, from_name, path)?;
        loop {
            match rustix::fs::linkat(&from_dir, from_name, &to_dir, to_name, AtFlags::empty()) {
                Err(Errno::EXIST) => to_dir.remove_all(to_name).entry(path)?,
                Err(Errno::PERM) => {
                    return Err(SnapshotError::invalid(path, "is a hard link to a directory"));
                }
                other => return other.entry(path),
            }
        }
    }

    /// The directory that holds the target, in this layer: a file of a layer below is copied up first.
    fn link_source(&mut self, from: &Path, name: &std::ffi::OsStr, path: &Path) -> Result<Root> {
        let missing = || SnapshotError::invalid(path, "is a hard link to something that does not exist");
        if let Ok(dir) = self.dest.open_dir(from) {
            match dir.stat(name) {
                Ok(stat) if self.form == LayerForm::Overlay && stat.is_overlay_whiteout() => {
                    return Err(missing());
                }
                Ok(_) => return Ok(dir),
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(SnapshotError::entry(path, err)),
            }
        }
        let parents = self.parents.ok_or_else(missing)?;
        let below = parents.open_dir(from).map_err(|_| missing())?;
        let stat = below.stat(name).map_err(|_| missing())?;
        if stat.is_dir() {
            return Err(SnapshotError::invalid(path, "is a hard link to a directory"));
        }
        let dir = self.dir(from)?.try_clone()?;
        copy::copy_entry(&below, name, &stat, &dir, name).entry(path)?;
        Ok(dir)
    }
}
