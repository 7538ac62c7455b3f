//! Overlay by `mount(2)`, for kernels without `lowerdir+` (before 6.8).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::{MountTree, api};
use crate::error::{Context, Result, SysError};

/// All options of `mount(2)` must fit one page.
const OPTIONS_MAX: usize = 4095;

/// Mounts on a private directory, clones the mount from there, and takes the directory away again.
pub(super) fn overlay(
    lower: &[PathBuf],
    upper: Option<(&PathBuf, &PathBuf)>,
    volatile: bool,
) -> Result<MountTree> {
    // Descriptors' names are short and hold no `:` or `,`, whatever the paths are.
    let mut held = Vec::new();
    let lower = lower.iter().map(|path| name(path, &mut held)).collect::<Result<Vec<_>>>()?;
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = upper {
        let upper = name(upper, &mut held)?;
        let work = name(work, &mut held)?;
        options.push_str(&format!(",upperdir={upper},workdir={work}"));
        for (key, value) in api::FIXED_OPTIONS {
            options.push_str(&format!(",{key}={value}"));
        }
        if volatile {
            options.push_str(",volatile");
        }
    }
    if options.len() > OPTIONS_MAX {
        return Err(SysError::new("mount", "overlay", libc::E2BIG)
            .with_detail(format!("{} layers need a kernel with lowerdir+ (6.8)", lower.len())));
    }
    let dir = private_dir()?;
    let tree = mount_and_clone(&dir, &options);
    let removed = std::fs::remove_dir(&dir).on("rmdir", &dir);
    let tree = tree?;
    removed?;
    Ok(tree)
}

fn mount_and_clone(dir: &Path, options: &str) -> Result<MountTree> {
    let options = std::ffi::CString::new(options).map_err(|_| SysError::new("mount", dir, libc::EINVAL))?;
    rustix::mount::mount("overlay", dir, "overlay", MountFlags::empty(), &*options)
        .on("mount", dir)
        .map_err(|err| err.with_detail("overlay; the kernel log may say more"))?;
    let tree = rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE)
        .on("mount", dir)
        .and_then(|()| api::clone_path(dir));
    rustix::mount::unmount(dir, UnmountFlags::DETACH).on("umount2", dir)?;
    tree
}

fn name(path: &Path, held: &mut Vec<OwnedFd>) -> Result<String> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).on("open", path)?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    held.push(fd);
    Ok(name)
}

/// A new directory that only we can enter.
fn private_dir() -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!(".rbuild-mount-{}-{n}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err).on("mkdir", &dir),
        }
    }
}
