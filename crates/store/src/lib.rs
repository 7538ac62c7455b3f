//! Refs over blobs and snapshots: what is kept on disk, and why.
//!
//! Central types: [`Store`] (one per root directory), [`Ref`] (an immutable file tree, pinned while the value lives),
//! [`MutableRef`] (a tree being written).
//!
//! ```text
//! root/
//!   lock                   pid of the daemon that owns the root
//!   meta.db                rows that name everything below (redb)
//!   journal                row changes since the last synced state of meta.db
//!   content/               blobs by digest (crate content)
//!   snapshots/<id>/fs|work layers as directories (crate snapshot)
//!   named/<id>/            what belongs to a local context: its index
//!   run/                   what running steps need; emptied at start
//! ```
//!
//! A ref is a layer over a parent, a merge of several or a diff of two. It knows its blobs (by compression) and its
//! snapshot, either of which may be missing: each is made from the other, or fetched from where it came from, when
//! somebody needs it (*unlazy*). The crate does not know containers, graphs, sessions or registries; bytes come from
//! an [`rbuild_oci::Provider`], records are rows with keys.
//!
//! Invariants: what a row names exists, what no row names is garbage; nothing that a live `Ref`, an image or a held
//! named directory needs is removed; a change of rows is one transaction. A `kill -9` loses nothing committed; after
//! a power cut everything that was not synced is dropped, never trusted (docs/decisions/003-metadata-durability.md).
//! Failure: [`StoreError`]; a full disk is told apart. Cancel: any future may be dropped; half-made things are
//! removed in the background. Formats: docs/formats/store.md.
#![forbid(unsafe_code)]

mod blobs;
mod cache_mount;
pub mod checksum;
mod codec;
mod context;
mod db;
mod error;
mod filter;
mod flatten;
mod footprint;
mod gc;
mod id;
mod images;
mod janitor;
mod lease;
mod lock;
mod mount_archive;
mod progress;
mod records;
mod refs;
mod repair;
mod room;
mod rows;
mod store;
mod unlazy;
mod usage;

pub use blobs::LayerBlob;
pub use cache_mount::{CacheMount, CacheMountOptions, CachePurpose, Sharing};
pub use checksum::{ChecksumOptions, EntryKind, FileHeader, PathDigests};
pub use context::{ContextEntry, LocalContext};
pub use error::{Result, StoreError};
pub use filter::Filter;
pub use gc::{GcPolicy, PruneOptions, Pruned};
pub use id::RefId;
pub use images::Image;
pub use lease::Lease;
pub use mount_archive::FoundMount;
pub use progress::LayerProgress;
pub use rbuild_snapshot::SnapshotterKind;
pub use records::{RecordInputRow, RecordRow};
pub use refs::{LayerSource, MutableRef, NewMutable, ProviderFactory, Ref, TreeGuard};
pub use room::Space;
pub use rows::RecordType;
pub use store::{Store, StoreOptions};
pub use usage::{UsageRecord, disk_size};

#[cfg(test)]
mod tests;
