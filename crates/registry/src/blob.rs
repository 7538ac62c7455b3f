use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use rbuild_oci::{ByteStream, Descriptor};
use reqwest::{Method, Response, StatusCode};

use crate::auth::Scope;
use crate::endpoint::Endpoint;
use crate::transport::{Call, Failure, chain, wait_time};
use crate::{RegistryError, Repository};

/// Connections made for one blob in all. A server that breaks off more often would keep us for ever.
const MAX_CONNECTIONS: u32 = 64;

type Body = BoxStream<'static, Result<Bytes, String>>;

impl Repository {
    /// The bytes of a blob from `offset` on, not verified. Breaks and stalls are survived by asking for the rest;
    /// an end before `desc.size` bytes, or more of them, is an error.
    ///
    /// Errors: those of the first connection; later ones come out of the stream.
    pub async fn blob(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream, RegistryError> {
        let mut download = Download {
            repository: self.clone(),
            desc: desc.clone(),
            what: format!("{}@{}", self.name(), desc.digest),
            position: offset,
            body: None,
            failures: 0,
            connections: 0,
        };
        if offset < desc.size {
            download.connect().await?;
        }
        Ok(download.into_stream().boxed())
    }

    async fn open(&self, desc: &Descriptor, position: u64, what: &str) -> Result<Body, RegistryError> {
        let path = format!("blobs/{}", desc.digest);
        let size = desc.size;
        let result = self
            .pull(|endpoint| {
                let (this, path, what) = (self.clone(), path.clone(), what.to_owned());
                async move {
                    let url = endpoint.url(this.path(), &path)?;
                    open_at(&endpoint, url, this.pull_scope(), position, size, &what).await
                }
            })
            .await;
        match result {
            Err(error) if error.is_not_found() && !desc.urls.is_empty() => {
                self.open_foreign(desc, position, what).await.ok_or(error)
            }
            other => other,
        }
    }

    /// A layer that the registry does not have, from where its descriptor says. Without credentials.
    async fn open_foreign(&self, desc: &Descriptor, position: u64, what: &str) -> Option<Body> {
        let endpoint = self.pull_endpoints().last()?;
        for url in desc.urls.iter().filter_map(|url| url::Url::parse(url).ok()) {
            if url.scheme() != "https" || endpoint.owns(&url) {
                continue;
            }
            match open_at(endpoint, url, &Scope::new(), position, desc.size, what).await {
                Ok(body) => return Some(body),
                Err(failure) => tracing::debug!(error = %failure.error, "foreign layer"),
            }
        }
        None
    }
}

async fn open_at(
    endpoint: &Endpoint,
    url: url::Url,
    scope: &Scope,
    position: u64,
    size: u64,
    what: &str,
) -> Result<Body, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if position > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={position}-"))
    {
        headers.insert(RANGE, range);
    }
    let call = Call { method: Method::GET, url, headers, body: None, scope, what };
    let response = endpoint.expect(call).await?;
    let skip = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let start = range_start(&response);
            if start != Some(position) {
                let reason = format!("asked for bytes from {position} on, got {start:?}");
                return Err(endpoint.malformed(what, reason).into());
            }
            0
        }
        // It does not know ranges: what we have already goes by again.
        _ => position,
    };
    if let Some(length) = response.content_length()
        && length != size - position + skip
    {
        let (host, found) = (endpoint.host.clone(), length + position - skip);
        return Err(RegistryError::Size { host, what: what.to_owned(), expected: size, found }.into());
    }
    let stall = endpoint.limits.stall;
    let stream = response.bytes_stream();
    let guarded = futures::stream::unfold(Some(stream), move |stream| async move {
        let mut stream = stream?;
        match tokio::time::timeout(stall, stream.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(stream))),
            Ok(Some(Err(error))) => Some((Err(chain(&error)), None)),
            Err(_) => Some((Err(format!("no data for {} s", stall.as_secs())), None)),
        }
    });
    Ok(skipping(guarded, skip).boxed())
}

/// Drops the first `skip` bytes.
fn skipping(
    stream: impl Stream<Item = Result<Bytes, String>> + Send + 'static,
    skip: u64,
) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
    let mut left = skip;
    stream.filter_map(move |piece| {
        let piece = match piece {
            Ok(mut piece) => {
                let drop = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                left -= drop as u64;
                let rest = piece.split_off(drop);
                (!rest.is_empty()).then_some(Ok(rest))
            }
            Err(error) => Some(Err(error)),
        };
        std::future::ready(piece)
    })
}

/// `bytes 100-199/200` → 100.
fn range_start(response: &Response) -> Option<u64> {
    let header = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    header.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.trim().parse().ok()
}

/// A blob on its way.
struct Download {
    repository: Repository,
    desc: Descriptor,
    what: String,
    position: u64,
    body: Option<Body>,
    /// In a row, without a byte between them.
    failures: u32,
    connections: u32,
}

impl Download {
    async fn connect(&mut self) -> Result<(), RegistryError> {
        self.connections += 1;
        self.body = Some(self.repository.open(&self.desc, self.position, &self.what).await?);
        Ok(())
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures::stream::unfold(Some(self), |download| async move {
            let mut download = download?;
            match download.next().await {
                Ok(None) => None,
                Ok(Some(piece)) => Some((Ok(piece), Some(download))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.position >= self.desc.size {
                return self.check_end().await;
            }
            let piece = match &mut self.body {
                None => {
                    self.connect().await?;
                    continue;
                }
                Some(body) => body.next().await,
            };
            let reason = match piece {
                Some(Ok(piece)) if piece.is_empty() => continue,
                Some(Ok(piece)) => {
                    self.position += piece.len() as u64;
                    self.failures = 0;
                    if self.position > self.desc.size {
                        return Err(self.wrong_size());
                    }
                    return Ok(Some(piece));
                }
                Some(Err(reason)) => reason,
                None => format!("it ended after {} of {} bytes", self.position, self.desc.size),
            };
            self.body = None;
            self.failures += 1;
            let policy = self.repository.policy();
            if self.failures >= policy.attempts || self.connections >= MAX_CONNECTIONS {
                let host = self.repository.name().domain().to_owned();
                return Err(RegistryError::Transport { host, what: self.what.clone(), reason });
            }
            tracing::debug!(blob = %self.desc.digest, position = self.position, reason, "resuming");
            tokio::time::sleep(wait_time(policy, self.failures, None)).await;
        }
    }

    /// All bytes are here: there must not be more.
    async fn check_end(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let Some(mut body) = self.body.take() else { return Ok(None) };
        match body.next().await {
            Some(Ok(piece)) if !piece.is_empty() => {
                self.position += piece.len() as u64;
                Err(self.wrong_size())
            }
            _ => Ok(None),
        }
    }

    fn wrong_size(&self) -> RegistryError {
        RegistryError::Size {
            host: self.repository.name().domain().to_owned(),
            what: self.what.clone(),
            expected: self.desc.size,
            found: self.position,
        }
    }
}
