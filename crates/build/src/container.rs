//! Containers of a build: processes that its client runs over refs. They end with the build.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rbuild_exec::{Chunk, Input, Output, ProcessIo, TermSize};
use rbuild_frontend::{
    BridgeContainer, BridgeRef, BuildError, ContainerProcess, ContainerRequest, DirEntry, ErrorCode,
    FileRange, SharedRef,
};
use rbuild_llb::Definition;
use rbuild_worker::{Container, ContainerSpec, MountedTree};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bridge::BuildContext;
use crate::error::{cancelled, from_op};
use crate::{files, refs};

/// Messages on their way between a process and its client; a slow client slows the process down.
const CHUNKS: usize = 4;
const STDOUT: i64 = 1;
const STDERR: i64 = 2;
/// Until the client says how large its terminal is.
const TERMINAL: TermSize = TermSize { rows: 24, cols: 80 };

/// The processes of a build's containers.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Containers {
    /// Kills what runs and waits until it is gone.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Prepares a container: computes what is mounted.
pub(crate) async fn open(
    context: &Arc<BuildContext>,
    request: ContainerRequest,
) -> Result<Arc<dyn BridgeContainer>, BuildError> {
    let ContainerRequest { exec, inputs, platform } = request;
    let store = context.worker.store();
    let solve = inputs.iter().map(|input| async move {
        let solved = match input {
            Some(input) => refs::output(context, input).await?,
            None => None,
        };
        match solved {
            Some(solved) => Ok(solved),
            None => store.scratch().await.map_err(|error| files::store_error(&error)),
        }
    });
    let inputs = futures::future::try_join_all(solve).await?;
    let spec = ContainerSpec { exec, inputs, platform, description: "container of a client".into() };
    let container = context.worker.container(&context.scope, spec).await.map_err(|error| from_op(&error))?;
    Ok(Arc::new(BuildContainer { context: context.clone(), container: Arc::new(container) }))
}

#[derive(Debug)]
struct BuildContainer {
    context: Arc<BuildContext>,
    container: Arc<Container>,
}

/// The files of a mount. They change while processes run, so nothing is remembered.
#[derive(Debug)]
struct Mounted {
    container: Arc<BuildContainer>,
    index: usize,
}

impl Mounted {
    async fn tree(&self, path: &str) -> Result<MountedTree, BuildError> {
        let tree = self.container.container.tree(self.index).await.map_err(|error| from_op(&error))?;
        tree.ok_or_else(|| {
            BuildError::new(ErrorCode::NotFound, format!("{path}: the mount has no files on disk"))
        })
    }
}

#[async_trait]
impl BridgeRef for Mounted {
    fn definition(&self) -> Definition {
        Definition::default()
    }

    async fn evaluate(&self) -> Result<(), BuildError> {
        Ok(())
    }

    async fn read_file(&self, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, BuildError> {
        let (tree, path) = (self.tree(path).await?, path.to_owned());
        files::blocking(move || files::read_file(tree.root(), &path, range)).await
    }

    async fn read_dir(&self, path: &str, include: &str) -> Result<Vec<DirEntry>, BuildError> {
        let (tree, path, include) = (self.tree(path).await?, path.to_owned(), include.to_owned());
        files::blocking(move || files::read_dir(tree.root(), &path, &include)).await
    }

    async fn stat_file(&self, path: &str) -> Result<DirEntry, BuildError> {
        let (tree, path) = (self.tree(path).await?, path.to_owned());
        files::blocking(move || files::stat_file(tree.root(), &path)).await
    }
}

#[async_trait]
impl BridgeContainer for BuildContainer {
    fn mounted(self: Arc<Self>, index: usize) -> Result<SharedRef, BuildError> {
        let count = self.container.mounts();
        if index >= count {
            return Err(BuildError::invalid(format!("the container has {count} mounts: no mount {index}")));
        }
        Ok(Arc::new(Mounted { container: self, index }))
    }

    async fn run(&self, process: ContainerProcess) -> Result<u32, BuildError> {
        let containers = &self.context.containers;
        let stop = containers.stop.child_token();
        // Who does not wait any more does not want the process any more; the task still sees it gone.
        let _guard = stop.clone().drop_guard();
        let task = containers.tasks.spawn(run(self.container.clone(), process, stop));
        let failed = |error: tokio::task::JoinError| {
            BuildError::new(ErrorCode::Internal, format!("running a process: {error}"))
        };
        task.await.map_err(failed)?
    }
}

async fn run(
    container: Arc<Container>,
    process: ContainerProcess,
    stop: CancellationToken,
) -> Result<u32, BuildError> {
    if stop.is_cancelled() {
        return Err(cancelled());
    }
    let ContainerProcess { exec, tty, stdin, output, resize, signals } = process;
    let (to, chunks) = mpsc::channel(CHUNKS);
    let (sizes, terminal) = mpsc::channel(CHUNKS);
    let io = ProcessIo {
        usage: None,
        stdin: stdin.map_or(Input::Null, Input::Reader),
        stdout: Output::Channel { to: to.clone(), tag: STDOUT },
        stderr: Output::Channel { to, tag: STDERR },
        resize: Some(terminal),
        signals: Some(signals),
        started: None,
        sandbox: None,
    };
    let running = container.run(exec, tty.then_some(TERMINAL), io, stop.clone());
    // What was written is handed over before the end is told, unless nobody wants either any more.
    let forwarding = async {
        tokio::select! {
            () = forward(chunks, output) => {}
            () = stop.cancelled() => {}
        }
    };
    let running = async { tokio::join!(running, forwarding).0 };
    let resizing = async {
        pass_sizes(resize, sizes).await;
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = running => ended,
        () = resizing => return Err(BuildError::new(ErrorCode::Internal, "a terminal outlived its process")),
    };
    ended.map(|status| status.exit_code()).map_err(|error| from_op(&error))
}

async fn forward(mut chunks: mpsc::Receiver<Chunk>, output: mpsc::Sender<(u32, Bytes)>) {
    while let Some(chunk) = chunks.recv().await {
        let stream = if chunk.tag == STDERR { 2 } else { 1 };
        if output.send((stream, chunk.bytes)).await.is_err() {
            // Nobody listens; the rest goes away with the channel.
            return;
        }
    }
}

async fn pass_sizes(mut from: mpsc::Receiver<(u16, u16)>, to: mpsc::Sender<TermSize>) {
    while let Some((rows, cols)) = from.recv().await {
        if to.send(TermSize { rows, cols }).await.is_err() {
            return;
        }
    }
}
