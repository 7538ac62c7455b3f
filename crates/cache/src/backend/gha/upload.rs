//! The bytes of an entry: to the service itself (the first interface), or to where it says (the second, Azure's blobs).

use base64::Engine as _;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue};
use rbuild_digest::Digest;
use reqwest::{Body, Method, Request, Url};

use super::service::{Reserved, Result, Service};
use crate::backend::http::{ATTEMPTS, Piece, patiently, watched};

/// Bytes of one request of the first interface. Source: GitHub's toolkit.
const CHUNK_BYTES: u64 = 32 << 20;
/// Bytes of one request of the second; a break costs so much.
const BLOCK_BYTES: u64 = 64 << 20;
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const BLOB_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-ms-version"), HeaderValue::from_static("2021-08-06"));

/// Writes an entry under a key that nobody has. Gives back whether it was this call that wrote it.
pub(super) async fn upload(service: &Service, key: &str, blob: Piece<'_>) -> Result<bool> {
    let Some(reserved) = service.reserve(key).await? else { return Ok(false) };
    match &reserved {
        Reserved::One(id) => chunks(service, key, *id, &blob).await?,
        Reserved::Two(url) if blob.size <= BLOCK_BYTES => whole(service, key, url, &blob).await?,
        Reserved::Two(url) => blocks(service, key, url, &blob).await?,
    }
    service.commit(key, &reserved, blob.size).await.map(|()| true)
}

fn cut<'a>(blob: &Piece<'a>, size: u64) -> impl Iterator<Item = Piece<'a>> {
    let count = blob.size.div_ceil(size);
    (0..count).map(move |at| {
        let offset = at * size;
        Piece { offset, size: size.min(blob.size - offset), ..blob.clone() }
    })
}

async fn chunks(service: &Service, key: &str, id: u64, blob: &Piece<'_>) -> Result<()> {
    let what = Service::what(key);
    for piece in cut(blob, CHUNK_BYTES) {
        let range = format!("bytes {}-{}/*", piece.offset, piece.offset + piece.size - 1);
        patiently(ATTEMPTS, || async {
            let mut request = service.request(Method::PATCH, &Service::entry(id), key)?;
            request.headers_mut().insert(CONTENT_TYPE, OCTETS);
            if let Ok(range) = HeaderValue::from_str(&range) {
                request.headers_mut().insert(CONTENT_RANGE, range);
            }
            watched(&service.http, request, piece.clone(), &what).await.map(drop)
        })
        .await?;
    }
    Ok(())
}

/// A request to a signed address: the service's token stays here.
fn put(mut url: Url, query: &[(&str, &str)]) -> Request {
    for (name, value) in query {
        url.query_pairs_mut().append_pair(name, value);
    }
    let mut request = Request::new(Method::PUT, url);
    request.headers_mut().insert(CONTENT_TYPE, OCTETS);
    request.headers_mut().extend([BLOB_VERSION]);
    request
}

async fn whole(service: &Service, key: &str, url: &Url, blob: &Piece<'_>) -> Result<()> {
    let what = Service::what(key);
    patiently(ATTEMPTS, || async {
        let mut request = put(url.clone(), &[]);
        request.headers_mut().insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
        watched(&service.http, request, blob.clone(), &what).await.map(drop)
    })
    .await
}

async fn blocks(service: &Service, key: &str, url: &Url, blob: &Piece<'_>) -> Result<()> {
    let what = Service::what(key);
    let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for piece in cut(blob, BLOCK_BYTES) {
        // All of one length, as has to be.
        let id = Digest::of(piece.offset.to_string()).hex();
        let id = base64::engine::general_purpose::STANDARD.encode(&id[..16]);
        patiently(ATTEMPTS, || async {
            let request = put(url.clone(), &[("comp", "block"), ("blockid", &id)]);
            watched(&service.http, request, piece.clone(), &what).await.map(drop)
        })
        .await?;
        list += &format!("<Latest>{id}</Latest>");
    }
    list += "</BlockList>";
    patiently(ATTEMPTS, || async {
        let mut request = put(url.clone(), &[("comp", "blocklist")]);
        *request.body_mut() = Some(Body::from(list.clone()));
        service.http.once(request, &what).await.map(drop)
    })
    .await
}
