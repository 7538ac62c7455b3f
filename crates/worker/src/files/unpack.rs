//! Unpacks archives as ADD does: tar, plain or compressed, into a directory that acts as their root.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_oci::layer::{EntryKind, LayerEntry, LayerError, LayerReader};
use rbuild_sys::{Root, SysError, makedev};
use tokio_util::sync::CancellationToken;

use super::copy::CopyRequest;
use super::error::{FileError, Result};
use super::make::{io as io_error, make_dirs};
use super::paths::{rooted, shown};

const PARENT_MODE: u32 = 0o755;
/// Type bits of `st_mode`.
const CHAR_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;
/// How much larger than itself an archive may be unpacked, whatever the limit: text packs to a hundredth at best.
const MAX_RATIO: u64 = 200;
/// Names cost inodes even where they have no bytes.
const MAX_ENTRIES: u64 = 10_000_000;
/// Zeros behind an archive's end: tapes had records of a few megabytes at most.
const MAX_TAIL: u64 = 64 << 20;
/// What the kernel says of a hard link to a directory; the same number on all machines.
const EPERM: i32 = 1;
/// What it says of symlinks that lead in a circle, likewise.
const ELOOP: i32 = 40;
/// Bytes between two looks at whether the build is cancelled.
const PIECE: usize = 256 << 10;

type Archive = LayerReader<Box<dyn Read + Send>>;

/// Unpacks `source` if it is an archive; says whether it was.
pub(crate) fn unpack(from: &Root, source: &Path, to: &Root, request: &CopyRequest<'_>) -> Result<bool> {
    let at = rooted(from, source.as_os_str().as_bytes())?;
    let packed = match from.stat(&at) {
        Ok(stat) if stat.is_file() => stat.size,
        // Said better by the copy that follows.
        _ => return Ok(false),
    };
    if !is_archive(from.open_file_nofollow(&at)?) {
        return Ok(false);
    }
    let dest = rooted(to, request.dest.as_bytes())?;
    let owner = request.changes.owner;
    if !dest.as_os_str().is_empty() {
        make_dirs(to, &dest, PARENT_MODE, owner.unwrap_or_default(), request.changes.mtime_ns)?;
    }
    let root = to.open_dir_nofollow(&dest)?;
    let name = shown(source);
    let bad = |reason: String| FileError::Archive { path: name.clone(), reason };
    let mut archive = open(from.open_file_nofollow(&at)?).map_err(&bad)?;
    let mut times: Vec<(PathBuf, i64)> = Vec::new();
    let mut budget = Budget::new(packed, request.max_unpacked);
    while let Some(entry) = archive.next_entry().map_err(|error| bad(error.to_string()))? {
        if request.cancel.is_cancelled() {
            return Err(FileError::Cancelled);
        }
        budget.spend(&entry).map_err(&bad)?;
        extract(&root, &entry, &mut archive, request).map_err(|error| match error {
            FileError::Sys(error) if !error.is_no_space() => bad(refusal(&entry, &error)),
            other => other,
        })?;
        if entry.kind == EntryKind::Directory && !entry.path.as_os_str().is_empty() {
            let time = time(&entry);
            times.push((entry.path, time));
        }
    }
    // To the very end: a cut or damaged stream is an error even where the archive in it was whole.
    let tail = pump(&mut archive.into_inner().take(MAX_TAIL + 1), &mut io::sink(), request.cancel);
    match tail {
        Ok(tail) if tail > MAX_TAIL => return Err(bad(format!("more than {MAX_TAIL} bytes follow its end"))),
        Ok(_) => {}
        Err(PumpError::Cancelled) => return Err(FileError::Cancelled),
        Err(PumpError::Read(error) | PumpError::Write(error)) => return Err(bad(error.to_string())),
    }
    for (path, mtime_ns) in times.iter().rev() {
        match root.utimes(path, request.changes.mtime_ns.unwrap_or(*mtime_ns)) {
            // Replaced by a later entry.
            Err(error) if error.is_not_found() || error.is_not_dir() => {}
            other => other?,
        }
    }
    Ok(true)
}

/// What an archive may still bring: a few kilobytes can unpack to terabytes.
struct Budget {
    limit: u64,
    bytes: u64,
    entries: u64,
}

impl Budget {
    /// Archives that are large themselves may be as much larger unpacked as archives of files are.
    fn new(packed: u64, max_unpacked: u64) -> Self {
        Self { limit: max_unpacked.max(packed.saturating_mul(MAX_RATIO)), bytes: 0, entries: 0 }
    }

    /// Sizes are known before a byte is written.
    fn spend(&mut self, entry: &LayerEntry) -> std::result::Result<(), String> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limit {
            return Err(format!(
                "unpacked it has more than {} bytes, the daemon's limit for an archive of its size \
                 (`max-unpacked-size` in its configuration)",
                self.limit
            ));
        }
        if self.entries > MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} entries"));
        }
        Ok(())
    }
}

/// Why bytes did not get across.
enum PumpError {
    Read(io::Error),
    Write(io::Error),
    Cancelled,
}

/// Copies to the end, unless the build is cancelled meanwhile.
fn pump(
    from: &mut impl Read,
    to: &mut impl Write,
    cancel: &CancellationToken,
) -> std::result::Result<u64, PumpError> {
    let mut piece = vec![0; PIECE];
    let mut copied = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(PumpError::Cancelled);
        }
        match from.read(&mut piece) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                to.write_all(&piece[..read]).map_err(PumpError::Write)?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PumpError::Read(error)),
        }
    }
}

fn open(file: File) -> std::result::Result<Archive, String> {
    let reader = rbuild_oci::decompress(Box::new(file)).map_err(|error| error.to_string())?;
    Ok(LayerReader::new(reader).any_tar())
}

/// An archive is what begins with a header, if only with one of an entry that cannot be.
fn is_archive(file: File) -> bool {
    let Ok(mut archive) = open(file) else { return false };
    matches!(archive.next_entry(), Ok(Some(_)) | Err(LayerError::Entry { .. } | LayerError::Escape { .. }))
}

fn extract(root: &Root, entry: &LayerEntry, data: &mut Archive, request: &CopyRequest<'_>) -> Result<()> {
    let path = entry.path.as_path();
    // As upstream: the directory that is unpacked into stays what it is.
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
        && !root.exists(parent)?
    {
        root.mkdir_all(parent, PARENT_MODE)?;
    }
    match root.stat(path) {
        Ok(stat) if stat.is_dir() && entry.kind == EntryKind::Directory => return own(root, entry, request),
        Ok(_) => root.remove_all(path)?,
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let device = makedev(entry.device.0, entry.device.1);
    match entry.kind {
        EntryKind::Directory => root.mkdir(path, entry.mode)?,
        EntryKind::File => {
            let mut file = root.create_file(path, entry.mode, true)?;
            let copied = pump(&mut data.take(entry.size), &mut file, request.cancel);
            let copied = copied.map_err(|error| match error {
                PumpError::Write(error) => io_error("write", path, &error),
                PumpError::Read(error) => {
                    let reason = format!("`{}` in it: {error}", shown(path));
                    FileError::Archive { path: request.src.to_owned(), reason }
                }
                PumpError::Cancelled => FileError::Cancelled,
            })?;
            if copied != entry.size {
                let reason = format!("it ends within `{}`", shown(path));
                return Err(FileError::Archive { path: request.src.to_owned(), reason });
            }
        }
        EntryKind::Symlink => root.symlink(&entry.link, path)?,
        // Another name of the same inode: it has its metadata already.
        EntryKind::HardLink => return Ok(root.hard_link(&entry.link, path)?),
        EntryKind::CharDevice if device == 0 => return Ok(()),
        EntryKind::CharDevice => root.mknod(path, CHAR_DEVICE | entry.mode, device)?,
        EntryKind::BlockDevice => root.mknod(path, BLOCK_DEVICE | entry.mode, device)?,
        EntryKind::Fifo => root.mknod(path, FIFO | entry.mode, 0)?,
    }
    own(root, entry, request)
}

/// Why an entry cannot be, in words of archives.
fn refusal(entry: &LayerEntry, error: &SysError) -> String {
    let path = shown(&entry.path);
    let target = shown(&entry.link);
    match entry.kind {
        EntryKind::HardLink if error.is_not_found() => {
            format!("`{path}` is a hard link to `{target}`, which is not there")
        }
        EntryKind::HardLink if error.errno() == EPERM => {
            format!("`{path}` is a hard link to `{target}`, which is a directory")
        }
        _ if error.is_not_found() => format!("`{path}` lies behind a symlink that leads nowhere"),
        _ if error.is_not_dir() => format!("`{path}` lies below something that is not a directory"),
        _ if error.errno() == ELOOP => format!("`{path}` lies behind symlinks that lead in a circle"),
        _ => format!("`{path}`: {error}"),
    }
}

/// Owner, attributes, mode and time of an entry; directories get their time at the end.
fn own(root: &Root, entry: &LayerEntry, request: &CopyRequest<'_>) -> Result<()> {
    let path = entry.path.as_path();
    let (uid, gid) = match request.changes.owner {
        Some(owner) => (owner.uid, owner.gid),
        None => (entry.uid, entry.gid),
    };
    root.chown(path, uid, gid)?;
    if entry.kind != EntryKind::Symlink {
        root.chmod(path, entry.mode)?;
    }
    for (name, value) in &entry.xattrs {
        if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
            continue;
        }
        if let Err(error) = root.xattr_set(path, name, value) {
            tracing::debug!(name, %error, "extended attribute of an archive not kept");
        }
    }
    if entry.kind != EntryKind::Directory {
        root.utimes(path, request.changes.mtime_ns.unwrap_or_else(|| time(entry)))?;
    }
    Ok(())
}

/// As upstream: times that file systems may not know are the epoch.
fn time(entry: &LayerEntry) -> i64 {
    if (0..i64::MAX).contains(&entry.mtime_ns) { entry.mtime_ns } else { 0 }
}
