use ::http::header::{CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE};
use bytes::Bytes;
use futures::Stream;
use reqwest::Response;

use super::question::Question;
use super::{ATTEMPTS, HttpSource, chain, text_header};
use crate::SourceError;

/// The bytes of an answer. Where they break off, the rest is asked for if the server marks the file's version;
/// otherwise the whole must be asked for again.
pub(super) struct Transfer<'a> {
    source: &'a HttpSource,
    question: &'a Question,
    response: Response,
    /// The file's strong version mark.
    version: Option<HeaderValue>,
    received: u64,
    tries: u32,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(source: &'a HttpSource, question: &'a Question, response: Response) -> Self {
        let version = response.headers().get(ETAG).filter(|mark| mark.as_bytes().starts_with(b"\"")).cloned();
        Self { source, question, response, version, received: 0, tries: 1 }
    }

    /// Errors: [`SourceError::Stalled`], and [`SourceError::Http`] where it may help to begin again.
    pub(super) fn pieces(self) -> impl Stream<Item = Result<Bytes, SourceError>> + use<'a> {
        futures::stream::try_unfold(self, Self::next)
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, SourceError> {
        let stall = self.source.limits.stall;
        loop {
            let url = self.question.shown.clone();
            match tokio::time::timeout(stall, self.response.chunk()).await {
                Err(_) => return Err(SourceError::Stalled { url, waited: stall }),
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(piece))) => {
                    self.received += piece.len() as u64;
                    return Ok(Some((piece, self)));
                }
                Ok(Err(error)) => {
                    let broken = SourceError::Http { url, reason: chain(&error) };
                    self.response = self.rest(broken).await?;
                }
            }
        }
    }

    /// Asks for what is missing. Errors: `broken` if the server has another version now, or gives no parts.
    async fn rest(&mut self, broken: SourceError) -> Result<Response, SourceError> {
        let Some(version) = self.version.clone().filter(|_| self.received > 0 && self.tries < ATTEMPTS)
        else {
            return Err(broken);
        };
        self.tries += 1;
        tracing::debug!(error = %broken, received = self.received, "asking for the rest");
        let mut headers = self.question.headers.clone();
        let range = HeaderValue::from_str(&format!("bytes={}-", self.received));
        headers.insert(RANGE, range.map_err(|_| broken.clone())?);
        headers.insert(IF_RANGE, version);
        let response = self.source.ask(self.question, &headers).await?;
        let begins = format!("bytes {}-", self.received);
        let fits = text_header(&response, &CONTENT_RANGE).is_some_and(|range| range.starts_with(&begins));
        match response.status().as_u16() == 206 && fits {
            true => Ok(response),
            false => Err(broken),
        }
    }
}
