use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::LayerError;
use super::error::shown;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file, followed by its bytes.
    File,
    /// A directory.
    Directory,
    /// A symlink to `link`, verbatim.
    Symlink,
    /// Another name for the earlier entry `link`.
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEntry {
    /// Relative to the root, without `.`, `..`, doubled or trailing slashes; empty for the root itself.
    pub path: PathBuf,
    /// What it makes.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid, sticky (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data; 0 unless a file.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Symlinks: the target, verbatim. Hard links: the target's path, cleaned like `path`. Else empty.
    pub link: PathBuf,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes by name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Prefix of the base name of a whiteout.
pub const WHITEOUT_PREFIX: &str = ".wh.";
/// Base name of the mark that hides everything below its directory in lower layers.
pub const OPAQUE_NAME: &str = ".wh..wh..opq";

/// What an entry with a whiteout name does to the layers below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whiteout {
    /// Removes this path.
    Remove(PathBuf),
    /// Hides all that is in this directory in lower layers.
    Opaque(PathBuf),
    /// A leftover of aufs (`.wh..wh.plnk`, …) without meaning: skip it.
    Metadata,
}

impl LayerEntry {
    /// An entry with mode 0644 (0755 for directories, 0777 for symlinks), owner root, time 0.
    pub fn new(path: impl Into<PathBuf>, kind: EntryKind) -> Self {
        let mode = match kind {
            EntryKind::Directory => 0o755,
            EntryKind::Symlink => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            mtime_ns: 0,
            link: PathBuf::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
        }
    }

    /// What the entry does to lower layers, if its name is a whiteout's. Only layers have whiteouts: in other
    /// archives such names are ordinary.
    ///
    /// Errors: a whiteout of nothing, `.` or `..`.
    pub fn whiteout(&self) -> Result<Option<Whiteout>, LayerError> {
        let Some(name) = self.path.file_name() else { return Ok(None) };
        let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX.as_bytes()) else { return Ok(None) };
        let parent = self.path.parent().unwrap_or_else(|| Path::new(""));
        if name == OPAQUE_NAME {
            return Ok(Some(Whiteout::Opaque(parent.to_owned())));
        }
        if hidden.starts_with(WHITEOUT_PREFIX.as_bytes()) {
            return Ok(Some(Whiteout::Metadata));
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::entry(self.path.as_os_str().as_bytes(), "whiteout without a name"));
        }
        Ok(Some(Whiteout::Remove(parent.join(OsStr::from_bytes(hidden)))))
    }
}

/// A name from an archive as a path relative to the root. `of`: the entry it belongs to, for the error. `stop`: `..` of
/// the root is the root.
pub(super) fn clean_path(name: &[u8], of: &[u8], stop: bool) -> Result<PathBuf, LayerError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() && !stop {
                    return Err(LayerError::Escape { path: shown(of), target: shown(name) });
                }
            }
            _ if part.contains(&0) => return Err(LayerError::entry(of, "name with a NUL byte")),
            part => parts.push(part),
        }
    }
    Ok(PathBuf::from(OsString::from_vec(parts.join(&b'/'))))
}
