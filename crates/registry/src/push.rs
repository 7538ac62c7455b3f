use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, ImageRef, Provider};
use reqwest::{Body, Method, Request, Response, StatusCode};
use url::Url;

use crate::auth::Scope;
use crate::endpoint::Endpoint;
use crate::image::check_digest;
use crate::transport::{Call, Failure, chain, wait_time};
use crate::{RegistryError, Repository};

/// Told how many bytes of a blob have been sent. Called often; must return at once.
pub type PushProgress = Arc<dyn Fn(u64) + Send + Sync>;

/// Another repository of the same registry that has a blob already.
#[derive(Debug, Clone)]
pub struct MountFrom(pub ImageRef);

/// Under which name a manifest is put.
#[derive(Debug, Clone, Copy)]
pub enum Reference<'a> {
    /// A tag.
    Tag(&'a str),
    /// Its digest.
    Digest,
}

/// After the last byte was sent: some registries copy the blob before they answer.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How often a sender that does not move is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

impl Repository {
    /// Whether the registry (not a mirror) has this blob in this repository.
    pub async fn has_blob(&self, desc: &Descriptor) -> Result<bool, RegistryError> {
        self.has(desc, &format!("blobs/{}", desc.digest)).await
    }

    /// Whether the registry (not a mirror) has this manifest in this repository.
    pub async fn has_manifest(&self, desc: &Descriptor) -> Result<bool, RegistryError> {
        self.has(desc, &format!("manifests/{}", desc.digest)).await
    }

    /// Whether the blob can be pulled, from a mirror or the registry. Needs no right to push.
    pub async fn offers_blob(&self, desc: &Descriptor) -> Result<bool, RegistryError> {
        let what = format!("{}@{}", self.name(), desc.digest);
        let path = format!("blobs/{}", desc.digest);
        let found = self.pull(|endpoint| {
            let (this, path, what) = (self.clone(), path.clone(), what.clone());
            async move {
                let url = endpoint.url(this.path(), &path)?;
                let scope = this.pull_scope();
                let headers = HeaderMap::new();
                let call = Call { method: Method::HEAD, url, headers, body: None, scope, what: &what };
                endpoint.expect(call).await.map(drop)
            }
        });
        match found.await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is known of a blob by its digest alone: its size. From a mirror or the registry.
    pub async fn describe_blob(&self, digest: Digest) -> Result<Descriptor, RegistryError> {
        let what = format!("{}@{digest}", self.name());
        let path = format!("blobs/{digest}");
        let size = self.pull(|endpoint| {
            let (this, path, what) = (self.clone(), path.clone(), what.clone());
            async move {
                let (url, scope) = (endpoint.url(this.path(), &path)?, this.pull_scope());
                let headers = HeaderMap::new();
                let call = Call { method: Method::HEAD, url, headers, body: None, scope, what: &what };
                let response = endpoint.expect(call).await?;
                let length = response.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok());
                let size = length.and_then(|text| text.parse().ok());
                Ok(size.ok_or_else(|| endpoint.malformed(&what, "the answer has no size".to_owned()))?)
            }
        });
        Ok(Descriptor::new("application/octet-stream", digest, size.await?))
    }

    async fn has(&self, desc: &Descriptor, path: &str) -> Result<bool, RegistryError> {
        let endpoint = self.push_endpoint().await?;
        let what = format!("{}@{}", self.name(), desc.digest);
        let found = self.patiently(|| async {
            let mut headers = HeaderMap::new();
            if let Ok(accept) = HeaderValue::from_str(&format!("{}, */*", desc.media_type)) {
                headers.insert(http::header::ACCEPT, accept);
            }
            let url = endpoint.url(self.path(), path)?;
            let call = Call {
                method: Method::HEAD,
                url,
                headers,
                body: None,
                scope: self.push_scope(),
                what: &what,
            };
            endpoint.expect(call).await.map(drop)
        });
        match found.await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a blob into the repository: nothing if it is there, a mount if one of `mounts` has it, else an upload of
    /// the bytes of `provider`, streamed, resumed where the registry allows it.
    ///
    /// Returns whether bytes were sent. Errors: [`RegistryError::Read`] if `provider` fails;
    /// [`RegistryError::Status`] 400 if the registry finds another digest. Cancel: the registry drops the upload.
    pub async fn push_blob(
        &self,
        desc: &Descriptor,
        provider: &dyn Provider,
        mounts: &[MountFrom],
        progress: Option<PushProgress>,
    ) -> Result<bool, RegistryError> {
        if self.has_blob(desc).await? {
            return Ok(false);
        }
        if self.mount_blob(desc, mounts).await? {
            return Ok(false);
        }
        let endpoint = self.push_endpoint().await?;
        let mut upload = Upload {
            repository: self,
            endpoint,
            desc,
            provider,
            what: format!("{}@{}", self.name(), desc.digest),
            sent: Arc::new(AtomicU64::new(0)),
            progress,
        };
        upload.run().await?;
        Ok(true)
    }

    /// Has the registry take a blob from one of these repositories, if one is of this registry and has it.
    pub async fn mount_blob(&self, desc: &Descriptor, mounts: &[MountFrom]) -> Result<bool, RegistryError> {
        for MountFrom(from) in mounts {
            if from.domain() == self.name().domain()
                && from.path() != self.path()
                && self.mount(desc, from).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Asks the registry to take a blob from another of its repositories. False: it does not.
    async fn mount(&self, desc: &Descriptor, from: &ImageRef) -> Result<bool, RegistryError> {
        let endpoint = self.push_endpoint().await?;
        let what = format!("{}@{}", self.name(), desc.digest);
        let mut scope: Scope = self.push_scope().clone();
        scope.insert(format!("repository:{}:pull", from.path()));
        let mut url = endpoint.url(self.path(), "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &desc.digest.to_string()).append_pair("from", from.path());
        let call =
            Call { method: Method::POST, url, headers: empty_body(), body: None, scope: &scope, what: &what };
        match endpoint.send(call).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
            // It opened an upload instead: given back, so that nothing is left lying about.
            Ok(response) if response.status() == StatusCode::ACCEPTED => {
                if let Some(location) = location(endpoint, &response) {
                    self.cancel(endpoint, location, &what).await;
                }
                Ok(false)
            }
            Ok(_) => Ok(false),
            // No right to read the other repository is no reason to fail.
            Err(failure) => {
                tracing::debug!(error = %failure.error, from = from.path(), "mount refused");
                Ok(false)
            }
        }
    }

    async fn cancel(&self, endpoint: &Endpoint, url: Url, what: &str) {
        let scope = self.push_scope();
        let call = Call { method: Method::DELETE, url, headers: HeaderMap::new(), body: None, scope, what };
        if let Err(failure) = endpoint.expect(call).await {
            tracing::debug!(error = %failure.error, "upload not cancelled");
        }
    }

    /// Puts a manifest or index.
    ///
    /// Errors: [`RegistryError::Digest`] if the registry names another digest than that of `bytes`.
    pub async fn push_manifest(
        &self,
        media_type: &str,
        bytes: &[u8],
        reference: Reference<'_>,
    ) -> Result<Digest, RegistryError> {
        let endpoint = self.push_endpoint().await?;
        let digest = Digest::of(bytes);
        let (name, what) = match reference {
            Reference::Tag(tag) => (tag.to_owned(), format!("{}:{tag}", self.name())),
            Reference::Digest => (digest.to_string(), format!("{}@{digest}", self.name())),
        };
        let content_type = HeaderValue::from_str(media_type).map_err(|_| RegistryError::MediaType {
            what: what.clone(),
            media_type: media_type.to_owned(),
        })?;
        let body = bytes::Bytes::copy_from_slice(bytes);
        self.patiently(|| async {
            let url = endpoint.url(self.path(), &format!("manifests/{name}"))?;
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.clone())]);
            let body = Some(Body::from(body.clone()));
            let call =
                Call { method: Method::PUT, url, headers, body, scope: self.push_scope(), what: &what };
            let response = endpoint.expect(call).await?;
            let claimed =
                response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
            if let Some(claimed) = claimed.and_then(|text| Digest::parse(text).ok()) {
                check_digest(endpoint, &what, digest, claimed)?;
            }
            Ok(digest)
        })
        .await
    }
}

/// One blob on its way to a registry.
struct Upload<'a> {
    repository: &'a Repository,
    endpoint: &'a Endpoint,
    desc: &'a Descriptor,
    provider: &'a dyn Provider,
    what: String,
    /// Bytes handed to the connection, from the blob's beginning.
    sent: Arc<AtomicU64>,
    progress: Option<PushProgress>,
}

impl Upload<'_> {
    /// Starts an upload and sends; after a break asks how much arrived and sends the rest, or begins anew.
    async fn run(&mut self) -> Result<(), RegistryError> {
        let policy = self.repository.policy();
        let mut tries = 1;
        let mut place = None;
        loop {
            let result = match place.take() {
                None => match self.start().await {
                    Ok(url) => self.send(url, 0).await,
                    Err(failure) => Err((failure, None)),
                },
                Some((url, offset)) => self.send(url, offset).await,
            };
            let (failure, url) = match result {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if tries >= policy.attempts || !failure.error.may_pass() {
                // A blob that is there after all (another push of the same) is what was wanted.
                return match self.repository.has_blob(self.desc).await {
                    Ok(true) => Ok(()),
                    _ => Err(failure.error),
                };
            }
            tracing::debug!(error = %failure.error, tries, "upload broke");
            tokio::time::sleep(wait_time(policy, tries, failure.retry_after)).await;
            tries += 1;
            if let Some(url) = url {
                place = self.status(url).await;
            }
        }
    }

    async fn start(&self) -> Result<Url, Failure> {
        let url = self.endpoint.url(self.repository.path(), "blobs/uploads/")?;
        let scope = self.repository.push_scope();
        let what = &self.what;
        let call = Call { method: Method::POST, url, headers: empty_body(), body: None, scope, what };
        let response = self.endpoint.expect(call).await?;
        location(self.endpoint, &response)
            .ok_or_else(|| self.endpoint.malformed(what, "no place to upload to").into())
    }

    /// Where an upload goes on and from which byte, if the registry still knows it.
    async fn status(&self, url: Url) -> Option<(Url, u64)> {
        let scope = self.repository.push_scope();
        let what = &self.what;
        let url_again = url.clone();
        let call = Call { method: Method::GET, url, headers: HeaderMap::new(), body: None, scope, what };
        let response = self.endpoint.expect(call).await.ok()?;
        let range = response.headers().get(RANGE)?.to_str().ok()?;
        let last: u64 = range.trim().trim_start_matches("bytes=").split_once('-')?.1.parse().ok()?;
        // `0-0` is what an upload without a byte says too; sending one byte twice is not possible, so begin anew.
        let arrived = if last == 0 { return None } else { last + 1 };
        (arrived < self.desc.size).then(|| (location(self.endpoint, &response).unwrap_or(url_again), arrived))
    }

    /// Sends the bytes from `offset` on: all at once, or as the rest of an upload that broke.
    async fn send(&mut self, url: Url, offset: u64) -> Result<(), (Failure, Option<Url>)> {
        if offset == 0 {
            let mut target = url.clone();
            target.query_pairs_mut().append_pair("digest", &self.desc.digest.to_string());
            return self
                .transfer(Method::PUT, target, 0)
                .await
                .map(drop)
                .map_err(|failure| (failure, Some(url)));
        }
        let response = self.transfer(Method::PATCH, url.clone(), offset).await;
        let response = response.map_err(|failure| (failure, Some(url.clone())))?;
        let mut target = location(self.endpoint, &response).unwrap_or_else(|| url.clone());
        target.query_pairs_mut().append_pair("digest", &self.desc.digest.to_string());
        let scope = self.repository.push_scope();
        let what = &self.what;
        let call = Call { method: Method::PUT, url: target, headers: empty_body(), body: None, scope, what };
        self.endpoint.expect(call).await.map(drop).map_err(|failure| (failure, None))
    }

    async fn transfer(&self, method: Method, url: Url, offset: u64) -> Result<Response, Failure> {
        let stream = self.provider.open(self.desc, offset).await.map_err(|error| self.unreadable(error))?;
        let (sent, progress, size) = (self.sent.clone(), self.progress.clone(), self.desc.size);
        let failed = Arc::new(parking_lot::Mutex::new(None));
        let keep = failed.clone();
        sent.store(offset, Ordering::Relaxed);
        let body = stream.map(move |piece| match piece {
            Ok(piece) => {
                let at = sent.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
                if let Some(progress) = &progress {
                    progress(at.min(size));
                }
                Ok(piece)
            }
            Err(error) => {
                let text = error.to_string();
                *keep.lock() = Some(error);
                Err(std::io::Error::other(text))
            }
        });
        let mut request = Request::new(method, url);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size - offset));
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("{offset}-{}", size - 1))
        {
            headers.insert(CONTENT_RANGE, range);
        }
        if self.endpoint.owns(request.url())
            && let Some(header) = self.endpoint.authority.header(self.repository.push_scope()).await?
        {
            request.headers_mut().insert(http::header::AUTHORIZATION, header);
        }
        *request.body_mut() = Some(Body::wrap_stream(body));
        let answer = self.watch(request).await;
        if let Some(error) = failed.lock().take() {
            return Err(self.unreadable(error).into());
        }
        let response = answer?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.endpoint.failure(response, &self.what).await),
        }
    }

    /// Runs a request for as long as its bytes move.
    async fn watch(&self, request: Request) -> Result<Response, Failure> {
        let mut answer = std::pin::pin!(self.endpoint.client.execute(request));
        let stall = self.endpoint.limits.stall;
        let (mut last, mut since) = (self.sent.load(Ordering::Relaxed), tokio::time::Instant::now());
        loop {
            match tokio::time::timeout(WATCH_INTERVAL.min(stall), answer.as_mut()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(self.endpoint.transport(&self.what, chain(&error)).into()),
                Err(_) => {}
            }
            let sent = self.sent.load(Ordering::Relaxed);
            if sent != last {
                (last, since) = (sent, tokio::time::Instant::now());
            }
            let limit = if sent >= self.desc.size { COMMIT_TIMEOUT } else { stall };
            if since.elapsed() > limit {
                return Err(self.endpoint.timeout(&self.what, limit).into());
            }
        }
    }

    fn unreadable(&self, source: std::io::Error) -> RegistryError {
        RegistryError::Read { what: self.what.clone(), source }
    }
}

/// Requests without a body say so: some servers wait for one otherwise.
fn empty_body() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("0"))])
}

/// Where an answer points to, relative to the request.
fn location(endpoint: &Endpoint, response: &Response) -> Option<Url> {
    let text = response.headers().get(LOCATION)?.to_str().ok()?;
    let url = response.url().join(text).ok()?;
    let downgrade = endpoint.base.scheme() == "https" && url.scheme() == "http";
    (matches!(url.scheme(), "http" | "https") && !downgrade).then_some(url)
}
