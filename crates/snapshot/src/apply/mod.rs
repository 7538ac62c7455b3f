//! From a layer archive to a state.

mod dirs;
mod entry;
mod link;
mod whiteout;

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use rbuild_oci::layer::LayerReader;
use rbuild_sys::Root;

use self::dirs::Cached;
use crate::{LayerForm, Result, SnapshotError};

/// Buffer for file content.
const BUFFER: usize = 256 * 1024;

/// What a layer brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyStats {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
    /// Whiteouts and opaque marks.
    pub whiteouts: u64,
    /// Overlay form without a view of the layers below: how often one was missed. Directories were made that the
    /// archive does not hold, with usual attributes, or the whole root was to be hidden, which was left out. If this
    /// is not 0 and there are layers below, the result is only right when applied again with their view.
    pub implied_parents: u64,
}

/// Unpacks a layer archive.
///
/// Legal but odd archives work: absolute names are taken from the root, missing parents are made, absolute symlinks
/// stay as they are (and lead inside the root when something is unpacked through them). Whiteouts act on what lies
/// below the layer, wherever they stand in the archive. Device 0/0, which overlayfs takes for a whiteout, and
/// overlayfs' own attributes are passed over. Names that climb above the root are an error.
#[derive(Debug)]
pub struct Applier<'a> {
    dest: &'a Root,
    form: LayerForm,
    parents: Option<&'a Root>,
}

impl<'a> Applier<'a> {
    /// An applier into `dest`, the own directory of a fresh snapshot of this form.
    pub fn new(dest: &'a Root, form: LayerForm) -> Self {
        Self { dest, form, parents: None }
    }

    /// A view of the layers below (overlay form only): where implied parent directories have their attributes from,
    /// and hard links into lower layers their files. Without it there is nothing below.
    #[must_use]
    pub fn with_parents(mut self, parents: &'a Root) -> Self {
        self.parents = Some(parents);
        self
    }

    /// Unpacks the uncompressed archive `reader` to its end, which must be known to be its right end (a verified blob):
    /// archives without end mark are taken. Memory grows with the number of directories only (in
    /// [`LayerForm::Full`] of names).
    pub fn apply(&self, reader: impl Read) -> Result<ApplyStats> {
        let mut run = Run {
            dest: self.dest,
            form: self.form,
            parents: self.parents,
            here: None,
            written: HashSet::new(),
            dir_times: Vec::new(),
            root_opaque: false,
            buffer: vec![0; BUFFER],
            stats: ApplyStats::default(),
        };
        let mut archive = LayerReader::new(reader).end_mark_optional();
        while let Some(entry) = archive.next_entry().map_err(|err| SnapshotError::Archive(err.into()))? {
            run.stats.entries += 1;
            run.entry(&entry, &mut archive)?;
        }
        run.finish()
    }
}

/// One application.
struct Run<'a> {
    dest: &'a Root,
    form: LayerForm,
    parents: Option<&'a Root>,
    /// The directory of the previous entry: archives go through directories one after the other.
    here: Option<Cached>,
    /// Full form: what this layer wrote and the directories that lead there, links resolved; a whiteout spares them.
    written: HashSet<PathBuf>,
    /// Directories whose time is set at the end, when nothing more is put into them.
    dir_times: Vec<(PathBuf, i64)>,
    /// Overlay form: the root itself hides everything below; overlayfs has no mark for that.
    root_opaque: bool,
    buffer: Vec<u8>,
    stats: ApplyStats,
}

impl Run<'_> {
    fn finish(mut self) -> Result<ApplyStats> {
        self.here = None;
        if self.root_opaque {
            self.hide_root()?;
        }
        for (path, mtime_ns) in std::mem::take(&mut self.dir_times) {
            self.set_dir_time(&path, mtime_ns)?;
        }
        Ok(self.stats)
    }

    /// Directories that are gone or became something else meanwhile need no time.
    fn set_dir_time(&mut self, path: &Path, mtime_ns: i64) -> Result<()> {
        let Some((parent, name)) = split(path) else { return Ok(()) };
        let dir = match self.dest.open_dir(parent) {
            Ok(dir) => dir,
            Err(err) if err.is_not_found() || err.is_not_dir() => return Ok(()),
            Err(err) if err.errno() == NAME_TOO_LONG => self.make_dir(parent)?.0,
            Err(err) => return Err(SnapshotError::entry(path, err)),
        };
        match dir.stat(name) {
            Ok(stat) if stat.is_dir() => {
                dir.utimes(name, mtime_ns).map_err(|err| SnapshotError::entry(path, err))
            }
            _ => Ok(()),
        }
    }
}

const NAME_TOO_LONG: i32 = rustix::io::Errno::NAMETOOLONG.raw_os_error();

/// Parent and last name of a cleaned path; `None` for the root.
fn split(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

#[cfg(test)]
mod tests;
