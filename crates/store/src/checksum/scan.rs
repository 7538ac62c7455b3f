use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_sys::{FileKind, Root};

use super::tree::{Dir, Found, Kind, NodeId, Tree, lossy};
use super::{ChecksumError, FileHeader, PathDigests};
use crate::error::{Result, StoreError};
use crate::refs::TreeGuard;
use crate::store::cores;

/// Read at once when hashing a file.
const BUFFER: usize = 128 * 1024;
/// Fewer files than this are not worth another thread.
const FILES_PER_THREAD: usize = 64;
/// The kernel's limit for the length of a path in one call, less some room.
const ONE_CALL: usize = 4000;

/// A tree together with where its files are, if they are at hand.
pub(super) struct Filler<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) files: Option<&'a TreeGuard>,
}

impl Filler<'_> {
    /// Content digest of a clean path. `None`: see [`super::answer`].
    pub(super) fn path_digest(&mut self, path: &[u8], follow: bool) -> Result<Option<Digest>> {
        let Some(found) = self.resolve(path, follow)? else { return Ok(None) };
        let id = found.ok_or_else(|| ChecksumError::NotFound { path: shown(path) })?;
        self.node_digest(id)
    }

    /// Follows a path, listing what has to be listed. The outer `None`: there are no files to list.
    pub(super) fn resolve(&mut self, path: &[u8], follow: bool) -> Result<Option<Option<NodeId>>> {
        loop {
            match self.tree.resolve(path, follow)? {
                Found::Node(id) => return Ok(Some(Some(id))),
                Found::Nothing => return Ok(Some(None)),
                Found::Unlisted(dir) => {
                    if !self.list(dir)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Content digest of a node and all below it.
    pub(super) fn node_digest(&mut self, id: NodeId) -> Result<Option<Digest>> {
        if let Some(known) = self.tree.digest(id) {
            return Ok(Some(known));
        }
        if !self.list_below(id)? {
            return Ok(None);
        }
        let missing = self.unhashed_below(id);
        if !self.hash(&missing)? {
            return Ok(None);
        }
        Ok(self.tree.digest(id))
    }

    /// Everything at and below a clean path with its own digest; more than `limit` entries are `None`.
    pub(super) fn entries(&mut self, path: &[u8], follow: bool, limit: usize) -> Result<Option<PathDigests>> {
        let Some(Some(start)) = self.resolve(path, follow)? else { return Ok(None) };
        let mut entries = Vec::new();
        let mut todo = vec![start];
        while let Some(id) = todo.pop() {
            let (Some(children), Some(digest)) = (self.tree.children(id), self.tree.node(id).digest) else {
                return Ok(None);
            };
            todo.extend(children.iter().rev());
            entries.push((self.tree.path(id), digest));
            if entries.len() > limit {
                return Ok(None);
            }
        }
        Ok(Some(entries))
    }

    /// The node's own digest: of a directory that of its header.
    pub(super) fn own_digest(&mut self, id: NodeId) -> Result<Option<Digest>> {
        if self.tree.node(id).digest.is_none() && !self.hash(&[id])? {
            return Ok(None);
        }
        Ok(self.tree.node(id).digest)
    }

    /// Lists a directory and all below it. False: it takes files that are not at hand.
    pub(super) fn list_below(&mut self, id: NodeId) -> Result<bool> {
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            match &self.tree.node(id).kind {
                Kind::Dir(Dir { children: None, .. }) => {
                    if !self.list(id)? {
                        return Ok(false);
                    }
                }
                Kind::Dir(_) => {}
                _ => continue,
            }
            todo.extend_from_slice(self.tree.children(id).unwrap_or_default());
        }
        Ok(true)
    }

    fn list(&mut self, id: NodeId) -> Result<bool> {
        let Some(files) = self.files else { return Ok(false) };
        let dir = open_dir(files.root(), &self.tree.path(id))?;
        let mut entries = Vec::new();
        for entry in dir.read_dir()? {
            let kind = match entry.kind {
                FileKind::Dir => Kind::Dir(Dir::default()),
                FileKind::Symlink => {
                    let target = dir.read_link(&entry.name)?;
                    Kind::Link(target.as_os_str().as_bytes().into())
                }
                // A layer read where it lies: what it removed from layers below is not there.
                FileKind::CharDevice if dir.stat(&entry.name)?.is_overlay_whiteout() => continue,
                _ => Kind::File,
            };
            entries.push((entry.name.as_bytes().into(), kind));
        }
        self.tree.set_children(id, entries);
        Ok(true)
    }

    fn unhashed_below(&self, id: NodeId) -> Vec<NodeId> {
        let mut missing = Vec::new();
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            let node = self.tree.node(id);
            if node.digest.is_none() {
                missing.push(id);
            }
            if !matches!(&node.kind, Kind::Dir(Dir { contents: Some(_), .. })) {
                todo.extend_from_slice(self.tree.children(id).unwrap_or_default());
            }
        }
        missing
    }

    /// Hashes these nodes themselves, on all cores. False: it takes files that are not at hand.
    pub(super) fn hash(&mut self, nodes: &[NodeId]) -> Result<bool> {
        if nodes.is_empty() {
            return Ok(true);
        }
        let Some(files) = self.files else { return Ok(false) };
        let (tree, root) = (&*self.tree, files.root());
        let threads = cores().min(nodes.len().div_ceil(FILES_PER_THREAD)).max(1);
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(nodes.len()));
        let failed = Mutex::new(None);
        let work = || {
            let mut buffer = vec![0; BUFFER];
            let mut mine = Vec::new();
            while let Some(&id) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                match hash_one(root, &tree.path(id), &mut buffer) {
                    Ok(digest) => mine.push((id, digest)),
                    Err(error) => {
                        next.store(nodes.len(), Ordering::Relaxed);
                        failed.lock().get_or_insert(error);
                    }
                }
            }
            done.lock().append(&mut mine);
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        for (id, digest) in done.into_inner() {
            self.tree.node_mut(id).digest = Some(digest);
        }
        Ok(true)
    }
}

/// Digest of one file: header and bytes.
fn hash_one(root: &Root, path: &[u8], buffer: &mut [u8]) -> Result<Digest> {
    let names = relative(path);
    if path.len() <= ONE_CALL {
        return hash_at(root, names, buffer, path);
    }
    let (parent, name) = split(path);
    hash_at(&open_dir(root, parent)?, Path::new(OsStr::from_bytes(name)), buffer, path)
}

fn hash_at(dir: &Root, name: &Path, buffer: &mut [u8], shown: &[u8]) -> Result<Digest> {
    let stat = dir.stat(name)?;
    let mut header = FileHeader {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        ..FileHeader::default()
    };
    if stat.is_symlink() {
        header.link = dir.read_link(name)?.into_os_string().as_bytes().to_vec();
    }
    for attribute in dir.xattr_list(name)? {
        if let Some(value) = dir.xattr_get(name, &attribute)? {
            header.xattrs.push((attribute.as_bytes().to_vec(), value));
        }
    }
    let mut hash = header.hasher();
    if stat.is_file() && stat.size > 0 {
        let mut file = dir.open_file_nofollow(name)?;
        loop {
            match file.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&buffer[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", Path::new(&lossy(shown)), error)),
            }
        }
    }
    Ok(hash.finish())
}

/// Opens a directory of the tree, however long its path is; no links are followed.
fn open_dir(root: &Root, path: &[u8]) -> Result<Root> {
    if path.len() <= ONE_CALL {
        return Ok(root.open_dir_nofollow(relative(path))?);
    }
    let mut dir = root.try_clone()?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        dir = dir.open_dir_nofollow(OsStr::from_bytes(name))?;
    }
    Ok(dir)
}

fn relative(path: &[u8]) -> &Path {
    match path.strip_prefix(b"/").unwrap_or(path) {
        b"" => Path::new("."),
        path => Path::new(OsStr::from_bytes(path)),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    (&path[..at], path.get(at + 1..).unwrap_or_default())
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { lossy(path) }
}
