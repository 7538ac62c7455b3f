//! Are two entries the same, as far as a layer can tell?

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rbuild_sys::{Root, Stat};

use crate::error::OnEntry;
use crate::{Result, SnapshotError, xattr};

/// Buffer for comparing content.
const BUFFER: usize = 128 * 1024;
const NANOS: i64 = 1_000_000_000;

/// How far equal size and time are believed to mean equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Not at all: content is compared. For overlays, where few files get as far as that.
    Nothing,
    /// If the time has a fraction of a second. Times that came out of an archive have none, and then content is
    /// compared. For walks over whole trees.
    FineTimes,
}

/// One side: an entry of an open directory.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) dir: &'a Root,
    pub(crate) name: &'a OsStr,
    pub(crate) stat: &'a Stat,
}

/// Whether both are the same file, or look the same in type, mode, owner, device, attributes and (unless directories)
/// size, time and content.
pub(crate) fn same(a: Side<'_>, b: Side<'_>, path: &Path, trust: Trust) -> Result<bool> {
    let (x, y) = (a.stat, b.stat);
    if (x.dev, x.ino) == (y.dev, y.ino) {
        return Ok(true);
    }
    if (x.mode, x.uid, x.gid, x.rdev) != (y.mode, y.uid, y.gid, y.rdev) {
        return Ok(false);
    }
    if !x.is_dir() && (x.size, x.mtime_ns) != (y.size, y.mtime_ns) {
        return Ok(false);
    }
    let attrs = |side: Side<'_>| xattr::read(side.dir, side.name, xattr::goes_into_layer).entry(path);
    if attrs(a)? != attrs(b)? {
        return Ok(false);
    }
    if x.is_symlink() {
        let target = |side: Side<'_>| side.dir.read_link(side.name).entry(path);
        return Ok(target(a)? == target(b)?);
    }
    let believed = trust == Trust::FineTimes && x.mtime_ns.rem_euclid(NANOS) != 0;
    if !x.is_file() || x.size == 0 || believed {
        return Ok(true);
    }
    let open = |side: Side<'_>| side.dir.open_file_nofollow(side.name).entry(path);
    same_content(open(a)?, open(b)?).map_err(|err| SnapshotError::data(path, err))
}

fn same_content(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut x, mut y) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let n = fill(&mut a, &mut x)?;
        let m = fill(&mut b, &mut y)?;
        if x[..n] != y[..m] {
            return Ok(false);
        }
        if n < BUFFER {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buf.len() {
        match file.read(&mut buf[len..])? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}
