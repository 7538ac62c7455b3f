use rbuild_digest::Digest;
use rbuild_registry::RegistryError;
use rbuild_session::SessionError;
use rbuild_store::StoreError;

use crate::backend::http::ObjectError;

/// A cache could not be imported or exported.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A type that is not there.
    #[error("unknown cache {direction}: {kind:?}")]
    UnknownType {
        /// `importer` or `exporter`.
        direction: &'static str,
        /// As it was asked for.
        kind: String,
    },
    /// An attribute is missing.
    #[error("{kind} cache requires {name}")]
    Missing {
        /// Type of the cache.
        kind: &'static str,
        /// What has to be given.
        name: &'static str,
    },
    /// An attribute that is not known.
    #[error("cache of type `{kind}` has no attribute `{name}`")]
    UnknownAttribute {
        /// Type of the cache.
        kind: String,
        /// The attribute.
        name: String,
    },
    /// An attribute's value makes no sense.
    #[error("cache of type `{kind}`: `{name}={value}`: {expected}")]
    Attribute {
        /// Type of the cache.
        kind: String,
        /// The attribute.
        name: String,
        /// Its value.
        value: String,
        /// What would do.
        expected: String,
    },
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An object store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// A client.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blob of the cache cannot be read.
    #[error("reading {digest} of the cache: {source}")]
    Read {
        /// Which.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// A blob of the cache is not what its name says.
    #[error("{digest} of the cache is damaged: {reason}")]
    Damaged {
        /// Which.
        digest: Digest,
        /// In which way.
        reason: String,
    },
    /// What the address leads to holds no cache.
    #[error("{what} holds no build cache")]
    NoCache {
        /// The address.
        what: String,
    },
    /// It took too long.
    #[error("{what} did not answer within {seconds} s")]
    Slow {
        /// The address.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A record that names what is not there.
    #[error("{what} takes no record: {reason}")]
    Refused {
        /// The address.
        what: String,
        /// Its own words.
        reason: String,
    },
    /// Others were quicker.
    #[error("{what}: others write to it all the time")]
    Contended {
        /// The address.
        what: String,
    },
    /// A document that cannot be written.
    #[error("writing the cache's document: {0}")]
    Document(#[from] serde_json::Error),
    /// A worker went away.
    #[error("work on the cache was interrupted")]
    Interrupted,
}

/// Result with [`CacheError`].
pub(crate) type Result<T, E = CacheError> = std::result::Result<T, E>;
