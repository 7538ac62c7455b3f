//! Which extended attributes travel.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use rbuild_sys::{Root, SysError};

/// Both spellings of the opaque mark: with and without privilege.
pub(crate) const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
/// The one mark that we write.
pub(crate) const OPAQUE_TRUSTED: &str = OPAQUE[0];
/// File capabilities.
pub(crate) const CAPABILITY: &str = "security.capability";

/// Attributes of overlayfs itself. From the outside they would hide, redirect or reveal files: never taken in or out.
pub(crate) fn is_overlay(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// What goes into a layer: capabilities alone, as with upstream. The rest (labels, ACLs as the kernel stores them,
/// trust marks, and what browsers and synchronisers note in `user.*`) says something about the host where a file was,
/// and would make the layer's digest depend on it.
pub(crate) fn goes_into_layer(name: &OsStr) -> bool {
    name.as_bytes() == CAPABILITY.as_bytes()
}

/// Capabilities and the user's own attributes: what an archive of files keeps.
pub(crate) fn goes_into_archive(name: &OsStr) -> bool {
    goes_into_layer(name) || (name.as_bytes().starts_with(b"user.") && !is_overlay(name))
}

/// Attributes of `name` that pass `keep`, sorted.
pub(crate) fn read(
    dir: &Root,
    name: &OsStr,
    keep: impl Fn(&OsStr) -> bool,
) -> Result<Vec<(OsString, Vec<u8>)>, SysError> {
    let mut found = Vec::new();
    for key in dir.xattr_list(name)? {
        if keep(&key)
            && let Some(value) = dir.xattr_get(name, &key)?
        {
            found.push((key, value));
        }
    }
    Ok(found)
}

/// What the attributes of an entry of an overlay's upper directory say.
#[derive(Debug, Default)]
pub(crate) struct Attrs {
    /// Those that are wanted, sorted.
    pub(crate) kept: Vec<(OsString, Vec<u8>)>,
    /// Marked as hiding what lies below.
    pub(crate) opaque: bool,
    /// Name of an overlay feature by which the entry's content lies elsewhere.
    pub(crate) feature: Option<&'static str>,
}

/// Reads the attributes of `name`; of those without a meaning here the ones that pass `keep`.
pub(crate) fn inspect(dir: &Root, name: &OsStr, keep: fn(&OsStr) -> bool) -> Result<Attrs, SysError> {
    let mut attrs = Attrs::default();
    for key in dir.xattr_list(name)? {
        match key.to_str() {
            Some(text) if OPAQUE.contains(&text) => {
                attrs.opaque |= dir.xattr_get(name, &key)?.as_deref() == Some(b"y");
            }
            Some("trusted.overlay.redirect" | "user.overlay.redirect") => {
                attrs.feature = Some("redirect_dir")
            }
            Some("trusted.overlay.metacopy" | "user.overlay.metacopy") => attrs.feature = Some("metacopy"),
            _ if keep(&key) => {
                if let Some(value) = dir.xattr_get(name, &key)? {
                    attrs.kept.push((key, value));
                }
            }
            _ => {}
        }
    }
    Ok(attrs)
}
