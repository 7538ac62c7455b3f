//! Content stores offered to the daemon: directories in OCI layout, by the ids under which the daemon may ask for them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use rbuild_api::containerd::services::content::v1 as wire;
use rbuild_api::containerd::services::content::v1::content_server::{Content, ContentServer};
use rbuild_api::containerd::services::content::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use rbuild_digest::{Digest, Hasher};
use rbuild_sys::Root;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::tunnel::OwnedTasks;
use crate::{Result, SessionError, names};

/// Bytes of one message: below the size that every peer accepts.
const CHUNK: usize = 1 << 20;
/// Messages in flight per call: one on the wire, one being read.
const AHEAD: usize = 2;
const BLOBS: &str = "blobs/sha256";
/// Where blobs grow; on the same file system as where they end.
const INGEST: &str = "ingest";

/// Content stores by id; the daemon gets at no others.
#[derive(Debug, Clone, Default)]
pub struct ContentStores {
    stores: HashMap<String, Arc<Layout>>,
}

#[derive(Debug)]
struct Layout {
    root: Root,
    writable: bool,
}

impl ContentStores {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty()
    }

    /// Offers what `others` offer, too.
    pub fn extend(&mut self, others: &Self) {
        self.stores.extend(others.stores.iter().map(|(id, store)| (id.clone(), store.clone())));
    }

    /// Offers the blobs of `dir` for reading. Errors: it is not a directory.
    pub fn add_readable(&mut self, id: impl Into<String>, dir: impl AsRef<Path>) -> Result<()> {
        let root = open(dir.as_ref())?;
        // A directory that is written to may be read as well, whichever was said first.
        self.stores.entry(id.into()).or_insert_with(|| Arc::new(Layout { root, writable: false }));
        Ok(())
    }

    /// Offers `dir` for reading and takes blobs into it; it is made if it is missing.
    pub fn add_writable(&mut self, id: impl Into<String>, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(|error| SessionError::io(dir.display().to_string(), error))?;
        let root = open(dir)?;
        for part in [BLOBS, INGEST] {
            root.mkdir_all(part, 0o755).map_err(|error| failed(dir, error))?;
        }
        self.stores.insert(id.into(), Arc::new(Layout { root, writable: true }));
        Ok(())
    }

    fn of(&self, metadata: &MetadataMap) -> std::result::Result<Arc<Layout>, Status> {
        let id = metadata.get(names::STORE_ID).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.stores.get(id).cloned().ok_or_else(|| Status::not_found(format!("unknown content store {id}")))
    }
}

fn open(dir: &Path) -> Result<Root> {
    Root::open(dir).map_err(|error| failed(dir, error))
}

fn failed(dir: &Path, error: rbuild_sys::SysError) -> SessionError {
    SessionError::io(dir.display().to_string(), std::io::Error::from(error))
}

impl Layout {
    fn open_blob(&self, digest: &str) -> std::result::Result<File, Status> {
        let digest = parse(digest)?;
        self.root.open_file(path(&digest)).map_err(|error| match std::io::Error::from(error) {
            error if error.kind() == std::io::ErrorKind::NotFound => {
                Status::not_found(format!("content {digest}: not found"))
            }
            error => Status::internal(format!("content {digest}: {error}")),
        })
    }

    fn has(&self, digest: &Digest) -> bool {
        self.root.exists(path(digest)).unwrap_or(false)
    }
}

fn parse(digest: &str) -> std::result::Result<Digest, Status> {
    Digest::parse(digest).map_err(|error| Status::invalid_argument(format!("digest `{digest}`: {error}")))
}

fn path(digest: &Digest) -> PathBuf {
    Path::new(BLOBS).join(digest.hex())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, Status> + Send + 'static,
) -> std::result::Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Status::internal("work on a content store was interrupted"))?
}

fn io(error: std::io::Error) -> Status {
    match error.kind() {
        std::io::ErrorKind::StorageFull => Status::resource_exhausted(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

pub(super) fn service(stores: ContentStores, tasks: OwnedTasks) -> ContentServer<StoreService> {
    ContentServer::new(StoreService { stores, tasks })
        .max_decoding_message_size(super::MAX_MESSAGE)
        .max_encoding_message_size(super::MAX_MESSAGE)
}

#[derive(Debug)]
pub(super) struct StoreService {
    stores: ContentStores,
    tasks: OwnedTasks,
}

type Answer<T> = std::result::Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Content for StoreService {
    type ListStream = Answers<wire::ListContentResponse>;
    type ReadStream = Answers<wire::ReadContentResponse>;
    type WriteStream = Answers<WriteContentResponse>;

    async fn info(&self, request: Request<wire::InfoRequest>) -> Answer<wire::InfoResponse> {
        let store = self.stores.of(request.metadata())?;
        let digest = request.into_inner().digest;
        let named = digest.clone();
        let size = blocking(move || store.open_blob(&named)?.metadata().map_err(io)).await?.len();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Ok(Response::new(wire::InfoResponse {
            info: Some(wire::Info { digest, size, ..wire::Info::default() }),
        }))
    }

    async fn read(&self, request: Request<wire::ReadContentRequest>) -> Answer<Self::ReadStream> {
        let store = self.stores.of(request.metadata())?;
        let request = request.into_inner();
        let offset = u64::try_from(request.offset)
            .map_err(|_| Status::out_of_range("a blob is read from its beginning on"))?;
        let limit = match request.size {
            0 => u64::MAX,
            size => u64::try_from(size).map_err(|_| Status::out_of_range("negative size"))?,
        };
        let file = blocking(move || {
            let mut file = store.open_blob(&request.digest)?;
            file.seek(SeekFrom::Start(offset)).map_err(io)?;
            Ok(file)
        });
        let (sender, receiver) = mpsc::channel(AHEAD);
        self.tasks.tracker.spawn(send(file.await?, offset, limit, sender));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn write(&self, request: Request<Streaming<WriteContentRequest>>) -> Answer<Self::WriteStream> {
        let store = self.stores.of(request.metadata())?;
        if !store.writable {
            return Err(Status::permission_denied("this content store is for reading only"));
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        self.tasks.tracker.spawn(receive(store, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<wire::StatusResponse> {
        // Nothing half-written outlives its call.
        Err(Status::not_found(format!("ingest {}: not found", request.into_inner().r#ref)))
    }

    async fn list_statuses(
        &self,
        _: Request<wire::ListStatusesRequest>,
    ) -> Answer<wire::ListStatusesResponse> {
        Ok(Response::new(wire::ListStatusesResponse::default()))
    }

    async fn abort(&self, _: Request<wire::AbortRequest>) -> Answer<()> {
        Ok(Response::new(()))
    }

    async fn update(&self, _: Request<wire::UpdateRequest>) -> Answer<wire::UpdateResponse> {
        Err(Status::unimplemented("content of a client cannot be changed"))
    }

    async fn list(&self, _: Request<wire::ListContentRequest>) -> Answer<Self::ListStream> {
        Err(Status::unimplemented("content of a client cannot be listed"))
    }

    async fn delete(&self, _: Request<wire::DeleteContentRequest>) -> Answer<()> {
        Err(Status::unimplemented("content of a client cannot be deleted"))
    }
}

/// Sends a file piece by piece until its end, `limit` or nobody listens.
async fn send(
    file: File,
    mut offset: u64,
    mut limit: u64,
    sender: mpsc::Sender<std::result::Result<wire::ReadContentResponse, Status>>,
) {
    let mut file = Some(file);
    while let Some(mut open) = file.take() {
        let want = usize::try_from(limit.min(CHUNK as u64)).unwrap_or(CHUNK);
        let piece = blocking(move || {
            let mut piece = Vec::with_capacity(want);
            Read::by_ref(&mut open).take(want as u64).read_to_end(&mut piece).map_err(io)?;
            Ok((piece, open))
        });
        let message = match piece.await {
            Ok((piece, _)) if piece.is_empty() => break,
            Ok((piece, open)) => {
                let at = i64::try_from(offset).unwrap_or(i64::MAX);
                offset += piece.len() as u64;
                limit -= piece.len() as u64;
                file = (limit > 0).then_some(open);
                Ok(wire::ReadContentResponse { offset: at, data: piece })
            }
            Err(status) => Err(status),
        };
        if sender.send(message).await.is_err() {
            break;
        }
    }
}

/// A blob on its way in. Dropped without a commit, it leaves nothing.
struct Incoming {
    store: Arc<Layout>,
    name: PathBuf,
    file: File,
    hash: Hasher,
    written: u64,
    kept: bool,
}

impl Incoming {
    fn start(store: &Arc<Layout>) -> std::result::Result<Self, Status> {
        let name = Path::new(INGEST).join(rbuild_digest::random_id());
        let file = store.root.create_file(&name, 0o644, true).map_err(|error| io(error.into()))?;
        Ok(Self { store: store.clone(), name, file, hash: Hasher::new(), written: 0, kept: false })
    }

    fn write(&mut self, offset: i64, data: &[u8]) -> std::result::Result<(), Status> {
        if u64::try_from(offset).ok() != Some(self.written) {
            return Err(Status::out_of_range(format!("write at {offset} instead of {}", self.written)));
        }
        self.file.write_all(data).map_err(io)?;
        self.hash.update(data);
        self.written += data.len() as u64;
        Ok(())
    }

    fn commit(&mut self, request: &WriteContentRequest) -> std::result::Result<Digest, Status> {
        let found = std::mem::take(&mut self.hash).finish();
        if request.total > 0 && u64::try_from(request.total).ok() != Some(self.written) {
            let text = format!("unexpected size: {} instead of {}", self.written, request.total);
            return Err(Status::failed_precondition(text));
        }
        if !request.expected.is_empty() && parse(&request.expected)? != found {
            let text = format!("unexpected digest: {found} instead of {}", request.expected);
            return Err(Status::failed_precondition(text));
        }
        let renamed = self.store.root.rename(&self.name, &self.store.root, path(&found));
        renamed.map_err(|error| io(error.into()))?;
        self.kept = true;
        Ok(found)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.store.root.unlink(&self.name)
        {
            tracing::debug!(%error, "a half-written blob stays behind");
        }
    }
}

/// Takes one blob. Every message is answered; the answer to the commit names the blob.
async fn receive(
    store: Arc<Layout>,
    mut requests: Streaming<WriteContentRequest>,
    sender: mpsc::Sender<std::result::Result<WriteContentResponse, Status>>,
) {
    let mut incoming = None;
    loop {
        let request = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) | Err(_) => return,
        };
        let (store, taken) = (store.clone(), incoming.take());
        let step = blocking(move || step(&store, taken, request)).await;
        let (answer, done) = match step {
            Ok((answer, left)) => {
                let done = left.is_none();
                incoming = left;
                (Ok(answer), done)
            }
            Err(status) => (Err(status), true),
        };
        if sender.send(answer).await.is_err() || done {
            return;
        }
    }
}

fn step(
    store: &Arc<Layout>,
    incoming: Option<Incoming>,
    request: WriteContentRequest,
) -> std::result::Result<(WriteContentResponse, Option<Incoming>), Status> {
    let mut incoming = match incoming {
        Some(incoming) => incoming,
        None if !request.expected.is_empty() && store.has(&parse(&request.expected)?) => {
            return Err(Status::already_exists(format!("content {}: already exists", request.expected)));
        }
        None => Incoming::start(store)?,
    };
    let action = request.action();
    let mut answer = WriteContentResponse {
        action: request.action,
        total: request.total,
        ..WriteContentResponse::default()
    };
    if !request.data.is_empty() {
        incoming.write(request.offset, &request.data)?;
    }
    answer.offset = i64::try_from(incoming.written).unwrap_or(i64::MAX);
    if action == WriteAction::Commit {
        answer.digest = incoming.commit(&request)?.to_string();
        return Ok((answer, None));
    }
    Ok((answer, Some(incoming)))
}
