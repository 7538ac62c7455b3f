//! What a git source's identifier and attributes ask for.

use rbuild_digest::{Digest, Hasher};
use rbuild_llb::git::GitPlace;

use super::refs::Found;
use super::remote::Remote;
use crate::{GitPin, SourceError, SourceRequest};

/// Attributes of upstream that are refused rather than left out: without them the result would be another one.
const UNSUPPORTED: [&str; 2] = ["git.bundle", "git.checkoutbundle"];

/// A request, parsed.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) remote: Remote,
    /// Branch, tag or commit; empty is the default branch.
    pub(super) git_ref: String,
    /// Path from the root without slashes around; empty is the root.
    pub(super) subdir: String,
    pub(super) keep_git_dir: bool,
    pub(super) skip_submodules: bool,
    /// All times are that of the commit.
    pub(super) commit_mtime: bool,
    /// Secrets that may hold a token or a header.
    pub(super) token_secret: Option<String>,
    pub(super) header_secret: Option<String>,
    /// Lines of `known_hosts`.
    pub(super) known_hosts: Option<String>,
    /// The client's agent.
    pub(super) agent: Option<String>,
    /// The beginning of the expected commit, or all of it.
    checksum: Option<String>,
    fetch_by_commit: bool,
}

impl Question {
    pub(super) fn parse(request: &SourceRequest) -> Result<Self, SourceError> {
        let invalid = |reason: String| SourceError::Invalid {
            identifier: super::remote::redacted(&request.op.identifier),
            reason,
        };
        for (name, value) in &request.op.attrs {
            let refused = UNSUPPORTED.contains(&name.as_str()) || name.starts_with("git.sig.");
            if refused && !value.is_empty() {
                return Err(SourceError::Unsupported { what: format!("attribute `{name}`") });
            }
        }
        let place = GitPlace::parse(&request.op.identifier).map_err(|error| invalid(error.to_string()))?;
        let remote = match request.attr("git.fullurl") {
            Some(url) => Remote::parse(url)?,
            None => Remote::parse(&format!("https://{}", place.remote))?,
        };
        let commit_mtime = match request.attr("git.mtime") {
            None | Some("checkout") => false,
            Some("commit") => true,
            Some(other) => {
                return Err(invalid(format!("git.mtime is `{other}`: expected checkout or commit")));
            }
        };
        let checksum = request.attr("git.checksum").map(str::to_owned);
        if let Some(sum) = &checksum
            && !is_hex(sum)
        {
            return Err(invalid(format!("invalid checksum {sum} for Git URL, expected hex commit hash")));
        }
        let question = Self {
            remote,
            git_ref: place.git_ref,
            subdir: place.subdir,
            keep_git_dir: flag(request, "git.keepgitdir"),
            skip_submodules: flag(request, "git.skipsubmodules"),
            commit_mtime,
            token_secret: request.attr("git.authtokensecret").map(str::to_owned),
            header_secret: request.attr("git.authheadersecret").map(str::to_owned),
            known_hosts: request.attr("git.knownsshhosts").map(str::to_owned),
            agent: request.attr("git.mountsshsock").map(str::to_owned),
            checksum,
            fetch_by_commit: flag(request, "git.fetchbycommit"),
        };
        if question.fetch_by_commit && question.known_commit().is_none() {
            return Err(invalid("fetch-by-commit requires a checksum or a commit SHA ref".into()));
        }
        Ok(question)
    }

    /// The commit, if nobody has to be asked for it. A name of 40 hex digits is a commit, never a branch.
    pub(super) fn known_commit(&self) -> Option<String> {
        if is_commit(&self.git_ref) {
            return Some(self.git_ref.clone());
        }
        self.checksum.clone().filter(|sum| self.fetch_by_commit && is_commit(sum))
    }

    /// Is what was found what was expected? The tag of a commit counts as the commit.
    pub(super) fn check(&self, found: &Found) -> Result<(), SourceError> {
        let Some(expected) = &self.checksum else { return Ok(()) };
        if found.commit.starts_with(expected.as_str()) {
            return Ok(());
        }
        if found.object.as_ref().is_some_and(|object| object.starts_with(expected.as_str())) {
            return Ok(());
        }
        let what = format!("expected checksum to match {expected}, got {}", found.commit);
        Err(self.remote.invalid(what))
    }

    /// Upstream's key of the files, with which its caches agree.
    pub(super) fn key(&self, pin: &GitPin) -> String {
        let mut key = pin.commit.clone();
        if self.keep_git_dir {
            key.push_str(".git");
            if !pin.reference.is_empty() {
                key.push('#');
                key.push_str(&pin.reference);
            }
        }
        if !self.subdir.is_empty() {
            key.push(':');
            key.push_str(&self.subdir);
        }
        if self.skip_submodules {
            key.push_str("(skip-submodules)");
        }
        if self.commit_mtime {
            key.push_str("(mtime=commit)");
        }
        key
    }

    /// What a checkout is kept under: the key, and where it is from (submodules and `.git` tell).
    pub(super) fn checkout_key(&self, key: &str) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(self.remote.git_url()).field(key);
        hasher.finish()
    }
}

/// As upstream: everything but a plain yes is no.
fn flag(request: &SourceRequest, name: &str) -> bool {
    matches!(request.attr(name), Some("true" | "1"))
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A whole commit id, of SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}
