//! One entry: what it makes, and its attributes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_oci::layer::{EntryKind, LayerEntry, LayerReader, Whiteout};
use rbuild_sys::{Root, makedev};
use rustix::fs::{FileType, Gid, Mode, Timespec, Timestamps, Uid};

use super::{Run, split};
use crate::error::OnEntry;
use crate::{LayerForm, Result, SnapshotError, xattr};

const NANOS: i64 = 1_000_000_000;
/// Set-uid and set-gid: a change of owner clears them, so they are set again after it.
const SPECIAL_BITS: u32 = 0o6000;

impl Run<'_> {
    pub(super) fn entry<R: Read>(&mut self, entry: &LayerEntry, archive: &mut LayerReader<R>) -> Result<()> {
        // The root directory's own attributes are the snapshot's, as upstream has it.
        let Some((parent, name)) = split(&entry.path) else { return Ok(()) };
        match entry.whiteout().map_err(|_| super::whiteout::invalid(&entry.path))? {
            Some(Whiteout::Remove(path)) => {
                let name = path.file_name().unwrap_or_default();
                return self.gone(parent, name);
            }
            Some(Whiteout::Opaque(_)) => return self.opaque(parent),
            Some(Whiteout::Metadata) => return Ok(()),
            None => {}
        }
        if entry.kind == EntryKind::CharDevice && entry.device == (0, 0) {
            tracing::debug!(path = %entry.path.display(), "passing over device 0/0, overlayfs' own whiteout");
            return Ok(());
        }
        if entry.kind == EntryKind::HardLink {
            self.hard_link(&entry.link, &entry.path)?;
        }
        self.dir(parent)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let dir = self.dir(parent)?;
        match make(dir, name, entry, &mut buffer, archive)? {
            Made::File(file) => file_attrs(dir, name, &file, entry)?,
            Made::New => attrs(dir, name, entry, entry.mode & SPECIAL_BITS != 0)?,
            Made::Found => attrs(dir, name, entry, true)?,
        }
        self.buffer = buffer;
        if entry.kind == EntryKind::Directory {
            self.dir_times.push((entry.path.clone(), entry.mtime_ns));
        }
        self.stats.content_bytes += entry.size;
        if self.form == LayerForm::Full {
            let real = self.real_path(name);
            self.written.insert(real);
        }
        Ok(())
    }
}

/// How an entry came to be there.
enum Made {
    /// A new file, still open.
    File(File),
    /// New, with the mode it should have.
    New,
    /// It was there: a directory that is merged with, or another name of a file.
    Found,
}

/// Makes the thing, in place of whatever is there; two directories become one.
fn make<R: Read>(
    dir: &Root,
    name: &OsStr,
    entry: &LayerEntry,
    buffer: &mut [u8],
    archive: &mut LayerReader<R>,
) -> Result<Made> {
    let path = &entry.path;
    let device = || makedev(entry.device.0, entry.device.1);
    loop {
        let made = match entry.kind {
            EntryKind::HardLink => return Ok(Made::Found),
            EntryKind::File => match dir.create_file(name, entry.mode & !SPECIAL_BITS, true) {
                Ok(mut file) => {
                    fill(&mut file, entry, buffer, archive)?;
                    return Ok(Made::File(file));
                }
                Err(err) => Err(err),
            },
            EntryKind::Directory => dir.mkdir(name, entry.mode),
            EntryKind::Symlink => dir.symlink(&entry.link, name),
            EntryKind::CharDevice => {
                dir.mknod(name, FileType::CharacterDevice.as_raw_mode() | entry.mode, device())
            }
            EntryKind::BlockDevice => {
                dir.mknod(name, FileType::BlockDevice.as_raw_mode() | entry.mode, device())
            }
            EntryKind::Fifo => dir.mknod(name, FileType::Fifo.as_raw_mode() | entry.mode, 0),
        };
        match made {
            Err(err) if err.is_exists() => {}
            other => return other.entry(path).map(|()| Made::New),
        }
        if give_way(dir, name, entry)? {
            return Ok(Made::Found);
        }
    }
}

/// Something is there already. Answers whether the new thing is that very thing (a directory).
fn give_way(dir: &Root, name: &OsStr, entry: &LayerEntry) -> Result<bool> {
    let path = &entry.path;
    let there = dir.stat(name).entry(path)?;
    let directory = entry.kind == EntryKind::Directory;
    if directory && there.is_dir() {
        return Ok(true);
    }
    dir.remove_all(name).entry(path)?;
    if directory && there.is_overlay_whiteout() {
        // What lies below is gone, and stays gone.
        dir.mkdir(name, entry.mode).entry(path)?;
        dir.xattr_set(name, xattr::OPAQUE_TRUSTED, b"y").entry(path)?;
        return Ok(true);
    }
    Ok(false)
}

fn fill<R: Read>(
    file: &mut File,
    entry: &LayerEntry,
    buffer: &mut [u8],
    archive: &mut LayerReader<R>,
) -> Result<()> {
    loop {
        match archive.read(buffer).map_err(SnapshotError::Archive)? {
            0 => return Ok(()),
            n => file.write_all(&buffer[..n]).map_err(|err| SnapshotError::data(&entry.path, err))?,
        }
    }
}

/// Owner, attributes, mode, time of a file that is open.
fn file_attrs(dir: &Root, name: &OsStr, file: &File, entry: &LayerEntry) -> Result<()> {
    let path = &entry.path;
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    rustix::fs::fchown(file, uid, gid).entry(path)?;
    set_xattrs(dir, name, entry)?;
    if entry.mode & SPECIAL_BITS != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).entry(path)?;
    }
    let time =
        Timespec { tv_sec: entry.mtime_ns.div_euclid(NANOS), tv_nsec: entry.mtime_ns.rem_euclid(NANOS) };
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time }).entry(path)
}

/// The same by name, for everything else.
fn attrs(dir: &Root, name: &OsStr, entry: &LayerEntry, set_mode: bool) -> Result<()> {
    let path = &entry.path;
    dir.chown(name, entry.uid, entry.gid).entry(path)?;
    set_xattrs(dir, name, entry)?;
    let symlink = match entry.kind {
        EntryKind::Symlink => true,
        EntryKind::HardLink => dir.stat(name).entry(path)?.is_symlink(),
        _ => false,
    };
    if set_mode && !symlink {
        dir.chmod(name, entry.mode).entry(path)?;
    }
    dir.utimes(name, entry.mtime_ns).entry(path)
}

/// Sets attributes but overlayfs' own. Those that the file system does not take, and `user.*` where the kernel allows
/// none, are passed over.
fn set_xattrs(dir: &Root, name: &OsStr, entry: &LayerEntry) -> Result<()> {
    for (key, value) in &entry.xattrs {
        if xattr::is_overlay(OsStr::from_bytes(key.as_bytes())) {
            continue;
        }
        let path: &Path = &entry.path;
        match dir.xattr_set(name, key, value) {
            Err(err)
                if err.is_unsupported() || (key.starts_with("user.") && err.errno() == NOT_PERMITTED) =>
            {
                tracing::debug!(path = %path.display(), key, "passing over an attribute");
            }
            other => other.entry(path)?,
        }
    }
    Ok(())
}

const NOT_PERMITTED: i32 = rustix::io::Errno::PERM.raw_os_error();
