//! Directories that are found again by a name: the names, and local contexts.
//!
//! A local context is the copy of a client's directory that the next transfer starts from. It is taken exclusively;
//! once the transfer is done, the same files are a [`Ref`] for as long as somebody holds it, and then the copy is
//! free again. If something lasting is built upon the ref, the files become an ordinary ref and lose their name.

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_snapshot::SnapshotId;
use rbuild_sys::{MountTree, Root};
use tokio::sync::Notify;

use crate::checksum::{EntryKind, Tree};
use crate::db::Table;
use crate::error::{Result, StoreError};
use crate::footprint::Footprint;
use crate::id::RefId;
use crate::refs::{ActiveSnapshot, Node, Ref};
use crate::rows::{Kind, NamedKind, NamedRow, RecordType, RefRow, from_json, mark_ref, now_ms, put_ref};
use crate::store::{Core, Garbage, Store, blocking};
use crate::usage::put_named;

/// Use of a named directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) id: RefId,
}

/// A named directory and who uses it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) row: NamedRow,
    pub(crate) holders: usize,
    /// The holder shares with nobody.
    pub(crate) exclusive: bool,
    /// The one mount of it, if it has to be mounted to be used.
    pub(crate) mount: Option<Arc<MountTree>>,
    /// What it takes on disk, if nobody has used it since somebody asked.
    pub(crate) measured: Option<Arc<Footprint>>,
}

/// All named directories. The rows in the database are a copy of these.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) all: Mutex<HashMap<RefId, Named>>,
    /// Something became free.
    pub(crate) freed: Notify,
    /// Held while one is looked for and made, so that two do not make the same.
    pub(crate) making: tokio::sync::Mutex<()>,
}

impl Names {
    pub(crate) fn load(core: &Core) -> Result<Self> {
        let mut all = HashMap::new();
        for (id, bytes) in core.db.scan(Table::Named, b"")? {
            let Some(id) = RefId::from_bytes(&id) else { continue };
            let row = from_json(Table::Named, &bytes)?;
            all.insert(id, Named { row, holders: 0, exclusive: false, mount: None, measured: None });
        }
        Ok(Self { all: Mutex::new(all), freed: Notify::new(), making: tokio::sync::Mutex::default() })
    }

    /// Ends a use. Does not block.
    pub(crate) fn release(&self, hold: &Hold) {
        let mount = {
            let mut all = self.all.lock();
            let Some(named) = all.get_mut(&hold.id) else { return };
            named.holders = named.holders.saturating_sub(1);
            if named.holders == 0 {
                named.exclusive = false;
                // What was written through it changed the size.
                named.measured = None;
                named.mount.take()
            } else {
                None
            }
        };
        drop(mount);
        self.freed.notify_waiters();
    }

    /// The oldest free one of a kind and key, taken.
    pub(crate) fn take_free(&self, kind: NamedKind, key: &str, exclusive: bool) -> Option<(Hold, NamedRow)> {
        let mut all = self.all.lock();
        let free = all
            .iter_mut()
            .filter(|(_, named)| named.holders == 0 && named.row.kind == kind && named.row.key == key);
        let (id, named) = free.min_by_key(|(_, named)| named.row.created_ms)?;
        named.holders = 1;
        named.exclusive = exclusive;
        Some((Hold { id: *id }, named.row.clone()))
    }

    /// Now, or just after the youngest: the order of making is kept also within a millisecond.
    pub(crate) fn next_created_ms(&self) -> i64 {
        let youngest = self.all.lock().values().map(|named| named.row.created_ms).max();
        youngest.map_or_else(now_ms, |youngest| now_ms().max(youngest + 1))
    }

    /// Adds one that is taken by whoever made it.
    pub(crate) fn add_taken(&self, id: RefId, row: NamedRow, exclusive: bool) -> Hold {
        self.all.lock().insert(id, Named { row, holders: 1, exclusive, mount: None, measured: None });
        Hold { id }
    }

    pub(crate) fn list(&self) -> Vec<(RefId, NamedRow, bool)> {
        let all = self.all.lock();
        all.iter().map(|(id, named)| (*id, named.row.clone(), named.holders > 0)).collect()
    }

    /// What one took when it was measured, if nobody has used it since.
    pub(crate) fn measured(&self, id: &RefId) -> Option<Arc<Footprint>> {
        self.all.lock().get(id).and_then(|named| named.measured.clone())
    }

    /// Notes what one takes, unless it is in use.
    pub(crate) fn set_measured(&self, id: &RefId, footprint: &Arc<Footprint>) {
        if let Some(named) = self.all.lock().get_mut(id).filter(|named| named.holders == 0) {
            named.measured = Some(footprint.clone());
        }
    }

    /// Takes a free one away for good, so that its row can be removed.
    pub(crate) fn take_away(&self, id: &RefId) -> Option<NamedRow> {
        let mut all = self.all.lock();
        if all.get(id)?.holders > 0 {
            return None;
        }
        all.remove(id).map(|named| named.row)
    }

    pub(crate) fn put_back(&self, id: RefId, row: NamedRow) {
        self.all.lock().insert(id, Named { row, holders: 0, exclusive: false, mount: None, measured: None });
    }
}

/// One entry of a local context, as its receiver knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// Relative, `/` separated.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Digest of [`crate::FileHeader`] and, of a regular file, its bytes.
    pub digest: Digest,
}

/// The copy of a client's directory, taken exclusively. Dropped without [`LocalContext::finish`], its contents are
/// thrown away, as nobody knows what they are.
#[derive(Debug)]
pub struct LocalContext {
    hold: Option<Hold>,
    snapshot: SnapshotId,
    description: String,
    index: Option<Vec<u8>>,
    store: Store,
}

impl Store {
    /// Takes the copy that was left under `key`, or makes an empty one. Several builds get several copies.
    pub async fn local_context(&self, key: &str, description: &str) -> Result<LocalContext> {
        let (store, key, description) = (self.clone(), key.to_owned(), description.to_owned());
        blocking(move || {
            let names = &store.inner.names;
            let (hold, row) = match names.take_free(NamedKind::LocalContext, &key, true) {
                Some(found) => found,
                None => store.make_named(NamedKind::LocalContext, &key, None, &description, true)?,
            };
            // From here on a drop gives the copy back.
            let mut context = LocalContext {
                hold: Some(hold),
                snapshot: row.snapshot.clone(),
                description,
                index: None,
                store: store.clone(),
            };
            context.open(row)?;
            Ok(context)
        })
        .await
    }

    /// Makes a named directory, taken.
    pub(crate) fn make_named(
        &self,
        kind: NamedKind,
        key: &str,
        base: Option<&Arc<Node>>,
        description: &str,
        exclusive: bool,
    ) -> Result<(Hold, NamedRow)> {
        let id = RefId::fresh();
        let parents = base.map(|node| self.snapshots(node)).transpose()?.unwrap_or_default();
        let active = ActiveSnapshot::prepare(self, SnapshotId::parse(id.as_str())?, &parents)?;
        let row = NamedRow {
            kind,
            key: key.to_owned(),
            snapshot: active.id().clone(),
            base: base.map(|node| node.id),
            created_ms: self.inner.names.next_created_ms(),
            description: description.to_owned(),
        };
        self.inner.db.update(|tx| put_named(tx, &id, &row))?;
        active.keep();
        if let Some(base) = base {
            self.inner.live.lock().note_need(base.id);
        }
        Ok((self.inner.names.add_taken(id, row.clone(), exclusive), row))
    }

    /// Something lasting is about to be built upon a node: if it is the view of a local context, the files lose
    /// their name and become an ordinary ref. Blocking.
    pub(crate) fn make_permanent(&self, node: &Arc<Node>) -> Result<()> {
        let mut guard = node.hold.lock();
        let Some(hold) = *guard else { return Ok(()) };
        let core = &self.inner.core;
        let row = node.row.lock().clone();
        core.db.update(|tx| {
            tx.delete(Table::Named, hold.id.as_bytes())?;
            tx.delete(Table::Usage, hold.id.as_bytes())?;
            tx.unsynced(&mark_ref(&node.id))?;
            put_ref(tx, &node.id, &row)
        })?;
        *guard = None;
        drop(guard);
        self.inner.live.lock().insert(node);
        self.inner.names.all.lock().remove(&hold.id);
        self.inner.janitor.remove(Garbage { named: vec![hold.id], ..Garbage::default() });
        Ok(())
    }
}

impl LocalContext {
    fn dir(&self) -> PathBuf {
        let id = self.hold.map(|hold| hold.id.to_string()).unwrap_or_default();
        self.store.inner.root.join("named").join(id)
    }

    /// Takes the index away, so that a crash during the transfer leaves none; without one the contents are
    /// of no use.
    fn open(&mut self, mut row: NamedRow) -> Result<()> {
        let Some(hold) = self.hold else { return Ok(()) };
        let dir = self.dir();
        std::fs::create_dir_all(&dir).map_err(|error| StoreError::io("create", &dir, error))?;
        let (index, open) = (dir.join("index"), dir.join("index.open"));
        match std::fs::rename(&index, &open) {
            Ok(()) => {
                let bytes = std::fs::read(&open).map_err(|error| StoreError::io("read", &open, error))?;
                self.index = Some(bytes);
                return Ok(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("rename", &index, error)),
        }
        if self.store.inner.snaps.dir(&row.snapshot)?.read_dir()?.is_empty() {
            return Ok(());
        }
        let fresh = ActiveSnapshot::prepare(&self.store, SnapshotId::random(), &[])?;
        let old = std::mem::replace(&mut row.snapshot, fresh.id().clone());
        self.store.inner.db.update(|tx| put_named(tx, &hold.id, &row))?;
        self.snapshot = fresh.keep();
        if let Some(named) = self.store.inner.names.all.lock().get_mut(&hold.id) {
            named.row = row;
        }
        self.store.inner.janitor.remove(Garbage { snapshots: vec![old], ..Garbage::default() });
        Ok(())
    }

    /// The directory to bring up to date.
    pub fn root(&self) -> Result<Root> {
        Ok(self.store.inner.snaps.dir(&self.snapshot)?)
    }

    /// What the last transfer gave to [`LocalContext::finish`]; without one the directory is empty.
    pub fn index(&self) -> Option<&[u8]> {
        self.index.as_deref()
    }

    /// The transfer is complete: `index` is kept for the next one, `entries` (in any order, parents needed) are what
    /// is in the directory now. Nobody writes to it while the ref lives.
    pub async fn finish(mut self, index: Vec<u8>, entries: Vec<ContextEntry>) -> Result<Ref> {
        blocking(move || {
            let hold = self.hold.ok_or_else(|| StoreError::corrupt("named", "taken twice"))?;
            self.keep_index(&index)?;
            let mut tree = Tree::context();
            for entry in &entries {
                tree.update(&entry.path, entry.kind.clone(), entry.digest);
            }
            let kind = Kind::Layer { parent: None };
            let mut row = RefRow::new(kind, &self.description, RecordType::SourceLocal);
            row.snapshot = Some(self.snapshot.clone());
            row.context = true;
            let node = Node::new(&self.store, RefId::fresh(), row, Vec::new());
            *node.hold.lock() = self.hold.take();
            *node.tree.lock() = Some(Arc::new(Mutex::new(tree)));
            self.store.touch(&hold.id);
            Ok(Ref::new(&self.store, Arc::new(node)))
        })
        .await
    }

    /// The transfer failed: what came of it is of no use to the next one and gives its room back now.
    pub async fn discard(self) -> Result<()> {
        blocking(move || Ok(self.root()?.clear()?)).await
    }

    fn keep_index(&self, index: &[u8]) -> Result<()> {
        let dir = self.dir();
        let (path, open) = (dir.join("index"), dir.join("index.open"));
        if self.index.as_deref() == Some(index) {
            return std::fs::rename(&open, &path).map_err(|error| StoreError::io("rename", &open, error));
        }
        let new = dir.join("index.new");
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| std::io::Write::write_all(&mut file, index));
        written.map_err(|error| StoreError::io("write", &new, error))?;
        std::fs::rename(&new, &path).map_err(|error| StoreError::io("rename", &new, error))?;
        match std::fs::remove_file(&open) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &open, error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for LocalContext {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.store.inner.names.release(&hold);
        }
    }
}
