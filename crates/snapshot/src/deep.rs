//! Directories at any depth, with a bounded number of descriptors.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_sys::Root;

use crate::Result;
use crate::error::OnEntry;

/// Bytes of a path that are resolved in one call; the kernel's limit is 4,096, file names are at most 255.
const ONE_CALL: usize = 3800;
/// Levels of a walk whose directories stay open; those further up are opened again on the way back. A walk of two
/// trees holds twice as many descriptors, of the 1,024 that a process usually has.
pub(crate) const OPEN_LEVELS: usize = 32;

/// Opens the directory `path` below `root`, however long the path is. Links in it are followed inside the root only
/// where the path is short; callers give paths that they found by walking.
pub(crate) fn open_deep(root: &Root, path: &Path) -> Result<Root> {
    let mut rest = path.as_os_str().as_bytes();
    if rest.len() <= ONE_CALL {
        return root.open_dir_nofollow(path).entry(path);
    }
    let mut dir = root.try_clone()?;
    while rest.len() > ONE_CALL {
        let Some(slash) = rest[..ONE_CALL].iter().rposition(|b| *b == b'/') else { break };
        dir = dir.open_dir_nofollow(OsStr::from_bytes(&rest[..slash])).entry(path)?;
        rest = &rest[slash + 1..];
    }
    dir.open_dir_nofollow(OsStr::from_bytes(rest)).entry(path)
}

/// A directory below a root that may be closed meanwhile.
#[derive(Debug)]
pub(crate) struct DeepDir<'a> {
    root: &'a Root,
    path: PathBuf,
    open: Option<Root>,
}

impl<'a> DeepDir<'a> {
    /// The root itself.
    pub(crate) fn top(root: &'a Root) -> Result<Self> {
        Ok(Self { root, path: PathBuf::new(), open: Some(root.try_clone()?) })
    }

    /// The subdirectory `name`.
    pub(crate) fn enter(&mut self, name: &OsStr) -> Result<Self> {
        let path = self.path.join(name);
        let open = self.get()?.open_dir_nofollow(name).entry(&path)?;
        Ok(Self { root: self.root, path, open: Some(open) })
    }

    /// The directory, open.
    pub(crate) fn get(&mut self) -> Result<&Root> {
        match &mut self.open {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(open_deep(self.root, &self.path)?)),
        }
    }

    /// Gives the descriptor back until it is needed again.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Path from the root.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
