//! Wildcards in source paths: Go's `filepath.Match`, name by name, never following a symlink among the matched names.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rbuild_sys::{FileKind, Root};

use super::error::{FileError, Result};
use super::paths::{names, rooted};

/// How many paths a pattern may match; beyond that it is a mistake or an attack.
const MAX_MATCHES: usize = 1 << 20;

/// Whether a path has `*`, `?` or `[` that is not escaped.
pub(crate) fn has_wildcard(path: &str) -> bool {
    rbuild_patterns::has_wildcard(path)
}

/// The paths below `root` that `pattern` matches, relative to the root and sorted. Names before the first wildcard are
/// resolved with symlinks; those after are matched against what is in each directory.
pub(crate) fn expand(root: &Root, pattern: &str) -> Result<Vec<PathBuf>> {
    let parts = names(pattern.as_bytes());
    let texts: Vec<String> = parts.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    let plain = texts.iter().take_while(|part| !has_wildcard(part)).count();
    let prefix = texts[..plain].join("/");
    if plain == texts.len() {
        return Ok(vec![PathBuf::from(unescape(&prefix))]);
    }
    let mut found = vec![rooted(root, prefix.as_bytes())?];
    for (position, part) in texts[plain..].iter().enumerate() {
        let last = plain + position + 1 == texts.len();
        let mut next = Vec::new();
        for directory in found {
            matching(root, &directory, part, last, &mut next)?;
        }
        if next.len() > MAX_MATCHES {
            let reason = format!("it matches more than {MAX_MATCHES} paths");
            return Err(FileError::Pattern { pattern: pattern.to_owned(), reason });
        }
        found = next;
    }
    Ok(found)
}

fn matching(
    root: &Root,
    directory: &PathBuf,
    part: &str,
    last: bool,
    found: &mut Vec<PathBuf>,
) -> Result<()> {
    let bad = |error: rbuild_patterns::PatternError| FileError::Pattern {
        pattern: part.to_owned(),
        reason: error.to_string(),
    };
    // A bad pattern is an error even where there is nothing to match.
    rbuild_patterns::glob_match(part, "").map_err(bad)?;
    let entries = match root.open_dir_nofollow(directory).and_then(|dir| dir.read_dir()) {
        Ok(entries) => entries,
        Err(error) if error.is_not_found() || error.is_not_dir() || error.errno() == 40 => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<OsString> = Vec::new();
    for entry in entries {
        if !last && entry.kind != FileKind::Dir {
            continue;
        }
        if rbuild_patterns::glob_match(part, &entry.name.to_string_lossy()).map_err(bad)? {
            names.push(entry.name);
        }
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    found.extend(names.into_iter().map(|name| directory.join(name)));
    Ok(())
}

/// Without the backslashes that escape.
fn unescape(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}
