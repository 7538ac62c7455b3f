use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_content::ContentError;
use rbuild_digest::Digest;
use rbuild_snapshot::SnapshotError;
use rbuild_sys::SysError;

use crate::RefId;
use crate::checksum::ChecksumError;
use crate::filter::FilterError;

/// What every fallible function of the crate returns.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What can go wrong in the store. Causes are shared, so that everybody who waited for one failure gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another daemon owns the root directory.
    #[error("`{}` is in use by another daemon (pid {pid}); stop it or choose another --root", root.display())]
    Locked {
        /// The root directory.
        root: PathBuf,
        /// Who has it, as the lock file says.
        pid: String,
    },
    /// The state was written by a newer rbuild.
    #[error(
        "`{}` was written by a newer version (format {found}, this one reads up to {supported}): \
         use that version, or choose another --root", path.display()
    )]
    Version {
        /// The database.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this code knows.
        supported: u32,
    },
    /// The database has changed on disk, as disks do.
    #[error(
        "the metadata database `{}` is damaged: {detail}; move it away to start with an empty cache", path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The disk is full.
    #[error("no space left on device: {what}")]
    NoSpace {
        /// What was being written.
        what: String,
    },
    /// The database failed.
    #[error("metadata database: {action}: {source}")]
    Database {
        /// What was being done.
        action: &'static str,
        /// Why not.
        #[source]
        source: Arc<redb::Error>,
    },
    /// A row cannot be read.
    #[error("metadata database: a row of `{table}` is damaged: {detail}")]
    Corrupt {
        /// Where.
        table: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A file of the store's own.
    #[error("{action} `{}`: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// A blob.
    #[error(transparent)]
    Content(Arc<ContentError>),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(Arc<SnapshotError>),
    /// A system call.
    #[error(transparent)]
    Sys(Arc<SysError>),
    /// Bytes could not be compressed or decompressed.
    #[error("layer {digest}: {source}")]
    Compress {
        /// Which layer.
        digest: String,
        /// Why.
        #[source]
        source: Arc<rbuild_oci::CompressError>,
    },
    /// The ref was removed.
    #[error("ref {id} is no longer there")]
    Missing {
        /// Which one.
        id: RefId,
    },
    /// A layer is neither here nor can it be fetched.
    #[error("layer {digest} is not here and its source (`{origin}`) is not known to this daemon any more")]
    SourceGone {
        /// Its blob.
        digest: Digest,
        /// Where it came from.
        origin: String,
    },
    /// A layer's source failed.
    #[error("layer {digest} from `{origin}`: {source}")]
    Fetch {
        /// Its blob.
        digest: Digest,
        /// Where it comes from.
        origin: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The unpacked bytes are not what the image's config promised.
    #[error("layer {blob} unpacks to {found}, the image's config says {expected}")]
    DiffId {
        /// The compressed blob.
        blob: Digest,
        /// What the config says.
        expected: Digest,
        /// What came out.
        found: Digest,
    },
    /// A content digest could not be computed.
    #[error(transparent)]
    Checksum(#[from] ChecksumError),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A worker thread ended early: a bug, or the runtime is shutting down.
    #[error("a worker thread of the store ended early: {detail}")]
    Worker {
        /// How.
        detail: String,
    },
}

impl StoreError {
    /// Whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Whether bytes that came from elsewhere are not those that were promised.
    pub fn is_wrong_content(&self) -> bool {
        match self {
            Self::DiffId { .. } => true,
            Self::Content(error) => {
                matches!(**error, ContentError::DigestMismatch { .. } | ContentError::SizeMismatch { .. })
            }
            _ => false,
        }
    }

    /// Whether what was asked for is not there (a path in a checksum, a removed ref).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Checksum(ChecksumError::NotFound { .. }))
    }

    /// Whether a layer cannot be had without asking its source again.
    pub fn is_source_gone(&self) -> bool {
        matches!(self, Self::SourceGone { .. })
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::NoSpace { what: format!("{action} `{}`", path.display()) };
        }
        Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn database(action: &'static str, source: impl Into<redb::Error>) -> Self {
        match source.into() {
            redb::Error::Io(error) if is_full(&error) => {
                Self::NoSpace { what: format!("metadata database: {action}") }
            }
            source => Self::Database { action, source: Arc::new(source) },
        }
    }

    pub(crate) fn compress(what: impl std::fmt::Display, source: rbuild_oci::CompressError) -> Self {
        if full_below(&source) {
            return Self::NoSpace { what: format!("layer {what}") };
        }
        Self::Compress { digest: what.to_string(), source: Arc::new(source) }
    }

    pub(crate) fn corrupt(table: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Corrupt { table, detail: detail.to_string() }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a full disk is somewhere in the chain of causes.
fn full_below(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if error.downcast_ref::<io::Error>().is_some_and(is_full)
            || error.downcast_ref::<SysError>().is_some_and(SysError::is_no_space)
        {
            return true;
        }
        at = error.source();
    }
    false
}

impl From<ContentError> for StoreError {
    fn from(error: ContentError) -> Self {
        if error.is_no_space() {
            return Self::NoSpace { what: error.to_string() };
        }
        Self::Content(Arc::new(error))
    }
}

impl From<SnapshotError> for StoreError {
    fn from(error: SnapshotError) -> Self {
        if full_below(&error) {
            return Self::NoSpace { what: error.to_string() };
        }
        Self::Snapshot(Arc::new(error))
    }
}

impl From<SysError> for StoreError {
    fn from(error: SysError) -> Self {
        if error.is_no_space() {
            return Self::NoSpace { what: error.to_string() };
        }
        Self::Sys(Arc::new(error))
    }
}
