//! Where a path of the specification lies in the root file system, and making it exist.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rbuild_sys::{FileKind, Result, Root, SysError};

/// Symlinks followed for one path, as the kernel's own bound.
const LINKS_MAX: usize = 40;

/// Resolves `path` as the step would see it, symlinks followed; what does not exist is taken by name.
///
/// The answer is in words and may be overtaken; acting on it goes through `root` again, which nothing leaves.
pub(crate) fn resolve(root: &Root, path: &Path) -> Result<PathBuf> {
    let mut todo: VecDeque<OsString> = parts(path);
    let mut here = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        match root.stat(&next) {
            Ok(stat) if stat.kind() == FileKind::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(SysError::new("resolve", path, nix::libc::ELOOP));
                }
                let target = root.read_link(&next)?;
                if target.is_absolute() {
                    here = PathBuf::new();
                }
                for part in parts(&target).into_iter().rev() {
                    todo.push_front(part);
                }
            }
            Ok(_) => here = next,
            Err(err) if err.is_not_found() || err.is_not_dir() => here = next,
            Err(err) => return Err(err),
        }
    }
    Ok(here)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

/// Opens the place for a mount at `dest`, making it (a directory, or an empty file) if there is nothing.
pub(super) fn mount_point(root: &Root, dest: &Path, dir: bool) -> Result<OwnedFd> {
    match root.open_path(dest) {
        Err(err) if err.is_not_found() => {}
        other => return other,
    }
    let place = resolve(root, dest)?;
    if dir {
        root.mkdir_all(&place, 0o755)?;
    } else {
        if let Some(parent) = place.parent() {
            root.mkdir_all(parent, 0o755)?;
        }
        match root.create_file(&place, 0o755, true) {
            Ok(_) => {}
            Err(err) if err.is_exists() => {}
            Err(err) => return Err(err),
        }
    }
    root.open_path(&place)
}

/// Opens `/proc`, `/sys` or `/dev` for its mount; a symlink there is refused, for what is mounted must be found there.
pub(super) fn plain_dir(root: &Root, dest: &str) -> Result<OwnedFd> {
    match root.stat(dest) {
        Err(err) if err.is_not_found() => root.mkdir(dest, 0o755)?,
        Err(err) => return Err(err),
        Ok(stat) if !stat.is_dir() => {
            return Err(SysError::new("mount", dest, nix::libc::ENOTDIR)
                .with_detail("must be an ordinary directory in the image"));
        }
        Ok(_) => {}
    }
    root.open_path_nofollow(dest)
}

/// A path as bytes, for reports.
pub(super) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The last name of a path that has one.
pub(crate) fn name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_and_missing_parts_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.mkdir_all("usr/lib", 0o755).unwrap();
        root.symlink("/usr/lib", "lib").unwrap();
        root.symlink("../../run/resolv.conf", "usr/dangling").unwrap();
        root.symlink("loop", "loop").unwrap();
        let place = |path: &str| resolve(&root, Path::new(path));
        assert_eq!(place("/lib/a/b").unwrap(), Path::new("usr/lib/a/b"));
        assert_eq!(place("lib/../x").unwrap(), Path::new("usr/x"));
        assert_eq!(place("/usr/dangling").unwrap(), Path::new("run/resolv.conf"));
        assert_eq!(place("/../..").unwrap(), Path::new(""));
        assert_eq!(place("loop/x").unwrap_err().errno(), nix::libc::ELOOP);
    }

    #[test]
    fn a_mount_point_behind_a_dangling_link_is_made_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.mkdir("etc", 0o755).unwrap();
        root.symlink("../../../run/r.conf", "etc/resolv.conf").unwrap();
        mount_point(&root, Path::new("/etc/resolv.conf"), false).unwrap();
        assert!(root.stat("run/r.conf").unwrap().is_file());
        mount_point(&root, Path::new("/a/b"), true).unwrap();
        assert!(root.stat("a/b").unwrap().is_dir());
        assert_eq!(plain_dir(&root, "etc/resolv.conf").unwrap_err().errno(), nix::libc::ENOTDIR);
        plain_dir(&root, "proc").unwrap();
    }
}
