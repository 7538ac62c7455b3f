//! Entries that say what is gone.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rbuild_sys::Root;

use super::Run;
use crate::error::OnEntry;
use crate::{LayerForm, Result, SnapshotError, xattr};

/// Type bits of a character device.
const CHAR_DEVICE: u32 = rustix::fs::FileType::CharacterDevice.as_raw_mode();

impl Run<'_> {
    pub(super) fn gone(&mut self, parent: &Path, name: &OsStr) -> Result<()> {
        self.stats.whiteouts += 1;
        let path = parent.join(name);
        if self.form == LayerForm::Full {
            self.dir(parent)?;
            let real = self.real_path(name);
            return self.remove_below(real);
        }
        let dir = self.dir(parent)?;
        hide(dir, name, &path)
    }

    pub(super) fn opaque(&mut self, parent: &Path) -> Result<()> {
        self.stats.whiteouts += 1;
        if self.form == LayerForm::Full {
            self.dir(parent)?;
            let real = self.real_path("".as_ref());
            return self.remove_inside(clean_end(real));
        }
        if parent.as_os_str().is_empty() {
            self.root_opaque = true;
            return Ok(());
        }
        self.dir(parent)?.xattr_set(".", xattr::OPAQUE_TRUSTED, b"y").entry(parent)
    }

    /// Overlay form: hides everything of the layers below that this layer has not itself.
    pub(super) fn hide_root(&mut self) -> Result<()> {
        let Some(parents) = self.parents else {
            self.stats.implied_parents += 1;
            return Ok(());
        };
        for entry in parents.read_dir()? {
            hide(self.dest, &entry.name, Path::new(&entry.name))?;
        }
        Ok(())
    }

    /// Full form: removes `path`, but for what this layer wrote.
    fn remove_below(&mut self, path: PathBuf) -> Result<()> {
        if self.written.contains(&path) {
            // It was written by this layer, or something below it was.
            return match self.dest.stat(&path) {
                Ok(stat) if stat.is_dir() => self.remove_inside(path),
                _ => Ok(()),
            };
        }
        self.dest.remove_all(&path).entry(&path)
    }

    fn remove_inside(&mut self, top: PathBuf) -> Result<()> {
        let mut pending = vec![top];
        while let Some(path) = pending.pop() {
            let dir = crate::deep::open_deep(self.dest, &path)?;
            for entry in dir.read_dir().entry(&path)? {
                let child = path.join(&entry.name);
                if !self.written.contains(&child) {
                    dir.remove_all(&entry.name).entry(&child)?;
                } else if dir.stat(&entry.name).entry(&child)?.is_dir() {
                    pending.push(child);
                }
            }
        }
        Ok(())
    }
}

fn clean_end(path: PathBuf) -> PathBuf {
    path.components().collect()
}

/// Overlay form: makes `name` in this layer hide what lies below. What this layer itself has there stays.
fn hide(dir: &Root, name: &OsStr, path: &Path) -> Result<()> {
    match dir.mknod(name, CHAR_DEVICE, 0) {
        Err(err) if err.is_exists() => {}
        other => return other.entry(path),
    }
    if dir.stat(name).entry(path)?.is_dir() {
        dir.xattr_set(name, xattr::OPAQUE_TRUSTED, b"y").entry(path)?;
    }
    Ok(())
}

/// The error for a whiteout that would act outside its directory.
pub(super) fn invalid(path: &Path) -> SnapshotError {
    SnapshotError::invalid(path, "not a valid whiteout")
}
