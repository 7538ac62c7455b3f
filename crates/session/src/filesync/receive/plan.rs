//! Compares the list, entry by entry, with what is there, and decides what to do. Pure: no I/O, no waiting.

use rbuild_digest::Digest;

use super::super::order::{OrderCheck, is_below, parent};
use super::super::writer::{Digests, Job, takes_xattr};
use super::super::{Entry, Limits, ReceiveOptions, Stat, TreeIndex, compare_paths, shown};
use crate::{Result, SessionError, mode};

/// Linux device numbers: 12 bits of major, 20 of minor.
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// What to do about one entry.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) jobs: Vec<Job>,
    /// Ask the sender for the content of this entry.
    pub(super) request: Option<u32>,
}

#[derive(Debug)]
struct Planned {
    stat: Stat,
    /// Known already for entries that stay as they are.
    digest: Option<Digest>,
    /// Written anew in this transfer.
    fresh: bool,
    /// A directory whose mode and time must be set when all else is done.
    unfinished: bool,
    /// A socket: listed, but never made.
    skipped: bool,
}

#[derive(Debug)]
pub(super) struct Plan<'a> {
    prev: &'a [Entry],
    cursor: usize,
    limits: Limits,
    request_all: bool,
    list_bytes: u64,
    order: OrderCheck,
    entries: Vec<Planned>,
    /// Hard links: (entry, target's entry).
    links: Vec<(u32, u32)>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(prev: Option<&'a TreeIndex>, options: &ReceiveOptions) -> Self {
        Self {
            prev: prev.map_or(&[], |index| index.entries()),
            cursor: 0,
            limits: options.limits,
            request_all: options.request_all,
            list_bytes: 0,
            order: OrderCheck::default(),
            entries: Vec::new(),
            links: Vec::new(),
        }
    }

    /// The last path of the list so far.
    pub(super) fn last(&self) -> String {
        shown(self.order.last())
    }

    pub(super) fn path(&self, id: u32) -> String {
        shown(&self.entries[id as usize].stat.path)
    }

    pub(super) fn size(&self, id: u32) -> u64 {
        self.entries[id as usize].stat.size as u64
    }

    pub(super) fn set_size(&mut self, id: u32, size: u64) {
        self.entries[id as usize].stat.size = size as i64;
    }

    pub(super) fn stat(&self, id: u32) -> Box<Stat> {
        Box::new(self.entries[id as usize].stat.clone())
    }

    /// Takes the next entry of the list.
    pub(super) fn entry(&mut self, mut stat: Stat) -> Result<Step> {
        stat.xattrs.retain(|key, _| takes_xattr(key));
        self.check(&stat)?;
        let id = self.entries.len() as u32;
        let holder = self.order.next(&stat.path, id, mode::is_dir(stat.mode))?;
        let mut step = Step::default();
        self.pass_vanished(&stat.path, &mut step.jobs);
        let known = self.prev.get(self.cursor).filter(|entry| entry.stat.path == stat.path);
        self.cursor += usize::from(known.is_some());
        let link = self.link_target(&stat)?;
        let equal = known.filter(|entry| !self.request_all && entry.stat == stat);
        let skipped = stat.mode & mode::TYPE == mode::SOCKET;
        let mut planned = Planned { stat, digest: None, fresh: false, unfinished: false, skipped };
        if let Some(target) = link {
            // Decided at the end: it depends on what becomes of its target.
            planned.fresh = equal.is_none();
            if planned.fresh {
                self.replace(known, &planned.stat, &mut step.jobs);
            }
            self.links.push((id, target));
            self.touch(holder, planned.fresh);
        } else if skipped {
            self.replace(known, &planned.stat, &mut step.jobs);
            self.touch(holder, known.is_some());
        } else if let Some(entry) = equal {
            planned.digest = Some(entry.digest);
        } else {
            planned.fresh = true;
            planned.unfinished = mode::is_dir(planned.stat.mode);
            self.replace(known, &planned.stat, &mut step.jobs);
            if mode::is_regular(planned.stat.mode) {
                step.request = Some(id);
            } else {
                step.jobs.push(Job::Make { entry: id, stat: Box::new(planned.stat.clone()) });
            }
            self.touch(holder, true);
        }
        self.entries.push(planned);
        Ok(step)
    }

    fn check(&mut self, stat: &Stat) -> Result<()> {
        let wrong = |what| Err(SessionError::violation(what, shown(&stat.path)));
        if self.entries.len() >= self.limits.max_entries as usize {
            return Err(SessionError::Limit { what: "entries", limit: self.limits.max_entries.into() });
        }
        let xattrs: usize = stat.xattrs.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.list_bytes += (stat.path.len() + stat.linkname.len() + xattrs) as u64;
        if self.list_bytes > self.limits.max_list_bytes {
            return Err(SessionError::Limit { what: "bytes of names", limit: self.limits.max_list_bytes });
        }
        if mode::to_unix(stat.mode).is_none() {
            return wrong("unknown file type");
        }
        if stat.size < 0 {
            return wrong("negative size");
        }
        if mode::is_symlink(stat.mode) && (stat.linkname.is_empty() || stat.linkname.contains(&0)) {
            return wrong("symlink without a usable target");
        }
        if stat.mode & mode::DEVICE != 0 {
            if !(0..=MAX_MAJOR).contains(&stat.devmajor) || !(0..=MAX_MINOR).contains(&stat.devminor) {
                return wrong("impossible device number");
            }
            if stat.mode & mode::CHAR_DEVICE != 0 && (stat.devmajor, stat.devminor) == (0, 0) {
                return wrong("character device 0/0, which would act as a whiteout");
            }
        }
        Ok(())
    }

    /// Orders the removal of what the earlier list had before `path` and this one has not.
    fn pass_vanished(&mut self, path: &[u8], jobs: &mut Vec<Job>) {
        while let Some(entry) = self.prev.get(self.cursor) {
            if compare_paths(&entry.stat.path, path).is_ge() {
                return;
            }
            self.vanish(jobs);
        }
    }

    /// Orders the removal of the earlier entry at the cursor and of all below it.
    fn vanish(&mut self, jobs: &mut Vec<Job>) {
        let gone = &self.prev[self.cursor].stat.path;
        jobs.push(Job::Remove(gone.clone()));
        let holder = parent(gone).and_then(|dir| self.find(dir));
        self.touch(holder, true);
        self.skip_below(gone);
    }

    /// Moves the cursor behind the entry `path` and all below it.
    fn skip_below(&mut self, path: &[u8]) {
        if self.prev.get(self.cursor).is_some_and(|entry| entry.stat.path == path) {
            self.cursor += 1;
        }
        while self.prev.get(self.cursor).is_some_and(|entry| is_below(&entry.stat.path, path)) {
            self.cursor += 1;
        }
    }

    /// Makes room for `stat` where `known` is now. A directory stays for a directory.
    fn replace(&mut self, known: Option<&Entry>, stat: &Stat, jobs: &mut Vec<Job>) {
        let Some(known) = known else { return };
        let was_dir = mode::is_dir(known.stat.mode);
        if was_dir && mode::is_dir(stat.mode) {
            return;
        }
        jobs.push(Job::Remove(stat.path.clone()));
        if was_dir {
            self.skip_below(&stat.path);
        }
    }

    /// The entry a hard link leads to; `None` if `stat` is no hard link.
    fn link_target(&self, stat: &Stat) -> Result<Option<u32>> {
        if stat.linkname.is_empty() || mode::is_symlink(stat.mode) {
            return Ok(None);
        }
        let wrong = |what| Err(SessionError::violation(what, shown(&stat.path)));
        let Some(target) = self.find(&stat.linkname) else {
            return wrong("hard link to a file that was not listed before");
        };
        let found = &self.entries[target as usize].stat;
        if !mode::is_regular(stat.mode) || !mode::is_regular(found.mode) || !found.linkname.is_empty() {
            return wrong("hard link to something that is not a regular file of its own");
        }
        Ok(Some(target))
    }

    fn find(&self, path: &[u8]) -> Option<u32> {
        let found = self.entries.binary_search_by(|planned| compare_paths(&planned.stat.path, path));
        found.ok().map(|at| at as u32)
    }

    /// Something changed in a directory: its time must be set again.
    fn touch(&mut self, dir: Option<u32>, changed: bool) {
        if let (Some(dir), true) = (dir, changed) {
            self.entries[dir as usize].unfinished = true;
        }
    }

    /// Orders the removal of what is left of the earlier list.
    pub(super) fn end_of_list(&mut self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        while self.cursor < self.prev.len() {
            self.vanish(&mut jobs);
        }
        Ok(jobs)
    }

    /// When all content is there: hard links, then modes and times of directories, innermost first.
    pub(super) fn closing(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (id, target) in self.links.clone() {
            let stale = self.entries[target as usize].fresh;
            let path = self.entries[id as usize].stat.path.clone();
            // An equal link to a file that was written anew still leads to the old one.
            if !stale && !self.entries[id as usize].fresh {
                continue;
            }
            self.entries[id as usize].fresh = true;
            let holder = parent(&path).and_then(|dir| self.find(dir));
            self.touch(holder, true);
            jobs.push(Job::Link { path, target: self.entries[target as usize].stat.path.clone() });
        }
        let dirs = self.entries.iter().rev().filter(|planned| planned.unfinished);
        jobs.extend(dirs.map(|planned| Job::Finish { stat: Box::new(planned.stat.clone()) }));
        jobs
    }

    /// The new index, with the digests of what was written.
    pub(super) fn into_index(mut self, digests: Digests) -> TreeIndex {
        for (id, digest) in digests {
            self.entries[id as usize].digest = Some(digest);
        }
        for (id, target) in &self.links {
            self.entries[*id as usize].digest = self.entries[*target as usize].digest;
        }
        // All that remain without a digest were skipped.
        let kept = self.entries.into_iter().filter(|planned| !planned.skipped);
        let entries = kept.filter_map(|planned| Some(Entry { stat: planned.stat, digest: planned.digest? }));
        TreeIndex::from_sorted(entries.collect())
    }
}
