//! Copies as COPY and ADD do: modes, owners, times, xattrs, hard links and holes are kept unless they are to change.
//!
//! [`copy`] finds the sources and the place; [`Copier`] walks one source. The walk keeps one open directory per level on
//! either side and acts by single names below them, so nothing that changes meanwhile can lead it elsewhere. A
//! directory's metadata is set when its contents are there. With include patterns a directory is made only when something
//! in it is copied.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_patterns::{Verdict, WalkFilter};
use rbuild_sys::{DirEntry, FileKind, Root, Stat, copy_file};
use tokio_util::sync::CancellationToken;

use super::error::{FileError, Result};
use super::glob::{expand, has_wildcard};
use super::make::make_dirs;
use super::meta::Changes;
use super::paths::{means_directory, relative, rooted, rooted_parent, shown};
use super::unpack::unpack;

/// Mode of directories that are made on the way to a destination, before a change that was asked for.
const PARENT_MODE: u32 = 0o755;

/// What to copy, where to, and how.
#[derive(Debug)]
pub(crate) struct CopyRequest<'a> {
    pub(crate) src: &'a str,
    pub(crate) dest: &'a str,
    /// The contents of a directory, not the directory.
    pub(crate) contents: bool,
    /// A symlink at the end of `src` is followed.
    pub(crate) follow: bool,
    pub(crate) wildcard: bool,
    pub(crate) allow_empty: bool,
    /// Archives are unpacked.
    pub(crate) unpack: bool,
    /// Bytes that an archive may have unpacked.
    pub(crate) max_unpacked: u64,
    /// Make missing parents of `dest`.
    pub(crate) create_dest: bool,
    pub(crate) include: &'a [String],
    pub(crate) exclude: &'a [String],
    /// Must be there if there are patterns; like `src` they are paths from the root of the source.
    pub(crate) required: &'a [String],
    /// Whatever stands at a destination gives way.
    pub(crate) replace: bool,
    pub(crate) changes: Changes,
    /// Set when inodes of the source may be shared.
    pub(crate) share: Option<Share<'a>>,
    pub(crate) cancel: &'a CancellationToken,
}

/// How a copy can be a further name of the source's inode. Only for sources whose inodes never change: files of a
/// client's directory are replaced, not written to, those of a checkout are left alone, and what was built is only read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share<'a> {
    /// The directory in which the destination's own files really are: an overlay's upper directory.
    pub(crate) upper: &'a Root,
    /// Inodes that the destination has already. A second name there would show as a hard link.
    pub(crate) seen: &'a RefCell<HashSet<u64>>,
}

/// Copies from below `from` to below `to`.
pub(crate) fn copy(from: &Root, to: &Root, request: &CopyRequest<'_>) -> Result<()> {
    let bad = |error: rbuild_patterns::PatternError| FileError::Pattern {
        reason: error.reason.to_owned(),
        pattern: error.pattern,
    };
    let filter = WalkFilter::new(request.include, request.exclude).map_err(bad)?;
    if !request.create_dest {
        let dest = rooted(to, request.dest.as_bytes())?;
        if !to.exists(dest.parent().unwrap_or_else(|| Path::new("")))? {
            return Err(FileError::not_found(request.dest));
        }
    }
    check_required(from, request)?;
    let sources = if request.wildcard && has_wildcard(request.src) {
        expand(from, request.src)?
    } else {
        vec![relative(request.src.as_bytes())?]
    };
    if sources.is_empty() && !request.allow_empty {
        return Err(FileError::not_found(request.src));
    }
    // With several sources a name may come twice, and an overlay does not see what was linked beneath it.
    let share = request.share.filter(|_| sources.len() == 1);
    let mut made = Vec::new();
    for source in sources {
        if request.cancel.is_cancelled() {
            return Err(FileError::Cancelled);
        }
        if request.unpack && unpack(from, &source, to, request)? {
            continue;
        }
        made.extend(copy_one(from, &source, to, request, &filter, share)?);
    }
    // A time that was asked for stays when the copies are in there, innermost first.
    if let Some(mtime_ns) = request.changes.mtime_ns {
        for dir in made.iter().rev() {
            to.utimes(dir, mtime_ns)?;
        }
    }
    Ok(())
}

fn check_required(from: &Root, request: &CopyRequest<'_>) -> Result<()> {
    if request.include.is_empty() && request.exclude.is_empty() {
        return Ok(());
    }
    for path in request.required {
        if !from.exists(rooted_parent(from, path.as_bytes())?)? {
            return Err(FileError::not_found(path));
        }
    }
    Ok(())
}

/// Answers which directories were made on the way to the destination.
fn copy_one(
    from: &Root,
    source: &Path,
    to: &Root,
    request: &CopyRequest<'_>,
    filter: &WalkFilter,
    share: Option<Share<'_>>,
) -> Result<Vec<PathBuf>> {
    let bytes = source.as_os_str().as_bytes();
    let at = if request.follow { rooted(from, bytes)? } else { rooted_parent(from, bytes)? };
    let stat = match from.stat(&at) {
        Ok(stat) => stat,
        Err(error) if error.is_not_found() || error.is_not_dir() => {
            return Err(FileError::not_found(shown(source)));
        }
        Err(error) => return Err(error.into()),
    };
    let (dest, made) = place(source, &stat, to, request)?;
    let mut copier =
        Copier { from, to, filter, request, share, links: HashMap::new(), shared: HashMap::new() };
    if stat.is_dir() {
        copier.tree(from.open_dir_nofollow(&at)?, stat, dest)?;
        return Ok(made);
    }
    let parent = open_parent(to, &dest)?;
    let Some(name) = dest.file_name() else {
        return Err(FileError::RootPath { path: request.dest.to_owned() });
    };
    let (src, src_name) = from.parent(&at)?;
    let (src, dst) = ((&src, Path::new(&src_name)), (&parent, Path::new(name)));
    if !copier.share_one(src, &stat, dst, &dest)? {
        copier.leaf(src, &stat, dst, &dest)?;
    }
    Ok(made)
}

fn open_parent(to: &Root, dest: &Path) -> Result<Root> {
    Ok(to.open_dir_nofollow(dest.parent().unwrap_or_else(|| Path::new("")))?)
}

/// Where the source is to be, all symlinks on the way resolved and all parents made; and which were made.
fn place(
    source: &Path,
    stat: &Stat,
    to: &Root,
    request: &CopyRequest<'_>,
) -> Result<(PathBuf, Vec<PathBuf>)> {
    let bytes = request.dest.as_bytes();
    let mut dest = rooted(to, bytes)?;
    let mut made = Vec::new();
    if means_directory(bytes) {
        made.extend(ensure(to, &dest, &request.changes)?);
    }
    let there = match to.stat(&dest) {
        Ok(stat) => Some(stat),
        Err(error) if error.is_not_found() || error.is_not_dir() => None,
        Err(error) => return Err(error.into()),
    };
    let into = there.is_some_and(|there| there.is_dir()) && !(stat.is_dir() && request.contents);
    if into && let Some(name) = source.file_name() {
        dest.push(name);
    }
    if stat.is_dir() && request.contents && there.is_none() {
        made.extend(ensure(to, &dest, &request.changes)?);
    } else if let Some(parent) = dest.parent() {
        made.extend(ensure(to, parent, &request.changes)?);
    }
    Ok((dest, made))
}

fn ensure(to: &Root, path: &Path, changes: &Changes) -> Result<Vec<PathBuf>> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let mode = changes.mode.apply(PARENT_MODE, true);
    make_dirs(to, path, mode, changes.owner.unwrap_or_default(), changes.mtime_ns)
}

/// What a directory gets when all of its contents are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// The source's metadata.
    All,
    /// The source's time: the directory was there (or made as a place to copy to) and gets contents only.
    Time,
}

/// One directory on the way down.
struct Level {
    src: Root,
    stat: Stat,
    /// `None`: not made yet, because nothing in it has been copied.
    dst: Option<Root>,
    dst_path: PathBuf,
    finish: Finish,
    /// It was made by this copy, so nothing is in it that was not copied.
    fresh: bool,
    /// Where files of it can be linked to; looked for when the first file comes.
    upper: Option<Option<Root>>,
    /// Relative to the source, `/` separated; for patterns.
    path: String,
    state: rbuild_patterns::DirState,
    entries: std::vec::IntoIter<DirEntry>,
}

struct Copier<'a> {
    from: &'a Root,
    to: &'a Root,
    filter: &'a WalkFilter,
    request: &'a CopyRequest<'a>,
    /// First copies of files with several names, by inode.
    links: HashMap<(u64, u64), PathBuf>,
    share: Option<Share<'a>>,
    /// First names of inodes that are shared with the source.
    shared: HashMap<u64, PathBuf>,
}

impl Copier<'_> {
    fn tree(&mut self, src: Root, stat: Stat, dst_path: PathBuf) -> Result<()> {
        let (dst, finish) = match dst_path.file_name() {
            None => (self.to.try_clone()?, Finish::Time),
            Some(name) => self.directory(
                &open_parent(self.to, &dst_path)?,
                Path::new(name),
                &stat,
                &dst_path,
                Finish::Time,
            )?,
        };
        let entries = sorted(&src)?;
        let state = rbuild_patterns::DirState::default();
        let top = Level {
            src,
            stat,
            dst: Some(dst),
            dst_path,
            finish,
            fresh: finish == Finish::All,
            upper: None,
            path: String::new(),
            state,
            entries,
        };
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            if self.request.cancel.is_cancelled() {
                return Err(FileError::Cancelled);
            }
            match level.entries.next() {
                Some(entry) => self.entry(&mut levels, &entry)?,
                None => {
                    self.finish(level)?;
                    levels.pop();
                }
            }
        }
        Ok(())
    }

    fn finish(&self, level: &Level) -> Result<()> {
        let Some(dst) = &level.dst else { return Ok(()) };
        let here = Path::new(".");
        match level.finish {
            Finish::All => self.request.changes.apply_at((&level.src, here), (dst, here), &level.stat),
            Finish::Time => Ok(dst.utimes(here, self.request.changes.mtime(&level.stat))?),
        }
    }

    /// Copies one entry of the innermost directory, or goes into it.
    fn entry(&mut self, levels: &mut Vec<Level>, entry: &DirEntry) -> Result<()> {
        let level = levels.last().expect("an entry is in a directory");
        let name = Path::new(&entry.name);
        let text = entry.name.to_string_lossy();
        let path = if level.path.is_empty() { text.into_owned() } else { format!("{}/{text}", level.path) };
        let is_dir = entry.kind == FileKind::Dir;
        let (verdict, state) = self.filter.visit(&path, is_dir, &level.state);
        if verdict == Verdict::Skip {
            return Ok(());
        }
        let stat = level.src.stat(name)?;
        let dst_path = level.dst_path.join(name);
        if !stat.is_dir() {
            if verdict != Verdict::Emit || is_dir {
                return Ok(());
            }
            self.make_levels(levels)?;
            let level = levels.last_mut().expect("an entry is in a directory");
            if self.share(level, name, &stat)? {
                return Ok(());
            }
            let dst = level.dst.as_ref().expect("made above");
            return self.leaf((&level.src, name), &stat, (dst, name), &dst_path);
        }
        let src = level.src.open_dir_nofollow(name)?;
        let entries = sorted(&src)?;
        let (dst, upper, finish) = (None, None, Finish::All);
        levels.push(Level { src, stat, dst, dst_path, finish, fresh: false, upper, path, state, entries });
        if verdict == Verdict::Emit {
            self.make_levels(levels)?;
        }
        Ok(())
    }

    /// Makes the directories that were waiting for contents.
    fn make_levels(&self, levels: &mut [Level]) -> Result<()> {
        let first = levels.iter().position(|level| level.dst.is_none()).unwrap_or(levels.len());
        for index in first..levels.len() {
            let (above, rest) = levels.split_at_mut(index);
            let parent = above.last().and_then(|level| level.dst.as_ref()).expect("made from the outside in");
            let level = &mut rest[0];
            let name = level.dst_path.file_name().map(OsString::from).unwrap_or_default();
            let made = parent.stat(Path::new(&name)).is_err_and(|error| error.is_not_found());
            let (dst, finish) =
                self.directory(parent, Path::new(&name), &level.stat, &level.dst_path, Finish::All)?;
            level.dst = Some(dst);
            level.finish = finish;
            level.fresh = made;
        }
        Ok(())
    }

    /// Makes or opens a directory, and says what it gets in the end; `there`: if it was there already.
    fn directory(
        &self,
        parent: &Root,
        name: &Path,
        stat: &Stat,
        shown_at: &Path,
        there: Finish,
    ) -> Result<(Root, Finish)> {
        match parent.mkdir(name, stat.permissions()) {
            Ok(()) => return Ok((parent.open_dir_nofollow(name)?, Finish::All)),
            Err(error) if error.is_exists() => {}
            Err(error) => return Err(error.into()),
        }
        if parent.stat(name)?.is_dir() {
            return Ok((parent.open_dir_nofollow(name)?, there));
        }
        if !self.request.replace {
            return Err(FileError::NotDirectory { path: shown(shown_at) });
        }
        parent.remove_all(name)?;
        parent.mkdir(name, stat.permissions())?;
        Ok((parent.open_dir_nofollow(name)?, Finish::All))
    }

    /// Makes the copy a further name of the source's inode, if nothing about it is to change and nothing is in its
    /// way. False: it has to be copied.
    fn share(&mut self, level: &mut Level, name: &Path, stat: &Stat) -> Result<bool> {
        let (Some(share), Some(dst)) = (self.share, &level.dst) else { return Ok(false) };
        if !stat.is_file() || !self.request.changes.keep(stat) {
            return Ok(false);
        }
        if !level.fresh && !dst.stat(name).is_err_and(|error| error.is_not_found()) {
            return Ok(false);
        }
        if level.upper.is_none() {
            // A directory of a layer below gets a place in the upper directory when something about it is set.
            if !level.fresh {
                dst.utimes(Path::new("."), level.stat.mtime_ns)?;
            }
            level.upper = Some(share.upper.open_dir(&level.dst_path).ok());
        }
        let Some(Some(upper)) = &level.upper else { return Ok(false) };
        let path = level.dst_path.join(name);
        let linked = match self.shared.get(&stat.ino) {
            Some(first) => share.upper.hard_link(first, &path),
            None if !share.seen.borrow_mut().insert(stat.ino) => return Ok(false),
            None => upper.link_from(&level.src, name, name),
        };
        match linked {
            Ok(()) => {
                self.shared.entry(stat.ino).or_insert(path);
                Ok(true)
            }
            // Another file system, or as many names as an inode can have.
            Err(error) => {
                tracing::trace!(%error, "copying instead of sharing");
                level.upper = Some(None);
                Ok(false)
            }
        }
    }

    /// The same for a file that is copied by its own name.
    fn share_one(
        &self,
        src: (&Root, &Path),
        stat: &Stat,
        dst: (&Root, &Path),
        dst_path: &Path,
    ) -> Result<bool> {
        let Some(share) = self.share else { return Ok(false) };
        let free = dst.0.stat(dst.1).is_err_and(|error| error.is_not_found());
        if !stat.is_file() || !self.request.changes.keep(stat) || !free {
            return Ok(false);
        }
        // As in `share`: this brings the directory up, its time is that of the link about to be made.
        let here = Path::new(".");
        dst.0.utimes(here, dst.0.stat(here)?.mtime_ns)?;
        let Ok(upper) = share.upper.open_dir(dst_path.parent().unwrap_or(here)) else { return Ok(false) };
        if !share.seen.borrow_mut().insert(stat.ino) {
            return Ok(false);
        }
        match upper.link_from(src.0, src.1, dst.1) {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::trace!(%error, "copying instead of sharing");
                Ok(false)
            }
        }
    }

    /// Copies anything but a directory.
    fn leaf(&mut self, src: (&Root, &Path), stat: &Stat, dst: (&Root, &Path), dst_path: &Path) -> Result<()> {
        // A whiteout of our own layers means that nothing is there.
        if stat.is_overlay_whiteout() {
            return Ok(());
        }
        match self.make(src, stat, dst, dst_path) {
            Err(FileError::Sys(error)) if error.is_exists() => {}
            other => return other,
        }
        if dst.0.stat(dst.1)?.is_dir() {
            if !self.request.replace {
                return Err(FileError::ReplacesDirectory { path: shown(dst_path) });
            }
            dst.0.remove_all(dst.1)?;
        } else {
            dst.0.unlink(dst.1)?;
        }
        self.make(src, stat, dst, dst_path)
    }

    /// `EEXIST` if something is there.
    fn make(&mut self, src: (&Root, &Path), stat: &Stat, dst: (&Root, &Path), dst_path: &Path) -> Result<()> {
        match stat.kind() {
            FileKind::File => return self.file(src, stat, dst, dst_path),
            FileKind::Symlink => dst.0.symlink(src.0.read_link(src.1)?, dst.1)?,
            _ => dst.0.mknod(dst.1, stat.mode, stat.rdev)?,
        }
        self.request.changes.apply_at(src, dst, stat)
    }

    fn file(&mut self, src: (&Root, &Path), stat: &Stat, dst: (&Root, &Path), dst_path: &Path) -> Result<()> {
        let inode = (stat.dev, stat.ino);
        if let Some(first) = self.links.get(&inode) {
            match self.to.hard_link(first, dst_path) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_exists() => return Err(error.into()),
                // Too many names, or the first copy was replaced since: a copy of its own does as well.
                Err(error) => tracing::debug!(%error, "hard link copied as a file"),
            }
        }
        let input = src.0.open_file_nofollow(src.1)?;
        let output = dst.0.create_file(dst.1, 0o600, true)?;
        copy_file(&input, &output, u64::MAX)?;
        if stat.nlink > 1 {
            self.links.insert(inode, dst_path.to_owned());
        }
        self.request.changes.apply_file(&input, &output, stat)
    }
}

impl std::fmt::Debug for Copier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

/// Sorted, so that results do not depend on the order of the disk.
fn sorted(dir: &Root) -> Result<std::vec::IntoIter<DirEntry>> {
    let mut entries = dir.read_dir()?;
    entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(entries.into_iter())
}
