//! Owner, mode, times and extended attributes of what was made.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_sys::{Root, Stat};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::chmod::ModeChange;
use super::error::Result;
use super::owner::Owner;

const NANOS: i64 = 1_000_000_000;
/// The kernel's bound on a value and on a list of names.
const XATTR_MAX: usize = 64 << 10;

/// What of a source is not kept.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    pub(crate) owner: Option<Owner>,
    pub(crate) mode: ModeChange,
    pub(crate) mtime_ns: Option<i64>,
}

impl Changes {
    fn owner(&self, stat: &Stat) -> Owner {
        self.owner.unwrap_or(Owner { uid: stat.uid, gid: stat.gid })
    }

    /// Whether a copy of a file with `stat` is to have just its metadata.
    pub(crate) fn keep(&self, stat: &Stat) -> bool {
        let mode = self.mode.apply(stat.permissions(), false);
        self.owner(stat) == Owner { uid: stat.uid, gid: stat.gid }
            && mode == stat.permissions()
            && self.mtime(stat) == stat.mtime_ns
    }

    /// Time of a copy of something with `stat`.
    pub(crate) fn mtime(&self, stat: &Stat) -> i64 {
        self.mtime_ns.unwrap_or(stat.mtime_ns)
    }

    /// Gives an open file the metadata of `stat`, changed. Owner first: changing it clears setuid and capabilities.
    pub(crate) fn apply_file(&self, src: &File, dst: &File, stat: &Stat) -> Result<()> {
        let owner = self.owner(stat);
        let on = |call, errno: rustix::io::Errno| rbuild_sys::SysError::new(call, "", errno);
        let ids = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
        rustix::fs::fchown(dst, ids.0, ids.1).map_err(|errno| on("fchown", errno))?;
        let mode = self.mode.apply(stat.permissions(), false);
        rustix::fs::fchmod(dst, Mode::from_raw_mode(mode)).map_err(|errno| on("fchmod", errno))?;
        copy_xattrs_file(src, dst);
        let time = timespec(self.mtime(stat));
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(dst, &times).map_err(|errno| on("futimens", errno))?;
        Ok(())
    }

    /// As [`Changes::apply_file`] for anything else, by name below `dst`.
    pub(crate) fn apply_at(&self, src: (&Root, &Path), dst: (&Root, &Path), stat: &Stat) -> Result<()> {
        let owner = self.owner(stat);
        dst.0.chown(dst.1, owner.uid, owner.gid)?;
        if !stat.is_symlink() {
            dst.0.chmod(dst.1, self.mode.apply(stat.permissions(), stat.is_dir()))?;
        }
        copy_xattrs_at(src, dst);
        dst.0.utimes(dst.1, self.mtime(stat))?;
        Ok(())
    }
}

fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(NANOS), tv_nsec: ns.rem_euclid(NANOS) }
}

/// Attributes of overlay file systems mean something to ours; they never pass through.
fn passes(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
}

/// Attributes are kept as far as the file system takes them, as upstream does.
fn copy_xattrs_file(src: &File, dst: &File) {
    let mut names = [0_u8; 1024];
    let names = match rustix::fs::flistxattr(src, &mut names) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) => return,
        Ok(length) => names[..length].to_vec(),
        Err(_) => {
            let mut names = vec![0; XATTR_MAX];
            let length = rustix::fs::flistxattr(src, &mut names).unwrap_or(0);
            names.truncate(length);
            names
        }
    };
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && passes(name)) {
        let name = std::ffi::OsStr::from_bytes(name);
        let mut value = vec![0; XATTR_MAX];
        let copied = rustix::fs::fgetxattr(src, name, &mut value)
            .and_then(|length| rustix::fs::fsetxattr(dst, name, &value[..length], XattrFlags::empty()));
        if let Err(error) = copied {
            tracing::debug!(name = %name.display(), %error, "extended attribute not copied");
        }
    }
}

fn copy_xattrs_at(src: (&Root, &Path), dst: (&Root, &Path)) {
    let Ok(names) = src.0.xattr_list(src.1) else { return };
    for name in names.iter().filter(|name| passes(name.as_bytes())) {
        let value = src.0.xattr_get(src.1, name).ok().flatten();
        let Some(value) = value else { continue };
        if let Err(error) = dst.0.xattr_set(dst.1, name, &value) {
            tracing::debug!(name = %name.display(), %error, "extended attribute not copied");
        }
    }
}
