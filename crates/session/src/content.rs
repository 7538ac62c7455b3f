//! Blobs from and into a content store of the client's.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use rbuild_api::containerd::services::content::v1::content_client::ContentClient;
use rbuild_api::containerd::services::content::v1::{
    InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::metadata::MetadataValue;

use crate::{Result, Session, SessionError, names};

/// Bytes of one message: below the size that every peer accepts.
const CHUNK: usize = 1 << 20;

/// The blob to be written.
#[derive(Debug, Clone, Copy)]
pub struct BlobTarget<'a> {
    /// Which of the client's stores, for instance [`names::EXPORT_STORE`].
    pub store: &'a str,
    /// The blob's digest; the client checks it.
    pub digest: &'a str,
    /// Its bytes.
    pub size: u64,
}

/// Largest message of a blob's bytes taken from a client; upstream's limit.
const MAX_PIECE: usize = 16 << 20;

fn to_store<T>(store: &str, message: T) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    let store =
        MetadataValue::try_from(store).map_err(|_| SessionError::Metadata { key: names::STORE_ID.into() })?;
    request.metadata_mut().insert(names::STORE_ID, store);
    Ok(request)
}

impl Session {
    /// The size of a blob in a content store of the client's; `None` if it is not there.
    pub async fn blob_size(&self, store: &str, digest: &str) -> Result<Option<u64>> {
        self.require(names::CONTENT_INFO)?;
        let request = to_store(store, InfoRequest { digest: digest.to_owned() })?;
        let what = || format!("looking for blob {digest}");
        let ask = async {
            match ContentClient::new(self.channel()).info(request).await {
                Ok(answer) => Ok(answer.into_inner().info.map(|info| u64::try_from(info.size).unwrap_or(0))),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(SessionError::call(what(), status)),
            }
        };
        self.until_closed(ask).await
    }

    /// The bytes of a blob in a content store of the client's, from `offset` on. Not verified.
    ///
    /// Errors: `NotFound` of the call if the blob is not there. Cancel: drop the stream.
    pub async fn read_blob(
        &self,
        store: &str,
        digest: &str,
        offset: u64,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        self.require(names::CONTENT_READ)?;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let request = to_store(store, ReadContentRequest { digest: digest.to_owned(), offset, size: 0 })?;
        let what = format!("reading blob {digest}");
        let open = async {
            let mut client = ContentClient::new(self.channel()).max_decoding_message_size(MAX_PIECE);
            client.read(request).await.map_err(|status| SessionError::call(what, status))
        };
        let answers = self.until_closed(open).await?.into_inner();
        Ok(answers.map(|answer| match answer {
            Ok(answer) => Ok(Bytes::from(answer.data)),
            Err(status) if status.code() == Code::NotFound => {
                Err(io::Error::new(io::ErrorKind::NotFound, status.message().to_owned()))
            }
            Err(status) => Err(io::Error::other(status)),
        }))
    }

    /// Writes a blob into a content store of the client's; one that is there already is not sent.
    ///
    /// Cancel: by drop; the client keeps no blob that was not committed.
    pub async fn put_blob(
        &self,
        target: BlobTarget<'_>,
        data: impl Stream<Item = io::Result<Bytes>>,
    ) -> Result<()> {
        self.require(names::CONTENT_WRITE)?;
        match self.until_closed(write(self, target, data)).await {
            Err(SessionError::Call { status, .. }) if status.code() == Code::AlreadyExists => Ok(()),
            done => done,
        }
    }
}

/// The call: every message is answered, and the next one waits for that.
struct Call {
    what: String,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: tonic::Streaming<WriteContentResponse>,
}

impl Call {
    async fn ask(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse> {
        // If the call has ended, its answer says why.
        drop(self.requests.send(request).await);
        self.answer().await
    }

    async fn answer(&mut self) -> Result<WriteContentResponse> {
        let answer = self.answers.message().await;
        let answer = answer.map_err(|status| SessionError::call(self.what.clone(), status))?;
        answer.ok_or_else(|| SessionError::Ended { last: self.what.clone() })
    }
}

async fn write(
    session: &Session,
    target: BlobTarget<'_>,
    data: impl Stream<Item = io::Result<Bytes>>,
) -> Result<()> {
    let what = format!("writing blob {}", target.digest);
    let total = i64::try_from(target.size).unwrap_or(i64::MAX);
    let message = |action: WriteAction, offset: i64, data: Bytes| WriteContentRequest {
        action: action.into(),
        r#ref: target.digest.to_owned(),
        total,
        expected: target.digest.to_owned(),
        offset,
        data: data.into(),
        ..WriteContentRequest::default()
    };
    let (requests, receiver) = mpsc::channel(1);
    // A server answers the first message at the earliest, so that goes out before the answer is awaited.
    drop(requests.send(message(WriteAction::Stat, 0, Bytes::new())).await);
    let request = to_store(target.store, ReceiverStream::new(receiver))?;
    let answers = ContentClient::new(session.channel()).write(request).await;
    let answers = answers.map_err(|status| SessionError::call(what.clone(), status))?.into_inner();
    let mut call = Call { what: what.clone(), requests, answers };
    let mut skip = usize::try_from(call.answer().await?.offset).unwrap_or_default();
    let mut offset = i64::try_from(skip).unwrap_or_default();
    tokio::pin!(data);
    while let Some(chunk) = data.next().await {
        let mut chunk = chunk.map_err(|error| SessionError::io(what.clone(), error))?;
        // What an earlier attempt has brought over.
        let known = skip.min(chunk.len());
        skip -= known;
        drop(chunk.split_to(known));
        while !chunk.is_empty() {
            let part = chunk.split_to(chunk.len().min(CHUNK));
            let length = i64::try_from(part.len()).unwrap_or_default();
            call.ask(message(WriteAction::Write, offset, part)).await?;
            offset += length;
        }
    }
    call.ask(message(WriteAction::Commit, offset, Bytes::new())).await.map(drop)
}
