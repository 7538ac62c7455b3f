use std::io;
use std::path::Path;

use rbuild_sys::SysError;

/// What can go wrong with a snapshot, a diff or an application of a layer.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// An id that could act as a path.
    #[error("invalid snapshot id `{id}`")]
    InvalidId {
        /// The text, shortened.
        id: String,
    },
    /// A system call on a snapshot's own directory failed.
    #[error("snapshot: {0}")]
    Sys(#[from] SysError),
    /// An entry of a layer or tree could not be written or read.
    #[error("layer entry `{entry}`: {source}")]
    Entry {
        /// Path of the entry.
        entry: String,
        /// Why.
        source: SysError,
    },
    /// Bytes of an entry could not be moved.
    #[error("layer entry `{entry}`: {source}")]
    Data {
        /// Path of the entry.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// An entry that no well-meant layer has.
    #[error("layer entry `{entry}`: {reason}")]
    InvalidEntry {
        /// Path of the entry.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The archive cannot be read: truncated, damaged, or no archive at all.
    #[error("reading layer: {0}")]
    Archive(#[source] io::Error),
    /// The archive cannot be written.
    #[error("writing layer: {0}")]
    Write(#[source] io::Error),
    /// The overlay directory was made with `redirect_dir` or `metacopy`, so it does not hold what it shows.
    #[error("layer entry `{entry}`: made with the overlay feature `{feature}`, which cannot be diffed")]
    OverlayFeature {
        /// Path of the entry.
        entry: String,
        /// Which one.
        feature: &'static str,
    },
}

impl SnapshotError {
    pub(crate) fn entry(path: &Path, source: SysError) -> Self {
        Self::Entry { entry: path.display().to_string(), source }
    }

    pub(crate) fn data(path: &Path, source: io::Error) -> Self {
        Self::Data { entry: path.display().to_string(), source }
    }

    pub(crate) fn invalid(path: &Path, reason: &'static str) -> Self {
        Self::InvalidEntry { entry: path.display().to_string(), reason }
    }

    /// Whether the disk or quota is full.
    pub fn is_no_space(&self) -> bool {
        let full =
            |err: &io::Error| matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Sys(source) | Self::Entry { source, .. } => source.is_no_space(),
            Self::Data { source, .. } | Self::Archive(source) | Self::Write(source) => full(source),
            _ => false,
        }
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Sys(source) | Self::Entry { source, .. } if source.is_not_found())
    }
}

/// Adds the entry to a bare system error.
pub(crate) trait OnEntry<T> {
    /// It was about `path`.
    fn entry(self, path: &Path) -> Result<T, SnapshotError>;
}

impl<T> OnEntry<T> for Result<T, SysError> {
    fn entry(self, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::entry(path, source))
    }
}

impl<T> OnEntry<T> for rustix::io::Result<T> {
    fn entry(self, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|errno| SnapshotError::data(path, errno.into()))
    }
}
