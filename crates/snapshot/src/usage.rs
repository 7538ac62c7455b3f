use std::collections::HashMap;
use std::path::PathBuf;

use rbuild_sys::{Root, Stat};

use crate::Result;
use crate::deep::open_deep;
use crate::error::OnEntry;

/// Bytes in a block of `st_blocks`, whatever the file system's own blocks are.
const BLOCK: u64 = 512;

/// What a tree takes on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes in blocks that are really allocated, without those in `shared`; a file with several names counts once.
    pub size_bytes: u64,
    /// Inodes, the root directory included.
    pub inodes: u64,
    /// Files that have names elsewhere too, or may get some: inode and bytes, by inode.
    pub shared: Vec<(u64, u64)>,
}

/// Which files of a tree count as shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedFiles {
    /// Those that have names outside of the tree now.
    Found,
    /// All: others may give them names at any time.
    All,
}

impl Usage {
    /// All bytes that the tree names.
    pub fn total_bytes(&self) -> u64 {
        self.size_bytes + self.shared.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Adds an inode that only this tree names.
    fn add(&mut self, stat: &Stat) {
        self.size_bytes += stat.blocks * BLOCK;
        self.inodes += 1;
    }
}

/// Adds up what lies below `root`, the root itself included.
pub fn disk_usage(root: &Root, shared: SharedFiles) -> Result<Usage> {
    let mut usage = Usage::default();
    usage.add(&root.stat(".")?);
    // Inodes with several names: how many of them are still to be seen.
    let mut linked: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut pending: Vec<PathBuf> = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let dir = open_deep(root, &path)?;
        for entry in dir.read_dir().entry(&path)? {
            let stat = dir.stat(&entry.name).entry(&path)?;
            if stat.is_dir() {
                pending.push(path.join(&entry.name));
                usage.add(&stat);
            } else if stat.nlink > 1 || (shared == SharedFiles::All && stat.is_file()) {
                let names = linked.entry(stat.ino).or_insert((stat.nlink, stat.blocks * BLOCK));
                names.0 = names.0.saturating_sub(1);
            } else {
                usage.add(&stat);
            }
        }
    }
    for (ino, (elsewhere, bytes)) in linked {
        usage.inodes += 1;
        if elsewhere == 0 && shared == SharedFiles::Found {
            usage.size_bytes += bytes;
        } else {
            usage.shared.push((ino, bytes));
        }
    }
    usage.shared.sort_unstable();
    Ok(usage)
}
