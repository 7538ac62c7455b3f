//! Paths in words, and resolving a path whose end may be missing.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rbuild_sys::Root;

use super::error::{FileError, Result};

/// As many links as the kernel would follow, and more than any real tree needs.
const MAX_LINKS: usize = 255;
/// The kernel's bounds on a path and on a name.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// The path made absolute and clean in words: no `.`, no `..`, no doubled or trailing slash.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let names = names(path);
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|name| std::iter::once(&b'/').chain(*name)).copied().collect()
}

/// The names of a path, `..` taken back in words.
pub(crate) fn names(path: &[u8]) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

/// The path relative to the root, clean. Empty means the root itself.
///
/// Errors: NUL bytes and names that no file system takes.
pub(crate) fn relative(path: &[u8]) -> Result<PathBuf> {
    let bad = |reason| {
        let path = String::from_utf8_lossy(&path[..path.len().min(80)]).into_owned();
        Err(FileError::BadPath { path, reason })
    };
    if path.contains(&0) {
        return bad("it holds a NUL byte");
    }
    let names = names(path);
    if names.iter().any(|name| name.len() > NAME_MAX) {
        return bad("a name is longer than 255 bytes");
    }
    let joined = names.join(&b'/');
    if joined.len() >= PATH_MAX {
        return bad("it is longer than 4095 bytes");
    }
    Ok(PathBuf::from(OsString::from_vec(joined)))
}

/// Whether a path says that it is a directory: it ends in a slash, or in `.`.
pub(crate) fn means_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || path.ends_with(b"/.") || path == b"." || path.is_empty()
}

/// The path relative to `root` with all symlinks followed inside it, also where the end is missing; a symlink that
/// leads to nothing is followed too. Empty means the root itself.
pub(crate) fn rooted(root: &Root, path: &[u8]) -> Result<PathBuf> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let clean = relative(path)?;
    let mut todo: VecDeque<OsString> = clean.iter().map(OsStr::to_os_string).collect();
    let mut done = PathBuf::new();
    let mut links = 0;
    let mut missing = false;
    while let Some(name) = todo.pop_front() {
        match name.as_bytes() {
            b"." => continue,
            b".." => {
                done.pop();
                missing = false;
                continue;
            }
            _ => {}
        }
        let next = done.join(&name);
        if missing {
            done = next;
            continue;
        }
        match root.stat(&next) {
            Ok(stat) if stat.is_symlink() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(FileError::TooManyLinks { path: shown() });
                }
                let target = root.read_link(&next)?;
                let bytes = target.as_os_str().as_bytes();
                if bytes.starts_with(b"/") {
                    done.clear();
                }
                let parts = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
                for part in parts.rev() {
                    todo.push_front(OsStr::from_bytes(part).to_os_string());
                }
            }
            Ok(_) => done = next,
            Err(error) if error.is_not_found() || error.is_not_dir() => {
                missing = true;
                done = next;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// As [`rooted`], but a symlink at the end of the path is not followed.
pub(crate) fn rooted_parent(root: &Root, path: &[u8]) -> Result<PathBuf> {
    let clean = relative(path)?;
    let Some(name) = clean.file_name() else { return Ok(PathBuf::new()) };
    let parent = clean.parent().unwrap_or_else(|| Path::new(""));
    Ok(rooted(root, parent.as_os_str().as_bytes())?.join(name))
}

/// A path for messages, absolute.
pub(crate) fn shown(path: &Path) -> String {
    format!("/{}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_in_words() {
        for (path, want) in
            [("", "/"), ("/", "/"), ("..", "/"), ("a/../..", "/"), ("a//b/./c/", "/a/b/c"), ("/a/../b", "/b")]
        {
            assert_eq!(clean(path.as_bytes()), want.as_bytes(), "{path}");
        }
    }

    #[test]
    fn what_no_file_system_takes_is_refused() {
        assert!(relative(b"a\0b").is_err());
        assert!(relative(&[b'a'; 256]).is_err());
        assert!(relative("a/".repeat(3000).as_bytes()).is_err());
        assert_eq!(relative(b"/../").unwrap(), Path::new(""));
    }

    #[test]
    fn links_are_followed_inside_the_root_even_into_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.mkdir_all("a/b", 0o755).unwrap();
        for (target, link) in [
            ("/a/b", "abs"),
            ("../../../../a", "a/up"),
            ("/gone/deep", "dangling"),
            ("loop2", "loop1"),
            ("loop1", "loop2"),
            ("/proc/self/root", "magic"),
        ] {
            root.symlink(target, link).unwrap();
        }
        for (path, want) in [
            ("abs/x", "a/b/x"),
            ("a/up/b", "a/b"),
            ("dangling/f", "gone/deep/f"),
            ("magic/x", "proc/self/root/x"),
            ("none/../abs", "a/b"),
            ("/", ""),
        ] {
            assert_eq!(rooted(&root, path.as_bytes()).unwrap(), Path::new(want), "{path}");
        }
        assert!(matches!(rooted(&root, b"loop1/x"), Err(FileError::TooManyLinks { .. })));
        assert_eq!(rooted_parent(&root, b"abs").unwrap(), Path::new("abs"));
        assert_eq!(rooted_parent(&root, b"a/up/abs").unwrap(), Path::new("a/abs"));
    }
}
