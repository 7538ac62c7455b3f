use std::collections::HashSet;
use std::path::PathBuf;

use rbuild_sys::Root;

use crate::Result;
use crate::deep::open_deep;
use crate::error::OnEntry;

/// What a tree takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes in blocks that are really allocated; a file with several names counts once.
    pub size_bytes: u64,
    /// Inodes, the root directory included.
    pub inodes: u64,
}

/// Adds up what lies below `root`, the root itself included.
pub fn disk_usage(root: &Root) -> Result<Usage> {
    let mut usage = Usage { size_bytes: root.stat(".")?.blocks * 512, inodes: 1 };
    let mut seen = HashSet::new();
    let mut pending: Vec<PathBuf> = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let dir = open_deep(root, &path)?;
        for entry in dir.read_dir().entry(&path)? {
            let stat = dir.stat(&entry.name).entry(&path)?;
            if stat.is_dir() {
                pending.push(path.join(&entry.name));
            } else if stat.nlink > 1 && !seen.insert((stat.dev, stat.ino)) {
                continue;
            }
            usage.size_bytes += stat.blocks * 512;
            usage.inodes += 1;
        }
    }
    Ok(usage)
}
