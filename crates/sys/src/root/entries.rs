//! Making, naming, listing and removing single entries.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::{DirEntry, Root};
use crate::error::{Context, Result, SysError};
use crate::stat::FileKind;

impl Root {
    /// Makes the directory `p`; `mode` is taken as given, whatever the umask.
    pub fn mkdir(&self, p: impl AsRef<Path>, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.at(p.as_ref(), "mkdirat", |dir, name| {
            rustix::fs::mkdirat(dir, name, mode)?;
            // mkdir drops setuid and setgid bits and applies the umask.
            if crate::process::umask_masks(mode.as_raw_mode()) || mode.as_raw_mode() & 0o6000 != 0 {
                chmod_dir(dir, name, mode)?;
            }
            Ok(())
        })
    }

    /// Makes `p` and its missing parents, following symlinks inside the root, and says which were made (outermost
    /// first, as paths relative to the root with links resolved as far as they were written).
    ///
    /// A dangling symlink on the way is `ENOENT`; a file is `ENOTDIR`.
    pub fn mkdir_all(&self, p: impl AsRef<Path>, mode: u32) -> Result<Vec<PathBuf>> {
        let p = p.as_ref();
        let mut made = Vec::new();
        let mut here = self.try_clone()?;
        let mut walked = PathBuf::new();
        for component in p.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => {
                    // `..` goes up from where the links led, so the kernel must say where that is.
                    walked = self.resolve(&walked)?;
                    walked.pop();
                    here = self.open_dir(&walked)?;
                    continue;
                }
                _ => continue,
            };
            walked.push(name);
            here = match here.open_dir_nofollow(name) {
                Ok(next) => next,
                Err(err) if err.is_not_found() => {
                    match here.mkdir(name, mode) {
                        Ok(()) => made.push(walked.clone()),
                        Err(err) if err.is_exists() => {}
                        Err(err) => return Err(at_path(err, p)),
                    }
                    here.open_dir_nofollow(name).map_err(|err| at_path(err, p))?
                }
                // A link (or a file, which then fails here): let the kernel lead us, inside the whole root.
                Err(_) => {
                    let next = self.open_dir(&walked).map_err(|err| at_path(err, p))?;
                    walked = self.resolve(&walked)?;
                    next
                }
            };
        }
        Ok(made)
    }

    /// Makes a symlink at `p` with the text `target`, which is not looked at.
    pub fn symlink(&self, target: impl AsRef<Path>, p: impl AsRef<Path>) -> Result<()> {
        let target = target.as_ref();
        self.at(p.as_ref(), "symlinkat", |dir, name| rustix::fs::symlinkat(target, dir, name))
    }

    /// Gives the inode at `from` (a symlink is linked itself) the further name `to`.
    pub fn hard_link(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        self.at(to.as_ref(), "linkat", |dir, name| {
            rustix::fs::linkat(&from_dir, &from_name, dir, name, AtFlags::empty())
        })
    }

    /// Gives the inode that is called `name` in the directory `from` (a single name, a symlink itself) the further name
    /// `to` below this root. `EXDEV` across mounts.
    pub fn link_from(&self, from: &Root, name: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let name = name.as_ref();
        if name.components().count() != 1 {
            return Err(SysError::new("linkat", name, Errno::INVAL));
        }
        self.at(to.as_ref(), "linkat", |dir, to| {
            rustix::fs::linkat(from.as_fd(), name, dir, to, AtFlags::empty())
        })
    }

    /// Makes a device node, FIFO, socket or empty file at `p`. `mode` holds the type bits; `dev` is for devices.
    pub fn mknod(&self, p: impl AsRef<Path>, mode: u32, dev: u64) -> Result<()> {
        let kind = FileType::from_raw_mode(mode & libc::S_IFMT);
        let perm = Mode::from_raw_mode(mode & 0o7777);
        let p = p.as_ref();
        self.at(p, "mknodat", |dir, name| rustix::fs::mknodat(dir, name, kind, perm, dev))?;
        if crate::process::umask_masks(perm.as_raw_mode()) {
            self.chmod(p, perm.as_raw_mode())?;
        }
        Ok(())
    }

    /// The text of the symlink `p`.
    pub fn read_link(&self, p: impl AsRef<Path>) -> Result<PathBuf> {
        let target =
            self.at(p.as_ref(), "readlinkat", |dir, name| rustix::fs::readlinkat(dir, name, Vec::new()))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Renames `from` to `to` below `to_root`, replacing what is there as `rename` does.
    pub fn rename(&self, from: impl AsRef<Path>, to_root: &Root, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from.as_ref(), to_root, to.as_ref(), RenameFlags::empty())
    }

    /// As [`Root::rename`], but `EEXIST` if `to` exists.
    pub fn rename_noreplace(
        &self,
        from: impl AsRef<Path>,
        to_root: &Root,
        to: impl AsRef<Path>,
    ) -> Result<()> {
        self.rename_with(from.as_ref(), to_root, to.as_ref(), RenameFlags::NOREPLACE)
    }

    /// Swaps `from` and `to`, which must both exist.
    pub fn rename_exchange(
        &self,
        from: impl AsRef<Path>,
        to_root: &Root,
        to: impl AsRef<Path>,
    ) -> Result<()> {
        self.rename_with(from.as_ref(), to_root, to.as_ref(), RenameFlags::EXCHANGE)
    }

    fn rename_with(&self, from: &Path, to_root: &Root, to: &Path, flags: RenameFlags) -> Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        to_root.at(to, "renameat2", |dir, name| {
            if flags.is_empty() {
                rustix::fs::renameat(&from_dir, &from_name, dir, name)
            } else {
                rustix::fs::renameat_with(&from_dir, &from_name, dir, name, flags)
            }
        })
    }

    /// Removes `p`, which is not a directory.
    pub fn unlink(&self, p: impl AsRef<Path>) -> Result<()> {
        self.at(p.as_ref(), "unlinkat", |dir, name| rustix::fs::unlinkat(dir, name, AtFlags::empty()))
    }

    /// Removes the empty directory `p`.
    pub fn rmdir(&self, p: impl AsRef<Path>) -> Result<()> {
        self.at(p.as_ref(), "unlinkat", |dir, name| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
    }

    /// What is in this directory, without `.` and `..`, in no order.
    pub fn read_dir(&self) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        self.for_each_entry(|entry| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    /// As [`Root::read_dir`] without holding all names at once. Entries that `f` adds or removes may or may not show.
    pub fn for_each_entry(&self, mut f: impl FnMut(DirEntry) -> Result<()>) -> Result<()> {
        let dir = Dir::read_from(&self.fd).on("openat", ".")?;
        for entry in dir {
            let entry = entry.on("getdents64", ".")?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = FileKind::from_rustix(entry.file_type());
            if kind == FileKind::Unknown {
                kind = match self.stat(name) {
                    Ok(stat) => stat.kind(),
                    Err(err) if err.is_not_found() => continue,
                    Err(err) => return Err(err),
                };
            }
            f(DirEntry { name: name.to_os_string(), kind })?;
        }
        Ok(())
    }
}

/// The error as one about the whole path, not about the component where it arose.
fn at_path(mut err: SysError, p: &Path) -> SysError {
    err.path = p.to_path_buf();
    err
}

/// `chmod` of a directory just made by us, by descriptor so that no link is followed.
fn chmod_dir(dir: std::os::fd::BorrowedFd<'_>, name: &OsStr, mode: Mode) -> std::result::Result<(), Errno> {
    let flags = super::DIR_FLAGS | rustix::fs::OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    rustix::fs::fchmod(fd, mode)
}
