//! Compiles Dockerfiles to LLB.
//!
//! Three passes, each its own module with its own tests: *parse* (bytes → instructions with lines), *plan*
//! (stages, what each is based on, what the target needs), *lower* (plan → LLB, image config, history). None
//! of them does I/O: [`DockerfileFrontend`] reads the file and resolves images through a
//! [`rbuild_frontend::Bridge`], [`compile_offline`] asks nobody.
//!
//! This crate does not know how anything is solved or executed. Invariant: the same file, options and base
//! images give the same LLB, byte for byte, and equal to upstream's. Errors carry the lines they are about.
#![forbid(unsafe_code)]

mod bytes;
mod context;
mod devices;
mod durations;
mod entry;
mod error;
mod lint;
mod lower;
mod mounts;
mod offline;
mod options;
mod parse;
mod plan;
mod shell;
mod source;
mod subrequest;
mod suggest;
mod text;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

pub use entry::{BUILT_IN, DockerfileFrontend, is_archive};
pub use error::CompileError;
pub use offline::{Lowered, compile_offline};
pub use options::{CompileOptions, NoCache};
