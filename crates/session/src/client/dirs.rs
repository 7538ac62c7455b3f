//! Directories offered to the daemon.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use rbuild_api::fsutil::types::Packet;
use rbuild_api::moby::filesync::v1::file_sync_server::{FileSync, FileSyncServer};
use rbuild_sys::Root;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::filesync::{ExportRoot, FileSyncRequest, Owner, SendOptions, SenderCall, TransferCounter};
use crate::filesync::{batches, serve_sender};
use crate::tunnel::OwnedTasks;
use crate::{Result, SessionError};

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

pub(super) fn service(dirs: LocalDirs, tasks: OwnedTasks) -> FileSyncServer<DirService> {
    FileSyncServer::new(DirService { dirs, tasks })
}

#[derive(Debug)]
pub(super) struct DirService {
    dirs: LocalDirs,
    tasks: OwnedTasks,
}

type PacketStream = Pin<Box<dyn Stream<Item = std::result::Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl FileSync for DirService {
    type DiffCopyStream = PacketStream;
    type TarStreamStream = PacketStream;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> std::result::Result<Response<PacketStream>, Status> {
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

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> std::result::Result<Response<PacketStream>, Status> {
        Err(Status::unimplemented("use DiffCopy"))
    }
}
