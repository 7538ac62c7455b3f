use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

/// Bytes that wait for the disk before writers wait too. A burst of this size is nothing; more than one is
/// never in memory twice.
const MAX_PENDING: usize = 4 << 20;

/// Where the bytes of an event log live. Appended to by one flush at a time, read by many.
#[derive(Debug)]
pub(crate) enum Store {
    File { file: File, path: PathBuf },
    Memory(RwLock<Vec<u8>>),
}

impl Store {
    /// Reads at `offset`; 0 at the end.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.read_at(buffer, offset),
            Self::Memory(bytes) => {
                let bytes = bytes.read();
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let count = buffer.len().min(bytes.len() - start);
                buffer[..count].copy_from_slice(&bytes[start..start + count]);
                Ok(count)
            }
        }
    }

    fn append(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.write_all_at(bytes, offset),
            Self::Memory(all) => {
                all.write().extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// How far a spool has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    /// Bytes that can be read.
    pub(crate) length: u64,
    /// Nothing will follow.
    pub(crate) closed: bool,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    flushing: bool,
    closed: bool,
}

/// An append-only log. Appending puts bytes into a buffer; whoever finds nobody flushing starts a flush on the
/// blocking pool, which goes on until the buffer is empty. So many small events become few writes, and no
/// caller waits for the disk unless it is [`MAX_PENDING`] behind.
#[derive(Debug)]
pub(crate) struct Spool {
    store: Arc<Store>,
    pending: Mutex<Pending>,
    /// Held while bytes go to the store, so that batches keep their order.
    writing: Mutex<()>,
    extent: watch::Sender<Extent>,
}

impl Spool {
    pub(crate) fn create(path: &Path) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self::new(Store::File { file, path: path.to_owned() }))
    }

    pub(crate) fn memory() -> Arc<Self> {
        Self::new(Store::Memory(RwLock::default()))
    }

    fn new(store: Store) -> Arc<Self> {
        let extent = watch::Sender::new(Extent::default());
        Arc::new(Self {
            store: Arc::new(store),
            pending: Mutex::default(),
            writing: Mutex::default(),
            extent,
        })
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        self.store.clone()
    }

    pub(crate) fn extent(&self) -> watch::Receiver<Extent> {
        self.extent.subscribe()
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match &*self.store {
            Store::File { path, .. } => Some(path),
            Store::Memory(_) => None,
        }
    }

    /// Adds one record. After [`Spool::close`] it is dropped.
    pub(crate) fn append(self: &Arc<Self>, record: &[u8]) {
        let Ok(length) = u32::try_from(record.len()) else { return };
        let mut pending = self.pending.lock();
        if pending.closed {
            return;
        }
        pending.bytes.extend_from_slice(&length.to_le_bytes());
        pending.bytes.extend_from_slice(record);
        let overflow = pending.bytes.len() > MAX_PENDING;
        let start = !pending.flushing;
        pending.flushing = true;
        drop(pending);
        if overflow {
            self.flush_batch();
        }
        if start {
            self.start_flush();
        }
    }

    /// Whether the buffer has room for more without waiting for the disk.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.lock().bytes.len() < MAX_PENDING / 2
    }

    /// Ends the log once all of it is written.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut pending = self.pending.lock();
        if pending.closed {
            return;
        }
        pending.closed = true;
        let start = !pending.flushing;
        pending.flushing = true;
        drop(pending);
        if start {
            self.start_flush();
        }
    }

    fn start_flush(self: &Arc<Self>) {
        let spool = self.clone();
        let flush = move || while spool.flush_batch() {};
        match tokio::runtime::Handle::try_current() {
            // Ends by itself when the buffer is empty; nobody needs to wait for it but through `extent`.
            Ok(runtime) => drop(runtime.spawn_blocking(flush)),
            Err(_) => flush(),
        }
    }

    /// Writes what is in the buffer. False: there was nothing, and nobody is flushing any more.
    fn flush_batch(&self) -> bool {
        let _order = self.writing.lock();
        let (batch, closed) = {
            let mut pending = self.pending.lock();
            if pending.bytes.is_empty() {
                pending.flushing = false;
            }
            (std::mem::take(&mut pending.bytes), pending.closed)
        };
        let length = self.extent.borrow().length;
        if batch.is_empty() {
            self.extent.send_replace(Extent { length, closed });
            return false;
        }
        match self.store.append(&batch, length) {
            Ok(()) => {
                self.extent.send_replace(Extent { length: length + batch.len() as u64, closed: false });
            }
            // The next batch is written over the torn one, so the log stays readable.
            Err(error) => tracing::warn!(%error, bytes = batch.len(), "build events lost: spool not written"),
        }
        true
    }
}
