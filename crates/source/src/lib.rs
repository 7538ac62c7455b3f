//! The outside world as refs: images, directories of the client, git repositories, files over http.
//!
//! Central type: [`Source`]. *Resolve* asks what the source is right now and answers with a [`Pin`] (its cache key
//! and all that is needed to get exactly that); *fetch* turns a pin into a `store::Ref`, lazily where the source
//! allows it. A source does not know the solver, nor other builds.
//!
//! Invariants: what was resolved is what is fetched (digests decide, not names); credentials go to the host they
//! are for and to no other; names that the outside world makes up never become paths without being checked.
//! Failure: [`SourceError`]. Cancel: drop the future; half-made refs are discarded by the store.
#![forbid(unsafe_code)]

mod blob;
mod credentials;
mod error;
mod git;
mod http;
mod image;
mod layout;
mod local;
mod source;

pub use blob::BlobSource;
pub use credentials::SessionCredentials;
pub use error::SourceError;
pub use git::GitSource;
pub use http::{AddressPolicy, ClosedAddresses, HttpLimits, HttpSource, shown_url};
pub use image::ImageSource;
pub use local::LocalSource;
pub use source::{GitPin, HttpPin, ImageLayer, ImagePin, Memo, Pin, PinDetail, Source, SourceRequest};
