//! `http://` and `https://`: one file.
//!
//! Without a checksum the file has to be asked for to know what it is. Servers that give versions (`ETag`,
//! `Last-Modified`) are asked whether ours is still current; a file that is new is stored while its digest is made,
//! so that it is fetched once.

mod address;
mod download;
mod name;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, USER_AGENT,
};
use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_session::SessionManager;
use rbuild_store::{Ref, RefId, Store};
use reqwest::{Client, Response, redirect};
use serde::{Deserialize, Serialize};
use url::Url;

pub use address::AddressPolicy;

use crate::{HttpPin, Pin, PinDetail, Source, SourceError, SourceRequest};
use address::CheckedDns;
use download::FileForm;

/// Redirects in a row.
const MAX_REDIRECTS: usize = 10;
/// Making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries in all, for failures that may pass.
const ATTEMPTS: u32 = 4;
/// Wait before the second try; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Mode of the file unless the build says otherwise.
const DEFAULT_MODE: u32 = 0o600;
/// Space of the store's small values where versions are kept by URL and form.
const SPACE: &str = "http";

/// `http://` and `https://`: a file from a web server.
#[derive(Debug)]
pub struct HttpSource {
    store: Store,
    sessions: Arc<SessionManager>,
    policy: Arc<AddressPolicy>,
    client: Client,
}

/// What is remembered of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    digest: Digest,
    filename: String,
    etag: Option<String>,
    last_modified: Option<String>,
    id: String,
}

/// A request, parsed.
#[derive(Debug)]
struct Question {
    url: Url,
    /// Fit to be shown: without user, password and query.
    shown: String,
    filename: Option<String>,
    mode: u32,
    uid: u32,
    gid: u32,
    checksum: Option<Digest>,
    headers: HeaderMap,
}

impl HttpSource {
    /// Link-local addresses are closed, all others open.
    ///
    /// Errors: [`SourceError::Http`] if the system's certificates cannot be used.
    pub fn new(store: Store, sessions: Arc<SessionManager>) -> Result<Self, SourceError> {
        Self::with_policy(store, sessions, AddressPolicy::default())
    }

    /// With the addresses of `policy`.
    pub fn with_policy(
        store: Store,
        sessions: Arc<SessionManager>,
        policy: AddressPolicy,
    ) -> Result<Self, SourceError> {
        rbuild_registry::install_crypto();
        let policy = Arc::new(policy);
        let checked = policy.clone();
        let redirects = redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("too many redirects");
            }
            match checked.refuses(attempt.url()) {
                Some(ip) => attempt.error(format!("redirect to {ip}, which is not allowed")),
                None => attempt.follow(),
            }
        });
        let client = Client::builder()
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_adaptive_window(true)
            .referer(false)
            .redirect(redirects)
            .dns_resolver(Arc::new(CheckedDns(policy.clone())))
            .build()
            .map_err(|error| SourceError::Http { url: "http client".into(), reason: chain(&error) })?;
        Ok(Self { store, sessions, policy, client })
    }

    /// Sends the question, with patience. 304 is an answer, other statuses that are no success are errors.
    async fn ask(&self, question: &Question, headers: &HeaderMap) -> Result<Response, SourceError> {
        if let Some(ip) = self.policy.refuses(&question.url) {
            return Err(SourceError::Address { url: question.shown.clone(), address: ip.to_string() });
        }
        let mut tries = 1;
        loop {
            let error = match self.ask_once(question, headers).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let may_pass = match &error {
                SourceError::HttpStatus { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
                SourceError::Http { .. } => true,
                _ => false,
            };
            if !may_pass || tries >= ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(%error, tries, "trying again");
            tokio::time::sleep(FIRST_WAIT * (1 << (tries - 1))).await;
            tries += 1;
        }
    }

    async fn ask_once(&self, question: &Question, headers: &HeaderMap) -> Result<Response, SourceError> {
        let url = question.shown.clone();
        let sent = self.client.get(question.url.clone()).headers(headers.clone()).send();
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, sent).await {
            Err(_) => {
                let reason = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                return Err(SourceError::Http { url, reason });
            }
            Ok(Err(error)) => {
                let reason = chain(&error);
                return Err(match reason.contains("is not allowed") {
                    true => SourceError::Address { url, address: reason },
                    false => SourceError::Http { url, reason },
                });
            }
            Ok(Ok(response)) => response,
        };
        if let Some(address) = response.remote_addr()
            && !self.policy.allows(address.ip(), address.port())
        {
            return Err(SourceError::Address { url, address: address.to_string() });
        }
        match response.status().as_u16() {
            304 if headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE) => {
                Ok(response)
            }
            _ if response.status().is_success() => Ok(response),
            status => Err(SourceError::HttpStatus { url, status }),
        }
    }

    async fn authorize(&self, question: &mut Question, request: &SourceRequest) -> Result<(), SourceError> {
        let Some(id) = request.attr("http.authheadersecret") else { return Ok(()) };
        let secret = self.sessions.any(&request.sessions).await?.get_secret(id).await?;
        let text = String::from_utf8_lossy(&secret);
        let mut header = HeaderValue::from_str(text.trim()).map_err(|_| SourceError::Invalid {
            identifier: question.shown.clone(),
            reason: format!("secret `{id}` is not a header value"),
        })?;
        header.set_sensitive(true);
        question.headers.insert(AUTHORIZATION, header);
        Ok(())
    }

    /// What was fetched last for this question, if its file is still here.
    fn known(&self, question: &Question) -> Result<Option<(Known, Ref)>, SourceError> {
        let Some(row) = self.store.kv_get(SPACE, question.cache_key().as_bytes())? else { return Ok(None) };
        let Ok(known) = serde_json::from_slice::<Known>(&row) else { return Ok(None) };
        let Some(id) = RefId::parse(&known.id) else { return Ok(None) };
        Ok(self.store.get(&id)?.filter(Ref::is_loadable).map(|found| (known, found)))
    }

    async fn pin(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        let mut question = Question::parse(request)?;
        if let Some(digest) = question.checksum {
            let filename = name::file_name(&question.url, question.filename.as_deref(), None);
            let content = self.known(&question)?;
            let content = content.filter(|(known, _)| known.digest == digest && known.filename == filename);
            return Ok(question.pin(digest, filename, None, None, content.map(|(_, found)| found)));
        }
        self.authorize(&mut question, request).await?;
        let known = self.known(&question)?;
        let mut headers = question.headers.clone();
        if let Some((known, _)) = &known {
            if let Some(value) = known.etag.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok()) {
                headers.insert(IF_NONE_MATCH, value);
            } else if let Some(value) =
                known.last_modified.as_deref().and_then(|m| HeaderValue::from_str(m).ok())
            {
                headers.insert(IF_MODIFIED_SINCE, value);
            }
        }
        let response = self.ask(&question, &headers).await?;
        if let Some((known, content)) = known {
            let etag = text_header(&response, &ETAG);
            // Servers that know no 304 but give the same strong mark mean the same.
            let same = etag.is_some()
                && etag == known.etag
                && !known.etag.as_deref().unwrap_or("W/").starts_with("W/");
            if response.status().as_u16() == 304 || same {
                content.mark_used();
                return Ok(question.pin(
                    known.digest,
                    known.filename,
                    known.last_modified,
                    known.etag,
                    Some(content),
                ));
            }
        }
        self.keep(&question, request, response).await
    }

    /// Keeps the file of `response`; if it breaks off, asks again.
    async fn keep(
        &self,
        question: &Question,
        request: &SourceRequest,
        response: Response,
    ) -> Result<Pin, SourceError> {
        let mut result = self.store_answer(question, request, response).await;
        for tries in 1..ATTEMPTS {
            match &result {
                Err(error @ SourceError::Http { .. }) => tracing::debug!(%error, tries, "fetching again"),
                _ => break,
            }
            let response = self.ask(question, &question.headers).await?;
            result = self.store_answer(question, request, response).await;
        }
        result
    }

    /// Keeps the file that came, and what the server said about its version.
    async fn store_answer(
        &self,
        question: &Question,
        request: &SourceRequest,
        response: Response,
    ) -> Result<Pin, SourceError> {
        let (etag, last_modified) = (text_header(&response, &ETAG), text_header(&response, &LAST_MODIFIED));
        let disposition = text_header(&response, &CONTENT_DISPOSITION);
        // After redirects it is still the URL that was asked for that names the file.
        let filename = match question.checksum {
            Some(_) => name::file_name(&question.url, question.filename.as_deref(), None),
            None => name::file_name(&question.url, question.filename.as_deref(), disposition.as_deref()),
        };
        let status = request.reporter.status(&format!("downloading {}", question.shown), "downloading");
        let form = FileForm {
            name: filename.clone(),
            mode: question.mode,
            uid: question.uid,
            gid: question.gid,
            mtime_s: last_modified.as_deref().and_then(http_date).unwrap_or(0),
        };
        let (content, digest) =
            download::save(&self.store, response, &form, &question.shown, &status).await?;
        if let Some(expected) = question.checksum
            && expected != digest
        {
            return Err(SourceError::Digest { what: question.shown.clone(), expected, found: digest });
        }
        let known = Known {
            digest,
            filename: filename.clone(),
            etag: etag.clone(),
            last_modified: last_modified.clone(),
            id: content.id().as_str().to_owned(),
        };
        let row = serde_json::to_vec(&known).map_err(|error| {
            SourceError::io(format!("remember {}", question.shown), std::io::Error::other(error))
        })?;
        self.store.kv_put(SPACE, question.cache_key().as_bytes(), &row).await?;
        Ok(question.pin(digest, filename, last_modified, etag, Some(content)))
    }
}

#[async_trait]
impl Source for HttpSource {
    fn schemes(&self) -> &'static [&'static str] {
        &["http", "https"]
    }

    async fn resolve(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        let key = format!("http {} {:?}", request.op.identifier, request.op.attrs);
        request.memo.get_or_try(&key, self.pin(request)).await
    }

    async fn fetch(&self, request: &SourceRequest, pin: &Pin) -> Result<Ref, SourceError> {
        let PinDetail::Http(http) = &pin.detail else {
            let identifier = shown(request.op.identifier.as_str());
            return Err(SourceError::Invalid { identifier, reason: "is not a file".into() });
        };
        if let Some(content) = &http.content {
            return Ok(content.clone());
        }
        let mut question = Question::parse(request)?;
        question.checksum = Some(http.digest);
        self.authorize(&mut question, request).await?;
        let response = self.ask(&question, &question.headers).await?;
        let stored = self.keep(&question, request, response).await?;
        match stored.detail {
            PinDetail::Http(HttpPin { content: Some(content), .. }) => Ok(content),
            _ => Err(SourceError::NotFound { what: question.shown }),
        }
    }
}

impl Question {
    fn parse(request: &SourceRequest) -> Result<Self, SourceError> {
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
    fn cache_key(&self) -> Digest {
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

    fn pin(
        &self,
        digest: Digest,
        filename: String,
        last_modified: Option<String>,
        etag: Option<String>,
        content: Option<Ref>,
    ) -> Pin {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Key<'a> {
            filename: &'a str,
            perm: u32,
            #[serde(rename = "UID")]
            uid: u32,
            #[serde(rename = "GID")]
            gid: u32,
            checksum: Digest,
            #[serde(skip_serializing_if = "str::is_empty")]
            last_mod_time: &'a str,
        }
        let key = Key {
            filename: &filename,
            perm: self.mode,
            uid: self.uid,
            gid: self.gid,
            checksum: digest,
            last_mod_time: last_modified.as_deref().unwrap_or_default(),
        };
        let key = Digest::of(rbuild_oci::json::to_vec(&key).expect("plain fields")).to_string();
        let last_modified_s = last_modified.as_deref().and_then(http_date);
        let detail = PinDetail::Http(HttpPin { digest, filename, last_modified_s, etag, content });
        Pin { key, aliases: Vec::new(), volatile: false, detail }
    }
}

/// Decimal, or octal with a leading zero (`0644`), or `0o`.
fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')) {
        Some("") => Some(0),
        Some(octal) => u32::from_str_radix(octal, 8).ok(),
        None => text.parse().ok(),
    }
}

fn http_date(text: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(time.as_second())
}

fn text_header(response: &Response, name: &HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// A URL as it may appear in messages: no user, no password, no query, no fragment.
fn shown(identifier: &str) -> String {
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

/// The causes of an error without the URL, which may carry secrets.
fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn Error> = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    if parts.is_empty() { "request failed".into() } else { parts.join(": ") }
}
