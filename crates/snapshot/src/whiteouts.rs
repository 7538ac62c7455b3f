//! Overlay layers that are to lie over other layers than those they were made over.
//!
//! The kernel shows a whiteout, as a name that leads to nothing, in a directory that no layer below has too; and an
//! opaque mark hides files that the layer never removed. So a layer names what it removed ([`name_removed`]), and
//! directories with whiteouts get empty ones to lie over ([`make_bare`]).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rbuild_sys::{FileKind, Root};

use crate::deep::open_deep;
use crate::error::OnEntry;
use crate::{Result, SnapshotId, xattr};

/// Type bits of a character device.
const CHAR_DEVICE: u32 = rustix::fs::FileType::CharacterDevice.as_raw_mode();
/// Mode of directories that only lie below others, which have the mode that is seen.
const BARE_MODE: u32 = 0o755;

/// Replaces opaque marks in `upper`, the upper directory of an overlay, by whiteouts of what they hide.
///
/// `below`: opens a view of the layers below; called only when there is a mark. Times of directories stay.
pub fn name_removed(upper: &Root, below: impl FnOnce() -> Result<Root>) -> Result<()> {
    let mut opaque = Vec::new();
    walk(upper, |path, dir| {
        if dir.xattr_get(".", xattr::OPAQUE_TRUSTED)?.is_some() {
            opaque.push(path.to_path_buf());
        }
        Ok(())
    })?;
    if opaque.is_empty() {
        return Ok(());
    }
    let below = below()?;
    for path in opaque {
        name_removed_in(upper, &below, path)?;
    }
    Ok(())
}

/// The same for one marked directory and those in it that lie over others as soon as the mark is gone.
fn name_removed_in(upper: &Root, below: &Root, top: PathBuf) -> Result<()> {
    let mut pending = vec![top];
    while let Some(path) = pending.pop() {
        let dir = open_deep(upper, &path)?;
        let under = match open_deep(below, &path) {
            Ok(under) => under,
            // Nothing is hidden; the mark may stay.
            Err(_) => continue,
        };
        let mtime_ns = dir.stat(".").entry(&path)?.mtime_ns;
        for entry in under.read_dir().entry(&path)? {
            let child = path.join(&entry.name);
            match dir.mknod(&entry.name, CHAR_DEVICE, 0) {
                Err(err) if err.is_exists() => {}
                other => {
                    other.entry(&child)?;
                    continue;
                }
            }
            if entry.kind == FileKind::Dir && dir.stat(&entry.name).entry(&child)?.is_dir() {
                pending.push(child);
            }
        }
        if dir.xattr_get(".", xattr::OPAQUE_TRUSTED).entry(&path)?.is_some() {
            dir.xattr_remove(".", xattr::OPAQUE_TRUSTED).entry(&path)?;
        }
        dir.utimes(".", mtime_ns).entry(&path)?;
    }
    Ok(())
}

/// Makes `name` in `home`: the directories of `fs` that hold whiteouts, empty, or a plain file if none does.
pub(crate) fn make_bare(home: &Root, name: &str, fs: &Root) -> Result<()> {
    let mut holders = Vec::new();
    walk(fs, |path, dir| {
        for entry in dir.read_dir()? {
            if entry.kind == FileKind::CharDevice && dir.stat(&entry.name)?.is_overlay_whiteout() {
                holders.push(path.to_path_buf());
                break;
            }
        }
        Ok(())
    })?;
    let making = format!("{name}-{}", SnapshotId::random());
    if holders.is_empty() {
        home.create_file(&making, 0o600, true)?;
    } else {
        home.mkdir(&making, BARE_MODE)?;
        let top = home.open_dir_nofollow(&making)?;
        for path in &holders {
            let mut at = top.try_clone()?;
            for step in path.iter() {
                at = enter(&at, step).entry(path)?;
            }
        }
    }
    match home.rename_noreplace(&making, home, name) {
        // Another one was faster; both found the same.
        Err(err) if err.is_exists() => Ok(home.remove_all(&making)?),
        other => Ok(other?),
    }
}

fn enter(dir: &Root, name: &OsStr) -> rbuild_sys::Result<Root> {
    match dir.mkdir(name, BARE_MODE) {
        Err(err) if !err.is_exists() => Err(err),
        _ => dir.open_dir_nofollow(name),
    }
}

/// Calls `visit` with every directory below `root`, the root included.
fn walk(root: &Root, mut visit: impl FnMut(&Path, &Root) -> rbuild_sys::Result<()>) -> Result<()> {
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let dir = open_deep(root, &path)?;
        visit(&path, &dir).entry(&path)?;
        dir.for_each_entry(|entry| {
            if entry.kind == FileKind::Dir {
                pending.push(path.join(&entry.name));
            }
            Ok(())
        })
        .entry(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rbuild_sys::{Mount, MountTree};

    use super::*;
    use crate::testing::{Dir, dir, paths, put};

    fn shown(layers: &[&Dir]) -> Vec<String> {
        let lower = layers.iter().map(|layer| layer.path.clone()).collect();
        let tree = MountTree::new(&Mount::Overlay { lower, upper: None, work: None, volatile: false });
        paths(&tree.unwrap().root().unwrap())
    }

    #[test]
    fn root_an_opaque_directory_hides_no_more_than_was_removed() {
        let (below, upper, other) = (dir(), dir(), dir());
        for path in ["d/gone", "d/both", "d/sub/gone", "d/sub/both", "d/type/x", "e/x"] {
            put(&below.root, path, b"below", 1);
        }
        for path in ["d/both", "d/sub/both", "d/type", "d/new/x"] {
            put(&upper.root, path, b"upper", 1);
        }
        put(&other.root, "d/kept", b"other", 1);
        put(&other.root, "d/sub/kept", b"other", 1);
        upper.root.xattr_set("d", xattr::OPAQUE_TRUSTED, b"y").unwrap();
        upper.root.utimes("d", 7).unwrap();
        let before = shown(&[&upper, &below]);
        name_removed(&upper.root, || Ok(below.root.try_clone()?)).unwrap();
        assert_eq!(shown(&[&upper, &below]), before, "at home nothing changes");
        assert_eq!(upper.root.stat("d").unwrap().mtime_ns, 7);
        let elsewhere = shown(&[&upper, &other]);
        assert!(elsewhere.iter().any(|path| path == "d/kept"), "{elsewhere:?}");
        assert!(elsewhere.iter().any(|path| path == "d/sub/kept"), "{elsewhere:?}");
    }

    #[test]
    fn root_without_a_mark_nothing_is_looked_at_below() {
        let upper = dir();
        put(&upper.root, "d/x", b"1", 1);
        name_removed(&upper.root, || panic!("there is no mark")).unwrap();
    }

    #[test]
    fn root_whiteouts_in_directories_of_their_own_are_not_seen() {
        let (home, fs, other) = (dir(), dir(), dir());
        put(&fs.root, "d/e/here", b"1", 1);
        fs.root.mknod("d/e/gone", CHAR_DEVICE, 0).unwrap();
        put(&other.root, "z", b"1", 1);
        make_bare(&home.root, "bare", &fs.root).unwrap();
        let lower = vec![fs.path.clone(), other.path.clone(), home.path.join("bare")];
        let tree = MountTree::new(&Mount::Overlay { lower, upper: None, work: None, volatile: false });
        assert_eq!(paths(&tree.unwrap().root().unwrap()), ["d", "d/e", "d/e/here", "z"]);
        make_bare(&home.root, "none", &other.root).unwrap();
        assert!(
            home.root.stat("none").unwrap().is_file(),
            "where there is nothing to hide nothing is mounted"
        );
        make_bare(&home.root, "none", &other.root).unwrap();
    }
}
