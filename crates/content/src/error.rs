use std::io;
use std::path::{Path, PathBuf};

use rbuild_digest::Digest;

/// What can go wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The store does not have the blob.
    #[error("blob {digest} is not in the content store")]
    NotFound {
        /// The blob asked for.
        digest: Digest,
    },
    /// The bytes are not those that were announced. They have been thrown away.
    #[error("content of {}: digest is {found}, expected {expected}", shown(.key))]
    DigestMismatch {
        /// Key of the ingest.
        key: String,
        /// Digest of the bytes that came.
        found: Digest,
        /// Digest that was announced.
        expected: Digest,
    },
    /// The number of bytes is not the one that was announced.
    #[error("content of {} ({expected_digest}) is {found} bytes, expected {expected}", shown(.key))]
    SizeMismatch {
        /// Key of the ingest.
        key: String,
        /// Digest that was announced.
        expected_digest: Digest,
        /// Bytes that came; if more came than announced, those up to the point where that was seen.
        found: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// A blob is larger than its reader is willing to hold.
    #[error("blob {digest} is {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The file system or quota is full.
    #[error("no space left for {path}")]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The place where the bytes come from failed.
    #[error("reading {key}: {source}")]
    Source {
        /// Key of the ingest.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// The file system failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The key of an ingest as people know what it is about: that of a download is made of the blob's digest.
fn shown(key: &str) -> &str {
    key.strip_prefix(crate::fetch::KEY_PREFIX).unwrap_or(key)
}

impl ContentError {
    /// Wraps a file system error; a full disk gets its own variant.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// Whether the disk or quota is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Whether the blob is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the bytes were wrong (digest or size), so that the same source need not be asked again.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, Self::DigestMismatch { .. } | Self::SizeMismatch { .. })
    }
}

impl From<ContentError> for io::Error {
    fn from(err: ContentError) -> Self {
        let kind = match &err {
            ContentError::NotFound { .. } => io::ErrorKind::NotFound,
            ContentError::DigestMismatch { .. } | ContentError::SizeMismatch { .. } => {
                io::ErrorKind::InvalidData
            }
            ContentError::TooLarge { .. } => io::ErrorKind::FileTooLarge,
            ContentError::NoSpace { .. } => io::ErrorKind::StorageFull,
            ContentError::Source { source, .. } | ContentError::Io { source, .. } => source.kind(),
        };
        Self::new(kind, err)
    }
}
