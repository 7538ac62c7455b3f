//! Puts in order what a crash or a power cut left: rows first, then files. Linear in the number of rows and files
//! named by them; nothing is read but the database and directory listings.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rbuild_snapshot::SnapshotId;
use rbuild_sys::Root;

use crate::db::{Opened, Table};
use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::rows::{MARK_REF, NamedKind, NamedRow, RefRow, delete_ref, from_json, put_ref};
use crate::store::{Core, Garbage};

/// Brings rows and files together; gives back what nothing names, to be removed in the background.
pub(crate) fn repair(core: &Core, opened: Opened) -> Result<Garbage> {
    empty_run_dir(&core.root.join("run"))?;
    let mut state = State::read(core)?;
    if opened == Opened::OtherBoot {
        state.drop_unsynced(core)?;
    }
    state.check_snapshots();
    state.drop_orphans();
    state.write(core)?;
    state.garbage(core)
}

struct State {
    refs: HashMap<RefId, RefRow>,
    /// Refs that have to go.
    lost: HashSet<RefId>,
    /// Refs whose row changed: the layer is here no more but can be fetched again.
    changed: HashSet<RefId>,
    named: HashMap<RefId, NamedRow>,
    lost_named: HashSet<RefId>,
    snapshots: HashSet<SnapshotId>,
}

impl State {
    fn read(core: &Core) -> Result<Self> {
        let mut refs = HashMap::new();
        for (id, bytes) in core.db.scan(Table::Refs, b"")? {
            let id = RefId::from_bytes(&id).ok_or_else(|| StoreError::corrupt("refs", "a key is no id"))?;
            refs.insert(id, from_json(Table::Refs, &bytes)?);
        }
        let mut named = HashMap::new();
        for (id, bytes) in core.db.scan(Table::Named, b"")? {
            let id = RefId::from_bytes(&id).ok_or_else(|| StoreError::corrupt("named", "a key is no id"))?;
            named.insert(id, from_json(Table::Named, &bytes)?);
        }
        let snapshots = core.snaps.list()?.into_iter().collect();
        Ok(Self {
            refs,
            lost: HashSet::new(),
            changed: HashSet::new(),
            named,
            lost_named: HashSet::new(),
            snapshots,
        })
    }

    /// The machine was restarted: what was not synced before may be damaged.
    fn drop_unsynced(&mut self, core: &Core) -> Result<()> {
        for (mark, _) in core.db.scan(Table::Unsynced, b"")? {
            let name = mark.strip_prefix(MARK_REF);
            if let Some(id) = name.and_then(RefId::from_bytes) {
                self.lose_snapshot(id);
            }
        }
        let mut blobs = Vec::new();
        core.content.walk(|digest, _| blobs.push(digest))?;
        for digest in blobs {
            if !core.was_synced(&core.content.path(&digest))? {
                core.content.delete(&digest)?;
            }
        }
        for (id, row) in &self.named {
            // Cache mounts stay as they are: their users cope with what an aborted step leaves, too.
            let index = core.root.join("named").join(id.as_str()).join("index");
            if row.kind == NamedKind::LocalContext && !core.was_synced(&index)? {
                self.lost_named.insert(*id);
            }
        }
        Ok(())
    }

    /// A ref's files cannot be used: it is lazy again if its layer can be fetched, and lost otherwise.
    fn lose_snapshot(&mut self, id: RefId) {
        let Some(row) = self.refs.get_mut(&id) else { return };
        row.snapshot = None;
        row.flat = None;
        row.own_size = None;
        let can_fetch = row.blobs.iter().any(|blob| blob.remote);
        let can_compute = !matches!(row.kind, crate::rows::Kind::Layer { .. });
        if can_fetch || can_compute {
            self.changed.insert(id);
        } else {
            self.lost.insert(id);
        }
    }

    fn check_snapshots(&mut self) {
        let missing: Vec<RefId> = self
            .refs
            .iter()
            .filter(|(_, row)| {
                let is_gone = |snapshot| !self.snapshots.contains(snapshot);
                row.snapshot.as_ref().map_or(row.is_hollow(), is_gone)
                    || row.flat.as_ref().is_some_and(is_gone)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in missing {
            self.lose_snapshot(id);
        }
        let gone = self.named.iter().filter(|(_, row)| !self.snapshots.contains(&row.snapshot));
        self.lost_named.extend(gone.map(|(id, _)| *id));
    }

    /// What needs a lost ref is lost too.
    fn drop_orphans(&mut self) {
        let mut children: HashMap<RefId, Vec<RefId>> = HashMap::new();
        for (id, row) in &self.refs {
            for need in row.needs() {
                if !self.refs.contains_key(&need) {
                    self.lost.insert(*id);
                }
                children.entry(need).or_default().push(*id);
            }
        }
        let mut todo: Vec<RefId> = self.lost.iter().copied().collect();
        while let Some(id) = todo.pop() {
            for child in children.get(&id).into_iter().flatten() {
                if self.lost.insert(*child) {
                    todo.push(*child);
                }
            }
        }
        let lost = &self.lost;
        let without_base = self.named.iter().filter(|(_, row)| {
            row.base.as_ref().is_some_and(|base| lost.contains(base) || !self.refs.contains_key(base))
        });
        let without_base: Vec<RefId> = without_base.map(|(id, _)| *id).collect();
        self.lost_named.extend(without_base);
    }

    fn write(&mut self, core: &Core) -> Result<()> {
        let has_marks = !core.db.scan(Table::Unsynced, b"")?.is_empty();
        if self.lost.is_empty() && self.changed.is_empty() && self.lost_named.is_empty() && !has_marks {
            return Ok(());
        }
        if !self.lost.is_empty() {
            tracing::info!(refs = self.lost.len(), "results that were not completely on disk are dropped");
        }
        core.db.update(|tx| {
            for id in self.lost.iter().filter_map(|id| self.refs.get_key_value(id)) {
                delete_ref(tx, id.0, id.1)?;
            }
            for id in self.changed.difference(&self.lost) {
                if let Some(row) = self.refs.get(id) {
                    put_ref(tx, id, row)?;
                }
            }
            for id in &self.lost_named {
                tx.delete(Table::Named, id.as_bytes())?;
                tx.delete(Table::Usage, id.as_bytes())?;
            }
            Ok(())
        })?;
        self.refs.retain(|id, _| !self.lost.contains(id));
        self.named.retain(|id, _| !self.lost_named.contains(id));
        Ok(())
    }

    /// Files that no row names. Nobody uses the store yet, so they are nobody's.
    fn garbage(&self, core: &Core) -> Result<Garbage> {
        let named: HashSet<&SnapshotId> = self
            .refs
            .values()
            .flat_map(|row| row.snapshot.iter().chain(&row.flat))
            .chain(self.named.values().map(|row| &row.snapshot))
            .collect();
        let snapshots = self.snapshots.iter().filter(|id| !named.contains(id)).cloned().collect();
        let needed: HashSet<Vec<u8>> = core
            .db
            .scan(Table::Blobs, b"")?
            .into_iter()
            .filter_map(|(key, _)| key.get(..32).map(<[u8]>::to_vec))
            .collect();
        let mut blobs = HashSet::new();
        core.content.walk(|digest, _| {
            if !needed.contains(&digest.as_bytes()[..]) {
                blobs.insert(digest);
            }
        })?;
        let dir = Root::open(core.root.join("named"))?;
        let dirs = dir.read_dir()?.into_iter().filter_map(|entry| RefId::parse(entry.name.to_str()?));
        let named = dirs.filter(|id| !self.named.contains_key(id)).collect();
        Ok(Garbage { snapshots, blobs, named })
    }
}

/// Empties `run/`. Something may still be mounted there if a daemon was killed: that is let go first, so that
/// nothing is removed through a mount.
fn empty_run_dir(run: &Path) -> Result<()> {
    let info = Path::new("/proc/self/mountinfo");
    let mounts = std::fs::read_to_string(info).map_err(|error| StoreError::io("read", info, error))?;
    // Fifth field; the kernel writes spaces and such as octal escapes.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(run) && point != run).collect();
    points.sort();
    for point in points.iter().rev() {
        let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(point, flags)
            .map_err(|error| StoreError::io("unmount", point, error.into()))?;
    }
    Ok(Root::open(run)?.clear()?)
}

fn unescape(field: &str) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}
