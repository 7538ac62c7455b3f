//! Facts about disks and boots, and making writes last.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Result};
use crate::mount::{Mount, MountTree};
use crate::root::Root;

/// Writes everything of the file system that holds `fd` to disk.
pub fn syncfs(fd: impl AsFd) -> Result<()> {
    rustix::fs::syncfs(fd).on("syncfs", "")
}

/// Makes the names in the directory `path` last.
pub fn fsync_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let dir = File::open(path).on("open", path)?;
    rustix::fs::fsync(OwnedFd::from(dir)).on("fsync", path)
}

/// An id that the kernel draws anew at every boot; empty if `/proc` does not tell.
pub fn boot_id() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) => id.trim().to_owned(),
        Err(err) => {
            tracing::warn!(error = %err, "no boot id: every restart will count as a reboot");
            String::new()
        }
    }
}

/// Bytes of the file system that holds `path`: free for ordinary users, and in total.
pub fn disk_free(path: impl AsRef<Path>) -> Result<(u64, u64)> {
    let path = path.as_ref();
    let stat = rustix::fs::statvfs(path).on("statvfs", path)?;
    let unit = stat.f_frsize.max(1);
    Ok((stat.f_bavail.saturating_mul(unit), stat.f_blocks.saturating_mul(unit)))
}

/// Gives `file` blocks for `len` bytes, so that writing them cannot fail for lack of space.
pub fn allocate(file: &File, len: u64) -> Result<()> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len).on("fallocate", "")
}

/// Can overlays with their upper directory below `dir` be mounted here (by this process, on this file system)?
pub fn overlay_supported(dir: impl AsRef<Path>) -> bool {
    match try_overlay(dir.as_ref()) {
        Ok(()) => true,
        Err(err) => {
            tracing::info!(error = %err, dir = %dir.as_ref().display(), "overlay mounts do not work here");
            false
        }
    }
}

fn try_overlay(dir: &Path) -> Result<()> {
    let root = Root::open(dir)?;
    let name = format!(".overlay-check-{}", std::process::id());
    root.remove_all(&name)?;
    let outcome = (|| {
        for sub in ["l1", "l2", "upper", "work"] {
            root.mkdir_all(Path::new(&name).join(sub), 0o700)?;
        }
        let base = dir.join(&name);
        let tree = MountTree::new(&Mount::Overlay {
            lower: vec![base.join("l1"), base.join("l2")],
            upper: Some(base.join("upper")),
            work: Some(base.join("work")),
            volatile: true,
        })?;
        // Removing a lower name needs whiteouts, which some upper file systems cannot hold.
        let merged = tree.root()?;
        merged.create_file("probe", 0o600, true)?;
        merged.unlink("probe")
    })();
    root.remove_all(&name)?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_is_stable_and_the_disk_has_a_size() {
        assert!(!boot_id().is_empty());
        assert_eq!(boot_id(), boot_id());
        let (free, total) = disk_free("/").unwrap();
        assert!(free <= total && total > 0);
        assert!(disk_free("/no/such/dir").unwrap_err().is_not_found());
    }

    #[test]
    fn root_overlay_check_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(overlay_supported(dir.path()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!overlay_supported(dir.path().join("missing")));
    }
}
