//! Mount points that exist only because something was mounted there, and taking them away again.
//!
//! What is missing before a run and an empty file or directory after it was made for a mount; it must not show up in the
//! layer. The step may have replaced any parent by a symlink meanwhile, so removal walks down from the directory that
//! took the changes, component by component, and gives up at the first link (CVE-2024-23652).

use std::path::{Component, Path, PathBuf};

use rbuild_sys::{Result, Root};

use crate::init::place;

/// Places that did not exist, with the directories in which they will be made.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    /// Relative to the root, symlinks resolved; inner ones before their parents.
    pub(crate) paths: Vec<PathBuf>,
    parents: Vec<(Root, i64, i64)>,
}

/// Which of `names` do not exist in `root`; with `recursive` also which of their parents.
pub(crate) fn missing(root: &Root, names: &[String], recursive: bool) -> Missing {
    let mut found = Missing::default();
    for name in names {
        let Ok(mut place) = place::resolve(root, Path::new(name)) else {
            continue;
        };
        while !place.as_os_str().is_empty() && matches!(root.exists(&place), Ok(false)) {
            if !found.paths.contains(&place) {
                found.paths.push(place.clone());
            }
            found.remember_times(root, &place);
            if !recursive || !place.pop() {
                break;
            }
        }
    }
    found
}

impl Missing {
    /// Keeps the times of the directory that `place` will be made in, if it exists.
    fn remember_times(&mut self, root: &Root, place: &Path) {
        let parent = place.parent().unwrap_or(Path::new(""));
        if let Ok(dir) = root.open_dir_nofollow(parent)
            && let Ok(stat) = dir.stat(".")
        {
            self.parents.push((dir, stat.mtime_ns, stat.mtime_ns));
        }
    }

    /// Gives the directories in which stubs were made their times back: the step did not make them.
    pub(crate) fn restore_times(&self) {
        for (dir, atime, mtime) in &self.parents {
            // Only cosmetic: a read-only root has nothing to restore.
            if matches!(dir.stat("."), Ok(stat) if stat.mtime_ns != *mtime) {
                dir.utimes_both(".", *atime, *mtime).ok();
            }
        }
    }
}

/// Removes those of `paths` below `dir` that are empty; `dir` is where the run's changes lie.
pub(crate) fn remove(dir: &Path, paths: &[PathBuf]) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let root = Root::open(dir)?;
    for path in paths {
        match remove_one(&root, path) {
            Ok(()) => {}
            // Replaced, filled, or never made here.
            Err(err) => tracing::trace!(path = %path.display(), error = %err, "mount stub stays"),
        }
    }
    Ok(())
}

fn remove_one(root: &Root, path: &Path) -> Result<()> {
    let mut dir = root.try_clone()?;
    if let Some(parent) = path.parent() {
        for part in parent.components() {
            if let Component::Normal(name) = part {
                dir = dir.open_dir_nofollow(name)?;
            }
        }
    }
    let name = place::name(path);
    let stat = dir.stat(name)?;
    let before = dir.stat(".")?;
    if stat.is_dir() {
        dir.rmdir(name)?;
    } else if stat.is_file() && stat.size == 0 {
        dir.unlink(name)?;
    } else {
        return Ok(());
    }
    dir.utimes(".", before.mtime_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        std::fs::create_dir_all(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/hosts"), "").unwrap();
        let root = Root::open(dir.path().join("root")).unwrap();
        (dir, root)
    }

    #[test]
    fn only_what_was_missing_and_is_empty_goes() {
        let (dir, root) = tree();
        root.create_file("etc/hosts", 0o644, true).unwrap();
        let names = ["/etc/hosts", "/etc/resolv.conf", "/a/b/c", "/d"].map(String::from);
        let found = missing(&root, &names, true);
        let want = ["etc/resolv.conf", "a/b/c", "a/b", "a", "d"].map(PathBuf::from);
        assert_eq!(found.paths, want);
        assert_eq!(missing(&root, &names, false).paths.len(), 3);
        root.create_file("etc/resolv.conf", 0o644, true).unwrap();
        root.mkdir_all("a/b/c", 0o755).unwrap();
        root.mkdir("d", 0o755).unwrap();
        root.create_file("d/kept", 0o644, true).unwrap();
        remove(&dir.path().join("root"), &found.paths).unwrap();
        assert!(!root.exists("a").unwrap() && !root.exists("etc/resolv.conf").unwrap());
        assert!(root.exists("d/kept").unwrap() && root.exists("etc/hosts").unwrap());
    }

    #[test]
    fn a_parent_replaced_by_a_link_leads_nowhere() {
        let (dir, root) = tree();
        let found = missing(&root, &["/etc/hosts".into()], false);
        root.remove_all("etc").unwrap();
        root.symlink(dir.path().join("outside"), "etc").unwrap();
        remove(&dir.path().join("root"), &found.paths).unwrap();
        assert!(dir.path().join("outside/hosts").exists());
    }

    #[test]
    fn directories_keep_their_times() {
        let (dir, root) = tree();
        root.utimes("etc", 1_000_000_000).unwrap();
        let found = missing(&root, &["/etc/hosts".into()], false);
        root.create_file("etc/hosts", 0o644, true).unwrap();
        assert_ne!(root.stat("etc").unwrap().mtime_ns, 1_000_000_000);
        found.restore_times();
        remove(&dir.path().join("root"), &found.paths).unwrap();
        assert_eq!(root.stat("etc").unwrap().mtime_ns, 1_000_000_000);
    }
}
