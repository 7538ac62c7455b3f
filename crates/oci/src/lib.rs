//! Image vocabulary, pure: names, platforms, manifests, configs, layer archives and their compression.
//!
//! Central types: [`ImageRef`] (a name), [`Descriptor`] (a typed digest), [`ImageConfig`], and in [`layer`] the
//! reader and writer of layer archives. Everything here is values and codecs: no sockets, no paths on disk, no
//! async but the [`Provider`] trait that says where a blob's bytes come from.
//!
//! Invariants: what is written is deterministic, byte for byte (JSON as Go writes it, tar headers as Go's
//! archive/tar writes them, compression independent of the number of threads); what is read is bounded, and an
//! early end is always an error, never a short result.
//!
//! Decisions: `docs/decisions/002-gzip-members.md` for how gzip is made in parallel.
#![forbid(unsafe_code)]

mod compress;
mod config;
mod descriptor;
pub mod json;
pub mod layer;
pub mod media;
mod platform;
mod provider;
mod purl;
mod reference;

pub use compress::{
    CompressError, Compression, CompressionOptions, Compressor, DecodeLimits, Decoded, Encoding, compressor,
    decompress, decompress_with, sniff,
};
pub use config::{ContainerConfig, Empty, Healthcheck, History, ImageConfig, RootFs, format_time};
pub use descriptor::{Descriptor, Index, Manifest, ManifestError};
pub use platform::{ParsePlatformError, Platform, PlatformMatcher};
pub use provider::{ByteStream, Provider};
pub use purl::purl;
pub use reference::{ImageRef, ParseReferenceError};
