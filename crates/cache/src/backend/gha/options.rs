use std::time::Duration;

use rbuild_digest::Digest;
use reqwest::Url;

use super::token::{self, Branch};
use crate::attrs::Attrs;
use crate::error::{CacheError, Result};

/// Upstream's default.
const DEFAULT_SCOPE: &str = "buildkit";

/// Which interface the service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// `_apis/artifactcache`, as GitHub Enterprise Server has it.
    One,
    /// Twirp, as github.com has it.
    Two,
}

/// The service, and which caches of it.
#[derive(Clone)]
pub(crate) struct GhaOptions {
    pub(super) url: Url,
    pub(super) version: Version,
    pub(super) token: String,
    pub(super) scope: String,
    branches: Vec<Branch>,
    /// How long an import may take.
    pub(super) timeout: Option<Duration>,
}

impl std::fmt::Debug for GhaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GhaOptions").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl GhaOptions {
    /// Takes the attributes of a cache in the service.
    pub(crate) fn take(attrs: &mut Attrs) -> Result<Self> {
        // They let upstream list entries through GitHub's general interface. Here each blob is asked for in the service.
        attrs.ignore(&["repository", "ghtoken"]);
        let (one, two) = (attrs.take("url"), attrs.take("url_v2"));
        let version = match attrs.take("version").as_deref() {
            None if two.is_some() => Version::Two,
            None | Some("1") => Version::One,
            Some("2") => Version::Two,
            Some(other) => return Err(attrs.bad("version", other, "expected 1 or 2")),
        };
        let (name, text) = match version {
            Version::One => ("url", one),
            Version::Two => ("url_v2", two),
        };
        let text = text.ok_or(CacheError::Missing { kind: "gha", name })?;
        let url = service(&text).map_err(|reason| attrs.bad(name, "…", &reason))?;
        let token = attrs.take("token").ok_or(CacheError::Missing { kind: "gha", name: "token" })?;
        let branches = token::branches(&token).map_err(|reason| attrs.bad("token", "…", reason))?;
        let scope = attrs.take("scope").unwrap_or_else(|| DEFAULT_SCOPE.to_owned());
        let timeout = attrs.duration("timeout")?;
        Ok(Self { url, version, token, scope, branches, timeout })
    }

    /// How people know it.
    pub(crate) fn shown(&self) -> String {
        format!("gha:{}", self.scope)
    }

    /// Beginnings of the keys of documents that can be read, the run's own branch first.
    pub(super) fn readable(&self) -> impl Iterator<Item = String> {
        self.branches.iter().filter(|branch| branch.readable()).map(|branch| self.document(branch))
    }

    /// The beginning of the keys of the documents that the run writes.
    pub(super) fn writable(&self) -> Option<String> {
        self.branches.iter().find(|branch| branch.writable()).map(|branch| self.document(branch))
    }

    fn document(&self, branch: &Branch) -> String {
        let hex = Digest::of(&branch.scope).hex();
        format!("index-{}-1-{}#", self.scope, &hex[..8])
    }
}

/// The address of the service, with a slash at its end. The error does not repeat it: it may hold a key.
fn service(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("expected http:// or https:// and a host".into());
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base64::Engine as _;

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<GhaOptions> {
        let map: BTreeMap<_, _> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut attrs = Attrs::new("gha", &map);
        GhaOptions::take(&mut attrs).and_then(|options| attrs.finish().map(|()| options))
    }

    fn token() -> String {
        let claims = r#"{"ac":"[{\"Scope\":\"refs/heads/main\",\"Permission\":3}]"}"#;
        format!("h.{}.hush", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn documents_have_upstreams_keys() {
        let token = token();
        let found = options(&[("url", "http://h/a"), ("token", &token), ("scope", "sc")]).unwrap();
        assert_eq!(found.writable().as_deref(), Some("index-sc-1-f921bd05#"));
        assert_eq!((found.url.as_str(), found.version), ("http://h/a/", Version::One));
        let found = options(&[("url", "http://h/a"), ("url_v2", "http://h/b/"), ("token", &token)]).unwrap();
        assert_eq!((found.url.as_str(), found.version), ("http://h/b/", Version::Two));
        assert_eq!(found.readable().collect::<Vec<_>>(), ["index-buildkit-1-f921bd05#"]);
        assert!(!format!("{found:?}").contains("hush"));
    }

    #[test]
    fn what_is_missing_or_makes_no_sense_is_named_without_the_token() {
        let token = token();
        for (pairs, word) in [
            (&[("token", token.as_str())][..], "url"),
            (&[("url", "http://h/")], "token"),
            (&[("url", "http://h/"), ("token", "hush")], "token"),
            (&[("url", "h"), ("token", &token)], "url"),
            (&[("url", "http://h"), ("token", &token), ("version", "3")], "version"),
            (&[("url", "http://h"), ("token", &token), ("version", "2")], "url_v2"),
            (&[("url", "http://h"), ("token", &token), ("timeout", "x")], "timeout"),
            (&[("url", "http://h"), ("token", &token), ("what", "x")], "what"),
        ] {
            let error = options(pairs).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("hush"), "{error}");
        }
    }
}
