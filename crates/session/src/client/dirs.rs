//! Directories offered to the daemon.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use rbuild_sys::Root;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::filesync::{ExportRoot, FileSyncRequest, Owner, Packet, SendOptions, SenderCall, TransferCounter};
use crate::filesync::{batches, serve_sender};
use crate::tunnel::OwnedTasks;
use crate::{Result, SessionError, names};

/// One directory.
#[derive(Debug, Clone)]
pub struct LocalDir {
    path: PathBuf,
    exclude: Vec<String>,
}

impl LocalDir {
    /// This directory, all of it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), exclude: Vec::new() }
    }

    /// Never send what these patterns match, whatever is asked for.
    pub fn exclude(mut self, patterns: Vec<String>) -> Self {
        self.exclude = patterns;
        self
    }
}

/// Directories by the names under which the daemon may ask for them; no others are ever read.
#[derive(Debug, Clone, Default)]
pub struct LocalDirs {
    dirs: HashMap<String, LocalDir>,
    counter: Option<Arc<TransferCounter>>,
}

impl LocalDirs {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers `dir` as `name`. Errors: it is not a directory.
    pub fn add(&mut self, name: impl Into<String>, dir: LocalDir) -> Result<()> {
        check(&dir.path)?;
        self.dirs.insert(name.into(), dir);
        Ok(())
    }

    /// Counts what is sent.
    pub fn count(&mut self, counter: Arc<TransferCounter>) {
        self.counter = Some(counter);
    }
}

fn check(path: &Path) -> Result<()> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|err| SessionError::io(shown.to_string(), err))?;
    if meta.is_dir() {
        Ok(())
    } else {
        Err(SessionError::Config { what: format!("{shown} is not a directory") })
    }
}

/// `FileSync`, of which `DiffCopy` is served.
#[derive(Debug, Clone)]
pub(super) struct DirService {
    dirs: Arc<LocalDirs>,
    tasks: OwnedTasks,
}

impl DirService {
    pub(super) fn new(dirs: LocalDirs, tasks: OwnedTasks) -> Self {
        Self { dirs: Arc::new(dirs), tasks }
    }

    async fn serve(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() != names::FILE_SYNC_DIFF_COPY {
            return Status::unimplemented("use DiffCopy").into_http();
        }
        let codec = ProstCodec::<Packet, Packet>::default();
        Grpc::new(codec).streaming(DiffCopy(self), request).await
    }

    fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> std::result::Result<Response<Packets>, Status> {
        let mut filter = FileSyncRequest::from_metadata(request.metadata());
        let Some(dir) = self.dirs.dirs.get(&filter.name) else {
            return Err(Status::not_found(format!("no access allowed to dir {:?}", filter.name)));
        };
        filter.exclude.extend(dir.exclude.iter().cloned());
        let root = Root::open(&dir.path).map_err(SessionError::from)?;
        let mut options = SendOptions { owner: Owner::Set(0, 0), ..SendOptions::default() };
        if let Some(counter) = &self.dirs.counter {
            options.counter = counter.clone();
        }
        let call = SenderCall { roots: vec![ExportRoot { directory: None, root }], filter, options };
        let (out, batched) = batches();
        let incoming = request.into_inner();
        let token = self.tasks.token.clone();
        self.tasks.tracker.spawn(token.run_until_cancelled_owned(async move {
            let gone = out.clone();
            let sent = tokio::select! {
                sent = serve_sender(incoming, out.clone(), call) => sent,
                () = gone.closed() => return,
            };
            if let Err(err) = sent {
                tracing::debug!(error = %err, "sending a directory failed");
                // If it is not taken, the stream is gone, and so is whoever would read it.
                drop(out.send(Err(err.into())).await);
            }
        }));
        let flat = |batch| match batch {
            Ok(packets) => futures::stream::iter(packets).map(Ok).left_stream(),
            Err(status) => futures::stream::iter([Err(status)]).right_stream(),
        };
        Ok(Response::new(ReceiverStream::new(batched).flat_map(flat).boxed()))
    }
}

impl NamedService for DirService {
    const NAME: &'static str = "moby.filesync.v1.FileSync";
}

impl tower::Service<http::Request<Body>> for DirService {
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

type Packets = Pin<Box<dyn Stream<Item = std::result::Result<Packet, Status>> + Send>>;

struct DiffCopy(DirService);

impl StreamingService<Packet> for DiffCopy {
    type Response = Packet;
    type ResponseStream = Packets;
    type Future = BoxFuture<'static, std::result::Result<Response<Packets>, Status>>;

    fn call(&mut self, request: Request<Streaming<Packet>>) -> Self::Future {
        Box::pin(std::future::ready(self.0.diff_copy(request)))
    }
}
