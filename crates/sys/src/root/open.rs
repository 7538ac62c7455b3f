//! Opening and resolving.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{DIR_FLAGS, Root, is_root};
use crate::error::{Context, Result, SysError};
use crate::stat::{FileKind, Stat};

impl Root {
    /// Opens the directory `p`; a symlink at the end is followed, inside the root.
    pub fn open_dir(&self, p: impl AsRef<Path>) -> Result<Root> {
        let p = p.as_ref();
        self.resolve_fd(p, DIR_FLAGS, Mode::empty(), p).map(Root::from_fd)
    }

    /// Opens the directory `p`; a symlink at the end is `ENOTDIR` or `ELOOP`.
    pub fn open_dir_nofollow(&self, p: impl AsRef<Path>) -> Result<Root> {
        let p = p.as_ref();
        self.resolve_fd(p, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty(), p).map(Root::from_fd)
    }

    /// Opens the regular file `p` for reading; a symlink at the end is followed, inside the root.
    ///
    /// Nothing but a regular file is opened: never blocks on a FIFO, never wakes a device. Others give `EINVAL`
    /// (`EISDIR` for a directory).
    pub fn open_file(&self, p: impl AsRef<Path>) -> Result<File> {
        self.open_regular(p.as_ref(), OFlags::RDONLY)
    }

    /// As [`Root::open_file`], but a symlink at the end is `ELOOP`.
    pub fn open_file_nofollow(&self, p: impl AsRef<Path>) -> Result<File> {
        self.open_regular(p.as_ref(), OFlags::RDONLY | OFlags::NOFOLLOW)
    }

    /// Opens for reading the file `name` of this directory, which the caller has just seen to be a regular one: three
    /// calls less than [`Root::open_file_nofollow`].
    ///
    /// What took its place meanwhile is not read either (`EINVAL`, `ELOOP`), and a FIFO does not block; but a device
    /// would have been opened. So: only for directories in which nobody can make devices that should not be opened.
    pub fn open_seen_file(&self, name: impl AsRef<Path>) -> Result<File> {
        let p = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = self.at(p, "openat", |dir, name| rustix::fs::openat(dir, name, flags, Mode::empty()))?;
        match Stat::from(rustix::fs::fstat(&fd).on("fstat", p)?).kind() {
            FileKind::File => Ok(File::from(fd)),
            FileKind::Dir => Err(SysError::new("open", p, libc::EISDIR)),
            _ => Err(SysError::new("open", p, libc::EINVAL).with_detail("not a regular file")),
        }
    }

    /// Opens the existing regular file `p` for reading and writing; a symlink at the end is `ELOOP`.
    pub fn open_file_write(&self, p: impl AsRef<Path>) -> Result<File> {
        self.open_regular(p.as_ref(), OFlags::RDWR | OFlags::NOFOLLOW)
    }

    /// Opens `p` as a location only (`O_PATH`), following a symlink at the end inside the root: good for mounting.
    pub fn open_path(&self, p: impl AsRef<Path>) -> Result<OwnedFd> {
        let p = p.as_ref();
        self.resolve_fd(p, OFlags::PATH, Mode::empty(), p)
    }

    /// Opens `p` as a location only (`O_PATH`); a symlink at the end is opened itself.
    pub fn open_path_nofollow(&self, p: impl AsRef<Path>) -> Result<OwnedFd> {
        let p = p.as_ref();
        self.resolve_fd(p, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), p)
    }

    fn open_regular(&self, p: &Path, flags: OFlags) -> Result<File> {
        // The location first: opening a FIFO or a device has effects, holding its O_PATH descriptor has none.
        let fd = self.resolve_fd(p, OFlags::PATH | (flags & OFlags::NOFOLLOW), Mode::empty(), p)?;
        let kind = Stat::from(rustix::fs::fstat(&fd).on("fstat", p)?).kind();
        match kind {
            FileKind::File => {}
            FileKind::Dir => return Err(SysError::new("open", p, libc::EISDIR)),
            FileKind::Symlink => return Err(SysError::new("open", p, libc::ELOOP)),
            _ => {
                return Err(SysError::new("open", p, libc::EINVAL).with_detail("not a regular file"));
            }
        }
        // Reopens the very inode that was looked at; only the kernel's own link is followed here.
        let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = (flags - OFlags::NOFOLLOW) | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::open(again, flags, Mode::empty()).on("open", p)?;
        Ok(File::from(fd))
    }

    /// Creates the file `p` (or truncates it, unless `excl`) for reading and writing. A symlink at the end is never
    /// followed: `EEXIST` with `excl`, else `ELOOP`. `mode` is taken as given, whatever the umask.
    pub fn create_file(&self, p: impl AsRef<Path>, mode: u32, excl: bool) -> Result<File> {
        let p = p.as_ref();
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let mut flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY
            | OFlags::NONBLOCK;
        flags |= if excl { OFlags::EXCL } else { OFlags::TRUNC };
        let fd = self.at(p, "openat", |dir, name| rustix::fs::openat(dir, name, flags, mode))?;
        if crate::process::umask_masks(mode.as_raw_mode()) {
            rustix::fs::fchmod(&fd, mode).on("fchmod", p)?;
        }
        Ok(File::from(fd))
    }

    /// Reads the regular file `p` whole, refusing one that is larger than `limit` bytes with `EFBIG`.
    pub fn read_limited(&self, p: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let p = p.as_ref();
        let file = self.open_file(p)?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).on("read", p)?;
        if bytes.len() as u64 > limit {
            return Err(
                SysError::new("read", p, libc::EFBIG).with_detail(format!("larger than {limit} bytes"))
            );
        }
        Ok(bytes)
    }

    /// `lstat` of `p` (of the root itself for `/`, `.` or an empty path).
    pub fn stat(&self, p: impl AsRef<Path>) -> Result<Stat> {
        let p = p.as_ref();
        if is_root(p) {
            return rustix::fs::fstat(&self.fd).on("fstat", p).map(Stat::from);
        }
        match super::split(p) {
            Ok((None, name)) => {
                rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).on("fstatat", p).map(Stat::from)
            }
            // Also for paths that end in `..`, which the kernel clamps to the root.
            _ => self.fstat(self.open_path_nofollow(p)?, p),
        }
    }

    /// `stat` of what `p` leads to, inside the root.
    pub fn stat_follow(&self, p: impl AsRef<Path>) -> Result<Stat> {
        let p = p.as_ref();
        self.fstat(self.open_path(p)?, p)
    }

    fn fstat(&self, fd: OwnedFd, p: &Path) -> Result<Stat> {
        rustix::fs::fstat(&fd).on("fstat", p).map(Stat::from)
    }

    /// Is there anything at `p` (a dangling symlink counts)? A missing or wrong parent means no.
    pub fn exists(&self, p: impl AsRef<Path>) -> Result<bool> {
        match self.stat(p) {
            Ok(_) => Ok(true),
            Err(err) if err.is_not_found() || err.is_not_dir() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Where `p` leads, relative to the root, with every symlink resolved, the last one too. It must exist.
    ///
    /// A statement about a moment: to act on the result, open it, do not trust it.
    pub fn resolve(&self, p: impl AsRef<Path>) -> Result<PathBuf> {
        let p = p.as_ref();
        let fd = self.open_path(p)?;
        let full = fd_path(&fd, p)?;
        let base = fd_path(&self.fd, p)?;
        full.strip_prefix(&base).map(Path::to_path_buf).map_err(|_| {
            SysError::new("readlink", p, libc::EXDEV).with_detail("moved out of the root meanwhile")
        })
    }
}

/// What the kernel calls the place of `fd` now.
fn fd_path(fd: &OwnedFd, p: &Path) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let target = rustix::fs::readlink(link, Vec::new()).on("readlink", p)?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
}
