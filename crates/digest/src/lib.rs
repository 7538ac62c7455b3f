//! Names of bytes: [`Digest`], the [`Hasher`] that makes one, and random ids.
//!
//! Central type: [`Digest`]. It knows sha256 only; a digest of another algorithm is refused when parsed,
//! never carried along unchecked. Values are 32 bytes and `Copy`.
#![forbid(unsafe_code)]

mod digest;
mod id;

pub use digest::{Digest, Hasher, ParseDigestError};
pub use id::{is_safe_id, random_id};
