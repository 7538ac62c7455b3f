//! Runs one process in a sandbox.
//!
//! Central type: [`Runtime`], which takes a [`ProcessSpec`] (plain data) and [`ProcessIo`] and gives an [`ExitStatus`].
//! [`NativeRuntime`] is our own: a small single-threaded helper, the daemon's own binary executed once more, clones a
//! process per step straight into its namespaces; that process mounts what the step sees and becomes the step. See
//! `docs/decisions/001-own-sandbox.md`. [`OciRuntime`] hands the same specification to runc or crun.
//! The crate knows no builds, refs or sessions; paths of mounts come from its caller, paths inside go through
//! [`rbuild_sys::Root`]. Invariant: when `run` returns, nothing of the step runs; when the daemon dies, so do the steps.
#![deny(unsafe_code)]

mod bounds;
mod bridge;
mod cgroup;
mod emulation;
mod error;
pub mod etc;
pub mod init;
mod limits;
mod native;
mod oci;
mod runtime;
mod seccomp;
mod spec;
mod streams;
mod stubs;
mod usage;
mod user;

pub use bounds::StepLimits;
pub use bridge::{Bridge, BridgeOptions, Subnet};
pub use emulation::{emulate, emulated};
pub use error::ExecError;
pub use native::{NativeOptions, NativeRuntime};
pub use oci::{OciOptions, OciRuntime, config_json};
pub use runtime::{Chunk, ExitStatus, Input, Output, ProcessIo, Runtime, Sandbox};
pub use spec::{
    ContainerMount, DEFAULT_HOSTNAME, DEFAULT_PATH, DnsConfig, MountSource, NetMode, ProcessSpec, Resources,
    SecurityMode, TermSize, Ulimit,
};
pub use streams::OUTPUT_BUFFER;
pub use usage::{MachineSample, MachineSampler, StepUsage};
