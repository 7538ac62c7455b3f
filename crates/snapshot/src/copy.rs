//! Copies of trees and of single entries, with everything that belongs to them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use rbuild_sys::{DirEntry, FileKind, Root, Stat};

use crate::deep::{DeepDir, OPEN_LEVELS, open_deep};
use crate::error::OnEntry;
use crate::{Result, xattr};

/// One directory on the way down.
struct Level<'a> {
    from: DeepDir<'a>,
    to: DeepDir<'a>,
    stat: Stat,
    entries: std::vec::IntoIter<DirEntry>,
}

/// Copies everything below `from` into the empty directory `to`, and the attributes of `from` itself: owners, modes,
/// times, hard links, devices and extended attributes (but overlayfs' own). Sockets are left out. Content is shared
/// where the file system can.
pub fn copy_tree(from: &Root, to: &Root) -> Result<()> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut levels = vec![level(DeepDir::top(from)?, DeepDir::top(to)?)?];
    while let Some(here) = levels.last_mut() {
        let Some(entry) = here.entries.next() else {
            leave(here)?;
            levels.pop();
            continue;
        };
        let path = here.from.path().join(&entry.name);
        let stat = here.from.get()?.stat(&entry.name).entry(&path)?;
        if stat.is_dir() {
            here.to.get()?.mkdir(&entry.name, 0o700).entry(&path)?;
            let next = level(here.from.enter(&entry.name)?, here.to.enter(&entry.name)?)?;
            if levels.len() >= OPEN_LEVELS {
                let far = levels.len() - OPEN_LEVELS;
                levels[far].from.close();
                levels[far].to.close();
            }
            levels.push(next);
            continue;
        }
        if stat.nlink > 1 {
            if let Some(first) = links.get(&(stat.dev, stat.ino)) {
                let (dir, name) = split(first);
                let dir = open_deep(to, dir)?;
                let flags = rustix::fs::AtFlags::empty();
                rustix::fs::linkat(&dir, name, here.to.get()?, &entry.name, flags).entry(&path)?;
                continue;
            }
            links.insert((stat.dev, stat.ino), path.clone());
        }
        let to = here.to.get()?;
        copy_entry(here.from.get()?, &entry.name, &stat, to, &entry.name).entry(&path)?;
    }
    Ok(())
}

fn split(path: &std::path::Path) -> (&std::path::Path, &OsStr) {
    (path.parent().unwrap_or_else(|| "".as_ref()), path.file_name().unwrap_or_default())
}

fn level<'a>(mut from: DeepDir<'a>, to: DeepDir<'a>) -> Result<Level<'a>> {
    let dir = from.get()?;
    let (stat, entries) = (dir.stat(".")?, dir.read_dir()?);
    Ok(Level { from, to, stat, entries: entries.into_iter() })
}

/// Attributes of a directory, once nothing more is put into it.
fn leave(here: &mut Level<'_>) -> Result<()> {
    let path = here.from.path().to_path_buf();
    let (from, to) = (here.from.get()?, here.to.get()?);
    copy_attrs(from, ".".as_ref(), &here.stat, to, ".".as_ref()).entry(&path)
}

/// Copies one entry that is no directory; sockets are left out.
pub(crate) fn copy_entry(
    from: &Root,
    name: &OsStr,
    stat: &Stat,
    to: &Root,
    to_name: &OsStr,
) -> rbuild_sys::Result<()> {
    match stat.kind() {
        FileKind::File => {
            let source = from.open_file_nofollow(name)?;
            let target = to.create_file(to_name, 0o600, true)?;
            rbuild_sys::copy_file(&source, &target, stat.size)?;
        }
        FileKind::Symlink => to.symlink(from.read_link(name)?, to_name)?,
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo => {
            to.mknod(to_name, stat.mode, stat.rdev)?;
        }
        FileKind::Socket | FileKind::Dir | FileKind::Unknown => return Ok(()),
    }
    copy_attrs(from, name, stat, to, to_name)
}

/// Owner, attributes, mode and time. In this order: a change of owner clears capabilities and set-uid bits.
pub(crate) fn copy_attrs(
    from: &Root,
    name: &OsStr,
    stat: &Stat,
    to: &Root,
    to_name: &OsStr,
) -> rbuild_sys::Result<()> {
    to.chown(to_name, stat.uid, stat.gid)?;
    for (key, value) in xattr::read(from, name, |key| !xattr::is_overlay(key))? {
        set_xattr(to, to_name, &key, &value)?;
    }
    if !stat.is_symlink() {
        to.chmod(to_name, stat.permissions())?;
    }
    to.utimes(to_name, stat.mtime_ns)
}

/// Attributes that this file system or kernel does not take are passed over.
fn set_xattr(to: &Root, name: &OsStr, key: &OsString, value: &[u8]) -> rbuild_sys::Result<()> {
    match to.xattr_set(name, key, value) {
        Err(err) if err.is_unsupported() => {
            tracing::debug!(key = %key.display(), "the file system does not take an attribute");
            Ok(())
        }
        other => other,
    }
}
