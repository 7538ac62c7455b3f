//! What fuzz targets call: a function takes any bytes and panics if a claim about the crate does not hold.
//! Compiled for tests, which replay the kept inputs, and for `tests/fuzz` only.

#[cfg(test)]
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;

use rbuild_oci::{ImageRef, Platform};

use crate::git::{GitPlace, GitUrl, check_git_ref};

/// Names that users write: images, platforms, git repositories.
///
/// Claims: what is understood is understood again when it is written out, long or short; nothing that a git
/// program could take for an option, a helper or a way out of the repository gets through.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(image) = ImageRef::parse(&text) {
        assert_eq!(ImageRef::parse(&image.to_string()).as_ref(), Ok(&image), "{text:?}");
        assert_eq!(ImageRef::parse(&image.familiar()).as_ref(), Ok(&image), "{text:?}");
    }
    if let Ok(platform) = Platform::parse(&text) {
        // The short form has no version and no features of the system.
        let short = |p: &Platform| (p.os.clone(), p.architecture.clone(), p.variant.clone());
        let again = Platform::parse(&platform.to_string()).map(|again| short(&again.normalize()));
        assert_eq!(again.as_ref(), Ok(&short(&platform.normalize())), "{text:?}: {platform}");
    }
    if let Ok(place) = GitPlace::parse(&text) {
        no_git_part_is_dangerous(&[&place.remote, &place.git_ref], &place.subdir, &place.git_ref);
    }
    let Ok(Some(url)) = GitUrl::parse(&text) else { return };
    let parts = [url.remote(), &url.place(), &url.git_ref, &url.host];
    no_git_part_is_dangerous(&parts, &url.subdir, &url.git_ref);
    assert!(!url.redacted().is_empty());
}

/// `arguments` may stand on a command line; the subdirectory is only ever looked up below a root.
fn no_git_part_is_dangerous(arguments: &[&str], subdir: &str, git_ref: &str) {
    for part in arguments {
        assert!(!part.starts_with('-') && !part.bytes().any(|byte| byte.is_ascii_control()), "{part:?}");
        assert!(!part.starts_with("ext::"), "{part:?}");
    }
    let inside = subdir.split('/').all(|part| part != "..") && !subdir.starts_with('/');
    assert!(inside && !subdir.bytes().any(|byte| byte.is_ascii_control()), "{subdir:?}");
    assert!(check_git_ref(git_ref).is_ok(), "{git_ref:?}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs_of_names_hold() {
        super::replay::corpus("names").iter().for_each(|input| super::names(input));
    }
}
