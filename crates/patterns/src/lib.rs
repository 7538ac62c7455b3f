//! Upstream's path patterns, exactly: `.dockerignore` files, include and exclude lists, Go's globs.
//!
//! Central types: [`PatternSet`] (an ordered list in which the last pattern that says something wins) and
//! [`WalkFilter`] (an include and an exclude list over a walk: what to show, what to prune). Paths are
//! relative, with `/`, without `.` and `..`. This crate knows text only: it never touches a file system.
//!
//! Two languages meet here and they are not the same:
//! - a *pattern* of a set: `**` crosses directories, `!` takes back, matching a directory matches all below;
//! - a *glob* ([`glob_match`]): one path against one pattern as Go's `filepath.Match` does, `*` stays within a
//!   directory.
//!
//! Every malformed pattern is an error when it is parsed, never later.
#![forbid(unsafe_code)]

mod dockerignore;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod path;
mod pattern;
mod set;
mod walk;

pub use dockerignore::parse_dockerignore;
pub use error::PatternError;
pub use glob::{glob_match, has_wildcard};
pub use set::{Match, PatternSet};
pub use walk::{DirState, Verdict, Visited, WalkFilter, Walker};
