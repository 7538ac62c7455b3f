//! Makes and removes single things: mkdir, mkfile, symlink, rm.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_sys::{Root, SysError};

use super::error::{FileError, Result};
use super::glob::expand;
use super::owner::Owner;
use super::paths::{names, relative, rooted, rooted_parent, shown};

/// Makes a directory.
#[derive(Debug, Clone)]
pub(crate) struct MakeDir<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: u32,
    pub(crate) parents: bool,
    pub(crate) owner: Owner,
    pub(crate) mtime_ns: Option<i64>,
}

/// Writes a file.
#[derive(Debug, Clone)]
pub(crate) struct MakeFile<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: u32,
    pub(crate) data: &'a [u8],
    pub(crate) owner: Owner,
    pub(crate) mtime_ns: Option<i64>,
}

/// Makes a symbolic link.
#[derive(Debug, Clone)]
pub(crate) struct MakeLink<'a> {
    pub(crate) target: &'a str,
    pub(crate) path: &'a str,
    pub(crate) owner: Owner,
    pub(crate) mtime_ns: Option<i64>,
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn own(root: &Root, path: &Path, owner: Owner, mtime_ns: Option<i64>) -> Result<()> {
    root.chown(path, owner.uid, owner.gid)?;
    root.utimes(path, mtime_ns.unwrap_or_else(now_ns))?;
    Ok(())
}

/// Something that cannot be made over what is there already.
pub(crate) fn make_dir(root: &Root, make: &MakeDir<'_>) -> Result<()> {
    let path = rooted(root, make.path.as_bytes())?;
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    if make.parents {
        return make_dirs(root, &path, make.mode & 0o777, make.owner, make.mtime_ns).map(drop);
    }
    match root.mkdir(&path, make.mode & 0o777) {
        Ok(()) => own(root, &path, make.owner, make.mtime_ns),
        Err(error) if error.is_exists() => Ok(()),
        Err(error) => Err(failed("mkdir", &path)(error)),
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(SysError) -> FileError {
    let path = shown(path);
    move |error| FileError::Make { what, path: path.clone(), error }
}

/// Makes a directory and its missing parents, all alike; what is there stays as it is. Answers which it made, outermost
/// first.
pub(crate) fn make_dirs(
    root: &Root,
    path: &Path,
    mode: u32,
    owner: Owner,
    mtime_ns: Option<i64>,
) -> Result<Vec<PathBuf>> {
    let made = root.mkdir_all(path, mode).map_err(|error| match error.is_not_dir() {
        true => FileError::NotDirectory { path: shown(path) },
        false => failed("mkdir", path)(error),
    })?;
    // Innermost first, or the times of the outer ones change again.
    for path in made.iter().rev() {
        own(root, path, owner, mtime_ns)?;
    }
    Ok(made)
}

pub(crate) fn make_file(root: &Root, make: &MakeFile<'_>) -> Result<()> {
    let path = rooted(root, make.path.as_bytes())?;
    if path.as_os_str().is_empty() {
        return Err(FileError::RootPath { path: make.path.to_owned() });
    }
    let mode = make.mode & 0o777;
    // What is there is replaced, never written to: its inode may be a client's directory's too. The mode stays.
    let mut file = match root.stat(&path) {
        Ok(stat) if stat.is_file() => {
            root.unlink(&path)?;
            root.create_file(&path, stat.permissions(), true)?
        }
        Ok(stat) if stat.is_dir() => return Err(FileError::ReplacesDirectory { path: shown(&path) }),
        Ok(_) => return Err(FileError::NotRegular { path: shown(&path) }),
        Err(error) if error.is_not_found() => {
            root.create_file(&path, mode, true).map_err(failed("mkfile", &path))?
        }
        Err(error) => return Err(failed("mkfile", &path)(error)),
    };
    file.write_all(make.data).map_err(|error| io("write", &path, &error))?;
    drop(file);
    own(root, &path, make.owner, make.mtime_ns)
}

pub(crate) fn make_link(root: &Root, make: &MakeLink<'_>) -> Result<()> {
    let path = rooted_parent(root, make.path.as_bytes())?;
    if path.as_os_str().is_empty() {
        return Err(FileError::RootPath { path: make.path.to_owned() });
    }
    if make.target.is_empty() || make.target.contains('\0') {
        let reason = "a link's target is empty or holds a NUL byte";
        return Err(FileError::BadPath { path: make.target.chars().take(80).collect(), reason });
    }
    root.symlink(make.target, &path).map_err(failed("symlink", &path))?;
    own(root, &path, make.owner, make.mtime_ns)
}

/// Removes what a path (or a pattern) names: links themselves, never what they lead to.
pub(crate) fn remove(root: &Root, path: &str, wildcard: bool, allow_not_found: bool) -> Result<()> {
    if !wildcard {
        return remove_one(root, path.as_bytes(), allow_not_found);
    }
    for found in expand(root, path)? {
        remove_one(root, found.as_os_str().as_bytes(), allow_not_found)?;
    }
    Ok(())
}

fn remove_one(root: &Root, path: &[u8], allow_not_found: bool) -> Result<()> {
    // Cleaned in words first, so that `..` has no parent to split off.
    if names(path).is_empty() {
        return Err(FileError::RootPath { path: String::from_utf8_lossy(path).into_owned() });
    }
    relative(path)?;
    let at: PathBuf = rooted_parent(root, path)?;
    if !allow_not_found && !root.exists(&at)? {
        return Err(FileError::not_found(path));
    }
    match root.remove_all(&at) {
        Err(error) if allow_not_found && (error.is_not_found() || error.is_not_dir()) => Ok(()),
        other => Ok(other?),
    }
}

pub(crate) fn io(call: &'static str, path: &Path, error: &std::io::Error) -> FileError {
    let errno = error.raw_os_error().unwrap_or(5);
    FileError::Sys(SysError::new(call, shown(path), errno))
}
