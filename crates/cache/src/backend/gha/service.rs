//! Requests to the cache service.

use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, Request, Url};
use serde::Deserialize;
use serde_json::json;

use super::options::{GhaOptions, Version};
use crate::backend::http::{ATTEMPTS, Http, ObjectError, body, patiently};

/// Entries of other layouts are not found. Source: upstream's; sha256 of `|go-actionscache-1.0`.
const LAYOUT: &str = "693bb7016429d80366022f036f84856888c9f13e00145f5f6f4dce303a38d6f2";
const TWIRP: &str = "twirp/github.actions.results.api.v1.CacheService/";
const REST: &str = "_apis/artifactcache/";
/// Largest answer in JSON.
const MAX_ANSWER: u64 = 256 << 10;

pub(super) type Result<T, E = ObjectError> = std::result::Result<T, E>;

/// The cache service, in the name of a run.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) http: Http,
    pub(super) options: Arc<GhaOptions>,
}

/// An entry that is there.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) key: String,
    /// Signed, for a while.
    pub(super) url: Url,
}

/// A key that is ours to write.
#[derive(Debug)]
pub(super) enum Reserved {
    /// The number of the entry.
    One(u64),
    /// Where its bytes go.
    Two(Url),
}

/// Answers of both interfaces; the second writes names in either way.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    ok: bool,
    #[serde(alias = "signedDownloadUrl", alias = "archiveLocation")]
    signed_download_url: String,
    #[serde(alias = "matchedKey", alias = "cacheKey")]
    matched_key: String,
    #[serde(alias = "signedUploadUrl")]
    signed_upload_url: String,
    #[serde(rename = "cacheId")]
    cache_id: u64,
}

impl Service {
    pub(super) fn what(key: &str) -> String {
        format!("gha cache entry {key}")
    }

    fn malformed(key: &str, reason: impl Into<String>) -> ObjectError {
        ObjectError::Malformed { what: Self::what(key), reason: reason.into() }
    }

    /// A request in the name of the run.
    pub(super) fn request(&self, method: Method, path: &str, key: &str) -> Result<Request> {
        let url = self.options.url.join(path).map_err(|error| Self::malformed(key, error.to_string()))?;
        let mut request = Request::new(method, url);
        let mut token = HeaderValue::from_str(&format!("Bearer {}", self.options.token))
            .map_err(|_| Self::malformed(key, "the token cannot be sent"))?;
        token.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, token);
        if self.options.version == Version::One {
            let accept = HeaderValue::from_static("application/json;api-version=6.0-preview.1");
            request.headers_mut().insert(ACCEPT, accept);
        }
        Ok(request)
    }

    async fn ask(
        &self,
        mut request: Request,
        question: Option<&serde_json::Value>,
        key: &str,
    ) -> Result<Answer> {
        let what = Self::what(key);
        if let Some(question) = question {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(Body::from(question.to_string()));
        }
        let bytes = body(self.http.once(request, &what).await?, MAX_ANSWER, &what).await?;
        if bytes.is_empty() {
            return Ok(Answer::default());
        }
        serde_json::from_slice(&bytes).map_err(|error| Self::malformed(key, error.to_string()))
    }

    /// The newest entry whose key begins so. `attempts`: how often it is asked for.
    pub(super) async fn find(&self, key: &str, attempts: u32) -> Result<Option<Found>> {
        let answer = patiently(attempts, || async {
            match self.options.version {
                Version::One => {
                    let mut request = self.request(Method::GET, &format!("{REST}cache"), key)?;
                    request
                        .url_mut()
                        .query_pairs_mut()
                        .append_pair("keys", key)
                        .append_pair("version", LAYOUT);
                    self.ask(request, None, key).await
                }
                Version::Two => {
                    let request =
                        self.request(Method::POST, &format!("{TWIRP}GetCacheEntryDownloadURL"), key)?;
                    let question = json!({ "key": key, "restore_keys": [key], "version": LAYOUT });
                    self.ask(request, Some(&question), key).await
                }
            }
        });
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        if answer.signed_download_url.is_empty() {
            return Ok(None);
        }
        let url = Url::parse(&answer.signed_download_url)
            .map_err(|error| Self::malformed(key, format!("where it is: {error}")))?;
        Ok(answer.matched_key.starts_with(key).then_some(Found { key: answer.matched_key, url }))
    }

    /// Takes a key to write its entry. `None`: it is taken.
    pub(super) async fn reserve(&self, key: &str) -> Result<Option<Reserved>> {
        let question = json!({ "key": key, "version": LAYOUT });
        let answer = patiently(ATTEMPTS, || async {
            let path = match self.options.version {
                Version::One => format!("{REST}caches"),
                Version::Two => format!("{TWIRP}CreateCacheEntry"),
            };
            self.ask(self.request(Method::POST, &path, key)?, Some(&question), key).await
        });
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(ObjectError::Status { status: 409, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.options.version {
            Version::One if answer.cache_id == 0 => Err(Self::malformed(key, "it got no number")),
            Version::One => Ok(Some(Reserved::One(answer.cache_id))),
            Version::Two if !answer.ok => Ok(None),
            Version::Two => {
                let url = Url::parse(&answer.signed_upload_url);
                let url = url.map_err(|error| Self::malformed(key, format!("where it goes: {error}")))?;
                Ok(Some(Reserved::Two(url)))
            }
        }
    }

    /// The bytes are there: the entry is complete.
    pub(super) async fn commit(&self, key: &str, reserved: &Reserved, size: u64) -> Result<()> {
        let answer = patiently(ATTEMPTS, || async {
            match reserved {
                Reserved::One(id) => {
                    let request = self.request(Method::POST, &Self::entry(*id), key)?;
                    self.ask(request, Some(&json!({ "size": size })), key).await
                }
                Reserved::Two(_) => {
                    let request =
                        self.request(Method::POST, &format!("{TWIRP}FinalizeCacheEntryUpload"), key)?;
                    let question = json!({ "key": key, "size_bytes": size, "version": LAYOUT });
                    self.ask(request, Some(&question), key).await
                }
            }
        });
        let answer = answer.await?;
        match reserved {
            Reserved::Two(_) if !answer.ok => Err(Self::malformed(key, "the service did not take it")),
            _ => Ok(()),
        }
    }

    /// The path of an entry that is being written.
    pub(super) fn entry(id: u64) -> String {
        format!("{REST}caches/{id}")
    }
}
