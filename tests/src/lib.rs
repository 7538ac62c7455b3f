//! The harness of the end-to-end tests: real daemons, a real registry, real base images.
//!
//! Central types: [`TestDaemon`] (one `rbuildd` with a root of its own) and [`TestOutput`] (what a command
//! printed and how it ended). Binaries are found beside the test binary; `RBUILD_TEST_DAEMON` and
//! `RBUILD_TEST_CLIENT` name others, so that a scenario can be tried on another daemon first. Every child
//! dies with the test process. What it cannot make (a missing package) is a panic that names the package.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, clippy::print_stderr)]

mod daemon;
mod gha;
mod git;
mod http;
mod images;
mod lan;
pub mod llb;
mod output;
mod random;
mod registry;
mod relay;
mod running;
mod s3;
mod space;
mod ssh;

pub use daemon::{DaemonOptions, TestDaemon};
pub use gha::TestGha;
pub use git::{GitServerOptions, Request, TestGit, TestRepo};
pub use http::{Page, TestHttp};
pub use images::{ImageSpec, add_program, busybox_root, debian_files, debian_root, push_image};
pub use lan::TestLan;
pub use output::TestOutput;
pub use random::Random;
pub use registry::{TestRegistry, registry};
pub use relay::Relay;
pub use running::{Running, processes, wait_until};
pub use s3::TestS3;
pub use space::{TestSpace, binary, own_binary, run, run_in};
pub use ssh::TestSsh;
