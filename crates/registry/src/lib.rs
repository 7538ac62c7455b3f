//! Speaks the distribution protocol: resolves names, pulls and pushes manifests and blobs.
//!
//! Central types: [`Registry`] (configuration and connections, one per daemon) and [`Repository`] (one repository
//! in the name of somebody's [`Credentials`]). Bytes are streamed; manifests are bounded and verified here, blobs by
//! whoever keeps them (they pass through as a stream that resumes after a break).
//!
//! Invariants: credentials are asked for, and sent to, exactly the host that is spoken to, never to where it
//! redirects or to a stranger's token service; a digest that was asked for is what is returned, or an error names
//! both; every wait has an end.
//! It does not know sessions, stores, builds, or progress beyond a byte counter.
//! Failure: [`RegistryError`] names host, repository and what the registry said. Cancel: drop the future.
//! Sources: OCI distribution-spec v1.1; the token authentication pages of the distribution project.
#![forbid(unsafe_code)]

mod auth;
mod blob;
mod config;
mod endpoint;
mod error;
mod image;
mod list;
mod provider;
mod push;
mod repository;
mod transport;

pub use auth::{Anonymous, Credentials, Login, Token, TokenQuery};
pub use config::{HostConfig, KeyPair, RegistryConfig, RetryPolicy};
pub use endpoint::Registry;
pub use error::RegistryError;
pub use image::ResolvedManifest;
pub use provider::RegistryProvider;
pub use push::{MountFrom, PushProgress, Reference};
pub use repository::{RepoOptions, Repository};
pub use transport::install_crypto;
