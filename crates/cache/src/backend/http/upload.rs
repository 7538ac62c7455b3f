use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONTENT_LENGTH, HeaderValue};
use parking_lot::Mutex;
use rbuild_oci::{Descriptor, Provider};
use reqwest::{Body, Request, Response};

use super::{Http, ObjectError, Result, STALL_TIMEOUT, checked, timeout, transport};
use crate::backend::Sent;

/// After the last byte was sent: some stores copy before they answer.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How often a sender that does not move is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// The bytes of a blob that one request sends.
#[derive(Clone)]
pub(crate) struct Piece<'a> {
    pub(crate) desc: &'a Descriptor,
    pub(crate) bytes: &'a dyn Provider,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// Told how far the whole blob has got.
    pub(crate) sent: Option<Sent>,
}

/// Sends a request whose body is `piece`, for as long as its bytes move. The answer has to be a success.
pub(crate) async fn watched(
    http: &Http,
    mut request: Request,
    piece: Piece<'_>,
    what: &str,
) -> Result<Response> {
    let unreadable = |source| ObjectError::Read { what: what.to_owned(), source };
    let stream = piece.bytes.open(piece.desc, piece.offset).await.map_err(unreadable)?;
    let (moved, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
    let (count, keep, sent, offset) = (moved.clone(), failed.clone(), piece.sent.clone(), piece.offset);
    let size = piece.size;
    // Not a byte more than was announced: the next part begins there.
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    let cut = stream.map(move |bytes: std::io::Result<Bytes>| {
        bytes.map(|mut bytes| {
            bytes.truncate(left);
            left -= bytes.len();
            bytes
        })
    });
    let cut =
        cut.take_while(|bytes| std::future::ready(bytes.as_ref().map_or(true, |bytes| !bytes.is_empty())));
    let body = cut.map(move |bytes| match bytes {
        Ok(bytes) => {
            let at = count.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
            if let Some(sent) = &sent {
                sent(offset + at);
            }
            Ok(bytes)
        }
        Err(error) => {
            let text = error.to_string();
            *keep.lock() = Some(error);
            Err(std::io::Error::other(text))
        }
    });
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    *request.body_mut() = Some(Body::wrap_stream(body));
    let answer = watch(http, request, (&moved, size), what).await;
    if let Some(error) = failed.lock().take() {
        return Err(unreadable(error));
    }
    checked(answer?, what).await
}

async fn watch(
    http: &Http,
    request: Request,
    (moved, size): (&AtomicU64, u64),
    what: &str,
) -> Result<Response> {
    let mut answer = std::pin::pin!(http.client(what)?.execute(request));
    let (mut last, mut since) = (0, tokio::time::Instant::now());
    loop {
        match tokio::time::timeout(WATCH_INTERVAL, answer.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => return Err(transport(what, &error)),
            Err(_) => {}
        }
        let now = moved.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, tokio::time::Instant::now());
        }
        let limit = if now >= size { COMMIT_TIMEOUT } else { STALL_TIMEOUT };
        if since.elapsed() > limit {
            return Err(timeout(what, limit));
        }
    }
}
