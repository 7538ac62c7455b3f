//! Where results go: directories and files of the client.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use rbuild_api::moby::filesync::v1::BytesMessage;
use rbuild_sys::Root;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::filesync::{Packet, ReceiveOptions, Say, TransferCounter, run_receiver};
use crate::tunnel::OwnedTasks;
use crate::{Result, SessionError, metadata, names};

/// Largest message of a daemon.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Chunks that may wait for the disk.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Opens a stream for the result described by the exporter's metadata; `None`: it is not wanted.
pub type OpenStream =
    dyn Fn(&BTreeMap<String, String>) -> io::Result<Option<Box<dyn Write + Send>>> + Send + Sync;

/// Where the result of one exporter goes.
#[derive(Clone)]
pub enum ExportDestination {
    /// Files below a directory, which is made if it is missing. What is in it already stays, unless it has the same name.
    Directory(PathBuf),
    /// One file. It appears under its name when it is complete.
    File(PathBuf),
    /// Standard output, or whatever is opened. Written on a blocking thread.
    Stream(Arc<OpenStream>),
}

impl std::fmt::Debug for ExportDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Destinations by exporter index.
#[derive(Debug, Clone, Default)]
pub struct ExportTargets {
    targets: HashMap<usize, ExportDestination>,
    counter: Arc<TransferCounter>,
}

impl ExportTargets {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the result of the exporter at `index` of the request.
    pub fn add(&mut self, index: usize, destination: ExportDestination) {
        self.targets.insert(index, destination);
    }

    /// Counts what arrives.
    pub fn count(&mut self, counter: Arc<TransferCounter>) {
        self.counter = counter;
    }

    fn select(&self, map: &MetadataMap) -> std::result::Result<&ExportDestination, Status> {
        let wanted = metadata::first(map, names::EXPORTER_ID);
        let found = match wanted.as_deref().map(str::parse::<usize>) {
            Some(Ok(index)) => self.targets.get(&index),
            Some(Err(_)) => None,
            // Daemons that know one exporter do not say which.
            None if self.targets.len() == 1 => self.targets.values().next(),
            None => None,
        };
        found.ok_or_else(|| Status::not_found("no such export target"))
    }
}

/// `FileSend.DiffCopy`, whose messages are packets or raw bytes depending on the destination.
#[derive(Debug, Clone)]
pub(super) struct FileSendService {
    targets: Arc<ExportTargets>,
    tasks: OwnedTasks,
}

impl FileSendService {
    pub(super) fn new(targets: ExportTargets, tasks: OwnedTasks) -> Self {
        Self { targets: Arc::new(targets), tasks }
    }

    async fn serve(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() != names::FILE_SEND_DIFF_COPY {
            return Status::unimplemented("").into_http();
        }
        let map = MetadataMap::from_headers(request.headers().clone());
        let destination = match self.targets.select(&map) {
            Ok(destination) => destination.clone(),
            Err(status) => return status.into_http(),
        };
        let counter = self.targets.counter.clone();
        if let ExportDestination::Directory(path) = destination {
            let codec = ProstCodec::<Packet, Packet>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), None);
            grpc.streaming(IntoDirectory { path, counter, tasks: self.tasks }, request).await
        } else {
            let codec = ProstCodec::<BytesMessage, BytesMessage>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), None);
            grpc.streaming(IntoStream { destination, counter }, request).await
        }
    }
}

impl NamedService for FileSendService {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl tower::Service<http::Request<Body>> for FileSendService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.serve(request).await) })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;
type Answer<T> = BoxFuture<'static, std::result::Result<Response<Answers<T>>, Status>>;

struct IntoDirectory {
    path: PathBuf,
    counter: Arc<TransferCounter>,
    tasks: OwnedTasks,
}

impl StreamingService<Packet> for IntoDirectory {
    type Response = Packet;
    type ResponseStream = Answers<Packet>;
    type Future = Answer<Packet>;

    fn call(&mut self, request: Request<Streaming<Packet>>) -> Self::Future {
        let (path, counter, tasks) = (self.path.clone(), self.counter.clone(), self.tasks.clone());
        Box::pin(async move {
            let (say, said) = mpsc::unbounded_channel();
            let (failed, failure) = tokio::sync::oneshot::channel::<Status>();
            let incoming = request.into_inner();
            let work = async move {
                let gone = say.clone();
                let received = tokio::select! {
                    received = into_directory(&path, incoming, say, counter) => received,
                    () = gone.closed() => return,
                };
                if let Err(err) = received {
                    tracing::debug!(error = %err, "receiving a directory failed");
                    // Not taken: the call is gone.
                    drop(failed.send(err.into()));
                }
            };
            tasks.tracker.spawn(tasks.token.clone().run_until_cancelled_owned(work));
            let packets = UnboundedReceiverStream::new(said).map(|say: Say| Ok(say.into_packet()));
            let end = futures::stream::once(failure).filter_map(async |end| end.ok().map(Err));
            Ok(Response::new(packets.chain(end).boxed()))
        })
    }
}

async fn into_directory(
    path: &Path,
    incoming: Streaming<Packet>,
    say: mpsc::UnboundedSender<Say>,
    counter: Arc<TransferCounter>,
) -> Result<()> {
    let made = path.to_owned();
    let root = blocking(move || {
        std::fs::create_dir_all(&made).map_err(|err| SessionError::io(made.display().to_string(), err))?;
        Ok(Root::open(&made)?)
    })
    .await?;
    let options =
        ReceiveOptions { merge: true, owner: Some(own_ids()?), counter, ..ReceiveOptions::default() };
    run_receiver(incoming, say, root, None, None, &options).await.map(drop)
}

/// Who we are: files in an output belong to the user, whatever they are called in the image.
fn own_ids() -> Result<(u32, u32)> {
    let me = std::fs::metadata("/proc/self").map_err(|err| SessionError::io("/proc/self", err))?;
    Ok((me.uid(), me.gid()))
}

struct IntoStream {
    destination: ExportDestination,
    counter: Arc<TransferCounter>,
}

impl StreamingService<BytesMessage> for IntoStream {
    type Response = BytesMessage;
    type ResponseStream = Answers<BytesMessage>;
    type Future = Answer<BytesMessage>;

    fn call(&mut self, request: Request<Streaming<BytesMessage>>) -> Self::Future {
        let (destination, counter) = (self.destination.clone(), self.counter.clone());
        let pairs = pairs(request.metadata());
        let incoming = request.into_inner();
        // Done while the answer is awaited: it is empty, and says by its end that all is written.
        let work =
            async move { into_stream(destination, pairs, incoming, counter).await.map_err(Status::from) };
        let end = futures::stream::once(work).filter_map(async |done| done.err().map(Err));
        Box::pin(std::future::ready(Ok(Response::new(end.boxed() as Answers<BytesMessage>))))
    }
}

fn pairs(map: &MetadataMap) -> BTreeMap<String, String> {
    let ascii = map.iter().filter_map(|pair| match pair {
        tonic::metadata::KeyAndValueRef::Ascii(key, value) => Some((key.as_str(), value.to_str().ok()?)),
        tonic::metadata::KeyAndValueRef::Binary(..) => None,
    });
    let own = ascii.filter_map(|(key, value)| Some((key.strip_prefix(names::EXPORTER_MD_PREFIX)?, value)));
    own.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

async fn into_stream(
    destination: ExportDestination,
    pairs: BTreeMap<String, String>,
    mut incoming: Streaming<BytesMessage>,
    counter: Arc<TransferCounter>,
) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel::<Option<Vec<u8>>>(CHUNKS_IN_FLIGHT);
    let writing = blocking(move || {
        let mut output = Output::open(&destination, &pairs)?;
        loop {
            match receiver.blocking_recv() {
                Some(Some(data)) => output.write(&data)?,
                Some(None) => return output.complete(),
                // The daemon broke off: half a file is no file.
                None => return Err(SessionError::Ended { last: String::new() }),
            }
        }
    });
    let reading = async move {
        let failed = |status| SessionError::call("export", status);
        while let Some(message) = incoming.message().await.map_err(failed)? {
            counter.add_bytes(message.data.len() as u64);
            if sender.send(Some(message.data)).await.is_err() {
                return Ok(()); // the writer has failed and says why
            }
        }
        drop(sender.send(None).await);
        Ok(())
    };
    let (written, read) = tokio::join!(writing, reading);
    read.and(written)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(SessionError::io("writing an export", io::Error::other(panic))))
}

enum Output {
    /// Written beside its name; removed again unless it is completed.
    File {
        file: std::fs::File,
        temporary: tempfile::TempPath,
        path: PathBuf,
    },
    Stream {
        writer: Box<dyn Write + Send>,
        shown: String,
    },
}

impl Output {
    fn open(destination: &ExportDestination, pairs: &BTreeMap<String, String>) -> Result<Self> {
        match destination {
            ExportDestination::File(path) => Self::file(path),
            ExportDestination::Stream(open) => {
                let opened = open(pairs).map_err(|err| SessionError::io("export", err))?;
                let unwanted =
                    || SessionError::call("export", Status::already_exists("target already exists"));
                Ok(Self::Stream { writer: opened.ok_or_else(unwanted)?, shown: "export".to_owned() })
            }
            ExportDestination::Directory(_) => {
                Err(SessionError::Config { what: "a directory was asked to take a stream".to_owned() })
            }
        }
    }

    fn file(path: &Path) -> Result<Self> {
        let failed = |err| SessionError::io(path.display().to_string(), err);
        if path.is_dir() {
            let what = format!("{}: is a directory, but the result is one file", path.display());
            return Err(SessionError::Config { what });
        }
        // A pipe or device (/dev/stdout) cannot be replaced by a file.
        if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let writer = std::fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(Self::Stream { writer: Box::new(writer), shown: path.display().to_string() });
        }
        // A link is written through, as it would be by any other program.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666); // less the umask
        let made = builder.prefix(".rbuild-export-").permissions(permissions).tempfile_in(parent);
        let (file, temporary) = made.map_err(failed)?.into_parts();
        Ok(Self::File { file, temporary, path })
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::File { file, path, .. } => {
                file.write_all(data).map_err(|err| SessionError::io(path.display().to_string(), err))
            }
            Self::Stream { writer, shown } => {
                writer.write_all(data).map_err(|err| SessionError::io(shown.clone(), err))
            }
        }
    }

    fn complete(self) -> Result<()> {
        match self {
            Self::File { temporary, path, .. } => temporary
                .persist(&path)
                .map_err(|err| SessionError::io(path.display().to_string(), err.error)),
            Self::Stream { mut writer, shown } => {
                writer.flush().map_err(|err| SessionError::io(shown.clone(), err))
            }
        }
    }
}
