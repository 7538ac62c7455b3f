use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HeaderValue, RANGE};
use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_oci::{ByteStream, Descriptor, Provider};
use reqwest::{Method, Request, Response, Url};

use super::options::GhaOptions;
use super::service::{Found, Result as ServiceResult, Service};
use super::upload::upload;
use crate::backend::http::{ATTEMPTS, Fetch, Http, ObjectError, Piece, body, download};
use crate::backend::{Address, Documents, InMemory, Place, Sent};
use crate::error::{CacheError, Result};

/// How long a signed address is used. The service signs for longer; it counts requests, so none is made for nothing.
const ADDRESS_LIFE: Duration = Duration::from_secs(5 * 60);
/// Writers of documents at once that this one yields to before it gives up.
const MAX_RACES: u64 = 16;

/// A cache in the service.
#[derive(Debug)]
pub(crate) struct GhaPlace {
    shown: String,
    blobs: Arc<Blobs>,
}

#[derive(Debug, Clone)]
struct Blobs {
    service: Service,
    /// Where blobs were found, and when.
    addresses: Arc<Mutex<HashMap<Digest, (Instant, Url)>>>,
}

impl GhaPlace {
    pub(crate) fn new(http: Http, options: GhaOptions) -> Self {
        let shown = options.shown();
        let service = Service { http, options: Arc::new(options) };
        Self { shown, blobs: Arc::new(Blobs { service, addresses: Arc::default() }) }
    }
}

fn blob_key(digest: &Digest) -> String {
    format!("buildkit-blob-1-{digest}")
}

impl Blobs {
    /// Where a blob is.
    async fn address(&self, digest: &Digest) -> ServiceResult<Option<Url>> {
        if let Some((since, url)) = self.addresses.lock().get(digest)
            && since.elapsed() < ADDRESS_LIFE
        {
            return Ok(Some(url.clone()));
        }
        let found = self.service.find(&blob_key(digest), ATTEMPTS).await?;
        let mut addresses = self.addresses.lock();
        match &found {
            Some(Found { url, .. }) => addresses.insert(*digest, (Instant::now(), url.clone())),
            None => addresses.remove(digest),
        };
        Ok(found.map(|found| found.url))
    }
}

#[async_trait]
impl Place for GhaPlace {
    fn name(&self) -> &str {
        &self.shown
    }

    fn address(&self) -> Address<'_> {
        Address::Documents(self)
    }

    async fn has(&self, desc: &Descriptor) -> Result<bool> {
        Ok(self.blobs.address(&desc.digest).await?.is_some())
    }

    fn provider(&self) -> Arc<dyn Provider> {
        self.blobs.clone()
    }

    async fn put(&self, desc: &Descriptor, bytes: &dyn Provider, sent: Option<Sent>) -> Result<()> {
        if self.has(desc).await? {
            return Ok(());
        }
        let piece = Piece { desc, bytes, offset: 0, size: desc.size, sent };
        // Taken: another run is writing the same bytes.
        upload(&self.blobs.service, &blob_key(&desc.digest), piece).await?;
        Ok(())
    }
}

#[async_trait]
impl Documents for GhaPlace {
    fn patience(&self) -> Option<Duration> {
        self.blobs.service.options.timeout
    }

    async fn read(&self, limit: u64) -> Result<Vec<Vec<u8>>> {
        let service = &self.blobs.service;
        let mut documents = Vec::new();
        for key in service.options.readable() {
            let Some(found) = service.find(&key, 1).await? else { continue };
            let what = Service::what(&found.key);
            let response = service.http.once(Request::new(Method::GET, found.url), &what).await?;
            documents.push(body(response, limit, &what).await?);
        }
        Ok(documents)
    }

    async fn write(&self, document: Bytes) -> Result<()> {
        let service = &self.blobs.service;
        let Some(key) = service.options.writable() else {
            let reason = "the run's token may not write to any cache".to_owned();
            return Err(ObjectError::Malformed { what: self.shown.clone(), reason }.into());
        };
        let newest = service.find(&key, ATTEMPTS).await?;
        let newest: u64 = newest.and_then(|found| found.key.rsplit_once('#')?.1.parse().ok()).unwrap_or(0);
        let desc = Descriptor::of("application/json", &document);
        let bytes = InMemory(document);
        for number in newest.saturating_add(1)..=newest.saturating_add(MAX_RACES) {
            let piece = Piece { desc: &desc, bytes: &bytes, offset: 0, size: desc.size, sent: None };
            if upload(service, &format!("{key}{number}"), piece).await? {
                return Ok(());
            }
        }
        Err(CacheError::Contended { what: self.shown.clone() })
    }
}

#[async_trait]
impl Provider for Blobs {
    async fn open(&self, desc: &Descriptor, offset: u64) -> std::io::Result<ByteStream> {
        let entry = Entry { blobs: self.clone(), digest: desc.digest };
        Ok(download(Arc::new(entry), offset, desc.size).await?)
    }
}

/// A blob as something to download.
struct Entry {
    blobs: Blobs,
    digest: Digest,
}

#[async_trait]
impl Fetch for Entry {
    fn what(&self) -> String {
        Service::what(&blob_key(&self.digest))
    }

    async fn open_at(&self, offset: u64) -> ServiceResult<Response> {
        let what = self.what();
        let missing = || ObjectError::Status { what: what.clone(), status: 404, detail: String::new() };
        let mut request =
            Request::new(Method::GET, self.blobs.address(&self.digest).await?.ok_or_else(missing)?);
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            request.headers_mut().insert(RANGE, range);
        }
        let answer = self.blobs.service.http.once(request, &what).await;
        if answer.is_err() {
            // It may have been signed for too short a time: the next try asks again.
            self.blobs.addresses.lock().remove(&self.digest);
        }
        answer
    }
}
