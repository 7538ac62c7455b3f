//! Refs become something a user can have: files, an archive, an image in the store, an image in a registry.
//!
//! Central types: [`ExportRequest`] (a solved result with its platforms and configs) and [`Exporter`], made from a
//! type and attributes by [`Exporters::open`]. An attribute that is not known is refused by name. Everything
//! streams: layers are made by the store, archives and trees go to the client as they are read. It does not know
//! how a result came about. Cancel: drop the future; blobs that were made stay in the store as cache.
#![forbid(unsafe_code)]

mod annotations;
mod archive;
mod assemble;
mod attest;
mod attrs;
mod config;
mod error;
mod estargz;
mod files;
mod history;
mod image;
mod progress;
mod push;
mod request;
mod rewrite;
mod stream;

pub use attest::{About, Attestation, MakePredicate, Predicate, Subject};
pub use error::{ExportError, ExportErrorKind};
type Result<T> = std::result::Result<T, ExportError>;

pub use request::{ExportRef, ExportRequest, Exported, Exporter, Exporters, InlineCache};
