//! The list of entries a sender offers.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

use rbuild_patterns::{WalkFilter, Walker};
use rbuild_sys::{DirEntry, FileKind, Root};

use super::Stat;
use super::send::{Owner, SendOptions};
use crate::{Result, SessionError, mode};

/// A directory to send; with a name it appears as a directory of that name (mode 0755) instead of at the top.
#[derive(Debug)]
pub struct ExportRoot {
    /// One path component, or `None` for the top. Those of one transfer differ.
    pub directory: Option<String>,
    /// The directory.
    pub root: Root,
}

/// Where the content of a listed file is.
#[derive(Debug, Clone)]
pub(super) struct FileRef {
    pub(super) tree: usize,
    /// Relative to the tree's root.
    pub(super) path: String,
    pub(super) size: u64,
}

/// Calls `emit` for each entry of `trees` (sorted by name) that passes `filter`, in walk order. Blocking.
///
/// What vanishes while the walk is under way is left out. Sockets are left out.
/// Errors: [`SessionError::NotUtf8`] for a name that passes the filter and cannot be sent; unreadable directories.
pub(super) fn walk(
    trees: &[ExportRoot],
    filter: &WalkFilter,
    options: &SendOptions,
    emit: &mut dyn FnMut(Stat, Option<FileRef>) -> Result<()>,
) -> Result<()> {
    for (tree, ExportRoot { directory: name, root }) in trees.iter().enumerate() {
        let prefix = name.as_deref().map_or_else(String::new, |name| format!("{name}/"));
        let mut walk =
            Walk { tree, root, prefix, walker: filter.walker(), options, links: HashMap::new(), emit };
        walk.run(name.as_deref())?;
    }
    Ok(())
}

struct Walk<'a> {
    tree: usize,
    root: &'a Root,
    /// Of every path sent, ending in a slash, or empty.
    prefix: String,
    walker: Walker<'a, String>,
    options: &'a SendOptions,
    /// Files with several names that were sent: path by inode.
    links: HashMap<(u64, u64), String>,
    emit: &'a mut dyn FnMut(Stat, Option<FileRef>) -> Result<()>,
}

/// A directory being walked.
struct Frame {
    dir: Root,
    /// Relative to the tree's root, ending in a slash, or empty.
    path: String,
    entries: std::vec::IntoIter<DirEntry>,
}

impl Walk<'_> {
    fn run(&mut self, name: Option<&str>) -> Result<()> {
        if let Some(name) = name {
            let seen = self.walker.visit(name, true, String::new());
            if !seen.emit.is_empty() {
                self.send_made_up(name)?;
            }
            if !seen.descend {
                return Ok(());
            }
        }
        let mut frames = vec![open(self.root.open_dir(".")?, String::new())?];
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
        let shown = entry.name.to_string_lossy();
        let path = format!("{}{shown}", frame.path);
        let is_dir = entry.kind == FileKind::Dir;
        let full = format!("{}{path}", self.prefix);
        let seen = self.walker.visit(&full, is_dir, path.clone());
        let passes = seen.emit.last().is_some_and(|last| *last == path);
        if (passes || seen.descend) && entry.name.to_str().is_none() {
            if !passes {
                return Ok(None);
            }
            return Err(SessionError::NotUtf8 { name: entry.name.clone() });
        }
        if passes {
            let stat = match frame.dir.stat(&entry.name) {
                Ok(stat) => stat,
                Err(err) if err.is_not_found() => return Ok(None),
                Err(err) => return Err(err.into()),
            };
            let held = &seen.emit[..seen.emit.len() - 1];
            for dir in held {
                if dir.is_empty() {
                    let name = self.prefix.trim_end_matches('/').to_owned();
                    self.send_made_up(&name)?;
                    continue;
                }
                let full = format!("{}{dir}", self.prefix);
                self.send(self.root.stat(dir)?, dir, &full)?;
            }
            self.send(stat, &path, &full)?;
        }
        if !seen.descend {
            return Ok(None);
        }
        match frame.dir.open_dir_nofollow(&entry.name) {
            Ok(dir) => open(dir, format!("{path}/")).map(Some),
            Err(err) if err.is_not_found() || err.is_not_dir() => Ok(None),
            // Only looked into for the sake of what might be below, which nobody asked for by name.
            Err(err) if !passes && err.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// The directory that holds a tree.
    fn send_made_up(&mut self, name: &str) -> Result<()> {
        let stat = Stat {
            path: name.to_owned(),
            mode: mode::DIR | 0o755,
            mod_time: self.options.set_mtime_ns.unwrap_or(self.root.stat("")?.mtime_ns),
            ..Stat::default()
        };
        (self.emit)(stat, None)
    }

    fn send(&mut self, is: rbuild_sys::Stat, path: &str, full: &str) -> Result<()> {
        let (uid, gid) = match self.options.owner {
            Owner::Keep => (is.uid, is.gid),
            Owner::Set(uid, gid) => (uid, gid),
        };
        let mut stat = Stat {
            path: full.to_owned(),
            mode: mode::from_unix(is.mode),
            uid,
            gid,
            mod_time: self.options.set_mtime_ns.unwrap_or(is.mtime_ns),
            ..Stat::default()
        };
        if is.kind() == FileKind::Socket {
            return Ok(());
        }
        if !is.is_dir() {
            stat.size = is.size as i64;
        }
        if is.is_symlink() {
            let target = self.root.read_link(path)?.into_os_string();
            stat.linkname = target.into_string().map_err(|name| SessionError::NotUtf8 { name })?;
        }
        if matches!(is.kind(), FileKind::BlockDevice | FileKind::CharDevice) {
            let (major, minor) = is.device_numbers();
            (stat.devmajor, stat.devminor) = (major.into(), minor.into());
        }
        if self.options.xattrs {
            stat.xattrs = xattrs(self.root, path)?;
        }
        let mut file = None;
        if is.is_file() {
            let known = if is.nlink > 1 { self.links.get(&(is.dev, is.ino)) } else { None };
            if let Some(first) = known {
                stat.linkname.clone_from(first);
                stat.size = 0;
            } else {
                file = Some(FileRef { tree: self.tree, path: path.to_owned(), size: is.size });
                if is.nlink > 1 {
                    self.links.insert((is.dev, is.ino), full.to_owned());
                }
            }
        }
        (self.emit)(stat, file)
    }
}

fn open(dir: Root, path: String) -> Result<Frame> {
    let mut entries = dir.read_dir()?;
    entries.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(Frame { dir, path, entries: entries.into_iter() })
}

fn xattrs(root: &Root, path: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for name in root.xattr_list(path)? {
        let Some(key) = name.to_str().filter(|key| super::writer::takes_xattr(key)) else { continue };
        if let Some(value) = root.xattr_get(path, key)? {
            found.insert(key.to_owned(), value);
        }
    }
    Ok(found)
}
