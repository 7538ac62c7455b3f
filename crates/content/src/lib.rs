//! Immutable blobs, named by the sha256 of their bytes.
//!
//! Central type: [`ContentStore`], a cheap handle on a directory:
//!
//! ```text
//! <dir>/blobs/sha256/<hex>   a whole blob; read-only; never changed, only deleted
//! <dir>/ingest/<hex>         bytes on their way in; the name is made of the ingest's key, so they can be resumed
//! <dir>/ingest/<hex>.<id>    the same for a second writer of that key; removed when it ends
//! ```
//!
//! It does not know what a blob means, who needs it, or when it may go: that is the store's business.
//!
//! Invariant: what lies under `blobs/` had its digest and size checked when it was committed. A commit is write aside,
//! optional fsync, rename. A crash leaves at most files under `ingest/`, which are resumed (and hashed again) or swept.
//!
//! Errors: [`ContentError`]; a full disk is [`ContentError::NoSpace`]. All calls block on disk but those that are
//! `async`, which do their work on the blocking pool. Dropping an [`Ingest`] keeps its bytes for the next attempt.
#![forbid(unsafe_code)]

mod error;
mod fetch;
mod ingest;
mod provider;
mod store;

pub use error::ContentError;
pub use ingest::Ingest;
pub use store::{ContentOptions, ContentStore};

/// Result of everything in this crate.
pub type Result<T, E = ContentError> = std::result::Result<T, E>;
