//! Where a repository is.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::SourceError;

/// A repository's address: http, https, ssh or git, nothing else. User and password are kept apart from it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// For git: without a password, and over http without a user.
    url: String,
    /// `https://host:port`, `ssh://host`: what credentials are for.
    origin: String,
    host: String,
    kind: Kind,
    /// User and password of an http address.
    login: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Ssh,
    Git,
}

/// Without secrets.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        let refuse =
            |reason: &str| SourceError::Invalid { identifier: redacted(text), reason: reason.into() };
        if text.starts_with('-') || text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            return Err(refuse("it is not the address of a repository"));
        }
        if !text.contains("://") {
            return Self::scp(text).ok_or_else(|| refuse("expected http, https, ssh or git"));
        }
        let mut url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        let kind = match url.scheme() {
            "http" | "https" => Kind::Http,
            "ssh" => Kind::Ssh,
            "git" => Kind::Git,
            _ => return Err(refuse("expected http, https, ssh or git")),
        };
        let host = url.host_str().unwrap_or_default().to_owned();
        if host.is_empty() || host.starts_with('-') || url.username().starts_with('-') {
            return Err(refuse("it names no host"));
        }
        url.set_fragment(None);
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let login = (decode(url.username()), decode(url.password().unwrap_or_default()));
        let cleared = url.set_password(None);
        let cleared = if kind == Kind::Http { cleared.and(url.set_username("")) } else { cleared };
        cleared.map_err(|()| refuse("it names no host"))?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let given = kind == Kind::Http && login != (String::new(), String::new());
        Ok(Self {
            origin: format!("{}://{host}{port}", url.scheme()),
            url: url.into(),
            host,
            kind,
            login: given.then_some(login),
        })
    }

    /// `user@host:path`.
    fn scp(text: &str) -> Option<Self> {
        let (authority, path) = text.split_once(':')?;
        let (user, host) = authority.split_once('@')?;
        let word = |text: &str| {
            let mut bytes = text.bytes();
            bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let good = word(user) && word(host) && !path.is_empty() && !path.starts_with('-');
        good.then(|| Self {
            url: text.to_owned(),
            origin: format!("ssh://{host}"),
            host: host.to_owned(),
            kind: Kind::Ssh,
            login: None,
        })
    }

    /// A submodule's address as its `.gitmodules` has it: relative ones are below this one.
    pub(super) fn join(&self, address: &str) -> Result<Self, SourceError> {
        if !address.starts_with("./") && !address.starts_with("../") {
            return Self::parse(address);
        }
        let mut base = self.url.trim_end_matches('/').to_owned();
        let root = base.find("://").map_or_else(
            || base.find(':').unwrap_or(0),
            |at| base[at + 3..].find('/').map_or(base.len(), |slash| at + 3 + slash),
        );
        let mut rest = address;
        loop {
            if let Some(after) = rest.strip_prefix("./") {
                rest = after;
            } else if let Some(after) = rest.strip_prefix("../") {
                let slash = base[root..].rfind(['/', ':']).filter(|at| root + at < base.len());
                let Some(at) = slash else {
                    return Err(self.invalid(format!("the submodule's address `{address}` leaves the host")));
                };
                let at = root + at;
                // `user@host:repo`: what is before the colon stays.
                base.truncate(if base.as_bytes()[at] == b':' { at + 1 } else { at });
                rest = after;
            } else {
                break;
            }
        }
        let slash = if base.ends_with([':', '/']) { "" } else { "/" };
        let mut joined = Self::parse(&format!("{base}{slash}{rest}"))?;
        joined.login.clone_from(&self.login);
        Ok(joined)
    }

    /// What git is told. No password in it.
    pub(super) fn git_url(&self) -> &str {
        &self.url
    }

    /// What credentials are for: scheme, host, port.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn is_ssh(&self) -> bool {
        self.kind == Kind::Ssh
    }

    pub(super) fn is_http(&self) -> bool {
        self.kind == Kind::Http
    }

    /// User and password that the address had.
    pub(super) fn login(&self) -> Option<&(String, String)> {
        self.login.as_ref()
    }

    /// An error about this repository.
    pub(super) fn invalid(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Invalid { identifier: redacted(&self.url), reason: reason.into() }
    }
}

/// An address as it may be shown: without user, password, query.
pub(super) fn redacted(text: &str) -> String {
    let bare = text.split('?').next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else { return bare.escape_default().to_string() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}").escape_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_transports_are_taken() {
        for text in ["https://h/r.git", "http://h:80/r", "ssh://git@h:22/r", "git://h/r", "git@h:a/b.git"] {
            assert!(Remote::parse(text).is_ok(), "{text}");
        }
        for text in [
            "ext::sh -c x",
            "ext::sh://x",
            "file:///r",
            "/r",
            "r",
            "-u",
            "--upload-pack=x",
            "ssh://-oProxyCommand=x/r",
            "git@-oProxy:x",
            "-x@h:p",
            "https://h/a\nb",
            "fd::3",
            "ftp://h/r",
            "git@h:-x",
        ] {
            assert!(Remote::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn passwords_are_kept_apart() {
        let remote = Remote::parse("https://us%65r:p%40ss@h:8443/r.git").unwrap();
        assert_eq!(remote.git_url(), "https://h:8443/r.git");
        assert_eq!(remote.login(), Some(&("user".to_owned(), "p@ss".to_owned())));
        assert_eq!(remote.origin(), "https://h:8443");
        assert!(!format!("{remote:?}{}", remote.invalid("x")).contains("p@ss"));
        assert_eq!(Remote::parse("ssh://git:pw@h/r").unwrap().git_url(), "ssh://git@h/r");
    }

    #[test]
    fn addresses_of_submodules_are_relative_to_the_repository() {
        for (base, address, expected) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h/a/b.git", "./c.git", "https://h/a/b.git/c.git"),
            ("https://h/a/b.git/", "../../x/c", "https://h/x/c"),
            ("git@h:a/b.git", "../c.git", "git@h:a/c.git"),
            ("git@h:b.git", "../c.git", "git@h:c.git"),
            ("https://h/a.git", "ssh://git@i/c", "ssh://git@i/c"),
        ] {
            assert_eq!(
                Remote::parse(base).unwrap().join(address).unwrap().git_url(),
                expected,
                "{base} {address}"
            );
        }
        let base = Remote::parse("https://h/a.git").unwrap();
        for address in ["../../../x", "file:///x", "/x", "ext::sh", "-u", "x"] {
            assert!(base.join(address).is_err(), "{address}");
        }
    }
}
