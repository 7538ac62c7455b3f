use std::fmt;

use super::query::{GitUrlOptions, Query};
use super::{GitUrlError, rules};
use crate::builder::paths;

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitTransport {
    /// `http://`
    Http,
    /// `https://`
    Https,
    /// `ssh://`, or `user@host:path`
    Ssh,
    /// `git://`
    Git,
}

/// The address of a repository, with everything that ref and query ask for.
#[derive(Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// How it is reached.
    pub transport: GitTransport,
    /// Host, with port if one is given.
    pub host: String,
    /// Branch, tag or commit; empty is the default branch.
    pub git_ref: String,
    /// Path from the repository's root without slashes around; empty is the root.
    pub subdir: String,
    /// What the query asks for besides.
    pub options: GitUrlOptions,
    /// It could be the name of a local file as well: `github.com/…` without a scheme.
    pub looks_local: bool,
    remote: String,
    path: String,
    user: Option<String>,
}

/// The parts that all ways to write an address have.
struct Parts<'a> {
    transport: GitTransport,
    user: Option<&'a str>,
    host: &'a str,
    path: String,
    /// What git is given.
    remote: String,
    query: &'a str,
    fragment: String,
}

impl GitUrl {
    /// Reads an address; `None` is something that isn't one, such as a local path or a file over http.
    ///
    /// Over http(s) it is one if its path ends in `.git`.
    /// Errors: it is one, but no good one.
    pub fn parse(text: &str) -> Result<Option<Self>, GitUrlError> {
        let parts = match text.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('@') => with_scheme(scheme, rest)?,
            _ if text.starts_with("github.com/") => Some(located("https", GitTransport::Https, text)?),
            _ => scp_like(text),
        };
        let Some(parts) = parts else { return Ok(None) };
        let looks_local = text.starts_with("github.com/");
        Self::from_parts(parts, looks_local).map(Some)
    }

    fn from_parts(parts: Parts<'_>, looks_local: bool) -> Result<Self, GitUrlError> {
        let mut url = Self {
            transport: parts.transport,
            host: parts.host.to_owned(),
            git_ref: String::new(),
            subdir: String::new(),
            options: GitUrlOptions::default(),
            looks_local,
            path: paths::clean(&format!("/{}", parts.path)),
            user: parts.user.map(str::to_owned),
            remote: parts.remote,
        };
        url.check()?;
        let mut query = Query::parse(parts.query)?;
        let (git_ref, subdir) = rules::split_fragment(&parts.fragment);
        url.git_ref = query.reference(git_ref)?;
        url.subdir = query.directory(subdir)?;
        url.options = query.options;
        Ok(url)
    }

    /// Nothing that ssh or git could take for an option.
    fn check(&self) -> Result<(), GitUrlError> {
        let refuse = |reason| Err(GitUrlError::Url { url: self.redacted(), reason });
        if self.host.is_empty() {
            return refuse("it names no host");
        }
        if self.host.starts_with('-') || self.user.as_ref().is_some_and(|user| user.starts_with('-')) {
            return refuse("host and user may not begin with `-`");
        }
        if self.remote.bytes().chain(self.path.bytes()).any(|b| b.is_ascii_control()) {
            return refuse("it has control characters");
        }
        if self.path.contains('#') {
            return refuse("its path has `#`");
        }
        if self.host.contains(|c: char| c.is_whitespace() || "\"'\\<>^`{|}".contains(c)) {
            return refuse("its host has characters that hosts can't have");
        }
        Ok(())
    }

    /// What git is told: the address without ref and query, user and password included.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// Host, port and path, in which all transports are alike.
    pub fn place(&self) -> String {
        format!("{}{}", self.host, self.path)
    }

    /// The path at the host, with a slash before it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The user, and after a colon the password.
    pub fn user_info(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether ssh is spoken.
    pub fn is_ssh(&self) -> bool {
        self.transport == GitTransport::Ssh
    }

    /// The address without user, password, ref and query: for messages and logs.
    pub fn redacted(&self) -> String {
        let scheme = match self.transport {
            GitTransport::Http => "http",
            GitTransport::Https => "https",
            GitTransport::Ssh => "ssh",
            GitTransport::Git => "git",
        };
        format!("{scheme}://{}", self.place()).escape_default().to_string()
    }
}

/// Without secrets.
impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitUrl")
            .field("url", &self.redacted())
            .field("git_ref", &self.git_ref)
            .field("subdir", &self.subdir)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Takes fragment and query off the end.
fn split(text: &str) -> (&str, Option<&str>, &str) {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    match rest.split_once('?') {
        Some((bare, query)) => (bare, Some(query), fragment),
        None => (rest, None, fragment),
    }
}

fn with_scheme<'a>(scheme: &str, rest: &'a str) -> Result<Option<Parts<'a>>, GitUrlError> {
    let scheme = scheme.to_ascii_lowercase();
    let transport = match scheme.as_str() {
        "http" => GitTransport::Http,
        "https" => GitTransport::Https,
        "ssh" => GitTransport::Ssh,
        "git" => GitTransport::Git,
        _ => return Ok(None),
    };
    let web = matches!(transport, GitTransport::Http | GitTransport::Https);
    let path = rules::decoded(split(rest).0.trim_start_matches(|c| c != '/'));
    if web && !path.is_some_and(|path| path.ends_with(".git")) {
        return Ok(None);
    }
    located(&scheme, transport, rest).map(Some)
}

/// `[user@]host[:port][/path]` with query and fragment.
fn located<'a>(scheme: &str, transport: GitTransport, rest: &'a str) -> Result<Parts<'a>, GitUrlError> {
    let (bare, query, fragment) = split(rest);
    let (authority, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let refuse = |reason| {
        let url = format!("{scheme}://{host}{path}").escape_default().to_string();
        GitUrlError::Url { url, reason }
    };
    if !port_is_number(host) {
        return Err(refuse("its port is no number"));
    }
    let path = rules::decoded(path).ok_or_else(|| refuse("its path has invalid escapes"))?;
    let fragment = rules::decoded(fragment).ok_or_else(|| refuse("its fragment has invalid escapes"))?;
    // An empty query stays, for upstream's digests.
    let mark = if query == Some("") { "?" } else { "" };
    let remote = format!("{scheme}://{bare}{mark}");
    let query = query.unwrap_or_default();
    Ok(Parts { transport, user, host, path, remote, query, fragment })
}

fn port_is_number(host: &str) -> bool {
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    after.split_once(':').is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
}

/// `user@host:path`; user and host are of letters, digits and few more, so that file names rarely match.
fn scp_like(text: &str) -> Option<Parts<'_>> {
    let (bare, query, fragment) = split(text);
    let (authority, path) = bare.split_once(':')?;
    let (user, host) = authority.split_once('@')?;
    let word = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let known = word(user, "-_") && word(host, "-.");
    known.then(|| Parts {
        transport: GitTransport::Ssh,
        user: Some(user),
        host,
        path: path.to_owned(),
        remote: bare.to_owned(),
        query: query.unwrap_or_default(),
        fragment: fragment.to_owned(),
    })
}
