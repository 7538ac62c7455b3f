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
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::filesync::{
    Batch, ExportRoot, FileSyncRequest, Form, Incoming, Owner, Packet, PacketBatch, SendOptions, SenderCall,
    TransferCounter, batches, opened, serve_sender, singly,
};
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
    compress: bool,
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

    /// Compresses what is sent, where the daemon can open it: for slow links.
    pub fn compress(&mut self, yes: bool) {
        self.compress = yes;
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

/// The same in batches.
#[derive(Debug, Clone)]
pub(super) struct BatchedDirService(DirService);

impl DirService {
    pub(super) fn new(dirs: LocalDirs, tasks: OwnedTasks) -> Self {
        Self { dirs: Arc::new(dirs), tasks }
    }

    pub(super) fn batched(&self) -> BatchedDirService {
        BatchedDirService(self.clone())
    }

    async fn serve(self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            names::FILE_SYNC_DIFF_COPY => {
                Grpc::new(ProstCodec::<Packet, Packet>::default()).streaming(Singly(self), request).await
            }
            names::FILE_SYNC_BATCHED => {
                let codec = ProstCodec::<PacketBatch, PacketBatch>::default();
                Grpc::new(codec).streaming(Batched(self), request).await
            }
            _ => Status::unimplemented("use DiffCopy").into_http(),
        }
    }

    /// Starts sending; gives what is to go out.
    fn start(
        &self,
        mut filter: FileSyncRequest,
        form: Form,
        incoming: impl Incoming + 'static,
    ) -> std::result::Result<mpsc::Receiver<Batch>, Status> {
        let Some(dir) = self.dirs.dirs.get(&filter.name) else {
            return Err(Status::not_found(format!("no access allowed to dir {:?}", filter.name)));
        };
        filter.exclude.extend(dir.exclude.iter().cloned());
        let root = Root::open(&dir.path).map_err(SessionError::from)?;
        let mut options = SendOptions { owner: Owner::Set(0, 0), ..SendOptions::default() };
        if let Some(counter) = &self.dirs.counter {
            options.counter = counter.clone();
        }
        let call = SenderCall {
            roots: vec![ExportRoot { directory: None, root, extra: Vec::new() }],
            filter,
            options,
            form,
        };
        let (out, batched) = batches();
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
        Ok(batched)
    }
}

impl NamedService for DirService {
    const NAME: &'static str = "moby.filesync.v1.FileSync";
}

impl NamedService for BatchedDirService {
    const NAME: &'static str = "rbuild.filesync.v1.FileSync";
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

impl tower::Service<http::Request<Body>> for BatchedDirService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

type Messages<M> = Pin<Box<dyn Stream<Item = std::result::Result<M, Status>> + Send>>;
type Answer<M> = BoxFuture<'static, std::result::Result<Response<Messages<M>>, Status>>;

struct Singly(DirService);

impl StreamingService<Packet> for Singly {
    type Response = Packet;
    type ResponseStream = Messages<Packet>;
    type Future = Answer<Packet>;

    fn call(&mut self, request: Request<Streaming<Packet>>) -> Self::Future {
        let filter = FileSyncRequest::from_metadata(request.metadata());
        let started = self.0.start(filter, Form::Single, request.into_inner());
        let answer = started.map(|out| Response::new(ReceiverStream::new(out).flat_map(singly).boxed()));
        Box::pin(std::future::ready(answer))
    }
}

struct Batched(DirService);

impl StreamingService<PacketBatch> for Batched {
    type Response = PacketBatch;
    type ResponseStream = Messages<PacketBatch>;
    type Future = Answer<PacketBatch>;

    fn call(&mut self, request: Request<Streaming<PacketBatch>>) -> Self::Future {
        let filter = FileSyncRequest::from_metadata(request.metadata());
        let form = Form::Batched { compress: self.0.dirs.compress };
        let started = self.0.start(filter, form, opened(request.into_inner()));
        Box::pin(std::future::ready(started.map(|out| Response::new(ReceiverStream::new(out).boxed()))))
    }
}
