//! A cache in a bucket of an S3-compatible store. Central type: [`S3Place`].
//!
//! Layout, as upstream has it: `<prefix><blobs_prefix><digest>` are blobs, `<prefix><manifests_prefix><name>` is a cache
//! document whose layers carry what is known of their blobs. Blobs are written once; documents are replaced whole.
//! Sources: the S3 API reference; docs/formats/cache.md.

mod bucket;
mod options;
mod place;
mod sign;
mod xml;

pub(crate) use options::S3Options;
pub(crate) use place::S3Place;
pub(crate) use xml::element;
