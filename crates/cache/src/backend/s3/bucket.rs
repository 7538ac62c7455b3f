//! Objects of one bucket: read, written, touched.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LAST_MODIFIED, RANGE,
};
use rbuild_digest::Digest;
use reqwest::{Body, Method, Request, Response, Url};

use super::options::S3Options;
use super::sign::{self, Question};
use super::xml;
use crate::backend::http::{ATTEMPTS, Fetch, Http, ObjectError, Piece, body, patiently, watched};

/// A body that is not hashed before it is sent.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Blobs from here on are sent in parts: a break costs a part.
const PART_BYTES: u64 = 64 << 20;
/// The parts of one object; S3 takes 10,000.
const MAX_PARTS: u64 = 9_000;
/// What one copy may take. Source: the S3 API reference, `CopyObject`.
const MAX_COPY: u64 = 5 << 30;
const COPY_PART: u64 = 1 << 30;
/// Largest answer in XML.
const MAX_XML: u64 = 64 << 10;

type Result<T, E = ObjectError> = std::result::Result<T, E>;

/// A bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    http: Http,
    options: Arc<S3Options>,
}

/// What to ask of an object.
#[derive(Debug)]
struct Ask<'a> {
    method: Method,
    key: &'a str,
    query: &'a [(&'a str, String)],
    /// Signed.
    headers: Vec<(&'static str, String)>,
    payload: &'a str,
}

impl<'a> Ask<'a> {
    fn new(method: Method, key: &'a str) -> Self {
        Self { method, key, query: &[], headers: Vec::new(), payload: UNSIGNED }
    }
}

impl Bucket {
    pub(super) fn new(http: Http, options: Arc<S3Options>) -> Self {
        Self { http, options }
    }

    fn what(&self, key: &str) -> String {
        format!("s3 {}/{key}", self.options.bucket)
    }

    fn malformed(&self, key: &str, reason: impl Into<String>) -> ObjectError {
        ObjectError::Malformed { what: self.what(key), reason: reason.into() }
    }

    /// The signed request.
    fn request(&self, ask: Ask<'_>) -> Result<Request> {
        let endpoint = &self.options.endpoint;
        let bucket = &self.options.bucket;
        let host = endpoint.host_str().unwrap_or_default();
        let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
        let (host, folder) = match self.options.in_path {
            true => (format!("{host}{port}"), format!("{bucket}/")),
            false => (format!("{bucket}.{host}{port}"), String::new()),
        };
        let base = endpoint.path().trim_end_matches('/');
        let path = format!("{base}/{folder}{}", sign::escape(ask.key, true));
        let query = sign::query_text(ask.query);
        let mark = if query.is_empty() { "" } else { "?" };
        let text = format!("{}://{host}{path}{mark}{query}", endpoint.scheme());
        let url = Url::parse(&text).map_err(|error| self.malformed(ask.key, error.to_string()))?;
        let time = now(self, ask.key)?;
        let mut headers = ask.headers;
        headers.push(("x-amz-content-sha256", ask.payload.to_owned()));
        headers.push(("x-amz-date", time.clone()));
        let keys = self.options.keys.as_ref();
        headers.extend(keys.and_then(|keys| Some(("x-amz-security-token", keys.session.clone()?))));
        headers.push(("host", host));
        let mut request = Request::new(ask.method.clone(), url);
        if let Some(keys) = keys {
            let question = Question {
                method: ask.method.as_str(),
                path: &path,
                query: ask.query,
                headers: &headers,
                payload: ask.payload,
                region: &self.options.region,
                time: &time,
            };
            headers.push(("authorization", sign::authorization(keys, &question)));
        }
        for (name, text) in headers {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| self.malformed(ask.key, format!("its {name} cannot be sent")))?;
            value.set_sensitive(name == AUTHORIZATION.as_str() || name == "x-amz-security-token");
            if name != HOST.as_str() {
                request.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        Ok(request)
    }

    /// When an object was last written; `None`: it is not there. The inner one: the store does not say.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Option<Duration>>> {
        let what = self.what(key);
        let answer = patiently(ATTEMPTS, || async {
            self.http.once(self.request(Ask::new(Method::HEAD, key))?, &what).await
        });
        match answer.await {
            Ok(response) => Ok(Some(age(&response))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A small object. `attempts`: how often it is asked for.
    pub(super) async fn get(&self, key: &str, limit: u64, attempts: u32) -> Result<Vec<u8>> {
        let what = self.what(key);
        patiently(attempts, || async {
            let response = self.http.once(self.request(Ask::new(Method::GET, key))?, &what).await?;
            body(response, limit, &what).await
        })
        .await
    }

    /// Writes a small object.
    pub(super) async fn put(&self, key: &str, bytes: &Bytes, media_type: &'static str) -> Result<()> {
        let what = self.what(key);
        let digest = Digest::of(bytes).hex();
        patiently(ATTEMPTS, || async {
            let mut request = self.request(Ask { payload: &digest, ..Ask::new(Method::PUT, key) })?;
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            *request.body_mut() = Some(Body::from(bytes.clone()));
            self.http.once(request, &what).await.map(drop)
        })
        .await
    }

    /// Writes a blob, whatever its size. In one piece the store checks its digest.
    pub(super) async fn put_blob(&self, key: &str, blob: Piece<'_>) -> Result<()> {
        if blob.size > PART_BYTES {
            return self
                .in_parts(key, blob.size, PART_BYTES.max(blob.size.div_ceil(MAX_PARTS)), Some(blob))
                .await;
        }
        let (what, digest) = (self.what(key), blob.desc.digest.hex());
        patiently(ATTEMPTS, || async {
            let request = self.request(Ask { payload: &digest, ..Ask::new(Method::PUT, key) })?;
            watched(&self.http, request, blob.clone(), &what).await.map(drop)
        })
        .await
    }

    /// Makes an object new again, for stores that remove old ones.
    pub(super) async fn touch(&self, key: &str, size: u64) -> Result<()> {
        if size > MAX_COPY {
            return self.in_parts(key, size, COPY_PART, None).await;
        }
        let what = self.what(key);
        patiently(ATTEMPTS, || async {
            let headers = vec![self.copy_source(key), ("x-amz-metadata-directive", "REPLACE".to_owned())];
            let request = self.request(Ask { headers, ..Ask::new(Method::PUT, key) })?;
            let xml = self.xml(request, &what).await?;
            self.no_error_in(key, &xml)
        })
        .await
    }

    fn copy_source(&self, key: &str) -> (&'static str, String) {
        ("x-amz-copy-source", format!("/{}/{}", self.options.bucket, sign::escape(key, true)))
    }

    async fn xml(&self, request: Request, what: &str) -> Result<String> {
        let bytes = body(self.http.once(request, what).await?, MAX_XML, what).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Copies and completions may fail after the head of their answer said that they did not.
    fn no_error_in(&self, key: &str, xml: &str) -> Result<()> {
        match xml.contains("<Error>") {
            false => Ok(()),
            true => {
                let said =
                    xml::element(xml, "Message").or_else(|| xml::element(xml, "Code")).unwrap_or_default();
                Err(ObjectError::Transport { what: self.what(key), reason: said })
            }
        }
    }

    /// Writes an object part by part, from `bytes` or, without, from itself.
    async fn in_parts(&self, key: &str, size: u64, part_size: u64, bytes: Option<Piece<'_>>) -> Result<()> {
        let what = self.what(key);
        let query = [("uploads", String::new())];
        let xml = patiently(ATTEMPTS, || async {
            self.xml(self.request(Ask { query: &query, ..Ask::new(Method::POST, key) })?, &what).await
        });
        let id = xml::element(&xml.await?, "UploadId").ok_or_else(|| self.malformed(key, "no upload id"))?;
        let sent = self.parts(key, &id, (size, part_size), bytes).await;
        let Err(error) = sent else { return Ok(()) };
        let query = [("uploadId", id)];
        let cancel = self.request(Ask { query: &query, ..Ask::new(Method::DELETE, key) })?;
        if let Err(error) = self.http.once(cancel, &what).await {
            tracing::debug!(%error, "an upload that failed is not cancelled");
        }
        Err(error)
    }

    async fn parts(
        &self,
        key: &str,
        id: &str,
        (size, part_size): (u64, u64),
        bytes: Option<Piece<'_>>,
    ) -> Result<()> {
        let mut list = String::new();
        for number in 1..=size.div_ceil(part_size) {
            let offset = (number - 1) * part_size;
            let range = (offset, part_size.min(size - offset));
            let query = [("partNumber", number.to_string()), ("uploadId", id.to_owned())];
            let etag = patiently(ATTEMPTS, || self.part(key, &query, range, bytes.clone())).await?;
            let etag = xml::escaped(&etag);
            list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
        }
        let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        let (what, digest) = (self.what(key), Digest::of(&list).hex());
        let query = [("uploadId", id.to_owned())];
        patiently(ATTEMPTS, || async {
            let ask = Ask { query: &query, payload: &digest, ..Ask::new(Method::POST, key) };
            let mut request = self.request(ask)?;
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            *request.body_mut() = Some(Body::from(list.clone()));
            self.no_error_in(key, &self.xml(request, &what).await?)
        })
        .await
    }

    /// Sends a part and gives its tag.
    async fn part(
        &self,
        key: &str,
        query: &[(&str, String)],
        (offset, size): (u64, u64),
        bytes: Option<Piece<'_>>,
    ) -> Result<String> {
        let what = self.what(key);
        let Some(bytes) = bytes else {
            let range = format!("bytes={offset}-{}", offset + size - 1);
            let headers = vec![self.copy_source(key), ("x-amz-copy-source-range", range)];
            let xml =
                self.xml(self.request(Ask { query, headers, ..Ask::new(Method::PUT, key) })?, &what).await?;
            self.no_error_in(key, &xml)?;
            return xml::element(&xml, "ETag")
                .ok_or_else(|| self.malformed(key, "a copied part without a tag"));
        };
        let request = self.request(Ask { query, ..Ask::new(Method::PUT, key) })?;
        let response = watched(&self.http, request, Piece { offset, size, ..bytes }, &what).await?;
        let etag = response.headers().get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
        etag.map(str::to_owned).ok_or_else(|| self.malformed(key, "a part without a tag"))
    }

    /// An object as something to download.
    pub(super) fn object(&self, key: String) -> Arc<dyn Fetch> {
        Arc::new(Object { bucket: self.clone(), key })
    }
}

struct Object {
    bucket: Bucket,
    key: String,
}

#[async_trait]
impl Fetch for Object {
    fn what(&self) -> String {
        self.bucket.what(&self.key)
    }

    async fn open_at(&self, offset: u64) -> Result<Response> {
        let mut request = self.bucket.request(Ask::new(Method::GET, &self.key))?;
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            request.headers_mut().insert(RANGE, range);
        }
        self.bucket.http.once(request, &self.what()).await
    }
}

/// `20261125T074322Z`.
fn now(bucket: &Bucket, key: &str) -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = i64::try_from(seconds).ok().and_then(|seconds| rbuild_oci::format_time(seconds, 0));
    let text = text.ok_or_else(|| bucket.malformed(key, "this machine's clock makes no sense"))?;
    Ok(text.chars().filter(|c| !matches!(c, '-' | ':')).collect())
}

/// How long ago it was written.
fn age(response: &Response) -> Option<Duration> {
    let text = response.headers().get(LAST_MODIFIED)?.to_str().ok()?;
    let written = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(now.saturating_sub(u64::try_from(written).ok()?)))
}
