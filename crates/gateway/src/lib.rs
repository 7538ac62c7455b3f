//! Frontends outside the daemon: the bridge as a gRPC service, and errors on the wire.
//!
//! Central types: [`BridgeService`] (serves `LLBBridge` to clients that drive a build themselves, as `buildctl`
//! and `buildx` do) and [`ClientFrontend`] (a build whose frontend is such a client). A call names its build
//! by an unguessable id and reaches that build's references only. This crate does not know how anything is
//! solved: it translates between the wire and [`rbuild_frontend::Bridge`]. Cancel: dropping the frontend's
//! future takes the build out of the table; calls that are under way end with the bridge's own errors.
#![forbid(unsafe_code)]

mod attestation;
mod caps;
mod connection;
mod container;
mod convert;
mod forward;
mod image;
mod server;
mod status;

pub use forward::{ClientFrontend, ForwardedBuild, ForwardedBuilds};
pub use image::{ImageFrontend, ImageFrontendOptions};
pub use server::{BridgeService, WorkerInfo};
pub use status::{encode_error, from_rpc_status, from_status, to_rpc_status, to_status};
