//! What a client uploads under a path that it made up: contexts from its standard input.

use bytes::Bytes;
use futures::StreamExt as _;
use rbuild_api::moby::upload::v1::BytesMessage;
use rbuild_api::moby::upload::v1::upload_client::UploadClient;
use tonic::Streaming;

use crate::{Result, Session, SessionError, metadata, names};

/// Largest message of an upload; upstream's limit.
const MAX_MESSAGE: usize = 16 << 20;

/// Bytes on their way from a client. They come once: no second call gives them again. Cancel: by drop.
#[derive(Debug)]
pub struct Upload {
    session: Session,
    answers: Streaming<BytesMessage>,
    what: String,
}

impl Session {
    /// Asks for what the client uploads under `path` (`/` and an id).
    ///
    /// Errors: `is_unsupported()` if the client uploads nothing; the client's own refusal.
    pub async fn upload(&self, path: &str) -> Result<Upload> {
        self.require(names::UPLOAD_PULL)?;
        let what = "the client's upload".to_owned();
        // The call stays open until all has come; nothing is said in it.
        let mut request = tonic::Request::new(futures::stream::pending::<BytesMessage>());
        metadata::append_one(request.metadata_mut(), names::UPLOAD_PATH, path)?;
        metadata::append_one(request.metadata_mut(), names::UPLOAD_HOST_KEY, names::UPLOAD_HOST)?;
        let open = async {
            let mut client = UploadClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
            client.pull(request).await.map_err(|status| SessionError::call(what.clone(), status))
        };
        let answers = self.until_closed(open).await?.into_inner();
        Ok(Upload { session: self.clone(), answers, what })
    }
}

impl Upload {
    /// The next bytes; `None` at their end.
    ///
    /// A client that waits for somebody else's bytes may take its time: only the session's end is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let next = async {
            match self.answers.next().await {
                None => Ok(None),
                Some(Ok(message)) => Ok(Some(message.data.into())),
                Some(Err(status)) => Err(SessionError::call(self.what.clone(), status)),
            }
        };
        self.session.until_closed(next).await
    }
}
