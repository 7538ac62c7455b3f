//! Paths of a file list: which are legal, and in which order they come.

use std::cmp::Ordering;

use super::shown;
use crate::{Result, SessionError};

/// Longest path that is taken: the kernel's own limit.
const MAX_PATH: usize = 4095;
/// Longest name, as on every file system.
const MAX_NAME: usize = 255;

/// Walk order: bytewise, `/` being the smallest byte, so that a directory's content follows it directly.
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((x, y)) => key(*x).cmp(&key(*y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Relative, in shortest form, never leading up, no NUL, of lengths a file system can hold.
pub fn is_clean_path(path: &[u8]) -> bool {
    let good = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME;
    path.len() <= MAX_PATH && !path.contains(&0) && path.split(|byte| *byte == b'/').all(good)
}

/// Is `path` strictly below the directory `dir`?
pub(crate) fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.len() > dir.len() && path[dir.len()] == b'/' && path.starts_with(dir)
}

/// The directory that holds `path`; `None` for the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash])
}

/// Checks a list as it comes: clean paths, strictly ascending, each below a directory that was listed.
#[derive(Debug, Default)]
pub(crate) struct OrderCheck {
    last: Vec<u8>,
    /// Directories that hold `last`, outermost first, `last` itself included if it is one: (length of path, entry).
    open: Vec<(usize, u32)>,
}

impl OrderCheck {
    /// Takes the next path; gives the entry of its parent (`None`: the root).
    pub(crate) fn next(&mut self, path: &[u8], entry: u32, is_dir: bool) -> Result<Option<u32>> {
        if !is_clean_path(path) {
            return Err(SessionError::violation("not a clean relative path", shown(path)));
        }
        if !self.last.is_empty() && compare_paths(&self.last, path) != Ordering::Less {
            return Err(SessionError::violation("entries out of order or repeated", shown(path)));
        }
        while let Some((len, _)) = self.open.last() {
            if is_below(path, &self.last[..*len]) {
                break;
            }
            self.open.pop();
        }
        let (holder, index) = self.open.last().map_or((0, None), |(len, index)| (*len, Some(*index)));
        if parent(path).map_or(0, <[u8]>::len) != holder {
            return Err(SessionError::violation("the parent is not a directory of the list", shown(path)));
        }
        path.clone_into(&mut self.last);
        if is_dir {
            self.open.push((path.len(), entry));
        }
        Ok(index)
    }

    /// The last path taken.
    pub(crate) fn last(&self) -> &[u8] {
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn separator_sorts_before_everything() {
        let mut paths = ["a.b", "a", "a/x", "a-", "ab", "a/x/y", "a\u{1}"];
        paths.sort_by(|a, b| compare_paths(a.as_bytes(), b.as_bytes()));
        assert_eq!(paths, ["a", "a/x", "a/x/y", "a\u{1}", "a-", "a.b", "ab"]);
    }

    #[test]
    fn unclean_paths_are_refused() {
        let long = "x".repeat(256);
        for bad in ["", "/", "/a", "a/", "a//b", ".", "./a", "a/.", "..", "a/../b", "a\0b", &long] {
            assert!(!is_clean_path(bad.as_bytes()), "{bad:?}");
            assert!(OrderCheck::default().next(bad.as_bytes(), 0, false).is_err(), "{bad:?}");
        }
        for good in ["a", "...", "a/..b", "a b/\\c", "é/\u{7f}"] {
            assert!(is_clean_path(good.as_bytes()), "{good:?}");
        }
    }

    #[test]
    fn order_and_parents_are_checked() {
        let cases: [(&[(&str, bool)], bool); 8] = [
            (&[("a", true), ("a/b", true), ("a/b/c", false), ("a.x", false), ("b", false)], true),
            (&[("b", false), ("a", false)], false),
            (&[("a", false), ("a", false)], false),
            (&[("a", false), ("a/b", false)], false),
            (&[("a/b", false)], false),
            (&[("a", true), ("ab/c", false)], false),
            (&[("a", true), ("a.b", false), ("a/c", false)], false),
            (&[("a", true), ("a/b/c", false)], false),
        ];
        for (list, good) in cases {
            let mut check = OrderCheck::default();
            let result: Result<Vec<_>> = list
                .iter()
                .enumerate()
                .map(|(at, (path, dir))| check.next(path.as_bytes(), at as u32, *dir))
                .collect();
            assert_eq!(result.is_ok(), good, "{list:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_lists_are_sorted_and_closed_under_parents(
            list in prop::collection::vec(("[ab./-]{0,5}", any::<bool>()), 0..12),
        ) {
            let mut check = OrderCheck::default();
            let mut seen: Vec<(String, bool)> = Vec::new();
            for (path, dir) in list {
                if check.next(path.as_bytes(), seen.len() as u32, dir).is_ok() {
                    seen.push((path, dir));
                }
            }
            for (at, (path, _)) in seen.iter().enumerate() {
                prop_assert!(is_clean_path(path.as_bytes()));
                prop_assert!(at == 0 || compare_paths(seen[at - 1].0.as_bytes(), path.as_bytes()) == Ordering::Less);
                if let Some(dir) = parent(path.as_bytes()) {
                    prop_assert!(seen.iter().any(|(known, is_dir)| known.as_bytes() == dir && *is_dir), "{}", path);
                }
            }
        }
    }
}
