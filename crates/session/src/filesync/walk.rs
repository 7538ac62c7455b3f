//! The list of entries a sender offers.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bytes::Bytes;
use rbuild_patterns::{WalkFilter, Walker};
use rbuild_sys::{DirEntry, FileKind, Root};

use super::Stat;
use super::send::{Owner, SendOptions};
use crate::{Result, mode};

/// A directory to send; with a name it appears as a directory of that name (mode 0755) instead of at the top.
#[derive(Debug)]
pub struct ExportRoot {
    /// One path component, or `None` for the top. Those of one transfer differ.
    pub directory: Option<String>,
    /// The directory.
    pub root: Root,
    /// Files that are sent with it though they are not there; one of the same name that is there is not sent.
    pub extra: Vec<ExtraFile>,
}

/// A file that is in memory only.
#[derive(Debug, Clone)]
pub struct ExtraFile {
    /// One path component.
    pub name: String,
    /// Its content.
    pub data: Bytes,
    /// Permission bits.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// Where the content of a listed file is.
#[derive(Debug, Clone)]
pub(super) struct FileRef {
    pub(super) tree: usize,
    /// Relative to the tree's root.
    pub(super) path: Vec<u8>,
    pub(super) size: u64,
    /// The content, if it is not in the tree.
    pub(super) data: Option<Bytes>,
}

/// Calls `emit` for each entry of `trees` (sorted by name) that passes `filter`, in walk order. Blocking.
///
/// What vanishes while the walk is under way is left out. Sockets are left out.
/// Patterns see names that are not UTF-8 with U+FFFD in place of the odd bytes. Errors: unreadable directories.
pub(super) fn walk(
    trees: &[ExportRoot],
    filter: &WalkFilter,
    options: &SendOptions,
    emit: &mut dyn FnMut(Stat, Option<FileRef>) -> Result<()>,
) -> Result<()> {
    for (tree, ExportRoot { directory: name, root, extra }) in trees.iter().enumerate() {
        let prefix = name.as_deref().map_or_else(Vec::new, |name| format!("{name}/").into_bytes());
        let mut walk =
            Walk { tree, root, extra, prefix, walker: filter.walker(), options, links: HashMap::new(), emit };
        walk.run(name.as_deref())?;
    }
    Ok(())
}

struct Walk<'a> {
    tree: usize,
    root: &'a Root,
    extra: &'a [ExtraFile],
    /// Of every path sent, ending in a slash, or empty.
    prefix: Vec<u8>,
    walker: Walker<'a, Vec<u8>>,
    options: &'a SendOptions,
    /// Files with several names that were sent: path by inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    emit: &'a mut dyn FnMut(Stat, Option<FileRef>) -> Result<()>,
}

/// A directory being walked.
struct Frame {
    dir: Root,
    /// Relative to the tree's root, ending in a slash, or empty.
    path: Vec<u8>,
    entries: std::vec::IntoIter<DirEntry>,
}

impl Walk<'_> {
    fn run(&mut self, name: Option<&str>) -> Result<()> {
        if let Some(name) = name {
            let seen = self.walker.visit(name, true, Vec::new());
            if !seen.emit.is_empty() {
                self.send_made_up(name.as_bytes())?;
            }
            if !seen.descend {
                return Ok(());
            }
        }
        let mut frames = vec![open(self.root.open_dir(".")?, Vec::new(), self.extra)?];
        while let Some(frame) = frames.last_mut() {
            let Some(entry) = frame.entries.next() else {
                frames.pop();
                continue;
            };
            if let Some(below) = self.entry(frame, &entry)? {
                frames.push(below);
            }
        }
        Ok(())
    }

    /// Sends one entry, if it passes; gives the directory to walk next.
    fn entry(&mut self, frame: &Frame, entry: &DirEntry) -> Result<Option<Frame>> {
        if entry.kind == FileKind::Socket {
            return Ok(None);
        }
        let path = join(&frame.path, entry.name.as_bytes());
        let is_dir = entry.kind == FileKind::Dir;
        let full = join(&self.prefix, &path);
        let seen = self.walker.visit(&String::from_utf8_lossy(&full), is_dir, path.clone());
        let passes = seen.emit.last().is_some_and(|last| *last == path);
        if passes {
            for dir in &seen.emit[..seen.emit.len() - 1] {
                self.send_held(dir)?;
            }
            match self.extra.iter().find(|extra| extra.name.as_bytes() == path) {
                Some(extra) => self.send_extra(extra, full)?,
                None => self.send(&frame.dir, &entry.name, &path, full)?,
            }
        }
        if !seen.descend {
            return Ok(None);
        }
        match frame.dir.open_dir_nofollow(&entry.name) {
            Ok(dir) => open(dir, join(&path, b"/"), &[]).map(Some),
            Err(err) if err.is_not_found() || err.is_not_dir() => Ok(None),
            // Only looked into for the sake of what might be below, which nobody asked for by name.
            Err(err) if !passes && err.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// A directory that is sent because something below it is.
    fn send_held(&mut self, path: &[u8]) -> Result<()> {
        if let (Some((_, name)), true) = (self.prefix.split_last(), path.is_empty()) {
            let name = name.to_vec();
            return self.send_made_up(&name);
        }
        let (holder, name) = self.root.parent(OsStr::from_bytes(path))?;
        let full = join(&self.prefix, path);
        self.send(&holder, &name, path, full)
    }

    /// The directory that holds a tree.
    fn send_made_up(&mut self, name: &[u8]) -> Result<()> {
        let stat = Stat {
            path: name.to_vec(),
            mode: mode::DIR | 0o755,
            mod_time: self.options.set_mtime_ns.unwrap_or(self.root.stat("")?.mtime_ns),
            ..Stat::default()
        };
        (self.emit)(stat, None)
    }

    fn send_extra(&mut self, extra: &ExtraFile, path: Vec<u8>) -> Result<()> {
        let size = extra.data.len() as u64;
        let stat = Stat {
            path,
            mode: extra.mode & 0o777,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            mod_time: self.options.set_mtime_ns.unwrap_or(extra.mtime_ns),
            ..Stat::default()
        };
        let (path, data) = (extra.name.clone().into_bytes(), Some(extra.data.clone()));
        (self.emit)(stat, Some(FileRef { tree: self.tree, path, size, data }))
    }

    /// Sends the entry `name` of the open directory `holder`; `path` is below the tree's root, `full` as it is sent.
    fn send(&mut self, holder: &Root, name: &OsStr, path: &[u8], full: Vec<u8>) -> Result<()> {
        let is = match holder.stat(name) {
            Ok(is) => is,
            Err(err) if err.is_not_found() => return Ok(()),
            Err(err) => return Err(err.into()),
        };
        if is.kind() == FileKind::Socket {
            return Ok(());
        }
        let mut stat = self.describe(&is, full);
        if is.is_symlink() {
            stat.linkname = holder.read_link(name)?.into_os_string().into_vec();
        }
        stat.xattrs = xattrs(holder, name)?;
        let mut file = None;
        if is.is_file() {
            let inode = (is.dev, is.ino);
            let known = if is.nlink > 1 { self.links.get(&inode) } else { None };
            if let Some(first) = known {
                stat.linkname.clone_from(first);
                stat.size = 0;
            } else {
                file = Some(FileRef { tree: self.tree, path: path.to_vec(), size: is.size, data: None });
                if is.nlink > 1 {
                    self.links.insert(inode, stat.path.clone());
                }
            }
        }
        (self.emit)(stat, file)
    }

    fn describe(&self, is: &rbuild_sys::Stat, path: Vec<u8>) -> Stat {
        let (uid, gid) = match self.options.owner {
            Owner::Keep => (is.uid, is.gid),
            Owner::Set(uid, gid) => (uid, gid),
        };
        let (devmajor, devminor) = match is.kind() {
            FileKind::BlockDevice | FileKind::CharDevice => is.device_numbers(),
            _ => (0, 0),
        };
        Stat {
            path,
            mode: mode::from_unix(is.mode),
            uid,
            gid,
            size: if is.is_dir() { 0 } else { is.size as i64 },
            mod_time: self.options.set_mtime_ns.unwrap_or(is.mtime_ns),
            devmajor: devmajor.into(),
            devminor: devminor.into(),
            ..Stat::default()
        }
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, name].concat()
}

fn open(dir: Root, path: Vec<u8>, extra: &[ExtraFile]) -> Result<Frame> {
    let mut entries = dir.read_dir()?;
    if !extra.is_empty() {
        entries.retain(|entry| !extra.iter().any(|extra| entry.name == *extra.name.as_str()));
        let made_up = |extra: &ExtraFile| DirEntry { name: extra.name.clone().into(), kind: FileKind::File };
        entries.extend(extra.iter().map(made_up));
    }
    entries.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(Frame { dir, path, entries: entries.into_iter() })
}

/// What a receiver takes of the attributes; most files have none.
fn xattrs(holder: &Root, name: &OsStr) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for listed in holder.xattr_list(name)? {
        let Some(key) = listed.to_str().filter(|key| super::writer::takes_xattr(key)) else { continue };
        if let Some(value) = holder.xattr_get(name, key)? {
            found.insert(key.to_owned(), value);
        }
    }
    Ok(found)
}
