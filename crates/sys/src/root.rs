//! [`Root`]: a directory below which every path is resolved, and nothing else can be reached.
//!
//! A path given to a method may be absolute or relative, may hold `..` and symlinks of any kind: the kernel resolves it
//! with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`, so `/` and `..` stop at the root and links land inside. A
//! method that names a thing (create, remove, stat, chown…) resolves the *parent* that way and then acts on the last
//! component by name with the `*at` call, never following a link there. There is no check before use, so there is no race.
//!
//! Limits: a path longer than `PATH_MAX` is `ENAMETOOLONG`; deeper trees are walked with one `Root` per directory.
//! Errors: [`SysError`](crate::SysError) with the path as it was given.

mod entries;
mod listed;
mod meta;
mod open;
mod remove;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Result, SysError};
use crate::stat::FileKind;

/// `RESOLVE_IN_ROOT` answers `EAGAIN` when something was renamed or mounted while it resolved a `..`; it may just be
/// asked again. The number only bounds what a hostile writer can cost us.
const RESOLVE_RETRIES: usize = 256;

/// A directory held open; see the module for how paths below it are resolved.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, one component.
    pub name: OsString,
    /// What it is (asked with `lstat` if the file system does not tell).
    pub kind: FileKind,
}

impl Root {
    /// Opens the directory `path`, resolved as the process sees it (so: only paths of our own).
    pub fn open(path: impl AsRef<Path>) -> Result<Root> {
        let path = path.as_ref();
        let fd = rustix::fs::open(path, DIR_FLAGS, Mode::empty()).on("open", path)?;
        Ok(Root { fd })
    }

    /// Takes a directory that is already open (readable, not only `O_PATH`, if it is to be listed or synced).
    pub fn from_fd(fd: OwnedFd) -> Root {
        Root { fd }
    }

    /// A second handle on the same directory.
    pub fn try_clone(&self) -> Result<Root> {
        let fd = self.fd.try_clone().on("fcntl", "")?;
        Ok(Root { fd })
    }

    /// The directory's descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Gives up the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// `/proc/self/fd/N`: a name that leads to exactly this directory, for calls that want a path (mount sources).
    ///
    /// Valid in this process, as long as `self` lives.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Resolves the parents of `p` inside the root: the directory that holds it, and its last component.
    ///
    /// Errors: `EINVAL` if `p` has no last name (`/`, `.`, or it ends in `..`).
    pub fn parent(&self, p: impl AsRef<Path>) -> Result<(Root, OsString)> {
        let p = p.as_ref();
        let (dir, name) = split(p)?;
        let root = match dir {
            None => self.try_clone()?,
            Some(dir) => Root::from_fd(self.resolve_fd(dir, DIR_FLAGS, Mode::empty(), p)?),
        };
        Ok((root, name.to_os_string()))
    }

    /// Runs `f` on the directory that holds `p` and the last component of `p`, without a clone for plain names.
    fn at<T>(
        &self,
        p: &Path,
        syscall: &'static str,
        f: impl Fn(BorrowedFd<'_>, &OsStr) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        let (dir, name) = split(p)?;
        match dir {
            None => f(self.fd.as_fd(), name),
            Some(dir) => {
                let fd = self.resolve_fd(dir, DIR_FLAGS, Mode::empty(), p)?;
                f(fd.as_fd(), name)
            }
        }
        .on(syscall, p)
    }

    /// `openat2` inside the root, asked again when the tree moved meanwhile.
    fn resolve_fd(&self, p: &Path, flags: OFlags, mode: Mode, shown: &Path) -> Result<OwnedFd> {
        let p = if p.as_os_str().is_empty() { Path::new(".") } else { p };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RESOLVE_RETRIES {
            match rustix::fs::openat2(&self.fd, p, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other.on("openat2", shown),
            }
        }
        Err(SysError::new("openat2", shown, Errno::AGAIN)
            .with_detail("the tree kept changing while the path was resolved"))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Root {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// How directories are opened: readable, so that they can be listed, synced and have their attributes read.
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Splits into parent (`None` if it is the root itself) and last name, in words: slashes at the end and `.` components
/// there do not count; a `..` there has no name.
fn split(p: &Path) -> Result<(Option<&Path>, &OsStr)> {
    let bytes = trim_end(p.as_os_str().as_bytes());
    let (dir, name) = match bytes.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (&bytes[..0], bytes),
    };
    if name.is_empty() || name == b".." {
        return Err(SysError::new("openat2", p, libc::EINVAL).with_detail("the path does not end in a name"));
    }
    let dir = trim_end(dir);
    let parent = (!dir.is_empty()).then(|| Path::new(OsStr::from_bytes(dir)));
    Ok((parent, OsStr::from_bytes(name)))
}

/// Without trailing slashes and `.` components; empty if that is all there is.
fn trim_end(mut bytes: &[u8]) -> &[u8] {
    loop {
        bytes = match bytes {
            [rest @ .., b'/'] => rest,
            [rest @ .., b'/', b'.'] => rest,
            b"." => return b"",
            _ => return bytes,
        }
    }
}

/// Does `p` mean the root itself, in words?
fn is_root(p: &Path) -> bool {
    trim_end(p.as_os_str().as_bytes()).is_empty()
}
