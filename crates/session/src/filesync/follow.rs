//! Where the symlinks on the way to a path lead, so that all of it can be included.

use std::collections::BTreeSet;

use rbuild_patterns::{glob_match, has_wildcard};
use rbuild_sys::Root;

use crate::Result;

/// The paths that must be included for `paths` to be usable: each symlink on the way and what it leads to, inside
/// `root`. `None` if that is everything. Blocking.
///
/// A name with wildcards stands for the entries it matches. What is missing is kept as it is: it will match nothing.
pub(super) fn follow_links(root: &Root, paths: &[String]) -> Result<Option<Vec<String>>> {
    let mut resolved = BTreeSet::new();
    let mut queue: Vec<String> = paths.iter().map(|path| clean(path)).collect();
    while let Some(path) = queue.pop() {
        if path.is_empty() {
            return Ok(None);
        }
        follow_one(root, &path, &mut resolved, &mut queue)?;
    }
    let mut kept: Vec<String> = Vec::new();
    for path in resolved {
        if !kept.last().is_some_and(|last| super::order::is_below(path.as_bytes(), last.as_bytes())) {
            kept.push(path);
        }
    }
    Ok(Some(kept))
}

fn follow_one(
    root: &Root,
    path: &str,
    resolved: &mut BTreeSet<String>,
    queue: &mut Vec<String>,
) -> Result<()> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        let (here, rest) = path.split_at(end);
        let targets = links_at(root, here)?;
        if targets.is_empty() && !rest.is_empty() {
            continue;
        }
        if resolved.insert(here.to_owned()) {
            queue.extend(targets.iter().map(|target| clean(&format!("{target}{rest}"))));
        }
        return Ok(());
    }
    Ok(())
}

/// The targets, relative to the root, of the symlink at `path` or of those that its last name matches.
fn links_at(root: &Root, path: &str) -> Result<Vec<String>> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if !has_wildcard(name) {
        return Ok(link_at(root, path)?.into_iter().collect());
    }
    let holder = parent(path).unwrap_or("");
    let entries = match root.open_dir(holder).and_then(|dir| dir.read_dir()) {
        Ok(entries) => entries,
        Err(err) if err.is_not_found() || err.is_not_dir() => return Ok(Vec::new()),
        Err(err) => return Err(err.into()),
    };
    let mut targets = Vec::new();
    for entry in entries {
        let Some(text) = entry.name.to_str() else { continue };
        // A malformed pattern matches nothing here; the filter itself reports it.
        if glob_match(name, text).unwrap_or(false) {
            let found = if holder.is_empty() { text.to_owned() } else { format!("{holder}/{text}") };
            targets.extend(link_at(root, &found)?);
        }
    }
    targets.sort();
    Ok(targets)
}

fn link_at(root: &Root, path: &str) -> Result<Option<String>> {
    match root.stat(path) {
        Ok(stat) if stat.is_symlink() => {}
        Ok(_) => return Ok(None),
        Err(err) if err.is_not_found() || err.is_not_dir() => return Ok(None),
        Err(err) => return Err(err.into()),
    }
    let target = root.read_link(path)?;
    // Patterns are text: a target that is not cannot be named by one, so it leads nowhere here.
    let Some(text) = target.to_str() else { return Ok(None) };
    let full = match parent(path) {
        Some(dir) if !text.starts_with('/') => format!("{dir}/{text}"),
        _ => text.to_owned(),
    };
    Ok(Some(clean(&full)))
}

/// The directory that holds `path`; `None` for the root.
fn parent(path: &str) -> Option<&str> {
    path.rfind('/').map(|slash| &path[..slash])
}

/// In shortest form, relative to the root, never above it; empty for the root itself.
fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn follow(root: &Root, paths: &[&str]) -> Option<Vec<String>> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        follow_links(root, &paths).unwrap()
    }

    #[test]
    fn links_are_followed_step_by_step_and_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("real/sub")).unwrap();
        std::fs::write(at("real/sub/file"), "x").unwrap();
        symlink("real", at("link")).unwrap();
        symlink("/real/sub/file", at("abs")).unwrap();
        symlink("../../../real", at("up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink(".", at("all")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let cases: [(&[&str], Option<&[&str]>); 9] = [
            (&["real/sub/file"], Some(&["real/sub/file"])),
            (&["link/sub/file"], Some(&["link", "real/sub/file"])),
            (&["/link/sub/../sub"], Some(&["link", "real/sub"])),
            (&["abs"], Some(&["abs", "real/sub/file"])),
            (&["up/sub"], Some(&["real/sub", "up"])),
            (&["loop/x"], Some(&["loop"])),
            (&["all"], None),
            (&["l*k/sub"], Some(&["l*k", "real/sub"])),
            (&["nothing/here", "real", "real/sub"], Some(&["nothing/here", "real"])),
        ];
        for (paths, expected) in cases {
            let expected =
                expected.map(|list| list.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
            assert_eq!(follow(&root, paths), expected, "{paths:?}");
        }
    }
}
