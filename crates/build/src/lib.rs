//! One build from request to outcome; no sockets.
//!
//! Central type: [`Builder`] (one per daemon): it takes a [`BuildRequest`], runs the frontend over a bridge of
//! its own, solves what comes out, and exports. `run.rs` is the table of contents of a build; `bridge.rs` is all
//! that a frontend can reach. It does not know gRPC: the daemon converts. Failure: a `BuildError`, classified in
//! `error.rs`. Cancel: the token given to [`Builder::build`]; steps are stopped and cleaned up before it returns.
#![forbid(unsafe_code)]

mod advice;
mod bridge;
mod builder;
mod builds;
mod caching;
mod container;
mod error;
mod events;
mod explain;
mod files;
mod history;
mod idle;
mod metrics;
mod nested;
mod policy;
mod process;
mod provenance;
mod redact;
mod refs;
mod request;
mod results;
mod run;
mod sbom;
mod statements;
mod upkeep;
mod usage;

pub use builder::{Builder, BuilderOptions, OpenError, StepNetwork};
pub use explain::{Cause, Explained, FileChanges};
pub use history::{
    EncodeError, History, HistoryAttestation, HistoryBlob, HistoryError, HistoryEvent, HistoryEventKind,
    HistoryLimits, HistoryRecord, HistoryRefusal,
};
pub use metrics::Metrics;
pub use provenance::RecordedAttestation;
pub use rbuild_cache::TierOptions;
pub use rbuild_dockerfile::BUILT_IN;
pub use rbuild_trace::{ExportSettings, SettingsError, TraceContext, Tracer};
pub use rbuild_worker::DeviceOptions;
pub use request::{BuildOutcome, BuildRequest, ExporterSpec, What};
pub use upkeep::GcTask;
