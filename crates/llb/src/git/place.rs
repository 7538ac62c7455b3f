use super::{GitUrlError, check_git_ref, rules};

/// What a git source's identifier names: `git://host/path#ref:subdir`, the same for all transports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitPlace {
    /// Host, port and path.
    pub remote: String,
    /// Branch, tag or commit; empty is the default branch.
    pub git_ref: String,
    /// Path from the repository's root without slashes around; empty is the root.
    pub subdir: String,
}

impl GitPlace {
    /// Reads an identifier.
    ///
    /// Errors: it is not one of git, or its ref or subdirectory is none that git may see.
    pub fn parse(identifier: &str) -> Result<Self, GitUrlError> {
        let refuse = |reason| GitUrlError::Url { url: identifier.escape_default().to_string(), reason };
        let rest = identifier.strip_prefix("git://").ok_or_else(|| refuse("it is none of git"))?;
        let (remote, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        if remote.is_empty() || remote.starts_with('-') || remote.bytes().any(|b| b.is_ascii_control()) {
            return Err(refuse("it names no host"));
        }
        // `ext::…` is how git is told to run a program; in a host that begins with a bracket it is an IPv6 address.
        let authority = remote.split('/').next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains("::") || (host.contains("::") && !host.starts_with('[')) {
            return Err(refuse("its host has `::`"));
        }
        let (git_ref, subdir) = rules::split_fragment(fragment);
        check_git_ref(git_ref)?;
        let subdir = rules::clean_subdir(subdir)?;
        Ok(Self { remote: remote.to_owned(), git_ref: git_ref.to_owned(), subdir })
    }
}
