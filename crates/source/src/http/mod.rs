//! `http://` and `https://`: one file.
//!
//! Without a checksum the file has to be asked for to know what it is. Servers that give versions (`ETag`,
//! `Last-Modified`) are asked whether ours is still current; a file that is new is stored while its digest is made,
//! so that it is fetched once. What a client uploads under a URL of its own making comes through its session.

mod address;
pub(crate) mod download;
mod name;
pub(crate) mod question;
mod transfer;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{
    AUTHORIZATION, CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use rbuild_digest::Digest;
use rbuild_session::names::UPLOAD_PULL;
use rbuild_session::{SessionManager, Upload};
use rbuild_store::{Ref, RefId, Store};
use reqwest::{Client, Response, redirect};
use serde::{Deserialize, Serialize};

pub use address::{AddressPolicy, ClosedAddresses};

use crate::{HttpPin, Pin, PinDetail, Source, SourceError, SourceRequest};
use address::CheckedDns;
use download::{Body, FileForm};
pub use question::shown_url;
use question::{Question, http_date, shown};
use transfer::Transfer;

/// Redirects in a row.
const MAX_REDIRECTS: usize = 10;
/// Tries in all, for failures that may pass.
const ATTEMPTS: u32 = 4;
/// Wait before the second try; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Space of the store's small values where versions are kept by URL and form.
const SPACE: &str = "http";

/// `http://` and `https://`: a file from a web server.
#[derive(Debug)]
pub struct HttpSource {
    store: Store,
    sessions: Arc<SessionManager>,
    policy: Arc<AddressPolicy>,
    limits: HttpLimits,
    client: Client,
}

/// How long a server may keep a build waiting.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Making a connection.
    pub connect: Duration,
    /// The head of an answer.
    pub answer: Duration,
    /// Between two pieces of a file.
    pub stall: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        let (connect, patience) = (Duration::from_secs(10), Duration::from_secs(60));
        Self { connect, answer: patience, stall: patience }
    }
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

impl HttpSource {
    /// Link-local addresses are closed, all others open.
    ///
    /// Errors: [`SourceError::Http`] if the system's certificates cannot be used.
    pub fn new(store: Store, sessions: Arc<SessionManager>) -> Result<Self, SourceError> {
        Self::with_policy(store, sessions, AddressPolicy::default(), HttpLimits::default())
    }

    /// With the addresses of `policy` and the patience of `limits`.
    pub fn with_policy(
        store: Store,
        sessions: Arc<SessionManager>,
        policy: AddressPolicy,
        limits: HttpLimits,
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
            .connect_timeout(limits.connect)
            .http2_adaptive_window(true)
            .referer(false)
            .redirect(redirects)
            .dns_resolver(Arc::new(CheckedDns(policy.clone())))
            .build()
            .map_err(|error| SourceError::Http { url: "http client".into(), reason: chain(&error) })?;
        Ok(Self { store, sessions, policy, limits, client })
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
        let response = match tokio::time::timeout(self.limits.answer, sent).await {
            Err(_) => return Err(SourceError::Stalled { url, waited: self.limits.answer }),
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
        if let (Some(digest), None) = (question.checksum, question.upload_path()) {
            let filename = name::file_name(&question.url, question.filename.as_deref(), None);
            let content = self.known(&question)?;
            let content = content.filter(|(known, _)| known.digest == digest && known.filename == filename);
            return Ok(question.pin(digest, filename, None, None, content.map(|(_, found)| found)));
        }
        if let Some(path) = question.upload_path() {
            let upload = self.sessions.any_with(&request.sessions, UPLOAD_PULL).await?.upload(path).await?;
            return self.keep_upload(&question, request, upload).await;
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
        if response.status().as_u16() == 206 {
            // Nobody asked for a part.
            return Err(SourceError::HttpStatus { url: question.shown.clone(), status: 206 });
        }
        let (etag, last_modified) = (text_header(&response, &ETAG), text_header(&response, &LAST_MODIFIED));
        let disposition = text_header(&response, &CONTENT_DISPOSITION);
        // After redirects it is still the URL that was asked for that names the file.
        let disposition = disposition.as_deref().filter(|_| question.checksum.is_none());
        let filename = name::file_name(&question.url, question.filename.as_deref(), disposition);
        let total = response.content_length().unwrap_or(0);
        let body = Body { pieces: Transfer::new(self, question, response).pieces(), total };
        let mtime_s = last_modified.as_deref().and_then(http_date).unwrap_or(0);
        let (content, digest) = self.write(question, request, body, &filename, mtime_s).await?;
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

    /// Keeps what a client uploads. It comes once: the pin holds it for the rest of the build.
    async fn keep_upload(
        &self,
        question: &Question,
        request: &SourceRequest,
        upload: Upload,
    ) -> Result<Pin, SourceError> {
        let pieces = futures::stream::try_unfold(upload, |mut upload| async move {
            Ok(upload.next().await?.map(|piece| (piece, upload)))
        });
        let filename = name::file_name(&question.url, question.filename.as_deref(), None);
        let body = Body { pieces, total: 0 };
        let (content, digest) = self.write(question, request, body, &filename, 0).await?;
        Ok(question.pin(digest, filename, None, None, Some(content)))
    }

    /// Writes the only file of a new ref. Errors: it is not what the question promises.
    async fn write(
        &self,
        question: &Question,
        request: &SourceRequest,
        body: Body<impl Stream<Item = Result<Bytes, SourceError>>>,
        filename: &str,
        mtime_s: i64,
    ) -> Result<(Ref, Digest), SourceError> {
        let status = request.reporter.status(&format!("downloading {}", question.shown), "downloading");
        let form = FileForm {
            name: filename.to_owned(),
            mode: question.mode,
            uid: question.uid,
            gid: question.gid,
            mtime_s,
        };
        let (content, digest) = download::save(&self.store, body, &form, &question.shown, &status).await?;
        match question.checksum {
            Some(expected) if expected != digest => {
                Err(SourceError::Digest { what: question.shown.clone(), expected, found: digest })
            }
            _ => Ok((content, digest)),
        }
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

fn text_header(response: &Response, name: &HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
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
