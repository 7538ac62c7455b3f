//! [`Root::remove_all`]: removes a tree of any depth without recursion, without following, without leaving the mount.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{DIR_FLAGS, Root};
use crate::error::{Context, Result, SysError};

/// Directories held open on the way down. Deeper trees close the outermost ones and come back through `..`, checking
/// that they arrive where they came from. Well below the usual limit of 1,024 descriptors a process.
const OPEN_DIRS: usize = 48;

/// One directory on the way down.
struct Level {
    name: OsString,
    id: (u64, u64),
}

impl Root {
    /// Removes `p` and everything below it. A symlink is removed itself; nothing there is fine.
    ///
    /// Mounts below `p` are not entered (`EXDEV`). Memory does not grow with the width of a directory.
    pub fn remove_all(&self, p: impl AsRef<Path>) -> Result<()> {
        let p = p.as_ref();
        let (parent, name) = match self.parent(p) {
            Ok(found) => found,
            Err(err) if err.is_not_found() || err.is_not_dir() => return Ok(()),
            Err(err) => return Err(err),
        };
        match rustix::fs::unlinkat(&parent, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(SysError::new("unlinkat", p, errno)),
        }
        let top = enter(parent.as_fd(), &name).on("openat2", p)?;
        clear(top).map_err(|err| SysError { path: p.to_path_buf(), ..err })?;
        match rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(SysError::new("unlinkat", p, errno)),
        }
    }

    /// Removes everything in this directory, not the directory itself.
    pub fn clear(&self) -> Result<()> {
        let fd = rustix::fs::openat(&self.fd, ".", DIR_FLAGS, Mode::empty()).on("openat", ".")?;
        clear(fd)
    }
}

/// Empties the directory `top`.
fn clear(top: OwnedFd) -> Result<()> {
    let mut levels: Vec<Level> = vec![Level { name: OsString::new(), id: id(&top)? }];
    // The innermost of `levels`, as many as are held open; the last one is where we are.
    let mut open: VecDeque<Dir> = VecDeque::from([Dir::new(top).on("fdopendir", "")?]);
    loop {
        let here = open.back_mut().expect("the innermost directory is always open");
        match next_subdir(here)? {
            Some(name) => {
                let fd = enter(here.fd().on("dirfd", "")?, &name).on("openat2", &name)?;
                levels.push(Level { id: id(&fd)?, name });
                open.push_back(Dir::new(fd).on("fdopendir", "")?);
                if open.len() > OPEN_DIRS {
                    open.pop_front();
                }
            }
            None => {
                let done = levels.pop().expect("one level per directory");
                let dir = open.pop_back().expect("the innermost directory is always open");
                let Some(above) = levels.last() else {
                    return Ok(());
                };
                if open.is_empty() {
                    open.push_back(go_up(&dir, above)?);
                }
                let parent = open.back().expect("just filled").fd().on("dirfd", "")?;
                match rustix::fs::unlinkat(parent, &done.name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(SysError::new("unlinkat", &done.name, errno)),
                }
            }
        }
    }
}

/// Removes what is not a directory until one that is comes up; `None` when the directory is empty.
fn next_subdir(dir: &mut Dir) -> Result<Option<OsString>> {
    let mut removed_any = false;
    loop {
        let Some(entry) = dir.next() else {
            if !removed_any {
                return Ok(None);
            }
            // Some file systems skip names when others are removed meanwhile: look until a pass finds nothing.
            removed_any = false;
            dir.rewind();
            continue;
        };
        let entry = entry.on("getdents64", "")?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            return Ok(Some(name.to_os_string()));
        }
        match rustix::fs::unlinkat(dir.fd().on("dirfd", "")?, name, AtFlags::empty()) {
            Ok(()) => removed_any = true,
            Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Ok(Some(name.to_os_string())),
            Err(errno) => return Err(SysError::new("unlinkat", name, errno)),
        }
    }
}

/// Opens a directory by name: no link, no other mount.
fn enter(dir: impl AsFd, name: &OsStr) -> std::result::Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Reopens the directory above `dir`, which must be the one we came from.
fn go_up(dir: &Dir, above: &Level) -> Result<Dir> {
    let fd =
        rustix::fs::openat(dir.fd().on("dirfd", "")?, "..", DIR_FLAGS, Mode::empty()).on("openat", "..")?;
    if id(&fd)? != above.id {
        return Err(SysError::new("openat", &above.name, libc::EXDEV)
            .with_detail("a directory was moved while its tree was removed"));
    }
    Dir::new(fd).on("fdopendir", "")
}

#[allow(clippy::unnecessary_cast, reason = "field widths differ between architectures")]
fn id(fd: &OwnedFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).on("fstat", "")?;
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}
