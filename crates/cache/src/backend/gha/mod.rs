//! A cache in the cache service of GitHub Actions. Central type: [`GhaPlace`].
//!
//! The service keeps entries by key: they are written once, found by a key's beginning, and the newest wins. Layout, as
//! upstream has it: `buildkit-blob-1-<digest>` are blobs, `index-<scope>-1-<8 hex digits>#<n>` the n-th cache document
//! of a scope, on the branch whose sha256 begins so. Both of the service's interfaces are spoken.
//! Sources: the service's public definition in GitHub's toolkit; docs/formats/cache.md.

mod options;
mod place;
mod service;
mod token;
mod upload;

pub(crate) use options::GhaOptions;
pub(crate) use place::GhaPlace;
