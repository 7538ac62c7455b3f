//! What a build did, as an OpenTelemetry trace: for the history, and for a collector.
//!
//! Central type: [`Tracer`], one per daemon. A build is given a [`BuildTrace`]; when it has ended, its events (the same
//! that `Status` replays) become spans, and spans that clients sent for the same trace are joined to them. Nothing is
//! traced while a build runs, so a trace costs a build nothing.
//!
//! This crate does not know what a step is, nor where a trace is kept. Spans of clients are bounded in memory and dropped
//! beyond; a collector that is slow or gone costs spans and a warning, never a build.
#![forbid(unsafe_code)]

mod context;
mod export;
mod spans;
mod stub;
mod tracer;

pub use context::TraceContext;
pub use export::{ExportSettings, SettingsError};
pub use spans::BuildSpans;
pub use stub::Trace;
pub use tracer::{BuildTrace, Ending, Tracer};
