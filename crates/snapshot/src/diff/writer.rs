//! Changes into archive entries: hard links found again, parents included.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

use rbuild_oci::layer::{EntryKind, LayerEntry, LayerWriter};
use rbuild_sys::{FileKind, Root, Stat};

use super::{Attributes, DiffOptions, DiffStats};
use crate::deep::open_deep;
use crate::error::OnEntry;
use crate::{Result, SnapshotError, xattr};

const NANOS: i64 = 1_000_000_000;

/// Whether an entry goes into the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is new or differs.
    Written,
    /// It is as before. Should another name of the same file be written, this one becomes a link to it.
    Unmodified,
}

type Inode = (u64, u64);

pub(super) struct Writer<'a, W: Write> {
    tar: LayerWriter<W>,
    /// Where in the archive the tree is; empty: at its root.
    below: PathBuf,
    /// The upper tree, to look up parents.
    upper: &'a Root,
    /// Latest time, in nanoseconds.
    latest_ns: i64,
    /// Which attributes are written.
    keep: fn(&OsStr) -> bool,
    /// First name in the archive of files with several names.
    first_names: HashMap<Inode, PathBuf>,
    /// Unmodified names of files with several names.
    waiting: HashMap<Inode, Vec<PathBuf>>,
    /// Directories in the archive.
    dirs: HashSet<PathBuf>,
    stats: DiffStats,
}

impl<'a, W: Write> Writer<'a, W> {
    pub(super) fn new(tar: LayerWriter<W>, below: &Path, upper: &'a Root, options: &DiffOptions) -> Self {
        Self {
            tar,
            below: below.to_path_buf(),
            upper,
            latest_ns: options.source_date_epoch.map_or(i64::MAX, |secs| secs.saturating_mul(NANOS)),
            keep: match options.attributes {
                Attributes::Capabilities => xattr::goes_into_layer,
                Attributes::Users => xattr::goes_into_archive,
            },
            first_names: HashMap::new(),
            waiting: HashMap::new(),
            dirs: HashSet::new(),
            stats: DiffStats::default(),
        }
    }

    /// Says of an attribute whether it is written.
    pub(super) fn keep(&self) -> fn(&OsStr) -> bool {
        self.keep
    }

    pub(super) fn deleted(&mut self, path: &Path) -> Result<()> {
        self.parents(path)?;
        self.stats.entries += 1;
        self.tar.whiteout(&self.below.join(path), 0).map_err(SnapshotError::Write)
    }

    /// Writes the entry `name` of the open directory `dir`; `attrs` are those that go into the layer.
    pub(super) fn entry(
        &mut self,
        dir: &Root,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        attrs: Vec<(OsString, Vec<u8>)>,
        change: Change,
    ) -> Result<()> {
        let Some(mut entry) = self.header(path, stat) else { return Ok(()) };
        let mut more_names = Vec::new();
        if stat.nlink > 1 && !stat.is_dir() {
            let inode = (stat.dev, stat.ino);
            if let Some(first) = self.first_names.get(&inode) {
                entry.kind = EntryKind::HardLink;
                entry.link = self.below.join(first);
                entry.size = 0;
            } else if change == Change::Unmodified {
                self.waiting.entry(inode).or_default().push(path.to_path_buf());
                return Ok(());
            } else {
                self.first_names.insert(inode, path.to_path_buf());
                more_names = self.waiting.remove(&inode).unwrap_or_default();
            }
        } else if change == Change::Unmodified {
            return Ok(());
        }
        if entry.kind == EntryKind::Symlink {
            entry.link = dir.read_link(name).entry(path)?;
        }
        entry.xattrs = text_keys(attrs);
        self.write(dir, name, path, &entry)?;
        for extra in more_names {
            entry.link = self.below.join(path);
            entry.kind = EntryKind::HardLink;
            entry.size = 0;
            entry.path = self.below.join(&extra);
            self.write(dir, name, &extra, &entry)?;
        }
        Ok(())
    }

    fn write(&mut self, dir: &Root, name: &OsStr, path: &Path, entry: &LayerEntry) -> Result<()> {
        if entry.kind == EntryKind::Directory && !self.dirs.insert(path.to_path_buf()) {
            return Ok(());
        }
        self.parents(path)?;
        self.stats.entries += 1;
        if entry.kind == EntryKind::File && entry.size > 0 {
            let file = dir.open_file_nofollow(name).entry(path)?;
            self.stats.content_bytes += entry.size;
            return self.tar.append(entry, file).map_err(|err| match err.kind() {
                std::io::ErrorKind::UnexpectedEof => SnapshotError::data(path, err),
                _ => SnapshotError::Write(err),
            });
        }
        self.tar.start(entry).map_err(SnapshotError::Write)
    }

    /// Writes the directories that lead to `path`, unless they are in the archive already.
    fn parents(&mut self, path: &Path) -> Result<()> {
        let missing = |dir: &&Path| !dir.as_os_str().is_empty() && !self.dirs.contains(*dir);
        let parents: Vec<PathBuf> =
            path.ancestors().skip(1).take_while(missing).map(Path::to_path_buf).collect();
        for parent in parents.iter().rev() {
            let dir = open_deep(self.upper, parent)?;
            let stat = dir.stat(".").entry(parent)?;
            let Some(mut entry) = self.header(parent, &stat) else { continue };
            entry.xattrs = text_keys(xattr::read(&dir, ".".as_ref(), self.keep).entry(parent)?);
            self.dirs.insert(parent.clone());
            self.stats.entries += 1;
            self.tar.start(&entry).map_err(SnapshotError::Write)?;
        }
        Ok(())
    }

    /// Everything but links and attributes; `None` for what a layer cannot hold.
    fn header(&self, path: &Path, stat: &Stat) -> Option<LayerEntry> {
        let kind = match stat.kind() {
            FileKind::File => EntryKind::File,
            FileKind::Dir => EntryKind::Directory,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::CharDevice => EntryKind::CharDevice,
            FileKind::BlockDevice => EntryKind::BlockDevice,
            FileKind::Fifo => EntryKind::Fifo,
            FileKind::Socket | FileKind::Unknown => return None,
        };
        let mut entry = LayerEntry::new(self.below.join(path), kind);
        entry.mode = stat.permissions();
        entry.uid = stat.uid;
        entry.gid = stat.gid;
        entry.mtime_ns = stat.mtime_ns.min(self.latest_ns);
        match kind {
            EntryKind::File => entry.size = stat.size,
            EntryKind::CharDevice | EntryKind::BlockDevice => entry.device = stat.device_numbers(),
            _ => {}
        }
        Some(entry)
    }

    /// What was written, and the archive, still without its end.
    pub(super) fn done(self) -> (DiffStats, LayerWriter<W>) {
        (self.stats, self.tar)
    }
}

/// Attribute names that are no text cannot be written down in an archive, and nobody makes them.
fn text_keys(attrs: Vec<(OsString, Vec<u8>)>) -> std::collections::BTreeMap<String, Vec<u8>> {
    attrs.into_iter().filter_map(|(key, value)| Some((key.into_string().ok()?, value))).collect()
}
