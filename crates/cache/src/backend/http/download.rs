use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use rbuild_oci::ByteStream;
use reqwest::{Response, StatusCode};

use super::{ObjectError, Result, STALL_TIMEOUT, timeout, transport};

/// Connections in a row that bring nothing.
const MAX_FAILURES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// One object, from any byte on.
#[async_trait]
pub(crate) trait Fetch: Send + Sync + 'static {
    /// What it is, for errors.
    fn what(&self) -> String;
    /// Asks for the bytes from `offset` on.
    async fn open_at(&self, offset: u64) -> Result<Response>;
}

struct Download {
    from: Arc<dyn Fetch>,
    position: u64,
    size: u64,
    body: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    failures: u32,
    wait: Duration,
}

/// The bytes of an object of `size` bytes from `offset` on, not verified. A break is survived by asking for the rest.
///
/// Errors: those of the first connection; later ones come out of the stream.
pub(crate) async fn download(from: Arc<dyn Fetch>, offset: u64, size: u64) -> Result<ByteStream> {
    let mut download = Download { from, position: offset, size, body: None, failures: 0, wait: FIRST_WAIT };
    if offset < size {
        download.connect().await?;
    }
    let stream = futures::stream::unfold(Some(download), |download| async move {
        let mut download = download?;
        match download.next().await {
            Ok(None) => None,
            Ok(Some(piece)) => Some((Ok(piece), Some(download))),
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    Ok(stream.boxed())
}

impl Download {
    async fn connect(&mut self) -> Result<()> {
        let response = self.from.open_at(self.position).await?;
        if self.position > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            let reason = "it does not give parts of objects".to_owned();
            return Err(ObjectError::Malformed { what: self.from.what(), reason });
        }
        self.body = Some(response.bytes_stream().boxed());
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.size {
            match self.piece().await {
                Ok(piece) => {
                    self.position += piece.len() as u64;
                    (self.failures, self.wait) = (0, FIRST_WAIT);
                    return Ok(Some(piece));
                }
                Err(error) => {
                    self.body = None;
                    self.failures += 1;
                    if self.failures >= MAX_FAILURES || !error.may_pass() {
                        return Err(error);
                    }
                    tracing::debug!(%error, position = self.position, "download goes on");
                    tokio::time::sleep(self.wait).await;
                    self.wait *= 3;
                }
            }
        }
        Ok(None)
    }

    async fn piece(&mut self) -> Result<Bytes> {
        if self.body.is_none() {
            self.connect().await?;
        }
        let what = self.from.what();
        let ended = || ObjectError::Transport { what: what.clone(), reason: "it ends too early".into() };
        let Some(body) = &mut self.body else { return Err(ended()) };
        let piece = match tokio::time::timeout(STALL_TIMEOUT, body.next()).await {
            Err(_) => return Err(timeout(&what, STALL_TIMEOUT)),
            Ok(None) => return Err(ended()),
            Ok(Some(piece)) => piece.map_err(|error| transport(&what, &error))?,
        };
        if self.position + piece.len() as u64 > self.size {
            let reason = format!("it has more than {} bytes", self.size);
            return Err(ObjectError::Malformed { what, reason });
        }
        Ok(piece)
    }
}
