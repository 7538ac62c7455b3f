use ::http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use rbuild_digest::Digest;
use rbuild_session::names::UPLOAD_HOST;
use rbuild_store::Ref;
use serde::Serialize;
use url::Url;

use crate::{HttpPin, Pin, PinDetail, SourceError, SourceRequest};

/// Mode of the file unless the build says otherwise.
pub(crate) const DEFAULT_MODE: u32 = 0o600;

/// A request, parsed.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) url: Url,
    /// Fit to be shown: without user, password and query.
    pub(super) shown: String,
    pub(super) filename: Option<String>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) checksum: Option<Digest>,
    pub(super) headers: HeaderMap,
}

impl Question {
    pub(super) fn parse(request: &SourceRequest) -> Result<Self, SourceError> {
        let identifier = request.op.identifier.as_str();
        let invalid = |reason: String| SourceError::Invalid { identifier: shown(identifier), reason };
        let url = Url::parse(identifier).map_err(|error| invalid(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(invalid("expected http or https and a host".into()));
        }
        let number = |attr: &str| match request.attr(attr) {
            None => Ok(None),
            Some(text) => parse_number(text).map(Some).ok_or_else(|| invalid(format!("bad {attr} `{text}`"))),
        };
        let checksum = match request.attr("http.checksum") {
            None => None,
            Some(text) => Some(Digest::parse(text).map_err(|error| invalid(error.to_string()))?),
        };
        let mut headers = HeaderMap::new();
        for (attr, value) in &request.op.attrs {
            if attr.starts_with("http.sig.") {
                return Err(SourceError::Unsupported { what: format!("attribute `{attr}`") });
            }
            let Some(name) = attr.strip_prefix("http.header.") else { continue };
            let name =
                name.parse::<HeaderName>().map_err(|_| invalid(format!("bad header name `{name}`")))?;
            if name != ACCEPT && name != USER_AGENT {
                return Err(invalid(format!("header `{name}` cannot be set")));
            }
            let value =
                HeaderValue::from_str(value).map_err(|_| invalid(format!("bad value of header `{name}`")))?;
            headers.insert(name, value);
        }
        Ok(Self {
            shown: shown(identifier),
            url,
            filename: request.attr("http.filename").map(str::to_owned),
            mode: number("http.perm")?.unwrap_or(DEFAULT_MODE) & 0o7777,
            uid: number("http.uid")?.unwrap_or(0),
            gid: number("http.gid")?.unwrap_or(0),
            checksum,
            headers,
        })
    }

    /// What makes a stored file the answer to this question: where it is from and how it looks.
    pub(super) fn cache_key(&self) -> Digest {
        let mut hasher = rbuild_digest::Hasher::new();
        hasher.field(self.url.as_str()).field(self.filename.as_deref().unwrap_or_default());
        hasher.field(format!("{:o} {} {}", self.mode, self.uid, self.gid));
        let mut headers: Vec<_> = self.headers.iter().collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in headers {
            hasher.field(name.as_str()).field(value.as_bytes());
        }
        hasher.finish()
    }

    pub(super) fn pin(
        &self,
        digest: Digest,
        filename: String,
        last_modified: Option<String>,
        etag: Option<String>,
        content: Option<Ref>,
    ) -> Pin {
        let form = FileKey {
            filename: &filename,
            perm: self.mode,
            uid: self.uid,
            gid: self.gid,
            checksum: digest,
            last_mod_time: last_modified.as_deref().unwrap_or_default(),
        };
        let key = form.key();
        let last_modified_s = last_modified.as_deref().and_then(http_date);
        let detail = PinDetail::Http(HttpPin { digest, filename, last_modified_s, etag, content });
        Pin { key, aliases: Vec::new(), volatile: false, detail }
    }

    /// The path under which the client uploads the file, if it is not a server's.
    pub(super) fn upload_path(&self) -> Option<&str> {
        (self.url.scheme() == "http" && self.url.host_str() == Some(UPLOAD_HOST)).then(|| self.url.path())
    }
}

/// What makes a file what it is: its content and its form.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct FileKey<'a> {
    pub(crate) filename: &'a str,
    pub(crate) perm: u32,
    #[serde(rename = "UID")]
    pub(crate) uid: u32,
    #[serde(rename = "GID")]
    pub(crate) gid: u32,
    pub(crate) checksum: Digest,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) last_mod_time: &'a str,
}

impl FileKey<'_> {
    /// A pin's key.
    pub(crate) fn key(&self) -> String {
        Digest::of(rbuild_oci::json::to_vec(self).expect("plain fields")).to_string()
    }
}

/// Decimal, or octal with a leading zero (`0644`), or `0o`.
pub(crate) fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')) {
        Some("") => Some(0),
        Some(octal) => u32::from_str_radix(octal, 8).ok(),
        None => text.parse().ok(),
    }
}

pub(super) fn http_date(text: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(time.as_second())
}

/// The URL of a source that is a file behind a URL, as it may appear in messages: no user, no password, no query, no
/// fragment.
///
/// None for other sources, and for what a client uploads: that URL is made up for it.
pub fn shown_url(identifier: &str) -> Option<String> {
    let url = Url::parse(identifier).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    (url.host_str() != Some(UPLOAD_HOST)).then(|| shown(identifier))
}

/// A URL as it may appear in messages: no user, no password, no query, no fragment.
pub(super) fn shown(identifier: &str) -> String {
    let Ok(mut url) = Url::parse(identifier) else {
        return identifier
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .rsplit('@')
            .next()
            .unwrap_or_default()
            .into();
    };
    url.set_query(None);
    url.set_fragment(None);
    if !url.username().is_empty() || url.password().is_some() {
        // Neither can fail for a URL with a host.
        let cleared = url.set_username("").and(url.set_password(None));
        if cleared.is_err() {
            return url.scheme().to_owned();
        }
    }
    url.to_string()
}
