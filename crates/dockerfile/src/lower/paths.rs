//! Slash-separated paths, lexically.

/// The shortest equal path below `/`: `..` stops there.
pub(super) fn clean_rooted(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The shortest equal path; a relative one stays relative.
pub(super) fn clean(path: &str) -> String {
    if path.starts_with('/') {
        return clean_rooted(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// `path` seen from `dir`. A `/` or `/.` at the end stays, for it says that the path is a directory.
pub(super) fn below(dir: &str, path: &str) -> String {
    let mut result =
        if path.starts_with('/') { clean_rooted(path) } else { clean_rooted(&format!("{dir}/{path}")) };
    if path.ends_with("/.") {
        if !result.ends_with('/') {
            result.push('/');
        }
        result.push('.');
    } else if (path.is_empty() || path.ends_with('/') || path == ".") && !result.ends_with('/') {
        result.push('/');
    }
    result
}

/// The last part of a path, `/` for the root, `.` for nothing.
pub(super) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_below_the_root() {
        assert_eq!(clean_rooted("../a/./b//c/.."), "/a/b");
        assert_eq!(clean("../a/./b/../c/"), "../a/c");
        assert_eq!(below("/w", "."), "/w/");
        assert_eq!(below("/w", "./"), "/w/");
        assert_eq!(below("/w", "a"), "/w/a");
        assert_eq!(below("/w", "/e/."), "/e/.");
        assert_eq!(below("/w", ""), "/w/");
        assert_eq!(below("/", "/"), "/");
        assert_eq!(base("/a/b/"), "b");
        assert_eq!(base("/"), "/");
    }
}
