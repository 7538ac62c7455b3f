//! The file transfer protocol, both ends.
//!
//! The *sender* streams one STAT per entry in walk order (depth first, names bytewise, `/` the smallest byte) and an
//! empty STAT at the end. The n-th STAT has id n. The *receiver* answers REQ(id) for the regular files whose bytes it
//! wants; the sender answers with DATA(id, ≤ 32 KiB)… and an empty DATA(id) as end of file, several files interleaved.
//! When the receiver has all it sends FIN, the sender answers FIN. ERR carries a text, from either side. Where both ends
//! are ours the packets travel in batches (`batch.rs`); all else is the same.
//!
//! The receiver reads all the time and writes on blocking threads, fed through bounded channels; it asks for a file as
//! soon as its STAT arrived. Hashing happens on the writing thread while the bytes are hot. The sender walks on one
//! blocking thread and reads files on a few more.

mod batch;
mod disk;
mod export;
mod follow;
mod index;
mod order;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod walk;
mod wire;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use batch::Compressor;
pub(crate) use batch::{Form, PacketBatch, opened, singly};
pub use export::FileSink;
pub use index::{Entry, TreeIndex};
pub use order::{compare_paths, is_clean_path};
pub use receive::receive;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use receive::run_as as run_receiver_as;
pub(crate) use receive::{Incoming, Say, run as run_receiver};
pub(crate) use send::{Batch, SenderCall, batches, serve_sender};
pub use send::{Owner, SendOptions};
pub use walk::{ExportRoot, ExtraFile};
pub use wire::Stat;
pub(crate) use wire::{Packet, shown};

use crate::names;

/// Which directory of the client, and what of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSyncRequest {
    /// `context`, `dockerfile`, or a named context.
    pub name: String,
    /// Only paths that match (or lie below a match); empty: all.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
    /// Paths to include with what their symlinks lead to.
    pub follow_paths: Vec<String>,
}

/// Begins the digest of an entry: a hasher that has already taken the header record made of `stat`.
///
/// For regular files the content follows; for all else the header is all.
pub trait RecordHasher: Send + Sync {
    /// A primed hasher.
    fn start(&self, stat: &Stat) -> rbuild_digest::Hasher;
}

/// How much has been transferred; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct TransferCounter {
    bytes: AtomicU64,
    files: AtomicU64,
}

impl TransferCounter {
    /// Starts at zero.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Bytes of packets so far: file data and file list.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files whose data came so far.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub(crate) fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a receiver puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in the list.
    pub max_entries: u32,
    /// Bytes of names, link targets and attributes in the list, together: what must be held in memory.
    pub max_list_bytes: u64,
    /// Silence after which the transfer fails.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_entries: 8_000_000, max_list_bytes: 1 << 30, stall: Duration::from_secs(120) }
    }
}

/// How received entries are put on disk.
#[derive(Clone)]
pub struct ReceiveOptions {
    /// Keep what the sender does not name (exports into a user's directory) instead of removing it.
    pub merge: bool,
    /// Owner of everything written, instead of the one in the STATs.
    pub owner: Option<(u32, u32)>,
    /// Bounds.
    pub limits: Limits,
    /// Request all files, even those that did not change.
    pub request_all: bool,
    /// Counts along.
    pub counter: Arc<TransferCounter>,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            merge: false,
            owner: None,
            limits: Limits::default(),
            request_all: false,
            counter: TransferCounter::new(),
        }
    }
}

impl std::fmt::Debug for ReceiveOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveOptions")
            .field("merge", &self.merge)
            .field("owner", &self.owner)
            .field("limits", &self.limits)
            .field("request_all", &self.request_all)
            .finish_non_exhaustive()
    }
}

impl FileSyncRequest {
    pub(crate) fn to_metadata(&self, map: &mut tonic::metadata::MetadataMap) -> crate::Result<()> {
        crate::metadata::append(map, names::DIR_NAME, std::slice::from_ref(&self.name))?;
        crate::metadata::append(map, names::INCLUDE_PATTERNS, &self.include)?;
        crate::metadata::append(map, names::EXCLUDE_PATTERNS, &self.exclude)?;
        crate::metadata::append(map, names::FOLLOW_PATHS, &self.follow_paths)
    }

    pub(crate) fn from_metadata(map: &tonic::metadata::MetadataMap) -> Self {
        let values = |key| crate::metadata::values(map, key);
        Self {
            name: values(names::DIR_NAME).into_iter().next().unwrap_or_default(),
            include: values(names::INCLUDE_PATTERNS),
            exclude: values(names::EXCLUDE_PATTERNS),
            follow_paths: values(names::FOLLOW_PATHS),
        }
    }
}
