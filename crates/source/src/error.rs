use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_registry::RegistryError;
use rbuild_session::SessionError;
use rbuild_store::StoreError;

/// A source that cannot be resolved or fetched. Cheap to clone: several steps may wait for one source.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The identifier or an attribute is malformed.
    #[error("invalid source `{identifier}`: {reason}")]
    Invalid {
        /// As it was given, credentials removed.
        identifier: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry refused, failed or lied.
    #[error("{0}")]
    Registry(Arc<RegistryError>),
    /// The client's session failed or is gone.
    #[error("{0}")]
    Session(Arc<SessionError>),
    /// The store failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// A file or pipe of our own failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, of what.
        what: String,
        /// Why it failed.
        source: Arc<std::io::Error>,
    },
    /// There is no such thing.
    #[error("{what} not found")]
    NotFound {
        /// What is missing.
        what: String,
    },
    /// The content is not what was promised.
    #[error("{what}: digest mismatch: found {found}, expected {expected}")]
    Digest {
        /// Of what.
        what: String,
        /// Promised.
        expected: Digest,
        /// Seen.
        found: Digest,
    },
    /// A server answered with an error.
    #[error("{url}: invalid response status {status}")]
    HttpStatus {
        /// Without credentials and query.
        url: String,
        /// The code.
        status: u16,
    },
    /// A server could not be reached, stalled, or broke off.
    #[error("{url}: {reason}")]
    Http {
        /// Without credentials and query.
        url: String,
        /// What happened.
        reason: String,
    },
    /// A server took the question, or a part of the answer, and then said nothing.
    #[error("{url}: the server sent nothing for {} s", .waited.as_secs_f32())]
    Stalled {
        /// Without credentials and query.
        url: String,
        /// How long was waited.
        waited: std::time::Duration,
    },
    /// The address is closed to builds.
    #[error(
        "{url}: address {address} is not allowed (link-local addresses are closed to builds, and so are those that \
         this daemon listens on)"
    )]
    Address {
        /// Without credentials and query.
        url: String,
        /// The address that was about to be connected.
        address: String,
    },
    /// A program (git) failed.
    #[error("{what}: {detail}")]
    Command {
        /// What was tried.
        what: String,
        /// The end of its output.
        detail: String,
    },
    /// A program (git) says more than anybody wants to know.
    #[error("{what}: the answer is larger than {limit} bytes")]
    LongAnswer {
        /// What was tried.
        what: String,
        /// What it may have.
        limit: usize,
    },
    /// The daemon cannot do this.
    #[error("{what} is not supported")]
    Unsupported {
        /// What.
        what: String,
    },
}

impl SourceError {
    /// Whether the thing asked for does not exist (as opposed to could not be asked for).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Registry(error) => error.is_not_found(),
            Self::HttpStatus { status, .. } => *status == 404,
            _ => false,
        }
    }

    /// Wraps an I/O error with what was tried.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }
}

impl From<RegistryError> for SourceError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Arc::new(error))
    }
}

impl From<SessionError> for SourceError {
    fn from(error: SessionError) -> Self {
        Self::Session(Arc::new(error))
    }
}

impl From<StoreError> for SourceError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
