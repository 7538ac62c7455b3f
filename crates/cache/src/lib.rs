//! Remembers which key leads to which ref, here and (later) elsewhere.
//!
//! Central type: [`LocalCache`], the solver's writable [`rbuild_solver::CacheStore`] over [`rbuild_store::Store`]. It
//! does not know ops, containers or sessions: keys are digests that the solver made, outputs are refs.
//!
//! Invariants: a record, its keys and what it keeps alive are one transaction; a record that was found can be
//! mounted (its layers are here, or where to get them is known); a look-up touches nothing but the database.
//! Failure: an error of the store, which the solver counts as a miss. Cancel: a commit is done or not, never half.
#![forbid(unsafe_code)]

mod local;

pub use local::LocalCache;
