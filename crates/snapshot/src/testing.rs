//! Trees and archives for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rbuild_oci::layer::{EntryKind, LayerEntry, LayerReader, LayerWriter};
use rbuild_sys::Root;

use crate::xattr;

#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) path: PathBuf,
    pub(crate) root: Root,
    _guard: tempfile::TempDir,
}

/// An empty directory.
pub(crate) fn dir() -> Dir {
    let guard = tempfile::tempdir().unwrap();
    let path = guard.path().canonicalize().unwrap();
    Dir { root: Root::open(&path).unwrap(), path, _guard: guard }
}

/// What is known about one entry of a tree, as far as layers keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime_s: i64,
    pub(crate) rdev: u64,
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(std::ffi::OsString, Vec<u8>)>,
    /// First path of the same inode.
    pub(crate) first: PathBuf,
}

/// The whole tree.
pub(crate) fn tree(root: &Root) -> BTreeMap<PathBuf, Node> {
    let mut nodes = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        for entry in root.open_dir_nofollow(&path).unwrap().read_dir().unwrap() {
            let child = path.join(&entry.name);
            let dir = root.open_dir_nofollow(&path).unwrap();
            let stat = dir.stat(&entry.name).unwrap();
            let content = if stat.is_file() {
                root.read_limited(&child, 1 << 20).unwrap()
            } else if stat.is_symlink() {
                dir.read_link(&entry.name).unwrap().into_os_string().into_encoded_bytes()
            } else {
                Vec::new()
            };
            if stat.is_dir() {
                pending.push(child.clone());
            }
            let node = Node {
                mode: stat.mode,
                owner: (stat.uid, stat.gid),
                mtime_s: stat.mtime_ns.div_euclid(1_000_000_000),
                rdev: stat.rdev,
                content,
                xattrs: xattr::read(&dir, &entry.name, xattr::goes_into_archive).unwrap(),
                first: PathBuf::from(stat.ino.to_string()),
            };
            nodes.insert(child, node);
        }
    }
    name_inodes(&mut nodes);
    nodes
}

/// Inode numbers differ between copies; the first path in order does not.
fn name_inodes(nodes: &mut BTreeMap<PathBuf, Node>) {
    let mut first: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for (path, node) in nodes.iter_mut() {
        node.first = first.entry(node.first.clone()).or_insert_with(|| path.clone()).clone();
    }
}

/// Paths of the tree.
pub(crate) fn paths(root: &Root) -> Vec<String> {
    tree(root).into_keys().map(|path| path.display().to_string()).collect()
}

pub(crate) fn entry(path: &str, kind: EntryKind) -> LayerEntry {
    LayerEntry::new(path, kind)
}

/// An archive of entries and, for files, their bytes.
pub(crate) fn archive(entries: &[(LayerEntry, &[u8])]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    for (entry, bytes) in entries {
        let mut entry = entry.clone();
        if entry.kind == EntryKind::File {
            entry.size = bytes.len() as u64;
        }
        writer.append(&entry, *bytes).unwrap();
    }
    writer.finish().unwrap()
}

/// A file entry.
pub(crate) fn file<'b>(path: &str, bytes: &'b [u8]) -> (LayerEntry, &'b [u8]) {
    (entry(path, EntryKind::File), bytes)
}

/// An entry without bytes.
pub(crate) fn bare(path: &str, kind: EntryKind) -> (LayerEntry, &'static [u8]) {
    (entry(path, kind), b"")
}

/// A link of either kind.
pub(crate) fn link(path: &str, kind: EntryKind, target: &str) -> (LayerEntry, &'static [u8]) {
    let mut entry = entry(path, kind);
    entry.link = target.into();
    (entry, b"")
}

/// Entries of an archive, one line each: kind letter and path (and `-> link`).
pub(crate) fn listing(bytes: &[u8]) -> Vec<String> {
    let mut reader = LayerReader::new(bytes);
    let mut lines = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let kind = match entry.kind {
            EntryKind::File => '-',
            EntryKind::Directory => 'd',
            EntryKind::Symlink => 'l',
            EntryKind::HardLink => 'h',
            EntryKind::CharDevice => 'c',
            EntryKind::BlockDevice => 'b',
            EntryKind::Fifo => 'p',
        };
        let mut line = format!("{kind} {}", entry.path.display());
        if !entry.link.as_os_str().is_empty() {
            line += &format!(" -> {}", entry.link.display());
        }
        lines.push(line);
    }
    lines
}

/// Writes a file with whole-second times, as if it came out of an archive.
pub(crate) fn put(root: &Root, path: &str, bytes: &[u8], mtime_s: i64) {
    use std::io::Write;
    if let Some(parent) = Path::new(path).parent() {
        root.mkdir_all(parent, 0o755).unwrap();
    }
    root.create_file(path, 0o644, false).unwrap().write_all(bytes).unwrap();
    root.utimes(path, mtime_s * 1_000_000_000).unwrap();
}
