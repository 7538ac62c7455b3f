//! Streams offered to the daemon, each under a path and once.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use rbuild_api::moby::upload::v1::BytesMessage;
use rbuild_api::moby::upload::v1::upload_server::{Upload, UploadServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{metadata, names};

/// Bytes of one message, as upstream's clients send.
const CHUNK: usize = 32 * 1024;
/// Messages between the reader and the network.
const AHEAD: usize = 16;

type Reader = Box<dyn Read + Send>;

/// Streams by path; the daemon gets no others, and each of them once.
#[derive(Clone, Default)]
pub struct Uploads {
    streams: Arc<Mutex<HashMap<String, Option<Reader>>>>,
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("streams", &self.streams.lock().len()).finish()
    }
}

impl Uploads {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.streams.lock().is_empty()
    }

    /// Offers a stream; the URL under which a build finds it.
    pub fn add(&self, stream: impl Read + Send + 'static) -> String {
        let id = rbuild_digest::random_id();
        self.streams.lock().insert(format!("/{id}"), Some(Box::new(stream)));
        format!("http://{}/{id}", names::UPLOAD_HOST)
    }
}

pub(super) fn service(uploads: Uploads) -> UploadServer<UploadService> {
    UploadServer::new(UploadService { uploads })
}

#[derive(Debug)]
pub(super) struct UploadService {
    uploads: Uploads,
}

#[tonic::async_trait]
impl Upload for UploadService {
    type PullStream = Pin<Box<dyn Stream<Item = std::result::Result<BytesMessage, Status>> + Send>>;

    async fn pull(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> std::result::Result<Response<Self::PullStream>, Status> {
        let path = metadata::first(request.metadata(), names::UPLOAD_PATH).unwrap_or_default();
        let stream = match self.uploads.streams.lock().get_mut(&path) {
            None => return Err(Status::not_found(format!("nothing is uploaded as {path}"))),
            Some(stream) => stream.take(),
        };
        let stream =
            stream.ok_or_else(|| Status::failed_precondition("the upload has been taken already"))?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        // Not tracked: a read of standard input ends when it ends, and nothing may wait for that. It leaves with the
        // channel.
        drop(tokio::task::spawn_blocking(move || send(stream, &sender)));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

/// Until the stream's end or nobody listens.
fn send(mut stream: Reader, sender: &mpsc::Sender<std::result::Result<BytesMessage, Status>>) {
    loop {
        let mut data = vec![0; CHUNK];
        let message = match stream.read(&mut data) {
            Ok(0) => return,
            Ok(read) => {
                data.truncate(read);
                Ok(BytesMessage { data })
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(Status::aborted(format!("reading the upload: {error}"))),
        };
        let failed = message.is_err();
        if sender.blocking_send(message).is_err() || failed {
            return;
        }
    }
}
