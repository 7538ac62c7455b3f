//! What a frontend is and what it may ask of the daemon: traits and values only.
//!
//! Central types: [`Frontend`] (compiles a request into a result) and [`Bridge`] (the only way in which a
//! frontend reaches the world: solve a definition, resolve metadata, warn). A result is made of
//! [`BridgeRef`]s: lazy handles on one output of a solved definition. This crate does not know how anything
//! is solved; `build` implements the bridge, `gateway` serves it over gRPC, and a fake of 100 lines tests a
//! frontend. All errors are a [`BuildError`]: a message for the user plus typed details.
#![forbid(unsafe_code)]

mod attestation;
mod bridge;
mod container;
mod error;
mod fault;
mod frontend;
mod process;
pub mod subrequest;

pub use attestation::{AttestationKind, AttestationSubject, FrontendAttestation};
pub use bridge::{
    Bridge, BridgeRef, DirEntry, FileRange, GitMeta, ImageMeta, ImageQuery, ResolveMode, SharedRef,
    SolveRequest, SourceMeta, SourceQuery, Warning,
};
pub use container::{BridgeContainer, ContainerProcess, ContainerRequest};
pub use error::{BuildError, Detail, ErrorCode, FailedStep};
pub use fault::Fault;
pub use frontend::{Frontend, FrontendRequest, FrontendResult, ResultRefs, ScanTarget};
pub use process::FrontendProcess;
pub use subrequest::Subrequest;
