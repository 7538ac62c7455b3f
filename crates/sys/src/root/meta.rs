//! Owners, modes, times and extended attributes; nothing here follows a symlink at the end of a path.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Root, is_root};
use crate::error::{Context, Result, SysError};
use crate::stat::timespec;

/// The kernel's bound on one attribute's value and on the list of names.
const XATTR_MAX: usize = 64 * 1024;
/// First guess, so that most values need one call.
const XATTR_GUESS: usize = 256;

impl Root {
    /// Sets owner and group of `p` itself.
    pub fn chown(&self, p: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        let p = p.as_ref();
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if is_root(p) {
            return rustix::fs::fchown(&self.fd, uid, gid).on("fchown", p);
        }
        self.at(p, "fchownat", |dir, name| {
            rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Sets the permission bits of `p`; `EOPNOTSUPP` if it is a symlink.
    pub fn chmod(&self, p: impl AsRef<Path>, mode: u32) -> Result<()> {
        let p = p.as_ref();
        let mode = Mode::from_raw_mode(mode & 0o7777);
        if is_root(p) {
            return rustix::fs::fchmod(&self.fd, mode).on("fchmod", p);
        }
        let fd = self.resolve_fd(p, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), p)?;
        let stat = rustix::fs::fstat(&fd).on("fstat", p)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() {
            return Err(SysError::new("fchmodat", p, Errno::OPNOTSUPP));
        }
        rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode).on("chmod", p)
    }

    /// Sets both times of `p` itself to `mtime_ns`.
    pub fn utimes(&self, p: impl AsRef<Path>, mtime_ns: i64) -> Result<()> {
        self.utimes_both(p, mtime_ns, mtime_ns)
    }

    /// Sets access and modification time of `p` itself.
    pub fn utimes_both(&self, p: impl AsRef<Path>, atime_ns: i64, mtime_ns: i64) -> Result<()> {
        let p = p.as_ref();
        let times = Timestamps { last_access: timespec(atime_ns), last_modification: timespec(mtime_ns) };
        if is_root(p) {
            return rustix::fs::futimens(&self.fd, &times).on("futimens", p);
        }
        self.at(p, "utimensat", |dir, name| {
            rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Names of the extended attributes of `p` itself, sorted. Empty where the file system has none.
    pub fn xattr_list(&self, p: impl AsRef<Path>) -> Result<Vec<OsString>> {
        let p = p.as_ref();
        if let Ok((None, name)) = super::split(p)
            && !is_root(p)
        {
            let mut few = [0; XATTR_GUESS];
            match super::listed::list_at(self.as_fd(), name, &mut few) {
                Some(Ok(len)) => return Ok(names_in(&few[..len])),
                Some(Err(Errno::OPNOTSUPP)) => return Ok(Vec::new()),
                // More than a guess, or something for which the long way has the better error.
                Some(Err(_)) | None => {}
            }
        }
        let found = self.xattr_at(p, "llistxattr", |path| grow(|buf| rustix::fs::llistxattr(path, buf)));
        match found {
            Err(err) if err.errno() == libc::EOPNOTSUPP => Ok(Vec::new()),
            other => Ok(names_in(&other?)),
        }
    }

    /// Value of the attribute `name` of `p` itself; `None` if it has none of that name.
    pub fn xattr_get(&self, p: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        let name = name.as_ref();
        let value =
            self.xattr_at(p.as_ref(), "lgetxattr", |path| grow(|buf| rustix::fs::lgetxattr(path, name, buf)));
        match value {
            Ok(value) => Ok(Some(value)),
            Err(err) if err.errno() == libc::ENODATA || err.errno() == libc::EOPNOTSUPP => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Sets the attribute `name` of `p` itself.
    pub fn xattr_set(&self, p: impl AsRef<Path>, name: impl AsRef<OsStr>, value: &[u8]) -> Result<()> {
        let name = name.as_ref();
        self.xattr_at(p.as_ref(), "lsetxattr", |path| {
            rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        })
        .map_err(|err| err.with_detail(name.to_string_lossy()))
    }

    /// Removes the attribute `name` of `p` itself; `ENODATA` if there is none.
    pub fn xattr_remove(&self, p: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        self.xattr_at(p.as_ref(), "lremovexattr", |path| rustix::fs::lremovexattr(path, name))
    }

    /// Runs `f` with a path whose last component is `p` itself and whose parent is an open descriptor.
    fn xattr_at<T>(
        &self,
        p: &Path,
        syscall: &'static str,
        f: impl Fn(&OsStr) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        if is_root(p) {
            let path = format!("/proc/self/fd/{}/.", self.fd.as_raw_fd());
            return f(OsStr::new(&path)).on(syscall, p);
        }
        self.at(p, syscall, |dir, name| {
            let mut path = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
            path.push(name);
            f(&path)
        })
    }
}

/// Names as the kernel lists them, each followed by a NUL, in order.
fn names_in(bytes: &[u8]) -> Vec<OsString> {
    let names = bytes.split(|b| *b == 0).filter(|name| !name.is_empty());
    let mut names: Vec<OsString> = names.map(|name| OsStr::from_bytes(name).to_os_string()).collect();
    names.sort();
    names
}

/// Calls `f` with a buffer that is large enough.
fn grow(f: impl Fn(&mut [u8]) -> std::result::Result<usize, Errno>) -> std::result::Result<Vec<u8>, Errno> {
    let mut buf = vec![0; XATTR_GUESS];
    loop {
        match f(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            Err(Errno::RANGE) if buf.len() < XATTR_MAX => buf = vec![0; XATTR_MAX],
            Err(err) => return Err(err),
        }
    }
}
