//! Remembers which key leads to which ref, here and elsewhere.
//!
//! Central types: [`LocalCache`], the solver's writable [`rbuild_solver::CacheStore`] over [`rbuild_store::Store`];
//! [`RemoteCache`], an imported cache as the solver asks it; [`CacheExport`], a cache to be written. It does not know
//! ops, containers or LLB: keys are digests that the solver made, outputs are refs.
//!
//! Invariants: a record, its keys and what it keeps alive are one transaction; a record that was found can be
//! mounted (its layers are here, or where to get them is known); nothing of an imported document is believed
//! before it was checked. Documents are upstream's, byte for byte: docs/formats/cache.md.
//! Failure: a cache that cannot be imported is a step that failed and a build that goes on. Cancel: a commit is done
//! or not, never half; imports end with the last handle on them.
#![forbid(unsafe_code)]

mod attrs;
mod backend;
mod caches;
mod error;
mod export;
mod format;
mod index;
mod load;
mod local;
mod mounts;
mod progress;
mod remote;
mod target;
mod tier;

pub use attrs::is_secret;
pub use backend::http::{Http, ObjectError};
pub use caches::{CacheImport, Caches, Client, import_step_name};
pub use error::CacheError;
pub use export::{Known, Mode, Solution};
pub use format::INLINE_KEY;
pub use local::LocalCache;
pub use mounts::MountCaches;
pub use remote::RemoteCache;
pub use target::{CacheExport, Target, inline};
pub use tier::{Tier, TierOptions, TieredCache};
