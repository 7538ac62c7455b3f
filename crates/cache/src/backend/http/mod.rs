//! What object stores have in common: one client, requests that end, bodies that are counted, downloads that go on
//! after a break. Central type: [`Http`]. It knows neither signatures nor what is stored.

mod download;
mod upload;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Client, Request, Response};

pub(crate) use download::{Fetch, download};
pub(crate) use upload::{Piece, watched};

/// Making a connection: what a dead place costs a build.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of a request to the head of its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of a body.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one request, where trying again may help.
pub(super) const ATTEMPTS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// Bytes of an error's answer that are looked at.
const MAX_ERROR_BODY: u64 = 8 << 10;
/// Characters of a server's own words that are passed on.
const MAX_DETAIL: usize = 300;

type Result<T, E = ObjectError> = std::result::Result<T, E>;

/// An object store did not do what was asked. No text of these has a URL's query or a header in it.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No answer.
    #[error("{what}: {reason}")]
    Transport {
        /// What was asked for.
        what: String,
        /// Why not.
        reason: String,
    },
    /// No answer in time.
    #[error("{what}: no answer for {seconds} s")]
    Timeout {
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// An error as the answer.
    #[error("{what}: status {status}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Status {
        /// What was asked for.
        what: String,
        /// Its code.
        status: u16,
        /// The server's own words.
        detail: String,
    },
    /// An answer that is none.
    #[error("{what}: {reason}")]
    Malformed {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What was to be sent cannot be read.
    #[error("{what}: reading it: {source}")]
    Read {
        /// What was to be sent.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl ObjectError {
    /// Whether the object is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    /// Whether this key may not be asked for: also what a store says of a missing one to who may not list.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Status { status: 403, .. })
    }

    /// Whether it may go better next time.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Timeout { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            Self::Malformed { .. } | Self::Read { .. } => false,
        }
    }
}

impl From<ObjectError> for std::io::Error {
    fn from(error: ObjectError) -> Self {
        match error.is_missing() {
            true => Self::new(std::io::ErrorKind::NotFound, error),
            false => Self::other(error),
        }
    }
}

/// The daemon's client for object stores, made when it is first needed.
#[derive(Debug, Clone, Default)]
pub struct Http(Arc<OnceLock<Client>>);

impl Http {
    fn client(&self, what: &str) -> Result<&Client> {
        if let Some(client) = self.0.get() {
            return Ok(client);
        }
        rbuild_registry::install_crypto();
        let client = Client::builder()
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .referer(false)
            // A signature is for one host; a store that moves a bucket says so in its error.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| transport(what, &error))?;
        Ok(self.0.get_or_init(|| client))
    }

    /// Sends a request and waits for the head of the answer, which has to be a success. Not tried again.
    pub(crate) async fn once(&self, request: Request, what: &str) -> Result<Response> {
        let answer = self.client(what)?.execute(request);
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Err(_) => return Err(timeout(what, ANSWER_TIMEOUT)),
            Ok(response) => response.map_err(|error| transport(what, &error))?,
        };
        checked(response, what).await
    }
}

/// Repeats what may go better next time.
pub(crate) async fn patiently<T, F>(mut attempts: u32, mut work: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut wait = FIRST_WAIT;
    loop {
        match work().await {
            Err(error) if attempts > 1 && error.may_pass() => {
                tracing::debug!(%error, "asked again");
                tokio::time::sleep(wait).await;
                attempts -= 1;
                wait *= 3;
            }
            done => return done,
        }
    }
}

/// A success, or the error that a response stands for.
pub(super) async fn checked(response: Response, what: &str) -> Result<Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = match tokio::time::timeout(STALL_TIMEOUT, prefix(response)).await {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(_) => String::new(),
    };
    Err(ObjectError::Status { what: what.to_owned(), status, detail: detail(&body) })
}

/// What a store says about an error: in XML, or in JSON.
fn detail(body: &str) -> String {
    let code = super::s3::element(body, "Code");
    let message = super::s3::element(body, "Message");
    let said = |value: &serde_json::Value| {
        ["msg", "message", "typeKey"].iter().find_map(|name| value.get(name)?.as_str().map(str::to_owned))
    };
    let json = serde_json::from_str(body).ok().as_ref().and_then(said);
    let text = match (code, message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => json.unwrap_or_default(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect()
}

async fn prefix(response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(Ok(piece)) = stream.next().await {
        body.extend_from_slice(&piece);
        if body.len() as u64 >= MAX_ERROR_BODY {
            break;
        }
    }
    body
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn body(response: Response, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    loop {
        match tokio::time::timeout(STALL_TIMEOUT, stream.next()).await {
            Err(_) => return Err(timeout(what, STALL_TIMEOUT)),
            Ok(None) => return Ok(body),
            Ok(Some(Err(error))) => return Err(transport(what, &error)),
            Ok(Some(Ok(piece))) => {
                if (body.len() + piece.len()) as u64 > limit {
                    let reason = format!("it has more than {limit} bytes");
                    return Err(ObjectError::Malformed { what: what.to_owned(), reason });
                }
                body.extend_from_slice(&piece);
            }
        }
    }
}

pub(super) fn timeout(what: &str, limit: Duration) -> ObjectError {
    ObjectError::Timeout { what: what.to_owned(), seconds: limit.as_secs() }
}

/// The causes without the URL, which may carry a signature.
pub(super) fn transport(what: &str, error: &reqwest::Error) -> ObjectError {
    let mut parts: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    let reason = if parts.is_empty() { "the request failed".to_owned() } else { parts.join(": ") };
    ObjectError::Transport { what: what.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_found_cleaned_and_cut() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>no \u{1b}[2J &amp; such</Message></Error>";
        assert_eq!(detail(xml), "NoSuchBucket: no  [2J & such");
        assert_eq!(detail(r#"{"code":"not_found","msg":"no entry"}"#), "no entry");
        assert_eq!(detail("<html>"), "");
        assert_eq!(detail(&format!("<Code>{}</Code>", "x".repeat(5000))).len(), MAX_DETAIL);
    }
}
