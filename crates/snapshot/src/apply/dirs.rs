//! Parent directories of entries: found, made, remembered.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use rbuild_sys::Root;

use super::{NAME_TOO_LONG, Run};
use crate::deep::open_deep;
use crate::error::OnEntry;
use crate::{LayerForm, Result, SnapshotError, copy, xattr};

/// Symlinks that one path may lead through; the kernel allows 40.
const MAX_LINKS: usize = 255;
/// Mode of a directory that an archive needs but does not hold.
const IMPLIED_MODE: u32 = 0o755;

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Cached {
    /// As the archive says it, cleaned.
    said: PathBuf,
    dir: Root,
    /// Where that is, with links resolved; only known in full form.
    real: PathBuf,
}

impl Run<'_> {
    /// The directory `path`, made if it is missing, links in it followed inside the root.
    ///
    /// The same answer as long as the same directory is asked for: nothing that an archive does inside a directory
    /// can replace it. `forget_dir` is called for what it does elsewhere.
    pub(super) fn dir(&mut self, path: &Path) -> Result<&Root> {
        let hit = self.here.as_ref().is_some_and(|here| here.said == path);
        if !hit {
            let (dir, real) = match self.dest.open_dir(path) {
                Ok(dir) if self.form == LayerForm::Overlay => (dir, PathBuf::new()),
                Ok(dir) => (dir, self.dest.resolve(path).entry(path)?),
                Err(err) if err.is_not_found() || err.is_not_dir() || err.errno() == NAME_TOO_LONG => {
                    self.make_dir(path)?
                }
                Err(err) => return Err(SnapshotError::entry(path, err)),
            };
            self.note_dir(&real);
            self.here = Some(Cached { said: path.to_path_buf(), dir, real });
        }
        match &self.here {
            Some(here) => Ok(&here.dir),
            None => Ok(self.dest),
        }
    }

    /// Where `name` in the current directory is, links resolved (full form).
    pub(super) fn real_path(&self, name: &OsStr) -> PathBuf {
        self.here.as_ref().map(|here| here.real.join(name)).unwrap_or_default()
    }

    /// Full form: directories that lead to something this layer wrote are spared by whiteouts too.
    fn note_dir(&mut self, real: &Path) {
        if self.form == LayerForm::Overlay {
            return;
        }
        for dir in real.ancestors() {
            if dir.as_os_str().is_empty() || !self.written.insert(dir.to_path_buf()) {
                break;
            }
        }
    }

    /// The slow way to a directory: one component after the other, making what is missing. Answers where it is, too.
    pub(super) fn make_dir(&mut self, path: &Path) -> Result<(Root, PathBuf)> {
        let mut rest: VecDeque<OsString> = path.iter().map(OsStr::to_os_string).collect();
        let (mut dir, mut real, mut links) = (self.dest.try_clone()?, PathBuf::new(), 0);
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                real.pop();
                dir = open_deep(self.dest, &real)?;
                continue;
            }
            let step = real.join(&name);
            match dir.open_dir_nofollow(&name) {
                Ok(next) => {
                    (dir, real) = (next, step);
                    continue;
                }
                Err(err) if err.is_not_found() => {
                    dir = self.make_one(&dir, &name, &step)?;
                    real = step;
                    continue;
                }
                Err(_) => {}
            }
            let stat = dir.stat(&name).entry(&step)?;
            if stat.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(SnapshotError::invalid(path, "leads through too many symlinks"));
                }
                let target = dir.read_link(&name).entry(&step)?;
                if target.is_absolute() {
                    dir = self.dest.try_clone()?;
                    real = PathBuf::new();
                }
                follow(&target, &mut rest);
            } else if self.form == LayerForm::Overlay && stat.is_overlay_whiteout() {
                // The layer removed what lay here and goes on with something new.
                dir.unlink(&name).entry(&step)?;
                dir = self.make_plain(&dir, &name, &step)?;
                dir.xattr_set(".", xattr::OPAQUE_TRUSTED, b"y").entry(&step)?;
                real = step;
            } else {
                return Err(SnapshotError::invalid(path, "a parent is not a directory"));
            }
        }
        Ok((dir, real))
    }

    fn make_plain(&self, dir: &Root, name: &OsStr, path: &Path) -> Result<Root> {
        dir.mkdir(name, IMPLIED_MODE).entry(path)?;
        dir.open_dir_nofollow(name).entry(path)
    }

    /// Makes a directory that the archive implies: as it is in the layers below, if it is there.
    fn make_one(&mut self, dir: &Root, name: &OsStr, path: &Path) -> Result<Root> {
        let made = self.make_plain(dir, name, path)?;
        let Some(parents) = self.parents else {
            self.stats.implied_parents += 1;
            return Ok(made);
        };
        let Ok(below) = parents.open_dir(path) else { return Ok(made) };
        let stat = below.stat(".").entry(path)?;
        copy::copy_attrs(&below, ".".as_ref(), &stat, &made, ".".as_ref()).entry(path)?;
        self.dir_times.push((path.to_path_buf(), stat.mtime_ns));
        Ok(made)
    }
}

/// Puts the components of a link's target in front of what is still to walk.
fn follow(target: &Path, rest: &mut VecDeque<OsString>) {
    for component in target.components().rev() {
        match component {
            Component::Normal(name) => rest.push_front(name.to_os_string()),
            Component::ParentDir => rest.push_front("..".into()),
            _ => {}
        }
    }
}
