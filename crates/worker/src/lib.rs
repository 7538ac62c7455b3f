//! Turns vertices of a low-level build graph into ops that the solver can run, and performs them.
//!
//! Central types: [`Worker`] (one per daemon), [`LlbOp`] (one vertex, implements [`rbuild_solver::Op`]), [`Scope`] (what
//! a build gives to its ops). `resolve` is the only place where `llb` and `solver` meet; `ops` has a file per kind of
//! op: its identity (`cache_map`), what of its inputs is named by content, and its work; `files` changes file trees
//! below [`rbuild_sys::Root`] handles and knows no ops; `mounts` turns an exec's mounts into what the sandbox takes.
//! The crate does not know requests, frontends, exporters or sockets.
//!
//! Invariants: an op that needs an entitlement passes [`Entitlements::check_op`] on every road to the runtime; a path from
//! a user, an image or a build step is only ever resolved below a root handle; permits are held around real work and
//! never while waiting for an input. Failure: [`OpError`], cheap to clone because builds share it. Cancel: `exec` sees
//! the context's token; a step is killed, file work stops at the next file; a tree being written is thrown away.
//! More: docs/worker.md.
#![forbid(unsafe_code)]

mod container;
mod devices;
mod durations;
mod entitlements;
mod error;
mod files;
mod helper;
mod logs;
mod meta;
mod mounts;
mod op;
mod ops;
mod permits;
mod resolve;
mod scope;
mod worker;

pub use container::{Container, ContainerSpec, MountedTree};
pub use devices::DeviceOptions;
pub use entitlements::{Entitlement, Entitlements};
pub use error::{Left, OpError, OpErrorKind, OutOfMemory};
pub use files::FileError;
pub use helper::HelperProcess;
pub use meta::{ImageRequest, ResolvedImage, ResolvedSource};
pub use op::LlbOp;
pub use permits::Permits;
pub use scope::{FileList, MountSource, Nested, Scope, Witness};
pub use worker::{Worker, WorkerOptions};
