//! The session: a tunnel through which a daemon calls back into the client that started a build, and what flows in it.
//!
//! The client opens `Control.Session`; the bytes of that stream are one HTTP/2 connection in which the *daemon* is the
//! HTTP/2 client and the caller is the server. Central types: [`SessionManager`] and [`Session`] at the daemon's end,
//! [`client::ClientSession`] at the other. Both ends of the file transfer protocol are in [`filesync`].
//!
//! It does not know builds, vertices, stores or caches: it moves files, bytes, credentials and secrets on request.
//! Invariants: whatever the peer sends, the receiver writes below the directory it was given and nowhere else; a daemon
//! calls only methods that the client listed; a client serves only what was attached to it.
//! Failure and cancel: every call ends with [`SessionError::Closed`] as soon as the session does; dropping a future or a
//! handle stops the work it stands for.
//! Names of files are bytes, whatever the protocol's definition calls them: each that Linux allows travels unchanged.
//! Formats: docs/formats/tree-index.md for the file made by [`filesync::TreeIndex`].
#![forbid(unsafe_code)]

pub mod client;
mod content;
mod error;
pub mod filesync;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod health;
mod manager;
mod metadata;
pub mod mode;
pub mod names;
mod policy;
mod session;
mod ssh;
#[cfg(test)]
mod tests;
mod tunnel;
mod upload;

pub use content::BlobTarget;
pub use error::SessionError;
pub use group::SessionGroup;
pub use manager::{Registration, SessionManager, SessionStream};
pub use policy::{PolicyDecision, PolicyQuestion, SourceFacts};
pub use session::{Credentials, Session, Token, TokenRequest};
pub use ssh::SshSocket;
pub use upload::Upload;

/// Result with [`SessionError`].
pub type Result<T> = std::result::Result<T, SessionError>;
