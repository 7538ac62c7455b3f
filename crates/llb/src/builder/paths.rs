//! Slash-separated paths by the rules of Go's `path` package: lexical, no file system.

/// Shortest equal path: no `.`, no `..` that could be resolved, no doubled or trailing slash; empty is `.`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Joins the non-empty parts and cleans; nothing joined is empty.
pub(crate) fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { String::new() } else { clean(&parts.join("/")) }
}

/// `path` made absolute below `dir`. With `keep_slash` a slash or `/.` at the end stays, for it says that
/// the path is a directory.
pub(crate) fn absolute(dir: &str, path: &str, keep_slash: bool) -> String {
    let mut result = clean(path);
    if !result.starts_with('/') {
        result = join(&["/", dir, &result]);
    }
    if keep_slash {
        if path.ends_with('/') && !result.ends_with('/') {
            result.push('/');
        } else if path.ends_with("/.") {
            if result != "/" {
                result.push('/');
            }
            result.push('.');
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_is_lexical() {
        let cases = [
            ("", "."),
            ("/", "/"),
            ("a//b/./c/", "a/b/c"),
            ("/a/../../b", "/b"),
            ("../../a", "../../a"),
            ("a/..", "."),
            ("a/../..", ".."),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn destinations_keep_what_says_directory() {
        assert_eq!(absolute("/work", "x/", true), "/work/x/");
        assert_eq!(absolute("/work", ".", true), "/work");
        assert_eq!(absolute("/work", "./", true), "/work/");
        assert_eq!(absolute("/", "/.", true), "/.");
        assert_eq!(absolute("/", "/a/.", true), "/a/.");
        assert_eq!(absolute("/work", "x/", false), "/work/x");
    }
}
