//! What each kind of op is and does: `*_key` files say what it is to the cache, the others do the work.

pub(crate) mod build;
pub(crate) mod exec;
pub(crate) mod exec_key;
pub(crate) mod file;
pub(crate) mod file_key;
pub(crate) mod select;
pub(crate) mod simple;
pub(crate) mod source;
