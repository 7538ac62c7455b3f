//! Addresses of git repositories, as users write them and as definitions hold them.
//!
//! [`GitUrl`] is what `ADD`, contexts and named contexts name: `https://host/path.git`, `ssh://…`, `git://…`,
//! `user@host:path`, each with `#ref:subdir` or `?ref=…&subdir=…`. [`GitPlace`] is what a source op's
//! identifier holds: `git://host/path#ref:subdir`.
//!
//! Nothing here touches a network or a file. Invariant: no ref, host, user or subdirectory that gets out of
//! here can be taken for an option by git or ssh, leaves the repository, or holds control characters; other
//! transports (`ext::`, `file://`) are no git addresses at all.

mod error;
mod place;
mod query;
mod rules;
#[cfg(test)]
mod tests;
mod url;

pub use error::GitUrlError;
pub use place::GitPlace;
pub use query::GitUrlOptions;
pub use rules::check_git_ref;
pub use url::{GitTransport, GitUrl};
