use rbuild_sys::SysError;

use crate::error::OpErrorKind;

/// Files could not be changed as asked.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nothing is at a path that the user named.
    #[error("{path:?}: not found")]
    NotFound {
        /// The path, as it was given.
        path: String,
    },
    /// A directory stands where a file is to be.
    #[error("cannot replace directory `{path}` with a file")]
    ReplacesDirectory {
        /// Where.
        path: String,
    },
    /// A device, pipe or socket stands where a file is to be.
    #[error("`{path}` is not a regular file")]
    NotRegular {
        /// Where.
        path: String,
    },
    /// Something else stands where a directory is to be.
    #[error("cannot copy to non-directory: `{path}`")]
    NotDirectory {
        /// Where.
        path: String,
    },
    /// The path means the root itself, which this action cannot change.
    #[error("invalid path {path:?}: it names the root directory")]
    RootPath {
        /// The path, as it was given.
        path: String,
    },
    /// Symlinks lead in a circle.
    #[error("{path:?}: too many symbolic links")]
    TooManyLinks {
        /// The path, as it was given.
        path: String,
    },
    /// A path that no file system can hold.
    #[error("invalid path {path:?}: {reason}")]
    BadPath {
        /// The path, shortened.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A pattern cannot be read.
    #[error("invalid pattern {pattern:?}: {reason}")]
    Pattern {
        /// Which one.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A mode cannot be read.
    #[error("invalid mode {mode:?}: expected octal digits or clauses like `u=rwX,go=rX`")]
    Mode {
        /// The mode, as it was given.
        mode: String,
    },
    /// A user or group is not in the image's files.
    #[error("unable to find {what} {name}: {reason}")]
    Owner {
        /// user or group.
        what: &'static str,
        /// Its name.
        name: String,
        /// What was looked at.
        reason: String,
    },
    /// An archive cannot be unpacked.
    #[error("archive `{path}`: {reason}")]
    Archive {
        /// Which one.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something could not be made.
    #[error("{what} {path}: {}", error.reason())]
    Make {
        /// mkdir, mkfile, symlink.
        what: &'static str,
        /// Where.
        path: String,
        /// Why.
        error: SysError,
    },
    /// A system call.
    #[error("{0}")]
    Sys(#[from] SysError),
    /// The work was stopped.
    #[error("cancelled")]
    Cancelled,
}

/// Result of everything in `files`.
pub(crate) type Result<T> = std::result::Result<T, FileError>;

impl FileError {
    /// What was wrong with the only file of a download: people know it by its URL.
    pub(crate) fn of_download(self, url: &str) -> Self {
        match self {
            Self::Archive { reason, .. } => Self::Archive { path: url.to_owned(), reason },
            other => other,
        }
    }

    pub(crate) fn kind(&self) -> OpErrorKind {
        match self {
            Self::NotFound { .. } => OpErrorKind::NotFound,
            Self::Sys(error) | Self::Make { error, .. } if error.is_no_space() => OpErrorKind::NoSpace,
            Self::Sys(error) | Self::Make { error, .. } if error.is_not_found() => OpErrorKind::NotFound,
            Self::Pattern { .. } | Self::Mode { .. } | Self::BadPath { .. } => OpErrorKind::Invalid,
            Self::Cancelled => OpErrorKind::Cancelled,
            _ => OpErrorKind::User,
        }
    }

    pub(crate) fn not_found(path: impl AsRef<[u8]>) -> Self {
        Self::NotFound { path: String::from_utf8_lossy(path.as_ref()).into_owned() }
    }
}
