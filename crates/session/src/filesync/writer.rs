//! Puts received entries on disk, order by order.
//!
//! Orders come in a sequence that makes sense (parents first, what is replaced removed before; see `disk.rs`). A writer
//! touches nothing outside its root: directories are opened without following links, files are created
//! exclusively. It does not sync: what a crash leaves behind is not named by any index.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{File, FileTimes};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rbuild_digest::{Digest, Hasher};
use rbuild_sys::{Root, SysError};

use super::order::parent;
use super::{RecordHasher, Stat, shown};
use crate::{Result, SessionError, mode};

/// Directories kept open to save path walks.
const OPEN_DIRS: usize = 128;
/// While a transfer runs, directories and files must stay writable for their owner.
const WORK_BITS: u32 = 0o700;
/// Buffer for reading a file again whose size was announced wrongly.
const REHASH_BUFFER: usize = 128 * 1024;

/// One order. `entry` is the place in the list, to name results by.
#[derive(Debug)]
pub(super) enum Job {
    /// Take away everything in the root.
    Clear,
    /// Take away what is at a path, with all below.
    Remove(Vec<u8>),
    /// Make a directory, symlink, device or pipe, or bring the directory that is there up to date.
    Make { entry: u32, stat: Box<Stat> },
    /// A whole regular file.
    File { entry: u32, stat: Box<Stat>, content: Vec<Bytes> },
    /// A regular file whose content comes in pieces.
    Open { entry: u32, stat: Box<Stat> },
    /// A piece of it.
    Data { entry: u32, bytes: Bytes },
    /// Its end; `size` is what has come.
    Close { entry: u32, size: u64 },
    /// A further name for a file.
    Link { path: Vec<u8>, target: Vec<u8> },
    /// Final mode and time of a directory whose content is complete.
    Finish { stat: Box<Stat> },
}

impl Job {
    /// The entry, if this is about the content of a file.
    pub(super) fn file(&self) -> Option<u32> {
        match self {
            Job::File { entry, .. }
            | Job::Open { entry, .. }
            | Job::Data { entry, .. }
            | Job::Close { entry, .. } => Some(*entry),
            _ => None,
        }
    }
}

/// Digests by entry.
pub(super) type Digests = Vec<(u32, Digest)>;

pub(super) struct Writer {
    root: Root,
    hasher: Option<Arc<dyn RecordHasher>>,
    owner: Option<(u32, u32)>,
    dirs: HashMap<Vec<u8>, Root>,
    open: HashMap<u32, OpenFile>,
    digests: Digests,
}

struct OpenFile {
    file: File,
    stat: Box<Stat>,
    hasher: Record,
}

/// The digest of an entry in the making; nothing if nobody wants digests.
struct Record(Option<Hasher>);

impl Record {
    fn update(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.0 {
            hasher.update(bytes);
        }
    }

    fn finish(self) -> Digest {
        self.0.map_or(Digest::from_bytes([0; 32]), Hasher::finish)
    }
}

impl Writer {
    pub(super) fn new(root: Root, hasher: Option<Arc<dyn RecordHasher>>, owner: Option<(u32, u32)>) -> Self {
        Self { root, hasher, owner, dirs: HashMap::new(), open: HashMap::new(), digests: Vec::new() }
    }

    /// Digests of what was written.
    pub(super) fn into_digests(self) -> Digests {
        self.digests
    }

    fn start(&self, stat: &Stat) -> Record {
        Record(self.hasher.as_ref().map(|hasher| hasher.start(stat)))
    }

    /// Carries out one order. Blocking.
    pub(super) fn perform(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Clear => {
                self.dirs.clear();
                self.root.clear()?;
            }
            Job::Remove(path) => self.remove(&path)?,
            Job::Make { entry, stat } => {
                self.digests.push((entry, self.start(&stat).finish()));
                self.make(&stat)?;
            }
            Job::File { entry, stat, content } => {
                let mut file = self.create(&stat)?;
                let mut hasher = self.start(&stat);
                for chunk in &content {
                    hasher.update(chunk);
                    file.write_all(chunk).map_err(|err| wrong(&stat, err))?;
                }
                self.finish_file(&file, &stat)?;
                self.digests.push((entry, hasher.finish()));
            }
            Job::Open { entry, stat } => {
                let (file, hasher) = (self.create(&stat)?, self.start(&stat));
                self.open.insert(entry, OpenFile { file, stat, hasher });
            }
            Job::Data { entry, bytes } => {
                if let Some(open) = self.open.get_mut(&entry) {
                    open.hasher.update(&bytes);
                    open.file.write_all(&bytes).map_err(|err| wrong(&open.stat, err))?;
                }
            }
            Job::Close { entry, size } => {
                if let Some(open) = self.open.remove(&entry) {
                    let digest = self.close(open, size)?;
                    self.digests.push((entry, digest));
                }
            }
            Job::Link { path, target } => self.link(&path, &target)?,
            Job::Finish { stat } => self.finish_dir(&stat)?,
        }
        Ok(())
    }

    fn close(&mut self, open: OpenFile, size: u64) -> Result<Digest> {
        let OpenFile { mut file, mut stat, hasher } = open;
        if size == stat.size as u64 {
            self.finish_file(&file, &stat)?;
            return Ok(hasher.finish());
        }
        // The header is made of the announced size, which was wrong: the record is made again of what is there.
        stat.size = size as i64;
        let mut hasher = self.start(&stat);
        let mut buffer = vec![0; REHASH_BUFFER];
        file.rewind().map_err(|err| wrong(&stat, err))?;
        loop {
            match file.read(&mut buffer).map_err(|err| wrong(&stat, err))? {
                0 => break,
                len => hasher.update(&buffer[..len]),
            };
        }
        self.finish_file(&file, &stat)?;
        Ok(hasher.finish())
    }

    fn remove(&mut self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.holder(path)?;
        match dir.unlink(name) {
            Ok(()) => Ok(()),
            Err(err) if err.is_not_found() => Ok(()),
            Err(_) => {
                dir.remove_all(name)?;
                self.dirs.clear();
                Ok(())
            }
        }
    }

    /// The directory that holds `path`, open, and the last name.
    fn holder<'p>(&mut self, path: &'p [u8]) -> Result<(&Root, &'p Path)> {
        let Some(dir) = parent(path) else { return Ok((&self.root, native(path))) };
        let name = native(&path[dir.len() + 1..]);
        if !self.dirs.contains_key(dir) {
            if self.dirs.len() >= OPEN_DIRS {
                self.dirs.clear();
            }
            let opened = self.root.open_dir_nofollow(native(dir))?;
            self.dirs.insert(dir.to_vec(), opened);
        }
        Ok((&self.dirs[dir], name))
    }

    fn owner_of(&self, stat: &Stat) -> (u32, u32) {
        self.owner.unwrap_or((stat.uid, stat.gid))
    }

    fn create(&mut self, stat: &Stat) -> Result<File> {
        let bits = mode::permissions(stat.mode) & 0o777;
        let (dir, name) = self.holder(&stat.path)?;
        match dir.create_file(name, bits, true) {
            Err(err) if err.is_exists() => {
                self.remove(&stat.path)?;
                let (dir, name) = self.holder(&stat.path)?;
                Ok(dir.create_file(name, bits, true)?)
            }
            other => Ok(other?),
        }
    }

    fn finish_file(&mut self, file: &File, stat: &Stat) -> Result<()> {
        let owner = self.owner_of(stat);
        let is = file.metadata().map_err(|err| wrong(stat, err))?;
        if (is.uid(), is.gid()) != owner {
            std::os::unix::fs::fchown(file, Some(owner.0), Some(owner.1)).map_err(|err| wrong(stat, err))?;
        }
        let bits = mode::permissions(stat.mode);
        if bits & !0o777 != 0 {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(bits);
            file.set_permissions(permissions).map_err(|err| wrong(stat, err))?;
        }
        if !stat.xattrs.is_empty() {
            let (dir, name) = self.holder(&stat.path)?;
            set_xattrs(dir, name, &stat.xattrs)?;
        }
        let times = FileTimes::new().set_modified(system_time(stat.mod_time));
        file.set_times(times).map_err(|err| wrong(stat, err))
    }

    fn make(&mut self, stat: &Stat) -> Result<()> {
        match self.make_new(stat) {
            Err(SessionError::Disk(err)) if err.is_exists() => {}
            other => return other,
        }
        if mode::is_dir(stat.mode) {
            let (dir, name) = self.holder(&stat.path)?;
            if dir.stat(name)?.is_dir() {
                return self.enter_dir(stat);
            }
        }
        self.remove(&stat.path)?;
        self.make_new(stat)
    }

    fn make_new(&mut self, stat: &Stat) -> Result<()> {
        let owner = self.owner_of(stat);
        let unix = mode::to_unix(stat.mode)
            .ok_or_else(|| SessionError::violation("unknown file type", shown(&stat.path)))?;
        let (dir, name) = self.holder(&stat.path)?;
        if mode::is_dir(stat.mode) {
            dir.mkdir(name, (unix & 0o777) | WORK_BITS)?;
            return self.enter_dir(stat);
        }
        if mode::is_symlink(stat.mode) {
            dir.symlink(native(&stat.linkname), name)?;
        } else {
            let device = rbuild_sys::makedev(stat.devmajor as u32, stat.devminor as u32);
            dir.mknod(name, unix, device)?;
        }
        chown(dir, name, owner)?;
        if !mode::is_symlink(stat.mode) && unix & 0o7000 != 0 {
            dir.chmod(name, unix & 0o7777)?;
        }
        set_xattrs(dir, name, &stat.xattrs)?;
        Ok(dir.utimes(name, stat.mod_time)?)
    }

    /// Owner and attributes of a directory that is there; mode and time follow in [`Job::Finish`].
    fn enter_dir(&mut self, stat: &Stat) -> Result<()> {
        let owner = self.owner_of(stat);
        let (dir, name) = self.holder(&stat.path)?;
        chown(dir, name, owner)?;
        let is = dir.stat(name)?;
        if is.permissions() & WORK_BITS != WORK_BITS {
            dir.chmod(name, is.permissions() | WORK_BITS)?;
        }
        for known in dir.xattr_list(name)? {
            if known.to_str().is_some_and(|key| takes_xattr(key) && !stat.xattrs.contains_key(key)) {
                dir.xattr_remove(name, &known)?;
            }
        }
        set_xattrs(dir, name, &stat.xattrs)
    }

    fn finish_dir(&mut self, stat: &Stat) -> Result<()> {
        let (dir, name) = self.holder(&stat.path)?;
        let is = dir.stat(name)?;
        if is.permissions() != mode::permissions(stat.mode) {
            dir.chmod(name, mode::permissions(stat.mode))?;
        }
        Ok(dir.utimes(name, stat.mod_time)?)
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        // The parents of both are directories of the list, made or checked in this transfer; the target's last name is
        // not followed.
        match self.root.hard_link(native(target), native(path)) {
            Err(err) if err.is_exists() => {
                self.remove(path)?;
                Ok(self.root.hard_link(native(target), native(path))?)
            }
            other => Ok(other?),
        }
    }
}

/// Attributes that a peer may set. `trusted.*` and `user.overlay.*` steer overlay mounts, and of `security.*` only file
/// capabilities are data rather than policy; ACLs live under `system.*` and name users of another machine.
pub(super) fn takes_xattr(key: &str) -> bool {
    key == "security.capability" || (key.starts_with("user.") && !key.starts_with("user.overlay."))
}

fn set_xattrs(dir: &Root, name: &Path, xattrs: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for (key, value) in xattrs {
        match dir.xattr_set(name, key, value) {
            // Not on this file system, not on this kind of file, or not for this user: the content is whole without.
            Err(err) if err.is_unsupported() || err.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::debug!(path = %name.display(), key, error = %err, "attribute not set");
            }
            other => other?,
        }
    }
    Ok(())
}

fn chown(dir: &Root, name: &Path, owner: (u32, u32)) -> Result<()> {
    let is = dir.stat(name)?;
    if (is.uid, is.gid) != owner {
        dir.chown(name, owner.0, owner.1)?;
    }
    Ok(())
}

fn wrong(stat: &Stat, err: std::io::Error) -> SessionError {
    let errno = err.raw_os_error().unwrap_or(0);
    SysError::new("write", native(&stat.path), errno).into()
}

/// Bytes as the file system takes them.
fn native(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}
