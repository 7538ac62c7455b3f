//! File-system states, and the difference between two.
//!
//! Central types: [`Snapshotter`] (directories that stack up to a root file system), [`Differ`] (a state → a layer
//! archive) and [`Applier`] (a layer archive → a state).
//!
//! ```text
//! <dir>/<id>/fs      overlay: this layer only, whiteouts and opaque marks as overlayfs wants them; native: everything
//! <dir>/<id>/bare    overlay: what whiteouts in it lie over where nothing else is; made when that may happen
//! <dir>/<id>/work    overlay: scratch of the kernel while the snapshot is active; gone after commit
//! <dir>/.rm-<id>     being removed; swept at open
//! ```
//!
//! A snapshot knows only its own directory: the chain of parents is the caller's, who has the database. Nothing here
//! mounts for others: a mount is a value ([`Mount`](rbuild_sys::Mount)) that whoever needs it performs.
//!
//! Invariants: a committed snapshot is never written again. Entries of archives and trees are reached through
//! [`Root`](rbuild_sys::Root) only, so no name, link or whiteout leads out. Archives of equal states are equal bytes.
//!
//! Errors: [`SnapshotError`]. Everything here blocks; callers bring it to the blocking pool, and stop it by a reader or
//! writer that fails. A half-written snapshot is the caller's to remove.
#![forbid(unsafe_code)]

mod apply;
mod compare;
mod copy;
mod deep;
mod diff;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod id;
mod native;
mod overlay;
mod snapshotter;
mod store_dir;
#[cfg(test)]
mod testing;
mod usage;
mod whiteouts;
mod xattr;

pub use apply::{Applier, ApplyStats};
pub use copy::copy_tree;
pub use diff::{Attributes, DiffOptions, DiffStats, Differ};
pub use error::SnapshotError;
pub use id::SnapshotId;
pub use native::NativeSnapshotter;
pub use overlay::OverlaySnapshotter;
pub use snapshotter::{LayerForm, Snapshotter, SnapshotterKind, open};
pub use usage::{SharedFiles, Usage, disk_usage};
pub use whiteouts::name_removed;

/// Result of everything in this crate.
pub type Result<T, E = SnapshotError> = std::result::Result<T, E>;
