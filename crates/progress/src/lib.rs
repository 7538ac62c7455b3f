//! What a build is doing, and how it reads.
//!
//! Two halves that meet in the wire's `StatusResponse`:
//! - the daemon's: [`Progress`] is the event log of one build, [`Reporter`] writes the events of one vertex into
//!   it. The log is spooled to a file; whoever subscribes gets all events from the start and then follows. Memory is bounded, however much a step prints.
//! - the client's: [`render::Renderer`] turns such a stream into text for people or scripts, whichever daemon it
//!   comes from.
//!
//! This crate does not know what a vertex does, nor gRPC. Writing never fails for the caller: if the spool
//! can't be written the events are lost and the daemon's log says so.
//!
//! Spool format: records of a length (4 bytes, little endian) and a protobuf `StatusResponse`; a torn last
//! record is ignored.
#![forbid(unsafe_code)]

mod progress;
pub mod render;
mod reporter;
mod spool;
mod subscribe;
mod tally;
mod time;

pub use progress::{Progress, ProgressOptions};
pub use reporter::{Reporter, StatusHandle, VertexInfo, Warning};
pub use subscribe::{StatusStream, replay};
pub use tally::Tally;
