use std::error::Error;
use std::time::Duration;

use futures::StreamExt;
use http::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Body, Method, Request, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::auth::Scope;
use crate::config::RetryPolicy;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, is_transient};

/// Bytes of an error's answer that are looked at.
const MAX_ERROR_BODY: usize = 8 << 10;
/// Characters of a registry's own words that are passed on.
const MAX_DETAIL: usize = 300;
/// 401, token, 401, basic, and no more.
const MAX_AUTH_ROUNDS: usize = 3;

/// Makes ring the process's TLS provider, unless somebody chose one already.
pub fn install_crypto() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::trace!("a TLS provider is installed already");
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) answer: Duration,
    pub(crate) stall: Duration,
}

impl From<&RetryPolicy> for Limits {
    fn from(policy: &RetryPolicy) -> Self {
        Self { answer: policy.answer_timeout, stall: policy.stall_timeout }
    }
}

/// One request to an endpoint.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Body>,
    pub(crate) scope: &'a Scope,
    /// What is wanted, for errors.
    pub(crate) what: &'a str,
}

/// A failed try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: RegistryError,
    /// The server's wish.
    pub(crate) retry_after: Option<Duration>,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, retry_after: None }
    }
}

impl Endpoint {
    /// The URL of `path` (below `/v2/<repository>/`), with the mirror's name of the registry it stands in for.
    pub(crate) fn url(&self, repository: &str, path: &str) -> Result<Url, RegistryError> {
        let mut base = self.base.to_string();
        if !base.ends_with('/') {
            base.push('/');
        }
        let mut url =
            Url::parse(&format!("{base}{repository}/{path}")).map_err(|error| RegistryError::Config {
                host: self.host.clone(),
                reason: format!("`{repository}/{path}`: {error}"),
            })?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Whether `url` is on the endpoint's own host: only then credentials go along.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default()
    }

    /// Sends a request, authorizing it as demanded, and waits for the head of the answer. Any status but 401 is an
    /// answer.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<Response, Failure> {
        let limit = self.limits.answer;
        let (scope, what) = (call.scope, call.what);
        let mut request = Request::new(call.method, call.url);
        *request.headers_mut() = call.headers;
        *request.body_mut() = call.body;
        for _ in 0..MAX_AUTH_ROUNDS {
            let again = request.try_clone();
            let header = match self.owns(request.url()) {
                true => self.authority.header(scope).await?,
                false => None,
            };
            if let Some(header) = &header {
                request.headers_mut().insert(http::header::AUTHORIZATION, header.clone());
            }
            let answer = tokio::time::timeout(limit, self.client.execute(request)).await;
            let response = match answer {
                Err(_) => return Err(self.timeout(what, limit).into()),
                Ok(Err(error)) => return Err(self.transport(what, chain(&error)).into()),
                Ok(Ok(response)) => response,
            };
            // A 401 from where we were redirected to says nothing about us.
            if response.status() != StatusCode::UNAUTHORIZED || !self.owns(response.url()) {
                return Ok(response);
            }
            let answered = self.authority.challenged(response.headers(), scope, header.as_ref()).await?;
            match (answered, again) {
                (true, Some(again)) => request = again,
                (true, None) => return Err(self.transport(what, "authorization expired".into()).into()),
                (false, _) => return Err(self.failure(response, what).await),
            }
        }
        let detail = "it asks for authorization again and again".into();
        Err(RegistryError::Unauthorized { host: self.host.clone(), what: what.to_owned(), detail }.into())
    }

    /// As [`Endpoint::send`]; a status that is no success is an error.
    pub(crate) async fn expect(&self, call: Call<'_>) -> Result<Response, Failure> {
        let what = call.what;
        let response = self.send(call).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.failure(response, what).await),
        }
    }

    /// The error that a response stands for.
    pub(crate) async fn failure(&self, response: Response, what: &str) -> Failure {
        let status = response.status().as_u16();
        let retry_after = match is_transient(status) {
            true => {
                response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(seconds)
            }
            false => None,
        };
        let (host, what) = (self.host.clone(), what.to_owned());
        let read = read_prefix(response, MAX_ERROR_BODY);
        let body = tokio::time::timeout(self.limits.stall, read).await.unwrap_or_default();
        let detail = error_detail(&body);
        let error = match status {
            401 => RegistryError::Unauthorized { host, what, detail },
            403 => RegistryError::Denied { host, what, detail },
            404 => RegistryError::NotFound { host, what, detail },
            _ => RegistryError::Status { host, what, status, detail },
        };
        Failure { error, retry_after }
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(crate) async fn body(&self, response: Response, limit: u64, what: &str) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        loop {
            match tokio::time::timeout(self.limits.stall, stream.next()).await {
                Err(_) => return Err(self.timeout(what, self.limits.stall).into()),
                Ok(None) => return Ok(body),
                Ok(Some(Err(error))) => return Err(self.transport(what, chain(&error)).into()),
                Ok(Some(Ok(piece))) => {
                    if (body.len() + piece.len()) as u64 > limit {
                        let (host, what) = (self.host.clone(), what.to_owned());
                        return Err(RegistryError::TooLarge { host, what, limit }.into());
                    }
                    body.extend_from_slice(&piece);
                }
            }
        }
    }

    pub(crate) fn transport(&self, what: &str, reason: String) -> RegistryError {
        RegistryError::Transport { host: self.host.clone(), what: what.to_owned(), reason }
    }

    pub(crate) fn timeout(&self, what: &str, limit: Duration) -> RegistryError {
        RegistryError::Timeout { host: self.host.clone(), what: what.to_owned(), seconds: limit.as_secs() }
    }

    pub(crate) fn malformed(&self, what: &str, reason: impl Into<String>) -> RegistryError {
        RegistryError::Malformed { host: self.host.clone(), what: what.to_owned(), reason: reason.into() }
    }
}

/// The wait before try number `tries + 1`, within the policy's bounds.
pub(crate) fn wait_time(policy: &RetryPolicy, tries: u32, wish: Option<Duration>) -> Duration {
    let doubled = policy.first_wait.saturating_mul(1 << tries.saturating_sub(1).min(16));
    wish.unwrap_or(doubled).max(policy.first_wait).min(policy.max_wait)
}

/// `Retry-After` in seconds; its other form, a date, is as good as nothing here.
fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

/// The causes of an error without the URL, which may carry a signature.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn Error> = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    if parts.is_empty() {
        let kind = match () {
            () if error.is_timeout() => "timed out",
            () if error.is_connect() => "connection failed",
            () if error.is_redirect() => "bad redirect",
            () if error.is_builder() => "invalid request",
            () => "request failed",
        };
        parts.push(kind.into());
    }
    parts.join(": ")
}

/// A body of at most `limit` bytes; the error is a text without URL.
pub(crate) async fn read_bounded(response: Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        body.extend_from_slice(&piece.map_err(|error| chain(&error))?);
        if body.len() > limit {
            return Err(format!("the answer has more than {limit} bytes"));
        }
    }
    Ok(body)
}

/// The first bytes of a body, as far as they come.
async fn read_prefix(response: Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(Ok(piece)) = stream.next().await {
        body.extend_from_slice(&piece);
        if body.len() >= limit {
            body.truncate(limit);
            break;
        }
    }
    body
}

#[derive(Deserialize)]
struct ErrorList {
    #[serde(default)]
    errors: Vec<ErrorItem>,
    /// Token services answer with this instead.
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
struct ErrorItem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says about its error, fit to be printed: `CODE: message` of its JSON, else nothing.
pub(crate) fn error_detail(body: &[u8]) -> String {
    let Ok(list) = serde_json::from_slice::<ErrorList>(body) else { return String::new() };
    let mut parts: Vec<String> = Vec::new();
    for item in list.errors.iter().take(3) {
        parts.push(match (item.code.is_empty(), item.message.is_empty()) {
            (false, false) => format!("{}: {}", item.code, item.message),
            _ => format!("{}{}", item.code, item.message),
        });
    }
    if parts.is_empty() && !list.details.is_empty() {
        parts.push(list.details);
    }
    let text = parts.join("; ");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds() {
        let policy = RetryPolicy {
            first_wait: Duration::from_secs(1),
            max_wait: Duration::from_secs(10),
            ..RetryPolicy::default()
        };
        let waits: Vec<u64> = (1..6).map(|tries| wait_time(&policy, tries, None).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10]);
        assert_eq!(wait_time(&policy, 1, Some(Duration::from_secs(5))).as_secs(), 5);
        assert_eq!(wait_time(&policy, 1, Some(Duration::from_secs(9999))).as_secs(), 10);
        assert_eq!(wait_time(&policy, 1, Some(Duration::ZERO)).as_secs(), 1);
    }

    #[test]
    fn the_registrys_words_are_cleaned_and_cut() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest \u001b[2Junknown","detail":{"a":1}}]}"#;
        assert_eq!(error_detail(body), "MANIFEST_UNKNOWN: manifest  [2Junknown");
        assert_eq!(error_detail(b"<html>"), "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        assert_eq!(error_detail(long.as_bytes()).len(), MAX_DETAIL);
        assert_eq!(
            error_detail(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
    }
}
