//! Cache mounts that travel with a cache.
//!
//! What is in a mount is written as an archive, the archive is cut where its content says so ([`cut`]), and each piece is
//! a blob by digest: a mount that changed a little sends little. A manifest lists the pieces; the cache document
//! names the manifest. Format: docs/formats/cache-mounts.md.
//! Central types: [`MountCaches`], which fills mounts before steps take them; [`export`], which sends them.

mod cut;
mod export;
mod restore;

use rbuild_digest::Digest;
use serde::{Deserialize, Serialize};

pub(crate) use export::{Sent, export};
pub use restore::MountCaches;

/// Manifests of mounts and their pieces, as manifests of caches list them.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.rbuild.cachemount.v1+json";
pub(crate) const PIECE_TYPE: &str = "application/vnd.rbuild.cachemount.piece.v1+zstd";
/// Largest manifest that is read: 150,000 pieces, or 300 GB.
const MAX_MANIFEST: u64 = 16 << 20;

/// A mount as the cache document names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MountEntry {
    /// Its name.
    pub(crate) id: String,
    /// On which platform it was used.
    pub(crate) platform: String,
    /// Whether it lies over files that its steps put there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) over_base: bool,
    /// When it was sent.
    pub(crate) created_at: String,
    pub(crate) manifest: Blob,
}

/// A blob of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What is in a mount: the pieces of its archive, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountManifest {
    pub(crate) pieces: Vec<Blob>,
}

/// The platform of this daemon's steps, as mounts are labelled with it.
fn platform() -> String {
    rbuild_oci::Platform::host().to_string()
}

/// The names that a user's name may stand for: Dockerfiles put `<namespace>/` before it, and most have no namespace.
pub(crate) fn names(id: &str) -> [String; 2] {
    [format!("/{id}"), id.to_owned()]
}

/// The names in `cache-mounts=<id>;<id>`.
pub(crate) fn ids(text: &str) -> Vec<String> {
    let mut ids: Vec<String> = text.split(';').filter(|id| !id.is_empty()).map(str::to_owned).collect();
    ids.sort();
    ids.dedup();
    ids
}
