//! Changes file trees below [`Root`](rbuild_sys::Root) handles, as upstream's file op does. Synchronous, and pure of ops, refs and builds:
//! callers run it on the blocking pool.
//!
//! Every path from outside is first cleaned in words (`..` stops at the root, security.md P7), then resolved by the
//! kernel below a root. [`rooted`](paths::rooted) follows symlinks inside the root by hand where a missing end has to be made;
//! what it answers is only a path to be resolved again, so a race can mislead but never escape.

mod chmod;
mod copy;
mod error;
mod glob;
mod make;
mod meta;
mod owner;
mod paths;
mod unpack;

pub(crate) use chmod::ModeChange;
pub(crate) use copy::{CopyRequest, Share, copy};
pub use error::FileError;
pub(crate) use glob::has_wildcard;
pub(crate) use make::{MakeDir, MakeFile, MakeLink, make_dir, make_file, make_link, remove};
pub(crate) use meta::Changes;
pub(crate) use owner::{Owner, find_group, find_user};
pub(crate) use paths::{clean, rooted};

#[cfg(test)]
mod tests;
