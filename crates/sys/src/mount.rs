//! [`Mount`], what a mount is made of; [`MountTree`], such a mount held by a descriptor and attached nowhere.
//!
//! A `MountTree` is made with the new mount API: it has no path, other processes do not see it, and it goes when the
//! last descriptor into it closes (also when the process is killed), so there is nothing to sweep after a crash.
//! On kernels whose overlay does not know `lowerdir+` it is mounted the old way on a private directory, cloned from
//! there, and the directory is given back at once; the result is the same.

mod api;
mod classic;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use self::api::{FsMount, MountFlags, make_private};
use crate::error::{Context, Result, SysError};
use crate::root::Root;

/// What a mount is made of. Paths are our own (state directory), never a user's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mount {
    /// The directory or file `source` itself.
    Bind {
        /// What to show.
        source: PathBuf,
        /// Refuse writes.
        readonly: bool,
    },
    /// Layers over each other.
    Overlay {
        /// Read-only layers, the top one first.
        lower: Vec<PathBuf>,
        /// Where changes go; `None` makes a read-only view.
        upper: Option<PathBuf>,
        /// Scratch directory on the file system of `upper`; needed with it.
        work: Option<PathBuf>,
        /// Never sync: without it the unmount writes the whole file system back.
        volatile: bool,
    },
    /// Fresh memory.
    Tmpfs {
        /// Limit in bytes; `None` is the kernel's half of the memory.
        size: Option<u64>,
        /// Mode of its root directory.
        mode: u32,
    },
}

impl Mount {
    /// Can something be written through this mount?
    pub fn is_readonly(&self) -> bool {
        match self {
            Mount::Bind { readonly, .. } => *readonly,
            Mount::Overlay { upper, .. } => upper.is_none(),
            Mount::Tmpfs { .. } => false,
        }
    }

    /// The same mount, refusing writes. A writable overlay becomes a view of upper and lower layers.
    #[must_use]
    pub fn into_readonly(self) -> Mount {
        match self {
            Mount::Bind { source, .. } => Mount::Bind { source, readonly: true },
            Mount::Overlay { mut lower, upper, .. } => {
                if let Some(upper) = upper {
                    lower.insert(0, upper);
                }
                Mount::Overlay { lower, upper: None, work: None, volatile: false }
            }
            tmpfs @ Mount::Tmpfs { .. } => tmpfs,
        }
    }

    /// Where on disk changes made through this mount land, if they land on disk.
    pub fn write_dir(&self) -> Option<&Path> {
        match self {
            Mount::Bind { source, readonly: false } => Some(source),
            Mount::Overlay { upper, .. } => upper.as_deref(),
            _ => None,
        }
    }
}

/// A mount attached nowhere, held by a descriptor; it is gone when this and all descriptors into it are closed.
#[derive(Debug)]
pub struct MountTree {
    fd: OwnedFd,
}

impl MountTree {
    /// Mounts `mount`.
    ///
    /// An overlay of one layer without an upper directory is a bind of that layer. Leftovers of an earlier volatile
    /// mount in the work directory are removed: its content was complete, or its owner would not mount it again.
    /// Errors: the kernel's, with the text of its mount log in `detail`.
    pub fn new(mount: &Mount) -> Result<MountTree> {
        match mount {
            Mount::Bind { source, readonly } => MountTree::bind(source, *readonly),
            Mount::Tmpfs { size, mode } => MountTree::tmpfs(*size, *mode),
            Mount::Overlay { lower, upper, work, volatile } => match (lower.as_slice(), upper, work) {
                ([], None, _) => Err(SysError::new("fsmount", "", libc::EINVAL)
                    .with_detail("an overlay needs at least one layer")),
                ([], Some(only), _) => MountTree::bind(only, false),
                ([only], None, _) => MountTree::bind(only, true),
                (_, Some(upper), None) => Err(SysError::new("fsmount", upper, libc::EINVAL)
                    .with_detail("a writable overlay needs a work directory")),
                (lower, None, _) => MountTree::overlay(lower, None, false),
                (lower, Some(upper), Some(work)) => MountTree::overlay(lower, Some((upper, work)), *volatile),
            },
        }
    }

    /// A clone of the mount at `source` (not of mounts below it), private.
    pub fn bind(source: &Path, readonly: bool) -> Result<MountTree> {
        let tree = api::clone_path(source)?;
        tree.set(MountFlags { readonly, ..MountFlags::default() })?;
        Ok(tree)
    }

    /// A clone of what `fd` (any descriptor, `O_PATH` will do) shows, private. The mount that holds it must be attached
    /// in the caller's mount namespace, before Linux 6.15.
    pub fn bind_fd(fd: impl AsFd, readonly: bool) -> Result<MountTree> {
        let tree = api::clone_fd(fd)?;
        tree.set(MountFlags { readonly, ..MountFlags::default() })?;
        Ok(tree)
    }

    fn tmpfs(size: Option<u64>, mode: u32) -> Result<MountTree> {
        let mut fs = FsMount::open("tmpfs")?;
        fs.string("mode", format!("{mode:o}"))?;
        if let Some(size) = size {
            fs.string("size", size.to_string())?;
        }
        fs.mount(MountFlags { nosuid: true, ..MountFlags::default() })
    }

    fn overlay(lower: &[PathBuf], upper: Option<(&PathBuf, &PathBuf)>, volatile: bool) -> Result<MountTree> {
        match api::overlay(lower, upper, volatile) {
            Err(err) if volatile && upper.is_some() && err.errno() != libc::ENOENT => {
                if let Some((_, work)) = upper
                    && !forget_volatile(work)?
                {
                    return overlay_old(lower, upper, volatile, err);
                }
                api::overlay(lower, upper, volatile)
            }
            Err(err) => overlay_old(lower, upper, volatile, err),
            done => done,
        }
    }

    /// The root directory of the mount.
    pub fn root(&self) -> Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty()).on("openat", ".")?;
        Ok(Root::from_fd(fd))
    }

    /// Attaches the mount onto what `target` shows, in the caller's mount namespace. It then lives as long as that.
    pub fn attach(&self, target: impl AsFd) -> Result<()> {
        api::attach(self.fd.as_fd(), target)
    }

    /// Sets and clears mount flags (all of [`MountFlags`], on this mount only) and makes it private.
    pub fn set(&self, flags: MountFlags) -> Result<()> {
        api::set_attr(self.fd.as_fd(), flags, false)
    }

    /// As [`MountTree::set`], only adding flags, also on the mounts below.
    pub fn restrict(&self, flags: MountFlags) -> Result<()> {
        api::set_attr(self.fd.as_fd(), flags, true)
    }

    /// The mount's descriptor (`O_PATH`).
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Takes a descriptor of a mount, as given by [`MountTree::into_fd`].
    pub fn from_fd(fd: OwnedFd) -> MountTree {
        MountTree { fd }
    }
}

impl AsFd for MountTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Falls back to the old call where the kernel does not know the new options; else gives back the first error.
fn overlay_old(
    lower: &[PathBuf],
    upper: Option<(&PathBuf, &PathBuf)>,
    volatile: bool,
    first: SysError,
) -> Result<MountTree> {
    let unknown =
        first.is_unsupported() || (first.errno() == libc::EINVAL && first.path == Path::new("lowerdir+"));
    if !unknown {
        return Err(first);
    }
    tracing::debug!(error = %first, "overlay without lowerdir+, mounting the old way");
    classic::overlay(lower, upper, volatile).map_err(|err| {
        let detail = format!("{} (new mount API: {first})", err.detail);
        err.with_detail(detail)
    })
}

/// Removes the mark of an earlier volatile mount; says whether there was one.
fn forget_volatile(work: &Path) -> Result<bool> {
    let root = match Root::open(work) {
        Ok(root) => root,
        Err(err) if err.is_not_found() => return Ok(false),
        Err(err) => return Err(err),
    };
    let mark = "work/incompat";
    if !root.exists(mark)? {
        return Ok(false);
    }
    root.remove_all(mark)?;
    Ok(true)
}
