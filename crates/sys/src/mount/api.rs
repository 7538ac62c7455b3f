//! The new mount API: `fsopen`, `fsconfig`, `fsmount`, `open_tree`, `move_mount`, `mount_setattr`.
#![allow(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use super::MountTree;
use crate::error::{Context, RawErrno, Result, SysError};

/// The kernel takes at most 255 bytes of text per option; longer paths go by their descriptor's name.
const OPTION_MAX: usize = 255;
/// One line of the mount log is at most this long; what is longer is cut by the kernel.
const LOG_LINE: usize = 1024;

/// Flags of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Refuse writes.
    pub readonly: bool,
    /// Ignore setuid bits.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Refuse to execute.
    pub noexec: bool,
}

impl MountFlags {
    fn attr(self) -> MountAttrFlags {
        let mut attr = MountAttrFlags::empty();
        attr.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.readonly);
        attr.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        attr.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        attr.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        attr
    }
}

/// A file system being configured; errors carry what the kernel wrote to its log.
#[derive(Debug)]
pub struct FsMount {
    fd: OwnedFd,
    kind: &'static str,
}

impl FsMount {
    /// Begins a mount of file system `kind`.
    pub fn open(kind: &'static str) -> Result<FsMount> {
        let fd = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).on("fsopen", kind)?;
        Ok(FsMount { fd, kind })
    }

    /// Sets `key` to `value`.
    pub fn string(&mut self, key: &str, value: impl rustix::path::Arg) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.fd, key, value)
            .map_err(|errno| self.error("fsconfig", key, errno))
    }

    /// Sets the flag `key`.
    pub fn flag(&mut self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.fd, key).map_err(|errno| self.error("fsconfig", key, errno))
    }

    /// Sets `key` to a path of any length.
    fn path(&mut self, key: &str, path: &Path) -> Result<()> {
        if path.as_os_str().len() <= OPTION_MAX && !path.as_os_str().as_bytes().contains(&b'\\') {
            return self.string(key, path);
        }
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).on("open", path)?;
        self.string(key, format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    /// Creates the file system and a detached mount of it.
    pub fn mount(self, flags: MountFlags) -> Result<MountTree> {
        rustix::mount::fsconfig_create(&self.fd).map_err(|errno| self.error("fsconfig", self.kind, errno))?;
        let fd = rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, flags.attr())
            .map_err(|errno| self.error("fsmount", self.kind, errno))?;
        Ok(MountTree { fd })
    }

    fn error(&self, syscall: &'static str, on: &str, errno: Errno) -> SysError {
        let mut detail = String::new();
        let mut line = [0; LOG_LINE];
        // Each read takes one message; `ENODATA` ends them.
        while let Ok(n) = rustix::io::read(&self.fd, &mut line) {
            let text = String::from_utf8_lossy(&line[..n]);
            if !detail.is_empty() {
                detail.push_str("; ");
            }
            detail.push_str(text.trim_start_matches(['e', 'w', 'i']).trim());
        }
        SysError::new(syscall, on, errno).with_detail(detail)
    }
}

/// Mounts an overlay with one `lowerdir+` per layer, so neither their number nor `:` in a path matters.
pub(super) fn overlay(
    lower: &[PathBuf],
    upper: Option<(&PathBuf, &PathBuf)>,
    volatile: bool,
) -> Result<MountTree> {
    let mut fs = FsMount::open("overlay")?;
    fs.string("source", "overlay")?;
    for layer in lower {
        fs.path("lowerdir+", layer).map_err(|err| {
            let detail = format!("layer {} {}", layer.display(), err.detail);
            err.with_detail(detail)
        })?;
    }
    if let Some((upper, work)) = upper {
        fs.path("upperdir", upper)?;
        fs.path("workdir", work)?;
        // The upper directory is read as the layer: nothing in it may depend on hidden marks.
        for (key, value) in FIXED_OPTIONS {
            fs.string(key, *value)?;
        }
        if volatile {
            fs.flag("volatile")?;
        }
    }
    fs.mount(MountFlags::default()).map_err(|mut err| {
        if err.errno() == libc::ENOENT && err.detail.is_empty() {
            err.detail = missing(lower, upper);
        }
        err
    })
}

/// Options that keep the upper directory readable as a plain layer, whatever the kernel's defaults are.
pub(super) const FIXED_OPTIONS: &[(&str, &str)] =
    &[("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")];

/// Which of the paths is not there, as `ENOENT` alone does not say.
fn missing(lower: &[PathBuf], upper: Option<(&PathBuf, &PathBuf)>) -> String {
    let all = lower.iter().chain(upper.into_iter().flat_map(|(u, w)| [u, w]));
    let gone: Vec<String> =
        all.filter(|path| !path.exists()).map(|path| path.display().to_string()).collect();
    if gone.is_empty() { String::new() } else { format!("missing: {}", gone.join(", ")) }
}

pub(super) fn clone_path(source: &Path) -> Result<MountTree> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = rustix::mount::open_tree(CWD, source, flags).on("open_tree", source)?;
    Ok(MountTree { fd })
}

pub(super) fn clone_fd(fd: impl AsFd) -> Result<MountTree> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let fd = rustix::mount::open_tree(fd, "", flags).on("open_tree", "")?;
    Ok(MountTree { fd })
}

pub(super) fn attach(mount: BorrowedFd<'_>, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags).on("move_mount", "")
}

/// Makes every mount of the calling process's mount namespace private, so that nothing mounted here shows elsewhere.
pub fn make_private() -> Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).on("mount", "/")
}

/// `struct mount_attr` of `linux/mount.h`, first version.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets `flags` on the mount; with `recursive` on those below too and without clearing any.
pub(super) fn set_attr(mount: BorrowedFd<'_>, flags: MountFlags, recursive: bool) -> Result<()> {
    let all = MountFlags { readonly: true, nosuid: true, nodev: true, noexec: true }.attr();
    let set = flags.attr();
    let clear = if recursive { MountAttrFlags::empty() } else { all - set };
    let attr = MountAttr {
        attr_set: u64::from(set.bits()),
        attr_clr: u64::from(clear.bits()),
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let mut at = libc::AT_EMPTY_PATH as u32;
    if recursive {
        at |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: the path is a NUL-terminated constant, `attr` lives through the call and its true size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(SysError::new("mount_setattr", "", RawErrno::from(std::io::Error::last_os_error())))
}
