use percent_encoding::percent_decode_str;

use super::GitUrlError;

/// Checks a ref's name by git's own rules, so that it names one thing, can't be an option and is no pattern.
///
/// For names from users and from servers alike. Empty is the default branch.
pub fn check_git_ref(name: &str) -> Result<(), GitUrlError> {
    let refuse = |reason| Err(GitUrlError::Ref { name: name.escape_default().to_string(), reason });
    if name.starts_with('-') {
        return refuse("it begins with `-`");
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return refuse("it has control characters");
    }
    if name.contains([' ', '~', '^', ':', '?', '*', '[', '\\']) {
        return refuse("git allows none of ` ~^:?*[\\` in a ref");
    }
    if name.contains("..") || name.contains("@{") {
        return refuse("git allows neither `..` nor `@{` in a ref");
    }
    Ok(())
}

/// A subdirectory as the shortest path from the repository's root; empty is the root.
pub(super) fn clean_subdir(subdir: &str) -> Result<String, GitUrlError> {
    let refuse = |reason| Err(GitUrlError::Subdir { subdir: subdir.escape_default().to_string(), reason });
    if subdir.bytes().any(|b| b.is_ascii_control()) {
        return refuse("it has control characters");
    }
    let parts = || subdir.split('/').filter(|part| !part.is_empty() && *part != ".");
    if parts().any(|part| part == "..") {
        return refuse("it has `..`");
    }
    Ok(parts().collect::<Vec<_>>().join("/"))
}

/// `ref` and `ref:subdir`.
pub(super) fn split_fragment(fragment: &str) -> (&str, &str) {
    fragment.split_once(':').unwrap_or((fragment, ""))
}

/// Escapes resolved; `None` if one of them is none, or the result is no text.
pub(super) fn decoded(text: &str) -> Option<String> {
    let digits = |after: &str| after.as_bytes().get(..2).is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit));
    let valid = text.split('%').skip(1).all(digits);
    let text = percent_decode_str(text).decode_utf8().ok().filter(|_| valid)?;
    Some(text.into_owned())
}
