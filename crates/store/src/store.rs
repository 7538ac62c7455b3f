use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rbuild_content::{ContentOptions, ContentStore};
use rbuild_digest::Digest;
use rbuild_snapshot::{SnapshotId, Snapshotter, SnapshotterKind};
use tokio::sync::Semaphore;

use crate::checksum::TreeCache;
use crate::context::Names;
use crate::db::{Db, Table};
use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::janitor::Janitor;
use crate::lease::Pins;
use crate::lock::RootLock;
use crate::refs::{KeyedLocks, Live, ProviderFactory, Providers};
use crate::usage::Touched;

/// How often what was written is brought to disk. What is younger is dropped after a power cut, so a few seconds of
/// work; a shorter time costs a sync of the file system that often.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Blobs fetched at once: enough to fill a fast line in spite of round trips, few enough for a registry's limits.
const FETCH_PARALLEL: usize = 6;

/// How a [`Store`] behaves.
#[derive(Clone)]
pub struct StoreOptions {
    /// Overlayfs or copies.
    pub snapshotter: SnapshotterKind,
    /// How often what was written is brought to disk.
    pub sync_interval: Duration,
    /// Blobs fetched at once.
    pub fetch_parallel: usize,
    /// Layers unpacked or packed at once.
    pub pack_parallel: usize,
    /// Tests are told of each step of a commit.
    #[doc(hidden)]
    pub hook: Option<Arc<dyn Fn(&'static str) + Send + Sync>>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            snapshotter: SnapshotterKind::Auto,
            sync_interval: SYNC_INTERVAL,
            fetch_parallel: FETCH_PARALLEL,
            pack_parallel: cores(),
            hook: None,
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("snapshotter", &self.snapshotter)
            .field("sync_interval", &self.sync_interval)
            .field("fetch_parallel", &self.fetch_parallel)
            .field("pack_parallel", &self.pack_parallel)
            .finish_non_exhaustive()
    }
}

/// The cores of the machine.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the store's own thread needs too.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) root: PathBuf,
    pub(crate) db: Db,
    pub(crate) content: ContentStore,
    pub(crate) snaps: Arc<dyn Snapshotter>,
    pub(crate) touched: Mutex<Touched>,
    pub(crate) pins: Mutex<Pins>,
    /// Last, so that everything above is closed when another daemon may come.
    _lock: RootLock,
}

/// Refs over blobs and snapshots, in one root directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) janitor: Janitor,
    pub(crate) core: Arc<Core>,
    pub(crate) live: Mutex<Live>,
    pub(crate) names: Names,
    pub(crate) trees: Mutex<TreeCache>,
    pub(crate) providers: Mutex<Providers>,
    pub(crate) factory: RwLock<Option<Arc<dyn ProviderFactory>>>,
    pub(crate) blob_locks: KeyedLocks<Digest>,
    pub(crate) fetch_permits: Semaphore,
    pub(crate) pack_permits: Semaphore,
    pub(crate) collecting: tokio::sync::Mutex<()>,
    pub(crate) making_room: tokio::sync::Mutex<()>,
}

impl std::ops::Deref for Inner {
    type Target = Core;
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Store {
    /// Opens (makes) the store in `root`, and puts in order what a crash left.
    ///
    /// Blocking; tens of milliseconds. Errors: [`StoreError::Locked`], [`StoreError::Version`].
    pub fn open(root: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let root = root.as_ref();
        make_dir(root, 0o711)?;
        let root = root.canonicalize().map_err(|error| StoreError::io("resolve", root, error))?;
        let lock = RootLock::take(&root)?;
        for (name, mode) in [("named", 0o700), ("run", 0o711)] {
            make_dir(&root.join(name), mode)?;
        }
        let (db, opened) = Db::open(&root, &rbuild_sys::boot_id(), options.hook)?;
        let content = ContentStore::open_with(root.join("content"), ContentOptions::default())?;
        let snaps = rbuild_snapshot::open(root.join("snapshots"), options.snapshotter)?;
        let core = Arc::new(Core {
            root,
            db,
            content,
            snaps,
            touched: Mutex::default(),
            pins: Mutex::default(),
            _lock: lock,
        });
        crate::room::take_reserve(&core);
        let garbage = crate::repair::repair(&core, opened)?;
        let janitor = Janitor::start(core.clone(), options.sync_interval)?;
        janitor.remove(garbage);
        let names = Names::load(&core)?;
        let inner = Inner {
            janitor,
            core,
            live: Mutex::default(),
            names,
            trees: Mutex::default(),
            providers: Mutex::default(),
            factory: RwLock::new(None),
            blob_locks: KeyedLocks::default(),
            fetch_permits: Semaphore::new(options.fetch_parallel.max(1)),
            pack_permits: Semaphore::new(options.pack_parallel.max(1)),
            collecting: tokio::sync::Mutex::default(),
            making_room: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings everything to disk. Dropping the store without it loses nothing unless the power fails.
    pub async fn sync(&self) -> Result<()> {
        let core = self.inner.core.clone();
        blocking(move || core.checkpoint()).await
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where running steps keep what they need. Emptied when the store is opened.
    pub fn run_dir(&self) -> PathBuf {
        self.inner.root.join("run")
    }

    /// `overlayfs` or `native`.
    pub fn snapshotter_name(&self) -> &'static str {
        self.inner.snaps.name()
    }

    /// The blobs. Something written here stays only if a ref, an image or a [`crate::Lease`] needs it.
    pub fn content(&self) -> &ContentStore {
        &self.inner.content
    }

    /// Who is asked for the source of a layer that was pulled by an earlier daemon and never unpacked.
    pub fn set_provider_factory(&self, factory: Arc<dyn ProviderFactory>) {
        *self.inner.factory.write() = Some(factory);
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.inner)
    }

    /// A small value that a source remembers (an ETag, the head of a branch).
    pub fn kv_get(&self, space: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.db.get(Table::Values, &value_key(space, key))
    }

    /// Remembers a small value.
    pub async fn kv_put(&self, space: &str, key: &[u8], value: &[u8]) -> Result<()> {
        let (core, key, value) = (self.inner.core.clone(), value_key(space, key), value.to_vec());
        blocking(move || core.db.update(|tx| tx.put(Table::Values, &key, &value))).await
    }

    /// Forgets a small value.
    pub async fn kv_delete(&self, space: &str, key: &[u8]) -> Result<()> {
        let (core, key) = (self.inner.core.clone(), value_key(space, key));
        blocking(move || core.db.update(|tx| tx.delete(Table::Values, &key))).await
    }

    /// All small values of a space, by key.
    pub fn kv_list(&self, space: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let prefix = value_key(space, b"");
        let rows = self.inner.db.scan(Table::Values, &prefix)?;
        Ok(rows.into_iter().map(|(key, value)| (key[prefix.len()..].to_vec(), value)).collect())
    }
}

fn value_key(space: &str, key: &[u8]) -> Vec<u8> {
    [space.as_bytes(), b"\0", key].concat()
}

/// What nobody needs any more and the row of which is gone.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    pub(crate) snapshots: Vec<SnapshotId>,
    pub(crate) blobs: HashSet<Digest>,
    /// Directories under `named/`.
    pub(crate) named: Vec<RefId>,
}

impl Garbage {
    pub(crate) fn add(&mut self, more: Self) {
        self.snapshots.extend(more.snapshots);
        self.blobs.extend(more.blobs);
        self.named.extend(more.named);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.blobs.is_empty() && self.named.is_empty()
    }
}

impl Core {
    /// Makes all that was committed so far survive a power cut.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.flush_touched()?;
        self.db.checkpoint(|| {
            // What is older than `synced` is on disk. It gets its name after the sync, so it is never too young.
            let (new, path) = (self.root.join("synced.new"), self.root.join("synced"));
            std::fs::write(&new, b"").map_err(|error| StoreError::io("write", &new, error))?;
            let dir =
                std::fs::File::open(&self.root).map_err(|error| StoreError::io("open", &self.root, error))?;
            rbuild_sys::syncfs(&dir)?;
            std::fs::rename(&new, &path).map_err(|error| StoreError::io("rename", &new, error))
        })
    }

    /// Whether a file was on disk for sure when the machine went down, going by when it was last changed. A clock
    /// that was set back within the last sync interval would fool it.
    pub(crate) fn was_synced(&self, path: &Path) -> Result<bool> {
        let changed = |path: &Path| match std::fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some((meta.ctime(), meta.ctime_nsec()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("stat", path, error)),
        };
        let synced = match std::fs::symlink_metadata(self.root.join("synced")) {
            // Its rename came after the sync; its last write before.
            Ok(meta) => Some((meta.mtime(), meta.mtime_nsec())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(StoreError::io("stat", &self.root.join("synced"), error)),
        };
        Ok(changed(path)?.zip(synced).is_some_and(|(changed, synced)| changed < synced))
    }

    pub(crate) fn flush_touched(&self) -> Result<()> {
        let touched = std::mem::take(&mut *self.touched.lock());
        if touched.is_empty() {
            return Ok(());
        }
        let written = self.db.update(|tx| crate::usage::write_touched(tx, &touched));
        if written.is_err() {
            let mut now = self.touched.lock();
            for (id, (last, count)) in touched {
                let entry = now.entry(id).or_default();
                *entry = (entry.0.max(last), entry.1 + count);
            }
        }
        written
    }

    /// Removes files whose rows are gone. The removal of the rows has to be on disk before: after a power cut they
    /// would otherwise be there again, over half a directory.
    pub(crate) fn remove(&self, garbage: &Garbage) -> Result<()> {
        self.checkpoint()?;
        for id in &garbage.snapshots {
            self.snaps.remove(id)?;
        }
        for id in &garbage.named {
            let path = self.root.join("named").join(id.as_str());
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path, error));
                }
                _ => {}
            }
        }
        for digest in &garbage.blobs {
            self.delete_blob(digest)?;
        }
        Ok(())
    }

    /// Deletes a blob unless somebody has come to need it since.
    fn delete_blob(&self, digest: &Digest) -> Result<()> {
        // Whoever wants a blob first pins it and then looks whether it is here, so the lock decides who was first.
        let pins = self.pins.lock();
        if pins.is_pinned(digest) || !self.db.scan(Table::Blobs, digest.as_bytes())?.is_empty() {
            return Ok(());
        }
        self.content.delete(digest)?;
        Ok(())
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| StoreError::io("create", path, error))
}

/// Runs `f` on the blocking pool, to its end even if the caller goes away.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Worker { detail: error.to_string() }),
    }
}

/// A bounded map that forgets what was put in longest ago.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    map: HashMap<K, (u64, V)>,
    clock: u64,
    limit: usize,
}

impl<K: std::hash::Hash + Eq + Clone, V> Recent<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { map: HashMap::new(), clock: 0, limit }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&mut V> {
        self.clock += 1;
        let clock = self.clock;
        self.map.get_mut(key).map(|entry| {
            entry.0 = clock;
            &mut entry.1
        })
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        self.clock += 1;
        self.map.insert(key, (self.clock, value));
        if self.map.len() > self.limit {
            // Drops the older half at once, so that the cost per entry is constant.
            let mut ages: Vec<u64> = self.map.values().map(|(age, _)| *age).collect();
            let middle = ages.len() / 2;
            let (_, limit, _) = ages.select_nth_unstable(middle);
            let limit = *limit;
            self.map.retain(|_, (age, _)| *age >= limit);
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.map.remove(key).map(|(_, value)| value)
    }
}
