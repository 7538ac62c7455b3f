use std::io;

/// A layer archive that cannot be read, or an entry that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The bytes could not be read (or are corrupt below the tar).
    #[error("cannot read the archive: {0}")]
    Io(#[from] io::Error),
    /// The archive stops before its end mark.
    #[error("the archive ends early, after {offset} bytes")]
    Truncated {
        /// Bytes that were there.
        offset: u64,
    },
    /// A header block is damaged, or this is no tar at all.
    #[error("damaged header at byte {offset}: {what}")]
    Header {
        /// Where the block begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry that no archive should have.
    #[error("entry `{path}`: {what}")]
    Entry {
        /// As in the archive, shortened.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A path or the target of a hard link climbs above the root.
    #[error("entry `{path}` leaves the root by `{target}`")]
    Escape {
        /// As in the archive, shortened.
        path: String,
        /// The name that climbs.
        target: String,
    },
}

impl LayerError {
    pub(crate) fn entry(path: &[u8], what: &'static str) -> Self {
        Self::Entry { path: shown(path), what }
    }
}

impl From<LayerError> for io::Error {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Io(error) => error,
            LayerError::Truncated { .. } => Self::new(io::ErrorKind::UnexpectedEof, error),
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// A name from an archive, fit to be printed.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).escape_debug().to_string()
}
